"""Fit AIMNet2 and SO3LR together to published SPICE frames: a weight each and pair potentials.

    python recipes/labels/fit_teachers.py --shared ../shared --frames frames.npz

The label is the derivative of one energy: w1 E(AIMNet2) + w2 E(SO3LR) + sum of pair potentials, by
pair of elements up to 5.5 Å, and for bonds by pair of (element, number of bonds). Weighted ridge
regression on the forces, reweighted so that outliers count linearly. Five-fold cross-validation
over formulas of the training frames; the test frames see a fit to all training frames. Writes
`benchmarks/results/labels_teachers.json`: mean absolute differences of forces, meV/Å.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundled_model"))

from bond_correction import find_bonds

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "labels_teachers.json"
TEACHERS = ("aimnet2", "so3lr")
CENTERS = np.arange(0.7, 5.6, 0.35)
WIDTH = 0.35
BOND_POWERS = 3
# Ridge, in units of a force of 1 eV/Å on this many atoms.
PAIR_RIDGE, BOND_RIDGE = 0.3, 1.0
LINEAR_BEYOND = 0.1
N_FOLDS, N_ROUNDS = 5, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A frame with its forces (3 n_atoms,) eV/Å and its columns {key: (rows, values)}."""

    subset: str
    formula: str
    test: bool
    forces: np.ndarray
    columns: dict[tuple, tuple[np.ndarray, np.ndarray]]


def _pairs(numbers: np.ndarray, positions: np.ndarray) -> dict[tuple, tuple[np.ndarray, ...]]:
    """Forces of all pair functions: key -> rows and values, summed where they meet."""
    n = len(numbers)
    vectors = positions[:, None] - positions[None]
    distances = np.linalg.norm(vectors, axis=-1) + 10.0 * np.eye(n)
    first, second = np.nonzero(distances < CENTERS[-1] + WIDTH)
    length = distances[first, second]
    directions = vectors[first, second] / length[:, None]
    kinds = np.sort(np.stack([numbers[first], numbers[second]], axis=1), axis=1)
    found: dict[tuple, tuple[np.ndarray, ...]] = {}
    for a, b in np.unique(kinds, axis=0):
        chosen = (kinds == (a, b)).all(axis=1)
        # Raised cosines, twice differentiable where they end.
        x = (length[chosen, None] - CENTERS) / (2.0 * WIDTH)
        slopes = np.where(np.abs(x) < 1.0, np.sin(np.pi * x) * (1.0 + np.cos(np.pi * x)), 0.0)
        for k in np.flatnonzero(np.abs(slopes).sum(axis=0) > 1e-6):
            total = np.zeros((n, 3))
            np.add.at(total, first[chosen], slopes[:, k, None] * directions[chosen])
            found["pair", int(a), int(b), int(k)] = _sparse(total)
    bonds = find_bonds(numbers, positions)
    for kind in np.unique(bonds.type_pair):
        chosen = bonds.type_pair == kind
        for power in range(BOND_POWERS):
            total = np.zeros((n, 3))
            values = bonds.stretches[chosen, None] ** power * bonds.directions[chosen]
            np.add.at(total, bonds.atoms[chosen], values)
            found["bond", int(kind), power] = _sparse(total)
    return found


