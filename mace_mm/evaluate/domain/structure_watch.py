"""Structures that come one after another to a calculator: looked at when they have changed."""

import logging
from collections.abc import Sequence

import numpy as np

from mace_mm.archive.archive import Archive
from mace_mm.evaluate.domain.limits import geometry_problems

# Å that an atom or lattice vector has moved. Optimizers move by 0.2 at most and dynamics by less,
# so what moves farther in one step is another structure.
_ANOTHER = 0.5
_CONTACTS_CHANGED = 0.25
_SURROUNDINGS_CHANGED = 1.0
# Looking at contacts takes a tenth of an evaluation, at surroundings the time of ten. After so many
# structures without a problem surroundings are looked at in ever fewer of those that follow.
_ALL_OF = 20

_log = logging.getLogger(__name__)


class StructureWatch:
    """Warns of structures that a model was not trained for (`domain.geometry_problems`).

    Contacts and lonely atoms are looked at in every structure that differs by more than 0.25 Å from
    the one looked at before; surroundings in every other structure of the first 20, then in fewer.
    A trajectory that goes on is not told twice of what stays as it was.
    """

    def __init__(self, archive: Archive) -> None:
        """Args: archive, the model."""
        self._archive = archive
        self._atoms: tuple[bytes, bytes] | None = None
        self._last = self._contacts_of = self._surroundings_of = np.zeros((0, 3))
        self._n_passed = 0  # structures whose surroundings were in order, one after another
        self._n_skipped = 0
        self._told = False

    def __call__(
        self,
        atomic_numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: Sequence[bool] | np.ndarray,
    ) -> None:
        """Look at a structure before it is evaluated, and log a warning where there is reason.

        Args:
            atomic_numbers: (n_atoms,).
            positions: (n_atoms, 3) Å.
            cell: (3, 3) lattice vectors as rows, Å; zero rows along open directions will do.
            pbc: (3,) the periodic directions.

        Raises:
            ElementError, GeometryError: what cannot be evaluated at all.
        """
        periodic = np.asarray(pbc, dtype=bool)
        points = np.concatenate([positions, np.where(periodic[:, None], cell, 0.0)])
        atoms = (np.asarray(atomic_numbers).tobytes(), periodic.tobytes())
        other_atoms = atoms != self._atoms
        another = other_atoms or _moved(points, self._last) > _ANOTHER
        self._atoms, self._last = atoms, points
        surroundings = another or _moved(points, self._surroundings_of) > _SURROUNDINGS_CHANGED
        if not surroundings and not _moved(points, self._contacts_of) > _CONTACTS_CHANGED:
            return
        if surroundings and not other_atoms and self._n_skipped < self._n_passed // _ALL_OF:
            self._n_skipped += 1
            surroundings = False
        self._contacts_of = points
        problems = geometry_problems(
            self._archive, atomic_numbers, positions, cell, pbc, surroundings=surroundings
        )
        if surroundings:
            self._surroundings_of = points
            self._n_skipped = 0
            self._n_passed = 0 if problems else self._n_passed + 1
        if another or not self._told:
            for problem in problems:
                _log.warning("outside what the model was trained for: %s", problem)
        self._told = bool(problems) or (self._told and not surroundings and not another)


def _moved(points: np.ndarray, before: np.ndarray) -> float:
    """How far the farthest point has moved; written so that NaN counts as far."""
    squared = ((points - before) ** 2).sum(axis=1)
    return float("inf") if not (squared < np.inf).all() else float(squared.max()) ** 0.5
