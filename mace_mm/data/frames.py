"""Frame sources made of other sources or of a list in memory."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mace_mm.data.labels import (
    ConformerSet,
    FrameSource,
    LabeledMolecule,
    MoleculeTable,
)
from mace_mm.errors import DataError


class MemoryFrames:
    """Frames held in a list. Frames with the same name, SMILES and formula are one molecule.

    Args:
        frames: the frames, in the order they keep.
    """

    def __init__(self, frames: Sequence[LabeledMolecule]) -> None:
        self._frames = list(frames)
        table = MoleculeTable()
        self.entry_of_frame = np.array([table.add(frame) for frame in self._frames], dtype=np.int64)
        self.entries = table.entries

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> LabeledMolecule:
        return self._frames[index]


class ConcatFrames:
    """Several sources one after the other, each with its own molecules.

    Args:
        sources: at least one source.

    Attributes:
        problems, unlabelled, empty: what the sources list under these names.
    """

    def __init__(self, sources: Sequence[FrameSource]) -> None:
        if not sources:
            raise DataError("a dataset needs at least one source of frames, got none")
        self.sources = list(sources)
        self.entries = [entry for source in self.sources for entry in source.entries]
        starts = np.cumsum([0] + [len(source.entries) for source in self.sources])
        self.entry_of_frame = np.concatenate(
            [source.entry_of_frame + starts[i] for i, source in enumerate(self.sources)]
        ).astype(np.int64)
        self._ends = np.cumsum([len(source) for source in self.sources])
        self.problems = self._listed("problems")
        self.unlabelled = self._listed("unlabelled")
        self.empty = self._listed("empty")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> LabeledMolecule:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        which = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[which]) - len(self.sources[which])
        return self.sources[which][index - first]

    def _listed(self, what: str) -> list[str]:
        return [line for source in self.sources for line in getattr(source, what, [])]


class SubsetFrames:
    """Some frames of a source, for example one side of a split.

    Molecules without a frame in the subset are left out of `entries`.

    Args:
        source: where the frames are.
        indices: frame numbers in `source`, in the order wanted.
    """

    def __init__(self, source: FrameSource, indices: Sequence[int] | np.ndarray) -> None:
        self.source = source
        self.indices = np.asarray(indices, dtype=np.int64)
        if self.indices.size and not (self.indices.min() >= 0 and self.indices.max() < len(source)):
            raise DataError(
                f"frame numbers must lie in 0..{len(source) - 1}, got "
                f"{self.indices.min()}..{self.indices.max()}"
            )
        used, self.entry_of_frame = np.unique(
            source.entry_of_frame[self.indices], return_inverse=True
        )
        self.entries = [source.entries[i] for i in used]

    def __len__(self) -> int:
        return int(self.indices.size)

    def __getitem__(self, index: int) -> LabeledMolecule:
        return self.source[int(self.indices[index])]


def conformer_sets(source: FrameSource) -> Iterator[ConformerSet]:
    """Gather the frames of each molecule, for a file in SPICE's layout.

    Frames of one molecule with another order of the atoms or another charge become a set of their
    own, named "NAME (2)" and so on; a slash in a name becomes a minus.

    Raises:
        DataError: a frame with a cell (the layout has none), or a molecule where only some frames
            have energies or forces.
    """
    names: Counter[str] = Counter()
    for number, entry in enumerate(source.entries):
        groups: dict[tuple[bytes, float], list[LabeledMolecule]] = {}
        for index in np.flatnonzero(source.entry_of_frame == number):
            frame = source[int(index)]
            if frame.molecule.cell is not None:
                raise DataError(f"{entry.name}: SPICE's layout holds no periodic frames")
            key = (frame.molecule.atomic_numbers.tobytes(), frame.molecule.total_charge)
            groups.setdefault(key, []).append(frame)
        for frames in groups.values():
            name = entry.name.replace("/", "-")
            names[name] += 1
            suffix = f" ({names[name]})" if names[name] > 1 else ""
            yield _conformer_set(name + suffix, frames)


def _conformer_set(name: str, frames: list[LabeledMolecule]) -> ConformerSet:
    first = frames[0]
    labels: dict[str, np.ndarray | None] = {}
    for label, values in (
        ("energies", [frame.energy for frame in frames]),
        ("forces", [frame.forces for frame in frames]),
    ):
        present = [value for value in values if value is not None]
        if present and len(present) < len(frames):
            raise DataError(f"{name}: {len(present)} of {len(frames)} frames have {label}")
        labels[label] = np.array(present) if present else None
    return ConformerSet(
        name=name,
        atomic_numbers=first.molecule.atomic_numbers,
        positions=np.array([frame.molecule.positions for frame in frames]),
        total_charge=first.molecule.total_charge,
        smiles=first.smiles,
        subset=first.subset,
        level_of_theory=first.level_of_theory,
        head=first.head,
        energies=labels["energies"],
        forces=labels["forces"],
    )
