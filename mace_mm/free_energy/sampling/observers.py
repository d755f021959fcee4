"""Observers: what looks at the molecule at every iteration of a free-energy run.

Energies say nothing about geometry. An observer is shown the configuration of all replicas after
every iteration of windows (with exchange or without, in this process, on Dask workers or under
MPI) and of the equilibrium sampling of switching. What it measures is kept in the run's journal
beside the energies, under the same promise: a run that was killed continues with the records of
complete iterations and no others.

To add one:

1. Write a class with the members of :class:`Observer`. It travels to workers by pickle, so make it
   a frozen dataclass of plain values and arrays; open models in ``measure``, not before.
2. Return it from :func:`mace_mm.free_energy.sampling.follow.observers_of`, which every leg calls.
3. Read it back with ``journal.observations(name)``: None says that the run was not followed (a
   journal of an older version), NaN that an iteration was not (the run began without it).

``measure`` runs before an iteration is stored and must not raise on a bad geometry: return what was
seen. ``check`` runs once the iteration is on disk; it may raise to end the run, and what was
computed stays. A continued run checks its last stored iteration again before it samples.
"""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mace_mm.errors import ConfigError, DataError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.sampling.restart import Restart

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """What every observer has."""

    @property
    def name(self) -> str:
        """Of its files in the journal's folder."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numbers that it measures of each replica."""

    def measure(self, restart: Restart, reduced: np.ndarray) -> np.ndarray:
        """Look at all replicas after an iteration.

        Args:
            restart: iteration, states (n_replicas,), positions (n_replicas, n_atoms, 3) nm,
                velocities nm/ps, boxes (n_replicas, 3, 3) nm or None.
            reduced: (n_replicas, n_states) reduced potentials, kT; of a switch, its work.

        Returns:
            (n_replicas, n_columns) float64.
        """

    def check(self, iteration: int, values: np.ndarray) -> None:
        """Judge what was measured, when the iteration is stored.

        Raises:
            MaceMMError: the run must end here.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Observations:
    """What an observer measured during a run.

    Attributes:
        columns: (n_columns,) names.
        values: (n_iterations, n_replicas, n_columns), NaN where an iteration was not observed.
    """

    columns: tuple[str, ...]
    values: np.ndarray


class ObservationFile:
    """The records of one observer: a flat file of float64 and its header."""

    def __init__(self, folder: Path, name: str, n_replicas: int) -> None:
        self._header = folder / f"observed_{name}.json"
        self._records = folder / f"observed_{name}.bin"
        self._n_replicas = n_replicas

    def prepare(self, columns: tuple[str, ...], iteration: int) -> None:
        """Begin, or go on after ``iteration``; iterations that were not observed become NaN.

        Raises:
            ConfigError: the file holds other columns.
            DataError: its header is damaged.
        """
        size = 8 * iteration * self._n_replicas * len(columns)
        if not self._header.exists():
            if iteration:
                logger.warning(
                    "%s: the first %d iterations were not observed",
                    self._records.with_suffix(""),
                    iteration,
                )
            self._records.write_bytes(b"")
            self._fill(size)
            write_atomically(self._header, json.dumps({"columns": columns}).encode())
            return
        found = self._columns()
        if found != columns:
            raise ConfigError(
                f"{self._records} holds {len(found)} numbers of each replica ({_brief(found)}), "
                f"now {len(columns)} are observed ({_brief(columns)}): delete it to begin anew "
                "from here, or choose another folder"
            )
        held = self._records.stat().st_size if self._records.exists() else 0
        if held < size:
            logger.warning("%s: some iterations were not observed", self._records)
            self._fill(size)
        with open(self._records, "r+b") as file:
            file.truncate(size)

    def append(self, values: np.ndarray) -> None:
        """Add one iteration, (n_replicas, n_columns)."""
        with open(self._records, "ab") as file:
            file.write(values.astype("<f8").tobytes())
            file.flush()
            os.fsync(file.fileno())

    def read(self, n_iterations: int) -> Observations | None:
        """The first iterations, None if nothing was ever observed.

        Raises:
            DataError: the header is damaged.
        """
        if not self._header.exists():
            return None
        columns = self._columns()
        values = np.full((n_iterations, self._n_replicas, len(columns)), np.nan)
        found = np.fromfile(self._records, dtype="<f8") if self._records.exists() else np.zeros(0)
        record = self._n_replicas * len(columns)
        n_found = min(n_iterations, len(found) // record) if record else 0
        values[:n_found] = found[: n_found * record].reshape(n_found, *values.shape[1:])
        return Observations(columns=columns, values=values)

    def _columns(self) -> tuple[str, ...]:
        try:
            return tuple(json.loads(self._header.read_text(encoding="utf-8"))["columns"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._header} is damaged: {error}") from error

    def _fill(self, size: int) -> None:
        with open(self._records, "r+b") as file:
            held = file.seek(0, os.SEEK_END) // 8 * 8
            file.seek(held)
            file.write(np.full((size - held) // 8, np.nan, dtype="<f8").tobytes())


def measured(observer: Observer, restart: Restart, reduced: np.ndarray) -> np.ndarray:
    """What an observer sees, in the shape that its file wants.

    Raises:
        DataError: it measured something of another shape.
    """
    values = np.asarray(observer.measure(restart, reduced), dtype=np.float64)
    wanted = (len(restart.states), len(observer.columns))
    if values.shape != wanted:
        raise DataError(
            f"observer {observer.name} must measure {wanted[1]} numbers of each of {wanted[0]} "
            f"replicas, got shape {values.shape}"
        )
    return values


def _brief(columns: tuple[str, ...]) -> str:
    return ", ".join(columns[:4]) + (", …" if len(columns) > 4 else "")
