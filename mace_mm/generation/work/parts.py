"""Long work on an item in parts, each stored as it ends: all workers share it, a kill costs a part.

Hot dynamics are split by their starts where a step takes milliseconds, labels by frames. A short
item has one part, itself. Every part is made from scratch: it depends on no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mace_mm.errors import DataError
from mace_mm.generation.molecules.items import Item
from mace_mm.generation.protocol import Protocol
from mace_mm.generation.work.store import Record

# DFT takes minutes a frame, tblite and ANI milliseconds, an ASE calculator anything between.
FRAMES_PER_TASK = {"pyscf": 1, "qcengine": 1, "ase": 10, "tblite": 100, "ani": 100}
SLOW_FORCES = ("tblite", "ase")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Frames ``start`` to ``stop`` of an item, with the key of their labels."""

    key: str
    start: int
    stop: int


def label_parts(key: str, n_frames: int, kind: str) -> list[Part]:
    """The parts in which frames are labelled by a program of a kind.

    Args:
        key: of the labels of all frames.
    """
    size = FRAMES_PER_TASK[kind]
    if n_frames <= size:
        return [Part(key=key, start=0, stop=n_frames)]
    bounds = [(start, min(start + size, n_frames)) for start in range(0, n_frames, size)]
    return [Part(key=f"{key}-{start}-{stop}", start=start, stop=stop) for start, stop in bounds]


def start_keys(key: str, item: Item, protocol: Protocol) -> list[str]:
    """Keys of the hot dynamics from each start, [] for an item that is sampled as a whole.

    There may be fewer starts than keys, where RDKit finds fewer conformers.

    Args:
        key: of the item's frames.
    """
    if not has_slow_dynamics(item, protocol):
        return []
    n_starts = protocol.conformers.count if item.conformers is None else item.n_frames
    return [f"{key}-start-{i}" for i in range(n_starts)]


def has_slow_dynamics(item: Item, protocol: Protocol) -> bool:
    """Whether every start has a calculator and a record of its own."""
    return item.kind == "molecule" and protocol.sampling.force.kind in SLOW_FORCES


def join_labels(parts: Sequence[Part], records: Sequence[Record]) -> Record:
    """The labels of all frames from those of the parts, in order.

    Raises:
        DataError: the parts were labelled by different versions of a program.
    """
    programs = {record.facts["provenance"]["programs"] for record in records}
    if len(programs) > 1:
        raise DataError(
            f"its frames were labelled by different versions ({'; '.join(sorted(programs))}); "
            "delete work/labels to label them again"
        )
    arrays = {
        name: np.concatenate([record.arrays[name] for record in records])
        for name in ("energies", "forces")
    }
    for name in ("energy_std", "force_std", "dipoles", "seconds"):
        found = [record.arrays[name] for record in records if name in record.arrays]
        if found:
            arrays[name] = np.concatenate(
                [
                    r.arrays.get(
                        name, np.full((len(r.arrays["energies"]), *found[0].shape[1:]), np.nan)
                    )
                    for r in records
                ]
            )
    failures = {
        str(part.start + int(frame)): reason
        for part, record in zip(parts, records, strict=True)
        for frame, reason in record.facts["failures"].items()
    }
    seconds = sum(record.facts["core_seconds"] for record in records)
    facts = {**records[0].facts, "failures": failures, "core_seconds": seconds}
    return Record(arrays=arrays, facts=facts)
