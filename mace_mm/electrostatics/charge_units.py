"""Write the charges of molecules as sums of bond dipoles and whole charges.

A pair of point charges that is switched off with its distance leaves forces of bare charges where
it is switched; a pair of neutral units leaves almost none. Bonds are such units: every set of
charges of a neutral molecule is a sum of charges that moved along bonds (bond charge increments:
B. L. Bush et al., J. Comput. Chem. 20, 1495, 1999). Of the ways to write it the one with the
smallest increments is taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# Bonds between two separated whole charges, at least: closer ones are a polar bond.
_SEPARATION = 3
_FAR = np.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class ChargeUnits:
    """Units of two atoms each whose charges add up to those of the atoms.

    Attributes:
        ends: (n_units, 2) places of the atoms: bonds, and atoms without bonds twice.
        paths: (n_atoms, n_atoms) bonds between two atoms, infinity where none lead there.
    """

    ends: np.ndarray
    paths: np.ndarray
    _groups: tuple[np.ndarray, ...]
    _inverses: tuple[np.ndarray, ...]

    @classmethod
    def of_bonds(cls, n_atoms: int, bonds: Iterable[tuple[int, int]]) -> "ChargeUnits":
        """The units of molecules.

        Args:
            n_atoms: number of atoms.
            bonds: pairs of their places.
        """
        pairs = sorted({(min(pair), max(pair)) for pair in bonds})
        paths = _bond_paths(n_atoms, pairs)
        groups = []
        seen: set[int] = set()
        for i in range(n_atoms):
            if i not in seen:
                groups.append(np.flatnonzero(np.isfinite(paths[i])))
                seen.update(groups[-1].tolist())
        lone = [(int(group[0]),) * 2 for group in groups if len(group) == 1]
        laplacian = np.zeros((n_atoms, n_atoms))
        for i, j in pairs:
            laplacian[[i, j], [i, j]] += 1.0
            laplacian[[i, j], [j, i]] -= 1.0
        inverses = [np.linalg.pinv(laplacian[np.ix_(group, group)]) for group in groups]
        return cls(
            ends=np.array([*pairs, *lone], dtype=int).reshape(-1, 2),
            paths=paths,
            _groups=tuple(groups),
            _inverses=tuple(inverses),
        )

    def split(self, charges: Sequence[float]) -> np.ndarray:
        """Divide charges of atoms among the units, (n_units, 2) for the ends of each.

        Opposite charges of one e that sit far apart, as in a zwitterion, and the net charge of a
        molecule stay whole, each in one unit.
        """
        potential = np.zeros(len(charges))
        whole = np.zeros(len(charges))
        for group, inverse in zip(self._groups, self._inverses, strict=True):
            own = np.asarray(charges, dtype=np.float64)[group]
            kept = _whole_charges(own, inverse, self.paths[np.ix_(group, group)])
            whole[group] = kept
            potential[group] = inverse @ (own - kept)
        first, second = self.ends.T
        increments = potential[first] - potential[second]
        shares = np.stack([increments, -increments], axis=1)
        for atom in np.flatnonzero(whole):
            unit, end = np.argwhere(self.ends == atom)[0]
            shares[unit, end] += whole[atom]
        return shares


def _whole_charges(charges: np.ndarray, inverse: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """Charges that bond increments would have to carry far: (n_atoms,), their sum is the net one.

    Moving one e from one atom to another along d bonds (in rings, of resistance d) makes the sum of
    squared increments smaller by 2 (v_a - v_b) - d, with the potentials v of the charges that are
    left: it pays where the increments on the way are above one half.
    """
    kept = np.zeros(len(charges))
    net = float(charges.sum())
    n_whole = round(abs(net))
    steps = [float(np.sign(net))] * n_whole + [net - np.sign(net) * n_whole]
    for step in steps:
        if abs(step) > 1e-9:
            left = inverse @ (charges - kept)
            kept[np.argmin(step**2 * np.diag(inverse) - 2.0 * step * left)] += step
    resistance = np.add.outer(np.diag(inverse), np.diag(inverse)) - 2.0 * inverse
    apart = paths >= _SEPARATION
    for _ in range(len(charges)):
        left = inverse @ (charges - kept)
        gain = np.where(apart, 2.0 * np.subtract.outer(left, left) - resistance, -_FAR)
        giver, taker = np.unravel_index(np.argmax(gain), gain.shape)
        if not gain[giver, taker] > 1e-9:
            break
        kept[giver] += 1.0
        kept[taker] -= 1.0
    return kept


def _bond_paths(n_atoms: int, bonds: Sequence[tuple[int, int]]) -> np.ndarray:
    """Numbers of bonds between atoms on the shortest way, (n_atoms, n_atoms)."""
    neighbors: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds:
        neighbors[i].append(j)
        neighbors[j].append(i)
    paths = np.full((n_atoms, n_atoms), _FAR)
    for start in range(n_atoms):
        front, length = [start], 0
        while front:
            paths[start, front] = length
            length += 1
            front = list({j for i in front for j in neighbors[i] if paths[start, j] == _FAR})
    return paths
