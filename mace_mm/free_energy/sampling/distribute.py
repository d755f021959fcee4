"""Run the independent parts of a leg: here, on local Dask workers, or on a running scheduler.

MPI needs nothing of this: under ``mpiexec`` the replicas of an exchange run are spread over the
ranks by openmmtools.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mace_mm.errors import BackendError
from mace_mm.free_energy.legs.leg import Leg, load_leg
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.sampling.observers import Observer
from mace_mm.free_energy.sampling.switching import FORWARD, REVERSE, run_switches
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.settings import Dynamics, Execution, Switching, Windows

logger = logging.getLogger(__name__)

LEG_FOLDER = "leg"
_POLL_S = 1.0

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One part of a leg that a worker runs by itself, from files.

    Attributes:
        leg_folder: where the leg is saved; every worker must see it.
        folder: the journal's folder.
        windows, switching: one of the two.
        dynamics: integrator and platform.
        index: the window's state, or the direction of switching.
    """

    leg_folder: Path
    folder: Path
    windows: Windows | None
    switching: Switching | None
    dynamics: Dynamics
    index: int

    @property
    def total(self) -> int:
        """Iterations of this part."""
        if self.windows is not None:
            return self.windows.equilibration + self.windows.iterations
        if self.switching is not None:
            return self.switching.equilibration + self.switching.switches
        return 0

    def journal(self, n_states: int) -> Journal:
        """The journal that the part writes."""
        return Journal(self.folder, 1, 1 if self.windows is None else n_states)


def window_tasks(leg: Leg, folder: Path, windows: Windows, dynamics: Dynamics) -> list[Task]:
    """One task a window, without exchange between windows."""
    alone = windows.model_copy(update={"exchange": False})
    return [
        Task(
            leg_folder=folder / LEG_FOLDER,
            folder=folder / f"window_{state:03d}",
            windows=alone,
            switching=None,
            dynamics=_seeded(dynamics, state),
            index=state,
        )
        for state in range(leg.schedule.n_states)
    ]


def switch_tasks(folder: Path, switching: Switching, dynamics: Dynamics) -> list[Task]:
    """One task a direction."""
    return [
        Task(
            leg_folder=folder / LEG_FOLDER,
            folder=folder / name,
            windows=None,
            switching=switching,
            dynamics=dynamics,
            index=direction,
        )
        for direction, name in ((FORWARD, "switch_forward"), (REVERSE, "switch_reverse"))
    ]


def run_task(
    task: Task,
    on_iteration: OnProgress | None = None,
    observers: tuple[Observer, ...] = (),
) -> int:
    """Run one task to its end, from where it stopped; returns the complete iterations."""
    leg = replace(load_leg(task.leg_folder), observers=observers)
    if task.windows is not None:
        journal = run_windows(
            leg,
            task.folder,
            task.windows,
            task.dynamics,
            replicas=[task.index],
            on_iteration=on_iteration,
        )
    elif task.switching is not None:
        journal = run_switches(
            leg, task.folder, task.switching, task.dynamics, task.index, on_iteration=on_iteration
        )
    else:
        raise BackendError("a task needs windows or switching, got neither")
    return journal.n_iterations()


def run_tasks(
    leg: Leg,
    tasks: Sequence[Task],
    execution: Execution,
    on_progress: OnProgress | None = None,
) -> list[Journal]:
    """Run all tasks; a task whose worker dies is run again from its journal.

    Args:
        leg: what the tasks sample; saved where they look for it.
        tasks: from :func:`window_tasks` or :func:`switch_tasks`.
        execution: where.
        on_progress: called with complete iterations and their total, over all tasks.

    Raises:
        BackendError: the scheduler does not answer.
    """
    for folder in {task.leg_folder for task in tasks}:
        leg.save(folder)
    journals = [task.journal(leg.schedule.n_states) for task in tasks]
    total = sum(task.total for task in tasks)
    if execution.scheduler is None and execution.workers == 1:
        for position, task in enumerate(tasks):
            before = sum(other.total for other in tasks[:position])

            def report(done: int, _: int, before: int = before) -> None:
                if on_progress is not None:
                    on_progress(before + done, total)

            run_task(task, report, leg.observers)
        return journals
    with _client(execution) as client:
        futures = client.map(run_task, tasks, observers=leg.observers, pure=False, retries=2)
        while any(not future.done() for future in futures):
            if on_progress is not None:
                on_progress(sum(journal.n_iterations() for journal in journals), total)
            time.sleep(_POLL_S)
        client.gather(futures)
    if on_progress is not None:
        on_progress(total, total)
    return journals


def _client(execution: Execution) -> AbstractContextManager[Any]:
    from distributed import Client, LocalCluster

    if execution.scheduler is not None:
        try:
            return Client(execution.scheduler, timeout=20)
        except (OSError, ValueError) as error:
            raise BackendError(
                f"no Dask scheduler answers at {execution.scheduler!r}: {error}"
            ) from error
    cluster = LocalCluster(
        n_workers=execution.workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        silence_logs=logging.ERROR,
        env={
            name: str(execution.threads)
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENMM_CPU_THREADS")
        },
    )
    return _Cluster(cluster)


class _Cluster(AbstractContextManager[Any]):
    """A local cluster and its client, closed together."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def __enter__(self) -> Any:
        self._client = self._cluster.get_client()
        return self._client

    def __exit__(self, *details: object) -> None:
        self._client.close()
        self._cluster.close()


def _seeded(dynamics: Dynamics, state: int) -> Dynamics:
    """Windows must not share their noise."""
    if not dynamics.seed:
        return dynamics
    return dynamics.model_copy(update={"seed": (dynamics.seed + 7919 * state) % (2**31 - 1)})
