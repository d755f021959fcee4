"""What a report shows of a trajectory: deviations from the start and bond lengths."""

import numpy as np
from openmm import app

from mace_mm.errors import InputError
from mace_mm.units import NM_TO_ANGSTROM


def rmsd(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Root mean square deviation from a reference after the best superposition.

    W. Kabsch, Acta Cryst. A 32, 922 (1976): with the singular values s of the covariance matrix,
    the last one with the sign of its determinant, n RMSD² = Σ x² + Σ y² - 2 Σ s.

    Args:
        frames: (n_frames, n_atoms, 3).
        reference: (n_atoms, 3).

    Returns:
        (n_frames,) in the unit of the positions.
    """
    if frames.ndim != 3 or frames.shape[1:] != reference.shape or reference.size == 0:
        raise InputError(
            f"frames (n_frames, n_atoms, 3) must match a reference (n_atoms, 3), n_atoms > 0; got"
            f" {frames.shape} and {reference.shape}"
        )
    x = frames - frames.mean(axis=1, keepdims=True)
    y = reference - reference.mean(axis=0)
    covariance = np.einsum("fai,aj->fij", x, y)
    singular = np.linalg.svd(covariance, compute_uv=False)
    singular[:, 2] *= np.sign(np.linalg.det(covariance))
    squared = (x**2).sum(axis=(1, 2)) + (y**2).sum() - 2.0 * singular.sum(axis=1)
    return np.sqrt(np.maximum(squared, 0.0) / reference.shape[0])


def heavy_atoms(topology: app.Topology) -> np.ndarray:
    """Indices of the atoms that are not hydrogen; all atoms where there is nothing else."""
    indices = [a.index for a in topology.atoms() if a.element and a.element.atomic_number > 1]
    return np.array(indices or range(topology.getNumAtoms()), dtype=np.int64)


def bond_lengths(frames_nm: np.ndarray, topology: app.Topology) -> dict[str, np.ndarray]:
    """Lengths of the bonds of the topology by pair of elements.

    Args:
        frames_nm: (n_frames, n_atoms, 3).
        topology: with bonds; without any the result is empty.

    Returns:
        for each pair such as "C-H" the lengths of all such bonds in all frames, (n,), Å.
    """
    pairs: dict[str, list[tuple[int, int]]] = {}
    for first, second in topology.bonds():
        elements = sorted((first.element, second.element), key=_hydrogen_last)
        name = "-".join(element.symbol for element in elements)
        pairs.setdefault(name, []).append((first.index, second.index))
    lengths = {}
    for name, indices in sorted(pairs.items()):
        bonds = np.array(indices)
        vectors = frames_nm[:, bonds[:, 0]] - frames_nm[:, bonds[:, 1]]
        lengths[name] = np.linalg.norm(vectors, axis=-1).ravel() * NM_TO_ANGSTROM
    return lengths


def _hydrogen_last(element: app.Element) -> tuple[bool, int]:
    return element.atomic_number == 1, element.atomic_number
