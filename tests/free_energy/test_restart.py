"""Runs that are killed, continued, damaged, or spread over processes."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mace_mm.errors import BackendError, ConfigError, DataError
from mace_mm.free_energy.analysis.estimator import analyze_windows
from mace_mm.free_energy.analysis.work import analyze_switches
from mace_mm.free_energy.legs.leg import load_leg
from mace_mm.free_energy.sampling.distribute import run_tasks, switch_tasks, window_tasks
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.sampling.samples import collect
from mace_mm.free_energy.sampling.switching import FORWARD, REVERSE, read_work, run_switches
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.settings import Dynamics, Execution, Switching, Windows
from tests.support.free_energy_toys import FAST, TEMPERATURE_K, harmonic_answer_kj_mol, harmonic_leg

K0, K1 = 1000.0, 3000.0
WINDOWS = Windows(lambdas=(0.0, 0.5, 1.0), iterations=30, equilibration=2, steps=20)
SWITCHING = Switching(switches=30, steps=40, updates=10, stretch=20, equilibration=2)

RUN = """
import sys
from pathlib import Path
from tests.support.free_energy_toys import FAST, harmonic_leg
from mace_mm.free_energy.settings import Switching, Windows
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.sampling.switching import run_switches
def report(done, total):
    print(done, flush=True)
leg = harmonic_leg({k0}, {k1})
folder = Path({folder!r})
if {switch}:
    run_switches(leg, folder, Switching.model_validate({settings!r}), FAST, 0, on_iteration=report)
else:
    run_windows(leg, folder, Windows.model_validate({settings!r}), FAST, on_iteration=report)
