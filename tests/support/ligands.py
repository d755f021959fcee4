"""Small ligands as the free-energy code gets them: topology, positions, graph."""

import numpy as np
from openmm import app
from rdkit import Chem
from rdkit.Chem import AllChem

from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule, read_molecule


def embedded(smiles: str, seed: int = 7) -> Chem.Mol:
    """A molecule with hydrogens and one relaxed conformer."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    if AllChem.MMFFHasAllMoleculeParams(mol):
        AllChem.MMFFOptimizeMolecule(mol, maxIters=1000)
    return mol


def topology_of(mol: Chem.Mol, bonds: bool = True) -> app.Topology:
    """One residue LIG; bonds have no orders."""
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    atoms = [
        topology.addAtom(
            f"{atom.GetSymbol()}{atom.GetIdx()}",
            app.Element.getByAtomicNumber(atom.GetAtomicNum()),
            residue,
        )
        for atom in mol.GetAtoms()
    ]
    if bonds:
        for bond in mol.GetBonds():
            topology.addBond(atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()])
    return topology


def ligand_of(smiles: str, *, orders: bool = True, seed: int = 7) -> LigandMolecule:
    """The graph of a molecule, with or without bond orders."""
    mol = embedded(smiles, seed)
    return read_molecule(
        topology_of(mol),
        range(mol.GetNumAtoms()),
        mol.GetConformer().GetPositions() * 0.1,
        smiles=smiles if orders else None,
    )


def positions_of(mol: Chem.Mol) -> np.ndarray:
    """(n_atoms, 3) nm."""
    return np.array(mol.GetConformer().GetPositions() * 0.1)
