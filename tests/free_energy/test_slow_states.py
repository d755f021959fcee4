"""Transitions of slow coordinates along replicas, and the sentences they lead to."""

import numpy as np
import pytest

from mace_mm.errors import DataError
from mace_mm.free_energy.coordinates.slow_states import follow_states, judge_slow_states
from mace_mm.free_energy.settings import Limits

LAMBDAS = (0.0, 0.5, 1.0)


def wandering_states(n_iterations: int, n_replicas: int, seed: int = 1) -> np.ndarray:
    """(n_iterations, n_replicas) windows of replicas that exchange all the time."""
    generator = np.random.default_rng(seed)
    return np.array([generator.permutation(n_replicas) for _ in range(n_iterations)])


def test_two_states_that_no_replica_connects_are_named() -> None:
    states = wandering_states(100, 3)
    labels = np.tile([0, 1, 1], (100, 1))
    slow = follow_states("torsion C1-C2-C3-O1", labels, states, 3)
    assert slow.visited == (0, 1) and slow.n_transitions == 0 and slow.exchanged
    # Every window sees both states: the windows themselves show nothing.
    np.testing.assert_allclose(slow.occupancy[:, 1], 2.0 / 3.0, atol=0.15)
    (reason,) = judge_slow_states([slow], Limits(), LAMBDAS)
    assert reason.startswith(
        "torsion C1-C2-C3-O1 was seen in two states and no replica went between them"
    )


def test_a_single_state_is_no_transition_seen() -> None:
    slow = follow_states("ring", np.zeros((50, 3), dtype=int), wandering_states(50, 3), 3)
    (reason,) = judge_slow_states([slow], Limits(), LAMBDAS)
    assert reason.startswith("ring: no transition seen in 50 iterations of 3 replicas")


def test_transitions_are_counted_along_replicas() -> None:
    labels = np.array([[0, 0, 2], [1, 0, 2], [0, 0, 2], [1, 0, 0]])
    slow = follow_states("torsion", labels, wandering_states(4, 3), 3)
    np.testing.assert_array_equal(slow.transitions, [3, 0, 1])
    np.testing.assert_array_equal(slow.returns, [2, 0, 0])
    assert (slow.n_moved, slow.visited) == (2, (0, 1, 2))
    (reason,) = judge_slow_states([slow], Limits(transitions=6), LAMBDAS)
    assert "changed its state 4 times in all 3 replicas, at least 5 transitions" in reason
    assert judge_slow_states([slow], Limits(transitions=4), LAMBDAS) == []
    assert slow.to_json()["replicas_that_moved"] == 2


def test_without_exchange_every_window_needs_its_own_transitions() -> None:
    flipping = np.arange(40) % 2
    labels = np.stack([flipping, np.zeros(40, dtype=int), flipping], axis=1)
    fixed = np.tile([0, 1, 2], (40, 1))
    slow = follow_states("torsion", labels, fixed, 3)
    assert not slow.exchanged
    (reason,) = judge_slow_states([slow], Limits(), LAMBDAS)
    assert "changed its state 0 times in the window λ = 0.5" in reason
    exchanged = follow_states("torsion", labels, wandering_states(40, 3), 3)
    assert judge_slow_states([exchanged], Limits(), LAMBDAS) == []


def test_a_rare_state_needs_fewer_transitions_but_there_and_back() -> None:
    labels = np.zeros((100, 3), dtype=int)
    labels[50:58, 1] = 1
    labels[20:22, 2] = 1
    # 3 % of the samples, four transitions; even weights would need ten.
    slow = follow_states("torsion", labels, wandering_states(100, 3), 3)
    assert slow.n_transitions == 4
    assert judge_slow_states([slow], Limits(), LAMBDAS) == []
    # A fifth of all samples, with one transition more, needs (2 · 0.2)² of thirty-five.
    labels[:50, 0] = 1
    slow = follow_states("torsion", labels, wandering_states(100, 3), 3)
    assert slow.n_transitions == 5 and slow.shares[0, 1] == 0.5
    (reason,) = judge_slow_states([slow], Limits(transitions=35), LAMBDAS)
    assert "at least 6 transitions" in reason
    assert judge_slow_states([slow], Limits(transitions=30), LAMBDAS) == []


def test_one_way_is_not_enough() -> None:
    labels = np.zeros((100, 3), dtype=int)
    labels[:2, 1] = 1
    slow = follow_states("torsion", labels, wandering_states(100, 3), 3)
    (reason,) = judge_slow_states([slow], Limits(), LAMBDAS)
    assert "changed its state once in all 3 replicas, at least 2 transitions" in reason


def test_the_top_of_a_barrier_belongs_to_the_state_that_was_left() -> None:
    labels = np.array([[-1, 0, -1, 0, -1, 1, -1, 1, -1, -1]]).T
    slow = follow_states("torsion", labels, np.zeros((10, 1), dtype=int), 1)
    assert slow.n_transitions == 1
    np.testing.assert_allclose(slow.occupancy, [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("labels", "states", "message"),
    [
        (np.zeros((4, 2), dtype=int), np.zeros((4, 3), dtype=int), "must be"),
        (np.zeros((0, 2), dtype=int), np.zeros((0, 2), dtype=int), "must be"),
        (np.zeros((4, 2)), np.zeros((4, 2), dtype=int), "must be integers, got float64"),
        (np.full((4, 2), [0, -1]), np.zeros((4, 2), dtype=int), "replica 1 is in no state"),
        (np.zeros((4, 2), dtype=int), np.full((4, 2), 3), "between 0 and 2, got 3"),
    ],
)
def test_labels_that_cannot_be_followed_are_refused(
    labels: np.ndarray, states: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        follow_states("torsion", labels, states, 3)
