"""Error variances of three methods from their differences alone, by class of atoms.

With independent errors, Var(a - b) = Var(a) + Var(b): three differences give three variances (the
three-cornered hat; J. E. Gray and D. W. Allan, Proc. 28th Freq. Control Symp., 1974).
"""

import numpy as np

LARGEST = 1.0  # eV/Å; rare large differences must not decide
MIN_ATOMS = 150
FLOOR = 0.1  # of the largest squared difference
FALLBACK = 0.2**2
N_CLASSES = 2 * 54


def atom_classes(numbers: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Element, and whether the atom is bonded to S or F: (n_atoms,) integers.

    Args:
        numbers: (n_atoms,).
        bonds: (n_bonds, 2) directed pairs.
    """
    special = np.isin(numbers, (9, 16))
    beside = np.zeros(numbers.size, dtype=bool)
    beside[bonds[special[bonds[:, 1]], 0]] = True
    return 2 * numbers + (beside & ~special)


def three_cornered_hat(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    """Variances (3,) of the errors of three sets of forces, (n_atoms, 3) each."""

    def square(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(np.minimum(np.abs(a - b), LARGEST) ** 2))

    ab, bc, ac = square(first, second), square(second, third), square(first, third)
    variances = np.array([ab + ac - bc, ab + bc - ac, ac + bc - ab]) / 2
    return np.maximum(variances, FLOOR * max(ab, bc, ac))


def class_variances(
    classes: np.ndarray, subsets: np.ndarray, forces: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> dict[tuple[str, int], np.ndarray]:
    """Variances by subset and class of atoms; a class of few atoms takes another subset's.

    Args:
        classes: (n_atoms,).
        subsets: (n_atoms,) names.
        forces: of the three methods, (n_atoms, 3) each, all finite.
    """
    found: dict[tuple[str, int], np.ndarray] = {}
    for subset in np.unique(subsets):
        for kind in np.unique(classes):
            chosen = (subsets == subset) & (classes == kind)
            if chosen.sum() >= MIN_ATOMS:
                found[subset, int(kind)] = three_cornered_hat(*(f[chosen] for f in forces))
    return found


def variances_of(
    found: dict[tuple[str, int], np.ndarray], subset: str, classes: np.ndarray
) -> np.ndarray:
    """(n_atoms, 3) variances for the atoms of a molecule."""
    rows = []
    for kind in classes:
        own = found.get((subset, int(kind)))
        others = [v for (_, k), v in found.items() if k in (int(kind), int(kind) - int(kind) % 2)]
        rows.append(own if own is not None else others[0] if others else np.full(3, FALLBACK))
    return np.array(rows)
