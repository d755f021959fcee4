"""Extended XYZ files of any size, read frame by frame, with labels under configurable keys."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mace_mm.data.formats.extxyz_format import ExtxyzKeys, format_frame, parse_frame
from mace_mm.data.labels import LabeledMolecule, MoleculeTable
from mace_mm.errors import DataError, MaceMMError

_LOG = logging.getLogger(__name__)


class ExtxyzFile:
    """Frames of one extxyz file, read on demand; only their places in the file are kept.

    Args:
        path: the file.
        keys: where the labels are.
        strict: raise on a damaged frame; otherwise leave it out and list it in `problems`.

    Attributes:
        entries: the molecules.
        entry_of_frame: (n_frames,) int64, position in `entries` of each frame.
        problems: one line for each frame left out as damaged.

    Raises:
        DataError: the file is missing or (strict) a frame is truncated, damaged or without the
            labels asked for.
    """

    def __init__(
        self, path: str | Path, keys: ExtxyzKeys | None = None, *, strict: bool = True
    ) -> None:
        self.path = Path(path)
        self.keys = keys or ExtxyzKeys()
        self.problems: list[str] = []
        self._offsets: list[int] = []
        self._scan(strict)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> LabeledMolecule:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)} in {self.path}")
        with open(self.path, "rb") as file:
            file.seek(self._offsets[index])
            block = _read_block(file)
        if block is None:
            raise DataError(f"{self.path}: frame {index} is gone; the file was changed")
        try:
            return parse_frame(block, self.keys)
        except MaceMMError as error:
            raise DataError(f"{self.path}: frame {index}: {error}") from None

    def _scan(self, strict: bool) -> None:
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file")
        table = MoleculeTable()
        molecule: list[int] = []
        with open(self.path, "rb") as file:
            number = 0
            while True:
                offset = file.tell()
                try:
                    block = _read_block(file)
                    if block is None:
                        break
                    frame = parse_frame(block, self.keys)
                except (MaceMMError, UnicodeDecodeError) as error:
                    line = f"{self.path}: frame {number}: {error}"
                    if strict:
                        raise DataError(line) from None
                    self.problems.append(line)
                    number += 1
                    if isinstance(error, _LostPlaceError):
                        break
                    continue
                molecule.append(table.add(frame))
                self._offsets.append(offset)
                number += 1
        self.entries = table.entries
        self.entry_of_frame = np.array(molecule, dtype=np.int64)
        if self.problems:
            _LOG.warning("left out %d damaged frames: %s ...", len(self.problems), self.problems[0])


def write_extxyz(
    path: str | Path, frames: Iterable[LabeledMolecule], keys: ExtxyzKeys | None = None
) -> int:
    """Write frames to a file that appears only when it is complete.

    Args:
        path: the file; replaced if it exists.
        frames: any number of frames; labels a frame does not have are not written.
        keys: names to write under.

    Returns:
        the number of frames written.
    """
    path, keys = Path(path), keys or ExtxyzKeys()
    partial = path.with_name(path.name + ".partial")
    n = 0
    with open(partial, "w", encoding="utf-8") as file:
        for frame in frames:
            file.write(format_frame(frame, keys))
            n += 1
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return n


class _LostPlaceError(DataError):
    """The end of a damaged frame cannot be found, so neither can the frames after it."""


def _read_block(file: BinaryIO) -> list[str] | None:
    """Lines of the next frame without the count; None at the end of the file."""
    line = file.readline()
    while line and not line.strip():
        line = file.readline()
    if not line:
        return None
    try:
        n_atoms = int(line)
    except ValueError:
        raise _LostPlaceError(
            f"expected a line with the number of atoms, got {line[:60]!r}"
        ) from None
    lines = [file.readline().decode("utf-8") for _ in range(n_atoms + 1)]
    if not lines[-1]:
        got = sum(bool(text) for text in lines) - 1
        raise _LostPlaceError(f"the file ends after {max(got, 0)} of {n_atoms} atoms")
    # A number cut short would still parse, so a last line without its end must at least be long.
    shortest = min((len(line.rstrip("\n")) for line in lines[1:-1]), default=0)
    if not lines[-1].endswith("\n") and len(lines[-1]) < shortest:
        raise _LostPlaceError(f"the file ends within the line of atom {n_atoms}")
    return lines
