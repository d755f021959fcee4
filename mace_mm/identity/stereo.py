"""Stereochemistry of atoms in space: handedness of centers, sides of double bonds."""

from dataclasses import dataclass

import numpy as np

from mace_mm.identity.bonds import minimum_image

# A sign is clear beyond this: of a volume in units of the ideal tetrahedron's, which thermal motion
# at 500 K leaves above 0.5, or of a torsion's cosine, 14 degrees past perpendicular.
_CLEAR = 0.25
_IDEAL_FOUR = 16.0 / (3.0 * np.sqrt(3.0))
_IDEAL_THREE = _IDEAL_FOUR / 4.0
NO_ATOM = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Stereo:
    """Where a molecule has a configuration.

    Attributes:
        centers: (n_centers, 5) the center and its four neighbors; the last is -1 where a lone pair
            takes its place.
        double_bonds: (n_double, 4) i, a, b, j: the double bond is a-b, i and j are the neighbors
            that are cis or trans.
    """

    centers: np.ndarray
    double_bonds: np.ndarray

    @staticmethod
    def none() -> "Stereo":
        """No stereochemistry at all."""
        return Stereo(
            centers=np.empty((0, 5), dtype=np.int64), double_bonds=np.empty((0, 4), dtype=np.int64)
        )


def handedness(
    centers: np.ndarray, positions: np.ndarray, cell: np.ndarray | None = None
) -> np.ndarray:
    """Signed volumes of centers, 1 for an ideal tetrahedron, 0 for a flat one.

    Args:
        centers: (n_centers, 5), see `Stereo`.
        positions: (..., n_atoms, 3) Å.
        cell: (3, 3) rows, Å; None in vacuum.

    Returns:
        (..., n_centers).
    """
    middle = positions[..., centers[:, :1], :]
    arms = minimum_image(positions[..., centers[:, 1:], :] - middle, cell)
    arms = arms / np.maximum(np.linalg.norm(arms, axis=-1, keepdims=True), 1e-12)
    lone = centers[:, 4] == NO_ATOM
    fourth = np.where(lone[:, None], 0.0, arms[..., 3, :])
    volumes = np.linalg.det(arms[..., :3, :] - fourth[..., None, :])
    return volumes / np.where(lone, _IDEAL_THREE, _IDEAL_FOUR)


def sides(
    double_bonds: np.ndarray, positions: np.ndarray, cell: np.ndarray | None = None
) -> np.ndarray:
    """Cosines of the torsions of double bonds: 1 for cis, -1 for trans; (..., n_double)."""
    i, a, b, j = (positions[..., double_bonds[:, k], :] for k in range(4))
    axis = minimum_image(b - a, cell)
    axis = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-12)
    arms = []
    for end, root in ((i, a), (j, b)):
        arm = minimum_image(end - root, cell)
        arm = arm - (arm * axis).sum(axis=-1, keepdims=True) * axis
        arms.append(arm / np.maximum(np.linalg.norm(arm, axis=-1, keepdims=True), 1e-12))
    return (arms[0] * arms[1]).sum(axis=-1)


def is_clear(values: np.ndarray) -> np.ndarray:
    """Whether the sign of a handedness or of a side can be told."""
    return np.abs(values) > _CLEAR


def flipped(values: np.ndarray, before: np.ndarray, was: np.ndarray) -> np.ndarray:
    """Which values have the other sign, clearly; a value in between stays what it ``was``."""
    relative = values * before
    return relative < np.where(was, _CLEAR, -_CLEAR) * np.abs(before)
