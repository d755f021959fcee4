"""Molecules with a crude force field, and that force field behind the interface of OpenMM-ML."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from mixed_systems import add_molecule, inside_of, molecule_of
from openmm import app, unit
from openmmml import MLPotential

from mace_mm.simulation.openmm_potential import MacePotentialImpl


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


class ForceFieldPotential(MacePotentialImpl):
    """A force field that OpenMM-ML takes for a machine-learned potential."""

    can_interpolate = False

    def __init__(self, system: openmm.System) -> None:
        super().__init__()
        self.system = system

    def addForces(  # noqa: N802 (OpenMM-ML's names)
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,  # noqa: N803
        **arguments: Any,
    ) -> None:
        atoms = list(range(system.getNumParticles()) if atoms is None else atoms)
        inside = inside_of(self.system, atoms)
        for force in inside.getForces():
            made = openmm.XmlSerializer.clone(force)
            made.setForceGroup(forceGroup)
            system.addForce(made)


class _Factory:
    def __init__(self, system: openmm.System) -> None:
        self.system = system

    def createImpl(self, name: str, **arguments: Any) -> ForceFieldPotential:  # noqa: N802
        return ForceFieldPotential(self.system)


def register(name: str, system: openmm.System) -> None:
    """Let ``MLPotential(name)`` be the force field of a system with the same atoms."""
    MLPotential.registerImplFactory(name, _Factory(system))
