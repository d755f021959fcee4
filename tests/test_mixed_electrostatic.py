"""Electrostatic embedding: derivatives, limits, what is counted, and curves from PySCF."""

import numpy as np
import openmm
import pytest
import torch
from mixed_systems import LAMBDA, context_of, evaluate, molecule_of, read, solvated
from openmm import app
from openmmml import MLPotential

from mace_mm.errors import ConfigError
from mace_mm.simulation.electrostatic_force import EmbeddedRegion, embedding_energy, spread_charges
from mace_mm.simulation.electrostatics import (
    charge_parameters,
    equilibrated_charges,
    polarizabilities,
    relay_matrix,
)
from mace_mm.units import COULOMB_EV_ANGSTROM, HARTREE_TO_EV

DOUBLE = {"precision": "double"}


def region_of(smiles, cutoff=None):
    molecule = molecule_of(smiles)
    numbers = [a.GetAtomicNum() for a in molecule.GetAtoms()]
    total = sum(a.GetFormalCharge() for a in molecule.GetAtoms())
    own = torch.zeros(len(numbers), dtype=torch.float64)
    own[0] = total
    region = EmbeddedRegion(
        atoms=tuple(range(len(numbers))),
        parameters=charge_parameters(numbers),
        polarizability=polarizabilities(numbers),
        force_field_charges=own,
        sources=(),
        source_charges=torch.zeros(0, dtype=torch.float64),
        cutoff=cutoff,
        periodic=False,
    )
    return region, numbers, molecule.GetConformer().GetPositions()


def charges_of(region, positions):
    vectors = torch.from_numpy(positions[None] - positions[:, None])
    total = region.force_field_charges.sum()
    return equilibrated_charges(vectors, region.parameters, total).numpy()


def mix(topology, system, atoms, **options):
    options = {"embedding": "electrostatic", **DOUBLE, **options}
    return MLPotential("mace").createMixedSystem(topology, system, atoms, **options)


def test_charges_are_those_of_a_molecule():
    region, numbers, positions = region_of("O")
    charges = charges_of(region, positions)
    dipole = np.linalg.norm(charges @ positions) * 4.80320
    assert charges.sum() == pytest.approx(0.0, abs=1e-12)
    assert charges[1] == pytest.approx(charges[2], abs=0.02)
    assert 1.6 < dipole < 2.2
    region, numbers, positions = region_of("CC(=O)[O-]")
    charges = charges_of(region, positions)
    assert charges.sum() == pytest.approx(-1.0, abs=1e-12)
    assert charges[2] < -0.5 and charges[3] < -0.5


@pytest.mark.parametrize(
    "smiles, measured", [("C", 2.59), ("O", 1.45), ("c1ccccc1", 10.3), ("CC(=O)N", 5.67)]
)
def test_polarizability_of_molecules(smiles, measured):
    """Å³, from refractive indices (CRC Handbook)."""
    region, numbers, positions = region_of(smiles)
    vectors = torch.from_numpy(positions[None] - positions[:, None])
    response = torch.linalg.inv(relay_matrix(vectors, region.polarizability))
    n_atoms = len(numbers)
    tensor = response.reshape(n_atoms, 3, n_atoms, 3).sum((0, 2))
    assert float(tensor.trace()) / 3 == pytest.approx(measured, rel=0.15)


def test_far_away_it_is_coulomb_with_the_charges_of_the_region():
    region, numbers, positions = region_of("CCO")
    shift = charges_of(region, positions) - region.force_field_charges.numpy()
    for distance in (20.0, 40.0):
        source = np.array([[distance, 0.3, -0.2]])
        energy = embedding_energy(
            region,
            torch.from_numpy(positions),
            torch.from_numpy(source),
            torch.ones(1, dtype=torch.float64),
            None,
        )
        r = np.linalg.norm(positions - source, axis=1)
        coulomb = COULOMB_EV_ANGSTROM * (shift / r).sum()
        polarization = float(energy) - coulomb
        alpha = 0.5 * COULOMB_EV_ANGSTROM / distance**4
        assert -7.0 * alpha < polarization < -4.0 * alpha


def test_the_correction_ends_smoothly_at_the_cutoff():
    region, numbers, positions = region_of("CO", cutoff=9.0)
    energies = []
    for x in np.linspace(4.0, 11.0, 1401):
        energy = embedding_energy(
            region,
            torch.from_numpy(positions),
            torch.tensor([[x, 0.1, 0.2]], dtype=torch.float64),
            torch.ones(1, dtype=torch.float64),
            None,
        )
        energies.append(float(energy))
    energies = np.array(energies)
    assert energies[-1] == 0.0
    slopes = np.diff(energies) / 0.005
    assert np.abs(np.diff(slopes)).max() < 5 * np.abs(np.diff(slopes[:200])).max()


@pytest.mark.parametrize("method", [app.NoCutoff, app.CutoffNonPeriodic, app.PME])
def test_forces_by_finite_differences(method):
    topology, system, positions, (atoms,) = solvated(["CCO"], "amber14/tip4pew.xml", method=method)
    mixed = mix(topology, system, atoms, forceGroup=4)
    context = context_of(mixed, positions)
    forces = read(context, groups=1 << 4).forces
    near = [i for i in range(0, atoms[0], 4)][:40:13]
    step = 2e-5
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
            assert forces[i, axis] == pytest.approx(-slope, abs=2e-3 + 1e-5 * abs(slope))


