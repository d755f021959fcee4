"""Workers and drivers killed with SIGKILL in the middle: the dataset is the undisturbed one."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytest.importorskip("tblite")
psutil = pytest.importorskip("psutil")
pytest.importorskip("distributed")

DEADLINE_S = 180.0
SMILES = ["CCO", "CC(N)=O", "c1ccccc1", "CCS", "CC#N", "CCF", "CC=O", "CNC", "COC", "CCl", "C=C"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protocol") / "kill.yaml"
    protocol = {
        "name": "kill",
        "seed": 3,
        "molecules": {"sources": [{"kind": "smiles", "smiles": SMILES}]},
        "conformers": {"count": 3},
        "sampling": {"duration_ps": 4.0, "frames_per_conformer": 5},
        "selection": {"count": 8},
        "cold": {"count": 4, "duration_ps": 0.5},
        "labels": [{"name": "gfn2", "kind": "tblite", "method": "GFN2-xTB"}],
    }
    path.write_text(yaml.safe_dump(protocol))
    return path


def _start(config: Path, folder: Path, workers: int) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    program = "from mace_mm.cli.app import main; main()"
    command = [sys.executable, "-c", program, "generate", str(config)]
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "-o", str(folder), "-w", str(workers)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.02)


def _finished(driver: subprocess.Popen[bytes], folder: Path) -> None:
    code = driver.wait(timeout=DEADLINE_S)
    assert code == 0, (folder.parent / f"{folder.name}.log").read_text()[-3000:]


def _n_records(folder: Path, kind: str) -> int:
    return len(list((folder / "work" / kind).glob("*/*.npz")))


def _workers(driver: subprocess.Popen[bytes]) -> list["psutil.Process"]:
    return [
        child
        for child in psutil.Process(driver.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "kill-gfn2.h5").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    _finished(_start(config, folder, workers=0), folder)
    return _digest(folder)


def test_killed_workers_change_nothing(config: Path, undisturbed: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    driver = _start(config, folder, workers=2)
    for n_done in (1, 4):
        _wait(lambda n=n_done: _n_records(folder, "frames") >= n, f"{n_done} records")
        _wait(lambda: len(_workers(driver)) > 0, "a worker")
        _workers(driver)[0].send_signal(signal.SIGKILL)
    _finished(driver, folder)
    assert _digest(folder) == undisturbed


@pytest.mark.parametrize("kind", ["frames", "labels"])
def test_a_killed_driver_goes_on_where_it_was(
    config: Path, undisturbed: str, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "run"
    driver = _start(config, folder, workers=2)
    _wait(lambda: _n_records(folder, kind) >= 2, "records")
    left = _workers(driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    n_kept = {name: _n_records(folder, name) for name in ("frames", "labels")}
    assert not (folder / "kill-gfn2.h5").exists()
    _wait(lambda: not any(worker.is_running() for worker in left), "the workers to end")
    _finished(_start(config, folder, workers=2), folder)
    assert _digest(folder) == undisturbed
    # Nothing that was stored is made again.
    report = (folder / "report.txt").read_text()
    for name, stage in (("frames", "sampling"), ("labels", "label gfn2")):
        assert f"{stage}, in this run: {len(SMILES) - n_kept[name]} items" in report


def test_a_molecule_that_kills_every_worker_costs_only_itself(tmp_path: Path) -> None:
    from mace_mm.generation.work.execution import Lost, Task, open_runner
    from mace_mm.generation.work.execution_settings import ExecutionSettings

    tasks = [Task(key=f"t{i}", function=_bytes_of, arguments=(i,)) for i in range(8)]
    tasks[3] = Task(key="t3", function=os.abort, arguments=())
    with open_runner(ExecutionSettings(kind="local", workers=2)) as runner:
        results = dict(runner(iter(tasks)))
    lost = results.pop("t3")
    assert isinstance(lost, Lost)
    assert "died every time" in lost.reason
    assert results == {f"t{i}": bytes(i) for i in range(8) if i != 3}


def _bytes_of(number: int) -> bytes:
    return bytes(number)
