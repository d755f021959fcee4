"""Which conformers a run starts from."""

from collections.abc import Sequence

import numpy as np

from mace_mm.free_energy.conformers.candidates import same_conformer, same_well
from mace_mm.free_energy.conformers.search import Conformers
from mace_mm.free_energy.coordinates.conformation import per_coordinate
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate


def choose_starts(
    conformers: Conformers, coordinates: Sequence[SoftCoordinate], most: int, window_kt: float
) -> tuple[int, ...]:
    """Rows of conformers within a window: first those that show wells no other shows, then the
    lowest."""
    low = [
        int(row)
        for row in np.argsort(conformers.energies_kt, kind="stable")
        if conformers.ends[row] >= 0 and conformers.energies_kt[row] <= window_kt
    ]
    kept: list[int] = []
    for row in low:
        values = conformers.values
        if not any(same_conformer(coordinates, values[row], values[i]) for i in kept):
            kept.append(row)
    chosen: list[int] = []
    waiting = list(kept)
    shown: list[tuple[int, np.ndarray]] = []
    while waiting and len(chosen) < most:
        news = [_unseen(conformers, coordinates, row, shown) for row in waiting]
        row = waiting.pop(int(np.argmax([len(new) for new in news])))
        shown += _unseen(conformers, coordinates, row, shown)
        chosen.append(row)
    return tuple(chosen)


def _unseen(
    conformers: Conformers,
    coordinates: Sequence[SoftCoordinate],
    row: int,
    shown: Sequence[tuple[int, np.ndarray]],
) -> list[tuple[int, np.ndarray]]:
    return [
        (index, value)
        for index, (coordinate, value) in enumerate(
            per_coordinate(coordinates, conformers.values[row])
        )
        if not any(i == index and same_well(coordinate, value, other) for i, other in shown)
    ]
