"""Statistics recover what the data were made from."""

import numpy as np
import pytest

from mace_mm.data.frames import MemoryFrames
from mace_mm.data.labels import LabeledMolecule
from mace_mm.data.statistics import compute_statistics, fit_atomic_energies
from mace_mm.errors import DataError
from mace_mm.graph.molecule import Molecule

TRUE = {1: -13.5, 6: -1030.0, 8: -2043.0}


def source(n=60, noise=0.0, head="default", factor=1.0):
    rng = np.random.default_rng(3)
    made = []
    for i in range(n):
        numbers = np.sort(rng.choice([1, 6, 8], rng.integers(2, 9)))
        made.append(
            LabeledMolecule(
                molecule=Molecule(
                    atomic_numbers=numbers, positions=rng.normal(size=(numbers.size, 3)) * 2
                ),
                energy=factor * sum(TRUE[int(z)] for z in numbers)
                + noise * rng.normal() * numbers.size
                - 5.0 * numbers.size,
                forces=rng.normal(size=(numbers.size, 3)) * 2.0,
                name=str(i),
                head=head,
            )
        )
    return made


def test_isolated_atoms_are_recovered_up_to_the_binding():
    found = compute_statistics(MemoryFrames(source(noise=1e-3)), cutoff=3.0)
    assert found.elements == (1, 6, 8)
    for z, energy in TRUE.items():
        assert found.atomic_energies["default"][z] == pytest.approx(energy - 5.0, abs=5e-3)
    assert found.interaction_energy_mean == pytest.approx(0.0, abs=1e-3)
    assert found.energies_fitted == {"default": True}


def test_given_energies_are_kept_and_leave_the_binding():
    found = compute_statistics(
        MemoryFrames(source()), cutoff=3.0, atomic_energies={"default": TRUE}
    )
    assert found.atomic_energies == {"default": TRUE}
    assert found.interaction_energy_mean == pytest.approx(-5.0)
    assert found.energies_fitted == {"default": False}
    with pytest.raises(DataError, match="lack O"):
        compute_statistics(
            MemoryFrames(source()), cutoff=3.0, atomic_energies={"default": {1: 0.0, 6: 0.0}}
        )


def test_every_head_has_its_own_energies():
    both = source() + source(head="b", factor=0.5)
    found = compute_statistics(MemoryFrames(both), cutoff=3.0)
    assert found.atomic_energies["b"][6] == pytest.approx(0.5 * TRUE[6] - 5.0)
    assert found.atomic_energies["default"][6] == pytest.approx(TRUE[6] - 5.0)


def test_neighbors_and_forces():
    # A square of side 1 within 1.2: two neighbors each; within 1.5 also the diagonal.
    square = Molecule(
        atomic_numbers=np.full(4, 6), positions=[[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    )
    frame = LabeledMolecule(
        molecule=square, energy=0.0, forces=np.tile([3.0, 0.0, 4.0], (4, 1)), name="square"
    )
    found = compute_statistics(MemoryFrames([frame]), cutoff=1.2)
    assert found.avg_num_neighbors == 2.0
    assert found.forces_rms == pytest.approx(5.0 / np.sqrt(3))
    assert compute_statistics(MemoryFrames([frame]), cutoff=1.5).avg_num_neighbors == 3.0


def test_a_sample_is_seeded():
    data = MemoryFrames(source())
    one = compute_statistics(data, cutoff=3.0, max_frames=20, seed=1)
    assert one == compute_statistics(data, cutoff=3.0, max_frames=20, seed=1)
    assert one != compute_statistics(data, cutoff=3.0, max_frames=20, seed=2)
    assert one.n_frames == 20


def test_an_underdetermined_fit_says_so(caplog):
    counts = np.tile([4.0, 1.0], (5, 1))
    energies = fit_atomic_energies(counts, np.full(5, -1100.0), (1, 6))
    assert 4 * energies[1] + energies[6] == pytest.approx(-1100.0)
    assert "1 of 2" in caplog.text
    with pytest.raises(DataError, match="at least one frame"):
        compute_statistics(MemoryFrames([]), cutoff=3.0)
