"""The journal of a sampling run: energies by iteration, and where to go on after a crash.

netCDF and HDF5 files that are open when a process is killed may be lost whole. Here every
iteration appends one record of fixed size to a flat file and then replaces the restart file
atomically: a kill at any moment costs at most the iteration that was running.
"""

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mace_mm.deploy.atomic_write import write_atomically
from mace_mm.errors import ConfigError, DataError

FORMAT_VERSION = 1
_HEADER_NAME = "journal.json"
_RECORDS_NAME = "energies.bin"
_RESTART_NAME = "restart.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class Restart:
    """The configuration after the last complete iteration.

    Attributes:
        iteration: complete iterations.
        states: (n_replicas,) state of each replica.
        positions_nm, velocities_nm_ps: (n_replicas, n_atoms, 3).
        boxes_nm: (n_replicas, 3, 3), None for systems without periodic boundaries.
    """

    iteration: int
    states: np.ndarray
    positions_nm: np.ndarray
    velocities_nm_ps: np.ndarray
    boxes_nm: np.ndarray | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """Energies of a run.

    Attributes:
        states: (n_iterations, n_replicas) state in which each replica was sampled.
        reduced: (n_iterations, n_replicas, n_states) its reduced potential in every state, kT.
    """

    states: np.ndarray
    reduced: np.ndarray


class Journal:
    """One folder; see the module's text. Only one process may write to it."""

    def __init__(self, folder: Path, n_replicas: int, n_states: int) -> None:
        self.folder = folder
        self.n_replicas = n_replicas
        self.n_states = n_states
        self._record = n_replicas * (n_states + 1)

    def prepare(self, identity: dict[str, Any]) -> Restart | None:
        """Begin a run or find where the one in the folder stopped.

        Energies of an iteration that was cut off are dropped.

        Raises:
            ConfigError: the folder holds a run of something else.
            DataError: its files are damaged.
        """
        header = {"format": FORMAT_VERSION, "n_replicas": self.n_replicas} | identity
        path = self.folder / _HEADER_NAME
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _RECORDS_NAME).write_bytes(b"")
            write_atomically(path, json.dumps(header).encode())
            return None
        _compare(path, header)
        restart = self.restart()
        self._cut_back(0 if restart is None else restart.iteration)
        return restart

    def append(self, restart: Restart, reduced: np.ndarray) -> None:
        """Add the iteration that ``restart`` ends; ``reduced`` is (n_replicas, n_states)."""
        record = np.concatenate([restart.states.astype(np.float64), reduced.reshape(-1)])
        with open(self.folder / _RECORDS_NAME, "ab") as file:
            file.write(record.astype("<f8").tobytes())
            file.flush()
            os.fsync(file.fileno())
        self.save_restart(restart)

    def save_restart(self, restart: Restart) -> None:
        """Replace the restart file."""
        arrays: dict[str, Any] = {
            "iteration": np.array(restart.iteration),
            "states": restart.states,
            "positions_nm": restart.positions_nm,
            "velocities_nm_ps": restart.velocities_nm_ps,
        }
        if restart.boxes_nm is not None:
            arrays["boxes_nm"] = restart.boxes_nm
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(self.folder / _RESTART_NAME, buffer.getvalue())

    def restart(self) -> Restart | None:
        """The last complete iteration, None before the first.

        Raises:
            DataError: the restart file is damaged.
        """
        path = self.folder / _RESTART_NAME
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return Restart(
                    iteration=int(arrays["iteration"]),
                    states=arrays["states"],
                    positions_nm=arrays["positions_nm"],
                    velocities_nm_ps=arrays["velocities_nm_ps"],
                    boxes_nm=arrays.get("boxes_nm"),
                )
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a restart file: {error}") from error

    def n_iterations(self) -> int:
        """Complete iterations in the records file."""
        path = self.folder / _RECORDS_NAME
        return path.stat().st_size // (8 * self._record) if path.exists() else 0

    def read(self) -> Records:
        """All complete iterations.

        Raises:
            DataError: there are none.
        """
        path = self.folder / _RECORDS_NAME
        if self.n_iterations() == 0:
            raise DataError(f"{self.folder} holds no sampled iteration")
        values = np.fromfile(path, dtype="<f8")
        values = values[: self.n_iterations() * self._record].reshape(-1, self._record)
        states = values[:, : self.n_replicas].astype(np.int64)
        reduced = values[:, self.n_replicas :].reshape(-1, self.n_replicas, self.n_states)
        return Records(states=states, reduced=reduced)

    def _cut_back(self, iteration: int) -> None:
        path = self.folder / _RECORDS_NAME
        wanted = iteration * self._record * 8
        found = path.stat().st_size if path.exists() else 0
        if found < wanted:
            raise DataError(
                f"{path} should hold {iteration} iterations ({wanted} bytes), got {found} bytes"
            )
        with open(path, "r+b") as file:
            file.truncate(wanted)


def _compare(path: Path, header: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged: it holds no record of a run")
    # JSON turns tuples into lists: compare what a file would hold.
    header = json.loads(json.dumps(header))
    for name in sorted(set(found) | set(header)):
        if found.get(name) != header.get(name):
            raise ConfigError(
                f"{path.parent} holds a run with {name} {found.get(name)}, now "
                f"{header.get(name)} was given: continue it unchanged or choose another folder"
            )
