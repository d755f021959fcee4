"""Fit the charge model of electrostatic embedding to electrostatic potentials from PySCF.

    python scripts/fit_charge_model.py label FOLDER     compute the reference (PBE0/def2-SVPD)
    python scripts/fit_charge_model.py fit FOLDER       fit, print the table and the errors

`label` skips what is in the folder already, so that it can be stopped and resumed.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from scipy.optimize import least_squares

from mace_mm.elements import covalent_radius
from mace_mm.simulation.electrostatics import equilibrated_charges
from mace_mm.units import BOHR_TO_ANGSTROM, COULOMB_EV_ANGSTROM, HARTREE_TO_EV

SMILES = """
O N C CO C=O CC(=O)N c1ccccc1 C[NH3+] CC(=O)[O-] CS CF CCl CBr CI CC=C C#N n1ccccc1 Oc1ccccc1
Nc1ccccc1 c1c[nH]cn1 CC(=O)O COC CN CNC(=O)C CS(=O)(=O)N C[N+](=O)[O-] Clc1ccccc1 Fc1ccccc1
C(F)(F)F c1ccsc1 c1ccoc1 NC(=[NH2+])N COP(=O)(O)O CC(=O)C c1cc[nH]c1 CC#N C#C CSC C[O-]
OP(=O)([O-])OC C[S-] [NH4+] Cn1cccn1 CN(C)C c1ncncn1 NC(=O)N CP(=O)(C)C Brc1ccccc1 CC(F)(F)F
O=c1cc[nH]c(=O)[nH]1 CCC ClC(Cl)Cl CS(=O)C C1CCOC1 CC(=O)OC CSSC Nc1ccncc1 Ic1ccccc1 CON
O=C(C)Nc1ccccc1 c1c[nH]c[nH+]1 CNC Cc1ccccc1 C[N+](C)(C)C
""".split()
# Shells of grid points at these multiples of the van der Waals radii, as in the ESP charges of
# U. C. Singh and P. A. Kollman, J. Comput. Chem. 5, 129 (1984), and one further out.
SHELLS = (1.4, 1.6, 1.8, 2.0, 2.5)
POINTS_PER_ATOM_AND_SHELL = 30
RADII = {1: 1.2, 6: 1.7, 7: 1.55, 8: 1.52, 9: 1.47, 15: 1.8, 16: 1.8, 17: 1.75, 35: 1.85, 53: 1.98}


def grid_around(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Points on the outside of shells around the atoms, (n_points, 3) Å."""
    golden = np.pi * (3.0 - np.sqrt(5.0))
    k = np.arange(POINTS_PER_ATOM_AND_SHELL)
    z = 1.0 - 2.0 * (k + 0.5) / len(k)
    sphere = np.stack(
        [np.sqrt(1 - z**2) * np.cos(golden * k), np.sqrt(1 - z**2) * np.sin(golden * k), z], axis=1
    )
    radii = np.array([RADII[int(n)] for n in numbers])
    points = []
    for factor in SHELLS:
        shell = (positions[:, None] + factor * radii[:, None, None] * sphere).reshape(-1, 3)
        distances = np.linalg.norm(shell[:, None] - positions[None], axis=2)
        points.append(shell[(distances >= factor * radii - 1e-6).all(axis=1)])
    return np.concatenate(points)


def label(folder: Path) -> None:
    """Compute and store potentials, one file a molecule."""
    from pyscf import dft, gto

    folder.mkdir(parents=True, exist_ok=True)
    for number, smiles in enumerate(SMILES):
        path = folder / f"{number:03d}.npz"
        if path.exists():
            continue
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        if AllChem.EmbedMolecule(molecule, randomSeed=1) != 0:
            raise RuntimeError(f"no conformer for {smiles}")
        AllChem.MMFFOptimizeMolecule(molecule)
        numbers = np.array([a.GetAtomicNum() for a in molecule.GetAtoms()])
        positions = molecule.GetConformer().GetPositions()
        charge = Chem.GetFormalCharge(molecule)
        atoms = list(zip(numbers.tolist(), positions.tolist(), strict=True))
        mol = gto.M(atom=atoms, basis="def2-svpd", ecp={"I": "def2-svpd"}, charge=charge, verbose=0)
        field = dft.RKS(mol, xc="pbe0").density_fit()
        field.grids.level = 1
        field.kernel()
        if not field.converged:
            raise RuntimeError(f"SCF of {smiles} did not converge")
        points = grid_around(numbers, positions)
        density = field.make_rdm1()
        electrons = np.einsum(
            "gij,ij->g", mol.intor("int1e_grids", grids=points / BOHR_TO_ANGSTROM), density
        )
        nuclei = mol.atom_charges() @ (
            BOHR_TO_ANGSTROM / np.linalg.norm(points[None] - positions[:, None], axis=2)
        )
        np.savez(
            path,
            smiles=smiles,
            numbers=numbers,
            positions=positions,
            charge=charge,
            points=points,
            potential=(nuclei - electrons) * HARTREE_TO_EV,
        )
        print(number, smiles, len(points), flush=True)


