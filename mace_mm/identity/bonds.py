"""Bonds by distance: the one definition of a broken and of a made bond.

Lengths are in units of the sum of the two covalent radii (Cordero 2008). Single bonds at rest lie
between 0.95 and 1.05 of it, the closest carbons without a bond, those of bicyclo[1.1.1]pentane
1.87 Å apart, at 1.23. A bond at 1.5 has lost nearly all of its energy; thermal motion at 1000 K
stretches single bonds to 1.25.
"""

from collections.abc import Sequence

import numpy as np

from mace_mm.elements import covalent_radius

# A bond of the start is broken beyond BROKEN, and whole again within HEALED.
BROKEN = 1.5
HEALED = 1.3
# Two other atoms are bonded within MADE, and apart again beyond PARTED.
MADE = 1.15
PARTED = 1.3
# Two hydrogen atoms: H2 itself is at 1.19, and no other pair of them comes below 2.
MADE_HYDROGENS = 1.3
PARTED_HYDROGENS = 1.5
# A bond shorter than this, or two atoms without a bond and without a common neighbor closer than
# this share of the sum of their van der Waals radii, is a short contact. N2 and C#N are at 0.77
# and 0.79 of their covalent radii; contacts are C-C 1.87 Å, C-H 1.60 Å, H-H 1.32 Å.
COMPRESSED = 0.7
CONTACT = 0.55
# What counts as bonded in a structure that comes without bonds.
BONDED = 1.3
# Their bonds are ionic or coordinative: distances do not tell whether there is one.
_METALS = (3, 4, 11, 12, 13, *range(19, 32), *range(37, 51), *range(55, 85), *range(87, 119))


def bond_radii(atomic_numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n_atoms,) covalent radii, Å."""
    return np.array([covalent_radius(int(z)) for z in atomic_numbers], dtype=np.float64)


def contact_radii(atomic_numbers: np.ndarray) -> np.ndarray:
    """(n_atoms,) van der Waals radii (RDKit's table, after Bondi) times `CONTACT`, Å."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    radii = {int(z): CONTACT * float(table.GetRvdw(int(z))) for z in np.unique(atomic_numbers)}
    return np.array([radii[int(z)] for z in atomic_numbers], dtype=np.float64)


def is_metal(atomic_numbers: np.ndarray) -> np.ndarray:
    """(n_atoms,) bool: elements whose bonds distances do not tell."""
    return np.isin(atomic_numbers, _METALS)


def minimum_image(vectors: np.ndarray, cell: np.ndarray | None) -> np.ndarray:
    """Vectors (..., 3) between atoms as short as a cell (3, 3) of row vectors makes them.

    Exact for vectors shorter than half the cell's height, which bonds are.
    """
    if cell is None:
        return vectors
    return vectors - np.round(vectors @ np.linalg.inv(cell)) @ cell
