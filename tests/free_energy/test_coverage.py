"""Error bars against known answers: a particle in a double well, and what is called converged.

The sampler is the emulated one of `benchmarks/accuracy/coverage_free_energy.py`, whose results
stand in `benchmarks/results/coverage_free_energy.json`.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mace_mm.free_energy.analysis.convergence import judge_switches, judge_windows
from mace_mm.free_energy.analysis.estimator import (
    analyze_windows,
    estimate_bar,
    estimate_mbar,
    estimate_ti,
)
from mace_mm.free_energy.analysis.work import analyze_switches
from mace_mm.free_energy.sampling.samples import Samples, decorrelate
from mace_mm.free_energy.settings import Limits

TEMPERATURE_K = 300.0


@pytest.fixture(scope="module")
def coverage(project_root: Path) -> Iterator[ModuleType]:
    """The script as a module."""
    sys.path.insert(0, str(project_root / "benchmarks" / "accuracy"))
    yield importlib.import_module("coverage_free_energy")
    sys.path.remove(str(project_root / "benchmarks" / "accuracy"))
    del sys.modules["coverage_free_energy"]


@pytest.fixture(scope="module")
def slow_cell(coverage: ModuleType):
    """A dozen iterations in one conformer, 200 in all."""
    return coverage.Cell(barrier_kt=3.0, starts="both", exchange=True, iterations=200, steps=150)


@pytest.mark.parametrize("exchange", [True, False])
def test_errors_are_the_scatter_of_repeats(coverage: ModuleType, slow_cell, exchange: bool) -> None:
    cell = replace(slow_cell, exchange=exchange)
    exact = coverage.exact_kj_mol(cell.barrier_kt)
    found = {estimate_mbar: [], estimate_bar: [], estimate_ti: []}
    for run in coverage.emulate(cell, 40, seed=11):
        for estimator, estimates in found.items():
            estimates.append(estimator(run.samples))
    for estimator, estimates in found.items():
        values = np.array([estimate.value_kj_mol for estimate in estimates])
        errors = np.array([estimate.error_kj_mol for estimate in estimates])
        # The scatter of 40 runs is known to 11 %; errors from single windows are half of it.
        assert 0.75 < np.sqrt(np.mean(errors**2)) / np.std(values - exact) < 1.5, estimator
        assert np.mean(np.abs(values - exact) < 1.96 * errors) >= 0.85, estimator


def test_samples_whose_replicas_are_not_known_are_not_called_independent(
    coverage: ModuleType, slow_cell
) -> None:
    for run in coverage.emulate(slow_cell, 8, seed=12):
        blocks = Samples(
            schedule=run.samples.schedule,
            temperature_k=TEMPERATURE_K,
            reduced=run.samples.reduced,
        )
        with_replicas, without = estimate_mbar(run.samples), estimate_mbar(blocks)
        assert without.error_kj_mol > 0.5 * with_replicas.error_kj_mol
        thinned, factors = decorrelate(run.samples)
        assert factors.min() > 3.0 and max(thinned.counts) < 70


def test_runs_that_are_called_converged_hold_the_answer(coverage: ModuleType) -> None:
    cell = coverage.Cell(barrier_kt=1.5, starts="one", exchange=True, iterations=200, steps=400)
    outcomes = [coverage.judge(run, cell) for run in coverage.emulate(cell, 16, seed=13)]
    entry = coverage.summarize(cell, outcomes, "emulated")
    assert entry["called_converged"] >= 8
    assert entry["called_and_inside_95"]["MBAR"] >= 0.85 * entry["called_converged"]


@pytest.mark.parametrize("starts", ["one", "both"])
@pytest.mark.parametrize("exchange", [True, False])
def test_runs_without_a_transition_are_not_called_converged(
    coverage: ModuleType, starts: str, exchange: bool
) -> None:
    cell = coverage.Cell(
        barrier_kt=15.0, starts=starts, exchange=exchange, iterations=100, steps=100
    )
    outcomes = [coverage.judge(run, cell) for run in coverage.emulate(cell, 4, seed=14)]
    assert not any(outcome.converged for outcome in outcomes)
    assert all(outcome.transitions == 0 for outcome in outcomes)
    if starts == "both" and exchange:
        # Replicas on two levels: energies alone show it.
        assert not any(outcome.by_energies_alone for outcome in outcomes)


def test_replicas_on_two_levels_are_named(coverage: ModuleType) -> None:
    cell = coverage.Cell(barrier_kt=15.0, starts="both", exchange=True, iterations=100, steps=100)
    (run,) = coverage.emulate(cell, 1, seed=15)
    analysis = analyze_windows(run.samples, n_parts=2)
    verdict = judge_windows(analysis, Limits())
    (reason,) = (reason for reason in verdict.reasons if "have not mixed" in reason)
    assert "each stays on its level all the time" in reason
    # Five replicas that never change count as a handful of samples, not as five hundred.
    assert sum(analysis.independent) <= 25
    assert analysis.mbar.error_kj_mol > 1.0


def test_what_detection_leaves_out_does_not_shrink_the_error(coverage: ModuleType) -> None:
    # Three replicas leave their conformer early, for good: what is left looks uncorrelated.
    cell = coverage.Cell(barrier_kt=15.0, starts="one", exchange=True, iterations=200, steps=50)
    (run,) = coverage.emulate(cell, 1, seed=16)
    samples = run.samples
    early = tuple(
        block + 3.0 * np.outer((times < 60) & (replicas < 3), coverage.LAMBDAS)
        for block, times, replicas in zip(
            samples.reduced, samples.times, samples.replicas, strict=True
        )
    )
    moved = replace(samples, reduced=early)
    analysis = analyze_windows(moved, n_parts=2)
    assert analysis.left_out >= 40
    assert analysis.variance_kt2.inefficiency < 0.5 * analysis.inefficiency
    kt = coverage.KT
    assert analysis.mbar.error_kj_mol > 1.4 * kt * np.sqrt(analysis.variance_kt2.value)
    assert not judge_windows(analysis, Limits()).converged


def switches_from_two_conformers(
    generator: np.random.Generator, flip: float, n_switches: int
) -> tuple[np.ndarray, np.ndarray]:
    """Work, kT, of switches whose starts change their conformer now and then; ΔF is -ln of the
    mean of exp(-shift) over both."""
    shift, dissipation = -2.0, 1.0
    works = []
    for sign, weights in ((1.0, (1.0, 1.0)), (-1.0, (1.0, np.exp(-shift)))):
        conformer, path = int(generator.random() < weights[1] / sum(weights)), []
        for _ in range(n_switches):
            rate = flip * min(1.0, weights[1 - conformer] / weights[conformer])
            conformer = 1 - conformer if generator.random() < rate else conformer
            path.append(conformer)
        noise = generator.normal(dissipation, np.sqrt(2.0 * dissipation), size=n_switches)
        works.append(sign * shift * np.array(path) + noise)
    return works[0], works[1]


def test_switches_from_one_conformer_are_correlated() -> None:
    generator = np.random.default_rng(17)
    exact = -np.log(0.5 * (1.0 + np.exp(2.0)))
    deviations, reported, independent = [], [], []
    for _ in range(60):
        found = analyze_switches(*switches_from_two_conformers(generator, 0.05, 400), TEMPERATURE_K)
        kt = 0.00831446 * TEMPERATURE_K
        deviations.append(found.bar.value_kj_mol - kt * exact)
        reported.append(found.bar.error_kj_mol)
        independent.append(found.effective_forward)
    assert 0.75 < np.sqrt(np.mean(np.square(reported))) / np.std(deviations) < 1.5
    assert np.mean(np.abs(deviations) < 1.96 * np.array(reported)) >= 0.85
    assert np.median(independent) < 200


def test_switches_that_drift_are_not_called_converged() -> None:
    generator = np.random.default_rng(18)
    forward, reverse = switches_from_two_conformers(generator, 0.5, 200)
    forward[:60] += 8.0 * np.exp(-np.arange(60) / 20.0)
    found = analyze_switches(forward, reverse, TEMPERATURE_K)
    assert 20 <= found.left_out <= 100 and len(found.forward_kt) == 200 - found.left_out
    drifting = analyze_switches(forward + np.linspace(0.0, 6.0, 200), reverse, TEMPERATURE_K)
    reasons = judge_switches(drifting, Limits()).reasons
    assert any("independent forward switches" in reason for reason in reasons), reasons
    late = forward + 20.0 * np.exp(-np.arange(200) / 60.0)
    reasons = judge_switches(analyze_switches(late, reverse, TEMPERATURE_K), Limits()).reasons
    assert any("100 switches of each direction, half of" in reason for reason in reasons), reasons


def test_the_results_file_is_of_the_script(coverage: ModuleType, project_root: Path) -> None:
    """What the table promises: called converged and right, and no trapped run among them."""
    path = project_root / "benchmarks" / "results" / "coverage_free_energy.json"
    entries = json.loads(path.read_text())
    assert entries and all(entry["repeats"] >= 40 for entry in entries)
    called = sum(entry["called_converged"] for entry in entries)
    for method in ("MBAR", "BAR", "TI"):
        assert sum(e["called_and_inside_95"][method] for e in entries) >= 0.88 * called
    still = sum(entry["without_transition"] for entry in entries)
    assert sum(entry["without_transition_called"] for entry in entries) <= 0.05 * still
