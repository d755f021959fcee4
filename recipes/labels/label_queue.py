"""Label the frames of the fragment set that have no label yet, in the order of the queue.

    nice -n 19 python recipes/labels/label_queue.py --records /path/to/records

goes on from whatever is finished, here or in the committed parts, and ends when all is done, when
the records' folder holds a file STOP, or after --seconds. Each finished frame is a record of its
own, so a kill costs the frame in work. Several workers: --worker 0/2 and --worker 1/2.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from queue_file import SET, Candidate, finished_in_parts, read_queue, rounds

from mace_mm.errors import DataError
from mace_mm.generation.labels.programs import label_frames
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.protocol import fingerprint
from mace_mm.generation.work.store import Record, RecordStore
from mace_mm.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV


def settings_of_level(folder: Path) -> LabelSettings:
    """The level of theory of a set."""
    return LabelSettings.model_validate(yaml.safe_load((folder / "level.yaml").read_text()))


def key_of(frame_id: str) -> str:
    """The name of a frame's record."""
    return fingerprint(frame_id)


def waiting(
    folder: Path, store: RecordStore, worker: int, n_workers: int
) -> Iterator[tuple[str, Candidate]]:
    """Frames without a label, in order, of all rounds that the queue has."""
    finished = finished_in_parts(folder)
    number = 0
    for path in rounds(folder):
        for frame_id, candidate in read_queue(path):
            number += 1
            if number % n_workers != worker or frame_id in finished:
                continue
            if store.load(key_of(frame_id)) is None:
                yield frame_id, candidate


def labelled(frame_id: str, candidate: Candidate, settings: LabelSettings) -> Record:
    """The record of a frame, in SPICE's units; a failed label is a record with its failure."""
    positions = candidate.positions.astype(np.float64) * BOHR_TO_ANGSTROM
    facts = {"frame": frame_id, "smiles": candidate.smiles}
    try:
        labels = label_frames(settings, candidate.atomic_numbers, positions, candidate.charge)
    except DataError as error:
        return Record(facts=facts | {"failure": str(error)})
    if labels.failures:
        return Record(facts=facts | {"failure": labels.failures[0]})
    if labels.dipoles is None or labels.seconds is None:
        raise TypeError("the level of theory of the set has dipoles and times")
    arrays = {
        "energy": labels.energies / HARTREE_TO_EV,
        "gradient": -labels.forces / HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
        "dipole": labels.dipoles / BOHR_TO_ANGSTROM,
        "positions": candidate.positions,
        "seconds": labels.seconds,
    }
    return Record(arrays=arrays, facts=facts | {"provenance": labels.provenance})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=Path, default=SET, help="folder with level.yaml and queue")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--worker", default="0/1", help="number/of how many")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    worker, n_workers = (int(part) for part in arguments.worker.split("/"))
    settings, store = settings_of_level(arguments.set), RecordStore(arguments.records)
    started = time.monotonic()
    for frame_id, candidate in waiting(arguments.set, store, worker, n_workers):
        if (arguments.records / "STOP").exists() or time.monotonic() - started > arguments.seconds:
            return
        record = labelled(frame_id, candidate, settings)
        try:
            store.save(key_of(frame_id), record.encode())
        except DataError as error:
            sys.exit(f"{frame_id}: {error}")
        seconds = record.arrays["seconds"][0] if record.arrays else 0.0
        line = record.failure or f"{seconds:.1f} s"
        print(f"{frame_id} {candidate.kind}: {candidate.smiles}: {line}", flush=True)


if __name__ == "__main__":
    main()
