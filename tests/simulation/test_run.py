"""Dynamics into a folder: what is written, and that a stopped or killed run continues."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from mace_mm.errors import BackendError, ConfigError, DataError, GeometryError
from mace_mm.simulation.run.dynamics import run_dynamics
from mace_mm.simulation.run.progress import Progress
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.run.trajectory import read_frames, read_log

pytestmark = pytest.mark.plain

N_ATOMS = 5


def chain_of_springs() -> tuple[openmm.System, app.Topology, np.ndarray]:
    """Five carbon atoms on a line, each bound to the next."""
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    force = openmm.HarmonicBondForce()
    for i in range(N_ATOMS):
        system.addParticle(12.0)
        topology.addAtom(f"C{i}", app.element.carbon, residue)
        if i:
            force.addBond(i - 1, i, 0.15, 2e5)
    system.addForce(force)
    positions = np.zeros((N_ATOMS, 3))
    positions[:, 0] = 0.16 * np.arange(N_ATOMS)
    return system, topology, positions


def settings(steps: int = 100, **changes: object) -> RunSettings:
    values: dict = {"log_interval": 5, "frame_interval": 10, "checkpoint_interval": 20}
    return RunSettings(steps=steps, platform="Reference", **(values | changes))


def steps_of(folder: Path) -> list[int]:
    return read_log(folder / "log.csv")["step"].astype(int).tolist()


def test_a_run_writes_log_trajectory_and_start_structure(tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = run_dynamics(*chain_of_springs(), tmp_path, settings(), on_progress=seen.append)
    assert result.completed
    assert result.step == 100
    assert result.platform == "Reference"
    assert steps_of(tmp_path) == list(range(0, 101, 5))
    frames = read_frames(tmp_path / "trajectory.dcd")
    assert frames.shape == (11, N_ATOMS, 3)
    start = app.PDBFile(str(tmp_path / "topology.pdb"))
    placed = start.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    np.testing.assert_allclose(frames[0], placed, atol=1e-4)
    # The minimizer brought the bonds from 0.16 nm to their length.
    assert np.linalg.norm(np.diff(frames[0], axis=0), axis=1) == pytest.approx(0.15, abs=2e-3)
    assert {p.stage for p in seen} == {"minimization", "dynamics"}
    assert [p.step for p in seen if p.stage == "dynamics"] == steps_of(tmp_path)
    assert seen[-1].ns_per_day is not None


def test_the_log_holds_the_energies_and_the_temperature_of_the_frames(tmp_path: Path) -> None:
    system, topology, positions = chain_of_springs()
    run_dynamics(system, topology, positions, tmp_path, settings(4000, friction_per_ps=20.0))
    log = read_log(tmp_path / "log.csv")
    frames = read_frames(tmp_path / "trajectory.dcd")
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(frames[-1])
    energy = context.getState(energy=True).getPotentialEnergy()
    # The trajectory keeps float32 positions.
    assert log["potential_energy_kj_mol"][-1] == pytest.approx(
        energy.value_in_unit(unit.kilojoule_per_mole), abs=0.05
    )
    dof, gas_constant = 3 * N_ATOMS, 8.31446261815324e-3
    np.testing.assert_allclose(
        log["temperature_k"], 2 * log["kinetic_energy_kj_mol"] / (dof * gas_constant), rtol=1e-5
    )
    assert 200 < log["temperature_k"][len(log["step"]) // 4 :].mean() < 400


def test_a_stopped_run_continues_where_it_stopped(tmp_path: Path) -> None:
    calls = []

    def stop_at_step_35() -> bool:
        calls.append(1)
        return len(calls) >= 7

    setup = chain_of_springs()
    protocol = settings(minimize_steps=0)
    first = run_dynamics(*setup, tmp_path, protocol, should_stop=stop_at_step_35)
    assert not first.completed
    assert first.step == 35
    assert steps_of(tmp_path)[-1] == 35
    second = run_dynamics(*setup, tmp_path, protocol, resume=True)
    assert second.completed
    assert steps_of(tmp_path) == list(range(0, 101, 5))
    assert read_frames(tmp_path / "trajectory.dcd").shape[0] == 11


def test_the_energy_is_continuous_across_a_resume(tmp_path: Path) -> None:
    # Without friction the dynamics is deterministic: in two parts it equals that in one.
    setup = chain_of_springs()
    protocol = settings(friction_per_ps=0.0)
    run_dynamics(*setup, tmp_path / "one", protocol)
    run_dynamics(*setup, tmp_path / "two", settings(40, friction_per_ps=0.0))
    run_dynamics(*setup, tmp_path / "two", protocol, resume=True)
    one, two = (read_log(tmp_path / name / "log.csv") for name in ("one", "two"))
    for column in ("step", "potential_energy_kj_mol", "kinetic_energy_kj_mol"):
        np.testing.assert_allclose(two[column], one[column], rtol=1e-6, atol=1e-5)


def test_a_killed_run_resumes_from_its_checkpoint_without_repeating_steps(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys; from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from tests.simulation.test_run import chain_of_springs, settings
        from mace_mm.simulation.run.dynamics import run_dynamics
        run_dynamics(*chain_of_springs(), Path(sys.argv[2]), settings(10_000_000))
        """
    )
    folder = tmp_path / "run"
    tests = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", script, tests, str(folder)])
    try:
        deadline = time.monotonic() + 60
        while not (folder / "checkpoint.json").exists() or len(steps_of(folder)) < 40:
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "the run did not start"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    # A crash in the middle of a write leaves more than the checkpoint knows of.
    for name in ("log.csv", "trajectory.dcd"):
        with (folder / name).open("ab") as file:
            file.write(b"12,torn")
    done = json.loads((folder / "checkpoint.json").read_text())["step"]
    last = done + 60
    result = run_dynamics(*chain_of_springs(), folder, settings(last), resume=True)
    assert result.step == last
    assert steps_of(folder) == list(range(0, last + 1, 5))
    assert read_frames(folder / "trajectory.dcd").shape[0] == last // 10 + 1


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run_dynamics(*chain_of_springs(), tmp_path, settings(20))
    with pytest.raises(ConfigError, match="already holds a run"):
        run_dynamics(*chain_of_springs(), tmp_path, settings(20))


