"""Farthest-point selection of frames by RMSD."""

import numpy as np


def aligned_rmsd(frame: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """RMSD after the best rotation and translation (W. Kabsch, Acta Cryst. A 34, 827, 1978).

    Args:
        frame: (n_atoms, 3) Å.
        frames: (n_frames, n_atoms, 3) Å.

    Returns:
        (n_frames,) Å.
    """
    a = frame - frame.mean(axis=0)
    b = frames - frames.mean(axis=1, keepdims=True)
    covariance = np.einsum("fai,aj->fij", b, a)
    values = np.linalg.svd(covariance, compute_uv=False)
    # A reflection is no rotation: the smallest singular value then counts negative.
    values[:, 2] *= np.where(np.linalg.det(covariance) < 0.0, -1.0, 1.0)
    squares = (a**2).sum() + (b**2).sum(axis=(1, 2)) - 2.0 * values.sum(axis=1)
    return np.sqrt(np.maximum(squares, 0.0) / len(a))


def farthest_points(frames: np.ndarray, atomic_numbers: np.ndarray, count: int) -> np.ndarray:
    """Choose up to ``count`` frames, each time the one farthest from all chosen before.

    Distances are RMSDs over heavy atoms (over all atoms where there are fewer than four heavy
    ones); the first frame comes first, ties go to the earlier frame. Where all are kept, they keep
    their order.

    Args:
        frames: (n_frames, n_atoms, 3) Å.
        atomic_numbers: (n_atoms,).

    Returns:
        (n_chosen,) indices in the order of choice.
    """
    heavy = np.flatnonzero(atomic_numbers > 1)
    atoms = heavy if heavy.size >= 4 else np.arange(atomic_numbers.size)
    coordinates = frames[:, atoms]
    if count >= len(frames) or count == 0:
        return np.arange(min(count, len(frames)))
    chosen = [0]
    nearest = aligned_rmsd(coordinates[0], coordinates)
    nearest[0] = -1.0
    while len(chosen) < count:
        index = int(nearest.argmax())
        chosen.append(index)
        nearest = np.minimum(nearest, aligned_rmsd(coordinates[index], coordinates))
        nearest[chosen] = -1.0
    return np.array(chosen, dtype=np.int64)
