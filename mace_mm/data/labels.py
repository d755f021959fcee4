"""Labelled structures on the host: one frame, and all frames of one molecule."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mace_mm.elements import symbol
from mace_mm.errors import DataError
from mace_mm.graph.molecule import Molecule


@dataclass(frozen=True, kw_only=True, eq=False)
class LabeledMolecule:
    """One structure with its quantum-chemistry labels, checked once on construction.

    A label that does not exist is None; it is never replaced by a number.

    Attributes:
        molecule: atoms and positions, Å.
        energy: total energy, eV.
        forces: (n_atoms, 3) float64, eV/Å.
        stress: (3, 3) float64, eV/Å³, symmetric; only with a cell.
        name: identity of the molecule within its file; frames that share it are conformers.
        smiles: mapped SMILES, "" where unknown.
        subset: origin of the frame, "" where unknown.
        level_of_theory: for example "wB97M-D3(BJ)/def2-TZVPPD", "" where unknown.
        head: the readout of the model that learns this frame.

    Raises:
        DataError: a label is not finite or has the wrong shape.
    """

    molecule: Molecule
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    name: str
    smiles: str = ""
    subset: str = ""
    level_of_theory: str = ""
    head: str = "default"

    def __post_init__(self) -> None:
        if self.energy is not None:
            energy = float(self.energy)
            if not np.isfinite(energy):
                raise DataError(f"{self.name}: the energy must be finite, got {energy}")
            object.__setattr__(self, "energy", energy)
        if self.forces is not None:
            shape = (self.molecule.n_atoms, 3)
            object.__setattr__(self, "forces", _label(self.forces, shape, "forces", self.name))
        if self.stress is not None:
            if self.molecule.cell is None:
                raise DataError(f"{self.name}: a stress needs a cell, got a molecule without one")
            object.__setattr__(self, "stress", _label(self.stress, (3, 3), "stress", self.name))


@dataclass(frozen=True, kw_only=True, eq=False)
class ConformerSet:
    """All frames of one molecule: what one group of a SPICE file holds.

    Attributes:
        name: the group's name.
        atomic_numbers: (n_atoms,) int64.
        positions: (n_frames, n_atoms, 3) float64, Å.
        energies: (n_frames,) float64 total energies, eV; None where not labelled.
        forces: (n_frames, n_atoms, 3) float64, eV/Å; None where not labelled.
        formation_energies: (n_frames,) float64, eV; total energy minus isolated atoms, or None.
        total_charge: in units of e.
        smiles: mapped SMILES, "" where unknown.
        subset: origin, "" where unknown.
        level_of_theory: "" where unknown.
        head: the readout of the model that learns these frames.
        attributes: more to store with the group (program versions, sampler, ...): name -> text
            or number.
        extra: more arrays, first dimension n_frames, with their unit ("" for none):
            name -> (array, unit).

    Raises:
        DataError: shapes that do not fit together. Values are checked frame by frame.
    """

    name: str
    atomic_numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray | None = None
    forces: np.ndarray | None = None
    formation_energies: np.ndarray | None = None
    total_charge: float = 0.0
    smiles: str = ""
    subset: str = ""
    level_of_theory: str = ""
    head: str = "default"
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    extra: dict[str, tuple[np.ndarray, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = np.asarray(self.atomic_numbers, dtype=np.int64)
        positions = np.asarray(self.positions, dtype=np.float64)
        if positions.ndim != 3 or positions.shape[1:] != (numbers.size, 3):
            raise DataError(
                f"{self.name}: positions must have shape (n_frames, {numbers.size}, 3), "
                f"got {positions.shape}"
            )
        object.__setattr__(self, "atomic_numbers", numbers)
        object.__setattr__(self, "positions", positions)
        n = positions.shape[0]
        shapes = {
            "energies": (n,),
            "forces": (n, numbers.size, 3),
            "formation_energies": (n,),
        }
        for key, shape in shapes.items():
            value = getattr(self, key)
            if value is None:
                continue
            array = np.asarray(value, dtype=np.float64)
            if array.shape != shape:
                raise DataError(f"{self.name}: {key} must have shape {shape}, got {array.shape}")
            object.__setattr__(self, key, array)
        for key, (array, _unit) in self.extra.items():
            if np.shape(array)[:1] != (n,):
                raise DataError(
                    f"{self.name}: {key} must have {n} rows, one a frame, got {np.shape(array)}"
                )

    @property
    def n_frames(self) -> int:
        return int(self.positions.shape[0])

    @property
    def n_atoms(self) -> int:
        return int(self.atomic_numbers.size)

    def frame(self, index: int) -> LabeledMolecule:
        """Return one frame; raises GeometryError or DataError if its values are not finite."""
        return LabeledMolecule(
            molecule=Molecule(
                atomic_numbers=self.atomic_numbers,
                positions=self.positions[index],
                total_charge=self.total_charge,
            ),
            energy=None if self.energies is None else float(self.energies[index]),
            forces=None if self.forces is None else self.forces[index],
            name=self.name,
            smiles=self.smiles,
            subset=self.subset,
            level_of_theory=self.level_of_theory,
            head=self.head,
        )

    def frames(self) -> Iterator[LabeledMolecule]:
        """Yield every frame in order."""
        for index in range(self.n_frames):
            yield self.frame(index)


@dataclass(frozen=True, kw_only=True, eq=False)
class MoleculeEntry:
    """What an index keeps of a molecule: enough to bucket and split without its frames.

    Attributes:
        name: identity within the file.
        atomic_numbers: (n_atoms,) int64.
        smiles: mapped SMILES, "" where unknown.
        subset: "" where unknown.
    """

    name: str
    atomic_numbers: np.ndarray
    smiles: str = ""
    subset: str = ""


class FrameSource(Protocol):
    """Frames by number, whatever file they come from; read on demand, picklable for workers.

    Attributes:
        entries: the molecules.
        entry_of_frame: (n_frames,) int64, position in `entries` of each frame.
    """

    @property
    def entries(self) -> Sequence[MoleculeEntry]: ...

    @property
    def entry_of_frame(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabeledMolecule: ...


def frame_sizes(source: FrameSource) -> np.ndarray:
    """(n_frames,) int64 number of atoms of each frame."""
    sizes = np.array([entry.atomic_numbers.size for entry in source.entries], dtype=np.int64)
    return sizes[source.entry_of_frame]


def elements_of(source: FrameSource) -> tuple[int, ...]:
    """Atomic numbers that occur in a source, ascending."""
    return tuple(sorted({int(z) for entry in source.entries for z in entry.atomic_numbers}))


def formula(atomic_numbers: np.ndarray) -> str:
    """Return the formula in Hill order (C, H, then alphabetic), for example "C2H6O"."""
    numbers, counts = np.unique(np.asarray(atomic_numbers), return_counts=True)
    parts = {symbol(int(z)): int(n) for z, n in zip(numbers, counts, strict=True)}
    first = [s for s in ("C", "H") if s in parts] if "C" in parts else []
    order = first + sorted(s for s in parts if s not in first)
    return "".join(s + (str(parts[s]) if parts[s] > 1 else "") for s in order)


def _label(value: np.ndarray, shape: tuple[int, ...], what: str, name: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise DataError(f"{name}: {what} must have shape {shape}, got {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=-1))
    if bad.size:
        raise DataError(
            f"{name}: {what} must be finite; row {bad[0]} is {array[bad[0]].tolist()} "
            f"({bad.size} such rows)"
        )
    return array


class MoleculeTable:
    """Groups frames into molecules: those with the same name, SMILES and formula are one.

    Attributes:
        entries: the molecules, in the order of their first frames.
    """

    def __init__(self) -> None:
        self.entries: list[MoleculeEntry] = []
        self._place: dict[tuple[str, str, str], int] = {}

    def add(self, frame: LabeledMolecule) -> int:
        """The position in `entries` of the frame's molecule, new or known."""
        numbers = frame.molecule.atomic_numbers
        key = (frame.name, frame.smiles, formula(numbers))
        if key not in self._place:
            self._place[key] = len(self.entries)
            self.entries.append(
                MoleculeEntry(
                    name=frame.name,
                    atomic_numbers=numbers,
                    smiles=frame.smiles,
                    subset=frame.subset,
                )
            )
        return self._place[key]
