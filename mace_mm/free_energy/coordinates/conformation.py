"""Measure a ligand's soft coordinates, for one structure or at every iteration of a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule, make_whole
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate
from mace_mm.free_energy.sampling.restart import Restart

OBSERVER_NAME = "conformation"


@dataclass(frozen=True, kw_only=True)
class ConformationObserver:
    """Follows torsions, rings and inversions of one molecule.

    Attributes:
        coordinates: what is measured.
        atoms: (n_ligand_atoms,) index of the ligand's atoms in the system.
        bonds: between them, counted inside the ligand.
    """

    coordinates: tuple[SoftCoordinate, ...]
    atoms: tuple[int, ...]
    bonds: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        return OBSERVER_NAME

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for c in self.coordinates for column in c.columns)

    def measure(self, restart: Restart, reduced: np.ndarray) -> np.ndarray:
        """(n_replicas, n_columns), see :func:`measure`."""
        positions = restart.positions_nm[:, list(self.atoms)]
        return measure(self.coordinates, make_whole(positions, self.bonds, restart.boxes_nm))

    def check(self, iteration: int, values: np.ndarray) -> None:
        """Every conformer is welcome."""


def follow_conformation(
    ligand: LigandMolecule, coordinates: tuple[SoftCoordinate, ...]
) -> ConformationObserver | None:
    """The observer of a molecule, None where nothing in it is soft."""
    if not coordinates:
        return None
    bonds = ((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in ligand.mol.GetBonds())
    return ConformationObserver(coordinates=coordinates, atoms=ligand.atoms, bonds=tuple(bonds))


def measure(coordinates: Sequence[SoftCoordinate], positions_nm: np.ndarray) -> np.ndarray:
    """All numbers of all coordinates.

    Args:
        coordinates: of the ligand.
        positions_nm: (..., n_ligand_atoms, 3) of whole molecules.

    Returns:
        (..., n_columns): of torsions the angle in degrees, from 0 to the coordinate's period; of
        rings Cremer and Pople's amplitudes in Å (J. Am. Chem. Soc. 97, 1354, 1975), q2 and up as
        q·cos φ, q·sin φ and, in even rings, the last one with its sign; of inversions the volume
        spanned by the unit vectors of the three bonds, signed.
    """
    positions = np.asarray(positions_nm, dtype=np.float64)
    parts = [_MEASURES[c.kind](c, positions) for c in coordinates]
    if not parts:
        return np.zeros((*positions.shape[:-2], 0))
    return np.concatenate(parts, axis=-1)


def per_coordinate(
    coordinates: Sequence[SoftCoordinate], values: np.ndarray
) -> Iterator[tuple[SoftCoordinate, np.ndarray]]:
    """Each coordinate with its numbers (..., n), of values (..., n_columns)."""
    start = 0
    for coordinate in coordinates:
        stop = start + len(coordinate.columns)
        yield coordinate, values[..., start:stop]
        start = stop


def _torsion(coordinate: SoftCoordinate, positions: np.ndarray) -> np.ndarray:
    left, right = (positions[..., atom, :] for atom in coordinate.atoms[1:3])

    axis = right - left

    def direction(atoms: tuple[int, ...], center: np.ndarray, flat: bool) -> np.ndarray:
        parts = [_unit(positions[..., atom, :] - center) for atom in atoms]
        if not flat:
            return np.sum(parts, axis=0)
        # Across the axis: a plane of atoms that bends keeps its direction.
        across = [_unit(np.cross(part, axis)) for part in parts]
        return np.cross(axis, across[0] - across[1])

    first = direction(coordinate.first, left, coordinate.flat[0])
    last = direction(coordinate.last, right, coordinate.flat[1])
    normal = np.cross(axis, last)
    # atan2 of the two components of one end in the frame of the other.
    sine = np.linalg.norm(axis, axis=-1) * (-first * normal).sum(-1)
    cosine = (np.cross(-first, axis) * normal).sum(-1)
    angle = np.degrees(np.arctan2(sine, cosine))
    return np.mod(angle, 360.0 / coordinate.folds)[..., None]


def _ring(coordinate: SoftCoordinate, positions: np.ndarray) -> np.ndarray:
    ring = positions[..., list(coordinate.atoms), :] * 10.0
    n = len(coordinate.atoms)
    ring = ring - ring.mean(axis=-2, keepdims=True)
    turns = 2.0 * np.pi * np.arange(n) / n
    one = np.einsum("...ij,i->...j", ring, np.sin(turns))
    two = np.einsum("...ij,i->...j", ring, np.cos(turns))
    normal = _unit(np.cross(one, two))
    height = np.einsum("...ij,...j->...i", ring, normal)
    parts = []
    for m in range(2, (n - 1) // 2 + 1):
        scale = np.sqrt(2.0 / n)
        parts += [scale * height @ np.cos(m * turns), -scale * height @ np.sin(m * turns)]
    if n % 2 == 0:
        parts.append(height @ np.where(np.arange(n) % 2, -1.0, 1.0) / np.sqrt(n))
    return np.stack(parts, axis=-1)


def _inversion(coordinate: SoftCoordinate, positions: np.ndarray) -> np.ndarray:
    center, *near = (positions[..., atom, :] for atom in coordinate.atoms)
    a, b, c = (_unit(place - center) for place in near)
    return (np.cross(a, b) * c).sum(-1)[..., None]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


_MEASURES = {"torsion": _torsion, "ring": _ring, "inversion": _inversion}
