"""ASE databases (SQLite or JSON): rows as labelled frames, and back.

ASE keeps eV, Å, eV/Å, eV/Å³. Texts are stored under `data`, because ASE refuses a name that looks
like a number among its key-value pairs; they are read from both.
"""

import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mace_mm.data.labels import LabeledMolecule, MoleculeTable, formula
from mace_mm.errors import DataError, DependencyError, MaceMMError
from mace_mm.graph.molecule import Molecule


@dataclass(frozen=True, kw_only=True)
class AseKeys:
    """Where a row keeps its labels: "energy", "forces", "stress" are ASE's own places, any other
    name is looked up in key-value pairs and `data`. None: do not read it.
    """

    energy: str | None = "energy"
    forces: str | None = "forces"
    stress: str | None = None
    total_charge: str | None = "total_charge"
    name: str | None = "name"
    smiles: str | None = "smiles"
    subset: str | None = "subset"
    level_of_theory: str = "level_of_theory"
    head: str = "default"
    allow_missing: bool = False


class AseDatabase:
    """Frames of an ASE database, read row by row on demand.

    Args:
        path: a `.db` or `.json` file.
        keys: where the labels are.
        strict: raise on a row that cannot be read; otherwise list it in `problems`.

    Attributes:
        entries: the molecules.
        entry_of_frame: (n_frames,) int64, position in `entries` of each frame.
        problems: one line for each row left out.

    Raises:
        DataError: the file is missing or damaged, or (strict) a row lacks its labels.
        DependencyError: ASE is not installed.
    """

    def __init__(self, path: str | Path, keys: AseKeys | None = None, *, strict: bool = True):
        self.path = Path(path)
        self.keys = keys or AseKeys()
        self.problems: list[str] = []
        self._ids: list[int] = []
        self._connection: Any = None
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file")
        self._scan(strict)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> LabeledMolecule:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)} in {self.path}")
        try:
            return _frame(self._open().get(id=self._ids[index]), self.keys)
        except (MaceMMError, *_DATABASE_ERRORS) as error:
            raise DataError(f"{self.path}: row {self._ids[index]}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = _connect(self.path)
        return self._connection

    def _scan(self, strict: bool) -> None:
        table = MoleculeTable()
        molecule: list[int] = []
        try:
            for row in self._open().select():
                try:
                    frame = _frame(row, self.keys)
                except MaceMMError as error:
                    line = f"{self.path}: row {row.id}: {error}"
                    if strict:
                        raise DataError(line) from None
                    self.problems.append(line)
                    continue
                molecule.append(table.add(frame))
                self._ids.append(int(row.id))
        except _DATABASE_ERRORS as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.path}: not a readable ASE database: {error!r}") from None
        self.entries = table.entries
        self.entry_of_frame = np.array(molecule, dtype=np.int64)


def write_ase_database(
    path: str | Path, frames: Iterable[LabeledMolecule], keys: AseKeys | None = None
) -> int:
    """Write frames to a new database, which appears only when it is complete.

    Args:
        path: a `.db` or `.json` file; replaced if it exists.
        frames: energy, forces and stress go to ASE's own places.
        keys: names for texts and the charge.

    Returns:
        the number of frames written.
    """
    try:
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator
    except ImportError:
        raise DependencyError("ASE databases need ase, which is not installed") from None
    path, keys = Path(path), keys or AseKeys()
    partial = path.with_name(f"partial-{path.name}")
    partial.unlink(missing_ok=True)
    n = 0
    with _connect(partial) as database:
        for frame in frames:
            molecule = frame.molecule
            atoms = Atoms(
                numbers=molecule.atomic_numbers,
                positions=molecule.positions,
                cell=molecule.cell,
                pbc=molecule.cell is not None,
            )
            stress = frame.stress
            atoms.calc = SinglePointCalculator(
                atoms,
                energy=frame.energy,
                forces=frame.forces,
                stress=None if stress is None else stress[_VOIGT],
            )
            texts = {
                keys.name: frame.name,
                keys.smiles: frame.smiles,
                keys.subset: frame.subset,
                keys.level_of_theory: frame.level_of_theory,
                keys.total_charge: molecule.total_charge,
            }
            database.write(atoms, data={k: v for k, v in texts.items() if k and v != ""})
            n += 1
    os.replace(partial, path)
    return n


_VOIGT = (np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1]))
# What sqlite3, json and ASE raise on files that are not databases.
_DATABASE_ERRORS = (sqlite3.Error, OSError, ValueError, KeyError, TypeError, AttributeError)


def _connect(path: Path) -> Any:
    try:
        from ase.db import connect
    except ImportError:
        raise DependencyError("ASE databases need ase, which is not installed") from None
    return connect(str(path))


def _frame(row: Any, keys: AseKeys) -> LabeledMolecule:
    numbers = np.asarray(row.numbers, dtype=np.int64)
    periodic = np.asarray(row.pbc, dtype=bool)
    if periodic.any() and not periodic.all():
        raise DataError(f"a frame is periodic in all directions or in none, got pbc={row.pbc}")
    charge = _value(row, keys.total_charge)
    molecule = Molecule(
        atomic_numbers=numbers,
        positions=row.positions,
        total_charge=0.0 if charge is None else float(charge),
        cell=np.asarray(row.cell) if periodic.all() else None,
    )
    energy = _wanted(row, keys.energy, keys)
    stress = _wanted(row, keys.stress, keys) if molecule.cell is not None else None
    if stress is not None and np.shape(stress) == (6,):
        full = np.zeros((3, 3))
        full[_VOIGT] = stress
        stress = full + np.triu(full, 1).T
    return LabeledMolecule(
        molecule=molecule,
        energy=None if energy is None else float(energy),
        forces=_wanted(row, keys.forces, keys),
        stress=stress,
        name=str(_value(row, keys.name) or formula(numbers)),
        smiles=str(_value(row, keys.smiles) or ""),
        subset=str(_value(row, keys.subset) or ""),
        level_of_theory=str(_value(row, keys.level_of_theory) or ""),
        head=keys.head,
    )


def _value(row: Any, key: str | None) -> Any:
    if key is None:
        return None
    if key in ("energy", "forces", "stress"):
        return row.get(key)
    return row.key_value_pairs.get(key, row.data.get(key))


def _wanted(row: Any, key: str | None, keys: AseKeys) -> Any:
    value = _value(row, key)
    if value is None and key is not None and not keys.allow_missing:
        held = [k for k in ("energy", "forces", "stress") if row.get(k) is not None]
        held += [*row.key_value_pairs, *row.data]
        raise DataError(f"no label under the key {key!r}; the row holds {', '.join(held)}")
    return value
