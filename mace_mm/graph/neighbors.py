"""Full neighbor lists on the host, with periodic images, by the vesin library."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from vesin import NeighborList

from mace_mm.errors import ConfigError, GeometryError
from mace_mm.graph.molecule import check_cell, check_positions


class Neighbors(NamedTuple):
    """A full neighbor list: (i, j, S) and (j, i, -S) both occur, sorted by receiver.

    Attributes:
        senders: (n_edges,) int64.
        receivers: (n_edges,) int64.
        cell_shifts: (n_edges, 3) int64, integer multiples of the lattice vectors. The edge vector
            is ``positions[receivers] - positions[senders] + cell_shifts @ cell``.
    """

    senders: np.ndarray
    receivers: np.ndarray
    cell_shifts: np.ndarray


def neighbor_list(
    positions: np.ndarray,
    cutoff: float,
    cell: np.ndarray | None = None,
    pbc: Sequence[bool] | np.ndarray = (True, True, True),
) -> Neighbors:
    """Find every pair closer than the cutoff, images included.

    A box may be smaller than the cutoff: an atom then meets its own images and several images of
    one neighbor. An atom is never its own neighbor in the home cell.

    Args:
        positions: (n_atoms, 3), Å.
        cutoff: Å.
        cell: (3, 3), lattice vectors as rows, Å; None for a molecule in vacuum. A row along a
            direction that is not periodic may be zero.
        pbc: the periodic directions; ignored without a cell.

    Raises:
        ConfigError: a cutoff that is not positive.
        InputError: positions of a wrong shape.
        GeometryError: positions that are not finite, a periodic cell without volume.
    """
    if not cutoff > 0:
        raise ConfigError(f"a cutoff is a positive length in Å, got {cutoff}")
    positions = np.asarray(positions, dtype=np.float64)
    check_positions(positions, len(positions))
    completed = completed_box(cell, pbc)
    box = np.zeros((3, 3)) if completed is None else completed
    periodic = np.asarray(pbc, dtype=bool) & (completed is not None)
    finder = NeighborList(cutoff=float(cutoff), full_list=True, sorted=True)
    centers, others, shifts = finder.compute(positions, box, periodic, "ijS")
    return Neighbors(
        senders=others.astype(np.int64),
        receivers=centers.astype(np.int64),
        cell_shifts=-shifts.astype(np.int64),
    )


def completed_box(cell: np.ndarray | None, pbc: Sequence[bool] | np.ndarray) -> np.ndarray | None:
    """A box with a volume: the cell, its zero rows along open directions replaced by unit normals.

    Args:
        cell: (3, 3), lattice vectors as rows, Å, or None.
        pbc: (3,) the periodic directions.

    Returns:
        (3, 3) Å; None where nothing is periodic.

    Raises:
        GeometryError: a periodic cell without volume.
    """
    periodic = np.asarray(pbc, dtype=bool)
    if cell is None or not periodic.any():
        return None
    box = np.array(cell, dtype=np.float64)
    if box.shape != (3, 3):
        raise GeometryError(f"a cell is a (3, 3) array of row vectors in Å, got shape {box.shape}")
    for k in np.flatnonzero(~periodic):
        if not box[k].any():
            others = np.delete(box, k, axis=0)
            # The right singular vectors of the other rows end in one that is normal to both.
            box[k] = np.linalg.svd(others)[2][-1]
    return check_cell(box)
