"""The evaluation report: tables, pictures and numbers of one model on labelled frames."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mace_mm.data.frames import MemoryFrames
from mace_mm.errors import DataError
from mace_mm.training.config_file import parse_config
from mace_mm.training.evaluation.errors import evaluate_frames, summarize
from mace_mm.training.evaluation.plots import energy_profiles, learning_curves
from mace_mm.training.start.setup import build_potential, prepare_frames
from tests.support.training_frames import make_frames, settings, write_frames

COMMAND = [sys.executable, "-c", "from mace_mm.cli.app import main; main()"]


def test_summaries_are_the_written_means(tmp_path) -> None:
    config = parse_config(settings(tmp_path))
    potential = build_potential(config, prepare_frames(config)).eval()
    frames = make_frames(12)
    errors = evaluate_frames(potential, MemoryFrames(frames), dtype=torch.float64)
    assert [e.index for e in errors] == list(range(12))
    for error, frame in zip(errors, frames, strict=True):
        assert error.energy_label == frame.energy
        np.testing.assert_array_equal(error.forces_label, frame.forces)
    per_atom = np.array([e.energy / e.n_atoms for e in errors])
    assert summarize(errors).energy_mae == pytest.approx(np.abs(per_atom).mean())
    assert energy_profiles(errors, ["a", "b", "c"]) is None  # four frames a molecule


def test_the_command_writes_html_and_json(tmp_path) -> None:
    data = write_frames(tmp_path / "frames.xyz", 27)
    values = settings(tmp_path)
    config = parse_config(values)
    from mace_mm.archive.archive import ArchiveMetadata, make_archive, save_archive

    potential = build_potential(config, prepare_frames(config))
    save_archive(tmp_path / "m.pt", make_archive(potential, ArchiveMetadata(name="m")))
    history = tmp_path / "history.csv"
    header = "epoch,learning_rate,validation_forces_rmse,validation_energy_rmse\n"
    history.write_text(header + "1,0.1,2.0,1.0\n2,0.05,1.0,0.5\n")
    report, table = tmp_path / "r.html", tmp_path / "r.json"
    options = ["--report", str(report), "-o", str(table), "--history", str(history)]
    done = subprocess.run(
        [*COMMAND, "evaluate", str(tmp_path / "m.pt"), str(data), *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    text = report.read_text()
    assert text.count("data:image/png;base64,") == 4
    assert {"water", "methane", "ammonia", "all"} == set(json.loads(table.read_text()))
    for subset in ("water", "methane", "ammonia"):
        assert f"<td>{subset}</td><td>9</td>" in text


def test_a_file_that_is_no_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not the history"):
        learning_curves(path)
    with pytest.raises(DataError, match="not the history"):
        learning_curves(tmp_path / "none.csv")
