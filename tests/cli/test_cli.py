"""The command line: what it prints, writes and how it ends."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mace_mm.archive.archive import ArchiveMetadata, load_archive, make_archive, save_archive
from mace_mm.cli.app import main
from mace_mm.data.formats.extxyz import write_extxyz
from mace_mm.data.labels import LabeledMolecule
from mace_mm.graph.batching import build_graph
from mace_mm.graph.molecule import Molecule
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential

pytestmark = pytest.mark.plain

Run = Callable[..., tuple[int, str, str]]

WATER = np.array([[0.0, 0.0, 0.1], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
ENERGY_OFFSET_PER_ATOM = 0.002
FORCE_OFFSET = 0.03


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights for H and O."""
    torch.manual_seed(3)
    config = MACEConfig(atomic_numbers=(1, 8), r_max=4.0, channels=4, l_max=2, correlation=(2,))
    path = tmp_path_factory.mktemp("model") / "water.pt"
    metadata = ArchiveMetadata(
        name="test water", level_of_theory="random", training_data="none", total_charges=(0,)
    )
    potential = Potential(MACE(config), torch.tensor([-13.6, -2041.8]))
    save_archive(path, make_archive(potential, metadata))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; returns exit code, stdout and stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
            raise SystemExit(0)
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    return call


def labelled(archive: Path, numbers: list[int], n_frames: int, subset: str) -> list:
    """Frames whose labels are the model's own, off by a known amount."""
    potential = load_archive(archive).potential
    rng = np.random.default_rng(5)
    frames = []
    for i in range(n_frames):
        positions = WATER[: len(numbers)] + rng.normal(0, 0.05, (len(numbers), 3))
        molecule = Molecule(atomic_numbers=np.array(numbers), positions=positions)
        result = potential(build_graph(molecule, (1, 8), 4.0))
        sign = 1 if i % 2 else -1
        frames.append(
            LabeledMolecule(
                molecule=molecule,
                energy=float(result.energy) + sign * ENERGY_OFFSET_PER_ATOM * len(numbers),
                forces=result.forces.numpy() + sign * FORCE_OFFSET,
                name="molecule",
                subset=subset,
            )
        )
    return frames


def test_info_shows_the_metadata(archive: Path, run: Run) -> None:
    code, out, _ = run("info", archive)
    assert code == 0
    for text in ("test water", "H O", "random", "-2041.8", load_archive(archive).sha256[:20]):
        assert text in out


def test_import_writes_an_archive_that_opens(shared_dir: Path, tmp_path: Path, run: Run) -> None:
    target = tmp_path / "off.pt"
    model = shared_dir / "reference" / "off_L1.model"
    code, out, _ = run("import", model, "-o", target)
    assert (code, "10 elements" in out) == (0, True)
    assert load_archive(target).config.hidden_l_max == 1
    code, _, err = run("import", model, "-o", target)
    assert (code, "exists" in err) == (1, True)
    assert run("import", model, "-o", target, "--overwrite")[0] == 0


def test_evaluate_finds_the_errors_that_were_put_in(
    archive: Path, tmp_path: Path, run: Run
) -> None:
    data, table = tmp_path / "data.xyz", tmp_path / "table.json"
    frames = labelled(archive, [8, 1, 1], 4, "water") + labelled(archive, [8, 1], 2, "ion")
    write_extxyz(data, frames)
    code, out, err = run("evaluate", archive, data, "-o", table)
    assert code == 0, err
    assert "water" in out and "ion" in out
    errors = json.loads(table.read_text())
    assert set(errors) == {"water", "ion", "all"}
    assert errors["all"]["n_frames"] == 6
    for name in errors:
        for key in ("energy_mae", "energy_rmse", "relative_energy_mae"):
            assert errors[name][key] == pytest.approx(ENERGY_OFFSET_PER_ATOM, rel=1e-5)
        for key in ("forces_mae", "forces_rmse"):
            assert errors[name][key] == pytest.approx(FORCE_OFFSET, rel=1e-5)


def test_evaluate_leaves_out_unknown_elements_only_when_told(
    archive: Path, tmp_path: Path, run: Run
) -> None:
    data = tmp_path / "data.xyz"
    other = Molecule(atomic_numbers=np.array([6, 1, 1]), positions=WATER)
    strange = LabeledMolecule(molecule=other, energy=0.0, forces=np.zeros((3, 3)), name="other")
    write_extxyz(data, [*labelled(archive, [8, 1, 1], 2, ""), strange])
    code, _, err = run("evaluate", archive, data)
    assert code == 1
    assert "1 of 3 frames also hold C" in err
    code, _, err = run("evaluate", archive, data, "--skip-unknown")
    assert code == 0
    assert "left out 1 of 3 frames" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "missing.pt"], "missing.pt"),
        (["import", "missing.model", "-o", "x.pt"], "missing.model"),
        (["evaluate", "missing.pt", "data.xyz"], "missing.pt"),
    ],
)
def test_an_error_is_one_sentence_without_a_stack_trace(
    arguments: list[str], message: str, run: Run
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_debug_shows_the_stack_trace() -> None:
    code = "from mace_mm.cli.app import main; main()"
    command = [sys.executable, "-c", code, "info", "missing.pt", "--debug"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode != 0
    assert "Traceback" in result.stderr and "ArchiveError" in result.stderr


def test_a_wrong_option_ends_with_the_usage(run: Run) -> None:
    code, _, err = run("info", "--frobnicate")
    assert code == 2
    assert "frobnicate" in err
