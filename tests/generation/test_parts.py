"""Items that take long are made in parts: by several workers, and not again after a kill."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from mace_mm.data.formats.spice import SpiceFile
from mace_mm.errors import DataError
from mace_mm.generation.frames.frames import sample_item, sample_start
from mace_mm.generation.generate import generate
from mace_mm.generation.labels.programs import label_frames
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.molecules.planning import plan
from mace_mm.generation.protocol import Protocol, read_protocol
from mace_mm.generation.report import Report
from mace_mm.generation.work.execution_settings import ExecutionSettings
from mace_mm.generation.work.parts import Part, join_labels, label_parts
from mace_mm.generation.work.store import Record

pytest.importorskip("tblite")
pytest.importorskip("distributed")

LABEL = {"name": "gfn1", "kind": "tblite", "method": "GFN1-xTB"}
PROTOCOL = {
    "name": "parts",
    "seed": 5,
    "molecules": {"sources": [{"kind": "smiles", "smiles": ["CO"]}]},
    "conformers": {"count": 3},
    "sampling": {"force": {"kind": "tblite"}, "duration_ps": 0.4, "frames_per_conformer": 80},
    "selection": {"count": 240},
    "cold": {"count": 0},
    "labels": [LABEL],
}
N_FRAMES = 240


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protocol") / "parts.yaml"
    path.write_text(yaml.safe_dump(PROTOCOL))
    return path


@pytest.fixture(scope="module")
def protocol(config: Path) -> Protocol:
    return read_protocol(config)


@pytest.fixture(scope="module")
def undisturbed(protocol: Protocol, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    generate(protocol, folder)
    return folder


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "parts-gfn1.h5").read_bytes()).hexdigest()


def _records(folder: Path, kind: str) -> list[str]:
    return [path.stem for path in (folder / "work" / kind).glob("*/*.npz")]


def test_parts_are_reported_stored_and_joined(undisturbed: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    report = generate(
        read_protocol(undisturbed / "protocol.yaml"),
        tmp_path,
        progress=lambda *step: steps.append(step),
    )
    assert [s for s in steps if s[0] == "dynamics"] == [("dynamics", i, 3) for i in range(4)]
    assert [s for s in steps if s[0] == "label gfn1"] == [("label gfn1", i, 3) for i in range(4)]
    assert report.speeds["label gfn1"]["items"] == 1
    assert report.speeds["label gfn1"]["frames"] == N_FRAMES
    assert report.frames == {"hot": N_FRAMES}
    # One record of frames and one of labels are left of the parts.
    assert len(_records(tmp_path, "frames")) == len(_records(tmp_path, "labels")) == 1
    assert _digest(tmp_path) == _digest(undisturbed)


def test_parts_have_the_frames_and_labels_of_the_whole(
    protocol: Protocol, undisturbed: Path
) -> None:
    (item,) = plan(protocol, Report(name="parts"))
    whole = sample_item(item, protocol, None)
    parts = [sample_start(item, protocol, None, i) for i in range(4)]
    assert [len(part.frames) for part in parts] == [80, 80, 80, 0]
    np.testing.assert_array_equal(sample_item(item, protocol, None, parts).frames, whole.frames)
    at_once = label_frames(LabelSettings(**LABEL), whole.atomic_numbers, whole.frames, 0)
    source = SpiceFile(undisturbed / "parts-gfn1.h5")
    found = [source[i] for i in range(len(source))]
    np.testing.assert_allclose([f.energy for f in found], at_once.energies, atol=1e-6)
    np.testing.assert_allclose([f.forces for f in found], at_once.forces, atol=1e-4)


# SIGKILL at a known moment: after the first part of a kind is on the disk.
KILLED = """
import os, signal, sys
from mace_mm.cli.app import main
from mace_mm.generation.work.store import RecordStore
kind, save = sys.argv[1], RecordStore.save
def save_and_die(self, key, content):
    save(self, key, content)
    if self.folder.name == kind and "-" in key:
        os.kill(os.getpid(), signal.SIGKILL)
RecordStore.save = save_and_die
main(sys.argv[2:])
"""


@pytest.mark.parametrize(("kind", "stage"), [("frames", "dynamics"), ("labels", "label gfn1")])
def test_a_killed_driver_goes_on_within_the_molecule(
    config: Path, undisturbed: Path, tmp_path: Path, kind: str, stage: str
) -> None:
    command = [sys.executable, "-c", KILLED, kind, "generate", str(config), "-o", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    killed = subprocess.run([*command, "-w", "0"], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sum("-" in name for name in _records(tmp_path, kind)) == 1
    steps: list[tuple[str, int, int]] = []
    generate(read_protocol(config), tmp_path, progress=lambda *step: steps.append(step))
    assert (stage, 1, 3) in steps and (stage, 0, 3) not in steps
    assert _digest(tmp_path) == _digest(undisturbed)


def test_workers_share_a_molecule(protocol: Protocol, undisturbed: Path, tmp_path: Path) -> None:
    shared = protocol.model_copy(update={"execution": ExecutionSettings(workers=2)})
    generate(shared, tmp_path)
    assert _digest(tmp_path) == _digest(undisturbed)


def test_a_damaged_part_is_made_again(
    protocol: Protocol, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (label,) = _records(tmp_path, "labels")
    path = tmp_path / "work" / "labels" / label[:2] / f"{label}.npz"
    path.unlink()
    part = label_parts(label, N_FRAMES, "tblite")[1]
    path.with_name(f"{part.key}.npz").write_bytes(b"PK but no more")
    report = generate(protocol, tmp_path)
    (note,) = report.notes
    assert part.key in note.reason and "made again" in note.reason
    assert _digest(tmp_path) == _digest(undisturbed)


def _part(frames: int, **more: object) -> Record:
    arrays = {"energies": np.arange(float(frames)), "forces": np.zeros((frames, 2, 3))}
    facts = {
        "failures": {},
        "atom_energies": {"1": -13.6},
        "provenance": {"programs": "x 1"},
        "core_seconds": 1.5,
    }
    return Record(arrays=arrays, facts={**facts, **more})


def test_joined_labels_keep_order_reasons_and_committees() -> None:
    parts = label_parts("k", 25, "ase")
    assert [(p.start, p.stop) for p in parts] == [(0, 10), (10, 20), (20, 25)]
    assert label_parts("k", 10, "ase") == [Part(key="k", start=0, stop=10)]
    assert len(label_parts("k", 7, "pyscf")) == 7
    records = [_part(10), _part(10, failures={"3": "no convergence"}), _part(5)]
    records[2].arrays["energy_std"] = np.ones(5)
    joined = join_labels(parts, records)
    np.testing.assert_array_equal(joined.arrays["energies"][[0, 9, 10, 24]], [0.0, 9.0, 0.0, 4.0])
    assert joined.facts["failures"] == {"13": "no convergence"}
    assert joined.facts["core_seconds"] == 4.5
    assert np.isnan(joined.arrays["energy_std"][:20]).all()
    np.testing.assert_array_equal(joined.arrays["energy_std"][20:], 1.0)
    records[1].facts["provenance"] = {"programs": "x 2"}
    with pytest.raises(DataError, match="x 1; x 2"):
        join_labels(parts, records)
