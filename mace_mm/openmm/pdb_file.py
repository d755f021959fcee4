"""PDB files without loss: every atom of the first model arrives, or an error says why not.

OpenMM's reader knows atoms by residue and name, so that of atoms with equal names the last one is
left, and takes any CRYST1 record for a box.
"""

import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openmm import app, unit

from mace_mm.errors import InputError

_ATOMS = ("ATOM  ", "HETATM")
# Residues whose bonds OpenMM knows by the names of their atoms.
_KNOWN = frozenset(app.PDBFile._standardResidues) | {"WAT", "TIP3", "SOL"}
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME = slice(12, 16)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class PdbStructure:
    """The first model of a PDB file.

    Attributes:
        topology: with the file's names, but those that several atoms of a residue shared; periodic
            if the file has a box.
        positions_nm: (n_atoms, 3).
        warnings: what of the file was passed over.
    """

    topology: app.Topology
    positions_nm: np.ndarray
    warnings: tuple[str, ...] = ()


@dataclass(kw_only=True, eq=False)
class _Record:
    """One ATOM or HETATM line."""

    line: int
    name: str
    alternative: str
    residue: tuple[int, str]  # its number in the file, and its name

    @property
    def place(self) -> str:
        return f"{self.residue[1]} (line {self.line + 1})"


def read_pdb(path: Path) -> PdbStructure:
    """Read the first model of a PDB file.

    Atoms of one residue with equal names are numbered. Of alternative locations OpenMM's choice is
    taken, of several models the first; ``warnings`` say so. A CRYST1 record of 1 x 1 x 1 Å, or
    with a length of 0, stands for no box.

    Raises:
        InputError: a file that cannot be read, holds no atoms, or whose atoms are not kept apart by
            the residue numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    n_models = sum(line.startswith("MODEL ") for line in lines)
    lines = [line for line in _first_model(lines) if not _is_no_box(line)]
    records = _records(lines)
    if not records:
        raise InputError(f"{path} is not a PDB file: no line begins with ATOM or HETATM")
    n_alternatives = _count_alternatives(records)
    warnings = []
    if n_models > 1:
        warnings.append(f"{path} holds {n_models} models: the first one is read")
    if n_alternatives:
        warnings.append(
            f"{path} has {n_alternatives} alternative locations of atoms: one of each is taken"
        )
    _number_equal_names(lines, records, path)
    try:
        pdb = app.PDBFile(io.StringIO("\n".join([*lines, "END", ""])))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"{path} is not a PDB file that OpenMM can read: {error}") from error
    found, wanted = pdb.topology.getNumAtoms(), len(records) - n_alternatives
    if found != wanted:
        raise InputError(
            f"{path} holds {wanted} atoms, of which OpenMM reads {found}: number the residues so "
            "that none holds an atom name twice"
        )
    positions = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return PdbStructure(
        topology=pdb.topology,
        positions_nm=np.array(positions, dtype=np.float64),
        warnings=tuple(warnings),
    )


def _first_model(lines: Sequence[str]) -> list[str]:
    end = next((k for k, line in enumerate(lines) if line.startswith("ENDMDL")), len(lines))
    # Bonds stand after all models.
    return [*lines[:end], *(line for line in lines[end:] if line.startswith("CONECT"))]


def _is_no_box(line: str) -> bool:
    if not line.startswith("CRYST1"):
        return False
    try:
        lengths = [float(line[start : start + 9]) for start in (6, 15, 24)]
    except ValueError:
        return False
    return lengths == [1.0, 1.0, 1.0] or not all(lengths)


def _records(lines: Sequence[str]) -> list[_Record]:
    records: list[_Record] = []
    number, last = -1, None
    for k, line in enumerate(lines):
        if line.startswith("TER"):
            last = None
        if line[:6] not in _ATOMS:
            continue
        where, name = (line[21:22], line[22:27]), line[17:21].strip()
        alternative = line[16:17].strip()
        # Another name at the same number is a mutant if it is an alternative, else a new residue.
        if last is None or last[0] != where or (last[1] != name and not alternative):
            number += 1
            last = (where, name)
        records.append(
            _Record(
                line=k,
                name=line[_NAME].strip(),
                alternative=alternative,
                residue=(number, last[1]),
            )
        )
        if last[1] != name:
            records[-1].alternative = f"{alternative}{name}"
    return records


def _count_alternatives(records: Sequence[_Record]) -> int:
    """Lines that hold another location of an atom, or an atom of a mutant."""
    n_alternatives = 0
    seen: dict[tuple[int, str], str] = {}
    for record in records:
        first = seen.setdefault((record.residue[0], record.name), record.alternative)
        if len(record.alternative) > 1 or first != record.alternative:
            n_alternatives += 1
    return n_alternatives


def _number_equal_names(lines: list[str], records: Sequence[_Record], path: Path) -> None:
    """Give atoms of one residue different names, in place."""
    counts = Counter((r.residue[0], r.name, r.alternative) for r in records)
    shared = [r for r in records if counts[r.residue[0], r.name, r.alternative] > 1]
    if not shared:
        return
    known = next((r for r in shared if r.residue[1] in _KNOWN), None)
    if known is not None:
        raise InputError(
            f"{path}: several atoms of one residue {known.place} are called {known.name}: the "
            "residues need numbers of their own, and the atoms their names"
        )
    _log.info("%s: %d atoms share names in their residue and are numbered", path, len(shared))
    taken = {(r.residue[0], r.name) for r in records}
    last: dict[tuple[int, str], int] = {}
    for record in shared:
        letters = record.name.rstrip("0123456789") or record.name[:1]
        key = record.residue[0], letters
        while True:
            last[key] = last.get(key, 0) + 1
            name = letters[:3] + _in_base_36(last[key])
            if (record.residue[0], name) not in taken:
                break
        if len(name) > 4:
            raise InputError(f"{path}: too many atoms of {record.place} are called {record.name}")
        taken.add((record.residue[0], name))
        line = lines[record.line]
        # Names of elements with one letter begin in the second column.
        column = f" {name:<3}" if line[12:13] == " " and len(name) < 4 else f"{name:<4}"
        lines[record.line] = line[:12] + column + line[16:]


def _in_base_36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text
