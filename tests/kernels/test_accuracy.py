"""The evaluation form, in plain torch and in the compiled engine, against the network itself."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from mace_mm.archive.import_mace import import_mace
from mace_mm.elements import species_index
from mace_mm.errors import BackendError, ConfigError, ElementError
from mace_mm.evaluate.fold import Folded, fold
from mace_mm.kernels.backends import Context, available_instruction_sets, load_engine
from mace_mm.kernels.evaluation_form import unpack
from mace_mm.kernels.reference import Evaluated, evaluate
from mace_mm.model.potential import Prediction
from tests.support.engine_systems import (
    BASE,
    LAYOUTS,
    NO_CELL,
    SMALL,
    TRICLINIC,
    make_potential,
    network_prediction,
    structure,
)

pytestmark = pytest.mark.plain

ENGINES = ("reference", *available_instruction_sets())
# Relative to the largest force; single precision of random, untrained networks.
FORCES = {"single": 3e-5, "double": 1e-9}
ENERGY = {"single": 3e-6, "double": 1e-11}
SYSTEMS = {
    "cluster": (None, 20),
    "triclinic": (TRICLINIC, 24),
    "smaller than the cutoff": (SMALL, 4),
}


def run(engine: str, folded: Folded, positions, species, cell, threads: int = 1) -> Evaluated:
    if engine == "reference":
        return evaluate(folded.form, positions, species, cell)
    context = Context(load_engine(engine), folded.form)
    return context.evaluate(positions, species, cell, skin=0.5, threads=threads)


def assert_close(got: Evaluated, want: Prediction, precision: str, label: str = "") -> None:
    forces, energy = FORCES[precision], ENERGY[precision]
    largest = float(want.forces.abs().max())
    interaction = float(want.interaction_energy)
    error = float((got.forces - want.forces).abs().max())
    assert error <= forces * largest, f"{label}: forces off by {error / largest:.1e}"
    size = float(want.node_energies.abs().sum()) * 1e-15 + energy * max(abs(interaction), 1e-2)
    assert abs(float(got.energies[1]) - interaction) <= size, label
    assert float(got.energies[0]) == pytest.approx(float(want.energy), abs=size, rel=1e-15), label
    virial = float(want.virial.abs().max())
    assert float((got.virial - want.virial[0]).abs().max()) <= 3 * forces * virial, label
    assert float((got.node_energies - want.node_energies).abs().max()) <= 2 * size, label


def test_an_engine_is_compiled_here() -> None:
    assert "portable" in ENGINES, "the install has no compiled engine; see its log"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_engines_agree_with_the_network(layout: str) -> None:
    potential = make_potential(LAYOUTS[layout])
    folded = {precision: fold(potential, precision=precision) for precision in ("double", "single")}
    for name, (cell, n_atoms) in SYSTEMS.items():
        positions, species = structure(n_atoms, cell)
        box = NO_CELL if cell is None else cell
        want = network_prediction(potential, positions, species, box)
        for engine in ENGINES:
            for precision, form in folded.items():
                got = run(engine, form, positions, species, box)
                assert_close(got, want, precision, f"{engine}, {precision}, {name}")


@pytest.mark.parametrize(
    "name", ["off_L0", "off_L1", "off_L2", "two_body_layers3", "zbl_agnesi_L1", "plain_mace"]
)
def test_engine_reproduces_mace_torch(name: str, shared_dir: Path) -> None:
    folder = shared_dir / "reference"
    structures = json.loads((folder / "structures.json").read_text())
    expected = json.loads((folder / f"{name}.json").read_text())
    potential = import_mace(folder / f"{name}.model")
    if name == "zbl_agnesi_L1":  # a spline table for each pair of elements: keep few
        expected = {key: value for key, value in expected.items() if key.startswith("water")}
    elements = sorted({z for key in expected for z in structures[key]["numbers"]})
    folded = fold(potential, precision="double", elements=elements)
    for key, want in expected.items():
        positions = torch.tensor(structures[key]["positions"], dtype=torch.float64)
        species = torch.tensor(species_index(structures[key]["numbers"], folded.atomic_numbers))
        cell = torch.tensor(structures[key].get("cell") or [], dtype=torch.float64)
        got = run(ENGINES[-1], folded, positions, species, cell if cell.any() else NO_CELL)
        forces = torch.tensor(want["forces"], dtype=torch.float64)
        assert float(got.energies[0]) == pytest.approx(want["energy"], rel=1e-12), key
        assert torch.allclose(got.forces, forces, rtol=0, atol=1e-7), key
        if "stress" in want and cell.any():
            stress = -got.virial / float(torch.linalg.det(cell).abs())
            assert torch.allclose(
                stress, torch.tensor(want["stress"], dtype=torch.float64), rtol=0, atol=1e-9
            ), key


@pytest.mark.parametrize("engine", ENGINES)
def test_open_directions(engine: str) -> None:
    potential = make_potential(LAYOUTS["vectors"])
    folded = fold(potential, precision="double")
    positions, species = structure(12, TRICLINIC, seed=8)
    slab = TRICLINIC.clone()
    slab[1] = 0.0
    # The same slab with a third vector so long that images along it are out of reach.
    closed = slab.clone()
    closed[1] = torch.linalg.cross(slab[2], slab[0])
    closed[1] *= 60.0 / closed[1].norm()
    got = run(engine, folded, positions, species, slab)
    assert_close(got, network_prediction(potential, positions, species, closed), "double")
    wire = torch.zeros_like(slab)
    wire[2] = slab[2]
    closed = torch.linalg.svd(slab[2:])[2] * 80.0
    closed[0] = slab[2]
    got = run(engine, folded, positions, species, wire)
    assert_close(got, network_prediction(potential, positions, species, closed), "double")


@pytest.mark.parametrize("engine", ENGINES)
def test_elements_heads_and_tiny_systems(engine: str) -> None:
    config = dataclasses.replace(BASE, heads=("a", "b"), distance_transform="agnesi")
    potential = make_potential(config)
    folded = fold(potential, precision="double", elements=[8, 1], head="b")
    assert folded.atomic_numbers == (1, 8)
    for n_atoms in (1, 2, 70):
        positions, species = structure(n_atoms, None, n_species=2)
        got = run(engine, folded, positions, species, NO_CELL)
        kinds = torch.tensor([0, 2])[species]
        assert_close(got, network_prediction(potential, positions, kinds, NO_CELL, 1), "double")


def test_forms_that_cannot_be_made() -> None:
    potential = make_potential(BASE)
    with pytest.raises(BackendError, match="precision must be one of"):
        fold(potential, precision="half")
    with pytest.raises(ElementError, match="asked to keep"):
        fold(potential, elements=[1, 9])
    with pytest.raises(ConfigError, match="head must be one of"):
        fold(potential, head="pbe")
    with pytest.raises(BackendError, match="l_max"):
        fold(make_potential(dataclasses.replace(BASE, l_max=0)))


def test_stored_spline_errors_hold() -> None:
    folded = fold(make_potential(LAYOUTS["vectors"]))
    stored = unpack(folded.form)["spline_errors"]
    assert stored.shape == (2, 2)
    assert stored.tolist() == [[e.value, e.derivative] for e in folded.spline_errors]
    assert float(stored[:, 0].max()) <= 1e-7
    assert float(stored[:, 1].max()) <= 2e-6
