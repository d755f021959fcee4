"""Known answers: harmonic wells sampled, analyzed and switched as real ligands are."""

from pathlib import Path

import numpy as np
import pytest

from mace_mm.errors import ConfigError, DataError
from mace_mm.free_energy.analysis.convergence import judge_switches, judge_windows
from mace_mm.free_energy.analysis.correlation import inefficiency
from mace_mm.free_energy.analysis.estimator import analyze_windows, estimate_ti
from mace_mm.free_energy.analysis.work import analyze_switches
from mace_mm.free_energy.legs.schedule import (
    decoupling_schedule,
    even_lambdas,
    linear_schedule,
)
from mace_mm.free_energy.sampling.samples import Samples, collect
from mace_mm.free_energy.sampling.switching import FORWARD, REVERSE, read_work, run_switches
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.settings import Limits, Switching, Windows
from tests.support.free_energy_toys import (
    FAST,
    KT,
    TEMPERATURE_K,
    harmonic_answer_kj_mol,
    harmonic_leg,
)

K0, K1 = 1000.0, 3000.0
REPEATS = 60


def draw_samples(
    generator: np.random.Generator, k0: float, k1: float, n_windows: int, n_samples: int
) -> Samples:
    """Exact samples of a harmonic well in three dimensions, without dynamics."""
    lambdas = even_lambdas(n_windows)
    strengths = np.array([(1 - value) * k0 + value * k1 for value in lambdas])
    blocks = []
    for strength in strengths:
        positions = generator.normal(scale=np.sqrt(KT / strength), size=(n_samples, 3))
        blocks.append(0.5 * (positions**2).sum(1)[:, None] * strengths / KT)
    return Samples(
        schedule=linear_schedule(lambdas, "lambda_interpolate"),
        temperature_k=TEMPERATURE_K,
        reduced=tuple(blocks),
    )


def test_estimators_cover_the_analytic_answer_in_95_percent_of_repeats() -> None:
    generator = np.random.default_rng(1)
    exact = harmonic_answer_kj_mol(K0, K1)
    inside = {"mbar": 0, "bar": 0, "ti": 0}
    for _ in range(REPEATS):
        analysis = analyze_windows(draw_samples(generator, K0, K1, 5, 120), n_parts=2)
        assert analysis.ti is not None
        for name in inside:
            estimate = getattr(analysis, name)
            inside[name] += abs(estimate.value_kj_mol - exact) <= 1.96 * estimate.error_kj_mol
    # 57 of 60 are expected; fewer than 51 would happen once in 500 runs. Errors that are twice
    # too large would cover all.
    for name, count in inside.items():
        assert 51 <= count <= REPEATS, (name, count)


def test_reported_errors_are_not_too_large() -> None:
    generator = np.random.default_rng(2)
    exact = harmonic_answer_kj_mol(K0, K1)
    deviations = []
    for _ in range(REPEATS):
        estimate = estimate_ti(draw_samples(generator, K0, K1, 3, 100))
        deviations.append((estimate.value_kj_mol - exact) / estimate.error_kj_mol)
    assert 0.7 < np.std(deviations) < 1.3


@pytest.mark.parametrize("exchange", [True, False])
def test_windows_and_switches_of_a_well_agree_with_the_analytic_answer(
    tmp_path: Path, exchange: bool
) -> None:
    leg = harmonic_leg(K0, K1)
    exact = harmonic_answer_kj_mol(K0, K1)
    windows = Windows(
        lambdas=leg.schedule.coordinates,
        iterations=200,
        equilibration=5,
        steps=40,
        exchange=exchange,
    )
    journal = run_windows(leg, tmp_path / "windows", windows, FAST)
    samples = collect(leg.schedule, TEMPERATURE_K, [journal], windows.equilibration)
    analysis = analyze_windows(samples)
    assert analysis.ti is not None
    for estimate in (analysis.mbar, analysis.bar, analysis.ti):
        assert abs(estimate.value_kj_mol - exact) < 3.5 * estimate.error_kj_mol
        assert estimate.error_kj_mol < 0.4
    switching = Switching(switches=100, steps=100, updates=20, stretch=60, equilibration=2)
    works = [
        read_work(run_switches(leg, tmp_path / str(way), switching, FAST, way), switching)
        for way in (FORWARD, REVERSE)
    ]
    switches = analyze_switches(*works, TEMPERATURE_K)
    assert abs(switches.bar.value_kj_mol - exact) < 3.5 * switches.bar.error_kj_mol
    assert switches.dissipation_kj_mol > 0.0
    limits = Limits(deviations=3.5)
    assert judge_windows(analysis, limits).converged, judge_windows(analysis, limits)
    assert judge_switches(switches, limits).converged, judge_switches(switches, limits)


def test_work_of_an_infinitely_fast_switch_is_the_energy_difference() -> None:
    generator = np.random.default_rng(3)
    samples = draw_samples(generator, K0, K1, 2, 400)
    forward = samples.reduced[0][:, 1] - samples.reduced[0][:, 0]
    reverse = samples.reduced[1][:, 0] - samples.reduced[1][:, 1]
    switches = analyze_switches(forward, reverse, TEMPERATURE_K)
    windows = analyze_windows(samples)
    assert switches.bar.value_kj_mol == pytest.approx(windows.bar.value_kj_mol, abs=0.2)
    exact = harmonic_answer_kj_mol(K0, K1)
    assert abs(switches.bar.value_kj_mol - exact) < 3.5 * switches.bar.error_kj_mol


