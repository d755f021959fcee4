"""A run whose molecule is destroyed ends, says so everywhere, and keeps what it has."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app
from scipy.stats import chi2

from mace_mm.cli.app import main
from mace_mm.errors import ConfigError, DataError, GeometryError, RunStoppedError
from mace_mm.identity.change import Kind
from mace_mm.identity.reference import make_identity
from mace_mm.openmm.topology_identity import topology_identity
from mace_mm.simulation.ligand import ligand_from_smiles
from mace_mm.simulation.run.dynamics import run_dynamics
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.run.trajectory import read_frames, read_log
from mace_mm.simulation.simulate import read_summary, simulate
from mace_mm.simulation.watch.findings import Findings
from mace_mm.simulation.watch.settings import DESTROYED, MILD, WatchSettings
from mace_mm.simulation.watch.thermal import ThermalState, ThermalWatch, canonical_bound
from mace_mm.simulation.watch.timestep import timestep_limit
from mace_mm.simulation.watch.watch import RunWatch

pytestmark = pytest.mark.plain

FAST = ["--platform", "Reference", "--backend", "pythonforce"]
KJ_MOL_K = 8.31446261815324e-3

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``mace-mm simulate`` in this process; returns the exit code and stderr."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["simulate", *map(str, arguments), *FAST])
        return int(end.value.code or 0), capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("smiles", "dt"), [("CCO", 5), ("CC(C)Cc1ccc(cc1)C(C)C(=O)O", 3), ("C", 4)]
)
def test_a_destroyed_molecule_ends_the_run_with_one_sentence(
    smiles: str, dt: int, tmp_path: Path, command: Run
) -> None:
    folder = tmp_path / "run"
    code, stderr = command(smiles, "--dt", dt, "-o", folder, "--name", "it")
    assert code == 1
    warning, (*_, last) = stderr, stderr.strip().splitlines()
    assert "is longer than the 1 fs that" in " ".join(warning.split())
    assert last.startswith("error: the run of it ended at step ")
    assert "broke: " in last and "(atoms 0 and " in last
    assert f"take a time step of at most 1 fs, it was {dt} fs" in last
    assert "the checkpoint of step 0" in last
    summary = read_summary(folder)
    assert not summary.result.completed
    assert Kind.BOND_BROKEN in {finding.kind for finding in summary.findings}
    assert summary.verdict.level == "bad"
    content = json.loads((folder / "run.json").read_text())
    assert next(iter(content)) == "verdict"
    assert "broke" in content["verdict"]["headline"]
    assert "longer than the 1 fs" in content["warnings"][0]
    # Log, trajectory, the frame of the event and the checkpoint before it are there.
    steps = read_log(folder / "log.csv")["step"]
    assert steps[-1] == summary.result.step
    assert len(read_frames(folder / "trajectory.dcd")) == 1 + summary.result.step // 20
    event = app.PDBFile(str(folder / "event.pdb"))
    assert event.topology.getNumAtoms() == summary.n_atoms
    assert json.loads((folder / "checkpoint.json").read_text())["step"] == 0
    page = (folder / "report.html").read_text()
    assert page.index('class="verdict bad"') < page.index("<table>")


def test_a_run_that_may_go_on_does_and_says_what_it_saw(tmp_path: Path, command: Run) -> None:
    code, stderr = command("CCO", "--dt", 5, "-o", tmp_path, "--watch", "flag", "--steps", 40)
    assert code == 0, stderr
    assert "The molecule is not what it was since step 10" in stderr
    summary = read_summary(tmp_path)
    assert summary.result.completed
    assert summary.verdict.level == "bad"
    assert {finding.step for finding in summary.findings} <= {10, 20, 30, 40}
    broken = [f for f in summary.findings if f.kind == Kind.BOND_BROKEN]
    assert max(finding.looks for finding in broken) == 4
    assert 'class="verdict bad"' in (tmp_path / "report.html").read_text()


def test_a_run_that_nobody_watches_is_not_called_good(tmp_path: Path, command: Run) -> None:
    code, _ = command("CO", "-o", tmp_path, "--watch", "off", "--steps", 10)
    assert code == 0
    summary = read_summary(tmp_path)
    assert summary.verdict.level == "attention"
    assert summary.findings == ()


def test_a_quiet_run_is_called_good(tmp_path: Path, command: Run) -> None:
    code, stderr = command("C[C@H](N)C(=O)O", "-o", tmp_path, "--steps", 100)
    assert code == 0
    summary = read_summary(tmp_path)
    assert summary.verdict.level == "good"
    assert "kept 12 bonds and 1 stereocenter in 11 looks" in summary.verdict.headline
    assert summary.verdict.headline in stderr
    assert summary.seen is not None
    assert summary.seen["force_error_looks"] == 2
    assert 0.0 < summary.seen["largest_force_error_ev_per_angstrom"] < 0.6
    assert 'class="verdict good"' in (tmp_path / "report.html").read_text()


def test_positions_that_stop_being_numbers_end_the_run_with_a_sentence(tmp_path: Path) -> None:
    settings = RunSettings(steps=200, timestep_fs=1e307, platform="Reference")
    ligand = ligand_from_smiles("CO")
    with pytest.raises(GeometryError, match="at most 1 fs, it was 1e") as error:
        simulate(ligand, tmp_path, settings, watch=WatchSettings(watch="flag"))
    assert "\n" not in str(error.value)
    summary = read_summary(tmp_path)
    assert not summary.result.finite and summary.verdict.level == "bad"
    assert np.isfinite(read_log(tmp_path / "log.csv")["potential_energy_kj_mol"]).all()


@pytest.mark.parametrize("swapped", [(0, 3), (0, 2), (1, 2)])
def test_atoms_in_the_wrong_order_end_the_run_before_its_first_step(
    swapped: tuple[int, int], tmp_path: Path
) -> None:
    ligand = ligand_from_smiles("CCO")
    ligand.positions_nm[list(swapped)] = ligand.positions_nm[list(swapped[::-1])]
    settings = RunSettings(steps=100, platform="Reference")
    with pytest.raises(RunStoppedError, match="check the order of the atoms") as error:
        simulate(ligand, tmp_path, settings)
    assert "there is no checkpoint before it" in str(error.value)
    assert read_summary(tmp_path).result.step == 0
    with pytest.raises(DataError, match="nothing to resume"):
        simulate(ligand, tmp_path, settings, resume=True)


def test_what_the_model_was_not_trained_for_reaches_the_summary_and_the_report(
    tmp_path: Path, command: Run
) -> None:
    code, stderr = command("[CH3]", "-o", tmp_path, "--steps", 10)
    assert code == 0
    summary = read_summary(tmp_path)
    assert any("an odd number of electrons" in warning for warning in summary.warnings)
    assert summary.verdict.level == "attention"
    assert stderr.count("an odd number of electrons") == 2, "warned of before, repeated at the end"
    page = (tmp_path / "report.html").read_text()
    assert page.index('class="verdict attention"') < page.index("an odd number of electrons")
    assert page.index("an odd number of electrons") < page.index("<table>")


def pulled_pair() -> tuple[openmm.System, app.Topology, np.ndarray]:
    """Two carbons on a spring that a force through the origin pulls apart, after a while."""
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    atoms = [topology.addAtom(f"C{i + 1}", app.element.carbon, residue) for i in range(2)]
    topology.addBond(*atoms)
    for _ in atoms:
        system.addParticle(12.011)
    # A Morse bond of 5 kT that 2000 kJ/mol/nm break within some tenths of a picosecond.
    bond = openmm.CustomBondForce("12*(1-exp(-20*(r-0.154)))^2 - 60*r")
    bond.addBond(0, 1, [])
    system.addForce(bond)
    return system, topology, np.array([[0.0, 0.0, 0.0], [0.154, 0.0, 0.0]])


def pair_watch(settings: WatchSettings | None = None) -> RunWatch:
    _, topology, positions = pulled_pair()
    return RunWatch(
        identity=topology_identity(topology, positions), settings=settings or WatchSettings()
    )


def pair_settings(steps: int, **changes: object) -> RunSettings:
    values: dict = {"log_interval": 5, "frame_interval": 5, "checkpoint_interval": 20}
    values |= {"timestep_fs": 2.0, "friction_per_ps": 5.0, "minimize_steps": 0}
    return RunSettings(steps=steps, platform="Reference", **(values | changes))


def test_resume_goes_back_to_the_checkpoint_before_the_event(tmp_path: Path) -> None:
    setup, settings = pulled_pair(), pair_settings(100_000)
    with pytest.raises(RunStoppedError, match=r"bond C1–C2 \(atoms 0 and 1\) broke") as error:
        run_dynamics(*setup, tmp_path, settings, watch=pair_watch())
    checkpoint = json.loads((tmp_path / "checkpoint.json").read_text())
    assert f"the checkpoint of step {checkpoint['step']}" in str(error.value)
    log = read_log(tmp_path / "log.csv")
    event = int(log["step"][-1])
    assert checkpoint["step"] < event < checkpoint["step"] + 20 + 1
    assert checkpoint["step"] > 0
    frames = read_frames(tmp_path / "trajectory.dcd")
    assert len(frames) == len(log["step"])
    assert (
        np.linalg.norm(np.diff(frames[-1], axis=0))
        > 0.228
        > np.linalg.norm(np.diff(frames[-2], axis=0))
    )
    # Each attempt goes another way; the log has no step twice.
    ends = {event}
    for attempt in (1, 2, 3):
        with pytest.raises(RunStoppedError):
            run_dynamics(
                *setup, tmp_path, settings, watch=pair_watch(), resume=True, attempt=attempt
            )
        steps = read_log(tmp_path / "log.csv")["step"].astype(int).tolist()
        assert steps == list(range(0, steps[-1] + 1, 5))
        ends.add(steps[-1])
    assert len(ends) > 1


def test_findings_go_on_with_the_checkpoint_of_a_killed_run(tmp_path: Path) -> None:
    setup, flag = pulled_pair(), WatchSettings(watch="flag")
    first = pair_watch(flag)
    run_dynamics(*setup, tmp_path, pair_settings(4000), watch=first)
    (broken,) = first.findings.every
    # What a process that is killed leaves is the checkpoint, and no summary.
    second = pair_watch(flag)
    run_dynamics(*setup, tmp_path, pair_settings(4100), watch=second, resume=True)
    (again,) = second.findings.every
    assert again.step == broken.step < 4000
    assert again.last_step == 4100 and again.looks == broken.looks + 20
    assert second.looks == first.looks + 20


def test_earlier_stops_are_remembered_by_the_summary(tmp_path: Path) -> None:
    ligand = ligand_from_smiles("CCO")
    settings = RunSettings(steps=40, timestep_fs=5.0, platform="Reference")
    for _ in range(2):
        with pytest.raises(RunStoppedError):
            simulate(ligand, tmp_path, settings, resume=(tmp_path / "run.json").exists())
    summary = read_summary(tmp_path)
    assert len(summary.earlier_stops) == 1
    assert any("an earlier attempt ended at step" in r for r in summary.verdict.reasons)


def test_what_stops_a_run_is_a_setting() -> None:
    assert not DESTROYED & MILD and frozenset(Kind) == DESTROYED | MILD
    stops = {watch: WatchSettings(watch=watch).stop_on for watch in ("stop", "strict", "flag")}
    assert stops == {"stop": DESTROYED, "strict": frozenset(Kind), "flag": frozenset()}
    assert Kind.PROTON_MOVED in MILD and Kind.STEREO_INVERTED in MILD
    with pytest.raises(ConfigError, match="watch must be one of stop, strict, flag, off"):
        WatchSettings(watch="pray")


def test_a_strict_watch_stops_at_a_proton_that_moves_and_a_usual_one_flags_it() -> None:
    start = np.array([[0.0, 0.0, 0.0], [0.098, 0.0, 0.0], [0.26, 0.0, 0.0], [0.355, 0.0, 0.0]])
    identity = make_identity([8, 1, 8, 1], [(0, 1), (2, 3)], 10.0 * start)
    start[1, 0] = 0.162
    state = ThermalState(
        time_ps=0.1, potential_kj_mol=0.0, kinetic_kj_mol=0.0, velocities_nm_ps=0.0 * start
    )
    for watch, stops in (("stop", False), ("strict", True), ("flag", False)):
        looking = RunWatch(identity=identity, settings=WatchSettings(watch=watch))
        (finding,) = looking.look(10, start, None, state)
        assert finding.kind == Kind.PROTON_MOVED
        assert (looking.stopped_by is not None) == stops


def test_findings_are_kept_once_and_of_very_many_the_number() -> None:
    identity = make_identity([6, 6], [(0, 1)], np.array([[0.0, 0, 0], [1.5, 0, 0]]))
    looking = RunWatch(identity=identity, settings=WatchSettings(watch="flag"))
    far = np.array([[0.0, 0, 0], [0.9, 0, 0]])
    state = ThermalState(
        time_ps=1.0, potential_kj_mol=0.0, kinetic_kj_mol=0.0, velocities_nm_ps=far
    )
    for step in (10, 20, 30):
        looking.look(step, far, None, state)
    (finding,) = looking.findings.every
    assert (finding.step, finding.last_step, finding.looks) == (10, 30, 3)
    again = Findings.from_json(json.loads(json.dumps(looking.to_json())))
    assert again.every == looking.findings.every
    with pytest.raises(DataError, match="no findings"):
        Findings.from_json({"findings": [{"kind": "magic", "atoms": []}], "n_more": 0})


@pytest.mark.parametrize("n_dof", [6, 24, 99, 9000])
@pytest.mark.parametrize("deviations", [3.0, 6.5])
def test_the_bound_of_a_kinetic_energy_is_a_quantile_of_its_distribution(
    n_dof: int, deviations: float
) -> None:
    tail = 0.5 * math.erfc(deviations / math.sqrt(2.0))
    exact = float(chi2.isf(tail, n_dof) / n_dof)
    # Close, and never too strict.
    assert 0.999 * exact < canonical_bound(n_dof, deviations) < 1.1 * exact


def thermal_system(n_heavy: int, n_hydrogens: int) -> tuple[openmm.System, list[int]]:
    system = openmm.System()
    numbers = [6] * n_heavy + [1] * n_hydrogens
    for number in numbers:
        system.addParticle(12.011 if number == 6 else 1.008)
    return system, numbers


def velocities(masses: np.ndarray, temperatures: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = np.sqrt(KJ_MOL_K * temperatures / masses)
    return spread[:, None] * rng.normal(size=(len(masses), 3))


def look_at(watch: ThermalWatch, v: np.ndarray, masses: np.ndarray, time_ps: float) -> list[str]:
    kinetic = 0.5 * float((masses[:, None] * v**2).sum())
    state = ThermalState(
        time_ps=time_ps, potential_kj_mol=0.0, kinetic_kj_mol=kinetic, velocities_nm_ps=v
    )
    return [f"{change.kind} {change.text}" for change in watch.look(state)]


@pytest.mark.parametrize("n_atoms", [(1, 4), (12, 20), (400, 800)])
def test_a_canonical_ensemble_raises_no_alarm(n_atoms: tuple[int, int]) -> None:
    system, numbers = thermal_system(*n_atoms)
    masses = np.array([12.011 if z == 6 else 1.008 for z in numbers])
    watch = ThermalWatch(system, numbers, 300.0, 1.0)
    for k in range(1000):
        v = velocities(masses, np.full(len(masses), 300.0), k)
        assert look_at(watch, v, masses, 0.1 * k) == []


def test_hot_atoms_hot_hydrogens_and_an_explosion_are_told_apart() -> None:
    system, numbers = thermal_system(12, 20)
    masses = np.array([12.011 if z == 6 else 1.008 for z in numbers])
    light = masses < 2.0

    def watched(temperatures: np.ndarray) -> list[str]:
        watch = ThermalWatch(system, numbers, 300.0, 1.0)
        return look_at(watch, velocities(masses, temperatures, 1), masses, 1.0)

    (hot,) = watched(np.full(32, 1400.0))
    assert hot.startswith("temperature the temperature is")
    (light_hot,) = watched(np.where(light, 1600.0, 10.0))
    assert light_hot.startswith("temperature the temperature of the hydrogens is")
    (exploded,) = watched(np.full(32, 84528.0))
    assert exploded.startswith("exploded the temperature is")


def test_hydrogens_that_stay_too_warm_are_noticed_on_average() -> None:
    system, numbers = thermal_system(40, 60)
    masses = np.array([12.011 if z == 6 else 1.008 for z in numbers])
    watch = ThermalWatch(system, numbers, 300.0, 1.0)
    temperatures = np.where(masses < 2.0, 390.0, 300.0)
    said: list[str] = []
    for k in range(1200):
        said += look_at(watch, velocities(masses, temperatures, k), masses, 0.1 * k)
    assert said and all("on average (thermostat 300 K)" in words for words in said)


def test_the_potential_energy_may_fluctuate_and_not_jump() -> None:
    system, numbers = thermal_system(3, 6)
    watch = ThermalWatch(system, numbers, 300.0, 1.0)
    v = np.zeros((9, 3))

    def said(energy: float) -> list[str]:
        state = ThermalState(
            time_ps=0.0, potential_kj_mol=energy, kinetic_kj_mol=0.0, velocities_nm_ps=v
        )
        return [change.text.split(",")[0] for change in watch.look(state)]

    # 27 degrees of freedom: 34 kJ/mol on average.
    for energy in (-3385.0, -3351.0, -3300.0, -3400.0):
        assert said(energy) == []
    assert said(-3000.0) == ["the potential energy rose 400 kJ/mol"]
    assert said(-9000.0) == ["the potential energy fell 5600 kJ/mol at once"]


def two_hydrogens(mass: float, *, constrained: bool) -> tuple[openmm.System, app.Topology]:
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    for symbol, m in (("O", 15.999), ("H", mass), ("H", mass)):
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
        system.addParticle(m)
    if constrained:
        for k in (1, 2):
            system.addConstraint(0, k, 0.0957)
    return system, topology


@pytest.mark.parametrize(
    ("mass", "constrained", "allowed"),
    [(1.008, False, 1.0), (3.0, False, 2.0), (1.008, True, 2.0), (3.0, True, 4.0)],
)
def test_the_lightest_hydrogen_sets_the_time_step(
    mass: float, constrained: bool, allowed: float
) -> None:
    limit = timestep_limit(*two_hydrogens(mass, constrained=constrained))
    assert limit.timestep_fs == pytest.approx(allowed)
    assert limit.problem(allowed) is None
    problem = limit.problem(1.25 * allowed)
    assert problem is not None
    assert f"time step of {1.25 * allowed:g} fs" in problem and "hydrogen H (atom 1" in problem


def test_deuterium_allows_more_and_virtual_sites_do_not_count() -> None:
    deuterium = timestep_limit(*two_hydrogens(2.014, constrained=False))
    assert 1.4 < deuterium.timestep_fs < 1.7
    system, topology = two_hydrogens(1.008, constrained=True)
    residue = next(topology.residues())
    topology.addAtom("M", None, residue)
    system.addParticle(0.0)
    assert timestep_limit(system, topology).timestep_fs == pytest.approx(2.0)


def test_one_hydrogen_on_a_free_bond_among_rigid_ones_decides() -> None:
    system, topology = two_hydrogens(1.008, constrained=True)
    system.removeConstraint(1)
    limit = timestep_limit(system, topology)
    assert limit.timestep_fs == pytest.approx(1.0)
    assert "atom 2" in limit.reason and "free bond" in limit.reason


def test_an_identity_of_a_part_follows_the_bonds_that_leave_it() -> None:
    ligand = ligand_from_smiles("CCO")
    identity = topology_identity(ligand.topology, ligand.positions_nm, atoms=[2, 8])
    # The hydroxyl group and the carbon that it is bonded to.
    assert identity.indices.tolist() == [2, 8, 1]
    assert len(identity.bonds) == 2
    looking = RunWatch(identity=identity, settings=WatchSettings())
    changed = ligand.positions_nm.copy()
    changed[[2, 8]] += 0.2
    still = np.zeros_like(changed)
    state = ThermalState(
        time_ps=0.0, potential_kj_mol=0.0, kinetic_kj_mol=0.0, velocities_nm_ps=still
    )
    (finding,) = looking.look(10, changed, None, state)
    assert finding.kind == Kind.BOND_BROKEN and set(finding.atoms) == {1, 2}
    assert "O1" in finding.text and "C2" in finding.text
