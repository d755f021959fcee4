"""What the force field says about an ML region beyond the reach of the model."""

import copy

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from rdkit import Chem

from mace_mm.electrostatics.charge_units import ChargeUnits
from mace_mm.errors import ConfigError
from mace_mm.ml_mm.long_range import NAME
from mace_mm.ml_mm.pairs import COULOMB_KJ_MOL_NM
from tests.support.mixed_systems import (
    LAMBDA,
    add_molecule,
    context_of,
    evaluate,
    inside_of,
    molecule_of,
    read,
    solvated,
    topology_of_part,
)

pytestmark = pytest.mark.plain
DOUBLE = {"precision": "double"}
KEPT = {**DOUBLE, "longRangeWithinRegion": True}


def mix(topology, system, atoms, **options):
    return MLPotential("mace").createMixedSystem(topology, system, atoms, **{**KEPT, **options})


def empty_system(method=openmm.NonbondedForce.NoCutoff, cutoff=1.0):
    system = openmm.System()
    for kind in (openmm.HarmonicBondForce, openmm.HarmonicAngleForce, openmm.PeriodicTorsionForce):
        system.addForce(kind())
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(method)
    force.setCutoffDistance(cutoff)
    system.addForce(force)
    return system


def molecules(*smiles, **options):
    """Topology, System, centered positions of each molecule in nm, and their atoms."""
    topology, system = app.Topology(), empty_system(**options)
    places, atoms = [], []
    for text in smiles:
        first = system.getNumParticles()
        positions = add_molecule(molecule_of(text), topology, system)
        places.append(positions - positions.mean(axis=0))
        atoms.append(list(range(first, system.getNumParticles())))
    return topology, system, places, atoms


def pair_at(places, distance):
    return np.vstack([places[0], places[1] + [distance, 0.1, 0.05]])


def model_alone(topology, atoms, positions):
    alone = MLPotential("mace").createSystem(topology_of_part(topology, atoms), **DOUBLE)
    return evaluate(alone, positions[atoms]).energy


# Charge units.


def units_of(smiles, charges=None):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()]
    units = ChargeUnits.of_bonds(molecule.GetNumAtoms(), bonds)
    if charges is None:
        Chem.AllChem.ComputeGasteigerCharges(molecule)
        charges = [a.GetDoubleProp("_GasteigerCharge") for a in molecule.GetAtoms()]
    shares = units.split(charges)
    total = np.zeros(len(charges))
    np.add.at(total, units.ends, shares)
    np.testing.assert_allclose(total, charges, rtol=0, atol=1e-12)
    return units, shares


@pytest.mark.parametrize(
    "smiles", ["O", "CC(=O)NC", "CS(C)(=O)=O", "c1ccccc1[N+](=O)[O-]", "C1CC1C#N", "CCO.O"]
)
def test_neutral_molecules_are_sums_of_bond_dipoles(smiles):
    _, shares = units_of(smiles)
    np.testing.assert_allclose(shares.sum(axis=1), 0.0, atol=1e-3)


def test_whole_charges_of_ions_and_zwitterions():
    chain = "[NH3+]CCCCCC(=O)[O-]"
    molecule = Chem.AddHs(Chem.MolFromSmiles(chain))
    charges = [0.05 if a.GetSymbol() == "H" else 0.0 for a in molecule.GetAtoms()]
    for atom in molecule.GetAtoms():
        bonded = sum(charges[n.GetIdx()] for n in atom.GetNeighbors() if n.GetSymbol() == "H")
        charges[atom.GetIdx()] -= bonded
        if atom.GetFormalCharge():
            charges[atom.GetIdx()] += atom.GetFormalCharge() * 0.9
            charges[atom.GetNeighbors()[0].GetIdx()] += atom.GetFormalCharge() * 0.1
    units, shares = units_of(chain, charges)
    whole = shares.sum(axis=1)
    held = {round(float(whole[u]), 9): units.ends[u] for u in np.flatnonzero(np.abs(whole) > 1e-9)}
    assert set(held) == {1.0, -1.0}
    symbols = [molecule.GetAtomWithIdx(i).GetSymbol() for i in range(molecule.GetNumAtoms())]
    assert "N" in {symbols[i] for i in held[1.0]}
    assert "O" in {symbols[i] for i in held[-1.0]}
    assert np.abs(shares).max() < 1.2
    # An ion on its own is a unit of one atom.
    units, shares = units_of("[Cl-]", [-1.0])
    assert units.ends.tolist() == [[0, 0]] and shares.sum() == -1.0


