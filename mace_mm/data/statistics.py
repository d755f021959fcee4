"""Numbers that a model takes from its training data: isolated-atom energies, neighbors, scales."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mace_mm.data.labels import FrameSource, elements_of
from mace_mm.elements import symbol
from mace_mm.errors import DataError
from mace_mm.graph.neighbors import neighbor_list

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What one pass over the frames gives.

    Attributes:
        elements: sorted atomic numbers that occur.
        atomic_energies: head -> atomic number -> isolated-atom energy, eV (given or fitted).
        energies_fitted: head -> True if fitted to total energies.
        avg_num_neighbors: mean number of neighbors of an atom within the cutoff.
        forces_rms: root mean square of all force components, eV/Å; NaN without forces.
        interaction_energy_mean: mean of (energy - sum of atomic energies) / n_atoms, eV; NaN
            without energies.
        interaction_energy_std: its standard deviation over frames, eV.
        n_frames: frames used.
        n_atoms: atoms in them.
    """

    elements: tuple[int, ...]
    atomic_energies: dict[str, dict[int, float]]
    energies_fitted: dict[str, bool]
    avg_num_neighbors: float
    forces_rms: float
    interaction_energy_mean: float
    interaction_energy_std: float
    n_frames: int
    n_atoms: int


def compute_statistics(
    source: FrameSource,
    *,
    cutoff: float,
    atomic_energies: Mapping[str, Mapping[int, float]] | None = None,
    max_frames: int | None = 20000,
    seed: int = 0,
) -> Statistics:
    """Go once over the frames and gather what a model needs.

    Args:
        source: the training frames.
        cutoff: Å, for the neighbor count.
        atomic_energies: head -> atomic number -> eV; heads not named here are fitted.
        max_frames: use a seeded random sample of this many frames; None uses all.
        seed: of the sample.

    Raises:
        DataError: no frames, or given atomic energies lack an element of the data.
    """
    if len(source) == 0:
        raise DataError("statistics need at least one frame, got none")
    frames = np.arange(len(source))
    if max_frames is not None and max_frames < frames.size:
        frames = np.sort(np.random.default_rng(seed).choice(frames, max_frames, replace=False))
    elements = elements_of(source)
    gathered = _gather(source, frames, elements, cutoff)
    given = {} if atomic_energies is None else {h: dict(e) for h, e in atomic_energies.items()}
    energies: dict[str, dict[int, float]] = {}
    fitted: dict[str, bool] = {}
    residuals = []
    for head, (counts, totals) in gathered.labels.items():
        fitted[head] = head not in given
        if head in given:
            _check_complete(given[head], elements, head)
            energies[head] = {z: float(given[head][z]) for z in elements}
        else:
            energies[head] = fit_atomic_energies(counts, totals, elements)
        table = np.array([energies[head][z] for z in elements])
        residuals.append((totals - counts @ table) / counts.sum(axis=1))
    per_atom = np.concatenate(residuals) if residuals else np.array([np.nan])
    n_force = max(gathered.n_force_components, 1)
    rms = np.sqrt(gathered.force_square / n_force) if gathered.n_force_components else np.nan
    return Statistics(
        elements=elements,
        atomic_energies=energies,
        energies_fitted=fitted,
        avg_num_neighbors=gathered.n_edges / gathered.n_atoms,
        forces_rms=float(rms),
        interaction_energy_mean=float(per_atom.mean()),
        interaction_energy_std=float(per_atom.std()),
        n_frames=int(frames.size),
        n_atoms=gathered.n_atoms,
    )


def fit_atomic_energies(
    counts: np.ndarray, energies: np.ndarray, elements: Sequence[int]
) -> dict[int, float]:
    """Least-squares isolated-atom energies from total energies.

    Solves counts @ E0 = energies. Where the compositions do not determine all elements (one
    molecule only, say) the solution of least norm is taken and a warning says so: sums over the
    compositions seen are then right, single values are not.

    Args:
        counts: (n_frames, n_elements) atoms of each element in each frame.
        energies: (n_frames,) total energies, eV.
        elements: (n_elements,) atomic numbers.

    Returns:
        atomic number -> eV.
    """
    rows, where, n = np.unique(counts, axis=0, return_inverse=True, return_counts=True)
    means = np.bincount(where.reshape(-1), weights=energies) / n
    # One row a composition, weighted by its frames: the same minimum, a much smaller matrix.
    weight = np.sqrt(n.astype(np.float64))
    solution, _, rank, _ = np.linalg.lstsq(rows * weight[:, None], means * weight, rcond=1e-10)
    if rank < len(elements):
        _LOG.warning(
            "the compositions determine %d of %d isolated-atom energies (%s); "
            "the solution of least norm is used",
            rank,
            len(elements),
            " ".join(symbol(z) for z in elements),
        )
    return {int(z): float(e) for z, e in zip(elements, solution, strict=True)}


@dataclass
class _Gathered:
    labels: dict[str, tuple[np.ndarray, np.ndarray]]
    n_atoms: int = 0
    n_edges: int = 0
    force_square: float = 0.0
    n_force_components: int = 0


def _gather(
    source: FrameSource, frames: np.ndarray, elements: tuple[int, ...], cutoff: float
) -> _Gathered:
    found = _Gathered(labels={})
    rows: dict[str, list[np.ndarray]] = {}
    totals: dict[str, list[float]] = {}
    for index in frames:
        frame = source[int(index)]
        molecule = frame.molecule
        found.n_atoms += molecule.n_atoms
        pairs = neighbor_list(molecule.positions, cutoff, molecule.cell)
        found.n_edges += pairs.senders.size
        if frame.forces is not None:
            found.force_square += float(np.square(frame.forces).sum())
            found.n_force_components += frame.forces.size
        if frame.energy is not None:
            place = np.searchsorted(elements, molecule.atomic_numbers)
            counts = np.bincount(place, minlength=len(elements)).astype(np.float64)
            rows.setdefault(frame.head, []).append(counts)
            totals.setdefault(frame.head, []).append(frame.energy)
    found.labels = {head: (np.stack(rows[head]), np.array(totals[head])) for head in rows}
    return found


def _check_complete(table: Mapping[int, float], elements: tuple[int, ...], head: str) -> None:
    missing = [symbol(z) for z in elements if z not in table]
    if missing:
        raise DataError(
            f"isolated-atom energies of head {head!r} lack {' '.join(missing)}; "
            f"got {' '.join(symbol(z) for z in sorted(table))}"
        )