def _sparse(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = total.ravel()
    rows = np.flatnonzero(flat)
    return rows, flat[rows]


def read_frames(shared: Path, cached: Path) -> list[Frame]:
    """All published frames of which both teachers have labels."""
    with np.load(cached) as file:
        teachers = dict(file)
    frames = []
    for path in sorted((shared / "data" / "spice-labelled").glob("*.xyz")):
        subset, _, kind = path.stem.rpartition("_")
        for i, atoms in enumerate(ase.io.read(path, ":")):
            name = f"{path.stem}-{i}"
            if f"{name}/so3lr_forces" not in teachers:
                continue
            columns = _pairs(atoms.numbers, atoms.positions)
            for teacher in TEACHERS:
                columns[(teacher,)] = _sparse(teachers[f"{name}/{teacher}_forces"].astype(float))
            frames.append(
                Frame(
                    subset=subset,
                    formula=atoms.get_chemical_formula(),
                    test=kind == "test",
                    forces=atoms.arrays["REF_forces"].ravel(),
                    columns=columns,
                )
            )
    return frames


def design(frames: list[Frame], keys: list[tuple]) -> sparse.csr_matrix:
    """(all components, keys)."""
    number = {key: k for k, key in enumerate(keys)}
    rows, columns, values, start = [], [], [], 0
    for frame in frames:
        for key, (row, value) in frame.columns.items():
            if key in number:
                rows.append(row + start)
                columns.append(np.full(len(row), number[key]))
                values.append(value)
        start += len(frame.forces)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(entries, shape=(start, len(keys)))


def fit(frames: list[Frame], kinds: tuple[str, ...]) -> dict[tuple, float]:
    """Coefficients of the teachers and of the kinds of functions."""
    keys = sorted({k for f in frames for k in f.columns if k[0] in (*TEACHERS, *kinds)}, key=str)
    matrix = design(frames, keys)
    target = np.concatenate([frame.forces for frame in frames])
    ridge = np.array([{"pair": PAIR_RIDGE, "bond": BOND_RIDGE}.get(key[0], 1e-6) for key in keys])
    weights = np.ones(len(target))
    for _ in range(N_ROUNDS):
        scaled = matrix.multiply(weights[:, None]).tocsr()
        normal = (matrix.T @ scaled).toarray() + np.diag(ridge)
        found = np.linalg.solve(normal, scaled.T @ target)
        residual = np.abs(target - matrix @ found)
        weights = np.minimum(1.0, LINEAR_BEYOND / np.maximum(residual, 1e-9))
    return dict(zip(keys, found, strict=True))


def errors(frames: list[Frame], coefficients: dict[tuple, float]) -> dict[str, list[float]]:
    """Absolute differences of force components by subset, meV/Å."""
    keys = list(coefficients)
    predicted = design(frames, keys) @ np.array([coefficients[key] for key in keys])
    found: dict[str, list[float]] = {}
    start = 0
    for frame in frames:
        stop = start + len(frame.forces)
        difference = 1e3 * np.abs(predicted[start:stop] - frame.forces)
        found.setdefault(frame.subset, []).extend(difference)
        start = stop
    return found


def cross_validated(frames: list[Frame], kinds: tuple[str, ...]) -> dict[str, float]:
    """Mean absolute differences by subset, of frames whose formula the fit has not seen."""
    formulas = sorted({frame.formula for frame in frames})
    order = np.random.default_rng(0).permutation(len(formulas))
    fold = {formulas[k]: i % N_FOLDS for i, k in enumerate(order)}
    found: dict[str, list[float]] = {}
    for number in range(N_FOLDS):
        seen = [frame for frame in frames if fold[frame.formula] != number]
        unseen = [frame for frame in frames if fold[frame.formula] == number]
        for subset, values in errors(unseen, fit(seen, kinds)).items():
            found.setdefault(subset, []).extend(values)
    return {subset: round(float(np.mean(values)), 1) for subset, values in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True)
    arguments = parser.parse_args()
    frames = read_frames(arguments.shared, arguments.frames)
    training = [frame for frame in frames if not frame.test]
    test = [frame for frame in frames if frame.test]
    result: dict[str, object] = {"training frames": len(training), "test frames": len(test)}
    fits = {
        "weights": (),
        "weights and pairs": ("pair",),
        "weights, pairs and bonds": ("pair", "bond"),
    }
    table: dict[str, dict[str, dict[str, float]]] = {"cross-validated": {}, "test": {}}
    for teacher in TEACHERS:
        alone = {(teacher,): 1.0}
        for part, some in (("cross-validated", training), ("test", test)):
            table[part][teacher] = _means(errors(some, alone))
    for name, kinds in fits.items():
        coefficients = fit(training, kinds)
        table["cross-validated"][name] = cross_validated(training, kinds)
        table["test"][name] = _means(errors(test, coefficients))
        result[f"weights of {name}"] = {t: round(coefficients[(t,)], 3) for t in TEACHERS}
    result |= table
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _means(found: dict[str, list[float]]) -> dict[str, float]:
    return {subset: round(float(np.mean(values)), 1) for subset, values in sorted(found.items())}


if __name__ == "__main__":
    main()
