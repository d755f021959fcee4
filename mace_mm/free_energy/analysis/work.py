"""Free energies from the work of bidirectional switches: BAR, Crooks, Jarzynski."""

import math
from dataclasses import dataclass

import numpy as np
from pymbar import bar_overlap
from pymbar.other_estimators import exp
from scipy.stats import shapiro

from mace_mm.errors import DataError
from mace_mm.free_energy.analysis.bennett import (
    LARGEST_GAP_KT,
    NO_SPREAD_KT,
    bar_influences,
    solve_bar,
    work_gap,
)
from mace_mm.free_energy.analysis.correlation import (
    Paths,
    SumVariance,
    inefficiency,
    variance_of_sum,
)
from mace_mm.free_energy.analysis.equilibration import equilibrated_from, is_over
from mace_mm.free_energy.analysis.estimator import Estimate, kt_kj_mol

_BOOTSTRAPS = 200
_BOOTSTRAP_SEED = 20261
_GAUSSIAN_P_VALUE = 0.05
_FEWEST_SWITCHES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class SwitchAnalysis:
    """What forward and reverse switches say about F(1) - F(0).

    Attributes:
        forward_kt, reverse_kt: (n_switches,) work done on the system, kT, by the switches from
            the equilibrated part.
        left_out: switches of each direction that were left out before it.
        temperature_k: kelvin.
        bar: Bennett's acceptance ratio on the work, the result.
        crooks: crossing of Gaussians through both work distributions.
        gaussian: no evidence against Gaussian work (Shapiro-Wilk), without which the crossing
            means nothing.
        jarzynski_forward, jarzynski_reverse: exponential averages of one direction, biased for
            few or dissipative switches.
        overlap: overlap of the two work distributions, 0 to 1.
        dissipation_kj_mol: mean of the work lost in both directions.
        effective_forward, effective_reverse: independent switches; those that start from
            snapshots of one conformer, which lives longer than a stretch, count as correlated.
        halves: BAR on the first and the second half of the switches.
    """

    forward_kt: np.ndarray
    reverse_kt: np.ndarray
    left_out: int
    temperature_k: float
    bar: Estimate
    crooks: Estimate
    gaussian: bool
    jarzynski_forward: Estimate
    jarzynski_reverse: Estimate
    overlap: float
    dissipation_kj_mol: float
    effective_forward: int
    effective_reverse: int
    halves: tuple[Estimate, Estimate]

    @property
    def equilibrated(self) -> bool:
        """False where the first half of the switches is left out, and more might have to be."""
        return is_over(self.left_out, max(len(self.forward_kt), len(self.reverse_kt)))


def analyze_switches(
    forward_kt: np.ndarray, reverse_kt: np.ndarray, temperature_k: float
) -> SwitchAnalysis:
    """Estimate from the work of switches 0 -> 1 and 1 -> 0, each in the order of time.

    Raises:
        DataError: fewer than four switches in a direction, work that is not finite, or no
            solution.
    """
    work = np.asarray(forward_kt, dtype=np.float64), np.asarray(reverse_kt, dtype=np.float64)
    for name, values in zip(("forward", "reverse"), work, strict=True):
        if len(values) < _FEWEST_SWITCHES:
            raise DataError(f"at least four {name} switches are needed, got {len(values)}")
        if not np.isfinite(values).all():
            raise DataError(f"the work of a {name} switch is not finite")
    influences = _influences(*work, _bar(*work))
    # What is left out may have been the only sign of a slow process: errors do not shrink by it.
    least = variance_of_sum(influences, _paths(*work)).inefficiency
    left_out = equilibrated_from(influences, _paths(*work))
    if min(len(values) for values in work) - left_out < _FEWEST_SWITCHES:
        left_out = 0
    forward, reverse = (values[left_out:] for values in work)
    kt = kt_kj_mol(temperature_k)
    _, variance = _bar_with_variance(forward, reverse)
    least = max(least, variance.inefficiency)
    factors = [max(least, inefficiency(values)) for values in (forward, reverse)]
    n_half_f, n_half_r = len(forward) // 2, len(reverse) // 2
    return SwitchAnalysis(
        forward_kt=forward,
        reverse_kt=reverse,
        left_out=left_out,
        temperature_k=temperature_k,
        bar=_estimate(forward, reverse, kt, least),
        crooks=_scaled(_crooks(forward, reverse), kt, max(factors)),
        gaussian=_looks_gaussian(forward) and _looks_gaussian(reverse),
        jarzynski_forward=_scaled(_jarzynski(forward), kt, max(factors)),
        jarzynski_reverse=-_scaled(_jarzynski(reverse), kt, max(factors)),
        overlap=_overlap(forward, reverse),
        dissipation_kj_mol=float(kt * 0.5 * (forward.mean() + reverse.mean())),
        effective_forward=int(len(forward) / factors[0]),
        effective_reverse=int(len(reverse) / factors[1]),
        halves=(
            _estimate(forward[:n_half_f], reverse[:n_half_r], kt),
            _estimate(forward[n_half_f:], reverse[n_half_r:], kt),
        ),
    )


