"""Neighbor lists: vesin's and the scripted skin list against a search over all images."""

import itertools

import numpy as np
import pytest
import torch

from mace_mm.errors import ConfigError, GeometryError, InputError
from mace_mm.graph.cell_list import full_neighbor_list
from mace_mm.graph.neighbors import neighbor_list
from mace_mm.graph.verlet import VerletList

pytestmark = pytest.mark.plain

TRICLINIC = np.array([[7.0, 0.0, 0.0], [2.1, 6.5, 0.0], [-1.4, 2.2, 8.0]])
CASES = {
    "vacuum": (12, None, (False, False, False), 9.0),
    "one atom": (1, None, (False, False, False), 9.0),
    "one atom, periodic": (1, np.eye(3) * 3.0, (True, True, True), 3.0),
    "large box": (40, np.eye(3) * 13.0, (True, True, True), 13.0),
    "smaller than the cutoff": (5, np.eye(3) * 3.1, (True, True, True), 3.1),
    "triclinic": (25, TRICLINIC, (True, True, True), 9.0),
    "far outside its box": (10, TRICLINIC, (True, True, True), 60.0),
    "slab": (15, np.diag([5.0, 6.0, 0.0]), (True, True, False), 7.0),
    "rod": (15, np.array([[0.0] * 3, [1.0, 4.0, 0.3], [0.0] * 3]), (False, True, False), 7.0),
    "open axis with a vector": (15, TRICLINIC, (True, False, True), 9.0),
}
CUTOFF = 4.0


def case(name):
    n_atoms, cell, pbc, extent = CASES[name]
    rng = np.random.default_rng(len(name))
    return rng.random((n_atoms, 3)) * extent - 0.3 * extent, cell, pbc


def every_pair(positions, cell, pbc, cutoff):
    """All pairs by trying every translation that could matter."""
    cell = np.zeros((3, 3)) if cell is None else cell
    reach = [0, 0, 0]
    for k in range(3):
        if pbc[k]:
            others = [m for m in range(3) if m != k and cell[m].any()]
            normal = cell[k].copy()
            for m in np.linalg.qr(cell[others].T)[0].T if others else []:
                normal -= (normal @ m) * m
            height = np.linalg.norm(normal)
            reach[k] = int(np.ceil((cutoff + np.ptp(positions @ normal / height)) / height))
    found = []
    for shift in itertools.product(*(range(-r, r + 1) for r in reach)):
        vectors = positions[None, :] - positions[:, None] + np.array(shift) @ cell
        near = np.linalg.norm(vectors, axis=2) < cutoff
        if not any(shift):
            np.fill_diagonal(near, False)
        found += [(int(i), int(j), *map(int, shift)) for i, j in np.argwhere(near)]
    return sorted(found)


def as_pairs(senders, receivers, shifts):
    shifts = np.asarray(shifts).astype(int)
    rows = zip(np.asarray(senders), np.asarray(receivers), shifts, strict=True)
    return sorted((int(i), int(j), *map(int, s)) for i, j, s in rows)


def tensors(positions, cell, pbc, dtype=torch.float64):
    box = np.zeros((3, 3)) if cell is None else cell
    return (
        torch.tensor(positions, dtype=dtype),
        torch.tensor(box, dtype=dtype),
        torch.tensor(pbc if cell is not None else (False,) * 3),
    )


@pytest.mark.parametrize("name", CASES)
def test_vesin_list_holds_every_pair(name):
    positions, cell, pbc = case(name)
    found = neighbor_list(positions, CUTOFF, cell, pbc)
    assert as_pairs(*found) == every_pair(positions, cell, pbc, CUTOFF)
    assert (np.diff(found.receivers) >= 0).all()


@pytest.mark.parametrize("one_bin_pairs", [0, 2**18], ids=["many bins", "one bin"])
@pytest.mark.parametrize("name", CASES)
def test_cell_list_holds_every_pair(name, one_bin_pairs):
    positions, cell, pbc = case(name)
    found = full_neighbor_list(*tensors(positions, cell, pbc), CUTOFF, one_bin_pairs)
    assert as_pairs(*found) == every_pair(positions, cell, pbc, CUTOFF)


@pytest.mark.parametrize("name", CASES)
def test_skin_list_holds_every_pair(name):
    positions, cell, pbc = case(name)
    senders, receivers, shifts = VerletList(CUTOFF, skin=0.7)(*tensors(positions, cell, pbc))
    assert as_pairs(senders, receivers, shifts) == every_pair(positions, cell, pbc, CUTOFF)
    assert (receivers.diff() >= 0).all()


def test_compiled_skin_list_equals_the_eager_one():
    compiled = torch.jit.script(VerletList(CUTOFF))
    for name in CASES:
        positions, cell, pbc = case(name)
        expected = VerletList(CUTOFF)(*tensors(positions, cell, pbc))
        for got, want in zip(compiled(*tensors(positions, cell, pbc)), expected, strict=True):
            assert torch.equal(got, want), name


