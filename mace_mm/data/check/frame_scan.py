"""One pass over all frames: a few numbers per frame, so that data of any size can be checked."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from mace_mm.data.labels import FrameSource, LabeledMolecule, elements_of
from mace_mm.elements import covalent_radius
from mace_mm.errors import MaceMMError

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, kw_only=True)
class FrameScan:
    """Numbers of every frame that could be read; NaN where a label does not exist.

    Attributes:
        index: (n,) frame number in the source.
        n_atoms: (n,).
        total_charge: (n,) e.
        energy: (n,) eV.
        max_force: (n,) largest force component, eV/Å.
        net_force: (n,) norm of the sum of all forces, eV/Å.
        force_square: (n,) sum of squares of all force components, eV²/Å².
        closest: (n,) shortest distance in units of the two covalent radii (images not looked at).
        shape: (n, 3) numbers that do not change under rotation, translation and reordering.
        composition: (n, n_elements) atoms of each element.
        elements: (n_elements,) sorted atomic numbers.
        head, level_of_theory, subset: (n,) texts.
        force_samples: random force components for a histogram, eV/Å.
        problems: (frame number, what is wrong) of frames that could not be read.
    """

    index: np.ndarray
    n_atoms: np.ndarray
    total_charge: np.ndarray
    energy: np.ndarray
    max_force: np.ndarray
    net_force: np.ndarray
    force_square: np.ndarray
    closest: np.ndarray
    shape: np.ndarray
    composition: np.ndarray
    elements: tuple[int, ...]
    head: np.ndarray
    level_of_theory: np.ndarray
    subset: np.ndarray
    force_samples: np.ndarray
    problems: list[tuple[int, str]] = field(default_factory=list)


def scan_frames(
    source: FrameSource, frames: Iterable[int], progress: Progress | None = None
) -> FrameScan:
    """Read the frames one by one; a frame that cannot be read is listed, not raised.

    Args:
        source: where the frames are.
        frames: frame numbers.
        progress: wraps the loop, for a progress bar.
    """
    elements = elements_of(source)
    rows: list[tuple[float, ...]] = []
    texts: list[tuple[str, str, str]] = []
    compositions: list[np.ndarray] = []
    samples: list[np.ndarray] = []
    problems: list[tuple[int, str]] = []
    rng = np.random.default_rng(0)
    for i in progress(frames) if progress else frames:
        try:
            frame = source[int(i)]
        except MaceMMError as error:
            problems.append((int(i), str(error)))
            continue
        rows.append((int(i), *_numbers(frame)))
        texts.append((frame.head, frame.level_of_theory, frame.subset))
        place = np.searchsorted(elements, frame.molecule.atomic_numbers)
        compositions.append(np.bincount(place, minlength=len(elements)))
        if frame.forces is not None:
            samples.append(rng.choice(frame.forces.reshape(-1), 3))
    table = np.array(rows, dtype=np.float64).reshape(-1, 11)
    words = np.array(texts, dtype=object).reshape(-1, 3)
    return FrameScan(
        index=table[:, 0].astype(np.int64),
        n_atoms=table[:, 1].astype(np.int64),
        total_charge=table[:, 2],
        energy=table[:, 3],
        max_force=table[:, 4],
        net_force=table[:, 5],
        force_square=table[:, 6],
        closest=table[:, 7],
        shape=table[:, 8:11],
        composition=np.array(compositions, dtype=np.int64).reshape(-1, len(elements)),
        elements=elements,
        head=words[:, 0],
        level_of_theory=words[:, 1],
        subset=words[:, 2],
        force_samples=np.concatenate(samples) if samples else np.zeros(0),
        problems=problems,
    )


def find_duplicates(scan: FrameScan, tolerance: float = 1e-6) -> list[tuple[int, int, bool]]:
    """Pairs of frames with the same geometry, wherever they lie in space.

    Returns:
        (first frame, second frame, whether their labels agree), one pair for each duplicate.
        Energies must agree within 1 meV, the forces' norms within 0.02 eV/Å and 0.1 %.
    """
    found: list[tuple[int, int, bool]] = []
    keys = np.concatenate([scan.composition, scan.total_charge[:, None]], axis=1)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    heads = np.unique(scan.head.astype(str), return_inverse=True)[1]
    group = group.reshape(-1) * (heads.max(initial=0) + 1) + heads
    order = np.lexsort((scan.shape[:, 0], group))
    for a, b in zip(order[:-1], order[1:], strict=True):
        if group[a] != group[b] or scan.n_atoms[a] < 2:
            continue
        if np.all(np.abs(scan.shape[a] - scan.shape[b]) <= tolerance * np.abs(scan.shape[a])):
            energy = abs(scan.energy[a] - scan.energy[b])
            norms = np.sqrt(scan.force_square[[a, b]])
            # NaN (no such label) compares as agreeing.
            differ = energy > 1e-3 or np.ptp(norms) > 0.02 + 0.001 * norms[0]
            one, two = sorted((int(scan.index[a]), int(scan.index[b])))
            found.append((one, two, not differ))
    return sorted(found)


def _numbers(frame: LabeledMolecule) -> tuple[float, ...]:
    molecule = frame.molecule
    z = molecule.atomic_numbers.astype(np.float64)
    one, two = np.triu_indices(z.size, 1)
    distance = np.linalg.norm(molecule.positions[one] - molecule.positions[two], axis=1)
    radii = np.array([covalent_radius(int(a)) for a in molecule.atomic_numbers])
    closest = (distance / (radii[one] + radii[two])).min() if distance.size else np.inf
    weight = z[one] * z[two]
    shape = [(weight * np.exp(-distance / reach)).sum() for reach in (1.0, 3.0)]
    volume = 0.0 if molecule.cell is None else abs(np.linalg.det(molecule.cell))
    shape.append((weight * distance).sum() + volume)
    energy = np.nan if frame.energy is None else frame.energy
    if frame.forces is None:
        forces = (np.nan, np.nan, np.nan)
    else:
        forces = (
            float(np.abs(frame.forces).max()),
            float(np.linalg.norm(frame.forces.sum(axis=0))),
            float(np.square(frame.forces).sum()),
        )
    return (z.size, molecule.total_charge, energy, *forces, closest, *shape)
