"""Records on disk, one file each, that survive a kill at any moment.

A record appears whole under its name or not at all; its name (key) is a hash of everything that
decided its content, so a record found is a record that need not be made again.
"""

import io
import json
import logging
import os
import uuid
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mace_mm.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """Arrays by name, and facts that fit JSON; a failed task has a ``failure`` among the facts."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def failure(self) -> str | None:
        """Why there are no arrays, or None."""
        return self.facts.get("failure")

    def encode(self) -> bytes:
        """The record as the bytes of an .npz file."""
        buffer = io.BytesIO()
        facts = np.frombuffer(json.dumps(self.facts).encode(), dtype=np.uint8)
        content: dict[str, Any] = {**self.arrays, "_facts": facts}
        np.savez(buffer, **content)
        return buffer.getvalue()


def decode_record(content: bytes) -> Record:
    """Read what `Record.encode` wrote.

    Raises:
        DataError: truncated or damaged (every array has a checksum).
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(arrays.pop("_facts").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"a damaged record: {error}") from error
    return Record(arrays=arrays, facts=facts)


class RecordStore:
    """Records in a folder.

    Args:
        folder: made if it does not exist.

    Attributes:
        damaged: one line for each record that could not be read and will be made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def path_of(self, key: str) -> Path:
        """Where the record of a key is kept."""
        return self.folder / key[:2] / f"{key}.npz"

    def load(self, key: str) -> Record | None:
        """The record, or None where there is none that can be read."""
        path = self.path_of(key)
        try:
            return decode_record(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, DataError) as error:
            line = f"{path}: {error}; it is made again"
            logger.warning("%s", line)
            self.damaged.append(line)
            return None

    def save(self, key: str, content: bytes) -> None:
        """Store encoded bytes; returns after they are on the disk.

        Raises:
            DataError: the disk is full or the folder cannot be written; nothing half-written stays.
        """
        path = self.path_of(key)
        partial = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
        try:
            path.parent.mkdir(exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"a record could not be stored: {error.strerror}") from error

    def remove(self, keys: Iterable[str]) -> None:
        """Delete those records that are there."""
        for key in keys:
            self.path_of(key).unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Delete what a killed writer left; only while no other writer is at work."""
        for path in self.folder.glob("*/*.partial"):
            path.unlink()
