"""Molecules of the FreeSolv database (Mobley and Guthrie, J. Comput. Aided Mol. Des. 28, 2014)."""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from mace_mm.errors import DataError, InputError
from mace_mm.free_energy.analysis.estimator import Estimate
from mace_mm.units import KCAL_MOL_TO_KJ_MOL


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What FreeSolv says about a molecule.

    Attributes:
        identifier: mobley_N.
        name: IUPAC name.
        smiles: SMILES.
        calculated: GAFF and AM1-BCC in TIP3P water.
        experiment: measured hydration free energy.
    """

    identifier: str
    name: str
    smiles: str
    calculated: Estimate
    experiment: Estimate


def find_molecule(folder: Path, molecule: str) -> Reference:
    """Look a molecule up by identifier or IUPAC name.

    Raises:
        InputError: the database or the molecule is not there.
        DataError: the database is damaged.
    """
    path = folder / "database.json"
    try:
        database = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"FreeSolv's database.json was expected in {folder}: {error}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    wanted = molecule.strip().lower()
    found = [
        (identifier, entry)
        for identifier, entry in database.items()
        if wanted in (identifier.lower(), entry["iupac"].strip().lower())
    ]
    if len(found) != 1:
        raise InputError(f"one molecule {molecule!r} was expected in {path}, got {len(found)}")
    identifier, entry = found[0]
    return Reference(
        identifier=identifier,
        name=entry["iupac"].strip(),
        smiles=entry["smiles"],
        calculated=_from_kcal(entry["calc"], entry["d_calc"]),
        experiment=_from_kcal(entry["expt"], entry["d_expt"]),
    )


def extract_amber(folder: Path, molecule: str, target: Path) -> tuple[Path, Path]:
    """Take a molecule's prmtop and inpcrd out of ``amber.tar.gz``.

    Raises:
        InputError: the files are not there.
    """
    identifier = find_molecule(folder, molecule).identifier
    archive = folder / "amber.tar.gz"
    paths = []
    try:
        with tarfile.open(archive) as tar:
            for suffix in ("prmtop", "inpcrd"):
                member = tar.extractfile(f"amber/{identifier}.{suffix}")
                if member is None:
                    raise InputError(f"{archive} holds no {identifier}.{suffix}")
                path = target / f"{identifier}.{suffix}"
                path.write_bytes(member.read())
                paths.append(path)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise InputError(f"{archive} does not give {identifier}: {error}") from error
    return paths[0], paths[1]


def _from_kcal(value: float, error: float) -> Estimate:
    return Estimate(
        value_kj_mol=value * KCAL_MOL_TO_KJ_MOL, error_kj_mol=error * KCAL_MOL_TO_KJ_MOL
    )
