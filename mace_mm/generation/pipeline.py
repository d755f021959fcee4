"""The steps of a protocol, one after the other; each goes on from what is already stored."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mace_mm.errors import DataError
from mace_mm.folder_lock import only_process
from mace_mm.generation.execution import Lost, Runner, Task
from mace_mm.generation.items import Item, sampling_key
from mace_mm.generation.label_settings import LabelSettings
from mace_mm.generation.molecules import Rejection
from mace_mm.generation.named_files import contents_of
from mace_mm.generation.protocol import Protocol, fingerprint
from mace_mm.generation.report import Report
from mace_mm.generation.sources import given_frames
from mace_mm.generation.store import Record, RecordStore, decode_record
from mace_mm.generation.tasks import label_task, sample_task

logger = logging.getLogger(__name__)

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
    """An item with the key of its frames."""

    item: Item
    key: str


def sample(
    workplace: Workplace, items: list[Item], runner: Runner, progress: Progress = no_progress
) -> list[Keyed]:
    """Step 2: conformers, hot and cold frames of every item that has none yet.

    Returns:
        the items whose frames are stored, in order.
    """
    protocol, report = workplace.protocol, workplace.report
    # Where it runs and how it is labelled does not decide the frames.
    protocol_json = protocol.model_dump_json(exclude={"execution"})
    keyed: list[Keyed] = []
    for item in items:
        try:
            keyed.append(Keyed(item=item, key=sampling_key(item, protocol, _content(item))))
        except DataError as error:
            report.reject(Rejection(name=item.name, stage="sampling", reason=str(error)))

    def tasks() -> Iterator[Task]:
        for entry in missing:
            given = _given(entry.item)
            yield Task(
                key=f"sample-{entry.key}",
                function=sample_task,
                arguments=(entry.item, protocol_json, given),
            )

    records = {entry.key: _facts(workplace.frames, entry.key) for entry in keyed}
    missing = [entry for entry in keyed if records[entry.key] is None]
    names = {f"sample-{entry.key}": entry for entry in missing}
    made = _run(workplace, "sampling", workplace.frames, runner, tasks, names, len(keyed), progress)
    sampled = []
    for entry in keyed:
        record = records.pop(entry.key) or made.get(entry.key)
        if record is None:
            continue
        if record.failure is not None:
            report.reject(Rejection(name=entry.item.name, stage="sampling", reason=record.failure))
            continue
        for note in record.facts["notes"]:
            report.note(entry.item.name, "sampling", note)
        report.count_frames(record.facts["origins"])
        sampled.append(entry)
    return sampled


def label_key(entry: Keyed, settings: LabelSettings) -> str:
    """Names the labels of an item at one level of theory."""
    decisive = [entry.key, settings.model_dump_json(exclude={"name"})]
    return fingerprint(*decisive, *contents_of(settings.options))


def label(
    workplace: Workplace,
    sampled: list[Keyed],
    settings: LabelSettings,
    runner: Runner,
    progress: Progress = no_progress,
) -> list[Keyed]:
    """Step 3: label the frames of every item at one level of theory.

    Returns:
        the items with stored labels, in order.
    """
    stage = f"label {settings.name}"
    path = None if settings.path is None else workplace.protocol.located(settings.path)
    settings_json = settings.model_copy(update={"path": path}).model_dump_json()
    keys = {entry.key: label_key(entry, settings) for entry in sampled}
    records = {entry.key: _facts(workplace.labels, keys[entry.key]) for entry in sampled}
    missing = [entry for entry in sampled if records[entry.key] is None]
    names = {
        f"label-{keys[entry.key]}": Keyed(item=entry.item, key=keys[entry.key]) for entry in missing
    }

    def tasks() -> Iterator[Task]:
        for entry in missing:
            frames = workplace.frames.load(entry.key)
            if frames is None:
                continue
            yield Task(
                key=f"label-{keys[entry.key]}",
                function=label_task,
                arguments=(
                    settings_json,
                    frames.arrays["atomic_numbers"],
                    frames.arrays["frames"],
                    frames.facts["charge"],
                ),
            )

    made = _run(workplace, stage, workplace.labels, runner, tasks, names, len(sampled), progress)
    labelled = []
    for entry in sampled:
        record = records.pop(entry.key) or made.get(keys[entry.key])
        if record is None:
            continue
        if record.failure is not None:
            workplace.report.reject(
                Rejection(name=entry.item.name, stage=stage, reason=record.failure)
            )
            continue
        for frame, reason in record.facts["failures"].items():
            workplace.report.note(entry.item.name, stage, f"frame {int(frame) + 1}: {reason}")
        labelled.append(entry)
    return labelled


def _run(
    workplace: Workplace,
    stage: str,
    store: RecordStore,
    runner: Runner,
    tasks: Callable[[], Iterator[Task]],
    names: dict[str, Keyed],
    total: int,
    progress: Progress,
) -> dict[str, Record]:
    """Run what is missing and store it as it comes; returns the records made, by key."""
    report = workplace.report
    made: dict[str, Record] = {}
    done = total - len(names)
    progress(stage, done, total)
    started, n_frames, core_seconds = time.monotonic(), 0, 0.0
    for task_key, result in runner(tasks()):
        entry = names[task_key]
        done += 1
        progress(stage, done, total)
        if isinstance(result, Lost):
            report.reject(Rejection(name=entry.item.name, stage=stage, reason=result.reason))
            continue
        record = decode_record(result)
        n_frames += len(record.arrays.get("frames", record.arrays.get("energies", ())))
        core_seconds += record.facts["core_seconds"]
        made[entry.key] = Record(facts=record.facts)
        if record.facts.get("transient"):
            continue
        try:
            store.save(entry.key, result)
        except DataError as error:
            del made[entry.key]
            report.reject(Rejection(name=entry.item.name, stage=stage, reason=str(error)))
    seconds = time.monotonic() - started
    report.speed(stage, len(names), n_frames, seconds, core_seconds)
    for line in store.damaged:
        report.note("records", stage, line)
    store.damaged.clear()
    return made


def _facts(store: RecordStore, key: str) -> Record | None:
    """A stored record without its arrays: those of all items together may not fit into memory."""
    record = store.load(key)
    return None if record is None else Record(facts=record.facts)


def _given(item: Item) -> np.ndarray | None:
    return None if item.conformers is None else given_frames(item.conformers, item.n_frames)


def _content(item: Item) -> str:
    given = _given(item)
    return "" if given is None else hashlib.sha256(given.tobytes()).hexdigest()
