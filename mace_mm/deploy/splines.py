"""Radial networks as Hermite splines of the distance, with value and slope from one table."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.func import jvp

from mace_mm.errors import BackendError
from mace_mm.kernels.evaluation_form import BLOCK
from mace_mm.model.couplings import ConvolutionPath, convolution_paths, wigner_3j
from mace_mm.model.mace import MACE

# Errors to reach, relative to the largest value and the largest slope of a layer's functions.
TOLERANCES = {"single": (1e-7, 2e-6), "double": (1e-12, 1e-10)}
SILU_NORMALIZATION = 1.6791767923989418  # see model.radial.normalized_silu
_BINS = (64, 128, 256, 512, 1024, 2048, 4096)
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

    The number of knots is the smallest power of two that meets `TOLERANCES`.

    Returns:
        Tables, one a layer, (n_tables, n_bins + 1, channels / 16, n_paths, 2 or 3, 16): at each
        knot the value, h times the slope and, in double precision, h**2 times the curvature.
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
    errors: tuple[SplineError, ...] = ()
    for n_bins in _BINS:
        errors = tuple(
            _error(network, i, pairs, n_bins, precision) for i in range(len(network.layers))
        )
        value, derivative = TOLERANCES[precision]
        if all(e.value <= value and e.derivative <= derivative for e in errors):
            tables = [
                _table(network, i, pairs, n_bins, precision) for i in range(len(network.layers))
            ]
            return tables, index, errors
    raise BackendError(f"splines of {n_bins} bins leave errors of {errors}, wanted {value}")


def _derivatives(
    network: MACE, layer: int, pairs: _Pairs, distances: torch.Tensor, order: int
) -> list[torch.Tensor]:
    """Radial functions and derivatives by distance, each (n_tables, n_distances, paths * C).

    Derivatives of the few basis functions are found by forward differentiation and carried
    through the perceptron by the chain rule.
    """
    n_tables, n_distances = len(pairs.senders), len(distances)
    senders = pairs.senders.repeat_interleave(n_distances)
    receivers = pairs.receivers.repeat_interleave(n_distances)

    def slope(function):  # type: ignore[no-untyped-def]
        return lambda d: jvp(function, (d,), (torch.ones_like(d),))[1]

    functions = [lambda d: network.radial_basis(d, senders, receivers)]
    for _ in range(2):
        functions.append(slope(functions[-1]))
    x, dx, ddx = (f(distances.repeat(n_tables)) for f in functions)
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
    return [f.reshape(n_tables, n_distances, -1) for f in (x, dx, ddx)[: order + 1]]


def _knots(
    network: MACE, layer: int, pairs: _Pairs, n_bins: int, precision: str
) -> tuple[list[torch.Tensor], float]:
    spacing = network.r_max / n_bins
    distances = torch.arange(n_bins + 1, dtype=torch.float64) * spacing
    distances[0] = 1e-2 * spacing  # sin(x) / x has no value in floating point at 0
    order = 1 if precision == "single" else 2
    found = _derivatives(network, layer, pairs, distances, order)
    # The envelope leaves nothing at the cutoff; rounding would.
    for values in found:
        values[:, -1] = 0.0
    return [values * spacing**k for k, values in enumerate(found)], spacing


def _error(network: MACE, layer: int, pairs: _Pairs, n_bins: int, precision: str) -> SplineError:
    knots, spacing = _knots(network, layer, pairs, n_bins, precision)
    start = int(_CLOSEST / spacing)
    worst = [0.0, 0.0]
    largest = [0.0, 0.0]
    for t in _CHECKS:
        where = (torch.arange(start, n_bins, dtype=torch.float64) + t) * spacing
        exact = _derivatives(network, layer, pairs, where, 1)
        for k, values in enumerate(interpolate(knots, t)):
            got = values[:, start:] / spacing**k
            worst[k] = max(worst[k], float((got - exact[k]).abs().max()))
            largest[k] = max(largest[k], float(exact[k].abs().max()))
    return SplineError(worst[0] / max(largest[0], 1e-30), worst[1] / max(largest[1], 1e-30))


def interpolate(knots: list[torch.Tensor], t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and h times the slope at fraction t of every bin; knots (n_tables, n_bins + 1, ...)."""
    near = [k[:, :-1] for k in knots]
    far = [k[:, 1:] for k in knots]
    s = 1.0 - t
    step = far[0] - near[0]
    if len(knots) == 2:
        value = near[0] + t * t * (3 - 2 * t) * step + t * s * s * near[1] - t * t * s * far[1]
        slope = 6 * t * s * step + s * (1 - 3 * t) * near[1] + t * (3 * t - 2) * far[1]
        return value, slope
    value = near[0] + t**3 * (10 - 15 * t + 6 * t * t) * step
    value = value + t * s**3 * (1 + 3 * t) * near[1] - t**3 * s * (4 - 3 * t) * far[1]
    value = value + 0.5 * t**2 * s**3 * near[2] + 0.5 * t**3 * s**2 * far[2]
    slope = 30 * t**2 * s**2 * step + s**2 * (1 + 2 * t - 15 * t * t) * near[1]
    slope = slope + t**2 * (28 * t - 12 - 15 * t * t) * far[1]
    slope = slope + 0.5 * t * s**2 * (2 - 5 * t) * near[2] + 0.5 * t**2 * s * (3 - 5 * t) * far[2]
    return value, slope


def _table(network: MACE, layer: int, pairs: _Pairs, n_bins: int, precision: str) -> torch.Tensor:
    config = network.config
    paths = convolution_paths(config.hidden_l(layer), config.l_max)
    knots, _ = _knots(network, layer, pairs, n_bins, precision)
    factors = torch.tensor([_identity_factor(path) for path in paths], dtype=torch.float64)
    shape = (len(pairs.senders), n_bins + 1, len(paths), config.channels // BLOCK, BLOCK)
    stacked = torch.stack([k.reshape(shape) * factors[:, None, None] for k in knots], dim=4)
    return stacked.permute(0, 1, 3, 2, 4, 5).contiguous()


def _identity_factor(path: ConvolutionPath) -> float:
    """What the couplings of a path that only copies (l_in or l_edge is 0) multiply by."""
    if path.l_in and path.l_edge:
        return 1.0
    table = wigner_3j(path.l_in, path.l_edge, path.l_out) * (2 * path.l_out + 1) ** 0.5
    return float(table.reshape(2 * path.l_out + 1, -1)[0, 0])
