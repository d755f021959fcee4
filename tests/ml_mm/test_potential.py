"""``MLPotential('mace')``: its names, its arguments, its refusals, and mixed systems."""

import importlib.metadata
import logging
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential

from mace_mm.errors import (
    ArchiveError,
    BackendError,
    ConfigError,
    ElementError,
    InputError,
    UnsupportedModelError,
)
from mace_mm.ml_mm.plugin import MaceEmbeddingFactory, MacePotentialImplFactory
from mace_mm.openmm.force import backend_problem, copy_problem
from tests.support.openmm_systems import (
    METHANOL,
    TRICLINIC,
    assert_same,
    bent,
    context_of,
    evaluate,
    topology_of,
)

REFERENCE = Path(__file__).parents[1] / "reference"


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_ours_whatever_the_order_of_discovery():
    names = {e.name for e in importlib.metadata.entry_points(group="openmmml.embeddings")}
    if "mace-mm" not in names:
        pytest.skip("the package is not installed: no entry points")
    for order in ("", "[::-1]"):
        code = f"""
            import importlib.metadata as m
            every = m.entry_points
            m.entry_points = lambda **k: list(every(**k)){order}
            import openmmml, sys
            names = ["mace", "mace-mm", "mace-off23-small"]
            factories = [openmmml.MLPotential._implFactories[n] for n in names]
            print({{type(f).__module__ for f in factories}}, "torch" in sys.modules)
            """
        assert run(code) == "{'mace_mm.ml_mm.plugin'} False\n"


def test_our_modules_may_be_imported_before_openmmml():
    code = """
        import mace_mm.ml_mm.potential
        from openmmml import MLPotential
        print(type(MLPotential("mace")._impl).__name__)
        """
    names = {e.name for e in importlib.metadata.entry_points(group="openmmml.potentials")}
    if "mace-mm" not in names:
        pytest.skip("the package is not installed: no entry points")
    assert run(code) == "MacePotentialImpl\n"


def test_factory_registers_all_names_and_is_a_usable_embedding():
    factory = MaceEmbeddingFactory()
    for name in ("mace", "mace-mm", "mace-off23-small", "mace-off24-medium"):
        assert isinstance(MLPotential._implFactories[name], MacePotentialImplFactory)
    assert type(factory.createEmbedding("mace-mm")).__name__ == "MechanicalEmbedding"
    assert MLPotential("mace-mm")._impl.getMLLongRange() is False


def test_published_model_through_its_path():
    numbers, positions = METHANOL
    potential = MLPotential("mace", modelPath=REFERENCE / "off_L0_float32.model")
    system = potential.createSystem(topology_of(numbers), precision="double")
    assert evaluate(context_of(system, positions))[0] != 0.0


def test_published_names_find_the_users_files(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ArchiveError, match="MACE-OFF23_small.model"):
        MLPotential("mace-off23-small")
    cache = tmp_path / ".cache" / "mace"
    cache.mkdir(parents=True)
    shutil.copy(REFERENCE / "off_L0_float32.model", cache / "MACE-OFF23_small.model")
    with caplog.at_level(logging.WARNING):
        potential = MLPotential("mace-off23-small")
    assert "licence" in caplog.text
    numbers, positions = METHANOL
    want = MLPotential("mace", modelPath=REFERENCE / "off_L0_float32.model")
    contexts = [
        context_of(p.createSystem(topology_of(numbers)), positions) for p in (potential, want)
    ]
    assert_same(evaluate(contexts[0]), evaluate(contexts[1]), 1e-7)


def test_energy_types_differ_by_the_isolated_atoms():
    numbers, positions = METHANOL
    potential = MLPotential("mace")
    e0 = dict(
        zip(
            potential._impl._open().config.atomic_numbers,
            potential._impl._open().potential.atomic_energies.values[0].tolist(),
            strict=True,
        )
    )
    energies = [
        evaluate(context_of(potential.createSystem(topology_of(numbers), **kind), positions))[0]
        for kind in ({}, {"returnEnergyType": "energy"})
    ]
    assert abs(energies[1] - energies[0] - sum(e0[z] for z in numbers)) < 1e-6


