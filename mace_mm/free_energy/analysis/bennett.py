"""MBAR and BAR in units of kT, with what every sample adds to the result."""

import math
from dataclasses import dataclass

import numpy as np
from alchemlyb.estimators import MBAR
from pymbar import bar
from pymbar.utils import BoundsError, ConvergenceError, ParameterError
from scipy.special import expit

from mace_mm.errors import DataError
from mace_mm.free_energy.sampling.samples import Samples

_MBAR_ITERATIONS = 1000
LARGEST_GAP_KT = 10.0
# Below this spread of energy differences their mean is exact, and solvers lose their digits.
NO_SPREAD_KT = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class MBARSolution:
    """Solved MBAR equations.

    Attributes:
        profile_kt: (n_states,) free energies relative to the first state.
        influences_kt: (n_samples, n_states) what each sample adds to the profile, to first order;
            samples in the order of ``Samples.paths``. The mean over each window is zero.
        overlap: (n_states, n_states), rows sum to 1.
        effective: (n_states,) effective number of samples in each state, had all been independent.
    """

    profile_kt: np.ndarray
    influences_kt: np.ndarray
    overlap: np.ndarray
    effective: np.ndarray


def solve_mbar(samples: Samples) -> MBARSolution:
    """MBAR (Shirts and Chodera, J. Chem. Phys. 129, 124105, 2008).

    Raises:
        DataError: neighbors share no configurations, or the equations cannot be solved.
    """
    check_gaps(samples)
    steps = [solve_bar(*neighbor_work(samples, k)) for k in range(samples.schedule.n_states - 1)]
    # The solver's tolerances are relative: free energies of order one suit it, those of 1e-12 kT
    # (nothing changes) or 1e3 kT (other zeros of energy) do not.
    wanted = np.arange(len(steps) + 1, dtype=np.float64)
    shifts = wanted - np.concatenate([[0.0], np.cumsum(steps)])
    frame = samples.frame()
    try:
        fit = MBAR(maximum_iterations=_MBAR_ITERATIONS, initial_f_k=wanted).fit(frame + shifts)
    except (ConvergenceError, ParameterError, np.linalg.LinAlgError) as error:
        raise DataError(
            f"MBAR found no solution, windows overlap too little or hold too few samples "
            f"({list(samples.counts)}): {error}"
        ) from error
    overlap = np.asarray(fit.overlap_matrix)
    return MBARSolution(
        profile_kt=fit.delta_f_.iloc[0].to_numpy() - (shifts - shifts[0]),
        influences_kt=_mbar_influences(fit._mbar.weights(), overlap, samples.paths.states),
        overlap=overlap,
        effective=np.asarray(fit._mbar.compute_effective_sample_number()),
    )


def _mbar_influences(weights: np.ndarray, overlap: np.ndarray, states: np.ndarray) -> np.ndarray:
    """First-order change of the profile with each sample.

    The equations say that the weights W of each state sum to 1. Their derivative with respect to
    the free energies is 1 - O with the overlap matrix O, so that noise in the sums moves the free
    energies by -(1 - O)⁻¹ times itself, up to a constant. The number of samples of every window
    is given: only the deviation of a weight from its mean in the window is noise.
    """
    counts = np.bincount(states, minlength=len(overlap))
    means = np.array([np.bincount(states, column) for column in weights.T]).T / counts[:, None]
    noise = weights - means[states]
    moved = -noise @ np.linalg.pinv(np.eye(len(overlap)) - overlap).T
    return moved - moved[:, :1]


def sum_of_bar(samples: Samples) -> tuple[float, np.ndarray]:
    """Sum of BAR between neighbors (Bennett, J. Comput. Phys. 22, 245, 1976).

    Both pairs of a window use its samples: their influences on both differences are added.

    Returns:
        The last state relative to the first, kT, and (n_samples,) what each sample adds, to first
        order.

    Raises:
        DataError: the equations cannot be solved.
    """
    check_gaps(samples)
    total = 0.0
    influences = [np.zeros(count) for count in samples.counts]
    for state in range(samples.schedule.n_states - 1):
        forward, reverse = neighbor_work(samples, state)
        difference = solve_bar(forward, reverse)
        from_forward, from_reverse = bar_influences(forward, reverse, difference)
        influences[state] += from_forward
        influences[state + 1] += from_reverse
        total += difference
    return total, np.concatenate(influences)


def bar_influences(
    forward: np.ndarray, reverse: np.ndarray, difference: float
) -> tuple[np.ndarray, np.ndarray]:
    """What each work of either direction adds to BAR's difference, kT, to first order."""
    # Fermi functions of Bennett's condition: their sums over both windows are equal.
    shift = math.log(len(forward) / len(reverse))
    fermi_f = expit(difference - forward - shift)
    fermi_r = expit(-difference - reverse + shift)
    slope = (fermi_f * (1.0 - fermi_f)).sum() + (fermi_r * (1.0 - fermi_r)).sum()
    return -(fermi_f - fermi_f.mean()) / slope, (fermi_r - fermi_r.mean()) / slope


def solve_bar(forward: np.ndarray, reverse: np.ndarray) -> float:
    """BAR's free energy from the work of both directions, kT.

    Raises:
        DataError: the equation cannot be solved.
    """
    start = 0.5 * float(forward.mean() - reverse.mean())
    if max(np.ptp(forward), np.ptp(reverse)) <= NO_SPREAD_KT:
        return start
    try:
        return float(bar(forward, reverse, DeltaF=start, compute_uncertainty=False)["Delta_f"])
    except (ConvergenceError, ParameterError, BoundsError) as error:
        raise DataError(f"BAR found no solution: {error}") from error


def check_gaps(samples: Samples) -> None:
    """Refuse neighbors without any overlap: solvers then search for hours and find nothing.

    Raises:
        DataError: the neighbors and the gap between them.
    """
    for state in range(samples.schedule.n_states - 1):
        gap = work_gap(*neighbor_work(samples, state))
        if gap > LARGEST_GAP_KT:
            lambdas = samples.schedule.coordinates
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
