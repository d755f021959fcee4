"""A correction of one method's forces to another's, along the bonds.

The force on each atom of a bond is c0 + c1 u + c2 u² along it, u = d / (sum of covalent radii) - 1,
with coefficients by pair of elements and, smaller, by pair of (element, number of bonds). It is the
derivative of an energy. Ridge regression, reweighted so that outliers count linearly.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mace_mm.elements import covalent_radius

BONDED = 1.3
COUNTED = 1.25
N_TYPES = 5  # numbers of bonds, 0 to 4 or more
MAX_Z = 54
ELEMENT_TERMS, TYPE_TERMS = 3, 2
# Ridge of the constant terms and of the others.
ELEMENT_RIDGE, TYPE_RIDGE = (2.0, 0.2), (5.0, 0.5)
MIN_COUNT = 30
LINEAR_BEYOND = 0.15  # eV/Å
_RADII = np.array([0.0] + [covalent_radius(z) for z in range(1, MAX_Z)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Bonds:
    """Directed bonds of one frame.

    Attributes:
        atoms: (n_bonds,) the atom a force acts on.
        directions: (n_bonds, 3) unit vectors towards it.
        lengths, stretches: (n_bonds,) Å, and u.
        element_pair, type_pair: (n_bonds,) integers that name the kind of bond.
    """

    atoms: np.ndarray
    directions: np.ndarray
    lengths: np.ndarray
    stretches: np.ndarray
    element_pair: np.ndarray
    type_pair: np.ndarray


def find_bonds(numbers: np.ndarray, positions: np.ndarray) -> Bonds:
    """The bonds of a frame: numbers (n_atoms,), positions (n_atoms, 3) Å."""
    vectors = positions[:, None] - positions[None]
    distances = np.linalg.norm(vectors, axis=-1)
    sums = _RADII[numbers][:, None] + _RADII[numbers][None]
    ratio = distances / sums
    np.fill_diagonal(ratio, np.inf)
    kinds = numbers * N_TYPES + np.minimum((ratio < COUNTED).sum(1), N_TYPES - 1)
    first, second = np.nonzero(ratio < BONDED)
    lengths = distances[first, second]
    return Bonds(
        atoms=first,
        directions=vectors[first, second] / lengths[:, None],
        lengths=lengths,
        stretches=ratio[first, second] - 1.0,
        element_pair=_pair(numbers[first], numbers[second], MAX_Z),
        type_pair=_pair(kinds[first], kinds[second], MAX_Z * N_TYPES),
    )


def _pair(a: np.ndarray, b: np.ndarray, size: int) -> np.ndarray:
    return np.minimum(a, b) * size + np.maximum(a, b)


def _terms(bonds: Bonds) -> Iterable[tuple[tuple[str, int], np.ndarray]]:
    for power in range(ELEMENT_TERMS):
        yield ("element", power), bonds.element_pair
    for power in range(TYPE_TERMS):
        yield ("type", power), bonds.type_pair


class BondCorrection:
    """Fitted coefficients, by (kind of pair, power) and pair."""

    def __init__(self, coefficients: dict[tuple[str, int], dict[int, float]]) -> None:
        self._coefficients = coefficients

    def __call__(self, numbers: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy, eV, and forces (n_atoms, 3), eV/Å, to add."""
        bonds = find_bonds(numbers, positions)
        energy, along = 0.0, np.zeros(bonds.atoms.size)
        scale = bonds.lengths / (1.0 + bonds.stretches)
        for (kind, power), pairs in _terms(bonds):
            table = self._coefficients.get((kind, power), {})
            c = np.array([table.get(int(pair), 0.0) for pair in pairs])
            along += c * bonds.stretches**power
            # Each bond is there in both directions.
            energy -= 0.5 * float((c * bonds.stretches ** (power + 1) * scale).sum()) / (power + 1)
        forces = np.zeros((numbers.size, 3))
        np.add.at(forces, bonds.atoms, along[:, None] * bonds.directions)
        return energy, forces


def fit_bond_correction(
    frames: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> BondCorrection:
    """Fit to frames of (numbers, positions, force differences wanted)."""
    columns: dict[tuple[str, int, int], int] = {}
    rows_of, columns_of, values, wanted, n_atoms = [], [], [], [], 0
    for numbers, positions, difference in frames:
        bonds = find_bonds(numbers, positions)
        for (kind, power), pairs in _terms(bonds):
            names = [(kind, power, int(pair)) for pair in pairs]
            place = np.array([columns.setdefault(name, len(columns)) for name in names], dtype=int)
            entries = bonds.stretches[:, None] ** power * bonds.directions
            rows_of.append((3 * (n_atoms + bonds.atoms)[:, None] + np.arange(3)).ravel())
            columns_of.append(np.repeat(place, 3))
            values.append(entries.ravel())
        wanted.append(difference.ravel())
        n_atoms += numbers.size
    shape = (3 * n_atoms, len(columns))
    place = (np.concatenate(rows_of), np.concatenate(columns_of))
    design = sparse.csr_matrix((np.concatenate(values), place), shape=shape)
    used = np.flatnonzero(np.bincount(place[1], minlength=shape[1]) >= 3 * MIN_COUNT)
    names = np.array(list(columns), dtype=object)[used]
    solution = _robust_ridge(design[:, used], np.concatenate(wanted), _ridge(names))
    coefficients: dict[tuple[str, int], dict[int, float]] = {}
    for (kind, power, pair), value in zip(names, solution, strict=True):
        coefficients.setdefault((kind, power), {})[pair] = float(value)
    return BondCorrection(coefficients)


def _ridge(names: np.ndarray) -> np.ndarray:
    by_kind = {"element": ELEMENT_RIDGE, "type": TYPE_RIDGE}
    return np.array([by_kind[kind][min(power, 1)] for kind, power, _ in names])


def _robust_ridge(design: sparse.csr_matrix, wanted: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    weights = np.ones(wanted.size)
    for _ in range(2):
        weighted = design.multiply(weights[:, None]).tocsr()
        normal = (design.T @ weighted).toarray() + np.diag(ridge)
        solution = np.linalg.solve(normal, design.T @ (weights * wanted))
        weights = 1.0 / np.maximum(1.0, np.abs(wanted - design @ solution) / LINEAR_BEYOND)
    return solution