"""


def _environment() -> dict[str, str]:
    here = Path(__file__).parents[2]
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def _run_until_killed(folder: Path, settings: dict, switch: bool, kill_after: int) -> int:
    """Start a run in a process, kill -9 it after an iteration, say the last it reported."""
    code = RUN.format(k0=K0, k1=K1, folder=str(folder), settings=settings, switch=switch)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=_environment()
    )
    assert process.stdout is not None
    last = 0
    for line in process.stdout:
        if line.strip().isdigit():
            last = int(line)
            if last >= kill_after:
                break
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait(timeout=60) == -signal.SIGKILL
    return last


def test_killed_windows_continue_and_lose_at_most_one_iteration(tmp_path: Path) -> None:
    leg = harmonic_leg(K0, K1)
    for kill_after in (3, 11):
        reported = _run_until_killed(tmp_path, WINDOWS.model_dump(), False, kill_after)
        journal = Journal(tmp_path, 3, 3)
        restart = journal.restart()
        assert restart is not None
        assert restart.iteration >= reported
    energies = journal.read().reduced[: restart.iteration].copy()
    run_windows(leg, tmp_path, WINDOWS, FAST)
    records = journal.read()
    assert len(records.states) == WINDOWS.iterations + WINDOWS.equilibration
    np.testing.assert_array_equal(records.reduced[: len(energies)], energies)
    assert np.isfinite(records.reduced).all()
    # Every iteration samples each state once.
    np.testing.assert_array_equal(np.sort(records.states, axis=1), [[0, 1, 2]] * 32)


def test_killed_switches_continue_and_lose_at_most_one_switch(tmp_path: Path) -> None:
    reported = _run_until_killed(tmp_path, SWITCHING.model_dump(), True, 7)
    journal = Journal(tmp_path, 1, 1)
    restart = journal.restart()
    assert restart is not None and restart.iteration >= reported
    before = journal.read().reduced[: restart.iteration].copy()
    run_switches(harmonic_leg(K0, K1), tmp_path, SWITCHING, FAST, FORWARD)
    work = journal.read().reduced
    assert len(work) == SWITCHING.switches + SWITCHING.equilibration
    np.testing.assert_array_equal(work[: len(before)], before)
    assert len(np.unique(work)) == SWITCHING.switches + 1  # equilibration has no work


def test_a_finished_run_does_nothing_more_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    leg = harmonic_leg(K0, K1)
    run_windows(leg, tmp_path, WINDOWS, FAST)
    size = (tmp_path / "energies.bin").stat().st_size
    calls: list[int] = []
    run_windows(leg, tmp_path, WINDOWS, FAST, on_iteration=lambda done, total: calls.append(done))
    assert not calls and (tmp_path / "energies.bin").stat().st_size == size
    longer = WINDOWS.model_copy(update={"iterations": 33})
    run_windows(leg, tmp_path, longer, FAST, on_iteration=lambda done, total: calls.append(done))
    assert calls == [33, 34, 35]


def test_a_half_written_record_is_cut_off(tmp_path: Path) -> None:
    leg = harmonic_leg(K0, K1)
    run_windows(leg, tmp_path, WINDOWS, FAST)
    with open(tmp_path / "energies.bin", "ab") as file:
        file.write(b"\0" * 17)
    longer = WINDOWS.model_copy(update={"iterations": 31})
    journal = run_windows(leg, tmp_path, longer, FAST)
    assert len(journal.read().states) == 33
    assert np.isfinite(journal.read().reduced).all()


def test_another_run_or_damage_in_the_folder_is_refused(tmp_path: Path) -> None:
    leg = harmonic_leg(K0, K1)
    run_windows(leg, tmp_path, WINDOWS, FAST)
    with pytest.raises(ConfigError, match="holds a run with timestep_fs 5.0, now 1.0"):
        run_windows(leg, tmp_path, WINDOWS, FAST.model_copy(update={"timestep_fs": 1.0}))
    with pytest.raises(ConfigError, match="holds a run with"):
        run_windows(harmonic_leg(K0, K1, n_windows=4), tmp_path, WINDOWS, FAST)
    content = (tmp_path / "restart.npz").read_bytes()
    (tmp_path / "restart.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a restart file"):
        run_windows(leg, tmp_path, WINDOWS, FAST)
    (tmp_path / "restart.npz").write_bytes(content)
    (tmp_path / "energies.bin").write_bytes(b"")
    with pytest.raises(DataError, match="should hold 32 iterations"):
        run_windows(leg, tmp_path, WINDOWS, FAST)


def test_an_incomplete_run_is_not_analyzed(tmp_path: Path) -> None:
    leg = harmonic_leg(K0, K1)
    short = WINDOWS.model_copy(update={"iterations": 1, "equilibration": 0})
    journal = run_windows(leg, tmp_path, short, FAST)
    with pytest.raises(DataError, match="run is not complete"):
        collect(leg.schedule, TEMPERATURE_K, [journal], 2)


def test_an_unknown_platform_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="must be one of .*Reference.*got 'Abacus'"):
        run_windows(harmonic_leg(K0, K1), tmp_path, WINDOWS, Dynamics(platform="Abacus"))


def test_a_leg_survives_its_files(tmp_path: Path) -> None:
    leg = harmonic_leg(K0, K1)
    leg.save(tmp_path)
    loaded = load_leg(tmp_path)
    assert loaded.identity() == leg.identity()
    np.testing.assert_array_equal(loaded.positions_nm, leg.positions_nm)
    (tmp_path / "leg.json").write_text("{")
    with pytest.raises(DataError, match="holds no leg"):
        load_leg(tmp_path)


def test_windows_and_switches_run_on_two_dask_workers(tmp_path: Path) -> None:
    leg = harmonic_leg(K0, K1)
    exact = harmonic_answer_kj_mol(K0, K1)
    two = Execution(workers=2)
    windows = WINDOWS.model_copy(update={"iterations": 100, "steps": 40})
    journals = run_tasks(leg, window_tasks(leg, tmp_path, windows, FAST), two)
    analysis = analyze_windows(collect(leg.schedule, TEMPERATURE_K, journals, 2))
    assert analysis.samples.counts == (100, 100, 100)
    assert abs(analysis.mbar.value_kj_mol - exact) < 3.5 * analysis.mbar.error_kj_mol
    # Windows must not repeat each other's noise.
    assert not np.allclose(analysis.samples.reduced[0][:, 0] * 3, analysis.samples.reduced[2][:, 2])
    calls: list[tuple[int, int]] = []
    journals = run_tasks(
        leg, switch_tasks(tmp_path, SWITCHING, FAST), two, lambda *done: calls.append(done)
    )
    works = [read_work(journal, SWITCHING) for journal in journals]
    switches = analyze_switches(works[FORWARD], works[REVERSE], TEMPERATURE_K)
    assert abs(switches.bar.value_kj_mol - exact) < 3.5 * switches.bar.error_kj_mol
    assert calls[-1] == (64, 64)


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path) -> None:
    leg = harmonic_leg(K0, K1)
    nowhere = Execution(scheduler="not-an-address")
    with pytest.raises(BackendError, match="no Dask scheduler answers at 'not-an-address'"):
        run_tasks(leg, window_tasks(leg, tmp_path, WINDOWS, FAST), nowhere)


def test_replicas_run_on_two_mpi_ranks(tmp_path: Path) -> None:
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if mpiexec is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("needs mpiexec and mpi4py")
    windows, ranks = tmp_path / "windows", tmp_path / "ranks"
    ranks.mkdir()
    # A file from each rank: mpiexec mixes the lines of their outputs.
    code = (
        RUN.format(k0=K0, k1=K1, folder=str(windows), settings=WINDOWS.model_dump(), switch=False)
        + "from mpi4py.MPI import COMM_WORLD as world\n"
        + f"Path({str(ranks)!r}, f'{{world.rank}} of {{world.size}}').touch()\n"
    )
    subprocess.run(
        [mpiexec, "-n", "2", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        env=_environment(),
        check=True,
    )
    assert sorted(file.name for file in ranks.iterdir()) == ["0 of 2", "1 of 2"]
    records = Journal(windows, 3, 3).read()
    np.testing.assert_array_equal(np.sort(records.states, axis=1), [[0, 1, 2]] * 32)
    samples = collect(harmonic_leg(K0, K1).schedule, TEMPERATURE_K, [Journal(windows, 3, 3)], 2)
    for block in samples.reduced:
        assert len(np.unique(block[:, 0])) == len(block)
