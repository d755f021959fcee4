"""Sampled energies, sorted by the state in which they were sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pymbar import timeseries

from mace_mm.errors import DataError
from mace_mm.free_energy.analysis.correlation import Paths, inefficiency, variance_of_sum
from mace_mm.free_energy.legs.schedule import Schedule
from mace_mm.free_energy.sampling.journal import Journal


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Reduced potentials of samples from every state of a schedule.

    Attributes:
        schedule: the states.
        temperature_k: kelvin.
        reduced: (n_states,) arrays (n_samples_k, n_states): samples of state k in the order of
            time, in every state, kT.
        replicas, times: (n_states,) arrays (n_samples_k,): the trajectory that each sample
            belongs to, and its iteration. Without them each state is one trajectory; samples of
            an exchange run need them, for their errors.
    """

    schedule: Schedule
    temperature_k: float
    reduced: tuple[np.ndarray, ...]
    replicas: tuple[np.ndarray, ...] | None = None
    times: tuple[np.ndarray, ...] | None = None

    def __post_init__(self) -> None:
        for name, blocks in (("replicas", self.replicas), ("times", self.times)):
            lengths = None if blocks is None else tuple(len(block) for block in blocks)
            if lengths is not None and lengths != self.counts:
                raise DataError(
                    f"{name} must be one number for every sample of every state, "
                    f"{self.counts} of them, got {lengths}"
                )

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(block) for block in self.reduced)

    @cached_property
    def paths(self) -> Paths:
        """State, trajectory and time of all samples, state by state."""
        states = np.repeat(np.arange(len(self.counts)), self.counts)
        replicas = states if self.replicas is None else np.concatenate(self.replicas)
        times = [np.arange(count) for count in self.counts] if self.times is None else self.times
        return Paths(states=states, replicas=replicas, times=np.concatenate(times))

    def select(self, rows: Sequence[np.ndarray | slice]) -> "Samples":
        """Some of the samples of every state."""

        def pick(blocks: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
            return tuple(block[chosen] for block, chosen in zip(blocks, rows, strict=True))

        paths = self.paths
        ends = np.cumsum(self.counts)[:-1]
        return Samples(
            schedule=self.schedule,
            temperature_k=self.temperature_k,
            reduced=pick(self.reduced),
            replicas=pick(tuple(np.split(paths.replicas, ends))),
            times=pick(tuple(np.split(paths.times, ends))),
        )

    def frame(self) -> pd.DataFrame:
        """alchemlyb's ``u_nk``: one row a sample, indexed by time and λ, one column a state."""
        lambdas = self.schedule.coordinates
        index = [
            (float(time), lambdas[state])
            for state, block in enumerate(self.reduced)
            for time in range(len(block))
        ]
        frame = pd.DataFrame(
            np.concatenate(self.reduced),
            columns=list(lambdas),
            index=pd.MultiIndex.from_tuples(index, names=["time", "fep-lambda"]),
        )
        frame.attrs = {"temperature": self.temperature_k, "energy_unit": "kT"}
        return frame

    def derivative(self, state: int) -> np.ndarray:
        """(n_samples,) dU/dλ in kT, exact where the energy is linear in λ."""
        if not self.schedule.linear:
            raise DataError("the derivative is known only where the energy is linear in λ")
        return self.reduced[state][:, -1] - self.reduced[state][:, 0]

    def derivative_frame(self) -> pd.DataFrame:
        """alchemlyb's ``dHdl``: one row a sample, one column."""
        lambdas = self.schedule.coordinates
        index = [
            (float(time), lambdas[state])
            for state, block in enumerate(self.reduced)
            for time in range(len(block))
        ]
        values = np.concatenate([self.derivative(state) for state in range(len(lambdas))])
        frame = pd.DataFrame(
            {"fep": values},
            index=pd.MultiIndex.from_tuples(index, names=["time", "fep-lambda"]),
        )
        frame.attrs = {"temperature": self.temperature_k, "energy_unit": "kT"}
        return frame

    def write(self, folder: Path) -> None:
        """Write what ``alchemlyb.parsing.parquet`` reads: u_nk, and dHdl where it is known."""
        frame = self.frame()
        frame.columns = [str(name) for name in frame.columns]
        frame.to_parquet(folder / "u_nk.parquet", index=True)
        if self.schedule.linear:
            self.derivative_frame().to_parquet(folder / "dHdl.parquet", index=True)

    def part(self, begin: float, end: float) -> "Samples":
        """The samples between two fractions of the run's time."""
        return self.select(
            [slice(int(round(begin * count)), int(round(end * count))) for count in self.counts]
        )

    def after(self, time: int) -> "Samples":
        """The samples from an iteration on."""
        ends = np.cumsum(self.counts)[:-1]
        return self.select([times >= time for times in np.split(self.paths.times, ends)])


def collect(
    schedule: Schedule, temperature_k: float, journals: Sequence[Journal], discard: int
) -> Samples:
    """Samples of one leg from the journals of its windows.

    Args:
        schedule: the leg's states.
        temperature_k: kelvin.
        journals: one journal of all replicas, or one of each window.
        discard: iterations of equilibration that are left out.

    Raises:
        DataError: a state without samples.
    """
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("states", "replicas", "times", "reduced")
    }
    n_replicas = 0
    for journal in journals:
        records = journal.read()
        visited = records.states[discard:]
        times, replicas = np.indices(visited.shape)
        columns["states"].append(visited.reshape(-1))
        columns["replicas"].append(replicas.reshape(-1) + n_replicas)
        columns["times"].append(times.reshape(-1))
        columns["reduced"].append(records.reduced[discard:].reshape(-1, schedule.n_states))
        n_replicas += visited.shape[1]
    pooled = {name: np.concatenate(parts) for name, parts in columns.items()}
    rows = [np.flatnonzero(pooled["states"] == state) for state in range(schedule.n_states)]
    empty = [schedule.coordinates[state] for state, row in enumerate(rows) if not len(row)]
    if empty:
        raise DataError(
            f"no samples after {discard} iterations of equilibration at λ = {empty}: "
            "the run is not complete"
        )
    return Samples(
        schedule=schedule,
        temperature_k=temperature_k,
        reduced=tuple(pooled["reduced"][row] for row in rows),
        replicas=tuple(pooled["replicas"][row] for row in rows),
        times=tuple(pooled["times"][row] for row in rows),
    )


