"""The answer of an ML region to charges: limits, symmetries, periodic boxes, close contacts."""

import itertools

import numpy as np
import openmm
import pytest
import torch
from openmm import app

from mace_mm.electrostatics.charge_model import POLARIZABILITIES, polarizabilities, relay_matrix
from mace_mm.electrostatics.ewald import Stencil, ewald_splitting, make_mesh
from mace_mm.ml_mm.electrostatic_force import _Near
from mace_mm.units import COULOMB_EV_ANGSTROM, EV_TO_KJ_MOL
from tests.support.embedding_systems import (
    answer,
    beside_charges,
    embedding_energy,
    openmm_energy,
    reference_molecules,
    region_of,
)
from tests.support.mixed_systems import molecule_of

DEBYE_PER_E_ANGSTROM = 4.80320
TRICLINIC = np.array([[22.0, 0.0, 0.0], [4.0, 21.0, 0.0], [-3.0, 5.0, 20.0]])


@pytest.fixture(scope="module")
def molecules():
    return reference_molecules()


def numbers_and_positions(smiles):
    molecule = molecule_of(smiles)
    numbers = [a.GetAtomicNum() for a in molecule.GetAtoms()]
    return numbers, molecule.GetConformer().GetPositions()


def beyond(positions, atom, distance):
    """A point on the line from the center through an atom, away from it."""
    arm = positions[atom] - positions.mean(axis=0)
    return positions[atom] + distance * arm / np.linalg.norm(arm)


