"""Force-field systems from files: Amber, OpenMM XML with PDB, or SD file with a force field."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from mace_mm.errors import ConfigError, InputError
from mace_mm.free_energy.config import InputFiles
from mace_mm.free_energy.systems.freesolv import extract_amber
from mace_mm.free_energy.systems.ligand_choice import select_ligand
from mace_mm.ml_mm.region_parts import force_field_charges
from mace_mm.openmm.pdb_file import PdbStructure, read_pdb
from mace_mm.openmm.pdb_structure import check_hydrogens

logger = logging.getLogger(__name__)

_NM = unit.nanometer


@dataclass(frozen=True, kw_only=True, eq=False)
class MMSystem:
    """A force-field system and the molecule that a free energy is about.

    Attributes:
        topology: with elements and bonds.
        system: of the force field.
        positions_nm: (n_atoms, 3).
        box_nm: (3, 3) rows, None without periodic boundaries.
        ligand: indices of the ligand's atoms, ascending.
        smiles: of the ligand as it is charged, None if not known.
        conformers: file of the ligand's conformers, None if there is none.
    """

    topology: app.Topology
    system: openmm.System
    positions_nm: np.ndarray
    box_nm: np.ndarray | None
    ligand: tuple[int, ...]
    smiles: str | None = None
    conformers: Path | None = None

    def __post_init__(self) -> None:
        _check_counts(self.topology, self.system, self.positions_nm)
        _check_constraints(self.system, set(self.ligand))

    @property
    def is_alone(self) -> bool:
        """Whether the system is the ligand and nothing else."""
        return len(self.ligand) == self.system.getNumParticles()


def load_system(files: InputFiles, cutoff_nm: float = 1.0) -> MMSystem:
    """Read a system; the ligand keeps all its degrees of freedom, water stays rigid.

    Args:
        files: what to read.
        cutoff_nm: of the nonbonded forces where the files describe a periodic system (an XML file
            brings its own).

    Raises:
        InputError: files that are missing, cannot be read or do not belong together; no ligand.
        DependencyError: SD files without openmmforcefields.
    """
    for path in (
        files.prmtop, files.inpcrd, files.system_xml, files.pdb, files.sdf, files.conformers,
    ):  # fmt: skip
        if path is not None and not path.is_file():
            raise InputError(f"no such file: {path}")
    if files.prmtop is not None and files.inpcrd is not None:
        topology, system, positions, box = _from_amber(files.prmtop, files.inpcrd, cutoff_nm)
    elif files.system_xml is not None and files.pdb is not None:
        topology, system, positions, box = _from_xml(files.system_xml, files.pdb)
    elif files.freesolv is not None and files.molecule is not None:
        with tempfile.TemporaryDirectory() as folder:
            prmtop, inpcrd = extract_amber(files.freesolv, files.molecule, Path(folder))
            topology, system, positions, box = _from_amber(prmtop, inpcrd, cutoff_nm)
    elif files.sdf is not None:
        from mace_mm.free_energy.systems.parametrize import from_sdf

        topology, system, positions, box = from_sdf(
            files.sdf, files.pdb, files.forcefield, cutoff_nm
        )
    else:
        raise ConfigError("a system needs files, got none")
    _check_counts(topology, system, positions)
    ligand = select_ligand(topology, system, files.ligand)
    charges = force_field_charges(system, ligand) or {}
    n_anions = max(0, -round(sum(charges.values())))
    check_hydrogens(topology, positions, ligand, "the ligand", n_anions)
    return MMSystem(
        topology=topology,
        system=system,
        positions_nm=positions,
        box_nm=box,
        ligand=ligand,
        smiles=files.smiles,
        conformers=files.conformers,
    )


def _check_counts(topology: app.Topology, system: openmm.System, positions_nm: np.ndarray) -> None:
    counts = {
        "topology": topology.getNumAtoms(),
        "system": system.getNumParticles(),
        "positions": len(positions_nm),
    }
    if len(set(counts.values())) != 1:
        raise InputError(f"topology, system and positions must have the same atoms: {counts}")


def _from_amber(
    prmtop: Path, inpcrd: Path, cutoff_nm: float
) -> tuple[app.Topology, openmm.System, np.ndarray, np.ndarray | None]:
    try:
        parameters = app.AmberPrmtopFile(str(prmtop))
        coordinates = app.AmberInpcrdFile(str(inpcrd))
    # OpenMM's reader raises whatever the damage leads to.
    except Exception as error:  # noqa: BLE001
        raise InputError(f"{prmtop} and {inpcrd} cannot be read: {error}") from error
    positions = np.array(coordinates.getPositions(asNumpy=True).value_in_unit(_NM))
    n_atoms = parameters.topology.getNumAtoms()
    if len(positions) != n_atoms:
        raise InputError(f"{prmtop} has {n_atoms} atoms, {inpcrd} {len(positions)}")
    vectors = coordinates.boxVectors
    box = None if vectors is None else np.array(vectors.value_in_unit(_NM))
    system = parameters.createSystem(
        nonbondedMethod=app.NoCutoff if box is None else app.PME,
        nonbondedCutoff=cutoff_nm * _NM,
        constraints=None,
        rigidWater=True,
        removeCMMotion=False,
    )
    if vectors is not None:
        parameters.topology.setPeriodicBoxVectors(vectors)
        system.setDefaultPeriodicBoxVectors(*vectors)
    return parameters.topology, system, positions, box


def _from_xml(
    xml: Path, pdb: Path
) -> tuple[app.Topology, openmm.System, np.ndarray, np.ndarray | None]:
    try:
        system = openmm.XmlSerializer.deserialize(xml.read_text(encoding="utf-8"))
    except (openmm.OpenMMException, ValueError, OSError) as error:
        raise InputError(f"{xml} is not an OpenMM System: {error}") from error
    if not isinstance(system, openmm.System):
        raise InputError(f"{xml} must hold an OpenMM System, got {type(system).__name__}")
    structure = _read_pdb(pdb)
    box = None
    if system.usesPeriodicBoundaryConditions():
        vectors = structure.topology.getPeriodicBoxVectors()
        if vectors is None:
            vectors = system.getDefaultPeriodicBoxVectors()
        box = np.array(unit.Quantity(vectors).value_in_unit(_NM))
        _check_box(system, box, xml, pdb)
        structure.topology.setPeriodicBoxVectors(box * _NM)
    return structure.topology, system, structure.positions_nm, box


def _read_pdb(path: Path) -> PdbStructure:
    structure = read_pdb(path)
    for warning in structure.warnings:
        logger.warning("%s", warning)
    return structure


def _check_box(system: openmm.System, box_nm: np.ndarray, xml: Path, pdb: Path) -> None:
    """OpenMM wants boxes of at least twice every cutoff, in its reduced form."""
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce | openmm.CustomNonbondedForce):
            cutoff = force.getCutoffDistance().value_in_unit(_NM)
            width = float(np.diag(box_nm).min())
            if force.usesPeriodicBoundaryConditions() and width < 2.0 * cutoff:
                raise InputError(
                    f"a box at least twice as wide as the cutoff of {cutoff:g} nm in {xml} was "
                    f"expected, got {width:g} nm (CRYST1 of {pdb}, or the box of the System)"
                )


def _check_constraints(system: openmm.System, ligand: set[int]) -> None:
    """A constrained bond of the ligand must also have its force: λ = 1 frees it."""
    bonded: set[frozenset[int]] = set()
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            bonded.update(
                frozenset(force.getBondParameters(index)[:2])
                for index in range(force.getNumBonds())
            )
    for index in range(system.getNumConstraints()):
        first, second, _ = system.getConstraintParameters(index)
        if {first, second} <= ligand and frozenset((first, second)) not in bonded:
            raise InputError(
                f"atoms {first} and {second} of the ligand are constrained and have no bond force, "
                "which the end states need: make the system without constraints on the ligand, or "
                "with flexibleConstraints=True"
            )
