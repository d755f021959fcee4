"""Free-energy differences from sampled windows: MBAR, BAR and thermodynamic integration."""

import logging
import math
from dataclasses import dataclass

import numpy as np
from openmm import unit
from scipy.interpolate import CubicSpline

from mace_mm.errors import DataError
from mace_mm.free_energy.analysis.bennett import solve_mbar, sum_of_bar
from mace_mm.free_energy.analysis.correlation import SumVariance, variance_of_sum
from mace_mm.free_energy.analysis.equilibration import equilibrated_from, is_over
from mace_mm.free_energy.sampling.samples import Samples, window_inefficiencies
from mace_mm.units import KCAL_MOL_TO_KJ_MOL

logger = logging.getLogger(__name__)

_GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)

# An estimate needs this many samples of every window for each point of its convergence plot.
_SAMPLES_PER_PART = 2


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A free-energy difference and its standard error, kJ/mol."""

    value_kj_mol: float
    error_kj_mol: float

    @property
    def value_kcal_mol(self) -> float:
        return self.value_kj_mol / KCAL_MOL_TO_KJ_MOL

    @property
    def error_kcal_mol(self) -> float:
        return self.error_kj_mol / KCAL_MOL_TO_KJ_MOL

    def __add__(self, other: "Estimate") -> "Estimate":
        """The sum of independent estimates."""
        return Estimate(
            value_kj_mol=self.value_kj_mol + other.value_kj_mol,
            error_kj_mol=math.hypot(self.error_kj_mol, other.error_kj_mol),
        )

    def __neg__(self) -> "Estimate":
        return Estimate(value_kj_mol=-self.value_kj_mol, error_kj_mol=self.error_kj_mol)

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference of independent estimates."""
        return self + (-other)

    def __str__(self) -> str:
        return (
            f"{self.value_kj_mol:.2f} ± {self.error_kj_mol:.2f} kJ/mol "
            f"({self.value_kcal_mol:.2f} ± {self.error_kcal_mol:.2f} kcal/mol)"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowAnalysis:
    """What the windows of one leg say.

    Attributes:
        samples: all samples of the equilibrated part, which the estimators used.
        left_out: iterations that were left out before it, beyond those the settings leave out.
        variance_kt2: variance of the MBAR estimate, kT², from every side.
        inefficiency: of the MBAR estimate; how many samples count as one. Not below that of the
            whole run: what was left out may have been the only sign of a slow process.
        inefficiencies: (n_states,) of each window, at least that of the estimate.
        mbar, bar: free energy of the last state relative to the first.
        ti: the same by thermodynamic integration, None where dU/dλ is not known.
        profile_kj_mol, profile_errors_kj_mol: (n_states,) MBAR along the path.
        overlap: (n_states, n_states) MBAR overlap matrix, rows sum to 1.
        effective: (n_states,) MBAR's effective number of independent samples in each state.
        forward, backward: estimates from growing parts of the run, taken from its beginning and
            from its end; the last of each uses everything.
        fractions: (n_parts,) the parts.
        halves: of the first and the second half. Their errors are of their own fluctuations, while
            those of ``forward`` and ``backward`` know the whole run: a drift must not excuse
            itself.
    """

    samples: Samples
    left_out: int
    variance_kt2: SumVariance
    inefficiency: float
    inefficiencies: np.ndarray
    mbar: Estimate
    bar: Estimate
    ti: Estimate | None
    profile_kj_mol: np.ndarray
    profile_errors_kj_mol: np.ndarray
    overlap: np.ndarray
    effective: np.ndarray
    forward: tuple[Estimate, ...]
    backward: tuple[Estimate, ...]
    fractions: np.ndarray
    halves: tuple[Estimate, Estimate]

    @property
    def equilibrated(self) -> bool:
        """False where the first half of the run is left out, and more might have to be."""
        return is_over(self.left_out, int(np.ptp(self.samples.paths.times)) + 1)

    @property
    def independent(self) -> tuple[int, ...]:
        """(n_states,) independent samples of each window."""
        return tuple(
            int(count / factor)
            for count, factor in zip(self.samples.counts, self.inefficiencies, strict=True)
        )


def kt_kj_mol(temperature_k: float) -> float:
    """RT in kJ/mol."""
    return float(_GAS_CONSTANT * temperature_k)


def estimate_mbar(samples: Samples, least: float = 1.0) -> Estimate:
    """MBAR between the end states.

    Args:
        samples: of all states.
        least: inefficiency known from a longer run, which the error does not go below.
    """
    solution = solve_mbar(samples)
    return _estimate(solution.profile_kt[-1], solution.influences_kt[:, -1], samples, least)


def estimate_bar(samples: Samples, least: float = 1.0) -> Estimate:
    """Sum of BAR between neighbors; ``least`` as for :func:`estimate_mbar`.

    Raises:
        DataError: the equations cannot be solved.
    """
    value, influences = sum_of_bar(samples)
    return _estimate(value, influences, samples, least)


def estimate_ti(samples: Samples, least: float = 1.0) -> Estimate:
    """Thermodynamic integration of the mean dU/dλ along a cubic spline through the windows.

    The error is statistical; it says nothing about windows that stand too far apart. ``least`` as
    for :func:`estimate_mbar`.
    """
    lambdas = np.array(samples.schedule.coordinates)
    series = [samples.derivative(state) for state in range(len(lambdas))]
    weights = _spline_weights(lambdas)
    value = weights @ np.array([values.mean() for values in series])
    influences = [
        weight * (values - values.mean()) / len(values)
        for weight, values in zip(weights, series, strict=True)
    ]
    return _estimate(value, np.concatenate(influences), samples, least)


def analyze_windows(samples: Samples, n_parts: int = 10) -> WindowAnalysis:
    """Estimate, and look at everything that tells whether the estimate can be trusted.

    The equilibrated part of the samples is found first; all of it is used, and the errors count
    how it is correlated.

    Raises:
        DataError: too few samples, or equations without a solution.
    """
    wanted = _SAMPLES_PER_PART * n_parts
    if min(samples.counts) < wanted:
        raise DataError(
            f"at least {wanted} samples of every window are needed, got {list(samples.counts)}"
        )
    solution = solve_mbar(samples)
    least = variance_of_sum(solution.influences_kt[:, -1], samples.paths).inefficiency
    first = int(samples.paths.times.min())
    start = equilibrated_from(solution.influences_kt[:, -1], samples.paths)
    kept = samples.after(start)
    if start > first and min(kept.counts) >= wanted:
        samples, solution = kept, solve_mbar(kept)
    else:
        start = first
    kt = kt_kj_mol(samples.temperature_k)
    variances = [variance_of_sum(column, samples.paths) for column in solution.influences_kt.T]
    least = max(least, variances[-1].inefficiency)
    mbar = _estimate(solution.profile_kt[-1], solution.influences_kt[:, -1], samples, least)
    fractions = np.arange(1, n_parts + 1) / n_parts
    forward = [samples.part(0.0, float(end)) for end in fractions[:-1]]
    backward = [samples.part(1.0 - float(end), 1.0) for end in fractions[:-1]]
    return WindowAnalysis(
        samples=samples,
        left_out=start - first,
        variance_kt2=variances[-1],
        inefficiency=least,
        inefficiencies=np.maximum(window_inefficiencies(samples), least),
        mbar=mbar,
        bar=estimate_bar(samples, least),
        ti=estimate_ti(samples, least) if samples.schedule.linear else None,
        profile_kj_mol=kt * solution.profile_kt,
        profile_errors_kj_mol=kt * np.sqrt([variance.at_least(least) for variance in variances]),
        overlap=solution.overlap,
        effective=solution.effective / least,
        forward=(*(estimate_mbar(part, least) for part in forward), mbar),
        backward=(*(estimate_mbar(part, least) for part in backward), mbar),
        fractions=fractions,
        halves=(estimate_mbar(samples.part(0.0, 0.5)), estimate_mbar(samples.part(0.5, 1.0))),
    )


def _estimate(
    value_kt: float, influences_kt: np.ndarray, samples: Samples, least: float = 1.0
) -> Estimate:
    error = math.sqrt(variance_of_sum(influences_kt, samples.paths).at_least(least))
    kt = kt_kj_mol(samples.temperature_k)
    return Estimate(value_kj_mol=float(kt * value_kt), error_kj_mol=float(kt * error))


def _spline_weights(lambdas: np.ndarray) -> np.ndarray:
    """Quadrature weights: the integral of the spline through a unit vector at each point."""
    kind = "not-a-knot" if len(lambdas) >= 4 else "natural"
    return np.array(
        [
            CubicSpline(lambdas, row, bc_type=kind).integrate(lambdas[0], lambdas[-1])
            for row in np.eye(len(lambdas))
        ],
        dtype=np.float64,
    )