def charges_around(positions, cell, number=200, seed=0):
    """Charges in a box, none within 1.5 Å of an atom or its images."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (number, 3)) @ cell
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ cell
    apart = np.linalg.norm(points[:, None, None] - positions[:, None] - shifts, axis=-1)
    points = points[apart.min(axis=(1, 2)) > 1.5]
    return points, rng.normal(size=len(points))


@pytest.mark.parametrize(
    "smiles, measured", [("C", 2.59), ("O", 1.45), ("c1ccccc1", 10.3), ("CC(=O)N", 5.67)]
)
def test_polarizability_of_molecules(smiles, measured):
    """Å³, from refractive indices (CRC Handbook)."""
    numbers, positions = numbers_and_positions(smiles)
    vectors = torch.from_numpy(positions[None] - positions[:, None])
    response = torch.linalg.inv(relay_matrix(vectors, polarizabilities(numbers)))
    n_atoms = len(numbers)
    tensor = response.reshape(n_atoms, 3, n_atoms, 3).sum((0, 2))
    assert float(tensor.trace()) / 3 == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("charge", [1.0, -1.0, 2.0])
def test_one_atom_is_a_polarizable_point(charge):
    region = region_of([6], [charge])
    for distance in (4.0, 10.0):
        found = answer(region, np.zeros((1, 3)), [[0.0, 0.0, distance]])
        dipole = -charge * POLARIZABILITIES[6] / distance**2
        assert found.dipoles[0].numpy() == pytest.approx([0.0, 0.0, dipole], rel=1e-6)
        energy = -0.5 * COULOMB_EV_ANGSTROM * POLARIZABILITIES[6] * charge**2 / distance**4
        assert found.energy == pytest.approx(energy, rel=1e-6)


@pytest.mark.parametrize("name", ["dodecanenitrile", "hexanoic acid", "N-methylacetamide", "GABA"])
def test_dipole_in_vacuum_is_that_of_the_force_field(molecules, name):
    """Of the whole mixed energy, from its odd part for an ion far away."""
    entry = molecules[name]
    positions, charges = np.array(entry["positions"]), np.array(entry["am1bcc"])
    n_atoms = len(positions)
    axis = charges @ positions / np.linalg.norm(charges @ positions)
    ion = positions.mean(axis=0) + 3000.0 * axis
    everything = np.vstack([positions, ion])
    energies = []
    for sign in (1.0, -1.0):
        topology, system = beside_charges([entry], [sign])
        force = system.getForce(0)
        for i in range(n_atoms):
            for j in range(i):
                force.addException(i, j, 0.0, 0.1, 0.0)
        energies.append(
            openmm_energy(system, everything)
            + embedding_energy(topology, system, range(n_atoms), everything)
        )
    potential = 0.5 * (energies[0] - energies[1]) / EV_TO_KJ_MOL
    got = potential * 3000.0**2 / COULOMB_EV_ANGSTROM
    assert got == pytest.approx(np.linalg.norm(charges @ positions), rel=3e-3)
    if name == "dodecanenitrile":
        assert got * DEBYE_PER_E_ANGSTROM == pytest.approx(4.1, abs=0.5)


@pytest.mark.parametrize(
    "names, ion",
    [
        (["acetate", "butylammonium"], 1.0),
        (["GABA"], 1.0),
        (["phenolate", "4-methylimidazolium", "water"], -1.0),
    ],
)
def test_no_charge_moves(molecules, names, ion):
    """Energies are even in the outer charges: nothing but dipoles answers, also between molecules.

    Acetate beside an ammonium carried -0.19 e when charges could flow.
    """
    entries = [molecules[name] for name in names]
    blocks = []
    for number, entry in enumerate(entries):
        xyz = np.array(entry["positions"])
        blocks.append(xyz - xyz.mean(axis=0) + [0.0, 0.0, 6.0 * number])
    positions = np.vstack([*blocks, [[4.0, 9.0, 1.0]], [[-7.0, 2.0, 3.0]]])
    n_atoms = len(positions) - 2
    energies = []
    for sign in (1.0, -1.0):
        topology, system = beside_charges(entries, [sign * ion, sign * 0.4])
        energies.append(embedding_energy(topology, system, range(n_atoms), positions))
    assert energies[0] < -1.0
    assert energies[0] == pytest.approx(energies[1], rel=1e-12)


METHODS = [(app.CutoffNonPeriodic, None), (app.PME, 8.0), (app.CutoffPeriodic, 8.0)]


@pytest.mark.parametrize("method, edge", METHODS)
@pytest.mark.parametrize("name, ion, cutoff", [
    ("N-methylacetamide", 1.0, 0.9), ("dodecanenitrile", 1.0, 0.9), ("indole", -1.0, 0.7),
])  # fmt: skip
def test_the_cutoff_does_not_matter(molecules, name, ion, cutoff, method, edge):
    """An ion at 5 Å: below 1 kJ/mol between a cutoff and none, where half the energy was lost."""
    entry = molecules[name]
    positions = np.array(entry["positions"])
    positions = np.vstack([positions, beyond(positions, entry["probes"][0]["atom"], 5.0)])
    n_atoms = len(positions) - 1
    topology, system = beside_charges([entry], [ion])
    want = embedding_energy(topology, system, range(n_atoms), positions)
    topology, system = beside_charges([entry], [ion], method, edge, cutoff)
    got = embedding_energy(topology, system, range(n_atoms), positions)
    assert want < -3.0
    assert got == pytest.approx(want, abs=0.2)


@pytest.mark.parametrize("cell", [np.diag([20.0, 22.0, 25.0]), TRICLINIC])
def test_the_periodic_field_is_that_of_openmm(cell):
    """Of forces on a small probe by PME of the Reference platform with a fine mesh."""
    numbers, positions = numbers_and_positions("CC(=O)N")
    points, charges = charges_around(positions, cell)
    n_atoms = len(numbers)
    region = region_of(numbers, charges.tolist(), cutoff=9.0)
    hard = torch.full((n_atoms,), 1e-3, dtype=torch.float64)  # without damping
    object.__setattr__(region, "polarizability", hard)
    box = torch.from_numpy(cell)
    mesh = make_mesh(box, ewald_splitting(9.0))
    atoms, sources = torch.from_numpy(positions), torch.from_numpy(points)
    potential = mesh.potential(Stencil(mesh, sources).spread(region.source_charges))
    near = _Near(region, atoms, sources, box).field()
    got = (near - Stencil(mesh, atoms).gradient(potential)).numpy()
    system, force = openmm.System(), openmm.NonbondedForce()
    system.setDefaultPeriodicBoxVectors(*(cell * 0.1))
    system.addForce(force)
    force.setNonbondedMethod(force.PME)
    force.setCutoffDistance(0.95)
    force.setPMEParameters(4.0, 90, 90, 90)
    for charge in [0.0, *charges]:
        system.addParticle(1.0)
        force.addParticle(charge, 1.0, 0.0)
    force.setParticleParameters(0, 1e-3, 1.0, 0.0)
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    for i in range(n_atoms):
        context.setPositions(np.vstack([positions[i], points]) * 0.1)
        on_probe = context.getState(forces=True).getForces(asNumpy=True)._value[0]
        want = on_probe / (1e-3 * COULOMB_EV_ANGSTROM * EV_TO_KJ_MOL * 10.0)
        assert got[i] == pytest.approx(want, abs=4e-4)


@pytest.mark.parametrize("cell", [None, TRICLINIC])
def test_forces_are_derivatives(cell):
    numbers, positions = numbers_and_positions("NCC(=O)O")
    points, charges = charges_around(positions, TRICLINIC)
    region = region_of(numbers, charges.tolist(), None if cell is None else 9.0)
    found = answer(region, positions, points, cell)
    forces = torch.cat([found.atom_forces, found.source_forces]).numpy()
    everything = np.vstack([positions, points])
    n_atoms = len(numbers)
    closest = n_atoms + np.linalg.norm(forces[n_atoms:], axis=1).argsort()[[-1, -2, 20]]
    for i, axis in itertools.product([0, 2, 4, n_atoms - 1, *closest], range(3)):
        energies = []
        for step in (1e-4, -1e-4):
            moved = everything.copy()
            moved[i, axis] += step
            energies.append(answer(region, moved[:n_atoms], moved[n_atoms:], cell).energy)
        slope = (energies[0] - energies[1]) / 2e-4
        assert forces[i, axis] == pytest.approx(-slope, rel=1e-6, abs=1e-7)
    if cell is None:
        assert forces.sum(axis=0) == pytest.approx(0.0, abs=1e-12)


def test_it_turns_and_moves_with_the_system():
    numbers, positions = numbers_and_positions("CC(=O)N")
    points, charges = charges_around(positions, TRICLINIC, 40)
    region = region_of(numbers, charges.tolist())
    want = answer(region, positions, points)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    got = answer(
        region, positions @ turn.T + [3.0, -40.0, 7.0], points @ turn.T + [3.0, -40.0, 7.0]
    )
    assert got.energy == pytest.approx(want.energy, rel=1e-10)
    np.testing.assert_allclose(got.atom_forces, want.atom_forces.numpy() @ turn.T, atol=1e-10)


def test_images_are_the_same():
    """Single atoms and charges wrapped by box vectors; everything moved by whole mesh points."""
    numbers, positions = numbers_and_positions("CC(=O)N")
    points, charges = charges_around(positions, TRICLINIC, 60)
    region = region_of(numbers, charges.tolist(), 9.0)
    want = answer(region, positions, points, TRICLINIC)
    rng = np.random.default_rng(5)
    atoms = positions + rng.integers(-2, 3, positions.shape) @ TRICLINIC
    sources = points + rng.integers(-2, 3, points.shape) @ TRICLINIC
    got = answer(region, atoms, sources, TRICLINIC)
    assert got.energy == pytest.approx(want.energy, rel=1e-9)
    np.testing.assert_allclose(got.atom_forces, want.atom_forces, atol=1e-8)
    mesh = make_mesh(torch.from_numpy(TRICLINIC), ewald_splitting(9.0))
    shift = np.array([3, -5, 2]) / mesh.shape @ TRICLINIC
    got = answer(region, positions + shift, points + shift, TRICLINIC)
    assert got.energy == pytest.approx(want.energy, rel=1e-9)
    shift = np.array([0.31, 0.77, 0.13])
    got = answer(region, positions + shift, points + shift, TRICLINIC)
    assert got.energy == pytest.approx(want.energy, rel=1e-3)


@pytest.mark.parametrize("distance", [1.5, 1.0, 0.3, 0.0])
def test_a_close_charge_is_no_catastrophe(distance):
    """Two bonded atoms, soft ones too, and a charge close to one of them."""
    for numbers, length in (([6, 8], 1.2), ([16, 17], 2.0), ([53, 53], 2.67), ([1, 1], 0.74)):
        atoms = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, length]])
        for direction in np.eye(3):
            found = answer(region_of(numbers, [1.0]), atoms, [-distance * direction])
            assert found.coupled
            assert -4.0 < found.energy < 0.0
            assert np.isfinite(found.atom_forces.numpy()).all()
            assert found.atom_forces.abs().max() < 20.0


def test_colliding_atoms_give_finite_energies(caplog):
    """As in the line search of a minimizer: no error, no dipoles without limit, one warning."""
    rng = np.random.default_rng(2)
    numbers = [6, 6, 8, 1, 1, 1, 7, 1, 1]
    region = region_of(numbers, [1.0, -1.0])
    for box in (0.1, 0.6, 1.0, 2.0):
        atoms = rng.uniform(0, box, (len(numbers), 3))
        found = answer(region, atoms, [[4.0, 0.0, 0.0], [0.0, -5.0, 0.0]])
        assert -10.0 < found.energy < 0.0
    entry = {"numbers": numbers, "am1bcc": [0.0] * len(numbers)}
    topology, system = beside_charges([entry], [1.0])
    positions = np.vstack([rng.uniform(0, 0.5, (len(numbers), 3)), [[4.0, 0.0, 0.0]]])
    assert embedding_energy(topology, system, range(len(numbers)), positions) < 0.0
    assert "so close that they would polarize each other without limit" in caplog.text


def test_molecules_of_a_region_polarize_each_other():
    """More than alone where the field points along them, less across it; far apart, the sum."""
    numbers, positions = numbers_and_positions("O")
    charge = [[0.0, 0.0, 60.0]]

    def energy(copies):
        atoms = np.vstack(copies)
        return answer(region_of(numbers * len(copies), [30.0]), atoms, charge).energy

    alone = energy([positions])
    along = energy([positions, positions + [0.0, 0.0, 3.0], positions - [0.0, 0.0, 3.0]])
    across = energy([positions, positions + [3.0, 0.0, 0.0], positions - [3.0, 0.0, 0.0]])
    apart = energy([positions, positions + [40.0, 0.0, 0.0]])
    assert along < 3.02 * alone < 2.98 * alone < across
    other = energy([positions + [40.0, 0.0, 0.0]])
    assert apart == pytest.approx(alone + other, rel=1e-3)
