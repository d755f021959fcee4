"""Mixed systems of many kinds: solvents, boxes, regions, forces, and what is refused."""

import numpy as np
import openmm
import pytest
from openmm import app
from openmmml import MLPotential

from tests.support.mixed_systems import (
    LAMBDA,
    context_of,
    evaluate,
    inside_of,
    read,
    solvated,
    topology_of_part,
)

pytestmark = pytest.mark.plain
TRICLINIC = np.array([[2.2, 0.0, 0.0], [0.6, 2.1, 0.0], [-0.5, 0.7, 2.0]])
DOUBLE = {"precision": "double"}


def mix(topology, system, atoms, **options):
    return MLPotential("mace").createMixedSystem(topology, system, atoms, **{**DOUBLE, **options})


def assert_identity(topology, system, positions, atoms, mixed, ml_positions=None) -> None:
    """lambda = 0 is the force field and lambda = 1 has the model inside the region."""
    whole = evaluate(system, positions)
    inside = evaluate(inside_of(system, atoms), positions)
    ordered = sorted(atoms)
    alone = MLPotential("mace").createSystem(topology_of_part(topology, ordered), **DOUBLE)
    model = evaluate(alone, positions[ordered] if ml_positions is None else ml_positions)
    forces = whole.forces - inside.forces
    forces[ordered] += model.forces
    energy = whole.energy - inside.energy + model.energy
    context = context_of(mixed, positions)
    for factor in (0.0, 0.3, 1.0):
        context.setParameter(LAMBDA, factor)
        got = read(context)
        assert abs(got.energy - (1 - factor) * whole.energy - factor * energy) < 1e-5
        want = (1 - factor) * whole.forces + factor * forces
        np.testing.assert_allclose(got.forces, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("water", ["amber14/tip3pfb.xml", "amber14/tip4pew.xml"])
@pytest.mark.parametrize("shape", [None, TRICLINIC], ids=["cubic", "triclinic"])
def test_solvents_and_boxes(water, shape):
    topology, system, positions, (atoms,) = solvated(
        ["CCO"], water, shape=shape, rigidWater=True, hydrogenMass=3.0
    )
    shuffled = [int(i) for i in np.random.default_rng(0).permutation(atoms)]
    mixed = mix(topology, system, (i for i in shuffled), interpolate=True)
    assert mixed.getNumConstraints() == system.getNumConstraints()
    assert_identity(topology, system, positions, shuffled, mixed)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "atoms wrapped"])
def test_region_across_the_box_edge(whole):
    topology, system, positions, (atoms,) = solvated(["CCO"])
    want = evaluate(mix(topology, system, atoms), positions)
    edge = 1.9
    moved = positions + np.array([edge / 2, 0.03, -edge / 2])
    if not whole:
        moved[atoms] %= edge
    assert np.ptp(moved[atoms] % edge, axis=0).max() > edge / 2
    got = evaluate(mix(topology, system, atoms), moved)
    # The mesh of the Ewald sum is not invariant to a shift.
    assert abs(got.energy - want.energy) < 0.5
    np.testing.assert_allclose(got.forces[atoms], want.forces[atoms], rtol=0, atol=2.0)


def test_constraints_go_also_with_a_generator():
    topology, system, _, (atoms,) = solvated(["CCO"])
    first = atoms[0]
    system.addConstraint(first, first + 1, 0.15)
    n = system.getNumConstraints()
    assert mix(topology, system, iter(atoms)).getNumConstraints() == n - 1
    kept = mix(topology, system, iter(atoms), removeConstraints=False)
    assert kept.getNumConstraints() == n


