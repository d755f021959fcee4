"""Molecular dynamics of one system into one folder: interruptible, checkpointed, resumable."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from mace_mm.errors import ConfigError, GeometryError
from mace_mm.simulation.context import degrees_of_freedom, make_context
from mace_mm.simulation.run_checkpoint import RunCheckpoint, load_checkpoint, save_checkpoint
from mace_mm.simulation.run_progress import Progress, Speed
from mace_mm.simulation.run_settings import MAX_SEED, RunSettings
from mace_mm.simulation.trajectory import LogRow, RunFiles

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "checkpoint.json"
LOG_NAME = "log.csv"
TOPOLOGY_NAME = "topology.pdb"
TRAJECTORY_NAME = "trajectory.dcd"

# kJ/mol/nm, root mean square over the components.
FORCE_TOLERANCE = 10.0
MINIMIZATION_ROUND = 20

_FORCE_UNIT = unit.kilojoule_per_mole / unit.nanometer
_GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended.

    Attributes:
        completed: False if it was stopped before its last step.
        step: steps done.
        ns_per_day: speed of this process, None if it did too little to measure.
        elapsed_s: wall time of the dynamics, over all parts of the run.
        platform: the OpenMM platform.
    """

    completed: bool
    step: int
    ns_per_day: float | None
    elapsed_s: float
    platform: str


