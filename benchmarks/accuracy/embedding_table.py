"""Errors of electrostatic embedding, and of the force field's charges alone: the table of the docs.

    python benchmarks/accuracy/embedding_table.py REFERENCE OUTPUT [--freesolv FOLDER]

REFERENCE is benchmarks/results/embedding_reference.json (`embedding_reference.py` makes it),
OUTPUT benchmarks/results/embedding.json. FOLDER holds FreeSolv's database.json and amber.tar.gz:
with it the dipoles of its molecules are compared with experiment, and with GFN2-xTB, which needs
tblite. The embedding adds no permanent dipole: these are the dipoles of GAFF with AM1-BCC charges.
"""

import argparse
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mace_mm.electrostatics.charge_model import polarizabilities
from mace_mm.ml_mm.electrostatic_force import EmbeddedRegion, polarization
from mace_mm.units import COULOMB_EV_ANGSTROM, EV_TO_KJ_MOL

DEBYE_PER_E_ANGSTROM = 4.80320
# Debye, in the gas: CRC Handbook of Chemistry and Physics, "Dipole Moments"; names as in FreeSolv.
# Molecules of one conformer, or of conformers that hardly differ.
EXPERIMENT = {
    "hydrogen sulfide": 0.97, "ammonia": 1.47, "methanol": 1.70, "iodomethane": 1.64,
    "methanethiol": 1.52, "methanamine": 1.31, "fluoromethane": 1.86, "chloromethane": 1.90,
    "N-methylmethanamine": 1.01, "ethanol": 1.69, "methoxymethane": 1.30, "propane": 0.08,
    "bromomethane": 1.82, "formaldehyde": 2.33, "methylsulfanylmethane": 1.55, "ethanamine": 1.22,
    "bromoethane": 2.04, "prop-1-yne": 0.78, "acetonitrile": 3.92, "acetaldehyde": 2.75,
    "prop-1-ene": 0.37, "chloroethane": 2.05, "propanenitrile": 4.05, "chloroethylene": 1.45,
    "but-1-yne": 0.78, "methyl formate": 1.77, "N,N-dimethylmethanamine": 0.61, "isobutane": 0.13,
    "2-methylprop-1-ene": 0.50, "acetone": 2.88, "acetic acid": 1.70, "acetamide": 3.7,
    "dichloromethane": 1.60, "tetrahydrofuran": 1.75, "thiophene": 0.55, "1,4-dioxane": 0.0,
    "N,N-dimethylformamide": 3.82, "pyridine": 2.22, "methyl acetate": 1.72,
    "N-methylacetamide": 3.73, "toluene": 0.38, "ethyl acetate": 1.78, "anisole": 1.38,
    "pyrrole": 1.77, "phenol": 1.22, "fluorobenzene": 1.60, "chlorobenzene": 1.69,
    "bromobenzene": 1.70, "chloroform": 1.04, "nitromethane": 3.46, "methylsulfinylmethane": 3.96,
    "1,1,1-trichloroethane": 1.76, "1,1-dichloroethane": 2.06, "1,1-difluoroethane": 2.27,
    "cyclopentene": 0.20, "o-xylene": 0.64, "(Z)-1,2-dichloroethylene": 1.90,
    "1,1-dichloroethylene": 1.34, "1,2-dichlorobenzene": 2.50, "1,3-dichlorobenzene": 1.72,
    "2-chloropropane": 2.17, "2-chloro-2-methyl-propane": 2.13,
}  # fmt: skip


def rows_of(entry: dict[str, Any]) -> np.ndarray:
    """Distance (Å), charge, and kJ/mol: reference, fixed charges, induced dipoles."""
    positions = np.array(entry["positions"])
    charges = np.array(entry["am1bcc"])
    n_atoms = len(charges)
    rows = []
    for probe in entry["probes"]:
        place = np.array(probe["position"])
        potential = (charges / np.linalg.norm(positions - place, axis=1)).sum()
        for charge in (1, -1):
            region = EmbeddedRegion(
                atoms=tuple(range(n_atoms)),
                polarizability=polarizabilities(entry["numbers"]),
                sources=(n_atoms,),
                source_charges=torch.tensor([float(charge)], dtype=torch.float64),
                cutoff=None,
            )
            found = polarization(
                region, torch.from_numpy(positions), torch.from_numpy(place[None]), None
            )
            fixed = COULOMB_EV_ANGSTROM * charge * potential
            energies = np.array([probe[str(charge)], fixed, found.energy]) * EV_TO_KJ_MOL
            rows.append([probe["distance"], charge, *energies])
    return np.array(rows)


def errors_of(rows: np.ndarray) -> dict[str, float]:
    """Root mean squares over the rows, kJ/mol."""
    fixed = rows[:, 2] - rows[:, 3]
    embedded = fixed - rows[:, 4]
    return {
        "energies": len(rows),
        "fixed": round(float(np.sqrt((fixed**2).mean())), 2),
        "embedded": round(float(np.sqrt((embedded**2).mean())), 2),
    }


