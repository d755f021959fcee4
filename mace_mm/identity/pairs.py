"""Pairs of atoms that are not bonded at the start and come close."""

from typing import NamedTuple

import numpy as np
from vesin import NeighborList

from mace_mm.identity import bonds as rules

# Up to here all pairs are faster than a neighbor list.
_FEW = 60


class Pairs(NamedTuple):
    """Pairs of atoms, first < second: (n_pairs,) each, distances in Å."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


def close_pairs(positions: np.ndarray, cutoff: float, cell: np.ndarray | None) -> Pairs:
    """All pairs closer than ``cutoff`` Å; of several images of a pair each counts.

    Args:
        positions: (n_atoms, 3) Å, finite.
        cell: (3, 3) rows, Å; None in vacuum.
    """
    finder = NeighborList(cutoff=cutoff, full_list=False, sorted=False)
    box = np.zeros((3, 3)) if cell is None else cell
    i, j, distance = finder.compute(positions, box, cell is not None, "ijd")
    first, second = np.minimum(i, j).astype(np.int64), np.maximum(i, j).astype(np.int64)
    own = first != second
    return Pairs(first[own], second[own], distance[own])


class StrangePairs:
    """Finds the pairs without a bond that are closer than such pairs usually are.

    Args:
        atomic_numbers: (n_atoms,).
        bonds: (n_bonds, 2) of the start, first < second.
    """

    def __init__(self, atomic_numbers: np.ndarray, bonds: np.ndarray) -> None:
        self._n = atomic_numbers.size
        self._hydrogen = atomic_numbers == 1
        self._bond_radii = rules.bond_radii(atomic_numbers)
        self._contact_radii = rules.contact_radii(atomic_numbers)
        self._bonded = np.unique(bonds[:, 0] * self._n + bonds[:, 1])
        self._near = _near(bonds, self._n)
        largest = max(rules.PARTED * self._bond_radii.max(), self._contact_radii.max())
        # Twice PARTED_HYDROGENS times the radius of hydrogen, 0.93 Å, is less.
        self._cutoff = 2.0 * float(largest)
        self._every = None
        if self._n <= _FEW:
            first, second = np.triu_indices(self._n, 1)
            limit = self._limits(first, second)
            kept = limit > 0.0
            self._every = first[kept], second[kept], limit[kept]

    def find(self, positions: np.ndarray, cell: np.ndarray | None) -> Pairs:
        """Pairs that are bonded now, may have been in the frame before, or are in contact.

        Args:
            positions: (n_atoms, 3) Å, finite.
            cell: (3, 3) rows, Å; None in vacuum.
        """
        if self._every is None:
            close = close_pairs(positions, self._cutoff, cell)
            limit = self._limits(close.first, close.second)
        else:
            first, second, limit = self._every
            vectors = rules.minimum_image(positions[second] - positions[first], cell)
            close = Pairs(first, second, np.sqrt((vectors**2).sum(axis=1)))
        strange = np.flatnonzero(close.distance < limit)
        return Pairs(*(values[strange] for values in close))

    def in_contact(self, close: Pairs) -> np.ndarray:
        """(n_pairs,) bool: closer than two molecules come, and without a common neighbor."""
        limit = self._contact_radii[close.first] + self._contact_radii[close.second]
        code = close.first * self._n + close.second
        return (close.distance < limit) & ~is_among(self._near, code)

    def _limits(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(n_pairs,) Å: distances above which nothing is to be said; 0 for bonds of the start."""
        code = first * self._n + second
        contact = self._contact_radii[first] + self._contact_radii[second]
        bond = self._bond_radii[first] + self._bond_radii[second]
        both = self._hydrogen[first] & self._hydrogen[second]
        bond = bond * np.where(both, rules.PARTED_HYDROGENS, rules.PARTED)
        limit = np.where(is_among(self._near, code), bond, np.maximum(contact, bond))
        return np.where(is_among(self._bonded, code), 0.0, limit)


def is_among(codes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(n_asked,) bool: which numbers stand in sorted ``codes``."""
    if not codes.size:
        return np.zeros(asked.shape, dtype=bool)
    place = np.minimum(np.searchsorted(codes, asked), codes.size - 1)
    return codes[place] == asked


def _near(bonds: np.ndarray, n_atoms: int) -> np.ndarray:
    """Sorted codes of pairs of atoms that have a common neighbor."""
    neighbors: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds.tolist():
        neighbors[i].append(j)
        neighbors[j].append(i)
    codes = {
        min(i, j) * n_atoms + max(i, j)
        for around in neighbors
        for i in around
        for j in around
        if i != j
    }
    return np.array(sorted(codes), dtype=np.int64)


def bonds_by_distance(
    atomic_numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray | None = None,
    among: np.ndarray | None = None,
) -> list[tuple[int, int]]:
    """Bonds of a structure that comes without them.

    Args:
        atomic_numbers: (n_atoms,).
        positions: (n_atoms, 3) Å.
        cell: (3, 3) rows, Å; None in vacuum.
        among: (n_atoms,) bool: at least one end of a bond is one of these; all atoms if None.
    """
    radii = rules.bond_radii(atomic_numbers)
    pairs = close_pairs(positions, 2.0 * rules.BONDED * float(radii.max()), cell)
    bonded = pairs.distance <= rules.BONDED * (radii[pairs.first] + radii[pairs.second])
    metals = rules.is_metal(atomic_numbers)
    bonded &= ~metals[pairs.first] & ~metals[pairs.second]
    if among is not None:
        bonded &= among[pairs.first] | among[pairs.second]
    found = zip(pairs.first[bonded].tolist(), pairs.second[bonded].tolist(), strict=True)
    return sorted(set(found))
