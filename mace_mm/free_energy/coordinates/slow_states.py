"""Slow coordinates followed along replicas: conformers seen, and transitions between them.

A label is an integer name of the state that a coordinate is in: the basin of a torsion, the pucker
of a ring, the handedness of a center. Exchange moves replicas through the λ windows, so that a
window sees both conformers while no molecule has ever changed: only the path of a replica tells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mace_mm.errors import DataError
from mace_mm.free_energy.settings import Limits


@dataclass(frozen=True, kw_only=True, eq=False)
class SlowStates:
    """How often a slow coordinate changed its state during a run.

    Attributes:
        name: of the coordinate, for people.
        visited: the states seen, sorted.
        occupancy: (n_states, n_visited) share of each of them in each λ window; NaN where a
            window has no samples.
        shares: (n_replicas, n_visited) share of each of them along each replica.
        transitions: (n_replicas,) changes of state along each replica.
        returns: (n_replicas,) visits to a state that the replica had left before.
        exchanged: whether replicas changed their windows.
        n_iterations: iterations that were looked at.
    """

    name: str
    visited: tuple[int, ...]
    occupancy: np.ndarray
    shares: np.ndarray
    transitions: np.ndarray
    returns: np.ndarray
    exchanged: bool
    n_iterations: int

    @property
    def n_replicas(self) -> int:
        return len(self.transitions)

    @property
    def n_transitions(self) -> int:
        """Changes of state over all replicas."""
        return int(self.transitions.sum())

    @property
    def n_moved(self) -> int:
        """Replicas that changed their state at least once."""
        return int((self.transitions > 0).sum())

    def to_json(self) -> dict[str, Any]:
        """Plain values for a results file."""
        return {
            "name": self.name,
            "states": list(self.visited),
            "transitions": self.n_transitions,
            "returns": int(self.returns.sum()),
            "replicas": self.n_replicas,
            "replicas_that_moved": self.n_moved,
            "occupancy": [
                [None if np.isnan(share) else round(float(share), 4) for share in row]
                for row in self.occupancy
            ],
        }


def follow_states(name: str, labels: np.ndarray, states: np.ndarray, n_states: int) -> SlowStates:
    """Count the transitions of one coordinate along the replicas of a run.

    Args:
        name: of the coordinate.
        labels: (n_iterations, n_replicas) integers, the coordinate's state in each replica. A
            negative label stands for "between states": the replica keeps the state that it was in
            last, so that recrossings of a barrier's top do not count (core sets, Schütte et al.,
            J. Chem. Phys. 134, 204105, 2011).
        states: (n_iterations, n_replicas) the λ window of each replica.
        n_states: windows of the schedule.

    Raises:
        DataError: labels that are not integers or of another shape than the states, none at all,
            or a replica that is never in any state.
    """
    labels, states = np.asarray(labels), np.asarray(states)
    if labels.shape != states.shape or labels.ndim != 2 or not labels.size:
        raise DataError(
            f"{name}: labels and windows must be (n_iterations, n_replicas), got "
            f"{labels.shape} and {states.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name}: labels must be integers, got {labels.dtype}")
    if not ((states >= 0) & (states < n_states)).all():
        raise DataError(
            f"{name}: windows must lie between 0 and {n_states - 1}, got {states.min()} to "
            f"{states.max()}"
        )
    labels = _committed(name, labels)
    visited = np.unique(labels)
    occupancy = np.full((n_states, len(visited)), np.nan)
    for state in np.unique(states):
        occupancy[state] = (labels[states == state][:, None] == visited).mean(axis=0)
    changes = labels[1:] != labels[:-1]
    # Of m changes among k states seen, k - 1 led to a state for the first time.
    seen = np.array([len(np.unique(path)) for path in labels.T])
    transitions = changes.sum(axis=0)
    return SlowStates(
        name=name,
        visited=tuple(int(label) for label in visited),
        occupancy=occupancy,
        shares=(labels[:, :, None] == visited).mean(axis=0),
        transitions=transitions,
        returns=transitions - (seen - 1),
        exchanged=bool((states != states[0]).any()),
        n_iterations=len(labels),
    )


def _committed(name: str, labels: np.ndarray) -> np.ndarray:
    """Labels without gaps: the last state that was reached, before the first one that one."""
    known = labels >= 0
    if not known.any(axis=0).all():
        raise DataError(f"{name}: replica {int(np.argmin(known.any(axis=0)))} is in no state")
    rows = np.arange(len(labels))[:, None]
    last = np.maximum.accumulate(np.where(known, rows, -1), axis=0)
    last = np.where(last < 0, known.argmax(axis=0), last)
    return np.take_along_axis(labels, last, axis=0)


def judge_slow_states(
    followed: Sequence[SlowStates], limits: Limits, lambdas: Sequence[float]
) -> list[str]:
    """Reasons against a result, one sentence a coordinate that did not move enough.

    With exchange the replicas share their conformers and transitions count over all of them;
    without, every window must have its own.

    Args:
        followed: coordinates of one run.
        limits: how many transitions are enough.
        lambdas: (n_replicas,) of the windows of a run without exchange.
    """
    reasons = []
    for slow in followed:
        if slow.n_transitions == 0:
            reasons.append(_unmoved(slow))
        elif slow.exchanged:
            where = f"all {slow.n_replicas} replicas"
            reasons += _few(slow, slow.n_transitions, slow.shares.mean(axis=0), limits, where)
        else:
            for replica, count in enumerate(slow.transitions):
                where = f"the window λ = {lambdas[replica]:.3g}"
                reasons += _few(slow, int(count), slow.shares[replica], limits, where)
    return reasons


def _unmoved(slow: SlowStates) -> str:
    if len(slow.visited) == 1:
        return (
            f"{slow.name}: no transition seen in {slow.n_iterations} iterations of "
            f"{slow.n_replicas} replicas, all stay in one state: what other states weigh is not "
            "known, start from several conformers or run longer"
        )
    count = {2: "two", 3: "three"}.get(len(slow.visited), str(len(slow.visited)))
    return (
        f"{slow.name} was seen in {count} states and no replica went between them: their weights "
        "are those of the starts, run longer or sample this coordinate by other means"
    )


def _few(slow: SlowStates, count: int, shares: np.ndarray, limits: Limits, where: str) -> list[str]:
    # A share m that n transitions measure has the error 2 m / sqrt(n): a rare state, which matters
    # less, needs fewer than one of even weight. There and back is the least.
    rare = min(1.0, 2.0 * (1.0 - float(shares.max())))
    needed = max(min(2, limits.transitions), math.ceil(limits.transitions * rare**2))
    if count >= needed:
        return []
    times = "once" if count == 1 else f"{count} times"
    return [
        f"{slow.name} changed its state {times} in {where}, at least {needed} transitions are "
        "needed to know the states' weights: run longer"
    ]