def test_several_regions():
    topology, system, positions, (one, two) = solvated(["CCO", "CC(=O)N"], edge=2.2)
    both = mix(topology, mix(topology, system, one, forceGroup=1), two, forceGroup=2)
    energies = [evaluate(both, positions, groups=1 << group).energy for group in (1, 2)]
    for atoms, energy in zip((one, two), energies, strict=True):
        alone = MLPotential("mace").createSystem(topology_of_part(topology, atoms), **DOUBLE)
        assert evaluate(alone, positions[atoms]).energy == pytest.approx(energy, abs=1e-6)
    total = evaluate(system, positions)
    inside = [evaluate(inside_of(system, atoms), positions).energy for atoms in (one, two)]
    want = total.energy - sum(inside) + sum(energies)
    assert evaluate(both, positions).energy == pytest.approx(want, abs=1e-5)
    faded = mix(topology, mix(topology, system, one, interpolate=True), two, interpolate=True)
    context = context_of(faded, positions)
    assert read(context).energy == pytest.approx(want, abs=1e-5)
    assert read(context).derivatives[LAMBDA] == pytest.approx(want - total.energy, rel=1e-8)
    context.setParameter(LAMBDA, 0.0)
    np.testing.assert_allclose(read(context).forces, total.forces, rtol=0, atol=1e-6)


def test_force_groups_and_names_are_kept():
    topology, system, _, (atoms,) = solvated(["CCO"])
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
        force.setName(f"force {group}")
    known = {f.getName(): f.getForceGroup() for f in system.getForces()}
    for interpolate in (False, True):
        mixed = mix(topology, system, atoms, forceGroup=17, interpolate=interpolate)
        found = [(f.getName(), f.getForceGroup()) for f in mixed.getForces()]
        for name, group in known.items():
            assert {g for n, g in found if n.startswith(name)} == {group}
        assert [name for name, group in found if group == 17] == ["MACE"]


def test_model_is_not_evaluated_at_zero(monkeypatch):
    from mace_mm.openmm.force import PythonComputation

    calls = []
    original = PythonComputation.__call__

    def counting(self, state):
        before = original(self, state)
        calls.append(before[0])
        return before

    monkeypatch.setattr(PythonComputation, "__call__", counting)
    topology, system, positions, (atoms,) = solvated(["CCO"])
    mixed = mix(topology, system, atoms, interpolate=True, backend="pythonforce")
    context = context_of(mixed, positions, parameters={LAMBDA: 0.0})
    assert read(context).derivatives[LAMBDA] == np.inf
    context.getIntegrator().step(3)
    assert set(calls) == {0.0}
    context.setPositions(positions)
    context.setParameter("evaluate_ml_at_zero", 1.0)
    at_zero = read(context).derivatives[LAMBDA]
    context.setParameter(LAMBDA, 0.4)
    assert at_zero == pytest.approx(read(context).derivatives[LAMBDA], rel=1e-10)
    assert 0.0 not in calls[-2:]


def test_barostat_and_dynamics():
    topology, system, positions, (atoms,) = solvated(["CCO"], rigidWater=True)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0, 5))
    mixed = mix(topology, system, atoms, interpolate=True, precision="single")
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.001)
    integrator.setRandomNumberSeed(1)
    context = context_of(mixed, positions, "CPU", {LAMBDA: 0.5}, integrator)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=20)
    integrator.step(30)
    state = context.getState(energy=True)
    assert np.isfinite(state.getPotentialEnergy()._value)
    assert state.getPeriodicBoxVectors() != mixed.getDefaultPeriodicBoxVectors()


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_whole_system_as_region(embedding):
    topology, system, positions, (atoms,) = solvated(["CCO"], method=app.NoCutoff)
    solute = topology_of_part(topology, atoms)
    part = inside_of(system, atoms)
    alone = openmm.System()
    for _ in atoms:
        alone.addParticle(1.0)
    bonds = openmm.HarmonicBondForce()
    for force in part.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for i in range(force.getNumBonds()):
                first, second, *values = force.getBondParameters(i)
                bonds.addBond(first - atoms[0], second - atoms[0], *values)
    alone.addForce(bonds)
    charges = openmm.NonbondedForce()
    for i in atoms:
        charges.addParticle(0.1 * (-1) ** i, 0.1, 0.0)
    alone.addForce(charges)
    mixed = mix(solute, alone, range(len(atoms)), interpolate=True, embedding=embedding)
    context = context_of(mixed, positions[atoms])
    model = MLPotential("mace").createSystem(solute, **DOUBLE)
    want = evaluate(model, positions[atoms]).energy
    assert read(context).energy == pytest.approx(want, abs=1e-6)
    context.setParameter(LAMBDA, 0.0)
    want = evaluate(alone, positions[atoms]).energy
    assert read(context).energy == pytest.approx(want, abs=1e-6)
