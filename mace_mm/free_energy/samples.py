"""Sampled energies, sorted by the state in which they were sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pymbar import timeseries

from mace_mm.errors import DataError
from mace_mm.free_energy.journal import Journal
from mace_mm.free_energy.schedule import Schedule

# A series this short has no autocorrelation to speak of.
_FEWEST_SAMPLES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Reduced potentials of samples from every state of a schedule.

    Attributes:
        schedule: the states.
        temperature_k: kelvin.
        reduced: (n_states,) arrays (n_samples_k, n_states): samples of state k in the order of
            time, in every state, kT.
    """

    schedule: Schedule
    temperature_k: float
    reduced: tuple[np.ndarray, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(block) for block in self.reduced)

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
        return Samples(
            schedule=self.schedule,
            temperature_k=self.temperature_k,
            reduced=tuple(
                block[int(round(begin * len(block))) : int(round(end * len(block)))]
                for block in self.reduced
            ),
        )


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
    blocks: list[list[np.ndarray]] = [[] for _ in range(schedule.n_states)]
    for journal in journals:
        records = journal.read()
        for states, reduced in zip(
            records.states[discard:], records.reduced[discard:], strict=True
        ):
            for replica, state in enumerate(states):
                blocks[state].append(reduced[replica])
    empty = [schedule.coordinates[state] for state, block in enumerate(blocks) if not block]
    if empty:
        raise DataError(
            f"no samples after {discard} iterations of equilibration at λ = {empty}: "
            "the run is not complete"
        )
    return Samples(
        schedule=schedule,
        temperature_k=temperature_k,
        reduced=tuple(np.array(block) for block in blocks),
    )


def inefficiency(series: np.ndarray) -> float:
    """Statistical inefficiency g >= 1 of a time series (Chodera et al., JCTC 3, 26, 2007)."""
    # Rounding noise of a constant series would look like a correlation.
    if len(series) < _FEWEST_SAMPLES or np.ptp(series) <= 1e-9 * (1.0 + np.abs(series).max()):
        return 1.0
    return float(timeseries.statistical_inefficiency(series))


def decorrelate(samples: Samples) -> tuple[Samples, np.ndarray]:
    """Keep independent samples only.

    The series judged is the difference to the neighboring state, the quantity that the
    estimators average.

    Returns:
        The thinned samples, and (n_states,) the statistical inefficiencies.
    """
    kept, factors = [], []
    for state, block in enumerate(samples.reduced):
        neighbor = state + 1 if state + 1 < samples.schedule.n_states else state - 1
        factor = inefficiency(block[:, neighbor] - block[:, state])
        if samples.schedule.linear:
            factor = max(factor, inefficiency(samples.derivative(state)))
        rows = timeseries.subsample_correlated_data(np.arange(len(block)), g=factor)
        kept.append(block[np.asarray(rows, dtype=np.int64)])
        factors.append(factor)
    thinned = Samples(
        schedule=samples.schedule, temperature_k=samples.temperature_k, reduced=tuple(kept)
    )
    return thinned, np.array(factors)
