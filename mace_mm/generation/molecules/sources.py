"""Readers of molecule sources: SMILES, CSV, SDF, FreeSolv, SPICE-like HDF5, enumeration."""

import csv
import json
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from mace_mm.data.formats.spice import SpiceFile, SpiceKeys
from mace_mm.errors import ConfigError, DataError
from mace_mm.generation.frames.seeding import derive_seed
from mace_mm.generation.molecules.enumeration import enumerate_fragments, enumerate_peptides
from mace_mm.generation.molecules.molecules import Candidate, Rejection
from mace_mm.generation.protocol import (
    EnumerateSource,
    FileSource,
    FreeSolvSource,
    Protocol,
    SmilesSource,
    Source,
    SpiceSource,
)


def read_sources(protocol: Protocol) -> tuple[list[Candidate], list[Rejection]]:
    """All candidates of all sources, in order, and what could not be read.

    Raises:
        ConfigError: a source file that is missing or of an unknown kind.
    """
    candidates: list[Candidate] = []
    rejected: list[Rejection] = []
    for source in protocol.molecules.sources:
        if not isinstance(source, SmilesSource | EnumerateSource):
            source = source.model_copy(update={"path": protocol.located(source.path)})
        for entry in _read(source, protocol.seed):
            if isinstance(entry, Rejection):
                rejected.append(entry)
            else:
                candidates.append(entry)
    return candidates, rejected


def _read(source: Source, seed: int) -> Iterator[Candidate | Rejection]:
    match source:
        case SmilesSource():
            return _read_smiles(source)
        case FileSource():
            return _read_file(source)
        case FreeSolvSource():
            return _read_freesolv(source)
        case SpiceSource():
            return _read_spice(source, seed)
        case EnumerateSource():
            return _enumerate(source, seed)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"a source names {path}, which is not a file")
    return path


def _read_smiles(source: SmilesSource) -> Iterator[Candidate]:
    entries = (
        source.smiles.items()
        if isinstance(source.smiles, dict)
        else (("", smiles) for smiles in source.smiles)
    )
    for i, (name, smiles) in enumerate(entries):
        yield Candidate(
            name=name, subset=source.subset, smiles=smiles, origin=f"{smiles} (entry {i + 1})"
        )


def _read_file(source: FileSource) -> Iterator[Candidate | Rejection]:
    path = _existing(source.path)
    suffix = path.suffix.lower()
    if suffix in (".smi", ".txt"):
        yield from _read_smi(path, source.subset)
    elif suffix == ".csv":
        yield from _read_csv(path, source)
    elif suffix == ".sdf":
        yield from _read_sdf(path, source.subset)
    else:
        raise ConfigError(f"a molecule file ends in .smi, .txt, .csv or .sdf; got {path.name}")


def _read_smi(path: Path, subset: str) -> Iterator[Candidate]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fields = line.split(maxsplit=1)
        if not fields or fields[0].startswith("#"):
            continue
        yield Candidate(
            name=fields[1].strip() if len(fields) > 1 else "",
            subset=subset,
            smiles=fields[0],
            origin=f"{path.name}:{number}",
        )


def _read_csv(path: Path, source: FileSource) -> Iterator[Candidate | Rejection]:
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        wanted = [c for c in (source.smiles_column, source.name_column) if c is not None]
        missing = [c for c in wanted if c not in (rows.fieldnames or [])]
        if missing:
            raise ConfigError(
                f"{path.name} wants columns {', '.join(missing)}; it has {rows.fieldnames}"
            )
        for number, row in enumerate(rows, start=2):
            smiles = (row[source.smiles_column] or "").strip()
            origin = f"{path.name}:{number}"
            if not smiles:
                yield Rejection(name=origin, stage="molecules", reason="an empty SMILES column")
                continue
            name = (row[source.name_column] or "").strip() if source.name_column else ""
            yield Candidate(name=name, subset=source.subset, smiles=smiles, origin=origin)


