"""Electrostatic embedding in mixed systems: what is counted, derivatives, dynamics, refusals."""

from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app
from openmm.app.internal import customgbforces
from openmmml import MLPotential

from mace_mm.errors import ConfigError, ElementError
from mace_mm.ml_mm.electrostatic_force import spread_charges
from mace_mm.openmm.force import backend_problem
from tests.support.embedding_systems import beside_charges, embedding_energy
from tests.support.mixed_systems import LAMBDA, context_of, evaluate, read, solvated

DOUBLE = {"precision": "double"}
OLD_FORM = Path(__file__).parents[1] / "reference/charge_flow_embedding.xml"


def mix(topology, system, atoms, **options):
    options = {"embedding": "electrostatic", **DOUBLE, **options}
    return MLPotential("mace").createMixedSystem(topology, system, atoms, **options)


@pytest.mark.parametrize("method", [app.NoCutoff, app.CutoffNonPeriodic, app.PME])
def test_forces_by_finite_differences(method):
    topology, system, positions, (atoms,) = solvated(["CCO"], "amber14/tip4pew.xml", method=method)
    mixed = mix(topology, system, atoms, forceGroup=4)
    context = context_of(mixed, positions)
    # The embedding alone, without the noise of the model.
    for force in mixed.getForces():
        force.setForceGroup(4 if force.getName() == "electrostatic embedding" else 0)
    context = context_of(mixed, positions)
    forces = read(context, groups=1 << 4).forces
    near = [i for i in range(0, atoms[0], 4)][:40:13]
    step = 1e-5
    largest = np.abs(forces).max()
    for i in (atoms[0], atoms[2], atoms[-1], *near):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = positions.copy()
                moved[i, axis] += sign * step
                context.setPositions(moved)
                context.computeVirtualSites()
                energies.append(read(context, groups=1 << 4).energy)
            slope = (energies[0] - energies[1]) / (2 * step)
            assert forces[i, axis] == pytest.approx(-slope, rel=1e-6, abs=1e-6 * largest)


@pytest.mark.parametrize("smiles", [["CCO"], ["CC(=O)N", "CO"]])
def test_nothing_is_counted_twice(smiles):
    """Without MM charges nothing is left; the force field's part is the mechanical one."""
    topology, system, positions, molecules = solvated(smiles)
    atoms = [i for molecule in molecules for i in molecule]
    mechanical = MLPotential("mace").createMixedSystem(topology, system, atoms, **DOUBLE)
    embedded = mix(topology, system, atoms)
    names = [f.getName() for f in embedded.getForces()]
    assert names == [f.getName() for f in mechanical.getForces()] + ["electrostatic embedding"]
    embedded.getForce(len(names) - 1).setForceGroup(7)
    rest = evaluate(embedded, positions, groups=~(1 << 7) & 0xFFFFFFFF)
    want = evaluate(mechanical, positions)
    assert rest.energy == pytest.approx(want.energy, abs=1e-8)
    correction = evaluate(embedded, positions, groups=1 << 7)
    assert correction.energy < -0.1
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            for i in range(force.getNumParticles()):
                if i not in atoms:
                    _, sigma, epsilon = force.getParticleParameters(i)
                    force.setParticleParameters(i, 0.0, sigma, epsilon)
    neutral = mix(topology, system, atoms, forceGroup=7)
    model = MLPotential("mace").createMixedSystem(topology, system, atoms, forceGroup=7, **DOUBLE)
    got = evaluate(neutral, positions, groups=1 << 7)
    assert got.energy == pytest.approx(evaluate(model, positions, groups=1 << 7).energy, abs=1e-8)


@pytest.mark.parametrize("backend", ["pythonforce", "torchforce"])
def test_interpolation(backend):
    if backend == "torchforce" and backend_problem(backend):
        pytest.skip(backend_problem(backend))
    topology, system, positions, (atoms,) = solvated(["CCO"])
    faded = mix(topology, system, atoms, interpolate=True, backend=backend)
    zero = evaluate(system, positions)
    one = evaluate(mix(topology, system, atoms, backend=backend), positions)
    context = context_of(faded, positions)
    for factor in (0.0, 0.4, 1.0):
        context.setParameter(LAMBDA, factor)
        got = read(context)
        want = (1 - factor) * zero.energy + factor * one.energy
        assert abs(got.energy - want) < 1e-6
        forces = (1 - factor) * zero.forces + factor * one.forces
        np.testing.assert_allclose(got.forces, forces, rtol=0, atol=1e-6)
        if factor:
            slope = got.derivatives[LAMBDA]
            assert slope == pytest.approx(one.energy - zero.energy, rel=1e-8)