def test_another_protocol_does_not_continue_a_run(tmp_path: Path) -> None:
    run_dynamics(*chain_of_springs(), tmp_path, settings(20))
    with pytest.raises(ConfigError, match=r"temperature_k 300\.0, now 310\.0"):
        run_dynamics(*chain_of_springs(), tmp_path, settings(40, temperature_k=310.0), resume=True)


def test_resuming_needs_an_intact_checkpoint_and_its_files(tmp_path: Path) -> None:
    setup = chain_of_springs()
    with pytest.raises(DataError, match="nothing to resume"):
        run_dynamics(*setup, tmp_path, settings(20), resume=True)
    run_dynamics(*setup, tmp_path, settings(20))
    (tmp_path / "log.csv").write_text("step\n")
    with pytest.raises(DataError, match=r"log\.csv had \d+ bytes, now 5"):
        run_dynamics(*setup, tmp_path, settings(40), resume=True)
    checkpoint = tmp_path / "checkpoint.json"
    checkpoint.write_text(checkpoint.read_text()[:100])
    with pytest.raises(DataError, match="is not a checkpoint"):
        run_dynamics(*setup, tmp_path, settings(40), resume=True)
    checkpoint.write_text(json.dumps({"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        run_dynamics(*setup, tmp_path, settings(40), resume=True)


def test_an_unstable_simulation_is_an_error(tmp_path: Path) -> None:
    setup = chain_of_springs()
    with pytest.raises(GeometryError, match="unstable"):
        run_dynamics(*setup, tmp_path, settings(2000, timestep_fs=200.0))


def test_an_unknown_platform_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"Reference.*got 'Abacus'"):
        run_dynamics(*chain_of_springs(), tmp_path, RunSettings(platform="Abacus"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"timestep_fs": 0.0}, "timestep_fs must be a positive number"),
        ({"temperature_k": float("nan")}, "temperature_k must be a positive number"),
        ({"friction_per_ps": -1.0}, "friction_per_ps must not be negative"),
        ({"frame_interval": 15}, "frame_interval must be a multiple of log_interval 10"),
        ({"minimize_steps": -1}, "minimize_steps must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunSettings(**changes)


def test_a_periodic_box_is_written_and_read(tmp_path: Path) -> None:
    system, topology, positions = chain_of_springs()
    box = np.eye(3) * 2.0
    topology.setPeriodicBoxVectors(box * unit.nanometer)
    system.setDefaultPeriodicBoxVectors(*(box * unit.nanometer))
    system.getForce(0).setUsesPeriodicBoundaryConditions(True)
    run_dynamics(system, topology, positions, tmp_path, settings(40))
    run_dynamics(system, topology, positions, tmp_path, settings(60), resume=True)
    assert read_frames(tmp_path / "trajectory.dcd").shape == (7, N_ATOMS, 3)
    assert os.path.getsize(tmp_path / "trajectory.dcd") == 276 + 7 * (56 + 3 * (4 * N_ATOMS + 8))
