"""Threads, contexts and the neighbor list: the same bits whatever runs them, and no stale pairs."""

import threading
import time

import pytest
import torch

from mace_mm.evaluate.fold import fold
from mace_mm.kernels.backends import Context, available_instruction_sets, load_engine
from tests.support.engine_systems import (
    LAYOUTS,
    NO_CELL,
    SMALL,
    TRICLINIC,
    make_potential,
    network_prediction,
    structure,
)

pytestmark = [
    pytest.mark.plain,
    pytest.mark.skipif(not available_instruction_sets(), reason="no compiled engine here"),
]


@pytest.fixture(scope="module")
def model():
    potential = make_potential(LAYOUTS["vectors"])
    return potential, fold(potential, precision="double").form


def context(form: torch.Tensor, instruction_set: str | None = None) -> Context:
    return Context(load_engine(instruction_set or available_instruction_sets()[0]), form)


@pytest.mark.parametrize("instruction_set", available_instruction_sets())
@pytest.mark.parametrize("n_atoms", [3, 40, 700])
def test_any_number_of_threads_gives_the_same_bits(n_atoms, instruction_set, model) -> None:
    positions, species = structure(n_atoms, None)
    one = context(model[1], instruction_set)
    want = one.evaluate(positions, species, NO_CELL, skin=0.5, threads=1)
    for threads in (2, 3, 8):
        many = context(model[1], instruction_set)
        for _ in range(5):
            got = many.evaluate(positions, species, NO_CELL, skin=0.5, threads=threads)
            for a, b in zip(got, want, strict=True):
                assert torch.equal(a, b)


def test_contexts_work_at_once(model) -> None:
    systems = [structure(30 + 7 * k, None, seed=k) for k in range(4)]
    wants = [context(model[1]).evaluate(*s, NO_CELL, skin=0.5, threads=1) for s in systems]
    wrong: list[int] = []

    def work(k: int) -> None:
        own = context(model[1])
        for _ in range(20):
            got = own.evaluate(*systems[k], NO_CELL, skin=0.5, threads=2)
            if not torch.equal(got.forces, wants[k].forces):
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_helpers_sleep_when_no_evaluation_follows(model) -> None:
    own = context(model[1])
    positions, species = structure(40, None)
    for _ in range(50):
        own.evaluate(positions, species, NO_CELL, skin=0.5, threads=3)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize("cell", [None, TRICLINIC, SMALL], ids=["open", "triclinic", "small"])
def test_list_is_reused_and_never_stale(cell, model) -> None:
    potential, form = model
    n_atoms = 4 if cell is SMALL else 24
    positions, species = structure(n_atoms, cell)
    box = NO_CELL if cell is None else cell.clone()
    own = context(form)
    generator = torch.Generator().manual_seed(5)
    n_steps = 60
    for step in range(n_steps):
        positions = positions + 0.02 * torch.randn(n_atoms, 3, generator=generator).double()
        if cell is not None:
            if step % 5 == 4:  # a barostat: box and positions scale together
                factor = 1 + 0.004 * float(torch.randn(1, generator=generator))
                box, positions = box * factor, positions * factor
            if step % 7 == 6:  # the caller moves an atom to another image
                positions[step % n_atoms] += box[step % 3]
        got = own.evaluate(positions, species, box, skin=1.0, threads=1)
        if step % 4 == 3:
            want = network_prediction(potential, positions, species, box)
            scale = float(want.forces.abs().max())
            assert float((got.forces - want.forces).abs().max()) < 1e-9 * scale, step
    assert 1 <= own.n_neighbor_builds < n_steps / 3


def test_a_pair_that_comes_into_reach_is_found(model) -> None:
    """Two atoms approach from outside the list by less than half the skin each step."""
    potential, form = model
    own = context(form)
    species = torch.tensor([0, 2])
    for gap in torch.arange(5.2, 2.0, -0.2).tolist():
        positions = torch.tensor([[0.0, 0.0, 0.0], [gap, 0.1, 0.2]], dtype=torch.float64)
        got = own.evaluate(positions, species, NO_CELL, skin=0.5, threads=1)
        want = network_prediction(potential, positions, species, NO_CELL)
        assert torch.allclose(got.forces, want.forces, rtol=1e-8, atol=1e-12), gap
    assert own.n_neighbor_builds < 15


def test_systems_may_alternate_in_one_context(model) -> None:
    own = context(model[1])
    first, second = structure(12, None), structure(31, TRICLINIC)
    boxes = (NO_CELL, TRICLINIC)
    wants = [
        context(model[1]).evaluate(*s, b, skin=0.5, threads=1)
        for s, b in zip((first, second), boxes, strict=True)
    ]
    for k in (0, 1, 1, 0, 1, 0, 0):
        got = own.evaluate(*(first, second)[k], boxes[k], skin=0.5, threads=1)
        assert torch.equal(got.forces, wants[k].forces)
        assert torch.equal(got.virial, wants[k].virial)


def test_no_atoms(model) -> None:
    empty = torch.zeros(0, 3, dtype=torch.float64)
    got = context(model[1]).evaluate(
        empty, torch.zeros(0, dtype=torch.int64), NO_CELL, skin=0.5, threads=2
    )
    assert float(got.energies.abs().sum()) == 0 and got.forces.shape == (0, 3)
