"""A ligand from an SD file with a force field of openmmforcefields (conda-forge only)."""

from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from rdkit import Chem

from mace_mm.errors import ConfigError, InputError
from mace_mm.free_energy.dependencies import missing_openmmforcefields
from mace_mm.openmm.isotopes import isotope_masses
from mace_mm.openmm.pdb_file import read_pdb

_NM = unit.nanometer


def from_sdf(
    sdf: Path, pdb: Path | None, forcefield: str, cutoff_nm: float
) -> tuple[app.Topology, openmm.System, np.ndarray, np.ndarray | None]:
    """Parametrize a ligand, alone or with a prepared protein (hydrogens and water included).

    Raises:
        DependencyError: openmmforcefields or openff-toolkit is not installed.
        InputError: files that cannot be read, or atoms without parameters.
        ConfigError: a force field that is unknown.
    """
    try:
        from openff.toolkit import Molecule
        from openmmforcefields.generators import (
            GAFFTemplateGenerator,
            SMIRNOFFTemplateGenerator,
        )
    except ImportError as error:
        raise missing_openmmforcefields(error) from error
    molecule = Molecule.from_file(str(sdf), file_format="sdf")
    if isinstance(molecule, list):
        raise InputError(f"one molecule was expected, {sdf} holds {len(molecule)}")
    kind = GAFFTemplateGenerator if forcefield.startswith("gaff") else SMIRNOFFTemplateGenerator
    try:
        generator: Any = kind(molecules=molecule, forcefield=forcefield)
    except (ValueError, OSError) as error:
        raise ConfigError(f"unknown ligand force field {forcefield!r}: {error}") from error
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    field.registerTemplateGenerator(generator.generator)
    topology = molecule.to_topology().to_openmm()
    for residue in topology.residues():
        residue.name = "LIG"
    modeller = app.Modeller(topology, molecule.conformers[0].to_openmm())
    if pdb is not None:
        protein = read_pdb(pdb)
        modeller.add(protein.topology, protein.positions_nm * _NM)
        modeller.topology.setPeriodicBoxVectors(protein.topology.getPeriodicBoxVectors())
    vectors = modeller.topology.getPeriodicBoxVectors()
    try:
        system = field.createSystem(
            modeller.topology,
            nonbondedMethod=app.NoCutoff if vectors is None else app.PME,
            nonbondedCutoff=cutoff_nm * _NM,
            constraints=None,
            rigidWater=True,
            removeCMMotion=False,
        )
    except ValueError as error:
        raise InputError(f"parameters are missing: {error}") from error
    # The ligand comes first, in the order of the file.
    for atom, mass in _isotopes(sdf).items():
        system.setParticleMass(atom, mass)
    positions = np.array(unit.Quantity(modeller.positions).value_in_unit(_NM), dtype=np.float64)
    box = None if vectors is None else np.array(unit.Quantity(vectors).value_in_unit(_NM))
    return modeller.topology, system, positions, box


def _isotopes(sdf: Path) -> dict[int, float]:
    """Masses of the isotopes that the file names; openff-toolkit does not keep them."""
    molecule = next(iter(Chem.SDMolSupplier(str(sdf), removeHs=False)), None)
    return {} if molecule is None else isotope_masses(molecule)
