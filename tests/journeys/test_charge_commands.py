"""Commands end with one sentence and a status where the model was not trained for a charge."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mace_mm.archive.archive import load_archive, save_archive
from mace_mm.archive.open_model import open_model
from mace_mm.cli.app import main
from mace_mm.errors import ChargeError
from mace_mm.free_energy.config import Conditions, CorrectionConfig, InputFiles
from mace_mm.free_energy.jobs.correct import correction_leg
from mace_mm.free_energy.legs.direct import direct_leg
from mace_mm.free_energy.systems.inputs import load_system
from mace_mm.settings import validated
from tests.support.free_energy_molecules import write_complex, write_molecule

OXALATE = "[O-]C(=O)C(=O)[O-]"
GLYCINE = "[NH3+]CC(=O)[O-]"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; returns exit code and the last line of stderr."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
            raise SystemExit(0)
        return int(end.value.code or 0), capsys.readouterr().err.strip().split("\n")[-1]

    return call


def write(path: Path, **content: object) -> Path:
    path.write_text(
        yaml.safe_dump({"name": "oxalate", "output": str(path.parent / "out")} | content)
    )
    return path


def check_refused(result: tuple[int, str]) -> None:
    code, message = result
    assert code == 1
    assert message.startswith("error: the total charge is -2 e (") and "allow_unknown" in message


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
@pytest.mark.parametrize("command", ["correct", "hydration", "binding"])
def test_oxalate_is_refused_before_anything_is_computed(command, plan, tmp_path, run) -> None:
    files = write_molecule(OXALATE, tmp_path)
    if command == "binding":
        complexed, _ = write_complex(OXALATE, tmp_path)
        ligands = [{"name": "oxalate", "complex": complexed, "solvent": files}]
        config = write(tmp_path / "run.yaml", ligands=ligands)
    else:
        config = write(tmp_path / "run.yaml", input=files)
    check_refused(run(command, config, *plan))
    # In water the molecule would need ions, which is not what is wrong.
    if command == "correct":
        check_refused(run(command, config, *plan, "environment=water"))
    assert not (tmp_path / "out").exists()


def test_simulate_refuses_an_ion_and_does_so_for_research(tmp_path, run) -> None:
    folder = tmp_path / "sim"
    check_refused(run("simulate", OXALATE, "-o", folder))
    assert not folder.exists()
    short = ["--steps", 2, "--minimize", 0, "--log-every", 1, "--frame-every", 1]
    code, _ = run("simulate", "C[NH3+]", "-o", folder, *short, "--allow-unknown-charge")
    assert code == 0 and (folder / "run.json").is_file()


def correction(files: dict[str, str], folder: Path, **potential: object) -> CorrectionConfig:
    content = {
        "name": "test",
        "output": str(folder / "out"),
        "input": files,
        "potential": potential,
    }
    return validated(content, CorrectionConfig, "test")


def of_charge(leg) -> list[str]:
    """Warnings but for what lies beyond the reach of the model."""
    return [warning for warning in leg.warnings if "beyond the reach" not in warning]


def test_research_goes_on_with_a_warning_in_the_leg(tmp_path) -> None:
    files = write_molecule(OXALATE, tmp_path)
    leg = correction_leg(correction(files, tmp_path, allow_unknown_charge=True))
    (found,) = of_charge(leg)
    assert "total charge is -2 e" in found
    # The option of the potential says the same, and a model that knows the charge says nothing.
    options = {"options": {"allow_unknown_charge": True}}
    assert correction_leg(correction(files, tmp_path, **options)).warnings == leg.warnings


def test_what_is_allowed_does_not_make_another_run(tmp_path) -> None:
    files = write_molecule("CO", tmp_path)
    origins = {
        correction_leg(correction(files, tmp_path, allow_unknown_charge=allowed)).origin
        for allowed in (False, True)
    }
    assert len(origins) == 1


def test_a_zwitterion_is_named_in_the_leg(tmp_path) -> None:
    leg = correction_leg(correction(write_molecule(GLYCINE, tmp_path), tmp_path))
    (found,) = of_charge(leg)
    assert "separated charges" in found and "force field's charges stay" in found


def test_direct_decoupling_looks_at_the_whole_and_at_the_solute(tmp_path) -> None:
    files, _ = write_complex("CC(=O)[O-]", tmp_path)
    mm = load_system(InputFiles(**files))
    for options in ({"force_field": mm.system}, {}):
        call = dict(
            name="direct", topology=mm.topology, positions_nm=mm.positions_nm, box_nm=None,
            solute=mm.ligand, conditions=Conditions(),
        )  # fmt: skip
        if options:
            with pytest.raises(ChargeError, match="sum to -1.000"):
                direct_leg(**call, **options)
            leg = direct_leg(**call, **options, allow_unknown_charge=True)
            assert any("total charge is -1 e" in w for w in leg.warnings)
        else:
            assert any("acid group" in w for w in direct_leg(**call).warnings)


def test_import_notes_the_charges_that_a_publisher_names(tmp_path, run) -> None:
    archive = open_model()
    source, target = tmp_path / "model.pt", tmp_path / "noted.pt"
    save_archive(source, archive)
    assert run("import", source, "-o", target, "--total-charges", "-2, 0")[0] == 0
    assert load_archive(target).metadata.total_charges == (-2, 0)
    files = write_molecule(OXALATE, tmp_path)
    assert of_charge(correction_leg(correction(files, tmp_path, model=str(target)))) == []
    code, message = run("import", source, "-o", target, "--overwrite", "--total-charges", "none")
    assert code == 1 and "whole numbers of e" in message
