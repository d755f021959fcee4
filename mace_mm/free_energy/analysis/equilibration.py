"""Where the equilibrated part of a run begins."""

import numpy as np

from mace_mm.free_energy.analysis.correlation import Paths, inefficiency

# The start is looked for among this many places, in the first half of the run.
_PLACES = 20
LARGEST_SHARE = 0.5
# Less gain in independent samples than this is noise of the count.
_GAIN = 1.1
# Longer series are averaged in pairs, threes, ...: their slow parts are what is looked for.
_LONGEST_SERIES = 200


def equilibrated_from(influences: np.ndarray, paths: Paths) -> int:
    """The iteration at which the equilibrated part begins.

    The place that leaves most independent samples (Chodera, J. Chem. Theory Comput. 12, 1799,
    2016), counted along all replicas together by pymbar. A single series, such as the sum over the
    replicas, leads astray where few slow events happen: the part after the last of them looks
    best, and the error bar loses what it should show.

    Args:
        influences: (n_samples,) what each sample adds to the free energy.
        paths: where the samples come from.

    Returns:
        A time of ``paths``, at most :data:`LARGEST_SHARE` of the run after its first.
    """
    first, last = int(paths.times.min()), int(paths.times.max()) + 1
    length = max(1, (last - first) // _LONGEST_SERIES)
    starts = [
        first + (last - first) * place // _PLACES
        for place in range(int(_PLACES * LARGEST_SHARE) + 1)
    ]
    counts = [_independent_blocks(influences, paths, start, length) for start in starts]
    best = int(np.argmax(counts))
    return starts[best] if counts[best] > _GAIN * counts[0] else first


def is_over(left_out: int, n_kept: int) -> bool:
    """Whether the start ended before the largest share of a run that is ever left out."""
    return left_out < int(LARGEST_SHARE * (left_out + n_kept))


def _independent_blocks(influences: np.ndarray, paths: Paths, start: int, length: int) -> float:
    """Independent blocks of ``length`` iterations from ``start`` on."""
    kept = paths.times >= start
    states, values = paths.states[kept], influences[kept]
    means = np.bincount(states, values) / np.maximum(np.bincount(states), 1)
    part = Paths(states=states, replicas=paths.replicas[kept], times=paths.times[kept])
    blocks = [
        _block_means(series, length) for series in part.split(values - means[states], part.replicas)
    ]
    return sum(len(series) for series in blocks) / inefficiency(*blocks)


def _block_means(values: np.ndarray, length: int) -> np.ndarray:
    """Means of blocks of one length; what does not fill a block is left out at the beginning."""
    length = min(length, len(values))
    count = len(values) // length
    return values[-count * length :].reshape(count, length).mean(axis=1)
