"""The main job: a ligand under a MACE model, from the command line."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mace_mm.cli.app import main
from mace_mm.errors import BackendError, ConfigError, ElementError
from mace_mm.simulation.ligand import load_ligand
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.run.trajectory import read_frames, read_log
from mace_mm.simulation.simulate import ModelChoice, read_summary, simulate

pytestmark = pytest.mark.plain

COMMAND = [sys.executable, "-c", "from mace_mm.cli.app import main; main()", "simulate"]
FAST = ["--platform", "Reference", "--minimize", "20"]


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``mace-mm simulate`` in this process; returns the exit code and stderr."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["simulate", *map(str, arguments)])
        return int(end.value.code or 0), capsys.readouterr().err

    return call


def test_the_command_runs_the_bundled_model_and_writes_a_report(
    tmp_path: Path, command: Run
) -> None:
    folder = tmp_path / "run"
    code, stderr = command("CO", "-o", folder, "--steps", "40", "--name", "methanol", *FAST)
    assert code == 0, stderr
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "checkpoint.json",
        "log.csv",
        "report.html",
        "run.json",
        "topology.pdb",
        "trajectory.dcd",
    }
    assert "dynamics 40/40" in stderr
    assert "methanol" in (folder / "report.html").read_text()
    summary = read_summary(folder)
    assert summary.result.completed
    assert read_frames(folder / "trajectory.dcd").shape == (3, 6, 3)
    # The molecule stays one: every bond of every frame has a chemical length.
    ligand = load_ligand("CO")
    pairs = np.array([[a.index for a in bond] for bond in ligand.topology.bonds()])
    frames = read_frames(folder / "trajectory.dcd")
    lengths = np.linalg.norm(frames[:, pairs[:, 0]] - frames[:, pairs[:, 1]], axis=-1)
    assert lengths.min() > 0.08 and lengths.max() < 0.17


def test_an_existing_run_is_kept_unless_told_otherwise(tmp_path: Path, command: Run) -> None:
    arguments = ("CO", "-o", tmp_path / "run", "--steps", "10", *FAST)
    assert command(*arguments)[0] == 0
    code, stderr = command(*arguments)
    assert code == 1
    assert "already holds a run" in stderr
    assert command(*arguments, "--overwrite")[0] == 0


def test_ctrl_c_stops_with_a_checkpoint_and_resume_finishes(tmp_path: Path, command: Run) -> None:
    folder = tmp_path / "run"
    arguments = ["CO", "-o", str(folder), "--log-every", "2", *FAST]
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--steps", "1000000"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.json").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "--resume continues the run" in stderr
    done = read_summary(folder).result.step
    assert 0 < done < 1_000_000
    code, stderr = command(*arguments, "--steps", str(done + 20), "--resume")
    assert code == 0, stderr
    with (folder / "log.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == list(range(0, done + 21, 2))


def test_both_backends_give_the_same_energies(tmp_path: Path, openmmtorch_installed: None) -> None:
    # Both start from the same positions without minimization; single precision.
    settings = RunSettings(steps=10, minimize_steps=0, platform="Reference")
    logs = []
    for backend in ("torchforce", "pythonforce"):
        folder = tmp_path / backend
        summary = simulate(load_ligand("CO"), folder, settings, ModelChoice(backend=backend))
        assert summary.force.lower() == backend
        logs.append(read_log(folder / "log.csv"))
    for column in ("potential_energy_kj_mol", "kinetic_energy_kj_mol"):
        np.testing.assert_allclose(logs[0][column], logs[1][column], rtol=1e-5)


def test_a_resumed_run_keeps_its_model_and_precision(tmp_path: Path) -> None:
    settings = RunSettings(steps=10, minimize_steps=0, platform="Reference")
    simulate(load_ligand("CO"), tmp_path, settings, ModelChoice(backend="pythonforce"))
    double = ModelChoice(backend="pythonforce", precision="double")
    with pytest.raises(ConfigError, match="precision single, now double"):
        simulate(load_ligand("CO"), tmp_path, settings, double, resume=True)


def test_what_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ElementError, match="Se"):
        simulate(load_ligand("C[Se]C"), tmp_path, RunSettings())
    with pytest.raises(BackendError, match="abacus"):
        simulate(load_ligand("CO"), tmp_path, RunSettings(), ModelChoice(backend="abacus"))
    with pytest.raises(BackendError, match="half"):
        simulate(load_ligand("CO"), tmp_path, RunSettings(), ModelChoice(precision="half"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense!"], "neither a file that exists nor a SMILES"),
        (["CO", "--model", "missing.pt"], "missing.pt"),
        (["CO", "--dt", "-1"], "timestep_fs must be a positive number"),
        (["CO", "--platform", "Abacus"], "got 'Abacus'"),
        (["CO", "--resume", "--overwrite"], "exclude each other"),
    ],
)
def test_bad_input_ends_with_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, command: Run
) -> None:
    code, stderr = command(*arguments, "-o", tmp_path / "run")
    assert code == 1
    assert message in stderr
    assert not (tmp_path / "run" / "checkpoint.json").exists()
