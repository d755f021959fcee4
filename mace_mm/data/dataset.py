"""From frames to batches of graphs with targets: streamed, bucketed, built in workers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mace_mm.data.labels import FrameSource
from mace_mm.errors import ConfigError, DataError
from mace_mm.graph.batching import build_graph, collate
from mace_mm.graph.graph import Graph


class Batch(NamedTuple):
    """A batch of graphs and what is known about them. A missing label is NaN and masked out.

    Attributes:
        graph: the structures.
        energy: (n_graphs,) float64 total energies, eV.
        energy_mask: (n_graphs,) bool, True where an energy exists.
        forces: (n_atoms, 3), eV/Å, in the positions' dtype.
        forces_mask: (n_graphs,) bool.
        stress: (n_graphs, 3, 3), eV/Å³, in the positions' dtype.
        stress_mask: (n_graphs,) bool.
        head: (n_graphs,) int64, index into the model's heads.
        molecule_index: (n_graphs,) int64, equal for conformers of one molecule.
        total_charge: (n_graphs,) in the positions' dtype, e.
    """

    graph: Graph
    energy: torch.Tensor
    energy_mask: torch.Tensor
    forces: torch.Tensor
    forces_mask: torch.Tensor
    stress: torch.Tensor
    stress_mask: torch.Tensor
    head: torch.Tensor
    molecule_index: torch.Tensor
    total_charge: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch on another device."""
        graph = Graph(*(t.to(device, non_blocking=non_blocking) for t in self.graph))
        rest = (t.to(device, non_blocking=non_blocking) for t in self[1:])
        return Batch(graph, *rest)

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory (called by DataLoader)."""
        graph = Graph(*(t.pin_memory() for t in self.graph))
        return Batch(graph, *(t.pin_memory() for t in self[1:]))


class GraphDataset(Dataset[Batch]):
    """One-structure batches by frame number; the neighbor list is built on access.

    Args:
        source: the frames.
        elements: the model's atomic numbers, sorted.
        cutoff: Å.
        heads: names of the model's heads, in its order.
        dtype: of positions, forces and stress; energies are float64.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        elements: Sequence[int],
        cutoff: float,
        heads: Sequence[str] = ("default",),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.source = source
        self.elements = tuple(int(z) for z in elements)
        self.cutoff = float(cutoff)
        self.heads = tuple(heads)
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Batch:
        frame = self.source[index]
        if frame.head not in self.heads:
            raise DataError(
                f"{frame.name}: its head is {frame.head!r}, the model has {', '.join(self.heads)}"
            )
        n_atoms = frame.molecule.n_atoms
        nan = float("nan")
        forces = np.full((n_atoms, 3), nan) if frame.forces is None else frame.forces
        stress = np.full((3, 3), nan) if frame.stress is None else frame.stress
        energy = nan if frame.energy is None else frame.energy
        return Batch(
            graph=build_graph(frame.molecule, self.elements, self.cutoff, self.dtype),
            energy=torch.tensor([energy], dtype=torch.float64),
            energy_mask=torch.tensor([frame.energy is not None]),
            forces=torch.as_tensor(forces).to(self.dtype),
            forces_mask=torch.tensor([frame.forces is not None]),
            stress=torch.as_tensor(stress).to(self.dtype).unsqueeze(0),
            stress_mask=torch.tensor([frame.stress is not None]),
            head=torch.tensor([self.heads.index(frame.head)]),
            molecule_index=torch.tensor([int(self.source.entry_of_frame[index])]),
            total_charge=torch.tensor([frame.molecule.total_charge], dtype=self.dtype),
        )


def collate_batches(items: Sequence[Batch]) -> Batch:
    """Join batches into one, in order."""
    graph = collate([item.graph for item in items])
    columns = zip(*(item[1:] for item in items), strict=True)
    return Batch(graph, *(torch.cat(column) for column in columns))