# Two molecules.


@pytest.mark.parametrize("method", ["NoCutoff", "PME", "CutoffPeriodic"])
def test_two_molecules_beyond_reach_interact_by_the_force_field(method):
    options = {"method": getattr(openmm.NonbondedForce, method), "cutoff": 1.4}
    topology, system, places, atoms = molecules("NC=O", "CC(C)=O", **options)
    if method != "NoCutoff":
        topology.setPeriodicBoxVectors(np.diag([3.2, 3.0, 2.9]) * unit.nanometer)
        system.setDefaultPeriodicBoxVectors(*(np.diag([3.2, 3.0, 2.9]) * unit.nanometer))
    positions = pair_at(places, 1.25)
    mixed = mix(topology, system, [*atoms[0], *atoms[1]])
    # Only what is inside each of the molecules is replaced.
    want = evaluate(system, positions).energy
    for part in atoms:
        want += model_alone(topology, part, positions)
        want -= evaluate(inside_of(system, part), positions).energy
    between = (
        want
        - evaluate(
            mix(topology, system, [*atoms[0], *atoms[1]], longRangeWithinRegion=False), positions
        ).energy
    )
    assert abs(between) > 0.01
    for platform in ("Reference", "CPU"):
        tolerance = 2e-5 * abs(between) + (1e-5 if platform == "Reference" else 2e-3)
        assert evaluate(mixed, positions, platform).energy == pytest.approx(want, abs=tolerance)


def test_molecules_in_contact_are_the_model_alone():
    topology, system, places, atoms = molecules("NC=O", "O")
    positions = pair_at(places, 0.2)
    both = [*atoms[0], *atoms[1]]
    want = model_alone(topology, both, positions)
    assert evaluate(mix(topology, system, both), positions).energy == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("second", ["CC(C)=O", "[Cl-]"])
def test_interaction_begins_smoothly(second):
    """Energies and forces are continuous and belong to each other, for dipoles and charges."""
    topology, system, places, atoms = molecules("C[NH3+]", second)
    both = [*atoms[0], *atoms[1]]
    mixed = mix(topology, system, both, allow_unknown_charge=True)
    alone = openmm.System()
    for i in range(system.getNumParticles()):
        alone.addParticle(system.getParticleMass(i))
    for force in mixed.getForces():
        if force.getName() == NAME:
            alone.addForce(copy.deepcopy(force))
    context = context_of(alone, pair_at(places, 0.1))
    step = 0.002
    distances = np.arange(0.1, 1.1, step)
    energies, pulls = [], []
    for distance in distances:
        context.setPositions(pair_at(places, distance))
        found = read(context)
        energies.append(found.energy)
        pulls.append(found.forces[atoms[1], 0].sum())
    slopes = np.gradient(energies, step)
    assert abs(energies[0]) < 1e-3 and abs(energies[-1]) > 0.1
    np.testing.assert_allclose(-slopes[2:-2], pulls[2:-2], rtol=0, atol=2e-3 * np.abs(pulls).max())
    # No force of the switch exceeds what the force field itself pulls with at its beginning.
    assert np.abs(pulls).max() < 3.0 * np.abs(pulls[-1]) * (distances[-1] / 0.45) ** 3


# Within a molecule.


def long_diamide():
    topology, system, places, (atoms,) = molecules("CC(=O)NCCCCCCCCCCNC(C)=O")
    molecule = molecule_of("CC(=O)NCCCCCCCCCCNC(C)=O")
    return topology, system, places[0], atoms, molecule


