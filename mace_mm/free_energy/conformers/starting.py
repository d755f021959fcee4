"""Give a leg the places where its replicas start."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from mace_mm.errors import DataError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.conformers.search import Conformers
from mace_mm.free_energy.legs.leg import Leg

_PLACED_NAME = "starts.npy"


def with_starts(leg: Leg, folder: Path, n_replicas: int) -> tuple[Leg, Conformers | None]:
    """Search for conformers and place them in the leg's surroundings, once for a folder.

    Args:
        leg: with a ligand, or without one, which starts as it is.
        folder: of its conformers, beside the folders of its journals.
        n_replicas: at most that many starts.

    Raises:
        InputError: a file of conformers that does not fit the ligand.
        GeometryError: a conformer that clashes with what cannot move away.
        DataError: damaged files.
    """
    if leg.conformers is None:
        return leg, None
    began = any(folder.parent.glob("*/journal.json"))
    known = leg.conformers.prepare(folder, n_replicas, began=began)
    path = folder / _PLACED_NAME
    if path.exists():
        try:
            placed = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} holds no positions: {error}") from error
    else:
        placed = leg.conformers.place(known)
        buffer = io.BytesIO()
        np.save(buffer, placed)
        write_atomically(path, buffer.getvalue())
    return replace(leg, starts_nm=placed), known
