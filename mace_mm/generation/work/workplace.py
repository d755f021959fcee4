"""The folder of a dataset, and the running of tasks whose results it stores."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mace_mm.errors import DataError
from mace_mm.files.folder_lock import only_process
from mace_mm.generation.molecules.items import Item
from mace_mm.generation.molecules.molecules import Rejection
from mace_mm.generation.protocol import Protocol
from mace_mm.generation.report import Report
from mace_mm.generation.work.execution import Lost, Runner, Task
from mace_mm.generation.work.store import Record, RecordStore, decode_record

# Called with (step, done, total) as tasks finish.
Progress = Callable[[str, int, int], None]


def no_progress(step: str, done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """The folder of one dataset: stored records, report and the final files.

    Attributes:
        folder: where everything goes.
        protocol: what is made.
        report: collects what happened.
        frames: sampled structures by key.
        labels: labels by key.
    """

    folder: Path
    protocol: Protocol
    report: Report
    frames: RecordStore
    labels: RecordStore


@contextmanager
def open_workplace(folder: Path, protocol: Protocol, report: Report) -> Iterator[Workplace]:
    """Open (or make) a dataset's folder for one driver at a time.

    Raises:
        BackendError: another driver works in this folder.
        DataError: the folder cannot be made or written.
    """
    with only_process(folder / "work", "generating"):
        workplace = Workplace(
            folder=folder,
            protocol=protocol,
            report=report,
            frames=RecordStore(folder / "work" / "frames"),
            labels=RecordStore(folder / "work" / "labels"),
        )
        workplace.frames.remove_partial()
        workplace.labels.remove_partial()
        yield workplace


@dataclass(frozen=True, kw_only=True)
class Keyed:
    """An item with the key of its frames.

    Attributes:
        n_frames: how many they are, once they are sampled.
    """

    item: Item
    key: str
    n_frames: int = 0


def run_missing(
    workplace: Workplace,
    stage: str,
    store: RecordStore,
    runner: Runner,
    entries: list[Keyed],
    keys: dict[str, list[str]],
    tasks: Callable[[Keyed, list[str]], Iterator[Task]],
    progress: Progress,
) -> dict[str, list[Record]]:
    """Make the records that are not stored yet and store each as it comes.

    Args:
        keys: the keys of each entry's records, by the entry's own key.
        tasks: from an entry and those of its keys whose records are missing to tasks of the same
            keys.

    Returns:
        the records of each entry, without their arrays, by its key; an entry of which one failed
        or was lost is not among them but in the report.
    """
    owners = {key: entry for entry in entries for key in keys[entry.key]}
    records = {key: stored_facts(store, key) for key in owners}
    missing = {key: owner for key, owner in owners.items() if records[key] is None}

    def all_tasks() -> Iterator[Task]:
        for entry in entries:
            yield from tasks(entry, [key for key in keys[entry.key] if key in missing])

    made = _run(workplace, stage, store, runner, all_tasks(), missing, len(owners), progress)
    complete = {}
    for entry in entries:
        found = [records[key] or made.get(key) for key in keys[entry.key]]
        present = [record for record in found if record is not None]
        failures = [record.failure for record in present if record.failure is not None]
        if failures:
            rejection = Rejection(name=entry.item.name, stage=stage, reason=failures[0])
            workplace.report.reject(rejection)
        elif len(present) == len(found):
            complete[entry.key] = present
    return complete


def _run(
    workplace: Workplace,
    stage: str,
    store: RecordStore,
    runner: Runner,
    tasks: Iterator[Task],
    missing: dict[str, Keyed],
    total: int,
    progress: Progress,
) -> dict[str, Record]:
    """The records made, by key; what is lost or cannot be stored is reported once an item."""
    report = workplace.report
    made: dict[str, Record] = {}
    lost: dict[str, str] = {}
    done = total - len(missing)
    progress(stage, done, total)
    started, n_frames, core_seconds = time.monotonic(), 0, 0.0
    for key, result in runner(tasks):
        done += 1
        progress(stage, done, total)
        if isinstance(result, Lost):
            lost.setdefault(missing[key].key, result.reason)
            continue
        record = decode_record(result)
        n_frames += len(record.arrays.get("frames", record.arrays.get("energies", ())))
        core_seconds += record.facts["core_seconds"]
        made[key] = Record(facts=record.facts)
        if record.facts.get("transient"):
            continue
        try:
            store.save(key, result)
        except DataError as error:
            del made[key]
            lost.setdefault(missing[key].key, str(error))
    seconds = time.monotonic() - started
    names = {entry.key: entry.item.name for entry in missing.values()}
    report.speed(stage, len(names), n_frames, seconds, core_seconds)
    for entry_key, reason in lost.items():
        report.reject(Rejection(name=names[entry_key], stage=stage, reason=reason))
    for line in store.damaged:
        report.note("records", stage, line)
    store.damaged.clear()
    return made


def stored_facts(store: RecordStore, key: str) -> Record | None:
    """A stored record without its arrays: those of all items together may not fit into memory."""
    record = store.load(key)
    return None if record is None else Record(facts=record.facts)
