"""The functions that workers run: arguments in, the bytes of a record out."""

import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from mace_mm.errors import ConfigError, DependencyError, MaceMMError
from mace_mm.generation.frames.frames import HotFrames, sample_item, sample_start
from mace_mm.generation.labels.programs import label_frames
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.molecules.items import Item
from mace_mm.generation.protocol import Protocol
from mace_mm.generation.work.store import Record


def start_task(item: Item, protocol_json: str, given: np.ndarray | None, index: int) -> bytes:
    """The hot dynamics of one item from one of its starts."""
    protocol = Protocol.model_validate_json(protocol_json)

    def work() -> Record:
        hot = sample_start(item, protocol, given, index)
        return Record(arrays={"frames": hot.frames}, facts={"notes": list(hot.notes)})

    return _recorded(work)


def sample_task(
    item: Item, protocol_json: str, given: np.ndarray | None, hot: list[HotFrames | None]
) -> bytes:
    """Sample one item; what cannot be sampled becomes a record with its failure."""
    protocol = Protocol.model_validate_json(protocol_json)

    def work() -> Record:
        sampled = sample_item(item, protocol, given, hot)
        return Record(
            arrays={"atomic_numbers": sampled.atomic_numbers, "frames": sampled.frames},
            facts={
                "charge": sampled.charge,
                "origins": list(sampled.origins),
                "notes": list(sampled.notes),
            },
        )

    return _recorded(work)


def label_task(
    settings_json: str, atomic_numbers: np.ndarray, frames: np.ndarray, charge: int
) -> bytes:
    """Label the frames of one item; frames that fail are named with the reason."""
    settings = LabelSettings.model_validate_json(settings_json)

    def work() -> Record:
        labels = label_frames(settings, atomic_numbers, frames, charge)
        arrays = {"energies": labels.energies, "forces": labels.forces}
        if labels.energy_std is not None and labels.force_std is not None:
            arrays |= {"energy_std": labels.energy_std, "force_std": labels.force_std}
        if labels.dipoles is not None:
            arrays["dipoles"] = labels.dipoles
        if labels.seconds is not None:
            arrays["seconds"] = labels.seconds
        return Record(
            arrays=arrays,
            facts={
                "failures": {str(frame): reason for frame, reason in labels.failures.items()},
                "atom_energies": {str(z): e for z, e in labels.atom_energies.items()},
                "provenance": labels.provenance,
            },
        )

    return _recorded(work)


def _recorded(work: Callable[[], Record]) -> bytes:
    """Run on one thread, so that sums have one order and workers do not fight for the cores.

    A reason that belongs to the item is recorded, and kept. One that no one foresaw is recorded as
    such, and not kept. A missing package or a wrong setting ends the run.
    """
    started = time.process_time()
    try:
        with threadpool_limits(limits=1):
            record = work()
    except (ConfigError, DependencyError):
        raise
    except MaceMMError as error:
        record = Record(facts={"failure": str(error)})
    except (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError) as error:
        record = Record(
            facts={"failure": f"unforeseen {type(error).__name__}: {error}", "transient": True}
        )
    record.facts["core_seconds"] = time.process_time() - started
    return record.encode()