def test_list_is_rebuilt_only_when_an_atom_moved_more_than_half_the_skin():
    positions, cell, pbc = tensors(*case("triclinic"))
    finder = torch.jit.script(VerletList(CUTOFF, skin=1.0))
    finder(positions, cell, pbc)
    for step, builds in ((0.49, 1), (0.51, 2)):
        moved = positions.clone()
        moved[3, 1] += step
        finder(moved, cell, pbc)
        assert finder.n_builds == builds
    finder(moved, cell, pbc)
    assert finder.n_builds == 2


def test_random_walk_with_a_breathing_box_never_misses_a_pair():
    rng = np.random.default_rng(0)
    start, cell, pbc = case("triclinic")
    finder = torch.jit.script(VerletList(CUTOFF, skin=0.8))
    positions, box = start.copy(), cell.copy()
    for step in range(60):
        positions = positions + rng.normal(scale=0.03, size=positions.shape)
        if step % 5 == 4:
            scaling = np.eye(3) + rng.normal(scale=0.004, size=(3, 3))
            positions, box = positions @ scaling, box @ scaling
        found = finder(*tensors(positions, box, pbc))
        assert as_pairs(*found) == every_pair(positions, box, pbc, CUTOFF)
    assert 2 <= finder.n_builds <= 30


def test_order_of_the_list_does_not_depend_on_where_it_was_built():
    positions, cell, pbc = tensors(*case("triclinic"))
    elsewhere = VerletList(CUTOFF, skin=1.0)
    elsewhere(positions + 0.2 * torch.sin(torch.arange(75).view(25, 3)), cell, pbc)
    for got, want in zip(
        elsewhere(positions, cell, pbc), VerletList(CUTOFF)(positions, cell, pbc), strict=True
    ):
        assert torch.equal(got, want)
    assert elsewhere.n_builds == 1


def test_two_systems_may_share_one_list():
    finder = VerletList(CUTOFF)
    for name in ("triclinic", "vacuum", "large box") * 2:
        positions, cell, pbc = case(name)
        found = finder(*tensors(positions, cell, pbc))
        assert as_pairs(*found) == every_pair(positions, cell, pbc, CUTOFF)


def test_list_does_not_keep_a_view_of_the_positions():
    positions, cell, pbc = tensors(*case("triclinic"))
    finder = VerletList(CUTOFF)
    finder(positions, cell, pbc)
    positions += torch.linspace(0, 3, 25, dtype=torch.float64)[:, None]
    found = finder(positions, cell, pbc)
    assert as_pairs(*found) == every_pair(positions.numpy(), cell.numpy(), (True,) * 3, CUTOFF)


def test_ten_thousand_atoms_take_linear_memory():
    n_atoms, extent = 10_000, 46.0
    rng = np.random.default_rng(1)
    positions, cell = rng.random((n_atoms, 3)) * extent, np.eye(3) * extent
    want = neighbor_list(positions, 6.0, cell)
    device = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[device], profile_memory=True) as profile:
        got = VerletList(5.5, skin=0.5)(*tensors(positions, cell, (True,) * 3))
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 0.1 * 8 * n_atoms**2
    distances = np.linalg.norm(
        positions[want.receivers] - positions[want.senders] + want.cell_shifts @ cell, axis=1
    )
    assert len(got[0]) == (distances < 5.5).sum()


def test_bad_input_is_named():
    finder = torch.jit.script(VerletList(CUTOFF))
    positions, cell, pbc = case("triclinic")
    broken = positions.copy()
    broken[4, 1] = np.nan
    with pytest.raises(GeometryError, match="atom 4"):
        neighbor_list(broken, CUTOFF, cell, pbc)
    with pytest.raises(torch.jit.Error, match="atom 4"):
        finder(*tensors(broken, cell, pbc))
    finder(*tensors(positions, cell, pbc))
    with pytest.raises(torch.jit.Error, match="atom 4"):
        finder(*tensors(broken, cell, pbc))
    with pytest.raises(GeometryError, match="volume"):
        neighbor_list(positions, CUTOFF, np.ones((3, 3)), pbc)
    with pytest.raises(torch.jit.Error, match="volume"):
        finder(*tensors(positions, np.ones((3, 3)), pbc))
    with pytest.raises(torch.jit.Error, match="at least 0.5 Å thick, this one is 0.[34]"):
        finder(*tensors(positions, np.diag([9.0, 0.4, 9.0]), pbc))
    with pytest.raises(ConfigError, match="-1"):
        neighbor_list(positions, -1.0)
    with pytest.raises(InputError, match="shape"):
        neighbor_list(positions[:, :2], CUTOFF)
    together = positions.copy()
    together[7] = together[2] + cell[1]
    with pytest.raises(torch.jit.Error, match="atoms 2 and 7 coincide|atoms 7 and 2 coincide"):
        finder(*tensors(together, cell, pbc))
    with pytest.raises(GeometryError, match="too far apart"):
        full_neighbor_list(*tensors(positions * 1e9, None, pbc), CUTOFF, one_bin_pairs=0)
