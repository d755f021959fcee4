"""Radial networks as quintic Hermite splines of the distance: value and slope from one table."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mace_mm.errors import BackendError
from mace_mm.kernels.evaluation_form import BLOCK
from mace_mm.model.mace.couplings import ConvolutionPath, convolution_paths, wigner_3j
from mace_mm.model.mace.network import MACE

# Errors to reach, relative to the largest value and the largest slope of a layer's functions.
TOLERANCES = {"single": (1e-7, 5e-6), "double": (1e-12, 1e-10)}
SILU_NORMALIZATION = 1.6791767923989418  # see model.radial.normalized_silu
_BINS = (64, 4096)  # fewest and most
_CHECKS = (0.25, 0.5, 0.77)  # where between two knots the error is measured
_CLOSEST = 0.3  # Å; no atoms come closer, and the transforms have no fourth derivative at 0


class SplineError(NamedTuple):
    """Largest error of a layer's splines over the cutoff's range, relative to the largest value.

    Attributes:
        value: of the radial functions, relative to their largest value.
        derivative: of their slopes, relative to the largest slope.
    """

    value: float
    derivative: float


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Element pairs with a table of their own: species of sender and receiver."""

    senders: torch.Tensor
    receivers: torch.Tensor


def radial_splines(
    network: MACE, species: torch.Tensor, precision: str
) -> tuple[list[torch.Tensor], torch.Tensor, tuple[SplineError, ...]]:
    """Tables of every layer's radial functions, from a network in float64.

    The number of knots is a power of two that meets `TOLERANCES`, mostly the smallest.

    Returns:
        Tables, one a layer, (n_tables, n_bins + 1, channels / 16, n_paths, 3, 16): at each knot
        the value, h times the slope and h**2 times the curvature, float64.
        The table of each pair of species (n_species, n_species), and the errors of each layer.

    Raises:
        BackendError: even 4096 bins do not reach the tolerance.
    """
    n = len(species)
    if network.config.distance_transform is None:
        index = torch.zeros(n, n, dtype=torch.int64)
        pairs = _Pairs(senders=species[:1], receivers=species[:1])
    else:
        rows, columns = torch.triu_indices(n, n)
        index = torch.zeros(n, n, dtype=torch.int64)
        index[rows, columns] = index[columns, rows] = torch.arange(len(rows))
        pairs = _Pairs(senders=species[rows], receivers=species[columns])
    layers = range(len(network.layers))
    fewest, most = _BINS
    n_bins = fewest
    while True:
        grid = _sample(network, pairs, n_bins)
        errors = tuple(_error(network, i, grid) for i in layers)
        wanted = max(_bins_factor(e, precision) for e in errors)
        if wanted <= 1.0:
            tables = [_table(network, i, grid) for i in layers]
            return tables, index, errors
        if n_bins == most:
            tolerance = TOLERANCES[precision]
            raise BackendError(f"{most} spline bins leave errors of {errors}, wanted {tolerance}")
        # The next size that the order of the error promises; a little early, it is only a guess.
        n_bins = min(most, n_bins * 2 ** max(1, math.ceil(math.log2(0.8 * wanted))))


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Basis functions with two derivatives, at the knots and at points between them.

    Attributes:
        n_tables: pairs of species.
        n_bins: intervals between knots.
        spacing: Å.
        first: the first interval that is checked.
        knots: basis, its slope and its curvature, each (n_tables * (n_bins + 1), n_radial).
        between: the same for each of `_CHECKS`, on the intervals that are checked.
    """

    n_tables: int
    n_bins: int
    spacing: float
    first: int
    knots: list[torch.Tensor]
    between: list[list[torch.Tensor]]


def _sample(network: MACE, pairs: _Pairs, n_bins: int) -> _Grid:
    spacing = network.r_max / n_bins
    distances = torch.arange(n_bins + 1, dtype=torch.float64) * spacing
    distances[0] = 1e-2 * spacing  # sin(x) / x has no value in floating point at 0
    first = int(_CLOSEST / spacing)
    starts = torch.arange(first, n_bins, dtype=torch.float64)
    return _Grid(
        n_tables=len(pairs.senders),
        n_bins=n_bins,
        spacing=spacing,
        first=first,
        knots=_basis(network, pairs, distances),
        between=[_basis(network, pairs, (starts + t) * spacing) for t in _CHECKS],
    )


def _basis(network: MACE, pairs: _Pairs, distances: torch.Tensor) -> list[torch.Tensor]:
    senders = pairs.senders.repeat_interleave(len(distances))
    receivers = pairs.receivers.repeat_interleave(len(distances))
    with torch.enable_grad():
        d = distances.repeat(len(pairs.senders)).requires_grad_(True)
        values = network.radial_basis(d, senders, receivers).unbind(1)
        slopes = [torch.autograd.grad(v.sum(), d, create_graph=True)[0] for v in values]
        curvatures = [torch.autograd.grad(s.sum(), d, retain_graph=True)[0] for s in slopes]
    return [torch.stack(list(c), dim=1).detach() for c in (values, slopes, curvatures)]


def _bins_factor(error: SplineError, precision: str) -> float:
    """How many times more bins would bring the error down to the tolerance."""
    value, derivative = TOLERANCES[precision]
    return max((error.value / value) ** (1 / 6), (error.derivative / derivative) ** (1 / 5))


def _derivatives(
    network: MACE, layer: int, basis: list[torch.Tensor], n_tables: int
) -> list[torch.Tensor]:
    """Radial functions and derivatives by distance, each (n_tables, n_distances, paths * C).

    Derivatives of the few basis functions are carried through the perceptron by the chain rule.
    """
    x, dx, ddx = basis
    module: Any = network.layers[layer]
    weights = module.interaction.radial.weights
    for i, weight in enumerate(weights):
        matrix = weight * weight.size(0) ** -0.5
        x, dx, ddx = x @ matrix, dx @ matrix, ddx @ matrix
        if i < len(weights) - 1:
            s = torch.sigmoid(x)
            first = s * (1 + x * (1 - s))
            second = s * (1 - s) * (2 + x * (1 - 2 * s))
            g = SILU_NORMALIZATION
            x, dx, ddx = g * x * s, g * first * dx, g * (second * dx * dx + first * ddx)
    return [f.reshape(n_tables, -1, f.size(-1)) for f in (x, dx, ddx)]


def _knots(network: MACE, layer: int, grid: _Grid) -> list[torch.Tensor]:
    found = _derivatives(network, layer, grid.knots, grid.n_tables)
    # The envelope leaves nothing at the cutoff; rounding would.
    for values in found:
        values[:, -1] = 0.0
    return [values * grid.spacing**k for k, values in enumerate(found)]


def _error(network: MACE, layer: int, grid: _Grid) -> SplineError:
    knots = _knots(network, layer, grid)
    worst = [0.0, 0.0]
    largest = [0.0, 0.0]
    for t, basis in zip(_CHECKS, grid.between, strict=True):
        exact = _derivatives(network, layer, basis, grid.n_tables)
        for k, values in enumerate(interpolate(knots, t)):
            got = values[:, grid.first :] / grid.spacing**k
            worst[k] = max(worst[k], float((got - exact[k]).abs().max()))
            largest[k] = max(largest[k], float(exact[k].abs().max()))
    return SplineError(worst[0] / max(largest[0], 1e-30), worst[1] / max(largest[1], 1e-30))


def interpolate(knots: list[torch.Tensor], t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and h times the slope at fraction t of every bin; knots (n_tables, n_bins + 1, ...)."""
    near = [k[:, :-1] for k in knots]
    far = [k[:, 1:] for k in knots]
    s = 1.0 - t
    step = far[0] - near[0]
    value = near[0] + t**3 * (10 - 15 * t + 6 * t * t) * step
    value = value + t * s**3 * (1 + 3 * t) * near[1] - t**3 * s * (4 - 3 * t) * far[1]
    value = value + 0.5 * t**2 * s**3 * near[2] + 0.5 * t**3 * s**2 * far[2]
    slope = 30 * t**2 * s**2 * step + s**2 * (1 + 2 * t - 15 * t * t) * near[1]
    slope = slope + t**2 * (28 * t - 12 - 15 * t * t) * far[1]
    slope = slope + 0.5 * t * s**2 * (2 - 5 * t) * near[2] + 0.5 * t**2 * s * (3 - 5 * t) * far[2]
    return value, slope


def _table(network: MACE, layer: int, grid: _Grid) -> torch.Tensor:
    config = network.config
    paths = convolution_paths(config.hidden_l(layer), config.l_max)
    knots = _knots(network, layer, grid)
    factors = torch.tensor([_identity_factor(path) for path in paths], dtype=torch.float64)
    shape = (grid.n_tables, grid.n_bins + 1, len(paths), config.channels // BLOCK, BLOCK)
    stacked = torch.stack([k.reshape(shape) * factors[:, None, None] for k in knots], dim=4)
    return stacked.permute(0, 1, 3, 2, 4, 5).contiguous()


def _identity_factor(path: ConvolutionPath) -> float:
    """What the couplings of a path that only copies (l_in or l_edge is 0) multiply by."""
    if path.l_in and path.l_edge:
        return 1.0
    table = wigner_3j(path.l_in, path.l_edge, path.l_out) * (2 * path.l_out + 1) ** 0.5
    return float(table.reshape(2 * path.l_out + 1, -1)[0, 0])
