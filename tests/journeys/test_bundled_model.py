"""The models that ship with the package: present, small, documented and safe to start from."""

import json

import numpy as np
import pytest

from mace_mm.archive.archive import Archive
from mace_mm.archive.open_model import open_model
from mace_mm.bundled_models import BUNDLED_MODELS, bundled_path, place_model
from mace_mm.elements import covalent_radius
from mace_mm.errors import ArchiveError
from mace_mm.evaluate.domain.limits import geometry_problems
from mace_mm.graph.batching import build_graph
from mace_mm.graph.molecule import Molecule

MAX_BYTES = 5_000_000


@pytest.fixture(scope="module", params=BUNDLED_MODELS)
def bundled(request: pytest.FixtureRequest) -> Archive:
    return open_model(request.param)


def energy(archive: Archive, numbers: list[int], positions: np.ndarray) -> float:
    molecule = Molecule(atomic_numbers=np.array(numbers), positions=positions)
    graph = build_graph(molecule, archive.config.atomic_numbers, archive.config.r_max)
    return float(archive.potential(graph).interaction_energy)


def test_file_is_small_and_its_card_tells_which_weights_it_describes(bundled: Archive) -> None:
    path = bundled_path(bundled.metadata.name)
    assert path.stat().st_size < MAX_BYTES
    card = path.with_suffix(".md").read_text()
    assert bundled.sha256 in card
    assert bundled.metadata.weights_licence == "MIT"
    measured = json.loads(path.with_suffix(".json").read_text())
    for subset in measured.values():
        if "force_mae_mev_per_A" in subset:
            assert str(subset["force_mae_mev_per_A"]) in card


def test_one_atom_has_the_energy_of_the_isolated_atom(bundled: Archive) -> None:
    for z in bundled.config.atomic_numbers:
        assert energy(bundled, [z], np.zeros((1, 3))) == pytest.approx(0.0, abs=1e-9)


def test_every_pair_of_elements_repels_at_short_distance(bundled: Archive) -> None:
    elements = bundled.config.atomic_numbers
    for i, a in enumerate(elements):
        for b in elements[: i + 1]:
            scale = covalent_radius(a) + covalent_radius(b)
            distances = np.array([0.2, 0.3, 0.4]) * scale
            energies = [
                energy(bundled, [a, b], np.array([[0, 0, 0], [0, 0, d]])) for d in distances
            ]
            assert energies[0] > energies[1] > energies[2], (a, b, energies)


def test_force_errors_on_foreign_labels_are_those_of_the_card(bundled, shared_dir) -> None:
    ase_io = pytest.importorskip("ase.io")
    path = shared_dir / "data" / "spice-labelled" / "water_test.xyz"
    differences = []
    for atoms in ase_io.read(path, ":"):
        molecule = Molecule(atomic_numbers=atoms.numbers, positions=atoms.positions)
        graph = build_graph(molecule, bundled.config.atomic_numbers, bundled.config.r_max)
        forces = bundled.potential(graph).forces.detach().numpy()
        differences.append(np.abs(forces - atoms.arrays["REF_forces"]).ravel())
    measured = json.loads(bundled_path(bundled.metadata.name).with_suffix(".json").read_text())[
        "water"
    ]
    mae = 1e3 * np.concatenate(differences).mean()
    assert mae == pytest.approx(measured["force_mae_mev_per_A"], abs=0.2)


def test_names_stand_for_bundled_models_and_files_go_first(tmp_path, monkeypatch) -> None:
    assert open_model().sha256 == open_model("small").sha256
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_bytes(b"a file of the user")
    with pytest.raises(ArchiveError, match="small"):
        open_model("small")
    with pytest.raises(
        ArchiveError, match=r"or one of \['small', 'medium'\], got 'large', which does not"
    ):
        open_model("large")


def test_a_setting_names_a_bundled_model_or_a_file_beside_it(tmp_path) -> None:
    assert place_model("small", tmp_path) == "small"
    assert place_model("own.pt", tmp_path) == str(tmp_path / "own.pt")
    (tmp_path / "small").touch()
    assert place_model("small", tmp_path) == str(tmp_path / "small")


def test_surroundings_unlike_the_training_set_are_warned_of(bundled: Archive) -> None:
    methane = np.vstack(
        [np.zeros(3), 0.63 * np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])]
    )
    numbers = [6, 1, 1, 1, 1]
    assert geometry_problems(bundled, numbers, methane) == []
    flat = methane * [1.0, 1.0, 0.0]
    flat[1:] *= 1.09 / np.linalg.norm(flat[1:], axis=1, keepdims=True)
    (problem,) = geometry_problems(bundled, numbers, flat)
    assert "surroundings unlike those of the training set at " in problem


def test_waters_packed_too_tightly_relax_instead_of_reacting(bundled: Archive) -> None:
    openmm = pytest.importorskip("openmm")
    from openmm import app, unit
    from openmmml import MLPotential

    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    # OpenMM leaves clashes at the faces of so small a box, oxygens 1.5 Å apart among them.
    modeller.addSolvent(app.ForceField("tip3p.xml"), numAdded=64)
    potential = MLPotential("mace", modelPath=bundled.metadata.name)
    system = potential.createSystem(modeller.topology)
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(modeller.positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=60)
    state = context.getState(positions=True)
    x = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom).reshape(64, 3, 3)
    lengths = np.diag(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
    bonds = np.linalg.norm(x[:, 1:] - x[:, :1], axis=-1)
    assert 0.9 < bonds.min() < bonds.max() < 1.1
    apart = x[:, None, 0] - x[None, :, 0]
    apart -= lengths * np.round(apart / lengths)
    assert np.linalg.norm(apart, axis=-1)[~np.eye(64, dtype=bool)].min() > 2.3
