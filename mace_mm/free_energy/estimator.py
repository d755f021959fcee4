"""Free-energy differences from sampled windows: MBAR, BAR and thermodynamic integration."""

import logging
import math
from dataclasses import dataclass

import numpy as np
from alchemlyb.estimators import MBAR
from openmm import unit
from pymbar import bar
from pymbar.utils import BoundsError, ConvergenceError, ParameterError
from scipy.interpolate import CubicSpline
from scipy.special import expit

from mace_mm.errors import DataError
from mace_mm.free_energy.samples import Samples, decorrelate
from mace_mm.units import KCAL_MOL_TO_KJ_MOL

logger = logging.getLogger(__name__)

_GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
_MBAR_ITERATIONS = 1000
LARGEST_GAP_KT = 10.0
# Below this spread of energy differences their mean is exact, and solvers lose their digits.
NO_SPREAD_KT = 0.05


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
        samples: all samples after equilibration.
        thinned: the independent ones, which the estimators used.
        inefficiencies: (n_states,) statistical inefficiency of each window.
        mbar, bar: free energy of the last state relative to the first.
        ti: the same by thermodynamic integration, None where dU/dλ is not known.
        profile_kj_mol, profile_errors_kj_mol: (n_states,) MBAR along the path.
        overlap: (n_states, n_states) MBAR overlap matrix, rows sum to 1.
        effective: (n_states,) MBAR's effective number of samples in each state.
        forward, backward: estimates from growing parts of the run, taken from its beginning and
            from its end; the last of each uses everything.
        fractions: (n_parts,) the parts.
    """

    samples: Samples
    thinned: Samples
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


def kt_kj_mol(temperature_k: float) -> float:
    """RT in kJ/mol."""
    return float(_GAS_CONSTANT * temperature_k)


@dataclass(frozen=True, kw_only=True, eq=False)
class MBARSolution:
    """Solved MBAR equations.

    Attributes:
        profile_kt, errors_kt: (n_states,) free energies relative to the first state.
        overlap: (n_states, n_states), rows sum to 1.
        effective: (n_states,) effective number of samples in each state.
    """

    profile_kt: np.ndarray
    errors_kt: np.ndarray
    overlap: np.ndarray
    effective: np.ndarray


def solve_mbar(thinned: Samples) -> MBARSolution:
    """MBAR (Shirts and Chodera, J. Chem. Phys. 129, 124105, 2008) over independent samples.

    Raises:
        DataError: neighbors share no configurations, or the equations cannot be solved.
    """
    _check_gaps(thinned)
    steps = [_solve_bar(*neighbor_work(thinned, k)) for k in range(thinned.schedule.n_states - 1)]
    # The solver's tolerances are relative: free energies of order one suit it, those of 1e-12 kT
    # (nothing changes) or 1e3 kT (other zeros of energy) do not.
    wanted = np.arange(len(steps) + 1, dtype=np.float64)
    shifts = wanted - np.concatenate([[0.0], np.cumsum(steps)])
    frame = thinned.frame()
    try:
        fit = MBAR(maximum_iterations=_MBAR_ITERATIONS, initial_f_k=wanted).fit(frame + shifts)
    except (ConvergenceError, ParameterError, np.linalg.LinAlgError) as error:
        raise DataError(
            f"MBAR found no solution, windows overlap too little or hold too few samples "
            f"(independent samples {list(thinned.counts)}): {error}"
        ) from error
    return MBARSolution(
        profile_kt=fit.delta_f_.iloc[0].to_numpy() - (shifts - shifts[0]),
        errors_kt=fit.d_delta_f_.iloc[0].to_numpy(),
        overlap=np.asarray(fit.overlap_matrix),
        effective=np.asarray(fit._mbar.compute_effective_sample_number()),
    )


def estimate_mbar(samples: Samples) -> Estimate:
    """MBAR between the end states, after thinning to independent samples."""
    thinned, _ = decorrelate(samples)
    solution = solve_mbar(thinned)
    return _estimate(solution.profile_kt[-1], solution.errors_kt[-1], samples)


def estimate_bar(thinned: Samples) -> Estimate:
    """Sum of BAR between neighbors (Bennett, J. Comput. Phys. 22, 245, 1976).

    Both pairs of a window use its samples, so that neighboring differences are correlated: the
    error is that of the sum, from the first-order influence of every sample on it.

    Raises:
        DataError: the equations cannot be solved.
    """
    _check_gaps(thinned)
    total = 0.0
    influence = [np.zeros(count) for count in thinned.counts]
    for state in range(thinned.schedule.n_states - 1):
        forward, reverse = neighbor_work(thinned, state)
        difference = _solve_bar(forward, reverse)
        # Fermi functions of Bennett's condition: their sums over both windows are equal.
        shift = math.log(len(forward) / len(reverse))
        fermi_f = expit(difference - forward - shift)
        fermi_r = expit(-difference - reverse + shift)
        slope = (fermi_f * (1.0 - fermi_f)).sum() + (fermi_r * (1.0 - fermi_r)).sum()
        influence[state] -= (fermi_f - fermi_f.mean()) / slope
        influence[state + 1] += (fermi_r - fermi_r.mean()) / slope
        total += difference
    variance = sum(float(values @ values) for values in influence)
    return _estimate(total, math.sqrt(variance), thinned)


def _solve_bar(forward: np.ndarray, reverse: np.ndarray) -> float:
    start = 0.5 * float(forward.mean() - reverse.mean())
    if max(np.ptp(forward), np.ptp(reverse)) <= NO_SPREAD_KT:
        return start
    try:
        return float(bar(forward, reverse, DeltaF=start, compute_uncertainty=False)["Delta_f"])
    except (ConvergenceError, ParameterError, BoundsError) as error:
        raise DataError(f"BAR found no solution: {error}") from error


def estimate_ti(thinned: Samples) -> Estimate:
    """Thermodynamic integration of the mean dU/dλ along a cubic spline through the windows.

    The error is statistical; it says nothing about windows that stand too far apart.
    """
    lambdas = np.array(thinned.schedule.coordinates)
    series = [thinned.derivative(state) for state in range(len(lambdas))]
    means = np.array([values.mean() for values in series])
    variances = np.array([values.var(ddof=1) / len(values) for values in series])
    weights = _spline_weights(lambdas)
    return _estimate(weights @ means, math.sqrt(weights**2 @ variances), thinned)


def analyze_windows(samples: Samples, n_parts: int = 10) -> WindowAnalysis:
    """Estimate, and look at everything that tells whether the estimate can be trusted.

    Raises:
        DataError: too few samples, or equations without a solution.
    """
    if min(samples.counts) < 2 * n_parts:
        raise DataError(
            f"at least {2 * n_parts} samples of every window are needed, got {list(samples.counts)}"
        )
    thinned, factors = decorrelate(samples)
    if min(thinned.counts) < 2:
        raise DataError(
            f"a window holds fewer than two independent samples {list(thinned.counts)}: run longer"
        )
    solution = solve_mbar(thinned)
    kt = kt_kj_mol(samples.temperature_k)
    fractions = np.arange(1, n_parts + 1) / n_parts
    return WindowAnalysis(
        samples=samples,
        thinned=thinned,
        inefficiencies=factors,
        mbar=_estimate(solution.profile_kt[-1], solution.errors_kt[-1], samples),
        bar=estimate_bar(thinned),
        ti=estimate_ti(thinned) if samples.schedule.linear else None,
        profile_kj_mol=kt * solution.profile_kt,
        profile_errors_kj_mol=kt * solution.errors_kt,
        overlap=solution.overlap,
        effective=solution.effective,
        forward=tuple(estimate_mbar(samples.part(0.0, float(end))) for end in fractions),
        backward=tuple(estimate_mbar(samples.part(1.0 - float(end), 1.0)) for end in fractions),
        fractions=fractions,
    )


def _check_gaps(thinned: Samples) -> None:
    """Refuse neighbors without any overlap: solvers then search for hours and find nothing."""
    for state in range(thinned.schedule.n_states - 1):
        gap = work_gap(*neighbor_work(thinned, state))
        if gap > LARGEST_GAP_KT:
            lambdas = thinned.schedule.coordinates
            raise DataError(
                f"windows λ = {lambdas[state]:.3g} and {lambdas[state + 1]:.3g} do not overlap: "
                f"their energy differences are {gap:.0f} kT apart, at most {LARGEST_GAP_KT:g} can "
                "be bridged: add windows between them"
            )


def neighbor_work(samples: Samples, state: int) -> tuple[np.ndarray, np.ndarray]:
    """Energy changes, kT, of a state's samples to the next state and of the next one's back."""
    left, right = samples.reduced[state], samples.reduced[state + 1]
    return left[:, state + 1] - left[:, state], right[:, state] - right[:, state + 1]


def work_gap(forward_kt: np.ndarray, reverse_kt: np.ndarray) -> float:
    """How far the smallest forward work lies above the largest negative reverse work, kT."""
    return float(forward_kt.min() - (-reverse_kt).max())


def _estimate(value_kt: float, error_kt: float, samples: Samples) -> Estimate:
    kt = kt_kj_mol(samples.temperature_k)
    return Estimate(value_kj_mol=float(kt * value_kt), error_kj_mol=float(kt * error_kt))


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
