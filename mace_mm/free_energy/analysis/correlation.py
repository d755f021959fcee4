"""Errors of averages over correlated samples, followed along replicas.

An estimator is, to first order, a sum over samples: each adds its influence. The error of the
estimator is that of the sum, and follows from how influences are correlated. For MBAR that is the
central limit theorem of Li, Van Koten, Dinner and Thiede (arXiv:2203.01227).

Exchange deals replicas over the λ windows. A window then sees other molecules in every iteration
and looks uncorrelated while no molecule has changed; a molecule is followed along its replica.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pymbar import timeseries
from scipy.stats import chi2

# A series this short has no autocorrelation to speak of.
_FEWEST_SAMPLES = 4
# The scatter between replicas replaces the estimate from autocorrelations where chance alone makes
# it that large in one run of 20, and means that replicas have not mixed at one of 200.
_LARGER, _NOT_MIXED = 0.05, 0.005


@dataclass(frozen=True, kw_only=True, eq=False)
class Paths:
    """Where the samples of a pool come from.

    Attributes:
        states: (n_samples,) λ window of each sample.
        replicas: (n_samples,) the trajectory it belongs to.
        times: (n_samples,) iteration in which it was taken.
    """

    states: np.ndarray
    replicas: np.ndarray
    times: np.ndarray

    @property
    def exchanged(self) -> bool:
        """Whether a replica was in several windows."""
        order = np.argsort(self.replicas, kind="stable")
        same = np.diff(self.replicas[order]) == 0
        return bool((np.diff(self.states[order])[same] != 0).any())

    def split(self, values: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
        """``values`` (n_samples,) of every group, each in the order of time."""
        order = np.lexsort((self.times, groups))
        ends = np.flatnonzero(np.diff(groups[order])) + 1
        return np.split(values[order], ends)


@dataclass(frozen=True, kw_only=True)
class SumVariance:
    """Variance of a sum over correlated samples, seen from several sides.

    Attributes:
        independent: as if no two samples were correlated.
        within_windows: from the autocorrelation inside each window; right without exchange.
        along_replicas: from the autocorrelation along replicas, about the mean of all: replicas
            that keep apart count as correlated.
        in_time: from the autocorrelation of the sum over all windows of one iteration, which
            holds correlations between replicas, too; None where windows have other lengths.
        between_replicas: from the scatter between whole replicas, the bootstrap over replicas in
            closed form; None without exchange.
        inside_replicas: as along_replicas, about the mean of each replica: what the scatter
            between replicas is if they have mixed; None without exchange.
        n_replicas: trajectories.
    """

    independent: float
    within_windows: float
    along_replicas: float
    in_time: float | None
    between_replicas: float | None
    inside_replicas: float | None
    n_replicas: int

    @property
    def value(self) -> float:
        """The variance to report: the largest view, the bootstrap only beyond its own noise."""
        value = max(self.within_windows, self.along_replicas, self.in_time or 0.0)
        if self.between_replicas is not None:
            limit = chi2.isf(_LARGER, self.n_replicas - 1) / (self.n_replicas - 1)
            if self.between_replicas > limit * value:
                value = self.between_replicas
        return value

    @property
    def inefficiency(self) -> float:
        """How many samples count as one."""
        return self.value / self.independent if self.independent > 0.0 else 1.0

    def at_least(self, inefficiency: float) -> float:
        """The variance, not below what an inefficiency known from elsewhere makes of it."""
        return max(self.value, inefficiency * self.independent)

    @property
    def mixed(self) -> bool:
        """Whether replicas scatter no more than their own fluctuations explain.

        The idea of Gelman and Rubin (Stat. Sci. 7, 457, 1992), with the autocorrelation in.
        """
        if self.between_replicas is None or self.inside_replicas is None:
            return True
        limit = chi2.isf(_NOT_MIXED, self.n_replicas - 1) / (self.n_replicas - 1)
        return self.between_replicas <= limit * self.inside_replicas


def variance_of_sum(influences: np.ndarray, paths: Paths) -> SumVariance:
    """Variance of the sum of ``influences`` (n_samples,), whose mean in each window is zero."""
    windows = paths.split(influences, paths.states)
    replicas = paths.split(influences, paths.replicas)
    independent = float(influences @ influences)
    n_replicas = len(replicas)
    between = inside = None
    if paths.exchanged and n_replicas > 1:
        sums = np.array([series.sum() for series in replicas])
        between = float(n_replicas * sums.var(ddof=1))
        inside = _correlated([series - series.mean() for series in replicas])
    in_time = None
    if len({len(series) for series in windows}) == 1:
        in_time = _correlated([np.sum(windows, axis=0)])
    return SumVariance(
        independent=independent,
        within_windows=sum(_correlated([series]) for series in windows),
        along_replicas=_correlated(replicas),
        in_time=in_time,
        between_replicas=between,
        inside_replicas=inside,
        n_replicas=n_replicas,
    )


def _correlated(series: Sequence[np.ndarray]) -> float:
    """Variance of the sum over independent series of one kind."""
    return inefficiency(*series) * float(sum(values @ values for values in series))


def inefficiency(*series: np.ndarray) -> float:
    """Statistical inefficiency g >= 1 of time series of one kind, about the mean of all.

    Chodera et al., J. Chem. Theory Comput. 3, 26, 2007.
    """
    longest = max(len(values) for values in series)
    pool = np.concatenate(series)
    # Rounding noise of a constant series would look like a correlation.
    if longest < _FEWEST_SAMPLES or np.ptp(pool) <= 1e-9 * (1.0 + np.abs(pool).max()):
        return 1.0
    if len(series) == 1:
        return float(timeseries.statistical_inefficiency(series[0]))
    return float(timeseries.statistical_inefficiency_multiple(list(series)))
