"""Verdicts: may a free energy be believed, and if not, why not and what to do."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mace_mm.free_energy.analysis.estimator import Estimate, WindowAnalysis, kt_kj_mol
from mace_mm.free_energy.analysis.work import SwitchAnalysis
from mace_mm.free_energy.sampling.samples import Samples, neighbor_changes
from mace_mm.free_energy.settings import Limits


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a result is converged.

    Attributes:
        converged: no check failed.
        reasons: one sentence for each check that failed, with what was wanted and what was got.
        warnings: what should be known of a number even if no check failed.
    """

    converged: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for a results file."""
        return {
            "converged": self.converged,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        return "converged" if self.converged else "NOT CONVERGED: " + "; ".join(self.reasons)


def join_verdicts(verdicts: dict[str, Verdict]) -> Verdict:
    """One verdict over several parts: every reason, with the part's name before it.

    A warning that several parts share is said once.
    """
    reasons = [
        f"{name}: {reason}" for name, verdict in verdicts.items() for reason in verdict.reasons
    ]
    by_warning: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        for warning in verdict.warnings:
            by_warning.setdefault(warning, []).append(name)
    return Verdict(
        converged=all(verdict.converged for verdict in verdicts.values()),
        reasons=tuple(reasons),
        warnings=tuple(
            warning if len(names) == len(verdicts) else f"{', '.join(names)}: {warning}"
            for warning, names in by_warning.items()
        ),
    )


def judge_windows(analysis: WindowAnalysis, limits: Limits) -> Verdict:
    """Judge equilibrium windows: overlap, independent samples, drift, agreement, error.

    Minimal overlap as in Klimovich, Shirts and Mobley, J. Comput. Aided Mol. Des. 29, 397, 2015.
    """
    lambdas = analysis.samples.schedule.coordinates
    reasons = []
    for state in range(len(lambdas) - 1):
        shared = min(analysis.overlap[state, state + 1], analysis.overlap[state + 1, state])
        if shared < limits.overlap:
            reasons.append(
                f"windows λ = {lambdas[state]:.3g} and {lambdas[state + 1]:.3g} overlap by "
                f"{shared:.3f}, at least {limits.overlap} is needed: add windows between them"
            )
    reasons += _few_samples(analysis, limits)
    reasons += _equilibration(analysis, "iterations") + _mixing(analysis)
    reasons += _drift(*analysis.halves, limits)
    methods = {"MBAR": analysis.mbar, "BAR": analysis.bar}
    if analysis.ti is not None:
        methods["TI"] = analysis.ti
    reasons += _disagreements(methods, limits)
    reasons += _large_error(analysis.mbar, limits)
    return _verdict(reasons)


def judge_switches(analysis: SwitchAnalysis, limits: Limits) -> Verdict:
    """Judge bidirectional switching: overlap of the work distributions, drift, error."""
    reasons = []
    if analysis.overlap < limits.overlap:
        reasons.append(
            f"forward and reverse work overlap by {analysis.overlap:.3f}, at least "
            f"{limits.overlap} is needed (mean dissipation "
            f"{analysis.dissipation_kj_mol:.1f} kJ/mol): switch more slowly"
        )
    for name, count in (
        ("forward", analysis.effective_forward),
        ("reverse", analysis.effective_reverse),
    ):
        if count < limits.independent_samples:
            reasons.append(
                f"{count} independent {name} switches, at least "
                f"{limits.independent_samples} are needed: switch more often"
            )
    reasons += _equilibration(analysis, "switches of each direction")
    reasons += _drift(*analysis.halves, limits)
    if analysis.gaussian:
        reasons += _disagreements({"BAR": analysis.bar, "Crooks": analysis.crooks}, limits)
    reasons += _large_error(analysis.bar, limits)
    return _verdict(reasons)


def _few_samples(analysis: WindowAnalysis, limits: Limits) -> list[str]:
    counts, lambdas = analysis.independent, analysis.samples.schedule.coordinates
    few = [state for state, count in enumerate(counts) if count < limits.independent_samples]
    if not few:
        return []
    worst = min(few, key=lambda state: counts[state])
    factor = analysis.inefficiencies[worst]
    # Where the estimate as a whole is the slower one, no window is to be blamed.
    followed = ", followed along replicas" if factor <= analysis.inefficiency else ""
    if len(few) == 1:
        holds = f"window λ = {lambdas[worst]:.3g} holds {counts[worst]} independent samples"
    else:
        fewest, most = counts[worst], max(counts[state] for state in few)
        which = "every window holds" if len(few) == len(counts) else f"{len(few)} windows hold"
        holds = f"{which} {fewest}{f' to {most}' if most > fewest else ''} independent samples"
    return [
        f"{holds} (statistical inefficiency {factor:.1f}{followed}), at least "
        f"{limits.independent_samples} are needed: run longer"
    ]


def _equilibration(analysis: WindowAnalysis | SwitchAnalysis, what: str) -> list[str]:
    if analysis.equilibrated:
        return []
    return [
        f"the first {analysis.left_out} {what}, half of the run, still equilibrate, and what is "
        "left may, too: run longer"
    ]


def _mixing(analysis: WindowAnalysis) -> list[str]:
    """Replicas of an exchange run that disagree by more than their own fluctuations explain."""
    variance = analysis.variance_kt2
    if variance.mixed or variance.between_replicas is None or variance.inside_replicas is None:
        return []
    # One replica alone would scatter by the error of all of them times the root of their number.
    scale = kt_kj_mol(analysis.samples.temperature_k) * math.sqrt(variance.n_replicas)
    found = scale * math.sqrt(variance.between_replicas)
    expected = scale * math.sqrt(variance.inside_replicas)
    stay = ", and each stays on its level all the time" if _stay_apart(analysis.samples) else ""
    return [
        f"the replicas have not mixed: single ones would give free energies that differ by "
        f"{found:.2f} kJ/mol (standard deviation), their own fluctuations explain {expected:.2f}"
        f"{stay}: they are in different conformers or places, run longer"
    ]


def _stay_apart(samples: Samples) -> bool:
    """Whether replicas stand on two levels of energy changes and none went from one to the other.

    The levels are divided at the widest gap between replicas; a quarter of the run is looked at in
    one piece.
    """
    changes = np.concatenate(neighbor_changes(samples))
    quarters = np.array(
        [
            [part.mean() for part in np.array_split(series, 4)]
            for series in samples.paths.split(changes, samples.paths.replicas)
        ]
    )
    means = np.sort(quarters.mean(axis=1))
    widest = int(np.argmax(np.diff(means)))
    above = quarters > 0.5 * (means[widest] + means[widest + 1])
    return bool((above.all(axis=1) | ~above.any(axis=1)).all())


def judge_methods(estimates: dict[str, Estimate], limits: Limits) -> Verdict:
    """Judge independent routes to one number."""
    return _verdict(_disagreements(estimates, limits))


def _drift(first: Estimate, second: Estimate, limits: Limits) -> list[str]:
    if agree(first, second, limits):
        return []
    return [
        f"the first half of the run gives {first.value_kj_mol:.2f} ± {first.error_kj_mol:.2f} "
        f"kJ/mol, the second {second.value_kj_mol:.2f} ± {second.error_kj_mol:.2f}: it still "
        "drifts, run longer"
    ]


def _disagreements(estimates: dict[str, Estimate], limits: Limits) -> list[str]:
    return [
        f"{a} gives {one.value_kj_mol:.2f} ± {one.error_kj_mol:.2f} kJ/mol, {b} "
        f"{two.value_kj_mol:.2f} ± {two.error_kj_mol:.2f}: they disagree by more than "
        f"{limits.deviations:g} standard errors"
        for (a, one), (b, two) in combinations(estimates.items(), 2)
        if not agree(one, two, limits)
    ]


def agree(one: Estimate, two: Estimate, limits: Limits) -> bool:
    """Whether two estimates agree within errors, or within what does not matter."""
    apart = abs(one.value_kj_mol - two.value_kj_mol)
    error = math.hypot(one.error_kj_mol, two.error_kj_mol)
    return apart <= max(limits.deviations * error, limits.negligible_kj_mol)


def _large_error(estimate: Estimate, limits: Limits) -> list[str]:
    if math.isfinite(estimate.error_kj_mol) and estimate.error_kj_mol <= limits.error_kj_mol:
        return []
    return [
        f"the standard error is {estimate.error_kj_mol:.2f} kJ/mol, at most "
        f"{limits.error_kj_mol:g} was asked for: run longer"
    ]


def _verdict(reasons: list[str]) -> Verdict:
    return Verdict(converged=not reasons, reasons=tuple(reasons))