def energies(reference: Path) -> dict[str, Any]:
    """Errors by molecule, kind, distance and sign of the probe."""
    # Entries whose energies have not been computed yet stay out, and are named in the result.
    every = json.loads(reference.read_text())
    entries = [e for e in every if all(str(q) in p for p in e["probes"] for q in (1, -1))]
    rows = {entry["name"]: rows_of(entry) for entry in entries}
    everything = np.concatenate(list(rows.values()))
    kinds: dict[str, list[str]] = {}
    for entry in entries:
        kinds.setdefault(entry["kind"], []).append(entry["name"])
    dipoles = [
        [DEBYE_PER_E_ANGSTROM * np.linalg.norm(e["am1bcc"] @ np.array(e["positions"])), e["dipole"]]
        for e in entries
        if e["charge"] == 0
    ]
    return {
        "all": errors_of(everything),
        "kinds": {
            kind: errors_of(np.concatenate([rows[name] for name in names]))
            for kind, names in kinds.items()
        },
        "distances": {
            str(d): errors_of(everything[everything[:, 0] == d]) for d in (3.0, 4.0, 6.0)
        },
        "probes": {str(q): errors_of(everything[everything[:, 1] == q]) for q in (1, -1)},
        "molecules": {name: errors_of(part) for name, part in rows.items()},
        "dipoles of PBE0": rmse_of(dipoles),
        "not computed": [entry["name"] for entry in every if entry not in entries],
    }


def freesolv_dipoles(folder: Path) -> dict[str, Any]:
    """Dipoles of FreeSolv's charges against experiment, and GFN2-xTB at the same geometry, Debye.

    FreeSolv's own geometries are not minima (planar amines, anti acids): these are the best of
    some conformers by MMFF94.
    """
    from tblite.interface import Calculator

    from mace_mm.units import BOHR_TO_ANGSTROM

    database = json.loads((folder / "database.json").read_text())
    measured, computed = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("amber.tar.gz", "sdffiles.tar.gz"):
            with tarfile.open(folder / name) as archive:
                archive.extractall(temporary, filter="data")
        for number, (identifier, entry) in enumerate(sorted(database.items())):
            name = entry["iupac"].strip()
            if name not in EXPERIMENT and number % 4:
                continue
            numbers, positions = best_conformer(Path(temporary) / f"sdffiles/{identifier}.sdf")
            charges = amber_charges(Path(temporary) / f"amber/{identifier}.prmtop")
            dipole = np.linalg.norm(charges @ positions) * DEBYE_PER_E_ANGSTROM
            if name in EXPERIMENT:
                measured[name] = [dipole, EXPERIMENT[name]]
            if number % 4 == 0:
                xtb = Calculator("GFN2-xTB", numbers, positions / BOHR_TO_ANGSTROM)
                xtb.set("verbosity", 0)
                moment = np.linalg.norm(xtb.singlepoint().get("dipole"))
                computed.append([dipole, moment * BOHR_TO_ANGSTROM * DEBYE_PER_E_ANGSTROM])
    missing = set(EXPERIMENT) - set(measured)
    if missing:
        raise RuntimeError(f"not in FreeSolv: {sorted(missing)}")
    return {
        "dipoles of experiment": rmse_of(list(measured.values())),
        "dipoles of GFN2": rmse_of(computed),
        "measured": {name: [round(float(x), 2) for x in pair] for name, pair in measured.items()},
    }


def best_conformer(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions (n_atoms, 3) Å of a molecule in an SDF file."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.MolFromMolFile(str(path), removeHs=False)
    conformers = list(AllChem.EmbedMultipleConfs(molecule, 10, randomSeed=1))
    found = AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=2000)
    best = conformers[int(np.argmin([energy for _, energy in found]))]
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    return numbers, molecule.GetConformer(best).GetPositions()


def amber_charges(path: Path) -> np.ndarray:
    """Of a neutral molecule, without what rounding leaves of the sum."""
    import openmm
    from openmm import app

    system = app.AmberPrmtopFile(str(path)).createSystem()
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    count = force.getNumParticles()
    charges = np.array([force.getParticleParameters(i)[0]._value for i in range(count)])
    return charges - charges.mean()


def rmse_of(pairs: list[list[float]]) -> dict[str, float]:
    """Number of pairs and the root mean square of their differences."""
    difference = np.subtract(*np.array(pairs).T)
    return {"molecules": len(pairs), "rmse": round(float(np.sqrt((difference**2).mean())), 2)}


def table(result: dict[str, Any]) -> str:
    """In Markdown."""
    lines = ["| | energies | fixed charges | with induced dipoles |", "|---|---|---|---|"]
    parts = [("all", result["all"]), *result["kinds"].items()]
    parts += [(f"{d} Å", e) for d, e in result["distances"].items()]
    parts += [(f"probe of {int(q):+d} e", e) for q, e in result["probes"].items()]
    for name, part in parts:
        row = f"| {name} | {part['energies']} | {part['fixed']:.1f} | {part['embedded']:.1f} |"
        lines.append(row)
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--freesolv", type=Path)
    options = parser.parse_args()
    result = energies(options.reference)
    if options.freesolv is not None:
        result |= freesolv_dipoles(options.freesolv)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    for name in result:
        if name.startswith("dipoles"):
            print(name, result[name])


if __name__ == "__main__":
    main()
