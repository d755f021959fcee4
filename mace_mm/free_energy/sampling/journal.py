"""The journal of a sampling run: energies by iteration, and where to go on after a crash.

netCDF and HDF5 files that are open when a process is killed may be lost whole. Here every
iteration appends one record of fixed size to a flat file and then replaces the restart file
atomically: a kill at any moment costs at most the iteration that was running. What observers saw is
kept in the same way, see :mod:`mace_mm.free_energy.sampling.observers`.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mace_mm.errors import ConfigError, DataError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.sampling.observers import ObservationFile, Observations, Observer, measured
from mace_mm.free_energy.sampling.restart import Restart, load_restart

FORMAT_VERSION = 1
_HEADER_NAME = "journal.json"
_RECORDS_NAME = "energies.bin"
_RESTART_NAME = "restart.npz"


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
    """One folder; see the module's text. Only one process may write to it.

    ``observers`` look at every iteration that is appended; reading needs none.
    """

    def __init__(
        self, folder: Path, n_replicas: int, n_states: int, observers: Sequence[Observer] = ()
    ) -> None:
        self.folder = folder
        self.n_replicas = n_replicas
        self.n_states = n_states
        self._record = n_replicas * (n_states + 1)
        self._limit: int | None = None
        names = [observer.name for observer in observers]
        if len(set(names)) != len(names):
            raise ConfigError(f"observers must have names of their own, got {names}")
        self._observers = [(observer, self._file(observer.name)) for observer in observers]

    def prepare(self, identity: dict[str, Any]) -> Restart | None:
        """Begin a run or find where the one in the folder stopped.

        What was written of an iteration that was cut off is dropped. Observers check the last
        complete iteration again.

        Raises:
            ConfigError: the folder holds a run of something else.
            DataError: its files are damaged.
            MaceMMError: an observer ended the run before and ends it again.
        """
        header = {"format": FORMAT_VERSION, "n_replicas": self.n_replicas} | identity
        path = self.folder / _HEADER_NAME
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _RECORDS_NAME).write_bytes(b"")
            self._prepare_observers(0)
            write_atomically(path, json.dumps(header).encode())
            return None
        _compare(path, header)
        restart = self.restart()
        done = 0 if restart is None else restart.iteration
        self._cut_back(done)
        self._prepare_observers(done)
        return restart

    def append(self, restart: Restart, reduced: np.ndarray) -> None:
        """Add the iteration that ``restart`` ends; ``reduced`` is (n_replicas, n_states).

        Raises:
            MaceMMError: an observer ends the run; the iteration is stored.
        """
        seen = [measured(observer, restart, reduced) for observer, _ in self._observers]
        for (_, file), values in zip(self._observers, seen, strict=True):
            file.append(values)
        record = np.concatenate([restart.states.astype(np.float64), reduced.reshape(-1)])
        with open(self.folder / _RECORDS_NAME, "ab") as energies:
            energies.write(record.astype("<f8").tobytes())
            energies.flush()
            os.fsync(energies.fileno())
        # Replaced last: it says how far the other files count.
        restart.save(self.folder / _RESTART_NAME)
        for (observer, _), values in zip(self._observers, seen, strict=True):
            observer.check(restart.iteration, values)

    def restart(self) -> Restart | None:
        """The last complete iteration, None before the first.

        Raises:
            DataError: the restart file is damaged.
        """
        return load_restart(self.folder / _RESTART_NAME)

    def upto(self, iteration: int) -> "Journal":
        """The same journal, of which only the first iterations are read."""
        part = Journal(self.folder, self.n_replicas, self.n_states)
        part._limit = iteration
        return part

    def n_iterations(self) -> int:
        """Complete iterations in the records file."""
        path = self.folder / _RECORDS_NAME
        held = path.stat().st_size // (8 * self._record) if path.exists() else 0
        return held if self._limit is None else min(held, self._limit)

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

    def observations(self, name: str) -> Observations | None:
        """What the observer of that name saw, None if the run was not followed by it.

        Raises:
            DataError: its files are damaged.
        """
        return self._file(name).read(self.n_iterations())

    def _file(self, name: str) -> ObservationFile:
        return ObservationFile(self.folder, name, self.n_replicas)

    def _prepare_observers(self, done: int) -> None:
        for observer, file in self._observers:
            file.prepare(observer.columns, done)
            if not done:
                continue
            observations = file.read(done)
            last = None if observations is None else observations.values[-1]
            if last is not None and np.isfinite(last).any():
                observer.check(done, last)

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
