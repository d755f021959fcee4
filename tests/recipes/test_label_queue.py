"""The scripts that label the fragment set: killed, gone on with, collected."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from mace_mm.data.formats.spice import SpiceFile
from mace_mm.units import HARTREE_TO_EV

pytest.importorskip("pyscf")

LEVEL = """name: small
kind: pyscf
method: pbe
basis: sto-3g
options: {fast: true, grid_level: 0}
atom_energies: {H: -0.4, O: -73.0, F: -97.0}
"""


@pytest.fixture
def folder(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of twelve frames of water and of HF, the latter for validation."""
    monkeypatch.syspath_prepend(project_root / "recipes" / "labels")
    from queue_file import Candidate, write_queue

    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "level.yaml").write_text(LEVEL)
    generator = np.random.default_rng(0)
    bent = np.array([[0.0, 0.0, 0.2], [0.0, 1.43, -0.9], [0.0, -1.43, -0.9]])
    straight = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.75]])
    candidates = [
        Candidate(
            name=name,
            smiles=smiles,
            group="small",
            validation=validation,
            atomic_numbers=np.array(numbers),
            charge=0,
            positions=(start + 0.1 * generator.standard_normal((6, *start.shape))).astype("f4"),
        )
        for name, smiles, validation, numbers, start in (
            ("water", "[O:1]([H:2])[H:3]", False, [8, 1, 1], bent),
            ("hf", "[F:1][H:2]", True, [9, 1], straight),
        )
    ]
    write_queue(folder / "queue" / "round-1.h5", candidates)
    return folder


def _start(script: str, folder: Path, project_root: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(project_root), "OMP_NUM_THREADS": "1"}
    path = project_root / "recipes" / "labels" / script
    records = str(folder.parent / "records")
    return subprocess.Popen(
        [sys.executable, str(path), "--set", str(folder), "--records", records, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def test_a_killed_worker_loses_the_frame_in_work_and_no_other(
    folder: Path, project_root: Path
) -> None:
    killed = _start("label_queue.py", folder, project_root)
    assert killed.stdout is not None
    first = [killed.stdout.readline() for _ in range(3)]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    records = folder.parent / "records"
    done = len(list(records.glob("*/*.npz")))
    assert done >= 3 and all(" s" in line for line in first)
    output, _ = _start("label_queue.py", folder, project_root).communicate()
    assert len(output.splitlines()) == 12 - done, output
    output, _ = _start("collect.py", folder, project_root).communicate()
    assert "6 + 6 new frames, 0 failures" in output
    again, _ = _start("collect.py", folder, project_root).communicate()
    assert "0 + 0 new frames" in again
    assert sorted(p.name for p in (folder / "parts").iterdir()) == [
        "training-001.h5",
        "validation-001.h5",
    ]
    water = SpiceFile(folder / "parts" / "training-001.h5").conformers(0)
    assert water.energies is not None and water.forces is not None
    assert len(water.energies) == 6
    # Labels of this queue's positions, in the right units: slope against another frame's energy.
    with h5py.File(folder / "parts" / "training-001.h5") as file:
        assert file.attrs["functional"] == "pbe"
        assert file["water"]["scf_dipole"].shape == (6, 3)
        assert (file["water"]["label_seconds"][()] > 0.0).all()
        formation = file["water"]["formation_energy"][()] * HARTREE_TO_EV
    np.testing.assert_allclose(
        water.energies - formation, (-73.0 - 0.8) * HARTREE_TO_EV, rtol=1e-10
    )
    card = (folder / "README.md").read_text()
    assert "| frames | 6 | 6 |" in card and "0 frames wait" in card


def test_workers_share_the_queue_and_stop_when_told(folder: Path, project_root: Path) -> None:
    output, _ = _start("label_queue.py", folder, project_root, "--worker", "1/2").communicate()
    assert len(output.splitlines()) == 6, output
    records = folder.parent / "records"
    (records / "STOP").touch()
    output, _ = _start("label_queue.py", folder, project_root).communicate()
    assert output == ""
    (records / "STOP").unlink()
    started = time.monotonic()
    output, _ = _start("label_queue.py", folder, project_root, "--seconds", "0").communicate()
    assert output == "" and time.monotonic() - started < 60.0


def test_what_cannot_be_labelled_or_stored_is_one_line(folder: Path, project_root: Path) -> None:
    level = (folder / "level.yaml").read_text()
    (folder / "level.yaml").write_text(
        level.replace("grid_level: 0", "grid_level: 0, max_cycle: 1")
    )
    output, _ = _start("label_queue.py", folder, project_root, "--worker", "0/4").communicate()
    lines = output.splitlines()
    assert len(lines) == 3 and all("not converged in 1 cycles" in line for line in lines)
    output, _ = _start("collect.py", folder, project_root).communicate()
    assert "0 + 0 new frames, 3 failures" in output
    assert len((folder / "failures.txt").read_text().splitlines()) == 3


def test_the_queue_is_balanced_from_the_beginning(project_root: Path) -> None:
    sys.path.insert(0, str(project_root / "recipes" / "labels"))
    try:
        from queue_file import SHARES, Candidate, in_order
    finally:
        sys.path.pop(0)
    charges = [0] * 40 + [1] * 20 + [-1] * 20
    numbers = [[6, 1, 1, 1, 1], [6, 35, 1, 1, 1], [15, 1, 1, 1], [5, 1, 1, 1]]
    candidates = {
        f"m{i}": Candidate(
            name=f"m{i}",
            smiles="",
            group="",
            validation=False,
            atomic_numbers=np.array(numbers[i % 4]),
            charge=charge,
            positions=np.zeros((2, len(numbers[i % 4]), 3), dtype=np.float32),
        )
        for i, charge in enumerate(charges)
    }
    order = in_order(list(candidates.values()), seed=0)
    assert sorted(order) == sorted(f"m{i}/{k}" for i in range(80) for k in range(2))
    first = [candidates[frame.split("/")[0]].kind for frame in order[:20]]
    present = {candidate.kind for candidate in candidates.values()}
    total = sum(SHARES[kind] for kind in present)
    for kind in present:
        assert abs(first.count(kind) - 20 * SHARES[kind] / total) <= 1.0, (kind, first)
