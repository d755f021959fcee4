"""Host-side description of one structure, checked once on construction."""

from dataclasses import dataclass

import numpy as np

from mace_mm.elements import MAX_ATOMIC_NUMBER
from mace_mm.errors import ElementError, GeometryError, InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Molecule:
    """Atoms in space.

    Attributes:
        atomic_numbers: (n_atoms,) int64.
        positions: (n_atoms, 3) float64, Å.
        total_charge: in units of e.
        cell: (3, 3) float64, lattice vectors as rows, Å; None for a molecule in vacuum.

    Raises:
        InputError: wrong shapes or no atoms.
        ElementError: an atomic number outside 1 to 118.
        GeometryError: positions or cell not finite, or a cell without volume.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    total_charge: float = 0.0
    cell: np.ndarray | None = None

    def __post_init__(self) -> None:
        numbers = np.asarray(self.atomic_numbers)
        positions = np.asarray(self.positions, dtype=np.float64)
        if numbers.ndim != 1 or numbers.size == 0:
            raise InputError(
                f"atomic_numbers must have shape (n_atoms,), n_atoms > 0; got shape {numbers.shape}"
            )
        if numbers.dtype.kind not in "iu":
            raise InputError(f"atomic_numbers must be integers, got dtype {numbers.dtype}")
        if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
            raise ElementError(
                f"atomic numbers lie between 1 and {MAX_ATOMIC_NUMBER}, "
                f"got {numbers.min()} to {numbers.max()}"
            )
        check_positions(positions, numbers.size)
        object.__setattr__(self, "atomic_numbers", numbers.astype(np.int64))
        object.__setattr__(self, "positions", positions)
        if self.cell is not None:
            object.__setattr__(self, "cell", check_cell(self.cell))

    @property
    def n_atoms(self) -> int:
        return int(self.atomic_numbers.size)


def check_positions(positions: np.ndarray, n_atoms: int) -> None:
    """Raise unless positions are finite and of shape (n_atoms, 3)."""
    if positions.shape != (n_atoms, 3):
        raise InputError(f"positions must have shape ({n_atoms}, 3), got {positions.shape}")
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if bad.size:
        raise GeometryError(
            f"positions must be finite; atom {bad[0]} is at {positions[bad[0]].tolist()}"
            f" ({bad.size} such atoms)"
        )


def check_cell(cell: np.ndarray) -> np.ndarray:
    """Return the cell as a (3, 3) float64 array in Å, or raise."""
    cell = np.asarray(cell, dtype=np.float64)
    if cell.shape != (3, 3):
        raise GeometryError(f"a cell is a (3, 3) array of row vectors in Å, got shape {cell.shape}")
    if not np.isfinite(cell).all():
        raise GeometryError(f"a cell must be finite, got {cell.tolist()}")
    if abs(np.linalg.det(cell)) < 1e-6:
        raise GeometryError(f"a cell must have a volume, got {cell.tolist()}")
    return cell
