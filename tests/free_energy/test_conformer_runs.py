"""Runs whose ligand has a slow torsion, from the search of conformers to the report."""

import importlib.util
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from mace_mm.free_energy.analysis.report import write_report
from mace_mm.free_energy.config import CorrectionConfig
from mace_mm.free_energy.jobs.correct import correction_leg, run_correction
from mace_mm.free_energy.jobs.run_leg import LegResult, Protocol, run_leg
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.schedule import even_lambdas
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.settings import Dynamics, Execution, Limits, Switching, Windows
from mace_mm.free_energy.systems.inputs import MMSystem
from mace_mm.settings import validated
from tests.free_energy.test_restart import _environment
from tests.support.free_energy_molecules import crude_molecule, register, write_molecule

SLOW, FAST = 25.0, 2.7


def _script() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks/accuracy/coverage_ligand.py"
    specification = importlib.util.spec_from_file_location("coverage_ligand", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Dataclasses look their module up.
    sys.modules["coverage_ligand"] = module
    specification.loader.exec_module(module)
    return module


def acid() -> MMSystem:
    topology, system, positions = crude_molecule("CC(=O)O")
    return MMSystem(
        topology=topology,
        system=system,
        positions_nm=positions,
        box_nm=None,
        ligand=tuple(range(8)),
    )


def leg_of(barrier_kt: float, starts: int | None = None) -> Leg:
    made: Leg = _script().make_leg(acid(), barrier_kt, starts)
    return made


def protocol_of(*, windows: bool = True, switching: bool = False, **changes: object) -> Protocol:
    settings = {"lambdas": even_lambdas(5), "iterations": 30, "equilibration": 2, "steps": 15}
    return Protocol(
        windows=Windows.model_validate(settings | changes) if windows else None,
        switching=Switching(switches=8, steps=10, updates=5, equilibration=2, stretch=15)
        if switching
        else None,
        dynamics=Dynamics(timestep_fs=1.0, friction_per_ps=5.0, platform="Reference", seed=3),
        execution=Execution(),
        limits=Limits(),
    )


def _angles(folder: Path, n_replicas: int, n_states: int = 5) -> np.ndarray:
    observed = Journal(folder, n_replicas, n_states).observations("conformation")
    assert observed is not None and observed.columns == ("torsion 2-1-3-7",)
    return observed.values[:, :, 0]


def _side(angles: np.ndarray) -> np.ndarray:
    """Whether the acid is trans."""
    return np.cos(np.radians(angles)) < 0.0


def _run(leg: Leg, folder: Path, protocol: Protocol) -> LegResult:
    result = run_leg(leg, folder, protocol)
    assert result is not None
    return result


def test_a_trapped_torsion_is_named_counted_and_drawn(tmp_path: Path) -> None:
    result = _run(leg_of(SLOW), tmp_path, protocol_of())
    assert not result.verdict.converged
    (reason,) = [r for r in result.verdict.reasons if r.startswith("conformers: ")]
    name = "torsion O3-C2-O4-H8 (atoms 2, 1, 3, 7; [H]OC(C)=O)"
    assert reason.startswith(f"conformers: {name} was seen in two states and no replica went")
    content = json.loads((tmp_path / "result.json").read_text())["conformers"]
    assert content["started"] == 2
    assert content["ground"] == (
        "2 conformers within 3 kT of the lowest by the force field or given-forces"
    )
    (followed,) = content["followed"]["windows"]
    assert followed["name"] == name and followed["transitions"] == 0
    assert followed["states_known"] == ["0°", "180°"] or len(followed["states_known"]) == 2
    # Replicas began in both, one after the other.
    assert _side(_angles(tmp_path / "windows", 5))[0].tolist() in (
        [False, True, False, True, False],
        [True, False, True, False, True],
    )
    drawing = (tmp_path / "conformers/torsion_O3-C2-O4-H8.svg").read_text()
    assert "<svg" in drawing
    assert (tmp_path / "conformers/torsion_O3-C2-O4-H8.png").read_bytes()[:4] == b"\x89PNG"
    write_report(tmp_path, "acid", {"F": result.estimate}, [result], result.verdict)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 1
    assert "Started from 2 conformers within 3 kT" in page
    assert page.index(name) < page.index("<h2>")


def test_a_torsion_that_turns_is_no_reason(tmp_path: Path) -> None:
    result = _run(leg_of(FAST), tmp_path, protocol_of(steps=150, iterations=120))
    assert not [r for r in result.verdict.reasons if r.startswith("conformers: ")]
    assert result.conformers is not None
    (one,) = result.conformers.parts["windows"]
    assert one.slow is not None and len(one.slow.visited) == 2
    assert one.slow.n_transitions >= 10


def test_one_start_of_two_wells_is_no_convergence(tmp_path: Path) -> None:
    result = _run(leg_of(SLOW, starts=1), tmp_path, protocol_of())
    (reason,) = [r for r in result.verdict.reasons if r.startswith("conformers: ")]
    assert "no transition seen in 30 iterations of 5 replicas" in reason
    assert "above the lowest conformer" in reason


def test_windows_without_exchange_and_switches_start_in_both(tmp_path: Path) -> None:
    protocol = replace(
        protocol_of(switching=True, exchange=False, iterations=22), execution=Execution(workers=2)
    )
    result = _run(leg_of(SLOW), tmp_path, protocol)
    first = [_angles(tmp_path / f"window_{i:03d}", 1)[0, 0] for i in range(5)]
    sides = _side(np.array(first)).tolist()
    assert sides == [sides[0], not sides[0]] * 2 + [sides[0]]
    ends = [
        _angles(tmp_path / name, 1, n_states=1)[0, 0]
        for name in ("switch_forward", "switch_reverse")
    ]
    assert _side(np.array(ends)).tolist() == sides[:2]
    reasons = [r for r in result.verdict.reasons if r.startswith("conformers: ")]
    assert [r.split(": ")[1] for r in reasons] == ["windows", "switches"]
    assert all("no replica went between them" in r for r in reasons)


def test_a_killed_run_goes_on_with_the_conformers_it_began_with(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.free_energy.test_conformer_runs import SLOW, leg_of, protocol_of
from mace_mm.free_energy.jobs.run_leg import run_leg
say = lambda stage, done, total: print(done, flush=True)
run_leg(leg_of(SLOW), Path(sys.argv[1]), protocol_of(), say)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdigit() and int(line) >= 5:
            break
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait(timeout=60) == -signal.SIGKILL
    kept = {name: (tmp_path / "conformers" / name) for name in ("conformers.npz", "starts.npy")}
    before = {name: path.stat().st_mtime_ns for name, path in kept.items()}
    angles = _angles(tmp_path / "windows", 5)
    result = _run(leg_of(SLOW), tmp_path, protocol_of())
    assert {name: path.stat().st_mtime_ns for name, path in kept.items()} == before
    after = _angles(tmp_path / "windows", 5)
    assert after.shape == (32, 5) and np.isfinite(after).all()
    np.testing.assert_array_equal(after[: len(angles) - 1], angles[:-1])
    assert result.conformers is not None and result.conformers.n_starts == 2


def test_a_run_of_an_older_version_is_finished_and_says_not_followed(tmp_path: Path) -> None:
    leg = leg_of(SLOW)
    old = replace(leg, conformers=None, observers=())
    _run(old, tmp_path, protocol_of())
    for name in ("result.json",):
        (tmp_path / name).unlink()
    result = _run(leg, tmp_path, protocol_of())
    (reason,) = [r for r in result.verdict.reasons if r.startswith("conformers: ")]
    assert "was not followed" in reason
    content = json.loads((tmp_path / "result.json").read_text())["conformers"]
    assert content["started"] == 1 and "began before several were started" in content["ground"]
    assert content["followed"]["windows"][0]["decided"] == "not followed"
    # Goes on from there and looks.
    result = _run(leg, tmp_path, protocol_of(iterations=60))
    (reason,) = [r for r in result.verdict.reasons if r.startswith("conformers: ")]
    assert "no transition seen in 30 iterations" in reason


def _config(folder: Path, **changes: object) -> CorrectionConfig:
    content = {
        "name": "acid",
        "output": str(folder / "out"),
        "input": write_molecule("CC(=O)O", folder),
        "potential": {"name": "crude"},
        "windows": {"lambdas": [0, 0.5, 1], "iterations": 22, "equilibration": 1, "steps": 5},
        "switching": None,
        "dynamics": {"timestep_fs": 0.5, "platform": "Reference", "seed": 5},
    }
    return validated(content | changes, CorrectionConfig, "test")


def test_a_command_takes_the_users_conformers_and_smiles(tmp_path: Path) -> None:
    register("crude", acid().system)
    files = write_molecule("CC(=O)O", tmp_path)
    leg = correction_leg(_config(tmp_path, starts={"window_kt": 40.0}))
    assert leg.conformers is not None
    leg.conformers.prepare(tmp_path / "found", 3)
    given = files | {"conformers": str(tmp_path / "found/conformers.sdf"), "smiles": "CC(=O)O"}
    result = run_correction(_config(tmp_path, input=given))
    assert result is not None and result.conformers is not None
    assert result.conformers.n_starts == 2
    assert result.conformers.ground.startswith("2 conformers of ")
    assert result.conformers.ligand.orders_from == "SMILES"
    angles = _angles(tmp_path / "out/windows", 3, n_states=3)
    assert len(set(_side(angles[0]).tolist())) == 2


@pytest.mark.parametrize("window_kt", [0.5, 40.0])
def test_the_plan_says_how_many_conformers_will_be_started(
    tmp_path: Path, window_kt: float, capsys: pytest.CaptureFixture[str]
) -> None:
    from mace_mm.cli.app import main

    register("crude", acid().system)
    config = _config(tmp_path, starts={"window_kt": window_kt})
    path = tmp_path / "acid.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    with pytest.raises(SystemExit) as ended:
        sys.argv = ["mace-mm", "correct", str(path), "--plan"]
        main()
    assert not ended.value.code
    n = 1 if window_kt < 1.0 else 2
    wanted = f"acid starts from {n} conformer{'s' if n > 1 else ''} within {window_kt:g} kT"
    assert wanted in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
