"""Systems for the TYK2 example: complex and solvent of every ligand as system.xml and PDB.

    python examples/free_energy/prepare_tyk2.py ../shared/data/tyk2 runs/tyk2

needs openmmforcefields and openff-toolkit (conda-forge). With ``--demonstration`` it does without:
ligands get parameters taken from RDKit's MMFF94 and generic Lennard-Jones terms, there is no water,
and the protein is frozen away from the ligand. That shows how it works; its numbers mean nothing.
"""

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

NM = unit.nanometer
LENNARD_JONES = {
    1: (0.25, 0.07), 6: (0.34, 0.40), 7: (0.325, 0.71), 8: (0.30, 0.80), 9: (0.31, 0.25),
    17: (0.347, 1.11),
}  # fmt: skip
FROZEN_BEYOND_NM = 0.5


def write(folder: Path, name: str, topology, system, positions_nm) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.xml").write_text(openmm.XmlSerializer.serialize(system))
    with open(folder / f"{name}.pdb", "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(topology, positions_nm * NM, file, keepIds=True)


def add_ligand(molecule: Chem.Mol, topology: app.Topology) -> np.ndarray:
    """Append the ligand's atoms and bonds as residue LIG; positions in nm."""
    residue = topology.addResidue("LIG", topology.addChain())
    atoms = []
    for atom in molecule.GetAtoms():
        element = app.Element.getByAtomicNumber(atom.GetAtomicNum())
        atoms.append(topology.addAtom(f"{element.symbol}{atom.GetIdx() + 1}", element, residue))
    for bond in molecule.GetBonds():
        topology.addBond(atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()])
    return molecule.GetConformer().GetPositions() * 0.1


def demonstration_terms(molecule: Chem.Mol, forces: dict, system: openmm.System) -> None:
    """Bonds, angles, torsions and charges of MMFF94 in harmonic form."""
    first = system.getNumParticles()
    mmff = rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule)
    for atom in molecule.GetAtoms():
        system.addParticle(atom.GetMass())
        charge = mmff.GetMMFFPartialCharge(atom.GetIdx())
        forces["NonbondedForce"].addParticle(charge, *LENNARD_JONES[atom.GetAtomicNum()])
    pairs = []
    for bond in molecule.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        _, strength, length = mmff.GetMMFFBondStretchParams(molecule, i, j)
        strength *= 143.9325 * 4.184 * 100
        forces["HarmonicBondForce"].addBond(first + i, first + j, 0.1 * length, strength)
        pairs.append((first + i, first + j))
    for i, j, k in molecule.GetSubstructMatches(Chem.MolFromSmarts("[*]~[*]~[*]")):
        _, strength, angle = mmff.GetMMFFAngleBendParams(molecule, i, j, k)
        forces["HarmonicAngleForce"].addAngle(
            first + i, first + j, first + k,
            math.radians(angle), 0.043844 * strength * math.degrees(1) ** 2 * 4.184,
        )  # fmt: skip
    for path in molecule.GetSubstructMatches(Chem.MolFromSmarts("[*]~[*]~[*]~[*]")):
        found = mmff.GetMMFFTorsionParams(molecule, *path)
        for n, height in enumerate(found[1:] if found else (), start=1):
            forces["PeriodicTorsionForce"].addTorsion(
                *(first + i for i in path), n, math.pi * (n == 2), 0.5 * 4.184 * height
            )
    forces["NonbondedForce"].createExceptionsFromBonds(pairs, 0.8333, 0.5)


def demonstration(protein: app.PDBFile, molecule: Chem.Mol, folder: Path) -> None:
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    settings = {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.9 * NM}
    for name in ("complex", "solvent"):
        topology = app.Topology()
        system = openmm.System()
        positions = np.zeros((0, 3))
        if name == "complex":
            topology = copy.deepcopy(protein.topology)
            topology.setPeriodicBoxVectors(None)
            system = field.createSystem(topology, removeCMMotion=False, **settings)
            positions = np.array(protein.getPositions(asNumpy=True).value_in_unit(NM))
        else:
            for kind in ("HarmonicBond", "HarmonicAngle", "PeriodicTorsion", "Nonbonded"):
                system.addForce(getattr(openmm, f"{kind}Force")())
            # As in the complex: a reaction field shifts the ligand's inner energy.
            system.getForce(3).setNonbondedMethod(openmm.NonbondedForce.CutoffNonPeriodic)
            system.getForce(3).setCutoffDistance(0.9 * NM)
        forces = {type(force).__name__: force for force in system.getForces()}
        ligand = add_ligand(molecule, topology)
        demonstration_terms(molecule, forces, system)
        for index, place in enumerate(positions):
            if np.linalg.norm(ligand - place, axis=1).min() > FROZEN_BEYOND_NM:
                system.setParticleMass(index, 0.0)
        write(folder, name, topology, system, np.concatenate([positions, ligand]))


def parametrized(protein: app.PDBFile, molecule: Chem.Mol, folder: Path) -> None:
    from openff.toolkit import Molecule
    from openmmforcefields.generators import SystemGenerator

    generator = SystemGenerator(
        forcefields=["amber/ff14SB.xml", "amber/tip3p_standard.xml"],
        small_molecule_forcefield="openff-2.2.1",
        forcefield_kwargs={"constraints": None, "rigidWater": True, "removeCMMotion": False},
        periodic_forcefield_kwargs={"nonbondedMethod": app.PME},
        molecules=[Molecule.from_rdkit(molecule)],
    )
    for name in ("complex", "solvent"):
        topology = app.Topology()
        ligand = add_ligand(molecule, topology)
        modeller = app.Modeller(topology, ligand * NM)
        if name == "complex":
            modeller.add(protein.topology, protein.positions)
        modeller.addSolvent(generator.forcefield, padding=1.1 * NM, ionicStrength=0.15 * unit.molar)
        system = generator.create_system(modeller.topology)
        write(
            folder, name, modeller.topology, system, np.array(modeller.positions.value_in_unit(NM))
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("tyk2", type=Path, help="folder with protein.pdb and ligands.sdf")
    arguments.add_argument("folder", type=Path)
    arguments.add_argument(
        "--ligands", nargs="+", default=["lig_ejm_31", "lig_ejm_42", "lig_ejm_43"]
    )
    arguments.add_argument("--demonstration", action="store_true")
    given = arguments.parse_args()
    protein = app.PDBFile(str(given.tyk2 / "protein.pdb"))
    make = demonstration if given.demonstration else parametrized
    for molecule in Chem.SDMolSupplier(str(given.tyk2 / "ligands.sdf"), removeHs=False):
        if molecule.GetProp("_Name") in given.ligands:
            make(protein, molecule, given.folder / molecule.GetProp("_Name"))
            print(given.folder / molecule.GetProp("_Name"))


if __name__ == "__main__":
    main()
