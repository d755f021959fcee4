"""The files of a run: trajectory and log that can be cut back to a checkpoint and continued."""

import csv
import io
import os
import struct
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType

import numpy as np
from openmm import app, unit

from mace_mm.errors import DataError
from mace_mm.units import ANGSTROM_TO_NM

# CHARMM's DCD: three header records of 84, 164 and 4 bytes, each between two 4-byte lengths.
_DCD_HEADER_BYTES = 276
_DCD_FRAME_COUNT_OFFSET = 8
_DCD_BOX_FLAG_OFFSET = 48
_DCD_BOX_BYTES = 56


@dataclass(frozen=True, kw_only=True)
class LogRow:
    """One line of the log.

    Attributes:
        step: number of integration steps.
        time_ps: simulated time.
        potential_energy_kj_mol, kinetic_energy_kj_mol: energies of the whole system.
        temperature_k: instantaneous temperature.
        elapsed_s: wall time spent in dynamics, over all parts of a resumed run.
    """

    step: int
    time_ps: float
    potential_energy_kj_mol: float
    kinetic_energy_kj_mol: float
    temperature_k: float
    elapsed_s: float


LOG_COLUMNS = tuple(field.name for field in fields(LogRow))


class RunFiles:
    """The open log (CSV) and trajectory (DCD) of a run."""

    def __init__(
        self,
        log_path: Path,
        trajectory_path: Path,
        topology: app.Topology,
        frame_time_ps: float,
        sizes: tuple[int, int] | None = None,
    ) -> None:
        """Start new files, or cut the existing ones back to ``sizes`` in bytes and continue.

        Raises:
            DataError: a file to be continued is missing or shorter than it was.
        """
        if sizes is not None:
            for path, size in zip((log_path, trajectory_path), sizes, strict=True):
                _cut_back(path, size)
            _write_frame_count(trajectory_path, topology.getNumAtoms())
        mode = "w" if sizes is None else "a"
        self._log = log_path.open(mode, newline="", encoding="utf-8")
        self._writer = csv.writer(self._log)
        if sizes is None:
            self._writer.writerow(LOG_COLUMNS)
        self._frames = trajectory_path.open("w+b" if sizes is None else "r+b")
        self._dcd = app.DCDFile(
            self._frames, topology, frame_time_ps * unit.picosecond, append=sizes is not None
        )

    def write_row(self, row: LogRow) -> None:
        self._writer.writerow(
            [value if isinstance(value, int) else f"{value:.6f}" for value in astuple(row)]
        )

    def write_frame(self, positions_nm: np.ndarray, box_nm: np.ndarray | None) -> None:
        vectors = None if box_nm is None else box_nm * unit.nanometer
        self._dcd.writeModel(positions_nm, periodicBoxVectors=vectors)

    def sync(self) -> tuple[int, int]:
        """Put everything on disk and return the sizes of log and trajectory in bytes."""
        sizes = []
        for file in (self._log, self._frames):
            file.flush()
            os.fsync(file.fileno())
            sizes.append(os.fstat(file.fileno()).st_size)
        return sizes[0], sizes[1]

    def __enter__(self) -> "RunFiles":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.close()
        self._frames.close()


def _cut_back(path: Path, size: int) -> None:
    if not path.is_file():
        raise DataError(f"cannot continue the run: {path} is missing")
    got = path.stat().st_size
    if got < size:
        raise DataError(f"cannot continue the run: {path} had {size} bytes, now {got}")
    os.truncate(path, size)


def _frame_bytes(n_atoms: int, has_box: bool) -> int:
    return 3 * (4 * n_atoms + 8) + (_DCD_BOX_BYTES if has_box else 0)


def _write_frame_count(path: Path, n_atoms: int) -> None:
    """Make the header of a trajectory that was cut back agree with its length."""
    with path.open("r+b") as file:
        header = file.read(_DCD_HEADER_BYTES)
        has_box = struct.unpack_from("<i", header, _DCD_BOX_FLAG_OFFSET)[0] == 1
        size = file.seek(0, io.SEEK_END)
        n_frames = (size - _DCD_HEADER_BYTES) // _frame_bytes(n_atoms, has_box)
        file.seek(_DCD_FRAME_COUNT_OFFSET)
        file.write(struct.pack("<i", n_frames))


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Read a log: one array of shape (n_rows,) for each column.

    Raises:
        DataError: the file is missing or has other columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError as error:
        raise DataError(f"no log file {path}") from error
    if not rows or tuple(rows[0]) != LOG_COLUMNS:
        raise DataError(f"{path} must have the columns {','.join(LOG_COLUMNS)}, got {rows[:1]}")
    table = np.array(rows[1:], dtype=np.float64).reshape(-1, len(LOG_COLUMNS))
    return {name: table[:, i] for i, name in enumerate(LOG_COLUMNS)}


def read_frames(path: Path) -> np.ndarray:
    """Read the positions of a DCD trajectory written here: (n_frames, n_atoms, 3) in nm.

    Raises:
        DataError: the file is missing or is not such a trajectory.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"no trajectory {path}") from error
    if len(content) < _DCD_HEADER_BYTES or content[4:8] != b"CORD":
        raise DataError(f"{path} is not a DCD trajectory")
    n_frames = struct.unpack_from("<i", content, _DCD_FRAME_COUNT_OFFSET)[0]
    n_atoms = struct.unpack_from("<i", content, _DCD_HEADER_BYTES - 8)[0]
    box = _DCD_BOX_BYTES if struct.unpack_from("<i", content, _DCD_BOX_FLAG_OFFSET)[0] else 0
    frame = np.dtype(
        [("box", f"V{box}"), ("axes", [("begin", "<i4"), ("x", "<f4", n_atoms), ("end", "<i4")], 3)]
    )
    wanted = _DCD_HEADER_BYTES + n_frames * frame.itemsize
    if len(content) < wanted:
        raise DataError(f"{path} has {len(content)} bytes, {n_frames} frames need {wanted}")
    frames = np.frombuffer(content, frame, count=n_frames, offset=_DCD_HEADER_BYTES)
    return frames["axes"]["x"].transpose(0, 2, 1).astype(np.float64) * ANGSTROM_TO_NM
