"""Force functions for the dynamics: MMFF94, xTB, OpenMM force fields, any ASE calculator."""

from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem

from mace_mm.errors import DependencyError, GeometryError, InputError
from mace_mm.generation.frames.dynamics import ForceFunction
from mace_mm.generation.labels.base import LabelError
from mace_mm.generation.protocol import ForceSettings
from mace_mm.units import (
    ANGSTROM_TO_NM,
    BOHR_TO_ANGSTROM,
    EV_PER_ANGSTROM_TO_KJ_MOL_NM,
    HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
    KCAL_MOL_TO_EV,
)


def make_forces(settings: ForceSettings, mol: Chem.Mol, positions: np.ndarray) -> ForceFunction:
    """The force function of a sampler for one molecule with hydrogens.

    Args:
        positions: (n_atoms, 3) Å, a structure to build with.

    Raises:
        InputError: the force field has no parameters for the molecule.
        DependencyError: the program is not installed.
    """
    match settings.kind:
        case "mmff94":
            return _mmff94(mol, positions)
        case "tblite":
            return _tblite(settings.method, mol, positions)
        case "openmm":
            return _openmm(settings.force_field, mol)
        case "ase":
            return _ase(str(settings.calculator), dict(settings.options), mol)


def confined(forces: ForceFunction, radius: float, strength: float = 0.2) -> ForceFunction:
    """Add a harmonic wall beyond ``radius`` Å from the center, ``strength`` in eV/Å² per atom."""

    def total(positions: np.ndarray) -> np.ndarray:
        offset = positions - positions.mean(axis=0)
        distance = np.linalg.norm(offset, axis=1, keepdims=True)
        beyond = np.maximum(distance - radius, 0.0)
        return forces(positions) - strength * beyond * offset / np.maximum(distance, 1e-9)

    return total


def _with_conformer(mol: Chem.Mol, positions: np.ndarray) -> Chem.Mol:
    mol = Chem.Mol(mol)
    mol.RemoveAllConformers()
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    mol.AddConformer(conformer)
    return mol


def _mmff94(mol: Chem.Mol, positions: np.ndarray) -> ForceFunction:
    mol = _with_conformer(mol, positions)
    with rdBase.BlockLogs():
        properties = AllChem.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94")
    if properties is None:
        raise InputError("MMFF94 has no parameters for this molecule")
    # A threshold beyond any molecule: pairs are listed once and must not go missing later.
    field = AllChem.MMFFGetMoleculeForceField(
        mol, properties, nonBondedThresh=1000.0, ignoreInterfragInteractions=False
    )
    shape = (mol.GetNumAtoms(), 3)

    def forces(x: np.ndarray) -> np.ndarray:
        # RDKit keeps state from the last call: without Initialize the gradient can be stale.
        field.Initialize()
        gradient = np.array(field.CalcGrad(x.ravel().tolist())).reshape(shape)
        return -KCAL_MOL_TO_EV * gradient

    return forces


def _tblite(method: str, mol: Chem.Mol, positions: np.ndarray) -> ForceFunction:
    try:
        from tblite.exceptions import TBLiteRuntimeError
        from tblite.interface import Calculator
    except ImportError as error:
        raise DependencyError("the sampler tblite wants the package tblite") from error
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    calculator = Calculator(
        method, numbers, positions / BOHR_TO_ANGSTROM, float(Chem.GetFormalCharge(mol))
    )
    calculator.set("verbosity", 0)
    last = None

    def forces(x: np.ndarray) -> np.ndarray:
        nonlocal last
        calculator.update(x / BOHR_TO_ANGSTROM)
        try:
            last = calculator.singlepoint(last)
        except TBLiteRuntimeError as error:
            raise GeometryError(f"tblite during the dynamics: {error}") from error
        return -HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM * last.get("gradient")

    return forces


def _openmm(force_field: list[str], mol: Chem.Mol) -> ForceFunction:
    import openmm
    from openmm import app, unit

    topology, order = _openmm_topology(mol)
    try:
        system = app.ForceField(*force_field).createSystem(
            topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False
        )
    except ValueError as error:
        names = ", ".join(force_field)
        raise InputError(f"{names} does not fit this molecule: {error}") from error
    # The Reference platform adds in one order: the same forces at every run.
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    force_unit = unit.kilojoule_per_mole / unit.nanometer

    def forces(x: np.ndarray) -> np.ndarray:
        context.setPositions(x[order] * ANGSTROM_TO_NM)
        in_kj = context.getState(forces=True).getForces(asNumpy=True).value_in_unit(force_unit)
        result = np.empty_like(x)
        result[order] = np.asarray(in_kj) / EV_PER_ANGSTROM_TO_KJ_MOL_NM
        return result

    return forces


def _openmm_topology(mol: Chem.Mol) -> tuple[Any, np.ndarray]:
    """A topology whose residues are the molecule's parts, cut also at peptide bonds.

    OpenMM matches residues by their graph, and wants the atoms of one together: the second result
    is the molecule's atom for each of the topology's, (n_atoms,).
    """
    from openmm import app

    peptide_bond = Chem.MolFromSmarts("[CX3](=O)([#6])-!@[NX3;!H2][#6]")
    bonds = {
        mol.GetBondBetweenAtoms(match[0], match[3]).GetIdx()
        for match in mol.GetSubstructMatches(peptide_bond)
    }
    parts = Chem.FragmentOnBonds(mol, sorted(bonds), addDummies=False) if bonds else mol
    topology = app.Topology()
    chain = topology.addChain()
    atoms: dict[int, Any] = {}
    for part in Chem.GetMolFrags(parts, sanitizeFrags=False):
        residue = topology.addResidue("UNK", chain)
        for index in part:
            element = app.Element.getByAtomicNumber(mol.GetAtomWithIdx(index).GetAtomicNum())
            atoms[index] = topology.addAtom(f"{element.symbol}{index + 1}", element, residue)
    for bond in mol.GetBonds():
        topology.addBond(atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()])
    return topology, np.array(list(atoms))


def _ase(name: str, options: dict[str, object], mol: Chem.Mol) -> ForceFunction:
    from ase import Atoms

    from mace_mm.generation.labels.calculators import make_calculator

    atoms = Atoms(numbers=[atom.GetAtomicNum() for atom in mol.GetAtoms()])
    atoms.info["charge"] = Chem.GetFormalCharge(mol)
    atoms.calc = make_calculator(name, options)

    def forces(x: np.ndarray) -> np.ndarray:
        atoms.positions = x
        try:
            return np.asarray(atoms.get_forces())
        except LabelError as error:
            raise GeometryError(f"{name} during the dynamics: {error}") from error

    return forces
