"""Batches: what goes in comes out, whatever the order, the workers and the restart."""

import numpy as np
import pytest
import torch

from mace_mm.data.dataset import BucketSampler, GraphDataset, collate_batches, make_loader
from mace_mm.data.frames import ConcatFrames, MemoryFrames, SubsetFrames
from mace_mm.data.labels import LabeledMolecule, frame_sizes
from mace_mm.errors import ConfigError, DataError, ElementError
from mace_mm.graph.batching import build_graph, collate
from mace_mm.graph.graph import edge_vectors
from mace_mm.graph.molecule import Molecule

ELEMENTS = (1, 6, 8)


def frames(n_molecules=7, n_conformers=5, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for m in range(n_molecules):
        numbers = rng.choice(ELEMENTS, 3 + 2 * m)
        for c in range(n_conformers):
            molecule = Molecule(
                atomic_numbers=numbers,
                positions=rng.normal(size=(numbers.size, 3)) * 3,
                total_charge=m % 2,
                cell=np.eye(3) * 6 + rng.random((3, 3)) if m == 2 else None,
            )
            labelled = c > 0
            made.append(
                LabeledMolecule(
                    molecule=molecule,
                    energy=-100.0 * m - c if labelled else None,
                    forces=rng.normal(size=(numbers.size, 3)) if labelled or m else None,
                    stress=np.eye(3) * c if m == 2 else None,
                    name=f"m{m}",
                    head="other" if m == 1 else "default",
                )
            )
    return made


def dataset(source, dtype=torch.float64):
    return GraphDataset(
        source, elements=ELEMENTS, cutoff=4.0, heads=("default", "other"), dtype=dtype
    )


def test_a_batch_holds_its_structures_side_by_side():
    made = frames()
    graphs = [build_graph(f.molecule, ELEMENTS, 4.0) for f in made]
    batch = collate(graphs)
    vectors = edge_vectors(batch)
    expected = torch.cat([edge_vectors(g) for g in graphs])
    torch.testing.assert_close(vectors, expected)
    assert vectors.norm(dim=1).max() < 4.0
    assert batch.graph_index.bincount().tolist() == [f.molecule.n_atoms for f in made]
    # Every edge stays inside its own structure.
    assert torch.equal(batch.graph_index[batch.senders], batch.graph_index[batch.receivers])
    elements = torch.tensor(ELEMENTS)[batch.species]
    assert elements.tolist() == np.concatenate([f.molecule.atomic_numbers for f in made]).tolist()


def test_missing_labels_are_masked_and_nan():
    made = frames()
    batch = collate_batches([dataset(MemoryFrames(made))[i] for i in range(len(made))])
    for i, frame in enumerate(made):
        atoms = batch.graph.graph_index == i
        assert bool(batch.energy_mask[i]) == (frame.energy is not None)
        assert bool(batch.forces_mask[i]) == (frame.forces is not None)
        assert bool(batch.stress_mask[i]) == (frame.stress is not None)
        assert batch.energy[i].item() == frame.energy or torch.isnan(batch.energy[i])
        if frame.forces is None:
            assert batch.forces[atoms].isnan().all()
        else:
            np.testing.assert_array_equal(batch.forces[atoms].numpy(), frame.forces)
        assert batch.head[i] == (1 if frame.name == "m1" else 0)
        assert batch.total_charge[i] == frame.molecule.total_charge
    assert batch.energy.dtype == torch.float64
    assert batch.molecule_index.tolist() == [i // 5 for i in range(35)]


def test_dtype_and_unknown_heads_and_elements():
    source = MemoryFrames(frames())
    item = dataset(source, torch.float32)[7]
    assert item.graph.positions.dtype == item.forces.dtype == torch.float32
    assert item.energy.dtype == torch.float64
    with pytest.raises(DataError, match="'other'"):
        GraphDataset(source, elements=ELEMENTS, cutoff=4.0)[5]
    with pytest.raises(ElementError, match="O"):
        GraphDataset(source, elements=(1, 6), cutoff=4.0)[34]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("per_molecule", [1, 3])
def test_an_epoch_visits_every_frame_once(shuffle, per_molecule):
    source = MemoryFrames(frames(20, 7))
    sampler = BucketSampler(
        frame_sizes(source),
        batch_size=6,
        molecules=source.entry_of_frame,
        frames_per_molecule=per_molecule,
        shuffle=shuffle,
    )
    seen = [i for batch in sampler for i in batch]
    assert sorted(seen) == list(range(140))
    assert all(len(batch) <= 6 for batch in sampler)
    if per_molecule == 3:
        # 7 conformers are groups of 3, 3 and 1, and a group is never cut.
        shared = [np.unique(source.entry_of_frame[b], return_counts=True)[1].max() for b in sampler]
        assert np.mean(np.array(shared) >= 3) > 0.8


def test_batches_are_shuffled_repeatable_and_resume():
    sizes = np.random.default_rng(1).integers(5, 60, 1000)
    sampler = BucketSampler(sizes, batch_size=8, pool_batches=16)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    sampler.set_epoch(1, start_batch=50)
    assert list(sampler) == second[50:] and len(sampler) == len(second) - 50
    again = BucketSampler(sizes, batch_size=8, pool_batches=16)
    assert list(again) == first
    # Buckets: the spread of sizes within a batch is far below that of random batches.
    spread = np.mean([np.ptp(sizes[b]) for b in first])
    assert spread < 0.25 * np.ptp(sizes)


def test_batches_of_all_sizes_and_frames_kept_apart():
    sizes = np.random.default_rng(1).integers(5, 60, 1000)
    apart = np.repeat([0, 2], [900, 100])
    batches = list(BucketSampler(sizes, batch_size=8, pool_batches=0, apart=apart))
    assert sorted(i for b in batches for i in b) == list(range(1000))
    assert all(len(np.unique(apart[b])) == 1 for b in batches)
    assert np.mean([np.ptp(sizes[b]) for b in batches if len(b) == 8]) > 0.6 * np.ptp(sizes)
    # Neither kind comes all at once.
    where = [k for k, b in enumerate(batches) if apart[b[0]]]
    assert np.ptp(where) > 0.5 * len(batches)


def test_max_atoms_bounds_every_batch():
    sizes = np.array([50, 3, 4, 5, 6, 7, 8, 9, 200])
    sampler = BucketSampler(sizes, batch_size=4, max_atoms=60)
    batches = list(sampler)
    assert sorted(i for b in batches for i in b) == list(range(9))
    assert all(sizes[b].sum() <= 60 or b == [8] for b in batches)


def test_sampler_refuses_what_it_cannot_do():
    sizes = np.ones(4)
    with pytest.raises(ConfigError, match="batch_size"):
        BucketSampler(sizes, batch_size=0)
    with pytest.raises(ConfigError, match="must not exceed"):
        BucketSampler(sizes, batch_size=2, frames_per_molecule=3, molecules=np.zeros(4))
    with pytest.raises(ConfigError, match="needs molecules"):
        BucketSampler(sizes, batch_size=4, frames_per_molecule=3)


def test_workers_give_the_same_batches():
    source = MemoryFrames(frames())
    sampler = BucketSampler(frame_sizes(source), batch_size=4)
    alone = list(make_loader(dataset(source), sampler))
    shared = list(make_loader(dataset(source), sampler, n_workers=2))
    assert len(alone) == len(shared) == 9
    for one, two in zip(alone, shared, strict=True):
        for a, b in zip((*one.graph, *one[1:]), (*two.graph, *two[1:]), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_sources_combine():
    made = frames()
    source = ConcatFrames([MemoryFrames(made[:10]), MemoryFrames(made[10:])])
    assert [source[i].name for i in range(35)] == [f.name for f in made]
    assert source.entry_of_frame.tolist() == [i // 5 for i in range(35)]
    part = SubsetFrames(source, [34, 3, 4])
    assert [part[i].name for i in range(3)] == ["m6", "m0", "m0"]
    assert [part.entries[i].name for i in part.entry_of_frame] == ["m6", "m0", "m0"]
    assert frame_sizes(part).tolist() == [15, 3, 3]
    with pytest.raises(DataError, match="0..34"):
        SubsetFrames(source, [35])
    with pytest.raises(IndexError):
        source[35]
