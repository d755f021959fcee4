"""One frame of an extended XYZ file: text to labels and back.

The format is the one ASE and QUIP write: a line with the number of atoms, a line of key=value
pairs with `Properties` naming the columns, one line per atom. Units are eV, Å, eV/Å, eV/Å³.
"""

import re
from dataclasses import dataclass

import numpy as np

from mace_mm.data.labels import LabeledMolecule, formula
from mace_mm.elements import atomic_number, symbol
from mace_mm.errors import DataError
from mace_mm.graph.molecule import Molecule

_PAIR = re.compile(r'([^\s="]+)\s*=\s*("(?:[^"\\]|\\.)*"|\{[^}]*\}|\[[^\]]*\]|[^\s]+)')


@dataclass(frozen=True, kw_only=True)
class ExtxyzKeys:
    """Names under which a file keeps what a frame needs; None: do not read it.

    Attributes:
        energy: total energy, eV.
        forces: column of forces, eV/Å.
        stress: nine or six (Voigt) numbers, eV/Å³.
        total_charge: e; frames without it are neutral.
        name: identity of the molecule; frames without it are named by their formula, so that
            isomers count as one molecule and are never split apart.
        smiles: mapped SMILES, optional in a file.
        subset: origin, optional in a file.
        level_of_theory: optional in a file; the text after "=" gives it for the whole file,
            for example "=PBE/def2-SVP".
        head: the readout of the model that learns these frames.
        allow_missing: frames without a label are read without it instead of raising.
    """

    energy: str | None = "REF_energy"
    forces: str | None = "REF_forces"
    stress: str | None = None
    total_charge: str | None = "total_charge"
    name: str | None = "name"
    smiles: str | None = "smiles"
    subset: str | None = "subset"
    level_of_theory: str = "level_of_theory"
    head: str = "default"
    allow_missing: bool = False


def parse_frame(lines: list[str], keys: ExtxyzKeys) -> LabeledMolecule:
    """Read one frame from its comment line and atom lines; DataError says what is wrong."""
    info = {key: _unquote(value) for key, value in _PAIR.findall(lines[0])}
    columns = _columns(info.get("Properties", "species:S:1:pos:R:3"))
    rows = [line.split() for line in lines[1:]]
    width = max(last for _, last, _ in columns.values())
    for k, row in enumerate(rows):
        if len(row) != width:
            raise DataError(f"atom {k} has {len(row)} columns, Properties names {width}")
    numbers = _species(columns, rows)
    charge = info.get(keys.total_charge, "0") if keys.total_charge else "0"
    molecule = Molecule(
        atomic_numbers=numbers,
        positions=_numeric(columns, rows, "pos"),
        total_charge=_number(charge, "total_charge"),
        cell=_cell(info),
    )
    energy = forces = stress = None
    if _has(keys.energy, info, keys, "energy"):
        energy = _number(info[str(keys.energy)], str(keys.energy))
    if _has(keys.forces, columns, keys, "forces"):
        forces = _numeric(columns, rows, str(keys.forces))
    in_vacuum = molecule.cell is None and keys.stress not in info
    if not in_vacuum and _has(keys.stress, info, keys, "stress"):
        stress = _stress(info[str(keys.stress)])
    level = keys.level_of_theory
    return LabeledMolecule(
        molecule=molecule,
        energy=energy,
        forces=forces,
        stress=stress,
        name=info.get(keys.name or "", "") or formula(numbers),
        smiles=info.get(keys.smiles or "", ""),
        subset=info.get(keys.subset or "", ""),
        level_of_theory=level[1:] if level.startswith("=") else info.get(level, ""),
        head=keys.head,
    )


def _has(key: str | None, where: dict[str, object] | dict, keys: ExtxyzKeys, what: str) -> bool:
    if key is None:
        return False
    if key in where:
        return True
    if keys.allow_missing:
        return False
    raise DataError(f"no {what} under the key {key!r}; the frame holds {', '.join(where)}")


def _columns(properties: str) -> dict[str, tuple[int, int, str]]:
    parts = properties.split(":")
    if len(parts) % 3:
        raise DataError(f"Properties must be name:type:count triples, got {properties!r}")
    columns, start = {}, 0
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if kind not in "RISL" or not count.isdigit():
            raise DataError(f"Properties must be name:type:count triples, got {properties!r}")
        columns[name] = (start, start + int(count), kind)
        start += int(count)
    return columns


