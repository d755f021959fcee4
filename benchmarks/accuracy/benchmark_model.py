"""Errors of a method on labelled test sets, as JSON.

    python benchmarks/accuracy/benchmark_model.py METHOD SHARED OUT.json

METHOD is the path of an archive, "ani-2x", "gfn2-xtb" or the path of AIMNet2's ensemble (.jpt);
SHARED the folder with `data/`.

SPICE (`spice-labelled/*_test.xyz`) and 3BPA at 300 K (`3bpa/train_300K.xyz`): forces; energies per
atom after the median difference of the set is removed, where the zero of energy is the same. S66x8:
interaction curves of 66 dimers at 8 distances. Torsions: relaxed scans. None of these was trained
on. What a method has no elements for is left out and counted.
"""

import itertools
import json
import sys
from pathlib import Path

import ase.io
import h5py
import numpy as np
import torch
from benchmark_methods import Method, open_method

from mace_mm.elements import atomic_number
from mace_mm.units import HARTREE_TO_EV, KCAL_MOL_TO_EV

# Two points of a curve that the reference separates by less may stand in either order.
ORDER_TOLERANCES_KCAL = (0.0, 0.1, 0.5)
MINIMUM_DEPTH_KCAL = 0.05
MIN_SCAN_POINTS = 8


def labelled_set(
    method: Method, elements: frozenset[int] | None, path: Path, comparable: bool
) -> dict:
    """Force errors on the frames of one file, and energy errors.

    Args:
        method: to measure.
        elements: those it knows; None for all.
        path: extended XYZ.
        comparable: whether energies of different molecules share the zero of the labels.
    """
    frames = ase.io.read(path, ":")
    kept = [a for a in frames if elements is None or set(a.numbers) <= elements]
    forces, energies = [], []
    for atoms in kept:
        energy, predicted = method(atoms.numbers, atoms.positions[None])
        if "REF_forces" in atoms.arrays:
            wanted, wanted_energy = atoms.arrays["REF_forces"], atoms.info["REF_energy"]
        else:
            wanted, wanted_energy = atoms.get_forces(), atoms.get_potential_energy()
        forces.append((predicted[0] - wanted).ravel())
        energies.append((energy[0] - wanted_energy) / len(atoms))
    components = 1e3 * np.concatenate(forces)
    result = {
        "n_frames": len(kept),
        "n_left_out": len(frames) - len(kept),
        "force_mae_mev_per_A": round(float(np.abs(components).mean()), 1),
        "force_rmse_mev_per_A": round(float(np.sqrt((components**2).mean())), 1),
    }
    if comparable or len({a.get_chemical_formula() for a in kept}) == 1:
        per_atom = 1e3 * np.array(energies)
        shifted = float(np.abs(per_atom - np.median(per_atom)).mean())
        result["energy_mae_shifted_mev_per_atom"] = round(shifted, 2)
    return result


def minima(curve: np.ndarray, depth: float) -> int:
    """Points, ends included, from which the curve rises by `depth` on either side before it falls
    below them."""
    return sum(
        _rise(curve[:k][::-1], value) > depth and _rise(curve[k + 1 :], value) > depth
        for k, value in enumerate(curve)
    )


def _rise(values: np.ndarray, level: float) -> float:
    """How far the values climb above the level before they reach it; infinite without values."""
    if not values.size:
        return np.inf
    lower = np.flatnonzero(values <= level)
    reach = values[: lower[0]] if lower.size else values
    return float(reach.max() - level) if reach.size else 0.0


def s66x8(method: Method, path: Path) -> dict:
    """Interaction curves relative to the largest distance, against ωB97X/6-31G*."""
    errors, spurious = [], []
    ordered = dict.fromkeys(ORDER_TOLERANCES_KCAL, 0)
    with h5py.File(path) as file:
        for name, dimer in sorted(file["s66x8"].items()):
            numbers = np.array([atomic_number(s.decode()) for s in dimer["species"][:]])
            frames = dimer["coordinates"][:].astype(float)
            order = np.argsort([_spread(frame) for frame in frames])
            reference = dimer["energies"][:][order] * HARTREE_TO_EV
            energies, _ = method(numbers, frames[order])
            ours = (energies - energies[-1]) / KCAL_MOL_TO_EV
            wanted = (reference - reference[-1]) / KCAL_MOL_TO_EV
            errors.append(np.abs(ours - wanted)[:-1])
            pairs = list(itertools.combinations(range(len(ours)), 2))
            wrong = [(i, j) for i, j in pairs if (ours[i] - ours[j]) * (wanted[i] - wanted[j]) < 0]
            for tolerance in ordered:
                ordered[tolerance] += all(abs(wanted[i] - wanted[j]) < tolerance for i, j in wrong)
            if minima(ours, MINIMUM_DEPTH_KCAL) > minima(wanted, MINIMUM_DEPTH_KCAL):
                spurious.append(name)
    return {
        "n_dimers": len(errors),
        "mae_kcal_mol": round(float(np.mean(np.concatenate(errors))), 3),
        "n_right_order_within_kcal_mol": {str(t): n for t, n in ordered.items()},
        "spurious_minima": spurious,
    }


def _spread(frame: np.ndarray) -> float:
    return float(np.square(frame - frame.mean(axis=0)).sum())


def torsions(method: Method, elements: frozenset[int] | None, folder: Path) -> dict:
    """Barriers (highest minus lowest energy of a scan) and the correlation along each scan."""
    scans: dict[tuple[str, str], list] = {}
    for path in sorted(folder.glob("*.extxyz")):
        for atoms in ase.io.read(path, ":"):
            scans.setdefault((path.stem, str(atoms.info["torsion_id"])), []).append(atoms)
    barriers, correlations, rms, left_out = [], [], [], 0
    for scan in scans.values():
        if len(scan) < MIN_SCAN_POINTS or (elements and not set(scan[0].numbers) <= elements):
            left_out += 1
            continue
        ours, _ = method(scan[0].numbers, np.array([a.positions for a in scan]))
        wanted = np.array([a.get_potential_energy() for a in scan])
        ours, wanted = ours / KCAL_MOL_TO_EV, wanted / KCAL_MOL_TO_EV
        barriers.append(np.ptp(ours) - np.ptp(wanted))
        correlations.append(np.corrcoef(ours, wanted)[0, 1])
        rms.append(np.std(ours - wanted))
    return {
        "n_scans": len(barriers),
        "n_left_out": left_out,
        "barrier_mae_kcal_mol": round(float(np.abs(barriers).mean()), 2),
        "barrier_bias_kcal_mol": round(float(np.mean(barriers)), 2),
        "profile_rmse_kcal_mol": round(float(np.mean(rms)), 2),
        "mean_correlation": round(float(np.mean(correlations)), 3),
        "median_correlation": round(float(np.median(correlations)), 3),
    }


def main() -> None:
    """Measure everything."""
    name, shared, out = sys.argv[1:]
    torch.set_num_threads(1)
    data = Path(shared) / "data"
    method, elements, comparable = open_method(name, data)
    results = {}
    for path in sorted((data / "spice-labelled").glob("*_test.xyz")):
        results[path.stem.removesuffix("_test")] = labelled_set(method, elements, path, comparable)
    path = data / "3bpa" / "train_300K.xyz"
    results["3bpa_300K"] = labelled_set(method, elements, path, False)
    results["s66x8"] = s66x8(method, data / "s66x8" / "s66x8_wb97x6-31gd.h5")
    results["torsions"] = torsions(method, elements, data / "torsions")
    Path(out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
