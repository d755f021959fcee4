"""Verdicts: may a free energy be believed, and if not, why not and what to do."""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mace_mm.free_energy.estimator import Estimate, WindowAnalysis
from mace_mm.free_energy.settings import Limits
from mace_mm.free_energy.work import SwitchAnalysis


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a result is converged.

    Attributes:
        converged: no check failed.
        reasons: one sentence for each check that failed, with what was wanted and what was got.
    """

    converged: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "converged" if self.converged else "NOT CONVERGED: " + "; ".join(self.reasons)


def join_verdicts(verdicts: dict[str, Verdict]) -> Verdict:
    """One verdict over several parts: every reason, with the part's name before it."""
    reasons = [
        f"{name}: {reason}" for name, verdict in verdicts.items() for reason in verdict.reasons
    ]
    return _verdict(reasons)


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
    for state, count in enumerate(analysis.thinned.counts):
        if count < limits.independent_samples:
            reasons.append(
                f"window λ = {lambdas[state]:.3g} holds {count} independent samples (statistical "
                f"inefficiency {analysis.inefficiencies[state]:.1f}), at least "
                f"{limits.independent_samples} are needed: run longer"
            )
    middle = int(np.argmin(np.abs(analysis.fractions - 0.5)))
    reasons += _drift(analysis.forward[middle], analysis.backward[middle], limits)
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
    if len(analysis.halves) == 2:
        reasons += _drift(analysis.halves[0], analysis.halves[1], limits)
    if analysis.gaussian:
        reasons += _disagreements({"BAR": analysis.bar, "Crooks": analysis.crooks}, limits)
    reasons += _large_error(analysis.bar, limits)
    return _verdict(reasons)


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
