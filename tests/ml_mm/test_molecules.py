"""Molecules of mixed and of pure ML systems are those of the topology, for OpenMM too."""

import copy

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential

from mace_mm.errors import InputError
from mace_mm.ml_mm.boundary import with_link_atoms
from mace_mm.openmm.molecules import NAME
from mace_mm.simulation.run.context import make_context
from mace_mm.simulation.run.settings import RunSettings
from tests.support.mixed_systems import LAMBDA, context_of, evaluate, solvated

pytestmark = pytest.mark.plain
BUTANOL_END = (3, 4, 12, 13, 14)


def mix(topology, system, atoms, **options):
    arguments = {"precision": "double", **options}
    return MLPotential("mace").createMixedSystem(
        topology, system, atoms, returnInfo=True, **arguments
    )


def molecules_of(topology, further=()):
    """What the bonds of a topology, and further ones, connect."""
    number = list(range(topology.getNumAtoms()))
    pairs = [(b.atom1.index, b.atom2.index) for b in topology.bonds()]
    for i, j in [*pairs, *further]:
        old, new = number[i], number[j]
        number = [new if n == old else n for n in number]
    return sorted([i for i, n in enumerate(number) if n == m] for m in set(number))


def found_molecules(system, platform="Reference"):
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform(platform)
    )
    return sorted(sorted(m) for m in context.getMolecules())


@pytest.fixture(scope="module")
def pair():
    """Ethanol and butanol in a little water."""
    return solvated(["CCO", "CCCCO"], edge=1.7, method=app.CutoffPeriodic, rigidWater=True)


def regions(pair, name):
    _, _, _, (ethanol, butanol) = pair
    return {
        "one ligand": ethanol,
        "two ligands": [*butanol, *ethanol],
        "waters": [0, 1, 2, 6, 7, 8],
        "a part": [butanol[0] + k for k in BUTANOL_END],
    }[name]


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("name", ["one ligand", "two ligands", "waters", "a part"])
def test_molecules_are_those_of_the_topology(pair, name, interpolate):
    topology, system, _, _ = pair
    atoms = regions(pair, name)
    # Rigid water has no bond terms that could hold it together at lambda = 0.
    options = {"removeConstraints": False} if name == "waters" and interpolate else {}
    info = mix(topology, system, atoms, interpolate=interpolate, **options)
    n_atoms = topology.getNumAtoms()
    caps = [
        (cap, info["system"].getVirtualSite(cap).getParticle(0))
        for cap in range(n_atoms, info["system"].getNumParticles())
    ]
    assert len(caps) == (name == "a part")
    want = molecules_of(info["topology"], caps)
    assert found_molecules(info["system"]) == want
    copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(info["system"]))
    assert found_molecules(copied) == want


def test_two_regions_share_one_force(pair):
    topology, system, positions, (one, two) = pair
    first = mix(topology, system, one)["system"]
    both = mix(topology, first, two, interpolate=True)["system"]
    assert [f.getName() for f in both.getForces()].count(NAME) == 1
    assert found_molecules(both) == molecules_of(topology)
    index = next(i for i, f in enumerate(both.getForces()) if f.getName() == NAME)
    without = copy.deepcopy(both)
    without.removeForce(index)
    got, want = (evaluate(s, positions, parameters={LAMBDA: 0.4}) for s in (both, without))
    assert got.energy == want.energy
    np.testing.assert_array_equal(got.forces, want.forces)


def test_pure_ml_system(pair):
    topology = pair[0]
    system = MLPotential("mace").createSystem(topology)
    assert found_molecules(system) == molecules_of(topology)
    copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert found_molecules(copied) == molecules_of(topology)
    # Runs of small systems choose their platform by the forces there are.
    context = make_context(system, RunSettings(), 1)
    assert context.getPlatform().getName() == "Reference"


def bond_lengths(topology, positions):
    pairs = np.array([(b.atom1.index, b.atom2.index) for b in topology.bonds()])
    return np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)