def test_small_molecules_have_nothing_beyond_reach():
    topology, system, places, (atoms,) = molecules("CCCC(=O)N")
    mixed = mix(topology, system, atoms)
    assert NAME not in {force.getName() for force in mixed.getForces()}


def test_forces_within_a_molecule_by_finite_differences():
    topology, system, positions, atoms, _ = long_diamide()
    mixed = mix(topology, system, atoms)
    for force in mixed.getForces():
        force.setForceGroup(5 if force.getName() == NAME else 0)
    context = context_of(mixed, positions)
    found = read(context, groups=1 << 5)
    assert abs(found.energy) > 1e-3
    rng = np.random.default_rng(2)
    for i in rng.choice(atoms, 8, replace=False):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = positions.copy()
                moved[i, axis] += sign * 1e-5
                context.setPositions(moved)
                energies.append(read(context, groups=1 << 5).energy)
            slope = (energies[0] - energies[1]) / 2e-5
            assert found.forces[i, axis] == pytest.approx(-slope, abs=1e-4)


def test_charged_ends_of_a_long_chain_attract_each_other():
    """Far apart the ends feel the force of their charges, whatever lies between them."""
    charge = 1.0
    topology, system, positions, atoms, molecule = long_diamide()
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    carbonyl = [a.GetIdx() for a in molecule.GetAtoms() if a.GetSymbol() == "O"]
    for i in atoms:
        _, sigma, epsilon = force.getParticleParameters(i)
        q = charge if i == carbonyl[0] else -charge if i == carbonyl[1] else 0.0
        force.setParticleParameters(i, q, sigma, epsilon)
    for index in range(force.getNumExceptions()):
        i, j, _, sigma, epsilon = force.getExceptionParameters(index)
        force.setExceptionParameters(index, i, j, 0.0, sigma, 0.0)
    # The ends are moved apart, the middle stays.
    moved = positions.copy()
    moved[carbonyl[0]] = [-1.5, 0.0, 0.0]
    moved[carbonyl[1]] = [1.5, 0.0, 0.0]
    mixed = mix(topology, system, atoms)
    for part in mixed.getForces():
        part.setForceGroup(5 if part.getName() == NAME else 0)
    pulls = evaluate(mixed, moved, groups=1 << 5).forces
    want = COULOMB_KJ_MOL_NM * charge**2 / 3.0**2
    assert pulls[carbonyl[0], 0] == pytest.approx(want, rel=2e-2)
    assert pulls[carbonyl[1], 0] == pytest.approx(-want, rel=2e-2)


def test_parallel_dipoles_attract_as_they_should():
    """A switch of bare charges would turn the attraction of dipoles in a row into repulsion."""
    topology, system, places, atoms = molecules("C=O", "C=O")
    # Both along x, one behind the other.
    axis = places[0][1] - places[0][0]
    turn = np.linalg.svd(np.outer([1.0, 0, 0], axis / np.linalg.norm(axis)))
    turn = turn[0] @ np.diag([1, 1, np.linalg.det(turn[0] @ turn[2])]) @ turn[2]
    along = places[0] @ turn.T
    mixed = mix(topology, system, [*atoms[0], *atoms[1]])
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    for i in range(force.getNumParticles()):
        q, sigma, _ = force.getParticleParameters(i)
        force.setParticleParameters(i, q, sigma, 0.0)
    for part in mixed.getForces():
        part.setForceGroup(5 if part.getName() == NAME else 0)
    context = context_of(mixed, np.vstack([along, along + [0.5, 0, 0]]))
    for distance in np.arange(0.5, 1.2, 0.05):
        context.setPositions(np.vstack([along, along + [distance, 0, 0]]))
        assert read(context, groups=1 << 5).energy <= 1e-6


# With everything else.