def test_nothing_is_counted_twice():
    """Without MM charges nothing is left; the force field's part is the mechanical one."""
    topology, system, positions, (atoms,) = solvated(["CCO"])
    mechanical = MLPotential("mace").createMixedSystem(topology, system, atoms, **DOUBLE)
    embedded = mix(topology, system, atoms)
    names = [f.getName() for f in embedded.getForces()]
    assert names == [f.getName() for f in mechanical.getForces()] + ["electrostatic embedding"]
    embedded.getForce(len(names) - 1).setForceGroup(7)
    rest = evaluate(embedded, positions, groups=~(1 << 7) & 0xFFFFFFFF)
    want = evaluate(mechanical, positions)
    assert rest.energy == pytest.approx(want.energy, abs=1e-8)
    correction = evaluate(embedded, positions, groups=1 << 7)
    assert abs(correction.energy) > 0.1
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


def test_interpolation():
    topology, system, positions, (atoms,) = solvated(["CCO"])
    faded = mix(topology, system, atoms, interpolate=True)
    zero = evaluate(system, positions)
    one = evaluate(mix(topology, system, atoms), positions)
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


def test_charges_next_to_a_cut_bond_are_spread():
    charges = [0.4, -0.3, 0.1, 0.2, -0.4]
    spread = spread_charges(charges, [0, 1, 4], [[0, 1, 2, 3], [4]])
    assert spread == pytest.approx([0.0, 0.0, 0.15, 0.25, 0.0])


def test_what_is_refused():
    topology, system, _, (atoms,) = solvated(["CCO"])
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    force.addGlobalParameter("scale", 1.0)
    force.addParticleParameterOffset("scale", 0, 0.1, 0.0, 0.0)
    with pytest.raises(ConfigError, match="constant charges"):
        mix(topology, system, atoms)


def embedding_of_pyscf(numbers, positions, charge, sources, charges):
    """Energy of a molecule with point charges, less that of the molecule alone, eV."""
    gto = pytest.importorskip("pyscf.gto", reason="PySCF is not installed")
    from pyscf import dft, qmmm

    atoms = list(zip(numbers, positions.tolist(), strict=True))
    molecule = gto.M(atom=atoms, basis="def2-svpd", charge=charge, verbose=0)
    alone = dft.RKS(molecule, xc="pbe0").density_fit()
    alone.grids.level = 1
    energy = alone.kernel()
    field = qmmm.mm_charge(alone.copy(), sources, charges, unit="Angstrom")
    inside = field.kernel(dm0=alone.make_rdm1())
    return (inside - energy) * HARTREE_TO_EV


def embedding_of_model(region, positions, sources, charges):
    """The same by the model; the charges of the force field are put to zero."""
    full = EmbeddedRegion(
        **{
            **{name: getattr(region, name) for name in EmbeddedRegion.__dataclass_fields__},
            "force_field_charges": region.force_field_charges * 0.0,
        }
    )
    total = float(region.force_field_charges.sum())
    assert total == 0.0, "neutral molecules only"
    return float(
        embedding_energy(
            full,
            torch.from_numpy(positions),
            torch.from_numpy(np.asarray(sources)),
            torch.tensor(charges, dtype=torch.float64),
            None,
        )
    )


def direction_of(positions, atom):
    """Away from the molecule through one of its atoms."""
    arm = positions[atom] - positions.mean(axis=0)
    return arm / np.linalg.norm(arm)


# smiles, atom that is approached, charge of the ion; distances in Å. Closer to a positive charge
# without electrons the density of a diffuse basis spills onto it.
DISTANCES = (3.0, 4.0, 6.0)
ION_CURVES = [("O", 0, 1.0), ("CC(=O)N", 2, 1.0), ("O", 1, -1.0), ("n1ccccc1", 0, 1.0)]


@pytest.mark.slow
@pytest.mark.parametrize("smiles, atom, charge", ION_CURVES)
def test_ion_curves_against_pyscf(smiles, atom, charge):
    region, numbers, positions = region_of(smiles)
    for distance in DISTANCES:
        sources = positions[atom] + distance * direction_of(positions, atom)[None]
        want = embedding_of_pyscf(numbers, positions, 0, sources, [charge])
        got = embedding_of_model(region, positions, sources, [charge])
        assert got == pytest.approx(want, rel=0.35, abs=0.03), distance


@pytest.mark.slow
def test_water_dimer_against_pyscf():
    """A water donates a hydrogen bond to the model's water, with the charges of TIP3P."""
    region, numbers, positions = region_of("O")
    away = direction_of(positions, 0)
    side = np.cross(away, positions[1] - positions[2])
    side /= np.linalg.norm(side)
    for distance in (2.8, 3.2, 4.0, 5.0):
        oxygen = positions[0] + distance * away
        near = oxygen - 0.9572 * away
        far = oxygen + 0.9572 * (np.cos(1.2768) * away + np.sin(1.2768) * side)
        sources = np.array([oxygen, near, far])
        charges = [-0.834, 0.417, 0.417]
        want = embedding_of_pyscf(numbers, positions, 0, sources, charges)
        got = embedding_of_model(region, positions, sources, charges)
        assert got == pytest.approx(want, rel=0.25, abs=0.01), distance
