"""Errors of sums over correlated samples: what is seen along replicas and not in windows."""

import numpy as np
import pytest

from mace_mm.errors import DataError
from mace_mm.free_energy.analysis.correlation import Paths, inefficiency, variance_of_sum
from mace_mm.free_energy.analysis.equilibration import equilibrated_from, is_over
from mace_mm.free_energy.legs.schedule import even_lambdas, linear_schedule
from mace_mm.free_energy.sampling.samples import Samples

N_REPLICAS = 5


def autoregressive(
    generator: np.random.Generator, memory: float, n_samples: int, n_replicas: int = N_REPLICAS
) -> np.ndarray:
    """(n_samples, n_replicas) stationary series of variance 1; g = (1 + memory)/(1 - memory)."""
    values = generator.normal(size=(n_samples, n_replicas))
    noise = np.sqrt(1.0 - memory**2)
    for step in range(1, n_samples):
        values[step] = memory * values[step - 1] + noise * values[step]
    return values


def shuffled(generator: np.random.Generator, values: np.ndarray) -> tuple[np.ndarray, Paths]:
    """Replicas dealt over windows anew in every iteration, centered in each window."""
    n_samples, n_replicas = values.shape
    states = np.array([generator.permutation(n_replicas) for _ in range(n_samples)]).ravel()
    times, replicas = np.indices(values.shape)
    flat = values.ravel()
    means = np.bincount(states, flat) / np.bincount(states)
    paths = Paths(states=states, replicas=replicas.ravel(), times=times.ravel())
    return flat - means[states], paths


def separate(values: np.ndarray) -> tuple[np.ndarray, Paths]:
    """Each replica a window of its own."""
    times, replicas = np.indices(values.shape)
    centered = values - values.mean(axis=0)
    return centered.ravel(), Paths(
        states=replicas.ravel(), replicas=replicas.ravel(), times=times.ravel()
    )


@pytest.mark.parametrize("memory", [0.0, 0.6, 0.9])
def test_correlation_is_followed_along_replicas_that_exchange(memory: float) -> None:
    generator = np.random.default_rng(1)
    n_samples, expected = 400, (1.0 + memory) / (1.0 - memory)
    found = [
        variance_of_sum(*shuffled(generator, autoregressive(generator, memory, n_samples)))
        for _ in range(20)
    ]
    # The windows see the replicas in turn, and next to nothing of their memory.
    scale = n_samples * N_REPLICAS
    within = np.median([variance.within_windows for variance in found]) / scale
    assert within < 1.0 + 0.35 * (expected - 1.0) + 0.2
    # Of several views the largest counts, which makes errors too large rather than too small.
    reported = np.median([variance.value for variance in found]) / scale
    assert 0.8 * expected <= reported <= 1.4 * expected


def test_without_exchange_each_window_has_its_own_correlation() -> None:
    generator = np.random.default_rng(2)
    memories = np.array([0.0, 0.0, 0.0, 0.0, 0.95])
    values = np.concatenate(
        [autoregressive(generator, memory, 3000, 1) for memory in memories], axis=1
    )
    variance = variance_of_sum(*separate(values))
    expected = ((1.0 + memories) / (1.0 - memories)).sum() * 3000
    assert variance.value == pytest.approx(expected, rel=0.3)
    assert variance.between_replicas is None and variance.mixed


def test_the_sum_over_windows_tells_without_knowing_replicas() -> None:
    generator = np.random.default_rng(3)
    influences, paths = shuffled(generator, autoregressive(generator, 0.9, 1000))
    unknown = Paths(states=paths.states, replicas=paths.states, times=paths.times)
    variance = variance_of_sum(influences, unknown)
    assert variance.within_windows < 0.5 * variance.value
    assert variance.value == pytest.approx(19.0 * 5000, rel=0.4)


def test_replicas_that_keep_apart_have_not_mixed() -> None:
    generator = np.random.default_rng(4)
    noise = autoregressive(generator, 0.5, 300)
    assert variance_of_sum(*shuffled(generator, noise)).mixed
    apart = variance_of_sum(*shuffled(generator, noise + [2.0, 2.0, 0.0, 0.0, 0.0]))
    assert not apart.mixed
    # Five replicas count as five samples: g is the length of the run times the part of the
    # variance that stays, 0.96 of 1.96.
    assert apart.inefficiency > 0.3 * 300
    # The bootstrap over replicas says the same.
    assert apart.between_replicas == pytest.approx(apart.value, rel=0.4)


def test_replicas_that_mix_are_rarely_called_apart() -> None:
    generator = np.random.default_rng(5)
    calls = [
        variance_of_sum(*shuffled(generator, autoregressive(generator, 0.8, 300))).mixed
        for _ in range(100)
    ]
    assert sum(calls) >= 95


def test_pooled_series_share_their_mean() -> None:
    generator = np.random.default_rng(6)
    flat = [generator.normal(size=200) for _ in range(4)]
    assert inefficiency(*flat) < 1.5
    levels = [values + 3.0 * (number % 2) for number, values in enumerate(flat)]
    assert inefficiency(*levels) > 50.0
    assert inefficiency(np.ones(100), np.ones(100)) == 1.0


def test_the_start_of_a_run_is_left_out_where_it_differs() -> None:
    generator = np.random.default_rng(7)
    decay = 6.0 * np.exp(-np.arange(400) / 20.0)[:, None]
    starts = [
        equilibrated_from(*shuffled(generator, autoregressive(generator, 0.3, 400) + decay))
        for _ in range(10)
    ]
    # The start is forgotten after 60 to 100 iterations.
    assert min(starts) >= 40 and max(starts) <= 160


def test_nothing_is_left_out_of_an_equilibrated_run() -> None:
    generator = np.random.default_rng(8)
    for memory in (0.0, 0.9):
        starts = [
            equilibrated_from(*shuffled(generator, autoregressive(generator, memory, 800)))
            for _ in range(20)
        ]
        assert np.count_nonzero(starts) <= 4 and max(starts) <= 200, (memory, starts)


def test_replicas_and_times_must_belong_to_the_samples() -> None:
    schedule = linear_schedule(even_lambdas(2), "lambda_interpolate")
    blocks = (np.zeros((4, 2)), np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"replicas must be .* got \(4, 4\)"):
        Samples(
            schedule=schedule,
            temperature_k=300.0,
            reduced=blocks,
            replicas=(np.zeros(4, dtype=int), np.zeros(4, dtype=int)),
        )


def test_a_start_that_takes_half_of_the_run_is_not_over() -> None:
    assert is_over(0, 200) and is_over(99, 101)
    assert not is_over(100, 100)