def test_interpolated(tmp_path):
    topology, system, places, atoms = molecules("NC=O", "CC(C)=O")
    both = [*atoms[0], *atoms[1]]
    positions = pair_at(places, 0.75)
    mixed = mix(topology, system, both, interpolate=True)
    context = context_of(mixed, positions)
    one = evaluate(mix(topology, system, both), positions).energy
    zero = evaluate(system, positions)
    assert read(context).energy == pytest.approx(one, abs=1e-7)
    for factor in (0.0, 0.4):
        context.setParameter(LAMBDA, factor)
        want = zero.energy + factor * (one - zero.energy)
        assert read(context).energy == pytest.approx(want, abs=1e-7)
    assert read(context).derivatives[LAMBDA] == pytest.approx(one - zero.energy, abs=1e-7)
    assert len(context.getMolecules()) == 2
    copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(mixed))
    assert evaluate(copied, positions).energy == pytest.approx(one, abs=1e-7)


def test_charges_that_depend_on_parameters():
    topology, system, places, atoms = molecules("NC=O", "CC(C)=O")
    both = [*atoms[0], *atoms[1]]
    positions = pair_at(places, 0.8)
    baked = copy.deepcopy(system)
    force, fixed = (
        next(f for f in s.getForces() if isinstance(f, openmm.NonbondedForce))
        for s in (system, baked)
    )
    force.addGlobalParameter("lambda_charges", 1.0)
    for i in both:
        q, sigma, epsilon = force.getParticleParameters(i)
        force.setParticleParameters(i, 0.0 * q, sigma, epsilon)
        force.addParticleParameterOffset("lambda_charges", i, q, 0.0, 0.3 * epsilon)
        fixed.setParticleParameters(i, 0.3 * q, sigma, 1.09 * epsilon)
    got = evaluate(mix(topology, system, both), positions, parameters={"lambda_charges": 0.3})
    want = evaluate(mix(topology, baked, both), positions)
    assert got.energy == pytest.approx(want.energy, abs=1e-8)
    np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=1e-7)


def test_virtual_sites_carry_their_charges():
    topology, system, positions, _ = solvated([], "amber14/tip4pew.xml", edge=1.7)
    context = context_of(system, positions)
    context.computeVirtualSites()
    positions = np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)
    box = topology.getPeriodicBoxVectors()[0][0]._value
    apart = positions[::4] - positions[0]
    apart -= box * np.round(apart / box)
    far = 4 * int(np.argmax((apart**2).sum(axis=1)))
    real = [0, 1, 2, far, far + 1, far + 2]
    got = evaluate(mix(topology, system, real), positions).energy
    want = evaluate(system, positions).energy
    for first in (0, far):
        want += model_alone(topology, [first, first + 1, first + 2], positions)
        want -= evaluate(inside_of(system, list(range(first, first + 4))), positions).energy
    # The mesh, and Lennard-Jones interactions, which end at the cutoff.
    assert got == pytest.approx(want, abs=2e-3)
    assert (
        abs(
            evaluate(mix(topology, system, real, longRangeWithinRegion=False), positions).energy
            - got
        )
        > 0.02
    )


def test_option(caplog):
    topology, system, places, atoms = molecules("NC=O", "CC(C)=O")
    both = [*atoms[0], *atoms[1]]
    for wrong in (0.0, -1.0, "yes", float("nan")):
        with pytest.raises(ConfigError, match="longRangeWithinRegion"):
            mix(topology, system, both, longRangeWithinRegion=wrong)
    positions = pair_at(places, 0.75)
    known, first, second, far, off = (
        evaluate(mix(topology, system, both, longRangeWithinRegion=asked), positions).energy
        for asked in (True, 0.45, 4.5 * unit.angstrom, 2.0, False)
    )
    assert first == second == pytest.approx(known)
    assert far == off != pytest.approx(known)
    assert "longRangeWithinRegion" not in caplog.text
    info = mix(topology, system, both, longRangeWithinRegion=None, returnInfo=True)
    assert "the ML region holds 2 molecules" in caplog.text
    assert any("longRangeWithinRegion=True keeps" in sentence for sentence in info["warnings"])
    caplog.clear()
    mix(topology, system, atoms[0], longRangeWithinRegion=None)
    assert "longRangeWithinRegion" not in caplog.text
