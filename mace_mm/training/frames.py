"""The frames of a run: files opened, split, weighted, and shared out among processes."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mace_mm.data.dataset import Batch, BucketSampler, GraphDataset, collate_batches
from mace_mm.data.formats.sources import open_source
from mace_mm.data.frames import ConcatFrames, SubsetFrames
from mace_mm.data.labels import FrameSource, frame_sizes
from mace_mm.data.split import split_by_molecule
from mace_mm.elements import atomic_number
from mace_mm.errors import DataError
from mace_mm.training.config import DataConfig, FilesConfig

_LOG = logging.getLogger(__name__)


class TrainBatch(NamedTuple):
    """A batch with the weight of every frame.

    Attributes:
        batch: graphs and labels.
        weight: (n_graphs,) float64 factor on the loss of each frame.
    """

    batch: Batch
    weight: torch.Tensor


class WeightedFrames(NamedTuple):
    """Frames and what each counts in the loss.

    Attributes:
        source: the frames.
        weights: (n_frames,) float64.
        apart: (n_frames,) int64; frames with different ones never share a batch.
        train_only: (n_frames,) bool; frames that are never set aside for validation.
    """

    source: FrameSource
    weights: np.ndarray
    apart: np.ndarray
    train_only: np.ndarray


def open_file(config: FilesConfig, seed: int) -> FrameSource:
    """Open one file of frames.

    Raises:
        DataError: missing or damaged, or no frame of the wanted subsets.
        ConfigError: a file type that is not known, or a label that it does not have.
    """
    path = Path(config.path)
    is_spice = path.suffix in (".h5", ".hdf5")
    keys: dict[str, object] = {"head": config.head}
    if is_spice:
        keys["skip_unlabelled"] = True
    names = ("energy", "gradient" if is_spice else "forces", "stress")
    for name, key in zip(
        names, (config.energy_key, config.forces_key, config.stress_key), strict=True
    ):
        if key is not None:
            keys[name] = key
    source = open_source(path, keys)
    chosen = np.arange(len(source))
    if config.subsets is not None:
        subset = np.array([entry.subset for entry in source.entries])[source.entry_of_frame]
        chosen = chosen[np.isin(subset, config.subsets)]
    if config.elements is not None:
        wanted = [atomic_number(name) for name in config.elements]
        known = np.array([np.isin(e.atomic_numbers, wanted).all() for e in source.entries])
        kept = chosen[known[source.entry_of_frame[chosen]]]
        if kept.size < chosen.size:
            _LOG.info(
                "%s: %d of %d frames hold elements that are not wanted and are left out",
                path,
                chosen.size - kept.size,
                chosen.size,
            )
        chosen = kept
    if config.max_frames is not None and config.max_frames < chosen.size:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, config.max_frames, False))
    if chosen.size == 0:
        raise DataError(f"{path}: no labelled frame of the wanted subsets and elements")
    chosen = np.repeat(chosen, config.repeat)
    return source if chosen.size == len(source) else SubsetFrames(source, chosen)


def gather(files: Sequence[FilesConfig], data: DataConfig, seed: int) -> WeightedFrames:
    """Open files and put them one after the other, with the weights of files and subsets."""
    sources, weights, apart, train_only = [], [], [], []
    for number, config in enumerate(files, start=1):
        source = open_file(config, seed)
        factors = np.array([data.subset_weights.get(e.subset, 1.0) for e in source.entries])
        sources.append(source)
        weights.append(config.weight * factors[source.entry_of_frame])
        apart.append(np.full(len(source), number * config.own_batches))
        train_only.append(np.full(len(source), config.train_only))
    columns = (np.concatenate(column) for column in (weights, apart, train_only))
    return WeightedFrames(ConcatFrames(sources), *columns)


def subset(frames: WeightedFrames, indices: np.ndarray) -> WeightedFrames:
    """Return some of the frames."""
    source = SubsetFrames(frames.source, indices)
    return WeightedFrames(source, *(column[indices] for column in frames[1:]))


def split(
    frames: WeightedFrames, fraction: float, by: str, seed: int
) -> tuple[WeightedFrames, WeightedFrames]:
    """Set about `fraction` of the frames aside, whole molecules at a time; (train, validation).

    Raises:
        DataError: too few molecules or frames to split.
    """
    eligible = np.flatnonzero(~frames.train_only)
    if eligible.size == 0:
        raise DataError("all files are train_only: name data.validation files")
    if by == "frame":
        n_held = round(fraction * eligible.size)
        if not 0 < n_held < eligible.size:
            raise DataError(f"{eligible.size} frames are too few to set {fraction:.0%} aside")
        order = np.random.default_rng([seed, 17]).permutation(eligible.size)
        held = eligible[order[:n_held]]
    else:
        source = SubsetFrames(frames.source, eligible)
        fractions = {"train": 1.0 - fraction, "validation": fraction}
        made = split_by_molecule(source, fractions, by=by, seed=seed)
        held = eligible[np.isin(source.entry_of_frame, list(made.parts["validation"]))]
        if held.size in (0, eligible.size):
            raise DataError(
                f"the {eligible.size} training frames cannot be divided by {by}: choose "
                "data.split_by: frame, or name data.validation files"
            )
    kept = np.setdiff1d(np.arange(len(frames.source)), held)
    return subset(frames, kept), subset(frames, np.sort(held))


class WeightedDataset(Dataset[TrainBatch]):
    """One-structure batches by frame number; ~i is frame i without labels, to fill a gap.

    Graphs are kept for the next epoch, the first ones that fit into `keep_bytes`.
    """

    def __init__(
        self, graphs: GraphDataset, weights: np.ndarray, keep_bytes: int = 256 * 2**20
    ) -> None:
        self.graphs = graphs
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self._kept: dict[int, Batch] = {}
        self._room = keep_bytes

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, index: int) -> TrainBatch:
        if index >= 0:
            return TrainBatch(self._batch(index), self.weights[index : index + 1])
        batch = self._batch(~index)
        no = torch.zeros(1, dtype=torch.bool)
        batch = batch._replace(energy_mask=no, forces_mask=no, stress_mask=no)
        return TrainBatch(batch, torch.zeros(1, dtype=torch.float64))

    def _batch(self, index: int) -> Batch:
        batch = self._kept.get(index)
        if batch is None:
            batch = self.graphs[index]
            size = sum(t.nbytes for t in (*batch.graph, *batch[1:]))
            if size <= self._room:
                self._room -= size
                self._kept[index] = batch
        return batch


class RankBatches(Sampler[list[int]]):
    """The share of one of `world` processes in every batch.

    Every process gets at least one frame, if need be one without labels, so that all take the
    same steps.
    """

    def __init__(self, batches: BucketSampler, rank: int, world: int) -> None:
        self.batches = batches
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[self.rank :: self.world] or [~batch[0]]


def collate_train(items: Sequence[TrainBatch]) -> TrainBatch:
    """Join items into one batch, in order."""
    return TrainBatch(
        collate_batches([item.batch for item in items]), torch.cat([i.weight for i in items])
    )


def make_train_loader(
    frames: WeightedFrames,
    data: DataConfig,
    *,
    elements: Sequence[int],
    cutoff: float,
    heads: Sequence[str],
    dtype: torch.dtype,
    seed: int,
    shuffle: bool,
    rank: int = 0,
    world: int = 1,
) -> tuple[DataLoader[TrainBatch], BucketSampler]:
    """Return the loader of one process and the sampler whose epoch is to be set."""
    graphs = GraphDataset(frames.source, elements=elements, cutoff=cutoff, heads=heads, dtype=dtype)
    sampler = BucketSampler(
        frame_sizes(frames.source),
        batch_size=data.batch_size,
        max_atoms=data.max_atoms,
        shuffle=shuffle,
        # Batches of one size only would make steps unlike each other; nothing is padded here.
        pool_batches=0,
        apart=frames.apart,
        seed=seed,
    )
    loader: DataLoader[TrainBatch] = DataLoader(
        WeightedDataset(graphs, frames.weights),
        batch_sampler=RankBatches(sampler, rank, world),
        collate_fn=collate_train,
        num_workers=data.n_workers,
        # Its own generator: starting an epoch must not move torch's, a resumed run starts more.
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=data.n_workers > 0,
    )
    return loader, sampler
