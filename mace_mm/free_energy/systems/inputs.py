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

logger = logging.getLogger(__name__)

_SOLVENT = {"HOH", "WAT", "TIP3", "SOL", "TP3", "NA", "CL", "K", "NA+", "CL-", "K+", "MG", "CA"}
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
        counts = {
            "topology": self.topology.getNumAtoms(),
            "system": self.system.getNumParticles(),
            "positions": len(self.positions_nm),
        }
        if len(set(counts.values())) != 1:
            raise InputError(f"topology, system and positions must have the same atoms: {counts}")
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
    return MMSystem(
        topology=topology,
        system=system,
        positions_nm=positions,
        box_nm=box,
        ligand=select_ligand(topology, files.ligand),
        smiles=files.smiles,
        conformers=files.conformers,
    )


def is_solvent(residue: app.topology.Residue) -> bool:
    """Whether a residue is water or an ion."""
    return str(residue.name).upper() in _SOLVENT


def select_ligand(topology: app.Topology, chosen: str | tuple[int, ...] | None) -> tuple[int, ...]:
    """Indices of the ligand's atoms.

    Args:
        topology: of the whole system.
        chosen: the name of exactly one residue, atom indices, or None for all that is neither
            water nor ion.

    Raises:
        InputError: no such residue, several of that name, indices out of range or twice, or a
            ligand that is bonded to other atoms.
    """
    n_atoms = topology.getNumAtoms()
    if isinstance(chosen, tuple):
        if len(set(chosen)) != len(chosen) or any(not 0 <= i < n_atoms for i in chosen):
            raise InputError(
                f"ligand atoms must be different indices from 0 to {n_atoms - 1}, got {chosen}"
            )
        atoms = tuple(sorted(chosen))
    elif chosen is not None:
        residues = [r for r in topology.residues() if r.name == chosen]
        if len(residues) != 1:
            names = sorted({r.name for r in topology.residues()})
            raise InputError(
                f"one residue named {chosen!r} was expected, got {len(residues)}; there are "
                f"{', '.join(names[:30])}"
            )
        atoms = tuple(sorted(atom.index for atom in residues[0].atoms()))
    else:
        atoms = tuple(atom.index for atom in topology.atoms() if not is_solvent(atom.residue))
    if not atoms:
        raise InputError("the ligand has no atoms: name its residue or its atom indices")
    inside = set(atoms)
    for bond in topology.bonds():
        if (bond[0].index in inside) != (bond[1].index in inside):
            raise InputError(
                f"the ligand is bonded to the rest ({bond[0]} - {bond[1]}); free energies of "
                "ligands that are bonded covalently are not supported"
            )
    return atoms


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
    try:
        structure = app.PDBFile(str(pdb))
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{pdb} is not a PDB file that OpenMM can read: {error}") from error
    box = None
    if system.usesPeriodicBoundaryConditions():
        vectors = structure.topology.getPeriodicBoxVectors()
        if vectors is None:
            vectors = system.getDefaultPeriodicBoxVectors()
        box = np.array(unit.Quantity(vectors).value_in_unit(_NM))
        structure.topology.setPeriodicBoxVectors(box * _NM)
    positions = structure.getPositions(asNumpy=True).value_in_unit(_NM)
    return structure.topology, system, np.array(positions, dtype=np.float64), box


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
