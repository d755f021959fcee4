"""Dimers at chosen distances and solvated molecules, packed without overlaps."""

import numpy as np

from mace_mm.errors import InputError
from mace_mm.generation.frames.seeding import derive_seed
from mace_mm.generation.molecules.conformers import embed_conformers
from mace_mm.generation.molecules.molecules import from_mapped_smiles
from mace_mm.generation.protocol import ConformerSettings, DimerSettings

PACKING_DISTANCE = 2.0


def random_rotation(generator: np.random.Generator) -> np.ndarray:
    """A uniformly random rotation, (3, 3), from a random unit quaternion."""
    w, x, y, z = (q := generator.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _conformers_of_parts(
    parts: tuple[str, ...], settings: ConformerSettings, seed: int
) -> list[np.ndarray]:
    """Centered conformers (n_conformers, n_atoms, 3) Å of each part; equal parts share them."""
    found: dict[str, np.ndarray] = {}
    for part in parts:
        if part not in found:
            mol = from_mapped_smiles(part)
            frames = embed_conformers(mol, settings, derive_seed(seed, "conformers", part))
            found[part] = frames - frames.mean(axis=1, keepdims=True)
    return [found[part] for part in parts]


def closest_contact(a: np.ndarray, b: np.ndarray) -> float:
    """Smallest distance between the atoms of two sets of positions, Å."""
    return float(np.linalg.norm(a[:, None] - b[None, :], axis=-1).min())


def dimer_frames(
    parts: tuple[str, ...], settings: DimerSettings, conformers: ConformerSettings, seed: int
) -> np.ndarray:
    """Rigid scans of two molecules along random directions.

    Returns:
        (orientations * n_distances, n_atoms, 3) Å; the closest contact of frame k is
        ``distances[k % n_distances]``.
    """
    first, second = _conformers_of_parts(parts, conformers, seed)
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, "orientations")))
    frames = []
    for _ in range(settings.orientations):
        a = first[generator.integers(len(first))] @ random_rotation(generator).T
        b = second[generator.integers(len(second))] @ random_rotation(generator).T
        direction = np.array([0.0, 0.0, 1.0])
        for distance in settings.distances:
            b_there = b + _shift_to_contact(a, b, direction, distance) * direction
            frames.append(np.concatenate([a, b_there]))
    return np.stack(frames)


def _shift_to_contact(
    a: np.ndarray, b: np.ndarray, direction: np.ndarray, distance: float
) -> float:
    """How far b moves along a unit vector until its closest contact with a is ``distance``.

    The largest root: atom pair (i, j) is at that distance where the line pierces a sphere.
    """
    offset = b[None, :] - a[:, None]
    along = offset @ direction
    across = (offset**2).sum(axis=-1) - along**2
    reach = distance**2 - across
    if not (reach > 0.0).any():
        return 0.0
    return float((np.sqrt(np.maximum(reach, 0.0)) - along)[reach > 0.0].max())


def packed_cluster(
    parts: tuple[str, ...], n_packings: int, conformers: ConformerSettings, seed: int
) -> np.ndarray:
    """Place the first part at the center and the others one by one on its surface.

    Returns:
        (n_packings, n_atoms, 3) Å, no intermolecular contact below 2 Å.

    Raises:
        InputError: a part finds no place.
    """
    shapes = _conformers_of_parts(parts, conformers, seed)
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, "packing")))
    packings = []
    for _ in range(n_packings):
        placed = shapes[0][generator.integers(len(shapes[0]))]
        for shape in shapes[1:]:
            placed = np.concatenate([placed, _place(placed, shape, generator)])
        packings.append(placed - placed.mean(axis=0))
    return np.stack(packings)


def _place(placed: np.ndarray, shape: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The best of several random approaches: closest to the center of what is there."""
    center = placed.mean(axis=0)
    best, best_distance = None, np.inf
    for _ in range(20):
        body = shape[generator.integers(len(shape))] @ random_rotation(generator).T + center
        direction = generator.standard_normal(3)
        direction /= np.linalg.norm(direction)
        body = body + _shift_to_contact(placed, body, direction, PACKING_DISTANCE) * direction
        distance = float(np.linalg.norm(body.mean(axis=0) - center))
        if closest_contact(placed, body) > PACKING_DISTANCE - 1e-6 and distance < best_distance:
            best, best_distance = body, distance
    if best is None:
        raise InputError("no place without overlap was found for a solvent molecule")
    return best


def confinement_radius(positions: np.ndarray) -> float:
    """Radius (Å) of the soft sphere that keeps a cluster together: its extent plus 1.5 Å."""
    offset = positions - positions.mean(axis=-2, keepdims=True)
    return float(np.linalg.norm(offset, axis=-1).max()) + 1.5
