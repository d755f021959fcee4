"""Whether one coordinate moved enough, and which of its states a run should have reached."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from mace_mm.free_energy.coordinates.basins import BETWEEN
from mace_mm.free_energy.coordinates.slow_states import SlowStates, follow_states, judge_slow_states
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate
from mace_mm.free_energy.coordinates.states import CoordinateStates, Well, committed
from mace_mm.free_energy.settings import Limits

# Whether there is room for a value of a coordinate.
Fits = Callable[[SoftCoordinate, np.ndarray], bool]
# A state with less than this share that every visitor left again is no state to be judged.
_MINOR = 0.02
# Events of which none was seen are at most this many, with 95 % confidence.
_NONE_SEEN = 3.0


class ConformerJudge:
    """Judges one coordinate after the other of a run.

    Args:
        windows: (n_iterations, n_replicas) λ window of each replica.
        discard: iterations of equilibration, in which states are seen but no transitions counted.
        lambdas: (n_states,) of the windows.
        limits: how many transitions are enough.
        window_kt: energy above the lowest up to which a state counts.
        fits: whether there is room for a state, None where there always is.
    """

    def __init__(
        self,
        windows: np.ndarray,
        discard: int,
        lambdas: tuple[float, ...],
        limits: Limits,
        window_kt: float,
        fits: Fits | None,
    ) -> None:
        self._fits = fits
        self._windows = windows
        self._discard = discard
        self._lambdas = lambdas
        self._limits = limits
        self._window_kt = window_kt
        self._exchanged = bool((windows != windows[0]).any())

    def follow(self, name: str, states: CoordinateStates) -> tuple[SlowStates, list[str], str]:
        """Transitions, reasons against the result, and what was decided on what ground."""
        labels = self._without_minor(states.labels)
        kept = labels[self._discard :]
        windows = self._windows[self._discard :]
        slow = follow_states(name, kept, windows, len(self._lambdas))
        missing = self._missing(states)
        several = len(slow.visited) > 1
        if not several and not missing:
            return slow, [], self._one_state(states, slow)
        reasons = self._moved(name, states, kept, windows, missing)
        if several:
            reasons += [
                f"{name} never reached its state at {states.describe(state)}, "
                f"{self._height(states.wells[state])}: start there or run longer"
                for state in missing
            ]
        elif reasons:
            where = ", ".join(
                f"{states.describe(state)}, {self._height(states.wells[state])}"
                for state in missing
            )
            reasons = [f"{reason} (known: {where})" for reason in reasons]
        total = slow.n_transitions
        return slow, reasons, f"{total} transition{'' if total == 1 else 's'}"

    def _without_minor(self, labels: np.ndarray) -> np.ndarray:
        kept = labels[self._discard :]
        labels = labels.copy()
        for state in np.unique(kept):
            if not (kept[-1] == state).any() and (kept == state).mean() < _MINOR:
                labels[labels == state] = BETWEEN
        return committed(labels)

    def _missing(self, states: CoordinateStates) -> list[int]:
        """States that count and were not seen, except those that their starters left at once."""
        kept = states.labels[self._discard :]
        seen = set(np.unique(kept))
        found = []
        for state, wells in enumerate(states.wells):
            if state in seen or not wells:
                continue
            if min(well.lowest_kt for well in wells) > self._window_kt:
                continue
            if self._fits is not None and not self._fits(states.coordinate, states.peaks[state]):
                continue
            started = sorted({replica for well in wells for replica in well.started})
            if started:
                # Iterations in it for each replica that left it; none came back during the run.
                stay = max(1.0, float((states.labels == state).sum()) / len(started))
                if _NONE_SEEN * stay / kept.size < math.exp(-self._window_kt):
                    continue
            found.append(state)
        return found

    def _moved(
        self,
        name: str,
        states: CoordinateStates,
        kept: np.ndarray,
        windows: np.ndarray,
        missing: Sequence[int],
    ) -> list[str]:
        """Reasons from transitions; without exchange of those windows that have several states."""
        chosen = np.arange(kept.shape[1])
        lambdas = self._lambdas
        if not self._exchanged:
            known = [*np.unique(kept), *missing]
            chosen = np.array(
                [
                    r
                    for r in chosen
                    if len(self._open(states, kept[:, r], known, windows[0, r])) > 1
                ],
                dtype=np.int64,
            )
            if not len(chosen):
                return []
            lambdas = tuple(self._lambdas[windows[0, r]] for r in chosen)
        slow = follow_states(name, kept[:, chosen], windows[:, chosen], len(self._lambdas))
        return judge_slow_states([slow], self._limits, lambdas)

    def _open(
        self, states: CoordinateStates, path: np.ndarray, known: Sequence[int], window: int
    ) -> set[int]:
        """States that a window without exchange should have visited."""
        mine = {int(state) for state in np.unique(path)}
        share = self._lambdas[window]
        for state in known:
            energies = [self._between(well, share) for well in states.wells[state]]
            # Of a state that no search knows nothing is known.
            if not energies or min(energies) <= self._window_kt:
                mine.add(int(state))
        return mine

    @staticmethod
    def _between(well: Well, share: float) -> float:
        if len(well.energies_kt) != 2 or not 0.0 <= share <= 1.0:
            return well.lowest_kt
        first, last = well.energies_kt
        if math.isinf(first) or math.isinf(last):
            return well.lowest_kt if 0.0 < share < 1.0 else well.energies_kt[round(share)]
        return (1.0 - share) * first + share * last

    def _one_state(self, states: CoordinateStates, slow: SlowStates) -> str:
        others = [
            well
            for state, wells in enumerate(states.wells)
            for well in wells
            if state not in slow.visited and math.isfinite(well.lowest_kt)
        ]
        if not others:
            return "one state seen, none other known"
        lowest = min(well.lowest_kt for well in others)
        if lowest > self._window_kt:
            return f"one state; others lie {lowest:.1f} kT or more above the lowest"
        if self._fits is not None:
            return "one state; the site has no room for others"
        return "one state; replicas that started in others left them at once and never came back"

    @staticmethod
    def _height(wells: Sequence[Well]) -> str:
        lowest = min(well.lowest_kt for well in wells)
        return f"{lowest:.1f} kT above the lowest conformer"