GOOD = METHANOL[0]
BAD = {
    "unknown element": (GOOD[:-1] + [79], {}, ElementError, "C N O.*also holds Au"),
    "no elements": ([None] * 6, {}, ElementError, "none of the 6 atoms has one"),
    "empty topology": ([], {}, InputError, "empty topology"),
    "precision": (GOOD, {"precision": "half"}, BackendError, "'single' or 'double'.*'half'"),
    "backend": (GOOD, {"backend": "jax"}, BackendError, "torchforce.*'jax'"),
    "engine": (GOOD, {"engine": "steam"}, BackendError, "reference.*'steam'"),
    "device": (GOOD, {"device": "abacus"}, BackendError, "'cpu'.*'abacus'"),
    "missing GPU": (GOOD, {"device": "cuda:99"}, BackendError, "cuda:99.*sees"),
    "energy type": (GOOD, {"returnEnergyType": "free"}, ConfigError, "'energy'.*'free'"),
    "charge": (GOOD, {"charge": 7}, ConfigError, "charge=7"),
    "multiplicity": (GOOD, {"multiplicity": 3}, ConfigError, "closed shells.*3"),
    "typing error": (GOOD, {"precison": "double"}, ConfigError, "precison"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name):
    numbers, arguments, error, message = BAD[name]
    with pytest.raises(error, match=message):
        MLPotential("mace").createSystem(topology_of(numbers), **arguments)


BAD_ATOMS = {
    "empty": ([], InputError, "empty list"),
    "empty generator": ((i for i in ()), InputError, "empty list"),
    "twice": ([0, 1, 2, 1], InputError, r"more often: \[1\]"),
    "outside": ([0, 6], InputError, "between 0 and 5, got 6"),
    "negative": ([-1], InputError, "between 0 and 5, got -1"),
    "not numbers": (["C"], InputError, "iterable of integers"),
    "real": ([0.5], InputError, "iterable of integers"),
}


@pytest.mark.parametrize("name", BAD_ATOMS)
def test_bad_atom_lists_are_named(name):
    atoms, error, message = BAD_ATOMS[name]
    with pytest.raises(error, match=message):
        MLPotential("mace")._impl.addForces(topology_of(GOOD), openmm.System(), atoms, 0)


def test_atoms_without_an_element_are_named_when_asked_for():
    with pytest.raises(ElementError, match="atom 2 .A2 in residue MOL. has none"):
        MLPotential("mace")._impl.addForces(
            topology_of([8, 1, None]), openmm.System(), [0, 1, 2], 0
        )


def test_topology_and_system_must_match():
    system = openmm.System()
    system.addParticle(1.0)
    with pytest.raises(InputError, match="6 atoms and 1 particles"):
        MLPotential("mace")._impl.addForces(topology_of(GOOD), system, None, 0)


def test_force_that_cannot_be_copied_is_refused_where_it_would_be():
    """OpenMM-ML's interpolation passes an empty System and deep-copies its Forces."""
    if backend_problem("torchforce") is not None or copy_problem() is None:
        pytest.skip("this combination of OpenMM and openmmtorch copies, or there is no openmmtorch")
    with pytest.raises(BackendError, match="'torchforce' cannot be interpolated.*crashes"):
        MLPotential("mace")._impl.addForces(
            topology_of(GOOD), openmm.System(), None, 0, backend="torchforce"
        )


def test_bad_files_are_named(tmp_path):
    torn = tmp_path / "torn.model"
    torn.write_bytes((REFERENCE / "off_L0_float32.model").read_bytes()[:9000])
    text = tmp_path / "notes.txt"
    text.write_text("not a model")
    for path, message in (
        (tmp_path / "missing.pt", "does not exist"),
        (tmp_path, "folder"),
        (torn, "torn.model"),
        (text, "notes.txt"),
    ):
        with pytest.raises((ArchiveError, UnsupportedModelError), match=message):
            MLPotential("mace", modelPath=path).createSystem(topology_of(GOOD))
    with pytest.raises(ConfigError, match="modelPth"):
        MLPotential("mace", modelPth="x")
    with pytest.raises(ConfigError, match="modelPath"):
        MLPotential("mace-off23-small", modelPath="x")


def bonded_methanol(n_molecules: int, cell=None) -> app.Topology:
    topology = topology_of(METHANOL[0] * n_molecules, cell, per_residue=6)
    atoms = list(topology.atoms())
    for first in range(0, len(atoms), 6):
        for a, b in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 5)):
            topology.addBond(atoms[first + a], atoms[first + b])
    return topology


