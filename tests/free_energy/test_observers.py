"""What observers see of a run, and that their records survive what the energies survive."""

import logging
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from mace_mm.errors import ConfigError, DataError, GeometryError
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.sampling.distribute import run_tasks, switch_tasks, window_tasks
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.sampling.restart import Restart
from mace_mm.free_energy.sampling.switching import REVERSE, run_switches
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.settings import Execution, Windows
from tests.free_energy.test_restart import SWITCHING, WINDOWS, _environment
from tests.support.free_energy_toys import FAST, harmonic_leg

K0, K1 = 1000.0, 3000.0
TOTAL = WINDOWS.iterations + WINDOWS.equilibration


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the first particle is, and in which iteration and state."""

    name: str = "place"
    columns: tuple[str, ...] = ("iteration", "state", "x", "squared")
    stop_after: int = 10**9

    def measure(self, restart: Restart, reduced: np.ndarray) -> np.ndarray:
        assert reduced.shape[0] == len(restart.states)
        first = restart.positions_nm[:, 0]
        return np.column_stack(
            [
                np.full(len(first), restart.iteration),
                restart.states,
                first[:, 0],
                (restart.positions_nm**2).sum(axis=(1, 2)),
            ]
        )[:, : len(self.columns)]

    def check(self, iteration: int, values: np.ndarray) -> None:
        assert values.shape[1] == len(self.columns)
        if iteration >= self.stop_after:
            raise GeometryError(f"stopped after iteration {iteration}")


def _leg(**options: object) -> Leg:
    return replace(harmonic_leg(K0, K1), observers=(Place(**options),))  # type: ignore[arg-type]


def _agrees_with_energies(journal: Journal) -> np.ndarray:
    """The observed positions are those of the energies, iteration by iteration."""
    records, observed = journal.read(), journal.observations("place")
    assert observed is not None
    values = observed.values
    np.testing.assert_array_equal(values[:, :, 1], records.states)
    np.testing.assert_array_equal(
        values[:, :, 0], np.arange(1, len(values) + 1)[:, None].repeat(values.shape[1], axis=1)
    )
    slope = records.reduced[:, :, -1] - records.reduced[:, :, 0]
    np.testing.assert_allclose(
        0.5 * (K1 - K0) * values[:, :, 3] / harmonic_leg(K0, K1).kt_kj_mol, slope, atol=1e-5
    )
    return values


@pytest.mark.parametrize("exchange", [True, False])
def test_every_iteration_of_windows_is_observed(tmp_path: Path, exchange: bool) -> None:
    windows = WINDOWS.model_copy(update={"exchange": exchange})
    values = _agrees_with_energies(run_windows(_leg(), tmp_path, windows, FAST))
    assert len(values) == TOTAL
    assert (values[:, :, 1] != values[0, :, 1]).any() == exchange


def test_equilibrium_of_switching_is_observed(tmp_path: Path) -> None:
    journal = run_switches(_leg(), tmp_path, SWITCHING, FAST, REVERSE)
    observed = journal.observations("place")
    assert observed is not None and observed.values.shape == (32, 1, 4)
    # At the start of a switch, not at its end: the reverse direction sits in the stiff well.
    assert 0.5 * observed.values[:, 0, 3].mean() * K1 < 3.0 * harmonic_leg(K0, K1).kt_kj_mol


def test_windows_and_switches_on_workers_are_observed(tmp_path: Path) -> None:
    leg = _leg()
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        tasks = [
            *window_tasks(leg, folder, WINDOWS, FAST),
            *switch_tasks(folder, SWITCHING, FAST),
        ]
        journals = run_tasks(leg, tasks, Execution(workers=workers))
        for state, journal in enumerate(journals):
            observed = journal.observations("place")
            assert observed is not None and np.isfinite(observed.values).all()
            assert len(observed.values) == journal.n_iterations()
            if state < 3:
                assert (observed.values[:, 0, 1] == state).all()


def test_a_killed_run_keeps_observations_and_energies_together(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.support.free_energy_toys import FAST
from mace_mm.free_energy.sampling.windows import run_windows
from tests.free_energy.test_observers import WINDOWS, _leg
say = lambda done, total: print(done, flush=True)
run_windows(_leg(), Path(sys.argv[1]), WINDOWS, FAST, on_iteration=say)
"""
    for kill_after in (3, 11):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= kill_after:
                break
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        assert process.wait(timeout=60) == -signal.SIGKILL
    before = Journal(tmp_path, 3, 3).observations("place")
    done = Journal(tmp_path, 3, 3).restart()
    assert before is not None and done is not None
    # What a kill between the two files leaves: an observation without its energies.
    with open(tmp_path / "observed_place.bin", "ab") as file:
        file.write(b"\1" * 101)
    values = _agrees_with_energies(run_windows(_leg(), tmp_path, WINDOWS, FAST))
    assert len(values) == TOTAL
    np.testing.assert_array_equal(values[: done.iteration], before.values[: done.iteration])