class Entry:
    """A labelled molecule as tensors."""

    def __init__(self, path: Path) -> None:
        data = np.load(path)
        self.smiles = str(data["smiles"])
        self.numbers = [int(z) for z in data["numbers"]]
        positions = torch.from_numpy(data["positions"])
        self.vectors = positions[None] - positions[:, None]
        self.covalent = torch.tensor([covalent_radius(z) for z in self.numbers])
        self.charge = float(data["charge"])
        self.potential = torch.from_numpy(data["potential"])
        points = torch.from_numpy(data["points"])
        self.distances = torch.linalg.norm(points[:, None] - positions, dim=2)
        # What the total charge at the center explains is not to be learned.
        center = positions.mean(0)
        far = torch.linalg.norm(points - center, dim=1)
        monopole = COULOMB_EV_ANGSTROM * self.charge / far
        self.scale = (self.potential - monopole).square().mean().sqrt() + 0.05

    def differences(self, table: torch.Tensor, elements: list[int]) -> torch.Tensor:
        """Errors of the potential at the points, eV/e."""
        rows = table[[elements.index(z) for z in self.numbers]]
        parameters = torch.cat([rows, self.covalent[:, None]], dim=1)
        charges = equilibrated_charges(self.vectors, parameters, self.charge)
        kernel = COULOMB_EV_ANGSTROM * torch.erf(self.distances / rows[:, 3]) / self.distances
        return kernel @ charges - self.potential

    def error(self, table: torch.Tensor, elements: list[int]) -> torch.Tensor:
        """RMS error of the potential, eV/e."""
        return self.differences(table, elements).square().mean().sqrt()


# Where the fit starts: columns as in CHARGE_PARAMETERS.
START = {
    1: (4.5, 0.5, 7.0, 0.6),
    6: (5.0, 0.2, 5.0, 0.8),
    7: (6.0, 0.2, 6.0, 0.7),
    8: (8.0, 0.2, 7.0, 0.65),
    9: (9.0, 0.2, 9.0, 0.6),
    15: (4.5, 0.2, 4.0, 1.0),
    16: (5.5, 0.2, 4.0, 1.0),
    17: (7.0, 0.2, 5.0, 0.9),
    35: (6.5, 0.2, 4.5, 1.0),
    53: (6.0, 0.2, 4.0, 1.2),
}
# Bounds of the columns. Wider charges would be damped at the distance of a neighbor.
LOWEST = (0.0, -5.0, 0.5, 0.3)
HIGHEST = (20.0, 5.0, 30.0, 1.5)
# Pull towards the start, for elements that few molecules hold.
PULL = 0.01


def fitted_table(entries: list[Entry], elements: list[int]) -> torch.Tensor:
    """Least squares of the relative errors of the potentials, (n_elements, 4)."""
    start = np.array([START[z] for z in elements])

    def residuals(flat: np.ndarray) -> np.ndarray:
        table = torch.from_numpy(flat.reshape(start.shape))
        parts = [PULL * (flat - start.ravel())]
        for entry in entries:
            difference = entry.differences(table, elements)
            parts.append((difference / entry.scale / len(difference) ** 0.5).numpy())
        return np.concatenate(parts)

    bounds = (np.tile(LOWEST, len(elements)), np.tile(HIGHEST, len(elements)))
    solution = least_squares(residuals, start.ravel(), bounds=bounds, max_nfev=60, verbose=2)
    return torch.from_numpy(solution.x.reshape(start.shape))


def fit(folder: Path) -> None:
    """Fit on four fifths of the molecules, print errors of all, and the table of a fit on all."""
    entries = [Entry(path) for path in sorted(folder.glob("*.npz"))]
    elements = sorted(START)
    held_out = set(range(2, len(entries), 5))
    for train in ([e for i, e in enumerate(entries) if i not in held_out], entries):
        table = fitted_table(train, elements)
        for i, entry in enumerate(entries):
            mark = "held out" if i in held_out and train is not entries else ""
            error = entry.error(table, elements).item()
            print(f"{entry.smiles:24s} {error:.3f} of {entry.scale:.3f} eV/e {mark}")
    for number, row in zip(elements, table.tolist(), strict=True):
        print(f"    {number}: ({', '.join(f'{x:.4f}' for x in row)}),")


if __name__ == "__main__":
    {"label": label, "fit": fit}[sys.argv[1]](Path(sys.argv[2]))
