"""Reference for electrostatic embedding: molecules with a probe charge near them, from PySCF.

    python benchmarks/accuracy/embedding_reference.py molecules FILE   geometries, charges, probes
    python benchmarks/accuracy/embedding_reference.py energies FILE    PBE0/def2-SVPD, resumable

The first needs antechamber and sqm of AmberTools on the PATH. FILE is
benchmarks/results/embedding_reference.json; benchmarks/accuracy/embedding_table.py reads it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem

from mace_mm.units import HARTREE_TO_EV

MOLECULES = {
    "ions": {
        "butylammonium": "CCCC[NH3+]",
        "acetate": "CC(=O)[O-]",
        "methylguanidinium": "CNC(N)=[NH2+]",
        "4-methylimidazolium": "Cc1c[nH]c[nH+]1",
        "tetramethylammonium": "C[N+](C)(C)C",
        "phenolate": "[O-]c1ccccc1",
        "ethanethiolate": "CC[S-]",
        "dimethyl phosphate": "COP(=O)([O-])OC",
        "methanesulfonate": "CS(=O)(=O)[O-]",
        "pyridinium": "c1cc[nH+]cc1",
    },
    "zwitterions": {
        "glycine": "[NH3+]CC(=O)[O-]",
        "beta-alanine": "[NH3+]CCC(=O)[O-]",
        "GABA": "[NH3+]CCCC(=O)[O-]",
        "betaine": "C[N+](C)(C)CC(=O)[O-]",
        "taurine": "[NH3+]CCS(=O)(=O)[O-]",
    },
    "long chains": {
        "dodecanenitrile": "CCCCCCCCCCCC#N",
        "hexan-1-ol": "CCCCCCO",
        "octanal": "CCCCCCCC=O",
        "hexylamine": "CCCCCCN",
        "diglyme": "COCCOCCOC",
        "hexanoic acid": "CCCCCC(=O)O",
    },
    "heterocycles": {
        "pyridine": "n1ccccc1",
        "1-methylimidazole": "Cn1ccnc1",
        "indole": "c1ccc2[nH]ccc2c1",
        "thiazole": "c1cscn1",
        "oxazole": "c1cocn1",
        "uracil": "O=c1cc[nH]c(=O)[nH]1",
        "2-pyridone": "O=c1cccc[nH]1",
        "2-chloropyridine": "Clc1ccccn1",
        "morpholine": "C1COCCN1",
    },
    "other": {
        "water": "O",
        "N-methylacetamide": "CNC(C)=O",
        "urea": "NC(N)=O",
        "dimethyl sulfoxide": "CS(C)=O",
        "2,2,2-trifluoroethanol": "OCC(F)(F)F",
        "nitromethane": "C[N+](=O)[O-]",
    },
}
DISTANCES = (3.0, 4.0, 6.0)
CHARGES = (1, -1)
POLAR = (7, 8, 9, 16, 17)
SITES_ON_HEAVY_ATOMS = 2
SITES_ON_HYDROGEN = 1
CONFORMERS = 20
DIRECTIONS = 1000


def geometry(smiles: str) -> Chem.Mol:
    """The most extended of some conformers, so that charged groups stand apart."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(molecule, CONFORMERS, randomSeed=1)
    AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=2000)
    spread = [conformer.GetPositions().std(axis=0).sum() for conformer in molecule.GetConformers()]
    best = molecule.GetConformers()[int(np.argmax(spread))].GetId()
    return Chem.Mol(molecule, confId=best)


def sites(molecule: Chem.Mol) -> list[int]:
    """Polar atoms, one of each kind: heavy ones, and a hydrogen on one."""
    kinds = list(Chem.CanonicalRankAtoms(molecule, breakTies=False))
    found: dict[bool, dict[int, int]] = {True: {}, False: {}}
    for atom in molecule.GetAtoms():
        hydrogen = atom.GetAtomicNum() == 1
        polar = atom.GetNeighbors()[0] if hydrogen else atom
        if polar.GetAtomicNum() in POLAR:
            found[hydrogen].setdefault(kinds[atom.GetIdx()], atom.GetIdx())
    heavy = list(found[False].values())[:SITES_ON_HEAVY_ATOMS]
    return heavy + list(found[True].values())[:SITES_ON_HYDROGEN]


