"""States of a coordinate from its values: basins between minima of the density of all replicas.

Fixed sectors (gauche, anti) would cut through wells that stand elsewhere, between sp2 atoms or in a
strained ligand, and count every crossing of the cut as a transition. Pooled over replicas that
start in different conformers the density shows the wells themselves, also where no replica ever
went between them.

The density is a histogram smoothed with a Gaussian. Two maxima are two basins if the density
between them falls below a third of the lower one, a barrier of kT: less is no barrier. A value is
inside a basin, in its core, where the density is at least a fifth of the basin's peak; elsewhere
the coordinate is between states and keeps the one it had (core sets, Schütte et al., J. Chem. Phys.
134, 204105, 2011), so that a look over the barrier is no transition.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BETWEEN = -1
_VALLEY = 1.0 / 3.0
_CORE = 0.2
_BINS_PER_WIDTH = 5
# Widths of smoothing: degrees of a full turn, Å of a pucker, of an inversion's volume.
TORSION_WIDTH, RING_WIDTH, INVERSION_WIDTH = 10.0, 0.07, 0.12


@dataclass(frozen=True, kw_only=True, eq=False)
class Basins:
    """Basins of one number.

    Attributes:
        peaks: (n_basins,) where the density is highest, ascending.
        edges: (n_bins + 1,) of the histogram that the density was made of.
        labels: (n_bins,) basin of a value there, :data:`BETWEEN` outside of all cores.
        nearest: (n_bins,) basin of a value there, with no gaps.
        period: of the number, None if it does not come round.
    """

    peaks: np.ndarray
    edges: np.ndarray
    labels: np.ndarray
    nearest: np.ndarray
    period: float | None

    @property
    def n_basins(self) -> int:
        return len(self.peaks)

    def label(self, values: np.ndarray) -> np.ndarray:
        """Basin of each value, :data:`BETWEEN` outside of all cores and for NaN."""
        values = np.asarray(values, dtype=np.float64)
        known = np.isfinite(values)
        places = self._bin(np.where(known, values, self.edges[0]))
        return np.where(known, self.labels[places], BETWEEN)

    def near(self, values: np.ndarray) -> np.ndarray:
        """The basin on whose side of the cuts each value lies."""
        return self.nearest[self._bin(np.asarray(values, dtype=np.float64))]

    def find(self, value: float, reach: float) -> int | None:
        """The basin that a well at a value belongs to: its core, or a peak within reach."""
        place = int(self._bin(np.array(value)))
        inside = self.edges[0] <= value <= self.edges[-1] or self.period is not None
        if inside and self.labels[place] != BETWEEN:
            return int(self.labels[place])
        apart = distance(self.peaks, value, self.period)
        best = int(np.argmin(apart))
        return best if apart[best] <= reach else None

    def _bin(self, values: np.ndarray) -> np.ndarray:
        if self.period is not None:
            values = np.mod(values, self.period)
        places = np.searchsorted(self.edges, values, side="right") - 1
        return np.clip(places, 0, len(self.labels) - 1)


def distance(values: np.ndarray, other: float, period: float | None) -> np.ndarray:
    """How far apart, the short way round."""
    apart = np.abs(np.asarray(values) - other)
    return apart if period is None else np.minimum(apart % period, -apart % period)


def find_basins(values: np.ndarray, width: float, period: float | None) -> Basins:
    """Divide the range of a number into basins.

    Args:
        values: any shape, NaN are left out.
        width: of the smoothing, in the values' unit.
        period: None if the number does not come round; else values lie in [0, period).
    """
    known = values[np.isfinite(values)]
    if period is None:
        low, high = known.min() - 5.0 * width, known.max() + 5.0 * width
    else:
        low, high = 0.0, period
        width = min(width, period / 12.0)
    n_bins = max(12, int(np.ceil((high - low) / width * _BINS_PER_WIDTH)))
    counts, edges = np.histogram(known, bins=n_bins, range=(low, high))
    density = _smooth(counts.astype(np.float64), width / (edges[1] - edges[0]), period is not None)
    peaks = _peaks(density, period is not None)
    nearest = _watershed(density, peaks, period is not None)
    core = density >= _CORE * density[np.array(peaks)][nearest]
    return Basins(
        peaks=0.5 * (edges[:-1] + edges[1:])[peaks],
        edges=edges,
        labels=np.where(core, nearest, BETWEEN),
        nearest=nearest,
        period=period,
    )


def _smooth(counts: np.ndarray, width_bins: float, periodic: bool) -> np.ndarray:
    reach = int(np.ceil(4.0 * width_bins))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width_bins) ** 2)
    weights /= weights.sum()
    if not periodic:
        return np.convolve(np.pad(counts, reach), weights, mode="valid")
    padded = np.take(counts, np.arange(-reach, len(counts) + reach), mode="wrap")
    return np.convolve(padded, weights, mode="valid")


def _peaks(density: np.ndarray, periodic: bool) -> list[int]:
    """Bins of maxima between which the density is low, ascending."""
    n = len(density)
    left = np.roll(density, 1) if periodic else np.concatenate([[0.0], density[:-1]])
    right = np.roll(density, -1) if periodic else np.concatenate([density[1:], [0.0]])
    maxima = np.flatnonzero((density > left) & (density >= right) & (density > 0.0))
    if not len(maxima):
        return [int(np.argmax(density))]
    kept: list[int] = []
    # From the highest down: a maximum stays if a valley parts it from every higher one.
    for place in sorted(maxima, key=lambda i: -density[i]):
        if all(
            _lowest(density, int(place), other, n, periodic) < _VALLEY * density[place]
            for other in kept
        ):
            kept.append(int(place))
    return sorted(kept)


def _lowest(density: np.ndarray, one: int, two: int, n: int, periodic: bool) -> float:
    """The highest pass between two bins: the lowest density on the better way."""
    low, high = min(one, two), max(one, two)
    inner = float(density[low : high + 1].min())
    if not periodic:
        return inner
    outer = float(np.take(density, np.arange(high, low + n + 1), mode="wrap").min())
    return max(inner, outer)


def _watershed(density: np.ndarray, peaks: Sequence[int], periodic: bool) -> np.ndarray:
    """The peak that each bin belongs to: the cuts are the lowest bins between neighbors."""
    n = len(density)
    nearest = np.zeros(n, dtype=np.int64)
    if len(peaks) == 1:
        return nearest
    cuts = [
        low + int(np.argmin(density[low : high + 1]))
        for low, high in zip(peaks[:-1], peaks[1:], strict=True)
    ]
    for label, cut in enumerate(cuts, start=1):
        nearest[cut:] = label
    if periodic:
        ring = np.arange(peaks[-1], peaks[0] + n + 1)
        cut = int(ring[np.argmin(np.take(density, ring, mode="wrap"))])
        if cut < n:
            nearest[cut:] = 0
        else:
            nearest[: cut - n] = len(peaks) - 1
    return nearest
