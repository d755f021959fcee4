"""Molecules with a crude force field, and that force field behind the interface of OpenMM-ML."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from openmmml import MLPotential

from mace_mm.ml_mm.potential import MacePotentialImpl
from tests.support.mixed_systems import add_molecule, inside_of, molecule_of


def crude_molecule(smiles: str) -> tuple[app.Topology, openmm.System, np.ndarray]:
    """One molecule in vacuum: topology, system without constraints, positions in nm."""
    system = openmm.System()
    nonbonded = openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
    forces = (
        openmm.HarmonicBondForce(),
        openmm.HarmonicAngleForce(),
        openmm.PeriodicTorsionForce(),
    )
    for force in (*forces, nonbonded):
        system.addForce(force)
    topology = app.Topology()
    positions = add_molecule(molecule_of(smiles), topology, system)
    return topology, system, positions


def write_molecule(smiles: str, folder: Path) -> dict[str, str]:
    """The files of a crude molecule, as the settings ``input`` name them."""
    topology, system, positions = crude_molecule(smiles)
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    with open(folder / "molecule.pdb", "w") as file:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, file, keepIds=True)
    return {"system_xml": str(folder / "system.xml"), "pdb": str(folder / "molecule.pdb")}


def write_complex(
    smiles: str, folder: Path, apart_nm: float = 0.55
) -> tuple[dict[str, str], openmm.System]:
    """A molecule LIG beside N-methylacetamide, whose atoms are named like a backbone."""
    topology, system, host = crude_molecule("CC(=O)NC")
    names = {0: "CA", 1: "C", 3: "N"}
    for atom in topology.atoms():
        atom.name = names.get(atom.index, atom.name)
        atom.residue.name = "HST"
    guest = add_molecule(molecule_of(smiles), topology, system)
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    assert nonbonded.getNumParticles() == system.getNumParticles()
    positions = np.concatenate([host, guest - guest.mean(0) + host[0] + [0.0, apart_nm, 0.1]])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "complex.xml").write_text(openmm.XmlSerializer.serialize(system))
    with open(folder / "complex.pdb", "w") as file:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, file, keepIds=True)
    files = {
        "system_xml": str(folder / "complex.xml"),
        "pdb": str(folder / "complex.pdb"),
        "ligand": "LIG",
    }
    return files, system


class ForceFieldPotential(MacePotentialImpl):
    """A force field that OpenMM-ML takes for a machine-learned potential."""

    can_interpolate = False

    def __init__(self, systems: tuple[openmm.System, ...]) -> None:
        super().__init__()
        self.systems = {system.getNumParticles(): system for system in systems}

    def addForces(  # noqa: N802 (OpenMM-ML's names)
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,  # noqa: N803
        **arguments: Any,
    ) -> None:
        whole = self.systems[topology.getNumAtoms()]
        inside = inside_of(whole, list(range(whole.getNumParticles()) if atoms is None else atoms))
        for force in inside.getForces():
            made = openmm.XmlSerializer.clone(force)
            made.setForceGroup(forceGroup)
            system.addForce(made)


class _Factory:
    def __init__(self, systems: tuple[openmm.System, ...]) -> None:
        self.systems = systems

    def createImpl(self, name: str, **arguments: Any) -> ForceFieldPotential:  # noqa: N802
        return ForceFieldPotential(self.systems)


def register(name: str, *systems: openmm.System) -> None:
    """Let ``MLPotential(name)`` be the force field of the system with as many atoms."""
    MLPotential.registerImplFactory(name, _Factory(systems))
