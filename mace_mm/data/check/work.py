"""Energies against forces: between close frames the energy changes by the work of the forces."""

from collections.abc import Sequence

import numpy as np

from mace_mm.data.check.verdict import UnitVerdict, verdict
from mace_mm.data.labels import LabeledMolecule


def check_work(
    molecules: Sequence[Sequence[LabeledMolecule]],
    length_scale: float = 1.0,
    force_scale: float = 1.0,
) -> UnitVerdict:
    """Energy differences of close frames against the work of the forces.

    The work is inexact (the surface is not harmonic), the energies are exact: the ratio is
    regressed with the error in the work.

    Args:
        molecules: frames, grouped by molecule.
        length_scale: lengths are divided by it first.
        force_scale: forces are divided by it first.
    """
    rows = [close_pairs(group, length_scale) for group in molecules]
    pairs = np.concatenate(rows) if rows else np.zeros((0, 5))
    for reach in (0.15, 0.3, 0.5):
        chosen = pairs[pairs[:, 2] < reach]
        work, change = chosen[:, 3] / force_scale, chosen[:, 4]
        if len(chosen) < 20 or not work.std() or not change.std():
            continue
        correlation = float((work @ change) / np.sqrt((work @ work) * (change @ change)))
        if abs(correlation) < 0.85:
            continue
        how = (
            f"energy differences of {len(chosen)} pairs of frames closer than {reach} Å "
            f"against the work of the forces (correlation {correlation:.2f})"
        )
        judged = verdict("energy", float((change @ change) / (work @ change)), len(chosen), how)
        # The other regression errs the other way: only if both are wrong, the unit is.
        lower = verdict("energy", judged.ratio * correlation**2, len(chosen), how)
        if judged.ok or lower.ok is False:
            return judged
    return verdict("energy", np.nan, len(pairs), "no pairs of frames that are close enough")


def close_pairs(
    group: Sequence[LabeledMolecule], scale: float = 1.0, max_frames: int = 200
) -> np.ndarray:
    """Nearest pairs among the frames of one molecule, after superposition (W. Kabsch, 1976).

    Args:
        group: frames with the same atoms in the same order.
        scale: lengths are divided by it first.
        max_frames: use the first so many.

    Returns:
        (n_pairs, 5): first and second frame, RMSD in Å, work of the forces and energy difference
        in eV; at most two pairs a frame, the closest ones.
    """
    usable = [
        i
        for i, frame in enumerate(group)
        if frame.forces is not None and frame.energy is not None and frame.molecule.cell is None
    ][:max_frames]
    if len(usable) < 2:
        return np.zeros((0, 5))
    positions = np.array([group[i].molecule.positions for i in usable]) / scale
    positions -= positions.mean(axis=1, keepdims=True)
    forces = np.array([group[i].forces for i in usable])
    energies = np.array([group[i].energy for i in usable])
    one, two = np.triu_indices(len(usable), 1)
    rotation = _superpose(positions, one, two)
    moved = np.einsum("pax,pxy->pay", positions[two], rotation)
    step = moved - positions[one]
    rmsd = np.sqrt(np.square(step).sum(axis=(1, 2)) / positions.shape[1])
    turned = np.einsum("pax,pxy->pay", forces[two], rotation)
    work = -0.5 * ((forces[one] + turned) * step).sum(axis=(1, 2))
    nearest = np.argsort(rmsd)[: 2 * len(usable)]
    table = np.stack([one, two, rmsd, work, energies[two] - energies[one]], axis=1)[nearest]
    table[:, :2] = np.array(usable)[table[:, :2].astype(int)]
    return table


def _superpose(positions: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Rotations (n_pairs, 3, 3) that turn row vectors of frame `two` onto frame `one`."""
    covariance = np.einsum("pax,pay->pxy", positions[two], positions[one])
    left, _, right = np.linalg.svd(covariance)
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    return left @ right
