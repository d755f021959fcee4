"""The compiled training path: equal to the plain one, with right second derivatives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mace_mm.errors import InputError
from mace_mm.graph.batching import build_graph, collate
from mace_mm.graph.graph import Graph
from mace_mm.graph.molecule import Molecule
from mace_mm.kernels.backends import INSTRUCTION_SETS, available_instruction_sets
from mace_mm.kernels.training_library import training_library
from mace_mm.kernels.training_ops import Edges, contract, convolve
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.training.fast.layer import make_plan
from mace_mm.training.fast.pairs import pair_graph
from mace_mm.training.fast.potential import FastPotential, fast_potential

ELEMENTS = (1, 6, 8)
BASE = MACEConfig(
    atomic_numbers=ELEMENTS,
    r_max=3.5,
    channels=16,
    l_max=2,
    hidden_l_max=1,
    radial_mlp=(8,),
    avg_num_neighbors=6.0,
)
NETWORKS = {
    "hidden 0": replace(BASE, hidden_l_max=0, l_max=3),
    "hidden 1": replace(BASE, l_max=3),
    "hidden 2": replace(BASE, hidden_l_max=2, correlation=(2, 3)),
    "residual, repulsion, agnesi": replace(
        BASE, residual_first=True, pair_repulsion=True, distance_transform="agnesi"
    ),
    "three layers, two heads": replace(
        BASE, l_max=1, correlation=(1, 2, 3), heads=("a", "b"), channels=32
    ),
    "one layer": replace(BASE, hidden_l_max=0, correlation=(3,)),
}


def make_batch(dtype: torch.dtype) -> Graph:
    """Three structures; one in a small triclinic cell, where atoms meet their own images."""
    rng = np.random.default_rng(3)
    cell = np.array([[3.1, 0, 0], [0.4, 3.3, 0], [0.2, -0.5, 4.0]])
    graphs = []
    for n_atoms, box in ((5, None), (3, cell), (6, None)):
        places = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)[:n_atoms] * 1.4
        molecule = Molecule(
            atomic_numbers=rng.choice(ELEMENTS[: 2 if box is None else 3], n_atoms),
            positions=places + rng.normal(scale=0.1, size=(n_atoms, 3)),
            cell=box,
        )
        graphs.append(build_graph(molecule, ELEMENTS, BASE.r_max, dtype))
    return collate(graphs)


def make_potential(config: MACEConfig, dtype: torch.dtype) -> Potential:
    torch.manual_seed(0)
    network = MACE(config)
    network.scale.fill_(0.7)
    network.shift.fill_(0.1)
    energies = torch.arange(len(config.heads) * 3, dtype=torch.float64).view(-1, 3)
    return Potential(network, energies).to(dtype)


def loss_and_gradients(predict, potential, graph, head):  # type: ignore[no-untyped-def]
    prediction = predict(graph, head)
    loss = (
        prediction.energy.square().mean()
        + prediction.forces.square().mean()
        + prediction.stress.square().mean()
    )
    gradients = torch.autograd.grad(
        loss, list(potential.parameters()), allow_unused=True, materialize_grads=True
    )
    return [value.detach() for value in (*prediction, *gradients)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)], ids=str
)
@pytest.mark.parametrize("layout", NETWORKS)
def test_equals_the_plain_path(layout: str, dtype: torch.dtype, tolerance: float) -> None:
    potential = make_potential(NETWORKS[layout], dtype)
    fast = fast_potential(potential)
    assert isinstance(fast, FastPotential)
    graph = make_batch(dtype)
    head = torch.tensor([0, 1, 1]) if len(NETWORKS[layout].heads) > 1 else None
    for training in (True, False):
        potential.train(training)
        if not training:
            for wanted, got in zip(potential(graph, head), fast(graph, head), strict=True):
                scale = max(1.0, float(wanted.abs().max()))
                torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale)
                assert not got.requires_grad
            continue
        wanted = loss_and_gradients(potential, potential, graph, head)
        got = loss_and_gradients(fast, potential, graph, head)
        for a, b in zip(wanted, got, strict=True):
            scale = max(1e-3, float(a.abs().max()))
            torch.testing.assert_close(b, a, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set(instruction_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if instruction_set not in available_instruction_sets():
        pytest.skip(f"this processor does not run {instruction_set}")
    monkeypatch.setenv("MACE_MM_INSTRUCTION_SET", instruction_set)
    library = training_library()
    assert library is not None
    assert library.instruction_set == instruction_set
    test_equals_the_plain_path("hidden 1", torch.float64, 1e-10)
    test_equals_the_plain_path("hidden 1", torch.float32, 2e-4)


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("layout", ["hidden 1", "hidden 2"])
def test_second_derivatives(layout: str) -> None:
    config = NETWORKS[layout]
    torch.manual_seed(1)
    plan = make_plan(MACE(config).layers[1], config.l_max, torch.float64)
    channels = 16
    edges = Edges(
        senders=torch.tensor([1, 2, 0, 0]),
        receivers=torch.tensor([0, 0, 1, 2]),
        pairs=torch.tensor([0, 1, 0, 1]),
        reversed=torch.tensor([1, 1, 0, 0], dtype=torch.uint8),
        n_atoms=3,
    )
    radial, mixing = leaf(2, len(plan.convolution.paths) * channels), leaf(2, plan.mixing.size(1))
    features = [leaf(3, 2 * degree + 1, channels) for degree in range(config.hidden_l_max + 1)]

    def convolved(radial: torch.Tensor, mixing: torch.Tensor, *features: torch.Tensor):  # type: ignore[no-untyped-def]
        return convolve(plan.convolution, edges, radial, mixing, list(features))

    inputs = (radial, mixing, *features)
    assert torch.autograd.gradcheck(convolved, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(convolved, inputs, fast_mode=True)

    species = torch.tensor([0, 1, 1])
    weights = leaf(2, len(plan.contraction.terms), channels)
    messages = [leaf(3, 2 * degree + 1, channels) for degree in range(config.l_max + 1)]

    def contracted(weights: torch.Tensor, *messages: torch.Tensor):  # type: ignore[no-untyped-def]
        return contract(plan.contraction, species, weights, list(messages))

    assert torch.autograd.gradcheck(contracted, (weights, *messages), fast_mode=True)
    assert torch.autograd.gradgradcheck(contracted, (weights, *messages), fast_mode=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"channels": 8}, "multiple of 16"), ({}, "not compiled")],
    ids=["channels", "not compiled"],
)
def test_falls_back_with_a_reason(
    change: dict, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not change:
        monkeypatch.setenv("MACE_MM_INSTRUCTION_SET", "reference")
    with caplog.at_level("INFO", logger="mace_mm"):
        assert fast_potential(make_potential(replace(BASE, **change), torch.float64)) is None
    assert reason in caplog.text


def test_a_graph_without_reverse_edges_is_refused() -> None:
    graph = make_batch(torch.float64)
    keep = torch.arange(len(graph.senders)) != 5
    broken = graph._replace(
        senders=graph.senders[keep],
        receivers=graph.receivers[keep],
        cell_shifts=graph.cell_shifts[keep],
    )
    with pytest.raises(InputError, match="both directions"):
        pair_graph(broken, 3)


def test_atoms_without_neighbors() -> None:
    molecule = Molecule(atomic_numbers=[1, 8], positions=np.array([[0.0, 0, 0], [9.0, 0, 0]]))
    potential = make_potential(BASE, torch.float64).train()
    fast = fast_potential(potential)
    assert fast is not None
    graph = build_graph(molecule, ELEMENTS, BASE.r_max)
    for wanted, got in zip(potential(graph), fast(graph), strict=True):
        torch.testing.assert_close(got, wanted)
