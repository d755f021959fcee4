"""The loop of a run: integrate, look, record, save."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from mace_mm.errors import GeometryError
from mace_mm.simulation.run.checkpoint import RunCheckpoint, save_checkpoint
from mace_mm.simulation.run.context import degrees_of_freedom, make_context
from mace_mm.simulation.run.progress import Progress, Speed
from mace_mm.simulation.run.settings import MAX_SEED, RunSettings
from mace_mm.simulation.run.trajectory import LogRow, RunFiles
from mace_mm.simulation.watch.thermal import ThermalState
from mace_mm.simulation.watch.watch import RunWatch

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "checkpoint.json"
LOG_NAME = "log.csv"
TOPOLOGY_NAME = "topology.pdb"
TRAJECTORY_NAME = "trajectory.dcd"
EVENT_NAME = "event.pdb"

# kJ/mol/nm, root mean square over the components.
FORCE_TOLERANCE = 10.0
MINIMIZATION_ROUND = 20
# Between the seeds of two attempts; a prime, so that no checkpoint's step makes up for it.
_ATTEMPT_SEED = 104729

_FORCE_UNIT = unit.kilojoule_per_mole / unit.nanometer
_GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
_VELOCITY_UNIT = unit.nanometer / unit.picosecond


@dataclass(frozen=True, kw_only=True)
class _End:
    """Why a run ended by itself; not finite: an energy or a position is not a number."""

    reason: str
    finite: bool


@dataclass(kw_only=True)
class RunLoop:
    """One call of `run_dynamics`."""

    system: openmm.System
    topology: app.Topology
    folder: Path
    settings: RunSettings
    identity: dict[str, str]
    watch: RunWatch | None
    attempt: int
    on_progress: Callable[[Progress], None]
    should_stop: Callable[[], bool]
    checkpoint: RunCheckpoint | None
    context: openmm.Context = field(init=False)
    integrator: openmm.Integrator = field(init=False)
    degrees_of_freedom: int = field(init=False)

    def __post_init__(self) -> None:
        settings, checkpoint = self.settings, self.checkpoint
        # A continued run takes another seed, or the noise of its first part would repeat.
        shift = self.attempt * _ATTEMPT_SEED + (0 if checkpoint is None else checkpoint.step)
        seed = (settings.seed - 1 + shift) % MAX_SEED + 1
        self.context = make_context(self.system, settings, seed)
        self.integrator = self.context.getIntegrator()
        self.degrees_of_freedom = max(degrees_of_freedom(self.system), 1)
        self._saved_step: int | None = None
        if checkpoint is not None:
            self.context.setState(openmm.XmlSerializer.deserialize(checkpoint.state))
            self._saved_step = checkpoint.step
            if self.watch is not None and checkpoint.watch is not None:
                self.watch.restore(checkpoint.watch)
            logger.info("resuming at step %d", checkpoint.step)

    def start(self, positions_nm: np.ndarray) -> None:
        """Place the atoms, minimize, draw velocities and write the start structure.

        Raises:
            GeometryError: the minimization ends in positions that are not numbers.
        """
        settings = self.settings
        box = self.topology.getPeriodicBoxVectors()
        if box is not None:
            self.context.setPeriodicBoxVectors(*box)
        self.context.setPositions(positions_nm)
        self._minimize()
        if not self._is_finite():
            raise GeometryError(
                "the minimization ended in positions that are not numbers: check the start "
                "structure for atoms on top of each other"
            )
        self.context.setVelocitiesToTemperature(settings.temperature_k * unit.kelvin, settings.seed)
        positions = self.context.getState(positions=True).getPositions()
        self._write_structure(TOPOLOGY_NAME, positions)

    def _write_structure(self, name: str, positions: Any) -> None:
        with (self.folder / name).open("w", encoding="utf-8") as file:
            app.PDBFile.writeFile(self.topology, positions, file, keepIds=True)

    def _is_finite(self) -> bool:
        positions = self.context.getState(positions=True).getPositions(asNumpy=True)
        return bool(np.isfinite(positions.value_in_unit(unit.nanometer)).all())

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

    def integrate(self) -> dict[str, Any]:
        """Run to the last step, or until asked to stop, or until the watch ends it.

        Returns:
            the fields of a `RunResult`.
        """
        settings, checkpoint = self.settings, self.checkpoint
        step = 0 if checkpoint is None else checkpoint.step
        elapsed_before = 0.0 if checkpoint is None else checkpoint.elapsed_s
        frame_time_ps = settings.frame_interval * settings.timestep_fs * 1e-3
        paths = (self.folder / LOG_NAME, self.folder / TRAJECTORY_NAME)
        sizes = None if checkpoint is None else (checkpoint.log_bytes, checkpoint.trajectory_bytes)
        speed = Speed(step, settings.timestep_fs)
        end: _End | None = None
        with RunFiles(*paths, self.topology, frame_time_ps, sizes) as files:
            if checkpoint is None:
                end = self._record(files, 0, 0.0, None)
                if end is None:
                    self._save(files, 0, 0.0)
            stopped = False
            while step < settings.steps and not stopped and end is None:
                n_steps = min(
                    settings.log_interval - step % settings.log_interval, settings.steps - step
                )
                end = self._advance(step, n_steps)
                if end is not None:
                    break
                step += n_steps
                speed.update(step)
                elapsed_s = elapsed_before + speed.elapsed_s
                end = self._record(files, step, elapsed_s, speed.ns_per_day)
                if end is not None:
                    break
                stopped = self.should_stop()
                due = step % settings.checkpoint_interval == 0
                if stopped or due or step == settings.steps:
                    self._save(files, step, elapsed_s)
            files.sync()
        return {
            "completed": step >= settings.steps and end is None,
            "step": step,
            "ns_per_day": speed.ns_per_day,
            "elapsed_s": elapsed_before + speed.elapsed_s,
            "platform": self.context.getPlatform().getName(),
            "stopped_by": None if end is None else end.reason,
            "finite": end is None or end.finite,
            "checkpoint_step": self._saved_step,
        }

    def _advance(self, step: int, n_steps: int) -> _End | None:
        """Integrate; positions that are no numbers make OpenMM or the model raise."""
        try:
            self.integrator.step(n_steps)
        except openmm.OpenMMException:
            if self._is_finite():
                raise
            return _End(
                reason=f"between step {step} and {step + n_steps}: positions stopped being numbers",
                finite=False,
            )
        return None

    def _record(
        self, files: RunFiles, step: int, elapsed_s: float, ns_per_day: float | None
    ) -> _End | None:
        """Write the log and, where one is due, a frame; look at the molecule; then report."""
        state = self.context.getState(energy=True, positions=True, velocities=True)
        potential = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        time_ps = step * self.settings.timestep_fs * 1e-3
        if not (math.isfinite(potential + kinetic) and np.isfinite(positions).all()):
            return _End(
                reason=f"at step {step} ({time_ps:g} ps): the potential energy is {potential} "
                f"kJ/mol, the kinetic energy {kinetic} kJ/mol",
                finite=False,
            )
        temperature = 2.0 * kinetic / (self.degrees_of_freedom * _GAS_CONSTANT)
        files.write_row(
            LogRow(
                step=step,
                time_ps=time_ps,
                potential_energy_kj_mol=potential,
                kinetic_energy_kj_mol=kinetic,
                temperature_k=temperature,
                elapsed_s=elapsed_s,
            )
        )
        box = None
        if self.system.usesPeriodicBoundaryConditions():
            box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        if step % self.settings.frame_interval == 0:
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
        if self.watch is None:
            return None
        velocities = state.getVelocities(asNumpy=True).value_in_unit(_VELOCITY_UNIT)
        self.watch.look(
            step,
            positions,
            box,
            ThermalState(
                time_ps=time_ps,
                potential_kj_mol=potential,
                kinetic_kj_mol=kinetic,
                velocities_nm_ps=velocities,
            ),
            last=step >= self.settings.steps,
        )
        if self.watch.stopped_by is None:
            return None
        self._write_structure(EVENT_NAME, state.getPositions())
        return _End(reason=f"at step {step} ({time_ps:g} ps): {self.watch.stopped_by}", finite=True)

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
                watch=None if self.watch is None else self.watch.to_json(),
            ),
        )
        self._saved_step = step
