"""Active learning end to end: walk, stop, label, train, with a fast stand-in for the labels."""

import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from typer.testing import CliRunner

from mace_mm.active.config import read_active_config
from mace_mm.archive.archive import ArchiveMetadata, load_archive, make_archive, save_archive
from mace_mm.cli.app import app
from mace_mm.data.formats.extxyz import ExtxyzFile
from mace_mm.errors import ConfigError
from mace_mm.training.config_file import parse_config
from mace_mm.training.start.setup import build_potential, prepare_frames
from tests.support.training_frames import (
    MOLECULES,
    make_frames,
    pair_potential,
    settings,
    write_frames,
)


class MorseCalculator(Calculator):
    """The analytic potential of the test frames, found by the labelling through its name."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces = pair_potential(self.atoms.numbers, self.atoms.positions)
        reference = make_frames(3)
        table = {f.molecule.n_atoms: f for f in reference}
        frame = table[len(self.atoms)]
        own, _ = pair_potential(frame.molecule.atomic_numbers, frame.molecule.positions)
        self.results = {"energy": energy + frame.energy - own, "forces": forces}


@pytest.fixture
def protocol(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setitem(sys.modules, "morse_for_test", sys.modules[__name__])
    values = settings(tmp_path)
    values["data"]["train"] = [{"path": str(write_frames(tmp_path / "known.xyz", 120))}]
    config = parse_config(values)
    potential = build_potential(config, prepare_frames(config))
    save_archive(tmp_path / "start.pt", make_archive(potential, ArchiveMetadata(name="start")))
    starts = [Atoms(*MOLECULES[name]) for name in ("water", "methane")]
    ase.io.write(tmp_path / "starts.xyz", starts, format="extxyz")
    energies = {"H": 0.0, "C": 0.0, "N": 0.0, "O": 0.0}
    path = tmp_path / "active.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "output": "out",
                "model": "start.pt",
                "starts": "starts.xyz",
                "data": {
                    "train": [{"path": "known.xyz"}],
                    "split_by": "frame",
                    "validation_fraction": 0.6,
                },
                "label": {
                    "name": "morse",
                    "kind": "ase",
                    "program": "morse_for_test:MorseCalculator",
                    "atom_energies": energies,
                },
                "explore": {
                    "temperature_k": 2000.0,
                    "n_steps": 60,
                    "check_every": 5,
                    "threshold": 0.01,
                    "walkers": 2,
                },
                "rounds": 2,
                "stages": [{"epochs": 1}],
                "run": {"accelerator": "cpu", "precision": "float64"},
            }
        )
    )
    return path


def test_rounds_find_label_and_learn_and_continue_where_they_stopped(protocol: Path) -> None:
    result = CliRunner().invoke(app, ["active", str(protocol)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    folder = protocol.parent / "out"
    for number in (1, 2):
        frames = ExtxyzFile(folder / f"round-{number}-labelled.xyz")
        assert 0 < len(frames) <= 4
        for i in range(len(frames)):
            frame = frames[i]
            _, forces = pair_potential(frame.molecule.atomic_numbers, frame.molecule.positions)
            np.testing.assert_allclose(frame.forces, forces, atol=1e-5)
    hashes = {load_archive(folder / f"round-{i}.pt").sha256 for i in range(3)}
    assert len(hashes) == 3
    stamps = {p: p.stat().st_mtime_ns for p in folder.glob("round-*.*")}
    (folder / "round-2.pt").unlink()
    again = CliRunner().invoke(app, ["active", str(protocol)], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert (folder / "round-2.pt").exists()
    kept = [p for p in stamps if p.name != "round-2.pt"]
    assert all(p.stat().st_mtime_ns == stamps[p] for p in kept)


def test_settings_are_checked(protocol: Path) -> None:
    values = yaml.safe_load(protocol.read_text())
    values["explore"]["treshold"] = values["explore"].pop("threshold")
    protocol.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"2 problem\(s\)"):
        read_active_config(protocol)
