"""The identity of a molecule: what a trajectory is compared with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mace_mm.elements import symbol
from mace_mm.errors import InputError
from mace_mm.identity.pairs import bonds_by_distance
from mace_mm.identity.perception import stereo_from_geometry
from mace_mm.identity.stereo import Stereo, handedness, is_clear, sides


@dataclass(frozen=True, kw_only=True, eq=False)
class MolecularIdentity:
    """Atoms with their bonds and configuration, as they were at the start.

    Attributes:
        indices: (n_atoms,) of the atoms in the whole system; all arrays below count from 0 here.
        atomic_numbers: (n_atoms,).
        names: of the atoms, for people.
        bonds: (n_bonds, 2), first < second.
        stereo: centers and double bonds whose configuration is clear at the start.
        volumes: (n_centers,) signed volumes at the start.
        cosines: (n_double,) of the double bonds at the start.
        notes: what was taken from the geometry since it was not given.
    """

    indices: np.ndarray
    atomic_numbers: np.ndarray
    names: tuple[str, ...]
    bonds: np.ndarray
    stereo: Stereo
    volumes: np.ndarray
    cosines: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def n_atoms(self) -> int:
        return len(self.indices)

    def in_words(self) -> str:
        """What of the molecules can be followed: "33 bonds and 1 stereocenter"."""
        parts = [_count(len(self.bonds), "bond")]
        if len(self.volumes):
            parts.append(_count(len(self.volumes), "stereocenter"))
        if len(self.cosines):
            parts.append(_count(len(self.cosines), "stereo double bond"))
        return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]

    def named(self, *atoms: int) -> str:
        """Atoms with names and indices: "C1–H5 (atoms 0 and 4)"."""
        names = "–".join(self.names[k] for k in atoms)
        where = " and ".join(str(self.indices[k]) for k in atoms)
        return f"{names} (atom{'s' if len(atoms) > 1 else ''} {where})"


def make_identity(
    atomic_numbers: Sequence[int] | np.ndarray,
    bonds: Iterable[tuple[int, int]],
    positions: np.ndarray,
    cell: np.ndarray | None = None,
    *,
    indices: Sequence[int] | np.ndarray | None = None,
    names: Sequence[str] | None = None,
    stereo: Stereo | None = None,
    open_ends: Sequence[int] = (),
) -> MolecularIdentity:
    """Take the identity of molecules at their start.

    Without ``stereo`` atoms that have no bond, as in PDB files that do not say, get those that
    distances tell.

    Args:
        atomic_numbers: (n_atoms,).
        bonds: pairs of atoms, counted from 0.
        positions: (n_atoms, 3) Å.
        cell: (3, 3) rows, Å; None in vacuum.
        indices: of the atoms in the whole system, if they are a part of it.
        names: of the atoms, symbol and index if not given.
        stereo: where the configuration is, from RDKit (`perception.stereo_of`); told from bonds and
            geometry if not given.
        open_ends: atoms whose other neighbors are not among these: a larger molecule goes on there.

    Raises:
        InputError: arrays that do not fit together, positions that are not finite.
    """
    numbers = np.asarray(atomic_numbers, dtype=np.int64)
    positions = np.asarray(positions, dtype=np.float64)
    if positions.shape != (numbers.size, 3) or not np.isfinite(positions).all():
        raise InputError(
            f"finite positions of shape ({numbers.size}, 3) were expected, got {positions.shape}"
        )
    where = np.arange(numbers.size) if indices is None else np.asarray(indices, dtype=np.int64)
    given = sorted({(min(i, j), max(i, j)) for i, j in bonds})
    notes = []
    bonded = {atom for pair in given for atom in pair} | set(open_ends)
    lonely = ~np.isin(np.arange(numbers.size), list(bonded))
    added: list[tuple[int, int]] = []
    if stereo is None and lonely.any():
        added = sorted(set(bonds_by_distance(numbers, positions, cell, lonely)) - set(given))
    if added:
        notes.append(
            f"{len(added)} bonds were taken from distances at the start, since the topology has "
            "none for their atoms"
        )
    every = [*given, *added]
    found = stereo or stereo_from_geometry(numbers, every, positions, cell, open_ends)
    volumes = handedness(found.centers, positions, cell)
    cosines = sides(found.double_bonds, positions, cell)
    clear_centers, clear_sides = is_clear(volumes), is_clear(cosines)
    flat = where[found.centers[~clear_centers, 0]].tolist()
    flat += where[found.double_bonds[~clear_sides, 1]].tolist()
    if flat:
        notes.append(f"no configuration to watch at the start, flat or perpendicular, at {flat}")
    return MolecularIdentity(
        indices=where,
        atomic_numbers=numbers,
        names=tuple(names) if names is not None else _numbered(numbers, where),
        bonds=np.array(every, dtype=np.int64).reshape(-1, 2),
        stereo=Stereo(
            centers=found.centers[clear_centers], double_bonds=found.double_bonds[clear_sides]
        ),
        volumes=volumes[clear_centers],
        cosines=cosines[clear_sides],
        notes=tuple(notes),
    )


def _numbered(numbers: np.ndarray, indices: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{symbol(int(z))}{k}" for z, k in zip(numbers, indices, strict=True))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
