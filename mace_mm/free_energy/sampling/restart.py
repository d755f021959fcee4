"""The configuration that a sampling run goes on from, and its file."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mace_mm.errors import DataError
from mace_mm.files.atomic_write import write_atomically


@dataclass(frozen=True, kw_only=True, eq=False)
class Restart:
    """The configuration after a complete iteration.

    Attributes:
        iteration: complete iterations.
        states: (n_replicas,) state of each replica.
        positions_nm, velocities_nm_ps: (n_replicas, n_atoms, 3).
        boxes_nm: (n_replicas, 3, 3), None for systems without periodic boundaries.
    """

    iteration: int
    states: np.ndarray
    positions_nm: np.ndarray
    velocities_nm_ps: np.ndarray
    boxes_nm: np.ndarray | None

    def save(self, path: Path) -> None:
        """Replace the file in one step."""
        arrays: dict[str, Any] = {
            "iteration": np.array(self.iteration),
            "states": self.states,
            "positions_nm": self.positions_nm,
            "velocities_nm_ps": self.velocities_nm_ps,
        }
        if self.boxes_nm is not None:
            arrays["boxes_nm"] = self.boxes_nm
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(path, buffer.getvalue())


def load_restart(path: Path) -> Restart | None:
    """Read what :meth:`Restart.save` wrote, None where there is no file.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Restart(
                iteration=int(arrays["iteration"]),
                states=arrays["states"],
                positions_nm=arrays["positions_nm"],
                velocities_nm_ps=arrays["velocities_nm_ps"],
                boxes_nm=arrays.get("boxes_nm"),
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a restart file: {error}") from error
