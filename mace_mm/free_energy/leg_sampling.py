"""Sample a leg: windows and switches, until they are complete or something ends them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mpiplus

from mace_mm.errors import GeometryError, RunStoppedError
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.watch import before_event
from mace_mm.free_energy.protocol import OnStage, Protocol
from mace_mm.free_energy.sampling.distribute import run_tasks, switch_tasks, window_tasks
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.sampling.windows import run_windows

WINDOWS_FOLDER = "windows"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """The journals of one stage.

    Attributes:
        journals: one of all replicas, or one of each; empty on MPI ranks other than the first.
        stopped_by: what ended the stage, None if it is complete.
    """

    journals: tuple[Journal, ...] = ()
    stopped_by: str | None = None

    def before_event(self, leg: Leg) -> tuple[Journal, ...]:
        """The journals up to the iteration before the molecule was destroyed."""
        return tuple(before_event(leg, journal) for journal in self.journals)


def sample_windows(leg: Leg, folder: Path, protocol: Protocol, on_stage: OnStage) -> Sampled:
    """Run or continue the windows, on all ranks of MPI where replicas are exchanged."""
    windows, dynamics = protocol.windows, protocol.dynamics
    if windows is None:
        return Sampled()

    def report(done: int, total: int) -> None:
        on_stage("windows", done, total)

    execution = protocol.execution
    n_states = leg.schedule.n_states
    if windows.exchange and execution.workers == 1 and execution.scheduler is None:
        place = folder / WINDOWS_FOLDER
        stopped_by = _until_stopped(
            lambda: run_windows(leg, place, windows, dynamics, on_iteration=report)
        )
        return Sampled(journals=(Journal(place, n_states, n_states),), stopped_by=stopped_by)
    if not is_first_rank():
        return Sampled()
    tasks = window_tasks(leg, folder, windows, dynamics)
    stopped_by = _until_stopped(lambda: run_tasks(leg, tasks, execution, report))
    journals = tuple(task.journal(n_states) for task in tasks)
    return Sampled(journals=journals, stopped_by=stopped_by)


def sample_switches(leg: Leg, folder: Path, protocol: Protocol, on_stage: OnStage) -> Sampled:
    """Run or continue the switches of both directions."""
    if protocol.switching is None:
        return Sampled()
    tasks = switch_tasks(folder, protocol.switching, protocol.dynamics)

    def report(done: int, total: int) -> None:
        on_stage("switches", done, total)

    stopped_by = _until_stopped(lambda: run_tasks(leg, tasks, protocol.execution, report))
    journals = tuple(task.journal(leg.schedule.n_states) for task in tasks)
    return Sampled(journals=journals, stopped_by=stopped_by)


def _until_stopped(sample: Callable[[], object]) -> str | None:
    """What ended the sampling by itself: the watch, or numbers that are none."""
    try:
        sample()
    except (RunStoppedError, GeometryError) as error:
        return str(error)
    return None


def is_first_rank() -> bool:
    """True in a run without MPI and on MPI's rank 0."""
    communicator = mpiplus.get_mpicomm()
    return communicator is None or communicator.rank == 0
