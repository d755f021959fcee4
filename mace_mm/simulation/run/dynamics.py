"""Molecular dynamics of one system into one folder: interruptible, checkpointed, resumable."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app

from mace_mm.errors import ConfigError, GeometryError, RunStoppedError
from mace_mm.simulation.run.checkpoint import load_checkpoint
from mace_mm.simulation.run.loop import CHECKPOINT_NAME, LOG_NAME, TRAJECTORY_NAME, RunLoop
from mace_mm.simulation.run.progress import Progress
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.watch.watch import RunWatch


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended.

    Attributes:
        completed: False if it was stopped before its last step.
        step: steps done.
        ns_per_day: speed of this process, None if it did too little to measure.
        elapsed_s: wall time of the dynamics, over all parts of the run.
        platform: the OpenMM platform.
        stopped_by: what ended the run by itself, None if it completed or was asked to stop.
        finite: False if that was an energy or a position that is not a number.
        checkpoint_step: step of the last checkpoint, None if there is none.
    """

    completed: bool
    step: int
    ns_per_day: float | None
    elapsed_s: float
    platform: str
    stopped_by: str | None = None
    finite: bool = True
    checkpoint_step: int | None = None


def run_dynamics(
    system: openmm.System,
    topology: app.Topology,
    positions_nm: np.ndarray,
    folder: Path,
    settings: RunSettings,
    *,
    identity: dict[str, str] | None = None,
    watch: RunWatch | None = None,
    resume: bool = False,
    attempt: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Minimize, then integrate with LangevinMiddleIntegrator, writing into ``folder``.

    The folder receives ``topology.pdb`` (the start structure), ``trajectory.dcd``, ``log.csv``
    and ``checkpoint.json``. A run that was stopped or killed continues from its last checkpoint:
    log and trajectory are cut back to it, so that no step occurs twice. Where a watch ends a run,
    ``event.pdb`` is the structure it saw, log and trajectory reach up to it, and the checkpoint
    before it stays.

    Args:
        system: the OpenMM System.
        topology: its topology.
        positions_nm: (n_atoms, 3) start positions.
        folder: created if it does not exist.
        settings: the protocol.
        identity: names and values that a resumed run must share with its beginning, besides
            those of the settings and the elements.
        watch: looks at the molecule after every log interval; None for no look at all.
        resume: continue the run that is in ``folder``.
        attempt: how often the run ended by itself before: each attempt draws other random numbers.
        on_progress: called after every log interval.
        should_stop: asked after every log interval; True writes a checkpoint and returns.

    Raises:
        ConfigError: the folder holds a run and ``resume`` is False, or holds another run.
        DataError: nothing to resume, or damaged files.
        GeometryError: the energy or the positions stopped being finite.
        RunStoppedError: the watch ended the run.
        BackendError: the platform does not exist here.
    """
    result = dynamics_result(
        system,
        topology,
        positions_nm,
        folder,
        settings,
        identity=identity,
        watch=watch,
        resume=resume,
        attempt=attempt,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    if result.stopped_by is None:
        return result
    kept = f"{result.stopped_by}; {what_is_left(result, folder)}"
    if not result.finite:
        raise GeometryError(f"the simulation became unstable {kept}")
    raise RunStoppedError(f"the run was stopped {kept}")


def what_is_left(result: RunResult, folder: Path) -> str:
    """Where a run that ended by itself can be continued from."""
    if result.checkpoint_step is None:
        return f"log and trajectory are in {folder}, there is no checkpoint before it"
    return f"the checkpoint of step {result.checkpoint_step} in {folder} is intact"


def dynamics_result(
    system: openmm.System,
    topology: app.Topology,
    positions_nm: np.ndarray,
    folder: Path,
    settings: RunSettings,
    *,
    identity: dict[str, str] | None = None,
    watch: RunWatch | None = None,
    resume: bool = False,
    attempt: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """As `run_dynamics`, but a run that ended by itself returns its result, too."""
    identity = _identity(topology, settings) | (identity or {})
    path = folder / CHECKPOINT_NAME
    checkpoint = load_checkpoint(path, identity) if resume else None
    if checkpoint is None:
        _check_empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
    loop = RunLoop(
        system=system,
        topology=topology,
        folder=folder,
        settings=settings,
        identity=identity,
        watch=watch,
        attempt=attempt,
        on_progress=on_progress or (lambda progress: None),
        should_stop=should_stop or (lambda: False),
        checkpoint=checkpoint,
    )
    if checkpoint is None:
        loop.start(positions_nm)
    return RunResult(**loop.integrate())


def _identity(topology: app.Topology, settings: RunSettings) -> dict[str, str]:
    elements = [atom.element.symbol if atom.element else "-" for atom in topology.atoms()]
    return {"elements": "".join(elements)} | settings.identity()


def _check_empty(folder: Path) -> None:
    for name in (CHECKPOINT_NAME, LOG_NAME, TRAJECTORY_NAME):
        if (folder / name).exists():
            raise ConfigError(
                f"{folder} already holds a run ({name}): resume it or name another folder"
            )
