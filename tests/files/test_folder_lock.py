"""Two processes never write results into one folder, and a killed one lets go of it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mace_mm.errors import BackendError, DataError
from mace_mm.files.folder_lock import only_process

HOLD = """
import sys, time
from pathlib import Path
from mace_mm.files.folder_lock import only_process
with only_process(Path(sys.argv[1]), "waiting"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with (
        pytest.raises(BackendError, match=f"another process is waiting in {tmp_path}"),
        only_process(tmp_path, "waiting"),
    ):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    with only_process(tmp_path, "waiting"):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataError, match="cannot be written"),
        only_process(tmp_path / "file", "waiting"),
    ):
        pass


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_process(tmp_path, "waiting"):
        assert "has no locks: start no second process there" in caplog.text


def test_two_runs_do_not_train_in_one_folder(tmp_path: Path) -> None:
    from mace_mm.training.config_file import parse_config
    from mace_mm.training.train import train_one
    from tests.support.training_frames import settings

    config = parse_config(settings(tmp_path))
    with (
        only_process(Path(config.output), "training"),
        pytest.raises(BackendError, match="another process is training"),
    ):
        train_one(config)


def test_two_runs_do_not_sample_in_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("openmmtools")
    from mace_mm.free_energy.jobs.run_leg import Protocol, run_leg
    from mace_mm.free_energy.settings import Execution, Limits, Windows
    from tests.support.free_energy_toys import FAST, harmonic_leg

    leg = harmonic_leg(1000.0, 2000.0)
    protocol = Protocol(
        windows=Windows(lambdas=leg.schedule.coordinates, iterations=2, equilibration=1, steps=5),
        switching=None,
        dynamics=FAST,
        execution=Execution(),
        limits=Limits(),
    )
    with (
        only_process(tmp_path, "sampling"),
        pytest.raises(BackendError, match="another process is sampling"),
    ):
        run_leg(leg, tmp_path, protocol)