def run_dynamics(
    system: openmm.System,
    topology: app.Topology,
    positions_nm: np.ndarray,
    folder: Path,
    settings: RunSettings,
    *,
    identity: dict[str, str] | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Minimize, then integrate with LangevinMiddleIntegrator, writing into ``folder``.

    The folder receives ``topology.pdb`` (the start structure), ``trajectory.dcd``, ``log.csv``
    and ``checkpoint.json``. A run that was stopped or killed continues from its last checkpoint:
    log and trajectory are cut back to it, so that no step occurs twice.

    Args:
        system: the OpenMM System.
        topology: its topology.
        positions_nm: (n_atoms, 3) start positions.
        folder: created if it does not exist.
        settings: the protocol.
        identity: names and values that a resumed run must share with its beginning, besides
            those of the settings and the elements.
        resume: continue the run that is in ``folder``.
        on_progress: called after every log interval.
        should_stop: asked after every log interval; True writes a checkpoint and returns.

    Raises:
        ConfigError: the folder holds a run and ``resume`` is False, or holds another run.
        DataError: nothing to resume, or damaged files.
        GeometryError: the energy or the positions stopped being finite.
        BackendError: the platform does not exist here.
    """
    identity = _identity(topology, settings) | (identity or {})
    path = folder / CHECKPOINT_NAME
    checkpoint = load_checkpoint(path, identity) if resume else None
    if checkpoint is None:
        _check_empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
    run = _Run(
        system=system,
        topology=topology,
        folder=folder,
        settings=settings,
        identity=identity,
        on_progress=on_progress or (lambda progress: None),
        should_stop=should_stop or (lambda: False),
        checkpoint=checkpoint,
    )
    if checkpoint is None:
        run.start(positions_nm)
    return run.integrate()


def _identity(topology: app.Topology, settings: RunSettings) -> dict[str, str]:
    elements = [atom.element.symbol if atom.element else "-" for atom in topology.atoms()]
    return {"elements": "".join(elements)} | settings.identity()


def _check_empty(folder: Path) -> None:
    for name in (CHECKPOINT_NAME, LOG_NAME, TRAJECTORY_NAME):
        if (folder / name).exists():
            raise ConfigError(
                f"{folder} already holds a run ({name}): resume it or name another folder"
            )


@dataclass(kw_only=True)
class _Run:
    """One call of run_dynamics."""

    system: openmm.System
    topology: app.Topology
    folder: Path
    settings: RunSettings
    identity: dict[str, str]
    on_progress: Callable[[Progress], None]
    should_stop: Callable[[], bool]
    checkpoint: RunCheckpoint | None
    context: openmm.Context = field(init=False)
    integrator: openmm.Integrator = field(init=False)
    degrees_of_freedom: int = field(init=False)

    def __post_init__(self) -> None:
        settings, checkpoint = self.settings, self.checkpoint
        # A continued run takes another seed, or the noise of its first part would repeat.
        shift = 0 if checkpoint is None else checkpoint.step
        seed = (settings.seed - 1 + shift) % MAX_SEED + 1
        self.context = make_context(self.system, settings, seed)
        self.integrator = self.context.getIntegrator()
        self.degrees_of_freedom = degrees_of_freedom(self.system)
        if checkpoint is not None:
            self.context.setState(openmm.XmlSerializer.deserialize(checkpoint.state))
            logger.info("resuming at step %d", checkpoint.step)

    def start(self, positions_nm: np.ndarray) -> None:
        """Place the atoms, minimize, draw velocities and write the start structure."""
        settings = self.settings
        box = self.topology.getPeriodicBoxVectors()
        if box is not None:
            self.context.setPeriodicBoxVectors(*box)
        self.context.setPositions(positions_nm)
        self._minimize()
        self.context.setVelocitiesToTemperature(settings.temperature_k * unit.kelvin, settings.seed)
        positions = self.context.getState(positions=True).getPositions()
        with (self.folder / TOPOLOGY_NAME).open("w", encoding="utf-8") as file:
            app.PDBFile.writeFile(self.topology, positions, file, keepIds=True)

    def _minimize(self) -> None:
        """Minimize in short rounds, each a call of its own.

        A MinimizationReporter would tell more, but OpenMM holds Python's lock while one is used,
        and TorchForce cannot differentiate then.
        """
        n_steps, done = self.settings.minimize_steps, 0
        while done < n_steps and not self.should_stop():
            round_steps = min(MINIMIZATION_ROUND, n_steps - done)
            openmm.LocalEnergyMinimizer.minimize(
                self.context, tolerance=FORCE_TOLERANCE, maxIterations=round_steps
            )
            done += round_steps
            state = self.context.getState(energy=True, forces=True)
            forces = state.getForces(asNumpy=True).value_in_unit(_FORCE_UNIT)
            converged = bool(np.sqrt((forces**2).mean()) <= FORCE_TOLERANCE)
            self.on_progress(
                Progress(
                    stage="minimization",
                    step=n_steps if converged else done,
                    n_steps=n_steps,
                    potential_energy_kj_mol=state.getPotentialEnergy().value_in_unit(
                        unit.kilojoule_per_mole
                    ),
                )
            )
            if converged:
                return

    def integrate(self) -> RunResult:
        """Run to the last step, or until asked to stop."""
        settings, checkpoint = self.settings, self.checkpoint
        step = 0 if checkpoint is None else checkpoint.step
        elapsed_before = 0.0 if checkpoint is None else checkpoint.elapsed_s
        frame_time_ps = settings.frame_interval * settings.timestep_fs * 1e-3
        paths = (self.folder / LOG_NAME, self.folder / TRAJECTORY_NAME)
        sizes = None if checkpoint is None else (checkpoint.log_bytes, checkpoint.trajectory_bytes)
        speed = Speed(step, settings.timestep_fs)
        with RunFiles(*paths, self.topology, frame_time_ps, sizes) as files:
            if checkpoint is None:
                self._record(files, 0, 0.0, None)
                self._save(files, 0, 0.0)
            stopped = False
            while step < settings.steps and not stopped:
                n_steps = min(
                    settings.log_interval - step % settings.log_interval, settings.steps - step
                )
                self.integrator.step(n_steps)
                step += n_steps
                speed.update(step)
                elapsed_s = elapsed_before + speed.elapsed_s
                self._record(files, step, elapsed_s, speed.ns_per_day)
                stopped = self.should_stop()
                due = step % settings.checkpoint_interval == 0
                if stopped or due or step == settings.steps:
                    self._save(files, step, elapsed_s)
        return RunResult(
            completed=step >= settings.steps,
            step=step,
            ns_per_day=speed.ns_per_day,
            elapsed_s=elapsed_before + speed.elapsed_s,
            platform=self.context.getPlatform().getName(),
        )

    def _record(
        self, files: RunFiles, step: int, elapsed_s: float, ns_per_day: float | None
    ) -> None:
        """Write the log and, where one is due, a frame; then report."""
        state = self.context.getState(energy=True, positions=True)
        potential = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        if not (math.isfinite(potential + kinetic) and np.isfinite(positions).all()):
            raise GeometryError(
                f"the simulation became unstable before step {step}: potential energy {potential}"
                f" kJ/mol; the last checkpoint in {self.folder} is intact"
            )
        temperature = 2.0 * kinetic / (self.degrees_of_freedom * _GAS_CONSTANT)
        files.write_row(
            LogRow(
                step=step,
                time_ps=step * self.settings.timestep_fs * 1e-3,
                potential_energy_kj_mol=potential,
                kinetic_energy_kj_mol=kinetic,
                temperature_k=temperature,
                elapsed_s=elapsed_s,
            )
        )
        if step % self.settings.frame_interval == 0:
            box = None
            if self.system.usesPeriodicBoundaryConditions():
                box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
            files.write_frame(positions, box)
        self.on_progress(
            Progress(
                stage="dynamics",
                step=step,
                n_steps=self.settings.steps,
                potential_energy_kj_mol=potential,
                temperature_k=temperature,
                ns_per_day=ns_per_day,
            )
        )

    def _save(self, files: RunFiles, step: int, elapsed_s: float) -> None:
        log_bytes, trajectory_bytes = files.sync()
        state = self.context.getState(positions=True, velocities=True, parameters=True)
        save_checkpoint(
            self.folder / CHECKPOINT_NAME,
            RunCheckpoint(
                identity=self.identity,
                step=step,
                elapsed_s=elapsed_s,
                log_bytes=log_bytes,
                trajectory_bytes=trajectory_bytes,
                state=openmm.XmlSerializer.serialize(state),
            ),
        )
