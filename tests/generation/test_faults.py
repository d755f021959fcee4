"""Bad molecules, damaged files and full disks: each costs its item and gives a line."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from mace_mm.data.formats.spice import SpiceFile
from mace_mm.generation.generate import generate
from mace_mm.generation.protocol import Protocol, read_protocol

pytest.importorskip("tblite")

QUICK = {
    "name": "faults",
    "conformers": {"count": 2, "attempts": 5},
    "sampling": {"duration_ps": 0.05, "frames_per_conformer": 2},
    "selection": {"count": 3},
    "cold": {"count": 1, "duration_ps": 0.02},
    "labels": [{"name": "gfn2", "kind": "tblite", "method": "GFN2-xTB"}],
}


def _protocol(sources: list[dict[str, object]], **changes: object) -> Protocol:
    return Protocol.model_validate({**QUICK, "molecules": {"sources": sources}, **changes})


def _smiles(*smiles: str) -> list[dict[str, object]]:
    return [{"kind": "smiles", "smiles": {f"m{i}": s for i, s in enumerate(smiles)}}]


def test_every_bad_molecule_costs_itself_and_has_its_line(tmp_path: Path) -> None:
    bad = {
        "m1": ("C1CC", "not a SMILES"),
        "m2": ("[H][C@]12CC[C@@](F)(C1)C2", "no conformer could be embedded"),
        "m3": ("[Na+].[Cl-]", "mixture"),
        "m4": ("C[CH2]", "radical"),
        "m5": ("[13CH4]", "isotope"),
        "m6": ("C1#CC#C1", "no conformer could be embedded|stereoisomer|MMFF|blew up|bond"),
    }
    smiles = ["CCO", *(smiles for smiles, _ in bad.values()), "CN"]
    report = generate(_protocol(_smiles(*smiles)), tmp_path)
    file = SpiceFile(tmp_path / "faults-gfn2.h5")
    kept = {entry.name for entry in file.entries}
    assert {"m0", "m7"} <= kept
    text = (tmp_path / "report.txt").read_text()
    lines = {entry.name: entry.reason for entry in report.rejections}
    for name in ("m1", "m2", "m3", "m4", "m5"):
        assert name not in kept
        assert bad[name][1] in lines[name]
        assert f"{name}: {lines[name]}" in text


def _unlabelled(path: Path, damage: str = "") -> None:
    """Two groups of water conformers as SPICE gives them, the second one damaged."""
    rng = np.random.default_rng(1)
    water = np.array([[0.0, 0.0, 0.0117], [0.0, 0.0757, -0.0469], [0.0, -0.0757, -0.0469]])
    with h5py.File(path, "w") as file:
        for name in ("good", "second"):
            group = file.create_group(name)
            group["smiles"] = [b"[O:1]([H:2])[H:3]" if name == "good" else b"[H:2][O:1][H:3]"]
            frames = water + rng.normal(0.0, 0.002, (6, 3, 3))
            unit = "nanometers"
            if name == "second":
                if damage == "unit":
                    unit = "furlong"
                if damage == "shape":
                    frames = frames[:, :2]
                if damage == "bond":
                    frames[2, 1] = 0.5
                if damage == "nan":
                    frames[2, 1] = np.nan
            group["conformations"] = frames.astype(np.float32)
            group["conformations"].attrs["units"] = unit


def _given(path: Path) -> list[dict[str, object]]:
    return [{"kind": "spice", "path": str(path), "max_frames": 4}]


def test_given_conformers_are_labelled_as_they_are(tmp_path: Path) -> None:
    _unlabelled(tmp_path / "given.h5")
    generate(_protocol(_given(tmp_path / "given.h5")), tmp_path / "out")
    file = SpiceFile(tmp_path / "out" / "faults-gfn2.h5")
    assert [entry.name for entry in file.entries] == ["good", "second"]
    assert [entry.subset for entry in file.entries] == ["given", "given"]
    with h5py.File(tmp_path / "given.h5") as h5:
        expected = h5["good/conformations"][()][[0, 2, 3, 5]] * 10.0
    np.testing.assert_allclose(file.conformers(0).positions, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("damage", "reason"), [("unit", "furlong"), ("shape", "conformations"), ("nan", "not finite")]
)
def test_a_damaged_group_costs_itself(tmp_path: Path, damage: str, reason: str) -> None:
    _unlabelled(tmp_path / "given.h5", damage)
    report = generate(_protocol(_given(tmp_path / "given.h5")), tmp_path / "out")
    file = SpiceFile(tmp_path / "out" / "faults-gfn2.h5")
    assert [entry.name for entry in file.entries] == ["good"]
    assert any("second" in r.name + r.reason and reason in r.reason for r in report.rejections)


def test_a_frame_with_a_broken_bond_costs_itself(tmp_path: Path) -> None:
    _unlabelled(tmp_path / "given.h5", "bond")
    report = generate(_protocol(_given(tmp_path / "given.h5")), tmp_path / "out")
    file = SpiceFile(tmp_path / "out" / "faults-gfn2.h5")
    assert [file.conformers(i).n_frames for i in range(2)] == [4, 3]
    (note,) = report.notes
    assert note.name == "second"
    assert "given frame 2 left out: bond O1–H2 (atoms 0 and 1) broke: 8." in note.reason


def test_a_truncated_file_costs_its_source(tmp_path: Path) -> None:
    _unlabelled(tmp_path / "given.h5")
    content = (tmp_path / "given.h5").read_bytes()
    (tmp_path / "given.h5").write_bytes(content[: len(content) // 2])
    report = generate(
        _protocol([*_given(tmp_path / "given.h5"), *_smiles("CCO")]), tmp_path / "out"
    )
    assert [e.name for e in SpiceFile(tmp_path / "out" / "faults-gfn2.h5").entries] == ["m0"]
    assert [r.name for r in report.rejections] == ["given.h5"]
    assert "truncated" in report.rejections[0].reason


def test_a_full_disk_costs_the_items_that_do_not_fit_and_later_nothing(tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk: small molecules fit, large ones do not."""
    protocol = _protocol(_smiles("O", "C", "CCO", "CC(C)(C)c1ccc(CO)cc1"))
    config, folder = tmp_path / "p.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump(protocol.model_dump(mode="json")))
    generate(read_protocol(config), tmp_path / "undisturbed")
    sizes = sorted(p.stat().st_size for p in (tmp_path / "undisturbed/work").glob("*/*/*.npz"))
    limit = (sizes[-1] + sizes[-4]) // 2
    program = "from mace_mm.cli.app import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", program, "generate", str(config), "-o", str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    # The dataset itself does not fit either: one sentence, and no half-written file.
    assert run.returncode == 1, run.stdout + run.stderr
    assert "could not be written" in run.stderr
    assert "left out: [sampling] m3: a record could not be stored: File too large" in run.stdout
    assert "Traceback" not in run.stderr
    assert not list(folder.glob("*.h5"))
    assert not list(folder.rglob("*.partial"))
    stored = len(list((folder / "work").glob("*/*/*.npz")))
    assert 0 < stored < len(sizes)
    generate(read_protocol(config), folder)
    name = "faults-gfn2.h5"
    assert (folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
