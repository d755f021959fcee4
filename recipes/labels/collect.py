"""Collect finished labels into a new part of the fragment set, and commit it.

    python recipes/labels/collect.py --records /path/to/records --commit

writes ``parts/training-NNN.h5`` and ``parts/validation-NNN.h5`` with the frames that no part has
yet (SPICE's layout, at most 4 MB each), and renews the card.
"""

import argparse
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from card import write_card
from label_queue import key_of, settings_of_level
from queue_file import SET, Candidate, finished_in_parts, read_queue, rounds

from mace_mm.data.formats.spice_writer import write_spice
from mace_mm.data.labels import ConformerSet
from mace_mm.elements import atomic_number
from mace_mm.generation.work.store import Record, RecordStore
from mace_mm.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

# A frame takes less than this with its share of its group; a part stays below 4 MB.
FRAMES_A_PART = 800

Labelled = list[tuple[str, Candidate, Record]]


def new_frames(folder: Path, store: RecordStore) -> tuple[Labelled, Labelled, list[str]]:
    """Frames for training and for validation that no part has, and lines of failures."""
    finished = finished_in_parts(folder)
    found: tuple[Labelled, Labelled] = ([], [])
    failures = []
    for path in rounds(folder):
        for frame_id, candidate in read_queue(path):
            record = None if frame_id in finished else store.load(key_of(frame_id))
            if record is None:
                continue
            if record.failure is not None:
                failures.append(f"{frame_id} {candidate.smiles}: {record.failure}")
                continue
            if not np.array_equal(record.arrays["positions"], candidate.positions):
                failures.append(f"{frame_id}: its label is one of other positions")
                continue
            found[candidate.validation].append((frame_id, candidate, record))
    return found[0], found[1], failures


def groups(folder: Path, frames: Labelled) -> Iterator[ConformerSet]:
    """One group a molecule."""
    energies = {
        atomic_number(s): e * HARTREE_TO_EV
        for s, e in (settings_of_level(folder).atom_energies or {}).items()
    }
    by_name: dict[str, Labelled] = defaultdict(list)
    for entry in frames:
        by_name[entry[1].name].append(entry)
    for name, entries in sorted(by_name.items()):
        first = entries[0][1]
        total = np.concatenate([r.arrays["energy"] for *_, r in entries]) * HARTREE_TO_EV
        gradient = np.concatenate([r.arrays["gradient"] for *_, r in entries])
        dipoles = np.concatenate([r.arrays["dipole"] for *_, r in entries]).astype(np.float32)
        seconds = np.concatenate([r.arrays["seconds"] for *_, r in entries]).astype(np.float32)
        numbers = np.array([int(i.split("/")[1]) for i, *_ in entries], dtype=np.int32)
        positions = np.concatenate([c.positions for _, c, _ in entries]).astype(np.float64)
        yield ConformerSet(
            name=name,
            atomic_numbers=first.atomic_numbers,
            positions=positions * BOHR_TO_ANGSTROM,
            energies=total,
            forces=-gradient * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
            formation_energies=total - sum(energies[int(z)] for z in first.atomic_numbers),
            total_charge=float(first.charge),
            smiles=first.smiles,
            subset=first.group,
            attributes={"core_potentials": entries[0][2].facts["provenance"]["core_potentials"]},
            extra={
                "scf_dipole": (dipoles, "elementary_charge*bohr"),
                "label_seconds": (seconds, "s"),
                "frame": (numbers, ""),
            },
        )


def write_parts(folder: Path, kind: str, frames: Labelled) -> list[Path]:
    """New parts of one kind after those that are there."""
    written = []
    for start in range(0, len(frames), FRAMES_A_PART):
        some = frames[start : start + FRAMES_A_PART]
        facts = dict(some[0][2].facts["provenance"])
        facts.pop("core_potentials")
        number = 1 + len(list((folder / "parts").glob(f"{kind}-*.h5")))
        path = folder / "parts" / f"{kind}-{number:03d}.h5"
        ids = [frame_id for frame_id, *_ in some]
        write_spice(path, groups(folder, some), attributes=facts | {"license": "CC0-1.0"})
        if missing := set(ids) - finished_in_parts(folder):
            raise RuntimeError(f"{path} lacks {sorted(missing)[:3]}")
        written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=Path, default=SET, help="folder with level.yaml and queue")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--commit", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.set
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    training, validation, failures = new_frames(folder, RecordStore(arguments.records))
    paths = write_parts(folder, "training", training)
    paths += write_parts(folder, "validation", validation)
    if failures:
        (folder / "failures.txt").write_text("".join(f"{line}\n" for line in failures))
    write_card(folder)
    print(f"{len(training)} + {len(validation)} new frames, {len(failures)} failures")
    for path in paths:
        print(f"{path.relative_to(folder)}: {path.stat().st_size / 1e6:.2f} MB")
    if arguments.commit and paths:
        subprocess.run(["git", "add", str(folder)], check=True, cwd=folder)
        message = f"Fragment set: {len(training)} more frames, {len(validation)} for validation"
        subprocess.run(["git", "commit", "-qm", message, "--", str(folder)], check=True, cwd=folder)


if __name__ == "__main__":
    main()