class BucketSampler(Sampler[list[int]]):
    """Batches of frames of similar size, shuffled anew each epoch from (seed, epoch) alone.

    Frames are shuffled, cut into pools of `pool_batches` batches, sorted by atom count within a
    pool and cut into batches, whose order is shuffled again: batches are near uniform in size,
    yet random. The same (seed, epoch) gives the same batches on any machine, so a run resumes in
    the middle of an epoch with `set_epoch(epoch, start_batch)`.

    Args:
        sizes: (n_frames,) atoms of each frame.
        batch_size: frames in a batch.
        max_atoms: close a batch early rather than exceed this many atoms; a frame larger than it
            stands alone. None: no bound.
        molecules: (n_frames,) molecule of each frame; needed with frames_per_molecule > 1.
        frames_per_molecule: keep this many frames of one molecule together in a batch (losses on
            energy differences need them); a molecule's remainder forms a smaller group.
        shuffle: False gives batches sorted by size, the same every epoch.
        drop_last: leave out batches with fewer than batch_size frames (only without max_atoms).
        pool_batches: see above; 0 does not sort, and batches mix frames of all sizes.
        apart: (n_frames,) integers; frames with different ones never share a batch.
        seed: of the shuffles.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        *,
        batch_size: int,
        max_atoms: int | None = None,
        molecules: np.ndarray | None = None,
        frames_per_molecule: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
        pool_batches: int = 64,
        apart: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        if batch_size < 1 or frames_per_molecule < 1:
            raise ConfigError(
                "batch_size and frames_per_molecule must be at least 1, got "
                f"{batch_size} and {frames_per_molecule}"
            )
        if frames_per_molecule > batch_size:
            raise ConfigError(
                f"frames_per_molecule ({frames_per_molecule}) must not exceed batch_size "
                f"({batch_size})"
            )
        if frames_per_molecule > 1 and molecules is None:
            raise ConfigError("frames_per_molecule > 1 needs molecules, got None")
        if drop_last and max_atoms is not None:
            raise ConfigError("drop_last and max_atoms exclude each other")
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.molecules = molecules
        self.batch_size = batch_size
        self.max_atoms = max_atoms
        self.frames_per_molecule = frames_per_molecule
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.pool_batches = pool_batches
        self.apart = np.zeros(self.sizes.size, dtype=np.int64) if apart is None else apart
        self.seed = seed
        self.epoch = 0
        self.start_batch = 0
        self._cached: tuple[int, list[list[int]]] | None = None

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch, and how many of its batches to pass over (after a restart)."""
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Batches left in this epoch, from `start_batch` on."""
        return max(0, len(self._batches()) - self.start_batch)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._batches()[self.start_batch :]

    def _batches(self) -> list[list[int]]:
        epoch = self.epoch if self.shuffle else 0
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._make(epoch))
        return self._cached[1]

    def _make(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        groups = self._groups(rng)
        sizes = np.array([self.sizes[group].sum() / len(group) for group in groups])
        order = rng.permutation(len(groups)) if self.shuffle else np.arange(len(groups))
        pool = self.pool_batches * self.batch_size // self.frames_per_molecule
        step = max(1, pool if self.shuffle and pool else len(groups))
        apart = np.array([self.apart[group[0]] for group in groups])
        batches: list[list[int]] = []
        for division in np.unique(apart):
            members = order[apart[order] == division]
            for start in range(0, len(members), step):
                chunk = members[start : start + step]
                if pool or not self.shuffle:
                    chunk = chunk[np.argsort(sizes[chunk], kind="stable")]
                batches.extend(self._cut([groups[i] for i in chunk]))
        if self.drop_last:
            batches = [b for b in batches if len(b) == self.batch_size]
        if self.shuffle:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def _groups(self, rng: np.random.Generator) -> list[np.ndarray]:
        frames = np.arange(self.sizes.size)
        if self.molecules is None or self.frames_per_molecule == 1:
            return [frames[i : i + 1] for i in frames]
        shuffled = rng.permutation(frames) if self.shuffle else frames
        shuffled = shuffled[np.argsort(self.molecules[shuffled], kind="stable")]
        cuts = np.flatnonzero(np.diff(self.molecules[shuffled])) + 1
        k = self.frames_per_molecule
        return [
            block[i : i + k] for block in np.split(shuffled, cuts) for i in range(0, len(block), k)
        ]

    def _cut(self, groups: list[np.ndarray]) -> list[list[int]]:
        batches: list[list[int]] = []
        current: list[int] = []
        atoms = 0
        for group in groups:
            more = int(self.sizes[group].sum())
            full = len(current) + len(group) > self.batch_size
            heavy = self.max_atoms is not None and atoms + more > self.max_atoms
            if current and (full or heavy):
                batches.append(current)
                current, atoms = [], 0
            current.extend(int(i) for i in group)
            atoms += more
        if current:
            batches.append(current)
        return batches


def make_loader(
    dataset: GraphDataset, sampler: BucketSampler, *, n_workers: int = 0, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Return a loader whose workers read frames and build neighbor lists.

    Args:
        dataset: frames as one-structure batches.
        sampler: which frames go together.
        n_workers: processes; 0 works in this one.
        pin_memory: page-locked batches, for a GPU.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate_batches,
        num_workers=n_workers,
        pin_memory=pin_memory,
        persistent_workers=n_workers > 0,
    )
