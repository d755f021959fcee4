"""Atoms that lack hydrogens, told from where their neighbors are."""

from collections.abc import Iterable, Sequence

import numpy as np

from mace_mm.identity.bonds import minimum_image

# Degrees, sum of the angles at carbon by its number of neighbors. With two it is linear (alkynes,
# allenes) or one is missing (120); with three flat (360, fullerenes 348) or one is missing (328).
_LEAST_ANGLES = {2: 145.0, 3: 338.0}
# Å. A longer bond of an atom with no other is a single bond: more atoms belong there. Double and
# triple bonds are shorter: C#C 1.20, C#N 1.16, C=O 1.22 (in carboxylates 1.26), C=S 1.67.
_SINGLE = {6: 1.28, 7: 1.28, 8: 1.34, 16: 1.74}


def atoms_without_hydrogens(
    atomic_numbers: Sequence[int] | np.ndarray,
    bonds: Iterable[tuple[int, int]],
    positions: np.ndarray,
    cell: np.ndarray | None = None,
) -> list[int]:
    """Carbon, nitrogen, oxygen and sulfur atoms that must have more neighbors than they have.

    It finds what cannot be otherwise: carbon that is bent or a pyramid, ends of single bonds, and
    atoms alone. It does not find all, such as amide nitrogen.

    Args:
        atomic_numbers: (n_atoms,).
        bonds: pairs of atoms.
        positions: (n_atoms, 3) Å.
        cell: (3, 3) rows, Å; None in vacuum.

    Returns:
        indices, ascending.
    """
    numbers = np.asarray(atomic_numbers)
    neighbors: list[list[int]] = [[] for _ in numbers]
    for i, j in bonds:
        neighbors[i].append(j)
        neighbors[j].append(i)
    found = []
    for atom, around in enumerate(neighbors):
        z = int(numbers[atom])
        if z not in _SINGLE:
            continue
        arms = minimum_image(positions[around] - positions[atom], cell).reshape(-1, 3)
        lengths = np.linalg.norm(arms, axis=1)
        if not around:
            found.append(atom)
        elif len(around) == 1 and numbers[around[0]] > 1 and lengths[0] > _SINGLE[z]:
            # Oxygen and sulfur of acids of P, S and Cl are ends of long bonds.
            if z in (6, 7) or numbers[around[0]] == 6:
                found.append(atom)
        elif z == 6 and _angles(arms, lengths) < _LEAST_ANGLES.get(len(around), 0.0):
            found.append(atom)
    return found


def _angles(arms: np.ndarray, lengths: np.ndarray) -> float:
    """Sum of the angles between arms, degrees."""
    cosines = (arms @ arms.T) / np.outer(lengths, lengths)
    pairs = np.triu_indices(len(arms), k=1)
    return float(np.degrees(np.arccos(np.clip(cosines[pairs], -1.0, 1.0))).sum())