def decorrelate(samples: Samples) -> tuple[Samples, np.ndarray]:
    """Keep independent samples only, for programs that take every sample for independent.

    Returns:
        The thinned samples, and (n_states,) the statistical inefficiencies.
    """
    factors = window_inefficiencies(samples)
    rows = [
        np.array(timeseries.subsample_correlated_data(np.arange(count), g=factor), dtype=np.int64)
        for count, factor in zip(samples.counts, factors, strict=True)
    ]
    return samples.select(rows), factors


def window_inefficiencies(samples: Samples) -> np.ndarray:
    """(n_states,) statistical inefficiency of each window.

    The series judged is the change of energy to the neighboring state: inside the window, and
    followed along replicas through all windows, in units of its spread in each. The larger counts.
    """
    series = [
        values / spread if (spread := values.std()) > 0.0 else values
        for values in neighbor_changes(samples)
    ]
    followed = variance_of_sum(np.concatenate(series), samples.paths).inefficiency
    return np.array([max(followed, inefficiency(values)) for values in series])


def neighbor_changes(samples: Samples) -> list[np.ndarray]:
    """(n_states,) arrays (n_samples_k,): change of energy to the next state less its mean, kT.

    The last state's is that from the one before, so that a conformer has the same sign in all.
    """
    changes = []
    for state, block in enumerate(samples.reduced):
        left = min(state, samples.schedule.n_states - 2)
        change = block[:, left + 1] - block[:, left]
        changes.append(change - change.mean())
    return changes
