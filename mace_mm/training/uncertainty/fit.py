"""Fitting the uncertainty of a trained model: training features, calibrated on held-out frames."""

import logging

import numpy as np
import torch

from mace_mm.data.labels import FrameSource
from mace_mm.errors import DataError
from mace_mm.graph.batching import build_graph
from mace_mm.model.mace.features import scalar_features
from mace_mm.model.potential import Potential
from mace_mm.model.uncertainty import Uncertainty

_LOG = logging.getLogger(__name__)

# Relative size of the ridge on the covariance: features of little variance must not dominate.
_SHRINKAGE = 1e-3
_MIN_ATOMS = 200
_N_KNOTS = 20


def fit_uncertainty(
    potential: Potential,
    sha256: str,
    train: FrameSource,
    held_out: FrameSource,
    *,
    max_frames: int = 1000,
    seed: int = 0,
) -> Uncertainty:
    """Learn the training features and what distances mean in force errors.

    Args:
        potential: trained, one head, float64, evaluation mode.
        sha256: of its weights.
        train: the frames it was trained on.
        held_out: frames it was not trained on, with forces.
        max_frames: use this many of each at most.
        seed: of the choice.

    Raises:
        DataError: too few labelled atoms to calibrate.
    """
    means, whitening, seen = _training_features(potential, _some(train, max_frames, seed), train)
    raw = Uncertainty(
        sha256=sha256,
        means=means,
        whitening=whitening,
        seen=seen,
        knots=torch.tensor([0.0, 1.0], dtype=torch.float64),
        errors=torch.tensor([0.0, 1.0], dtype=torch.float64),
    )
    distances, errors = [], []
    config = potential.network.config
    for index in _some(held_out, max_frames, seed):
        frame = held_out[int(index)]
        if frame.forces is None:
            continue
        graph = build_graph(frame.molecule, config.atomic_numbers, config.r_max)
        difference = potential(graph).forces.detach().numpy() - frame.forces
        distances.append(raw.distances(potential, graph).numpy())
        errors.append(np.square(difference).mean(axis=1))
    n_atoms = sum(len(d) for d in distances)
    if n_atoms < _MIN_ATOMS:
        raise DataError(
            f"calibrating needs {_MIN_ATOMS} atoms with forces in held-out frames, got {n_atoms}"
        )
    knots, levels = calibrate(np.concatenate(distances), np.concatenate(errors))
    _LOG.info(
        "expected force errors from %.0f to %.0f meV/Å on held-out frames",
        1e3 * levels[0],
        1e3 * levels[-1],
    )
    return Uncertainty(
        sha256=sha256,
        means=means,
        whitening=whitening,
        seen=seen,
        knots=torch.from_numpy(knots),
        errors=torch.from_numpy(levels),
    )


def calibrate(distances: np.ndarray, square_errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root-mean-square error as a function of distance that never falls.

    Groups of equal numbers of atoms, ordered by distance, made monotone by pooling neighbors that
    violate the order (isotonic regression).

    Args:
        distances: (n_atoms,); infinite ones are left out.
        square_errors: (n_atoms,) mean square of the atom's force components, eV²/Å².

    Returns:
        knots and errors, (n_knots,) each, knots strictly ascending.
    """
    finite = np.isfinite(distances)
    order = np.argsort(distances[finite], kind="stable")
    d, e = distances[finite][order], square_errors[finite][order]
    groups = np.array_split(np.arange(d.size), min(_N_KNOTS, d.size))
    pooled: list[list[float]] = []  # mean square, atoms, groups
    for group in groups:
        pooled.append([float(e[group].mean()), float(group.size), 1.0])
        while len(pooled) > 1 and pooled[-2][0] > pooled[-1][0]:
            last, before = pooled.pop(), pooled.pop()
            atoms = last[1] + before[1]
            mean = (last[0] * last[1] + before[0] * before[1]) / atoms
            pooled.append([mean, atoms, last[2] + before[2]])
    levels = np.concatenate([np.full(int(n), mean) for mean, _, n in pooled])
    knots = np.array([d[group].mean() for group in groups])
    keep = np.concatenate([[True], np.diff(knots) > 1e-9])
    knots, levels = knots[keep], np.sqrt(levels[keep])
    if knots.size == 1:
        knots, levels = np.array([0.0, knots[0]]), np.repeat(levels, 2)
    return knots, levels


def _some(source: FrameSource, max_frames: int, seed: int) -> np.ndarray:
    order = np.random.default_rng([seed, 41]).permutation(len(source))
    return order[:max_frames]


def _training_features(
    potential: Potential, indices: np.ndarray, source: FrameSource
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    config = potential.network.config
    n, width = config.n_species, config.n_layers * config.channels
    count = torch.zeros(n, dtype=torch.float64)
    first = torch.zeros(n, width, dtype=torch.float64)
    second = torch.zeros(n, width, width, dtype=torch.float64)
    for index in indices:
        molecule = source[int(index)].molecule
        graph = build_graph(molecule, config.atomic_numbers, config.r_max)
        with torch.no_grad():
            features = scalar_features(potential.network, graph)
        for z in graph.species.unique():
            chosen = features[graph.species == z]
            count[z] += chosen.size(0)
            first[z] += chosen.sum(0)
            second[z] += chosen.T @ chosen
    seen = count > 0
    n_atoms = count.clamp(min=1.0)
    means = first / n_atoms[:, None]
    covariance = second / n_atoms[:, None, None] - means[:, :, None] * means[:, None, :]
    ridge = _SHRINKAGE * covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    covariance = covariance + ridge[:, None, None] * torch.eye(width, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    floor = ridge.unsqueeze(1).expand_as(values)
    whitening = vectors * torch.maximum(values, floor).rsqrt().unsqueeze(1)
    return means, whitening / width**0.5, seen