def test_energy_is_conserved():
    topology, system, positions, (atoms,) = solvated(["CCO"], edge=1.7, rigidWater=True)
    mixed = mix(topology, system, atoms)
    integrator = openmm.LangevinMiddleIntegrator(300, 20, 0.0005)
    integrator.setRandomNumberSeed(3)
    context = context_of(mixed, positions, "Reference", integrator=integrator)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=15)
    context.setVelocitiesToTemperature(100, 1)
    integrator.step(40)
    state = context.getState(positions=True, velocities=True)
    verlet = openmm.VerletIntegrator(0.00025)
    verlet.setConstraintTolerance(1e-9)
    context = context_of(mixed, state.getPositions(), "Reference", integrator=verlet)
    context.setVelocities(state.getVelocities())
    context.applyConstraints(1e-9)
    context.applyVelocityConstraints(1e-9)
    totals, kinetic = [], []
    for _ in range(12):
        verlet.step(10)
        state = context.getState(energy=True)
        kinetic.append(state.getKineticEnergy()._value)
        totals.append(state.getPotentialEnergy()._value + kinetic[-1])
    assert np.ptp(totals) < 0.02 * max(np.ptp(kinetic), 10.0)


def test_a_barostat_scales_the_box():
    """After its moves the energy is that of a new context in the new box."""
    topology, system, positions, (atoms,) = solvated(["CCO"], edge=1.9, rigidWater=True)
    system.addForce(openmm.MonteCarloBarostat(2000, 300, 1))
    mixed = mix(topology, system, atoms, forceGroup=7)
    integrator = openmm.LangevinMiddleIntegrator(300, 20, 0.0002)
    integrator.setRandomNumberSeed(3)
    context = context_of(mixed, positions, integrator=integrator)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=15)
    before = context.getState().getPeriodicBoxVolume()
    integrator.step(25)
    state = context.getState(positions=True, energy=True, groups=1 << 7)
    assert state.getPeriodicBoxVolume() != before
    mixed.setDefaultPeriodicBoxVectors(*state.getPeriodicBoxVectors())
    fresh = evaluate(mixed, state.getPositions(), groups=1 << 7)
    assert state.getPotentialEnergy()._value == pytest.approx(fresh.energy, abs=1e-6)


def test_a_copy_and_a_saved_system_are_the_same():
    topology, system, positions, (atoms,) = solvated(["CCO"], edge=1.7)
    mixed = mix(topology, system, atoms, interpolate=True, backend="pythonforce")
    text = openmm.XmlSerializer.serialize(mixed)
    again = openmm.XmlSerializer.deserialize(text)
    want = evaluate(mixed, positions, parameters={LAMBDA: 0.7})
    got = evaluate(again, positions, parameters={LAMBDA: 0.7})
    assert got.energy == pytest.approx(want.energy, abs=1e-9)


def test_a_system_saved_with_flowing_charges_is_refused():
    """Methanol beside an ion, saved by the form of the embedding that moved charges."""
    system = openmm.XmlSerializer.deserialize(OLD_FORM.read_text())
    positions = np.random.default_rng(1).random((7, 3))
    with pytest.raises(openmm.OpenMMException, match="make it again with createMixedSystem"):
        evaluate(system, positions)


def test_charges_next_to_a_cut_bond_are_spread():
    charges = [0.4, -0.3, 0.1, 0.2, -0.4]
    spread = spread_charges(charges, [0, 1, 4], [[0, 1, 2, 3], [4]])
    assert spread == pytest.approx([0.0, 0.0, 0.15, 0.25, 0.0])


def test_charges_that_depend_on_a_parameter_are_refused():
    topology, system, _, (atoms,) = solvated(["CCO"])
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    force.addGlobalParameter("scale", 1.0)
    force.addParticleParameterOffset("scale", 0, 0.1, 0.0, 0.0)
    with pytest.raises(ConfigError, match="constant charges"):
        mix(topology, system, atoms)


@pytest.mark.parametrize(
    "solvent", [openmm.GBSAOBCForce, customgbforces.GBSAOBC2Force, customgbforces.GBSAHCTForce]
)
def test_implicit_solvent_is_refused(solvent):
    """Its screening would not act on the dipoles."""
    topology, system, _, (atoms,) = solvated(["CCO"], method=app.NoCutoff)
    force = solvent()
    for _ in range(system.getNumParticles()):
        if solvent is openmm.GBSAOBCForce:
            force.addParticle(0.0, 0.15, 0.8)
        else:
            force.addParticle([0.0, 0.15, 0.8])
    if hasattr(force, "finalize"):
        force.finalize()
    system.addForce(force)
    with pytest.raises(ConfigError, match="GB.*implicit solvent.*mechanical"):
        mix(topology, system, atoms)


def test_an_element_without_polarizability_is_refused():
    entry = {"numbers": [1, 34], "am1bcc": [0.1, -0.1]}
    topology, system = beside_charges([entry], [1.0])
    with pytest.raises(ElementError, match="H C N O F P S Cl Br I, got Se"):
        embedding_energy(topology, system, [0, 1], np.eye(3) * 3.0)