def test_gaussian_work_crosses_at_the_answer() -> None:
    # Gaussian work that obeys Crooks' relation: mean = ΔF ± var/2.
    generator = np.random.default_rng(4)
    forward = generator.normal(5.0 + 2.0, 2.0, size=400)
    reverse = generator.normal(-5.0 + 2.0, 2.0, size=400)
    switches = analyze_switches(forward, reverse, TEMPERATURE_K)
    for estimate in (switches.bar, switches.crooks):
        assert abs(estimate.value_kj_mol - 5.0 * KT) < 3.5 * estimate.error_kj_mol
    assert switches.dissipation_kj_mol == pytest.approx(2.0 * KT, rel=0.2)


def test_wells_apart_are_called_not_converged() -> None:
    generator = np.random.default_rng(5)
    samples = draw_samples(generator, 300.0, 6e3, 2, 200)
    verdict = judge_windows(analyze_windows(samples), Limits(overlap=0.2))
    assert any("add windows between" in reason for reason in verdict.reasons), verdict
    forward = generator.normal(8.0, 2.0, size=100)
    reverse = generator.normal(4.0, 2.0, size=100)
    verdict = judge_switches(analyze_switches(forward, reverse, TEMPERATURE_K), Limits(overlap=0.2))
    assert any("switch more slowly" in reason for reason in verdict.reasons), verdict


def test_wells_without_any_overlap_are_refused() -> None:
    generator = np.random.default_rng(5)
    with pytest.raises(DataError, match="do not overlap"):
        analyze_windows(draw_samples(generator, 10.0, 1e7, 2, 100))
    with pytest.raises(DataError, match="do not overlap"):
        analyze_switches(
            generator.normal(200.0, 2.0, size=100),
            generator.normal(150.0, 2.0, size=100),
            TEMPERATURE_K,
        )


def test_a_drifting_run_is_called_not_converged() -> None:
    generator = np.random.default_rng(6)
    samples = draw_samples(generator, K0, K1, 3, 400)
    drift = np.linspace(0.0, 6.0, 400)[:, None] * np.array(samples.schedule.coordinates)
    moved = Samples(
        schedule=samples.schedule,
        temperature_k=TEMPERATURE_K,
        reduced=tuple(block + drift for block in samples.reduced),
    )
    verdict = judge_windows(analyze_windows(moved), Limits())
    assert any("drifts" in reason for reason in verdict.reasons), verdict


def test_correlated_samples_are_thinned() -> None:
    generator = np.random.default_rng(7)
    series = np.zeros(5000)
    for step in range(1, len(series)):
        series[step] = 0.9 * series[step - 1] + generator.normal()
    # An AR(1) process with coefficient a has g = (1 + a)/(1 - a) = 19.
    assert inefficiency(series) == pytest.approx(19.0, rel=0.35)
    assert inefficiency(np.full(100, 3.0)) == 1.0


def test_too_few_samples_are_refused() -> None:
    samples = draw_samples(np.random.default_rng(8), K0, K1, 3, 10)
    with pytest.raises(DataError, match="at least 20 samples"):
        analyze_windows(samples)
    with pytest.raises(DataError, match="at least four forward switches"):
        analyze_switches(np.zeros(3), np.zeros(10), TEMPERATURE_K)
    with pytest.raises(DataError, match="not finite"):
        analyze_switches(np.array([0.0, np.nan, 0.0, 1.0]), np.zeros(10), TEMPERATURE_K)


@pytest.mark.parametrize(
    ("lambdas", "message"),
    [
        ((0.0, 0.5), "both end points"),
        ((0.1, 1.0), "both end points"),
        ((0.0,), "at least"),
        ((0.0, 0.5, 0.5, 1.0), "increase"),
        ((0.0, float("nan"), 1.0), "finite"),
    ],
)
def test_schedules_without_end_points_are_refused(lambdas: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        linear_schedule(lambdas, "lambda_interpolate")


def test_decoupling_schedules_take_charges_off_first() -> None:
    schedule = decoupling_schedule((1.0, 0.5, 0.0), (1.0, 0.5, 0.0))
    assert schedule.n_states == 5
    assert schedule.parameters[2] == {"lambda_electrostatics": 0.0, "lambda_sterics": 1.0}
    assert schedule.parameters[-1] == {"lambda_electrostatics": 0.0, "lambda_sterics": 0.0}
    assert decoupling_schedule((1.0, 0.0), (1.0,)).n_states == 2
    for electrostatics, sterics in (
        ((0.9, 0.0), (1.0, 0.0)),
        ((1.0, 0.2), (1.0, 0.0)),
        ((1.0, 0.0), (1.0, 0.3)),
        ((1.0, 0.5, 0.6, 0.0), (1.0, 0.0)),
    ):
        with pytest.raises(ConfigError, match="schedule must"):
            decoupling_schedule(electrostatics, sterics)


def test_written_energies_are_read_by_alchemlyb(tmp_path: Path) -> None:
    from alchemlyb.estimators import MBAR, TI
    from alchemlyb.parsing.parquet import extract_dHdl, extract_u_nk

    samples = draw_samples(np.random.default_rng(9), K0, K1, 5, 200)
    samples.write(tmp_path)
    u_nk = extract_u_nk(str(tmp_path / "u_nk.parquet"), TEMPERATURE_K)
    u_nk.columns = [float(name) for name in u_nk.columns]
    ours = analyze_windows(samples)
    assert KT * MBAR().fit(u_nk).delta_f_.iloc[0, -1] == pytest.approx(
        ours.mbar.value_kj_mol, abs=0.3
    )
    derivative = extract_dHdl(str(tmp_path / "dHdl.parquet"), TEMPERATURE_K)
    assert KT * TI().fit(derivative).delta_f_.iloc[0, -1] == pytest.approx(
        ours.mbar.value_kj_mol, abs=0.5
    )
