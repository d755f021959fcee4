"""Decoupling from water, the hydration cycle, the planner, and the command line."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import unit

from mace_mm.cli.app import main
from mace_mm.errors import ConfigError, DependencyError, InputError
from mace_mm.free_energy.config import CorrectionConfig, InputFiles, read_config
from mace_mm.free_energy.jobs.binding_config import BindingConfig
from mace_mm.free_energy.jobs.correct import correction_leg, place_in_environment
from mace_mm.free_energy.jobs.hydration import (
    HydrationConfig,
    estimates,
    hydration_legs,
    run_hydration,
)
from mace_mm.free_energy.jobs.planner import count_work, describe_duration, plan_leg
from mace_mm.free_energy.jobs.run_leg import Protocol
from mace_mm.free_energy.settings import Dynamics, Execution, Limits, Switching, Windows
from mace_mm.free_energy.systems.inputs import load_system
from mace_mm.settings import validated
from tests.support.free_energy_molecules import register, write_molecule
from tests.support.mixed_systems import context_of

CPU = {"platform": "CPU", "platform_properties": {"Threads": "1"}, "seed": 3}
SMALL = {"edge_nm": 1.3, "cutoff_nm": 0.6}


def _config(tmp_path: Path, **changes: object) -> HydrationConfig:
    content = {
        "name": "methanol",
        "output": str(tmp_path / "out"),
        "input": write_molecule("CO", tmp_path),
        "solvent": SMALL,
        "decoupling": {
            "electrostatics": [1, 0.5, 0],
            "sterics": [1, 0.8, 0.6, 0.4, 0.2, 0],
            "iterations": 30,
            "equilibration": 2,
            "steps": 10,
            "dynamics": CPU | {"timestep_fs": 1.0, "friction_per_ps": 20.0},
        },
        "potential": {"name": "force-field"},
        "dynamics": CPU | {"timestep_fs": 1.0, "friction_per_ps": 20.0},
        "windows": {"lambdas": [0, 1], "iterations": 22, "equilibration": 1, "steps": 2},
    }
    return validated(content | changes, HydrationConfig, "test")


def _energy(context: openmm.Context, **parameters: float) -> float:
    for name, value in parameters.items():
        context.setParameter(name, value)
    state = context.getState(energy=True)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def test_a_decoupled_molecule_feels_no_water_and_a_coupled_one_the_force_field(
    tmp_path: Path,
) -> None:
    config = _config(tmp_path, correction=False)
    leg = hydration_legs(config)["water_decoupling"][0]
    mm = place_in_environment(config.input, "water", config.solvent)
    context = context_of(leg.system, leg.positions_nm)
    plain = context_of(mm.system, mm.positions_nm)
    coupled = {"lambda_electrostatics": 1.0, "lambda_sterics": 1.0}
    decoupled = {"lambda_electrostatics": 0.0, "lambda_sterics": 0.0}
    moved = leg.positions_nm.copy()
    # Onto a water molecule, and elsewhere.
    moved[:6] += moved[6] - moved[0] + 0.01
    energies = {}
    for name, positions in (("start", leg.positions_nm), ("moved", moved)):
        for one in (context, plain):
            one.setPositions(positions)
        energies[name] = _energy(context, **decoupled)
        if name == "start":
            assert _energy(context, **coupled) == pytest.approx(_energy(plain), abs=0.5)
    assert energies["moved"] == pytest.approx(energies["start"], abs=0.02)


def test_the_cycle_adds_up_and_a_zero_correction_changes_nothing(tmp_path: Path) -> None:
    config = _config(tmp_path)
    places = [
        place_in_environment(config.input, place, config.solvent) for place in ("vacuum", "water")
    ]
    register("force-field", *(mm.system for mm in places))
    result = run_hydration(config)
    assert result is not None and result.ml_mm is not None
    legs = result.legs
    by_hand = (
        legs["vacuum_decoupling"].estimate.value_kj_mol
        - legs["water_decoupling"].estimate.value_kj_mol
    )
    assert result.mm.value_kj_mol == pytest.approx(by_hand)
    assert result.ml_mm.value_kj_mol == pytest.approx(by_hand, abs=0.05)
    assert not result.verdict.converged
    assert any(reason.startswith("water_decoupling") for reason in result.verdict.reasons)
    content = json.loads((config.output / "result.json").read_text())
    assert set(content["legs"]) == set(legs)
    assert set(content["estimates"]) == set(estimates(result))
    for name in legs:
        assert (config.output / f"{name}.png").stat().st_size > 10_000


def test_masses_move_inside_the_molecule_and_no_free_energy_changes(tmp_path: Path) -> None:
    files = InputFiles.model_validate(write_molecule("CO", tmp_path))
    config = _config(tmp_path)
    plain = place_in_environment(files, "vacuum", config.solvent)
    heavy = place_in_environment(files, "vacuum", config.solvent, 3.0)
    masses = [
        np.array([mm.system.getParticleMass(i)._value for i in range(6)]) for mm in (plain, heavy)
    ]
    assert masses[0].sum() == pytest.approx(masses[1].sum())
    np.testing.assert_allclose(masses[1][2:], 3.0)
    with pytest.raises(ConfigError, match="choose a smaller hydrogen mass"):
        place_in_environment(files, "vacuum", config.solvent, 4.0)


def test_the_planner_counts_the_work_and_times_the_system(tmp_path: Path) -> None:
    protocol = Protocol(
        windows=Windows(lambdas=(0, 0.5, 1), iterations=90, equilibration=10, steps=50),
        switching=Switching(switches=20, steps=100, updates=10, equilibration=5, stretch=40),
        dynamics=Dynamics(platform="Reference"),
        execution=Execution(workers=2),
        limits=Limits(),
    )
    # 3 windows x 100 iterations; 2 directions x 25 stretches and 20 switches.
    assert count_work(3, protocol) == (15_000 + 2000 + 4000, 900 + 800)
    config = _config(tmp_path)
    leg = hydration_legs(config.model_copy(update={"correction": False}))["vacuum_decoupling"][0]
    plan = plan_leg(leg, protocol.__class__(**{**protocol.__dict__, "switching": None}))
    assert plan.n_atoms == 6 and plan.platform == "Reference"
    assert 0.0 < plan.step_ms < 1000.0
    serial = plan.steps * plan.step_ms + plan.energies * plan.energy_ms
    assert plan.wall_s == pytest.approx(5e-4 * serial)
    assert [describe_duration(s) for s in (5, 600, 36_000, 864_000)] == [
        "5 s", "10 min", "10.0 h", "10.0 days",
    ]  # fmt: skip


def _yaml(tmp_path: Path, files: dict[str, str], **further: object) -> Path:
    content = {"name": "m", "output": str(tmp_path / "out"), "input": files} | further
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(content))
    return path


def run_command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


def test_the_command_corrects_methanol_with_the_bundled_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _yaml(
        tmp_path,
        write_molecule("CO", tmp_path),
        windows={"lambdas": [0, 0.5, 1], "iterations": 20, "equilibration": 1, "steps": 4},
        # Slow enough for the works of both directions to overlap whatever the seeds are.
        switching={"switches": 6, "steps": 60, "updates": 20, "equilibration": 1, "stretch": 20},
        dynamics=CPU,
    )
    run_command("correct", str(path), "--plan")
    planned = capsys.readouterr().out
    assert "expected wall time" in planned and not (tmp_path / "out").exists()
    run_command("correct", str(path), "windows.iterations=22")
    printed = capsys.readouterr().out
    assert "MBAR" in printed and "NOT CONVERGED" in printed and "report.html" in printed
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    # The model's energies lie far from the force field's: the numbers are of that size.
    assert abs(content["estimate"]["value_kj_mol"]) > 500.0
    assert content["windows"]["samples"] == [22, 22, 22]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": {"lambdas": [0, 0.5]}}, "must hold both end points 0 and 1"),
        ({"windows": {"lamdas": [0, 1]}}, "windows.lamdas: unknown key; did you mean 'lambdas'?"),
        ({"windows": None, "switching": None}, "one of windows and switching is needed"),
        ({"switching": {"steps": 100, "updates": 30}}, "must be a multiple of its λ updates"),
        ({"solvent": {"edge_nm": 1.5, "cutoff_nm": 0.9}}, "wider than twice the cutoff"),
        ({"input": {"sdf": "a.sdf", "prmtop": "b"}}, "a system needs prmtop and inpcrd"),
        ({"input": {"sdf": "nowhere.sdf"}}, "no such file"),
        ({"potential": {"name": "nonsense"}}, "knows no potential named 'nonsense'"),
        ({"potential": {"model": "nowhere.pt"}}, "nowhere.pt"),
        ({"environment": "water", "solvent": {"edge_nm": 0.3, "cutoff_nm": 0.1}}, "needs a box"),
    ],
)
def test_settings_that_cannot_work_end_with_one_sentence(
    tmp_path: Path, changes: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _yaml(tmp_path, write_molecule("CO", tmp_path), **changes)
    with pytest.raises(SystemExit):
        main(["correct", str(path)])
    printed = capsys.readouterr().err
    assert message in " ".join(printed.split()) and "Traceback" not in printed


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    files = write_molecule("CO", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    ethanol = write_molecule("CCO", other)
    with pytest.raises(InputError, match="must have the same atoms"):
        load_system(InputFiles.model_validate(files | {"pdb": ethanol["pdb"]}))
    for ligand, message in (
        ("XYZ", "XYZ"),
        ((0, 99), "99|out of|indices"),
        ((0, 1), "bonded to the rest"),
    ):
        with pytest.raises(InputError, match=message):
            load_system(InputFiles.model_validate(files | {"ligand": ligand}))
    (tmp_path / "system.xml").write_text("<System>")
    with pytest.raises(InputError, match="not an OpenMM System"):
        load_system(InputFiles.model_validate(files))


def test_missing_parameter_packages_are_named(tmp_path: Path) -> None:
    if importlib.util.find_spec("openmmforcefields") is not None:
        pytest.skip("openmmforcefields is installed here")
    path = _yaml(tmp_path, {"sdf": str(tmp_path / "m.sdf")})
    (tmp_path / "m.sdf").write_text("")
    config = read_config(path, CorrectionConfig)
    with pytest.raises(DependencyError, match="conda install -c conda-forge openmmforcefields"):
        correction_leg(config)


def test_freesolv_molecules_run_by_name(shared_dir: Path, tmp_path: Path) -> None:
    files = {"freesolv": str(shared_dir / "data/freesolv"), "molecule": "Methanol"}
    config = _config(tmp_path, input=files, correction=False)
    leg = hydration_legs(config)["vacuum_decoupling"][0]
    assert leg.system.getNumParticles() == 6
    with pytest.raises(InputError, match="one molecule 'unobtainium' was expected"):
        hydration_legs(_config(tmp_path, input=files | {"molecule": "unobtainium"}))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("correct", CorrectionConfig),
        ("hydration", HydrationConfig),
        ("binding_tyk2", BindingConfig),
    ],
)
def test_the_examples_are_valid(project_root: Path, name: str, kind: type) -> None:
    read_config(project_root / f"examples/free_energy/{name}.yaml", kind)


def test_the_potential_may_be_a_bundled_model_by_name(tmp_path: Path) -> None:
    path = _yaml(tmp_path, {"sdf": "m.sdf"})
    named = ["potential.model=medium"]
    assert read_config(path, CorrectionConfig, named).potential.model == Path("medium")
    (tmp_path / "medium").touch()
    assert read_config(path, CorrectionConfig, named).potential.model == tmp_path / "medium"
    other = read_config(path, CorrectionConfig, ["potential.model=own.pt"]).potential
    assert other.model == tmp_path / "own.pt"