def test_a_run_of_an_older_version_opens_and_says_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = WINDOWS.model_copy(update={"iterations": 5})
    journal = run_windows(harmonic_leg(K0, K1), tmp_path, old, FAST)
    assert journal.observations("place") is None
    with caplog.at_level(logging.WARNING, "mace_mm"):
        journal = run_windows(_leg(), tmp_path, WINDOWS, FAST)
    assert "the first 7 iterations were not observed" in caplog.text
    observed = journal.observations("place")
    assert observed is not None and len(observed.values) == TOTAL
    assert np.isnan(observed.values[:7]).all() and np.isfinite(observed.values[7:]).all()
    # A while without the observer leaves a gap, not a shift.
    without = WINDOWS.model_copy(update={"iterations": 35})
    run_windows(harmonic_leg(K0, K1), tmp_path, without, FAST)
    longer = WINDOWS.model_copy(update={"iterations": 40})
    observed = run_windows(_leg(), tmp_path, longer, FAST).observations("place")
    assert observed is not None
    assert np.isnan(observed.values[TOTAL : TOTAL + 5]).all()
    np.testing.assert_array_equal(observed.values[-5:, 0, 0], np.arange(38, 43))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_observer_ends_a_run_that_keeps_what_was_computed(tmp_path: Path, workers: int) -> None:
    leg = _leg(stop_after=6)
    tasks = window_tasks(leg, tmp_path, WINDOWS, FAST)[:1]
    for _ in range(2):
        with pytest.raises(GeometryError, match="stopped after iteration 6"):
            run_tasks(leg, tasks, Execution(workers=workers))
        assert tasks[0].journal(3).n_iterations() == 6
    journal = run_windows(_leg(), tasks[0].folder, _alone(), tasks[0].dynamics, replicas=[0])
    assert journal.n_iterations() == TOTAL
    _agrees_with_energies(journal)


def _alone() -> Windows:
    return WINDOWS.model_copy(update={"exchange": False})


def test_other_columns_damage_and_wrong_shapes_are_named(tmp_path: Path) -> None:
    run_windows(_leg(), tmp_path, WINDOWS, FAST)
    longer = WINDOWS.model_copy(update={"iterations": 31})
    with pytest.raises(ConfigError, match="holds 4 numbers .*now 2 are observed .iteration, state"):
        run_windows(_leg(columns=("iteration", "state")), tmp_path, longer, FAST)
    with pytest.raises(ConfigError, match="names of their own"):
        Journal(tmp_path, 3, 3, (Place(), Place()))
    with pytest.raises(DataError, match="must measure 5 numbers of each of 3 replicas, got shape"):
        columns = ("iteration", "state", "x", "squared", "y")
        run_windows(_leg(columns=columns), tmp_path / "other", WINDOWS, FAST)
    (tmp_path / "observed_place.json").write_text("{")
    with pytest.raises(DataError, match="observed_place.json is damaged"):
        run_windows(_leg(), tmp_path, longer, FAST)


def test_replicas_on_mpi_ranks_are_observed(tmp_path: Path) -> None:
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:/usr/bin")
    pytest.importorskip("mpi4py")
    if mpiexec is None:
        pytest.skip("needs mpiexec")
    code = """
import sys
from pathlib import Path
from mpi4py import MPI
from tests.support.free_energy_toys import FAST
from mace_mm.free_energy.sampling.windows import run_windows
from tests.free_energy.test_observers import WINDOWS, _leg
run_windows(_leg(), Path(sys.argv[1]), WINDOWS, FAST)
"""
    subprocess.run(
        [mpiexec, "-n", "2", sys.executable, "-c", code, str(tmp_path)],
        env=_environment(),
        timeout=240,
        check=True,
    )
    assert len(_agrees_with_energies(Journal(tmp_path, 3, 3))) == TOTAL