def _species(columns: dict[str, tuple[int, int, str]], rows: list[list[str]]) -> np.ndarray:
    if "species" in columns:
        first = columns["species"][0]
        return np.array([atomic_number(row[first]) for row in rows], dtype=np.int64)
    for key in ("Z", "numbers"):
        if key in columns:
            return _numeric(columns, rows, key).reshape(-1).astype(np.int64)
    raise DataError(f"no column species, Z or numbers among {', '.join(columns)}")


def _numeric(
    columns: dict[str, tuple[int, int, str]], rows: list[list[str]], key: str
) -> np.ndarray:
    if key not in columns:
        raise DataError(f"no column {key!r} among {', '.join(columns)}")
    first, last, _ = columns[key]
    try:
        return np.array([row[first:last] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"column {key}: {error}") from None


def _number(text: str, key: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{key} must be a number, got {text!r}") from None


def _numbers(text: str, key: str) -> np.ndarray:
    words = re.sub(r"_JSON|[\[\]{},]", " ", text).split()
    return np.array([_number(word, key) for word in words])


def _cell(info: dict[str, str]) -> np.ndarray | None:
    """The cell, or None in vacuum. A Lattice without periodicity is a frame for pictures only."""
    if "Lattice" not in info:
        return None
    flags = re.sub(r"[\[\],\"]", " ", info.get("pbc", "T T T")).split()
    periodic = [flag.upper() in ("T", "TRUE", "1") for flag in flags]
    if not any(periodic):
        return None
    if not all(periodic) or len(periodic) != 3:
        raise DataError(f"a frame is periodic in all directions or in none, got pbc={flags}")
    lattice = _numbers(info["Lattice"], "Lattice")
    if lattice.size != 9:
        raise DataError(f"Lattice must hold 9 numbers, got {lattice.size}")
    return lattice.reshape(3, 3)


def _stress(text: str) -> np.ndarray:
    values = _numbers(text, "stress")
    if values.size == 6:
        xx, yy, zz, yz, xz, xy = values
        values = np.array([xx, xy, xz, xy, yy, yz, xz, yz, zz])
    if values.size != 9:
        raise DataError(f"a stress holds 9 or 6 numbers, got {values.size}")
    return values.reshape(3, 3)


def _unquote(text: str) -> str:
    return text[1:-1].replace('\\"', '"') if text.startswith('"') else text


def format_frame(frame: LabeledMolecule, keys: ExtxyzKeys) -> str:
    """Write one frame; labels it does not have are left out."""
    molecule = frame.molecule
    properties, blocks = "species:S:1:pos:R:3", [molecule.positions]
    if frame.forces is not None and keys.forces:
        properties += f":{keys.forces}:R:3"
        blocks.append(frame.forces)
    info = [f"Properties={properties}"]
    if molecule.cell is not None:
        lattice = " ".join(repr(float(x)) for x in molecule.cell.reshape(-1))
        info.insert(0, f'Lattice="{lattice}"')
    if frame.energy is not None and keys.energy:
        info.append(f"{keys.energy}={frame.energy!r}")
    if frame.stress is not None and keys.stress:
        numbers = " ".join(repr(float(x)) for x in frame.stress.reshape(-1))
        info.append(f'{keys.stress}="{numbers}"')
    if keys.total_charge:
        info.append(f"{keys.total_charge}={molecule.total_charge:g}")
    texts = {
        keys.name: frame.name,
        keys.smiles: frame.smiles,
        keys.subset: frame.subset,
        keys.level_of_theory: frame.level_of_theory,
    }
    for key, text in texts.items():
        if key and not key.startswith("=") and text:
            info.append('{}="{}"'.format(key, text.replace('"', '\\"')))
    info.append('pbc="F F F"' if molecule.cell is None else 'pbc="T T T"')
    table = np.concatenate(blocks, axis=1)
    lines = [f"{molecule.n_atoms}", " ".join(info)]
    for z, row in zip(molecule.atomic_numbers, table, strict=True):
        lines.append(symbol(int(z)) + " " + " ".join(f"{x: .10f}" for x in row))
    return "\n".join(lines) + "\n"