def _estimate(forward: np.ndarray, reverse: np.ndarray, kt: float, least: float = 1.0) -> Estimate:
    difference, variance = _bar_with_variance(forward, reverse)
    error = math.sqrt(variance.at_least(least))
    return Estimate(value_kj_mol=kt * difference, error_kj_mol=kt * error)


def _scaled(result: tuple[float, float], kt: float, factor: float) -> Estimate:
    """To kJ/mol; correlated switches count for less."""
    return Estimate(value_kj_mol=kt * result[0], error_kj_mol=kt * result[1] * math.sqrt(factor))


def _bar_with_variance(forward: np.ndarray, reverse: np.ndarray) -> tuple[float, SumVariance]:
    difference = _bar(forward, reverse)
    influences = _influences(forward, reverse, difference)
    return difference, variance_of_sum(influences, _paths(forward, reverse))


def _bar(forward: np.ndarray, reverse: np.ndarray) -> float:
    gap = work_gap(forward, reverse)
    if gap > LARGEST_GAP_KT:
        raise DataError(
            f"forward and reverse work do not overlap: {gap:.0f} kT lie between them, at most "
            f"{LARGEST_GAP_KT:g} can be bridged: switch more slowly"
        )
    return solve_bar(forward, reverse)


def _influences(forward: np.ndarray, reverse: np.ndarray, difference: float) -> np.ndarray:
    return np.concatenate(bar_influences(forward, reverse, difference))


def _paths(forward: np.ndarray, reverse: np.ndarray) -> Paths:
    """Each direction is one trajectory, whose snapshots the switches start from."""
    directions = np.repeat([0, 1], [len(forward), len(reverse)])
    times = np.concatenate([np.arange(len(forward)), np.arange(len(reverse))])
    return Paths(states=directions, replicas=directions, times=times)


def _overlap(forward: np.ndarray, reverse: np.ndarray) -> float:
    if max(np.ptp(forward), np.ptp(reverse)) <= NO_SPREAD_KT:
        return 1.0
    return float(bar_overlap(forward, reverse))


def _jarzynski(work: np.ndarray) -> tuple[float, float]:
    solution = exp(work)
    return float(solution["Delta_f"]), float(solution["dDelta_f"])


def _crossing(forward: np.ndarray, reverse: np.ndarray) -> float:
    """Crooks Gaussian intersection (Goette and Grubmüller, J. Comput. Chem. 30, 447, 2009)."""
    mean_f, mean_r = forward.mean(), -reverse.mean()
    var_f, var_r = forward.var(ddof=1), reverse.var(ddof=1)
    middle = 0.5 * (mean_f + mean_r)
    if var_f <= 0.0 or var_r <= 0.0 or abs(var_f - var_r) < 1e-6 * (var_f + var_r):
        return float(middle)
    # Equal logarithms of two Gaussians: a quadratic; the crossing between the means counts.
    a = 1.0 / var_f - 1.0 / var_r
    b = -2.0 * (mean_f / var_f - mean_r / var_r)
    c = mean_f**2 / var_f - mean_r**2 / var_r + math.log(var_f / var_r)
    discriminant = b * b - 4.0 * a * c
    if discriminant < 0.0:
        return float(middle)
    roots = [(-b + sign * math.sqrt(discriminant)) / (2.0 * a) for sign in (-1.0, 1.0)]
    return float(min(roots, key=lambda root: abs(root - middle)))


def _looks_gaussian(work: np.ndarray) -> bool:
    return bool(np.ptp(work) > NO_SPREAD_KT and shapiro(work).pvalue > _GAUSSIAN_P_VALUE)


def _crooks(forward: np.ndarray, reverse: np.ndarray) -> tuple[float, float]:
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    draws = [
        _crossing(generator.choice(forward, len(forward)), generator.choice(reverse, len(reverse)))
        for _ in range(_BOOTSTRAPS)
    ]
    return _crossing(forward, reverse), float(np.std(draws, ddof=1))
