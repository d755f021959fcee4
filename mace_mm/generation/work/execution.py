"""Run tasks here or on Dask; each result is handed over once, in the order of completion."""

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mace_mm.errors import BackendError, DependencyError
from mace_mm.generation.work.execution_settings import ExecutionSettings

logger = logging.getLogger(__name__)

SLOTS_EVERY = 20
RESTART_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call ``function(*arguments)`` that returns bytes; ``key`` is its identity."""

    key: str
    function: Callable[..., bytes]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A task whose worker died again and again."""

    reason: str


Runner = Callable[[Iterator[Task]], Iterator[tuple[str, bytes | Lost]]]


@contextmanager
def open_runner(settings: ExecutionSettings) -> Iterator[Runner]:
    """Open what runs tasks and close it again.

    Raises:
        DependencyError: dask.distributed (or the cluster's package) is not installed.
        BackendError: the scheduler cannot be reached, or is lost on the way.
    """
    if settings.kind == "local" and settings.workers == 0:
        yield _run_here
        return
    try:
        import distributed
    except ImportError as error:
        raise DependencyError(f"more than this process wants dask[distributed]: {error}") from error
    with _cluster(settings) as target:
        try:
            client = distributed.Client(target)
        except (OSError, TimeoutError, ValueError) as error:
            raise BackendError(f"no Dask scheduler at {settings.address}: {error}") from error
        with client:
            logger.info("Dask dashboard: %s", client.dashboard_link)
            yield lambda tasks: _run_dask(client, tasks, max(settings.workers, 1))
            if settings.kind == "local":
                _wait_for_restarts(client, settings.workers)


def _wait_for_restarts(client: Any, workers: int) -> None:
    """A local cluster fails to close while it starts a worker anew, with all results at hand."""
    with suppress(TimeoutError):
        client.wait_for_workers(workers, timeout=RESTART_SECONDS)


@contextmanager
def _cluster(settings: ExecutionSettings) -> Iterator[Any]:
    if settings.kind == "address":
        yield settings.address
        return
    if settings.kind == "local":
        import distributed

        with distributed.LocalCluster(
            n_workers=settings.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster:
            yield cluster
        return
    module_name, _, class_name = str(settings.cluster).partition(":")
    try:
        cluster_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise DependencyError(f"the cluster {settings.cluster} wants {module_name}") from error
    with cluster_class(**settings.options) as cluster:
        cluster.scale(settings.workers)
        yield cluster


def _run_here(tasks: Iterator[Task]) -> Iterator[tuple[str, bytes | Lost]]:
    for task in tasks:
        yield task.key, task.function(*task.arguments)


def _run_dask(
    client: Any, tasks: Iterator[Task], least_slots: int
) -> Iterator[tuple[str, bytes | Lost]]:
    """Keep two tasks a worker thread under way; a dead worker's tasks go to another one.

    Dask gives a task up after several of its workers died. It may have been the neighbor that
    killed them: such tasks are tried again one by one at the end.
    """
    import distributed

    suspects: list[Task] = []
    running: dict[str, Task] = {}
    completed = distributed.as_completed([], loop=client.loop)
    exhausted = False
    n_done = 0
    n_slots = 2 * max(least_slots, _n_threads(client))
    try:
        while True:
            while not exhausted and len(running) < n_slots:
                task = next(tasks, None)
                if task is None:
                    exhausted = True
                    break
                running[task.key] = task
                completed.add(_submit(client, task, task.key))
            if not running:
                break
            future = next(completed)
            task = running.pop(future.key)
            n_done += 1
            try:
                result = future.result()
            except distributed.KilledWorker:
                suspects.append(task)
                continue
            yield task.key, result
            if n_done % SLOTS_EVERY == 0:
                n_slots = 2 * max(least_slots, _n_threads(client))
        for task in suspects:
            try:
                # Under its old key Dask would answer with the old failure.
                result = _submit(client, task, f"{task.key}-again").result()
            except distributed.KilledWorker as error:
                result = Lost(reason=f"its worker process died every time: {error}")
            yield task.key, result
    except (distributed.CancelledError, OSError) as error:
        raise BackendError(
            f"the Dask scheduler was lost: {error!r}; run again to go on from here"
        ) from error


def _submit(client: Any, task: Task, key: str) -> Any:
    return client.submit(task.function, *task.arguments, key=key, pure=False)


def _n_threads(client: Any) -> int:
    return sum(client.nthreads().values())