def classical(topology: app.Topology, periodic: bool) -> openmm.System:
    """Classical parameters that only have to be there: the model replaces them in its region."""
    system = openmm.System()
    bonds, nonbonded = openmm.HarmonicBondForce(), openmm.NonbondedForce()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
        nonbonded.addParticle(0.1 if atom.element.symbol == "H" else -0.2, 0.25, 0.3)
    for bond in topology.bonds():
        bonds.addBond(bond.atom1.index, bond.atom2.index, 0.12, 1000.0)
    if periodic:
        system.setDefaultPeriodicBoxVectors(*(np.eye(3) * 3.0))
        nonbonded.setNonbondedMethod(openmm.NonbondedForce.PME)
    system.addForce(bonds)
    system.addForce(nonbonded)
    return system


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("periodic", [False, True])
def test_mixed_system(periodic, interpolate):
    positions = np.vstack([bent(METHANOL[1]) + 6.0, bent(METHANOL[1], seed=8)])
    cell = np.eye(3) * 30.0 if periodic else None
    topology = bonded_methanol(2, cell)
    atoms = list(range(6, 12))
    mm = classical(topology, periodic)
    mixed = MLPotential("mace").createMixedSystem(
        topology, mm, atoms, interpolate=interpolate, precision="double"
    )
    context = context_of(mixed, positions)
    if interpolate:
        context.setParameter("lambda_interpolate", 0.0)
        assert_same(evaluate(context), evaluate(context_of(mm, positions)), 1e-6)
        context.setParameter("lambda_interpolate", 1.0)
        copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(mixed))
        assert_same(evaluate(context_of(copied, positions)), evaluate(context), 1e-6)
        return
    forces = [f for f in mixed.getForces() if f.getName() == "MACE"]
    assert len(forces) == 1 and forces[0].usesPeriodicBoundaryConditions() == periodic
    forces[0].setForceGroup(5)
    alone = MLPotential("mace").createSystem(topology_of(METHANOL[0], cell), precision="double")
    want = evaluate(context_of(alone, positions[6:]))
    got = evaluate(context_of(mixed, positions), groups=1 << 5)
    assert_same((got[0], got[1][6:]), want, 1e-9)
    assert np.abs(got[1][:6]).max() == 0.0


def test_link_atoms_are_part_of_the_model():
    """A cut bond is capped by a hydrogen on a virtual site, which the model sees as an atom."""
    positions = METHANOL[1]
    topology = bonded_methanol(1)
    mm = classical(topology, periodic=False)
    info = MLPotential("mace").createMixedSystem(
        topology,
        mm,
        (i for i in [1, 5]),
        returnInfo=True,
        precision="double",
        linkAtomDistances=[(0, 1, 0.096 * unit.nanometer)],
    )
    mixed = info["system"]
    assert mixed.getNumParticles() == 7 and mixed.isVirtualSite(6)
    next(f for f in mixed.getForces() if f.getName() == "MACE").setForceGroup(4)
    context = context_of(mixed, np.vstack([positions, [[0.0, 0.0, 0.0]]]))
    context.computeVirtualSites()
    placed = context.getState(positions=True).getPositions(asNumpy=True)._value * 10
    assert abs(np.linalg.norm(placed[6] - placed[1]) - 0.96) < 1e-6
    water = MLPotential("mace").createSystem(topology_of([8, 1, 1]), precision="double")
    want = evaluate(context_of(water, placed[[1, 5, 6]]))
    got = evaluate(context, groups=1 << 4)
    assert abs(got[0] - want[0]) < 1e-9
    # What acts on the cap is handed on to the two atoms that carry it.
    np.testing.assert_allclose(got[1][:6].sum(0), want[1].sum(0), atol=1e-9)


def test_mixed_box_vectors_reach_the_model():
    """The box of the context counts, not that of the topology."""
    numbers, positions = METHANOL
    system = MLPotential("mace").createSystem(
        topology_of(numbers, TRICLINIC), precision="double", returnEnergyType="energy"
    )
    context = context_of(system, positions)
    before = evaluate(context)[0]
    context.setPeriodicBoxVectors(*(np.eye(3) * 0.45))
    assert abs(evaluate(context)[0] - before) > 1e-3


def test_plain_torch_serves_where_it_is_asked_for(backend: str) -> None:
    """Also where no engine is compiled."""
    topology = topology_of(METHANOL[0])
    results = []
    for engine in ("auto", "reference"):
        potential = MLPotential("mace")
        system = potential.createSystem(topology, engine=engine, backend=backend)
        results.append(evaluate(context_of(system, bent(METHANOL[1]))))
    assert_same(results[1], results[0], 1e-4)
