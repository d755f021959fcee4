"""Published-style models evaluate to what mace-torch computes with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mace_mm.archive.import_mace import import_mace
from mace_mm.elements import species_index
from mace_mm.errors import UnsupportedModelError
from mace_mm.graph.graph import Graph
from mace_mm.graph.neighbors import neighbor_list

MODELS = [
    "off_L0",
    "off_L1",
    "off_L2",
    "off_L0_float32",
    "zbl_agnesi_L1",
    "two_body_layers3",
    "plain_mace",
]


def graph_of(structure: dict, potential, dtype: torch.dtype) -> Graph:
    config = potential.network.config
    positions = np.array(structure["positions"])
    cell = structure.get("cell")
    periodic = cell is not None and np.any(cell)
    box = np.array(cell) if periodic else np.zeros((3, 3))
    senders, receivers, shifts = neighbor_list(positions, config.r_max, box if periodic else None)
    species = species_index(structure["numbers"], config.atomic_numbers)
    return Graph(
        species=torch.tensor(species),
        positions=torch.tensor(positions, dtype=dtype),
        senders=torch.as_tensor(senders),
        receivers=torch.as_tensor(receivers),
        cell_shifts=torch.as_tensor(shifts).to(dtype),
        cell=torch.tensor(box, dtype=dtype).unsqueeze(0),
        graph_index=torch.zeros(len(species), dtype=torch.int64),
    )


@pytest.fixture(params=MODELS)
def reference(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """Folder and name of a model; two of them lie beside the tests."""
    bundled = Path(__file__).parents[1] / "reference"
    if (bundled / f"{request.param}.model").exists():
        return bundled, request.param
    return request.getfixturevalue("shared_dir") / "reference", request.param


def test_import_reproduces_reference(reference: tuple[Path, str]) -> None:
    folder, name = reference
    structures = json.loads((folder / "structures.json").read_text())
    expected = json.loads((folder / f"{name}.json").read_text())
    potential = import_mace(folder / f"{name}.model")
    single = import_mace(folder / f"{name}.model").float()
    e0 = potential.atomic_energies.values[0].numpy()
    for key, want in expected.items():
        graph = graph_of(structures[key], potential, torch.float64)
        got = potential(graph)
        n_atoms = len(structures[key]["numbers"])
        assert abs(got.energy.item() - want["energy"]) < 1e-9 * n_atoms, key
        base = e0[graph.species.numpy()]
        node = got.node_energies.detach().numpy() - base
        np.testing.assert_allclose(node, np.array(want["node_energy"]) - base, atol=1e-9)
        np.testing.assert_allclose(got.forces.numpy(), want["forces"], atol=1e-8, rtol=0)
        if "stress" in want:
            np.testing.assert_allclose(got.stress[0].numpy(), want["stress"], atol=1e-9, rtol=0)
        if "interaction_energy" in want:
            error = got.interaction_energy.item() - want["interaction_energy"]
            assert abs(error) < 1e-9 * n_atoms
        low = single(graph_of(structures[key], potential, torch.float32))
        assert abs(low.energy.item() - got.energy.item()) < 2e-5, key
        np.testing.assert_allclose(low.forces.numpy(), got.forces.numpy(), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gate_tanh", "a gate other than silu"),
        ("gate_none", "a readout without a gate"),
        ("readout_bias", "readout block NonLinearBiasReadoutBlock"),
    ],
)
def test_readouts_that_would_give_wrong_energies_are_refused(shared_dir, name, words):
    path = shared_dir / "reference" / "families" / f"{name}.model"
    if not path.is_file():
        pytest.skip(f"no {path.name} here")
    with pytest.raises(UnsupportedModelError, match=words):
        import_mace(path)