def _read_sdf(path: Path, subset: str) -> Iterator[Candidate | Rejection]:
    with rdBase.BlockLogs():
        for number, mol in enumerate(Chem.SDMolSupplier(str(path), removeHs=True), start=1):
            origin = f"{path.name}, record {number}"
            if mol is None:
                yield Rejection(
                    name=origin, stage="molecules", reason="RDKit cannot read this SDF record"
                )
                continue
            if mol.GetNumConformers() and mol.GetConformer().Is3D():
                Chem.AssignStereochemistryFrom3D(mol)
            name = mol.GetProp("_Name").strip() if mol.HasProp("_Name") else ""
            yield Candidate(name=name, subset=subset, smiles=Chem.MolToSmiles(mol), origin=origin)


def _read_freesolv(source: FreeSolvSource) -> Iterator[Candidate]:
    try:
        database = json.loads(_existing(source.path).read_text())
        entries = sorted((str(key), str(value["smiles"])) for key, value in database.items())
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source.path} is not FreeSolv's database.json: {error!r}") from error
    for name, smiles in entries:
        yield Candidate(name=name, subset=source.subset, smiles=smiles, origin=name)


def _read_spice(source: SpiceSource, seed: int) -> Iterator[Candidate | Rejection]:
    path = _existing(source.path)
    try:
        file = open_conformers(str(path))
    except DataError as error:
        yield Rejection(name=path.name, stage="molecules", reason=str(error))
        return
    for problem in file.problems:
        yield Rejection(name=path.name, stage="molecules", reason=problem)
    entries = sorted(file.entries, key=lambda entry: entry.name)
    if source.max_groups is not None and source.max_groups < len(entries):
        chooser = random.Random(derive_seed(seed, "groups", path.name))
        entries = sorted(chooser.sample(entries, source.max_groups), key=lambda e: e.name)
    for entry in entries:
        yield Candidate(
            name=entry.name,
            subset=source.subset or path.stem,
            smiles=entry.smiles,
            origin=f"{path.name}/{entry.name}",
            conformers=(str(path), entry.name),
            n_frames=source.max_frames,
            resample=source.resample,
        )


@lru_cache(maxsize=4)
def open_conformers(path: str) -> SpiceFile:
    """The index of a SPICE-like file with or without labels; damaged groups are its problems.

    Raises:
        DataError: the file is not readable HDF5.
    """
    return SpiceFile(path, SpiceKeys(energy=None, gradient=None), strict=False)


@lru_cache(maxsize=4)
def _positions_of_groups(path: str) -> dict[str, int]:
    return {entry.name: i for i, entry in enumerate(open_conformers(path).entries)}


def given_frames(conformers: tuple[str, str], n_frames: int) -> np.ndarray:
    """Up to ``n_frames`` conformers of a group, evenly spaced, (n, n_atoms, 3) Å.

    Raises:
        DataError: the group's arrays are damaged or in no known unit of length.
    """
    path, group = conformers
    frames = open_conformers(path).conformers(_positions_of_groups(path)[group]).positions
    bad = np.flatnonzero(~np.isfinite(frames).all(axis=(1, 2)))
    if bad.size:
        raise DataError(f"{path}/{group}: positions of conformer {bad[0]} are not finite")
    chosen = np.unique(np.linspace(0, len(frames) - 1, n_frames).round().astype(int))
    return frames[chosen]


def _enumerate(source: EnumerateSource, seed: int) -> Iterator[Candidate]:
    if source.what == "peptides":
        entries = enumerate_peptides(source.residues)
    else:
        entries = enumerate_fragments()
    chooser = random.Random(derive_seed(seed, "enumerate", source.what, source.residues))
    entries = sorted(entries)
    if source.count < len(entries):
        entries = sorted(chooser.sample(entries, source.count))
    for name, smiles in entries:
        yield Candidate(
            name=name, subset=source.subset or source.what, smiles=smiles, origin=f"{name} {smiles}"
        )
