"""The steps of a protocol, one after the other; each goes on from what is already stored."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mace_mm.errors import DataError
from mace_mm.generation.frames.frames import HotFrames
from mace_mm.generation.labels.named_files import contents_of
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.molecules.items import Item, sampling_key
from mace_mm.generation.molecules.molecules import Rejection
from mace_mm.generation.molecules.sources import given_frames
from mace_mm.generation.protocol import fingerprint
from mace_mm.generation.work.execution import Runner, Task
from mace_mm.generation.work.parts import Part, join_labels, label_parts, start_keys
from mace_mm.generation.work.store import Record, RecordStore
from mace_mm.generation.work.tasks import label_task, sample_task, start_task
from mace_mm.generation.work.workplace import (
    Keyed,
    Progress,
    Workplace,
    no_progress,
    run_missing,
    stored_facts,
)


def sample(
    workplace: Workplace, items: list[Item], runner: Runner, progress: Progress = no_progress
) -> list[Keyed]:
    """Step 2: conformers, hot and cold frames of every item that has none yet.

    Returns:
        the items whose frames are stored, in order.
    """
    protocol, report, store = workplace.protocol, workplace.report, workplace.frames
    # Where it runs and how it is labelled does not decide the frames.
    protocol_json = protocol.model_dump_json(exclude={"execution"})
    keyed: list[Keyed] = []
    for item in items:
        try:
            keyed.append(Keyed(item=item, key=sampling_key(item, protocol, _content(item))))
        except DataError as error:
            report.reject(Rejection(name=item.name, stage="sampling", reason=str(error)))
    starts = {entry.key: start_keys(entry.key, entry.item, protocol) for entry in keyed}
    split = [e for e in keyed if starts[e.key] and stored_facts(store, e.key) is None]

    def dynamics(entry: Keyed, missing: list[str]) -> Iterator[Task]:
        for key in missing:
            arguments = (entry.item, protocol_json, _given(entry.item))
            index = starts[entry.key].index(key)
            yield Task(key=key, function=start_task, arguments=(*arguments, index))

    def rest(entry: Keyed, missing: list[str]) -> Iterator[Task]:
        for key in missing:
            hot = _hot(store, starts[key])
            arguments = (entry.item, protocol_json, _given(entry.item), hot)
            yield Task(key=key, function=sample_task, arguments=arguments)

    if split:
        done = run_missing(workplace, "dynamics", store, runner, split, starts, dynamics, progress)
        gone = {entry.key for entry in split} - done.keys()
        keyed = [entry for entry in keyed if entry.key not in gone]
    keys = {entry.key: [entry.key] for entry in keyed}
    found = run_missing(workplace, "sampling", store, runner, keyed, keys, rest, progress)
    sampled = []
    for entry in keyed:
        if entry.key not in found:
            continue
        (record,) = found[entry.key]
        store.remove(starts[entry.key])
        for note in record.facts["notes"]:
            report.note(entry.item.name, "sampling", note)
        report.count_frames(record.facts["origins"])
        sampled.append(replace(entry, n_frames=len(record.facts["origins"])))
    return sampled


def _hot(store: RecordStore, keys: list[str]) -> list[HotFrames | None]:
    """The hot dynamics that are stored, from each start."""
    return [
        None
        if (part := store.load(key)) is None
        else HotFrames(frames=part.arrays["frames"], notes=tuple(part.facts["notes"]))
        for key in keys
    ]


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
    stage, store = f"label {settings.name}", workplace.labels
    path = None if settings.path is None else workplace.protocol.located(settings.path)
    settings_json = settings.model_copy(update={"path": path}).model_dump_json()
    wholes = {entry.key: label_key(entry, settings) for entry in sampled}
    parts = {}
    for entry in sampled:
        key = wholes[entry.key]
        parts[entry.key] = label_parts(key, entry.n_frames, settings.kind)
        if len(parts[entry.key]) > 1 and stored_facts(store, key) is not None:
            store.remove([part.key for part in parts[entry.key]])
            parts[entry.key] = [Part(key=key, start=0, stop=entry.n_frames)]

    def tasks(entry: Keyed, missing: list[str]) -> Iterator[Task]:
        frames = workplace.frames.load(entry.key) if missing else None
        if frames is None:
            return
        numbers, charge = frames.arrays["atomic_numbers"], frames.facts["charge"]
        for part in parts[entry.key]:
            if part.key in missing:
                positions = frames.arrays["frames"][part.start : part.stop]
                arguments = (settings_json, numbers, positions, charge)
                yield Task(key=part.key, function=label_task, arguments=arguments)

    keys = {owner: [part.key for part in pieces] for owner, pieces in parts.items()}
    found = run_missing(workplace, stage, store, runner, sampled, keys, tasks, progress)
    labelled = []
    for entry in sampled:
        if entry.key not in found:
            continue
        try:
            record = _whole(store, wholes[entry.key], parts[entry.key], found[entry.key])
        except DataError as error:
            reason = str(error)
            workplace.report.reject(Rejection(name=entry.item.name, stage=stage, reason=reason))
            continue
        for frame, reason in record.facts["failures"].items():
            workplace.report.note(entry.item.name, stage, f"frame {int(frame) + 1}: {reason}")
        labelled.append(entry)
    return labelled


def _whole(store: RecordStore, key: str, parts: list[Part], records: list[Record]) -> Record:
    """The labels of all frames in one record of this key, which replaces its parts."""
    if len(parts) == 1:
        return records[0]
    loaded = [record for part in parts if (record := store.load(part.key)) is not None]
    if len(loaded) < len(parts):
        raise DataError("labels of some frames cannot be read back; run again to make them again")
    whole = join_labels(parts, loaded)
    store.save(key, whole.encode())
    store.remove([part.key for part in parts])
    return whole


def _given(item: Item) -> np.ndarray | None:
    return None if item.conformers is None else given_frames(item.conformers, item.n_frames)


def _content(item: Item) -> str:
    given = _given(item)
    return "" if given is None else hashlib.sha256(given.tobytes()).hexdigest()
