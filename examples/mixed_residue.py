"""The side chain of one residue by the model, the rest of the peptide and the water by Amber.

The bond from C-alpha to C-beta is cut: it is single and hardly polar. A hydrogen on it completes
the molecule that the model sees, for serine methanol, for tyrosine 4-methylphenol. During the run
the side chain is watched: its energy, and whether a bond broke.

    python examples/mixed_residue.py
    python examples/mixed_residue.py --pdb protein.pdb --residue 42 --embedding electrostatic

A protein file needs all atoms but the hydrogens. Without one a small peptide is made.
"""

import argparse
import io
import logging
import sys
from pathlib import Path

import openmm
from openmm import app, unit
from openmmml import MLPotential
from rdkit import Chem
from rdkit.Chem import AllChem

from mace_mm.ml_mm.boundary import with_link_atoms
from mace_mm.ml_mm.reporter import RegionReporter

SEQUENCE = "GASAG"
BACKBONE = {"N", "CA", "C", "O", "OXT", "H", "H2", "H3", "HA", "HA2", "HA3"}


def peptide(sequence: str) -> app.PDBFile:
    """Heavy atoms of a peptide, from its sequence."""
    molecule = Chem.AddHs(Chem.MolFromSequence(sequence))
    if AllChem.EmbedMolecule(molecule, randomSeed=1) != 0:
        raise RuntimeError(f"RDKit found no conformer of the peptide {sequence}")
    AllChem.MMFFOptimizeMolecule(molecule)
    return app.PDBFile(io.StringIO(Chem.MolToPDBBlock(Chem.RemoveHs(molecule), flavor=4)))


def solvated(pdb: app.PDBFile, padding: float) -> tuple[app.Topology, openmm.System, unit.Quantity]:
    """Add hydrogens and water, describe everything by Amber."""
    field = app.ForceField("amber14-all.xml", "amber14/tip3pfb.xml")
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addHydrogens(field)
    modeller.addSolvent(field, padding=padding * unit.nanometer)
    system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.9 * unit.nanometer,
        constraints=app.HBonds,
    )
    return modeller.topology, system, modeller.positions


def side_chain(topology: app.Topology, residue: str) -> list[int]:
    """Atoms of a side chain, C-beta and beyond."""
    for found in topology.residues():
        if found.id == residue and any(atom.name == "CB" for atom in found.atoms()):
            return [atom.index for atom in found.atoms() if atom.name not in BACKBONE]
    raise ValueError(f"no residue {residue} with a side chain")


def main() -> int:
    """Run it and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pdb", type=Path)
    parser.add_argument("--residue", default="3", help="its number in the file")
    parser.add_argument(
        "--embedding", default="mechanical", choices=["mechanical", "electrostatic"]
    )
    parser.add_argument("--padding", type=float, default=1.0, help="water around it, nm")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path("side_chain.csv"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    pdb = peptide(SEQUENCE) if options.pdb is None else app.PDBFile(str(options.pdb))
    topology, mm_system, positions = solvated(pdb, options.padding)
    atoms = side_chain(topology, options.residue)
    info = MLPotential("mace").createMixedSystem(
        topology, mm_system, atoms, embedding=options.embedding, returnInfo=True
    )
    # Bonds to hydrogen are flexible inside the region: steps of 0.5 fs.
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    simulation = app.Simulation(info["topology"], info["system"], integrator)
    simulation.context.setPositions(with_link_atoms(positions, info["system"]))
    simulation.minimizeEnergy(maxIterations=100)
    simulation.context.setVelocitiesToTemperature(300)
    reporter = RegionReporter(options.output, 50, topology, atoms)
    simulation.reporters.append(reporter)
    simulation.step(options.steps)
    print(f"{topology.getNumAtoms()} atoms, {len(atoms)} of them by the model")
    print(options.output.read_text())
    for step, what in reporter.flagged:
        print(f"step {step}: {what}")
    return 1 if reporter.flagged else 0


if __name__ == "__main__":
    sys.exit(main())