def open_direction(positions: np.ndarray, atom: int) -> np.ndarray:
    """Where a probe at the closest distance is farthest from the other atoms."""
    k = np.arange(DIRECTIONS)
    z = 1.0 - 2.0 * (k + 0.5) / DIRECTIONS
    angle = np.pi * (3.0 - np.sqrt(5.0)) * k
    sphere = np.stack(
        [np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1
    )
    points = positions[atom] + DISTANCES[0] * sphere
    others = np.delete(positions, atom, axis=0)
    distance = np.linalg.norm(points[:, None] - others, axis=2)
    # The sum decides between directions on which the nearest atom is the same.
    return sphere[np.argmax(distance.min(axis=1) + 1e-3 * distance.mean(axis=1))]


def am1_bcc(molecule: Chem.Mol, relaxed: bool) -> list[float]:
    """Charges of antechamber (A. Jakalian, D. B. Jack, C. I. Bayly, J. Comput. Chem. 23, 1623,
    2002); AM1 would move the proton of a zwitterion, whose geometry is therefore kept."""
    with tempfile.TemporaryDirectory() as folder:
        Chem.MolToMolFile(molecule, str(Path(folder) / "in.mol"), kekulize=True)
        cycles = (
            [] if relaxed else ["-ek", "qm_theory='AM1', maxcyc=0, scfconv=1.d-10, tight_p_conv=1"]
        )
        subprocess.run(
            ["antechamber", "-i", "in.mol", "-fi", "mdl", "-o", "out.mol2", "-fo", "mol2"]
            + ["-c", "bcc", "-nc", str(Chem.GetFormalCharge(molecule)), "-pf", "y", *cycles],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        lines = (Path(folder) / "out.mol2").read_text().split("@<TRIPOS>ATOM\n")[1]
        atoms = lines.split("@<TRIPOS>")[0].splitlines()
    charges = np.array([float(line.split()[8]) for line in atoms])
    # Six decimals do not sum to a whole number.
    excess = charges.sum() - Chem.GetFormalCharge(molecule)
    if abs(excess) > 0.01:
        raise RuntimeError(f"charges sum to {charges.sum()}")
    return (charges - excess / len(charges)).tolist()


def write(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write the file as a whole."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(entries, indent=1) + "\n")
    os.replace(new, path)


def make_molecules(path: Path) -> None:
    """Write geometries, charges and probes."""
    entries = []
    for kind, members in MOLECULES.items():
        for name, smiles in members.items():
            molecule = geometry(smiles)
            positions = np.round(molecule.GetConformer().GetPositions(), 5)
            probes = [
                {
                    "atom": atom,
                    "distance": distance,
                    "position": np.round(
                        positions[atom] + distance * open_direction(positions, atom), 5
                    ).tolist(),
                }
                for atom in sites(molecule)
                for distance in DISTANCES
            ]
            entries.append(
                {
                    "name": name,
                    "kind": kind,
                    "smiles": smiles,
                    "charge": Chem.GetFormalCharge(molecule),
                    "numbers": [a.GetAtomicNum() for a in molecule.GetAtoms()],
                    "positions": positions.tolist(),
                    "am1bcc": am1_bcc(molecule, kind not in ("ions", "zwitterions")),
                    "probes": probes,
                }
            )
            print(name, len(probes), flush=True)
    write(path, entries)


def compute_energies(path: Path) -> None:
    """Add energies in eV with the probes, less that of the molecule alone, and dipoles in Debye."""
    from pyscf import dft, gto, lib

    lib.num_threads(1)
    entries = json.loads(path.read_text())
    for entry in sorted(entries, key=lambda entry: len(entry["numbers"])):
        if all(str(q) in probe for probe in entry["probes"] for q in CHARGES):
            continue
        atoms = list(zip(entry["numbers"], entry["positions"], strict=True))
        molecule = gto.M(atom=atoms, basis="def2-svpd", charge=entry["charge"], verbose=0)
        coarse, fine = (dft.RKS(molecule, xc="pbe0").density_fit() for _ in range(2))
        coarse.grids.level, fine.grids.level = 0, 1
        coarse.conv_tol = 1e-6
        fine.with_df = coarse.with_df
        alone, energy = self_consistent(coarse, fine, None, 0, None)
        if entry["charge"] == 0:
            entry["dipole"] = float(np.linalg.norm(coarse.dip_moment(dm=alone, verbose=0)))
        answer, last = np.zeros_like(alone), np.inf
        for probe in entry["probes"]:
            # The density answers about as the field, up and down.
            answer *= (last / probe["distance"]) ** 2 if probe["distance"] > last else 0.0
            last = probe["distance"]
            for q in CHARGES:
                guess = alone + q * answer
                inside, total = self_consistent(coarse, fine, probe["position"], q, guess)
                probe[str(q)] = (total - energy) * HARTREE_TO_EV
                answer = q * (inside - alone)
        write(path, entries)
        print(entry["name"], flush=True)


def self_consistent(
    coarse: Any, fine: Any, position: list[float] | None, charge: int, guess: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Density on a coarse grid, and its energy on a fine one: its error is of second order."""
    from pyscf import qmmm

    if position is not None:
        coarse, fine = (
            qmmm.mm_charge(field.copy(), [position], [charge], unit="Angstrom")
            for field in (coarse, fine)
        )
    coarse.kernel(dm0=guess)
    if not coarse.converged:
        raise RuntimeError(f"the SCF with a charge {charge} at {position} did not converge")
    density = coarse.make_rdm1()
    return density, float(fine.energy_tot(dm=density))


if __name__ == "__main__":
    {"molecules": make_molecules, "energies": compute_energies}[sys.argv[1]](Path(sys.argv[2]))