@pytest.mark.parametrize("name", ["two ligands", "waters", "a part", "everything"])
def test_written_trajectory_has_whole_molecules(pair, name, tmp_path):
    topology, system, positions, _ = pair
    edge = topology.getPeriodicBoxVectors()[0][0]._value
    # The molecules of the region lie across the edges of the box.
    moved = positions - positions[-1] + 0.05
    if name == "everything":
        info = {"topology": topology, "system": MLPotential("mace").createSystem(topology)}
    else:
        info = mix(topology, system, regions(pair, name), precision="single")
        moved = with_link_atoms(moved, info["system"])._value
    simulation = app.Simulation(
        info["topology"],
        info["system"],
        openmm.VerletIntegrator(1e-6),
        openmm.Platform.getPlatform("Reference"),
    )
    simulation.context.setPositions(moved)
    path = tmp_path / "trajectory.pdb"
    simulation.reporters.append(app.PDBReporter(str(path), 1, enforcePeriodicBox=True))
    simulation.step(1)
    simulation.reporters.clear()
    written = app.PDBFile(str(path)).getPositions(asNumpy=True)._value
    assert written.min() > -0.6 and np.ptp(moved) > edge
    assert bond_lengths(info["topology"], written).max() < 0.18


@pytest.mark.parametrize("name", ["two ligands", "a part", "everything"])
def test_barostat_moves_molecules_as_they_are(pair, name):
    topology, system, positions, _ = pair
    if name == "everything":
        made, extended = MLPotential("mace").createSystem(topology), topology
    else:
        info = mix(topology, system, regions(pair, name), interpolate=name == "a part")
        made, extended = info["system"], info["topology"]
        positions = with_link_atoms(positions, made)._value
    barostat = openmm.MonteCarloBarostat(1.0, 20000.0, 1)
    barostat.setRandomNumberSeed(3)
    made.addForce(barostat)
    # Steps too short to move anything: what changes is the work of the barostat.
    integrator = openmm.VerletIntegrator(1e-9)
    context = context_of(made, positions, integrator=integrator)
    context.applyConstraints(1e-6)
    positions = context.getState(positions=True).getPositions(asNumpy=True)._value
    before = bond_lengths(extended, positions)
    volumes = set()
    for _ in range(12):
        integrator.step(1)
        state = context.getState(positions=True)
        volumes.add(round(state.getPeriodicBoxVolume()._value, 9))
        now = state.getPositions(asNumpy=True)._value
        np.testing.assert_allclose(bond_lengths(extended, now), before, rtol=0, atol=2e-6)
    assert len(volumes) > 3
    assert np.abs(now - positions).max() > 1e-3


def without_bonds(topology, residue_name):
    """The topology with the bonds of one residue missing, as from a PDB file without CONECT."""
    bare = copy.deepcopy(topology)
    bare._bonds = [b for b in bare.bonds() if b.atom1.residue.name != residue_name]
    return bare


def test_bonds_that_the_topology_lacks(pair, caplog):
    topology, system, _, (ethanol, butanol) = pair
    bare = without_bonds(topology, "LIG")
    mixed = mix(bare, system, [*ethanol, *butanol])["system"]
    assert found_molecules(mixed) == molecules_of(topology)
    assert "no bonds" not in caplog.text
    # Nothing knows the bonds of a system without a force field.
    bare_ml = MLPotential("mace").createSystem(bare)
    assert f"no bonds for {len(ethanol) + len(butanol)} atoms" in caplog.text
    assert [ethanol[0]] in found_molecules(bare_ml)
    caplog.clear()
    bare.setPeriodicBoxVectors(None)
    MLPotential("mace").createSystem(bare)
    assert "no bonds" not in caplog.text


def test_bonds_without_energy_hold_nothing(pair):
    """They do not pass for bond terms where constraints are removed."""
    topology, system, _, _ = pair
    once = mix(topology, system, [0, 1, 2], removeConstraints=False)["system"]
    with pytest.raises(InputError, match="flexibleConstraints"):
        mix(topology, once, [0, 1, 2], interpolate=True)


def test_constraints_that_go(pair):
    topology, system, positions, (ethanol, _) = pair
    held = copy.deepcopy(system)
    bare = without_bonds(topology, "LIG")
    length = np.linalg.norm(positions[ethanol[0]] - positions[ethanol[1]])
    for force in held.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            pairs = [force.getBondParameters(i)[:2] for i in range(force.getNumBonds())]
    for first, second in pairs:
        if first in ethanol:
            held.addConstraint(first, second, length * unit.nanometer)
    mixed = mix(bare, held, ethanol)["system"]
    assert mixed.getNumConstraints() == system.getNumConstraints()
    assert found_molecules(mixed) == molecules_of(topology)
