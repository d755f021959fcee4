"""Conformers that the user gives: SD, PDB or XYZ files of one or many records."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import ase.io
import numpy as np
from openmm import app, unit
from rdkit import Chem, rdBase

from mace_mm.errors import InputError
from mace_mm.free_energy.conformers.handedness import handedness, heavy_matches, renumbered
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule
from mace_mm.units import ANGSTROM_TO_NM

_SUFFIXES = (".sdf", ".pdb", ".xyz")
# A bond of a record may be this much longer or shorter than in the start, nm.
_BOND_CHANGE = 0.03


def read_conformers(path: Path, ligand: LigandMolecule) -> np.ndarray:
    """All records of a file in the ligand's order of atoms.

    SD records are matched by their bonds, PDB models by atom names where these are unique in both,
    XYZ frames by order.

    Returns:
        (n_records, n_atoms, 3) nm, as the file places them.

    Raises:
        InputError: a file that cannot be read or is empty; a record of another molecule, or with
            another configuration of a center or double bond.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"a file of conformers ends in {' '.join(_SUFFIXES)}, got {path}")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    readers = {".sdf": _from_sdf, ".pdb": _from_pdb, ".xyz": _from_xyz}
    try:
        found = list(readers[suffix](path, ligand))
    except (OSError, ValueError, KeyError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}") from error
    if not found:
        raise InputError(f"{path} holds no conformer")
    start = ligand.positions_nm
    found = [renumbered(ligand.mol, start, positions) for positions in found]
    for number, positions in enumerate(found, start=1):
        complaint = configuration_change(ligand, positions)
        if complaint:
            raise InputError(f"conformer {number} of {path} is not the ligand: {complaint}")
    return np.array(found)


def configuration_change(ligand: LigandMolecule, positions_nm: np.ndarray) -> str | None:
    """What is different about the molecule itself, None if only its conformation is."""
    start = ligand.positions_nm
    for bond in ligand.mol.GetBonds():
        pair = [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]
        lengths = [float(np.linalg.norm(np.diff(p[pair], axis=0))) for p in (start, positions_nm)]
        if abs(lengths[1] - lengths[0]) > _BOND_CHANGE:
            names = "-".join(ligand.names[i] for i in pair)
            return f"the bond {names} is {lengths[1]:.3f} nm long, in the start {lengths[0]:.3f}"
    before, after = _stereo(ligand.mol), _stereo(with_positions(ligand.mol, positions_nm))
    for key in sorted(set(before) | set(after)):
        if before.get(key) != after.get(key):
            names = "=".join(ligand.names[i] for i in key)
            return f"{names} is {after.get(key, 'without label')}, was {before.get(key, 'none')}"
    senses = [handedness(ligand.mol, positions) for positions in (start, positions_nm)]
    turned = [ligand.names[i] for i, sense in senses[0].items() if sense != senses[1][i]]
    if turned:
        return f"the numbered neighbors of {', '.join(turned)} stand the other way round"
    return None


def with_positions(mol: Chem.Mol, positions_nm: np.ndarray) -> Chem.Mol:
    """A copy with one conformer, and with the configuration of that conformer."""
    moved = Chem.Mol(mol)
    moved.RemoveAllConformers()
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions_nm / ANGSTROM_TO_NM, dtype=np.float64))
    moved.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(moved)
    return moved


def _stereo(mol: Chem.Mol) -> dict[tuple[int, ...], str]:
    labels: dict[tuple[int, ...], str] = {
        (atom.GetIdx(),): atom.GetProp("_CIPCode")
        for atom in mol.GetAtoms()
        if atom.HasProp("_CIPCode") and atom.GetAtomicNum() != 7
    }
    for bond in mol.GetBonds():
        if bond.GetStereo() > Chem.BondStereo.STEREOANY:
            labels[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()] = str(bond.GetStereo())
    return labels


def _from_sdf(path: Path, ligand: LigandMolecule) -> Iterator[np.ndarray]:
    with rdBase.BlockLogs():
        records = list(Chem.SDMolSupplier(str(path), removeHs=False, sanitize=False))
    for number, record in enumerate(records, start=1):
        if record is None or not record.GetNumConformers():
            raise InputError(f"record {number} of {path} is not a molecule with coordinates")
        order = _order(record, ligand)
        if order is None:
            raise InputError(
                f"record {number} of {path} has other atoms or bonds than the ligand's "
                f"{ligand.n_atoms} atoms (all hydrogens must be there)"
            )
        yield record.GetConformer().GetPositions()[list(order)] * ANGSTROM_TO_NM


def _order(record: Chem.Mol, ligand: LigandMolecule) -> Sequence[int] | None:
    """Index in the record of each of the ligand's atoms."""
    numbers = [atom.GetAtomicNum() for atom in ligand.mol.GetAtoms()]
    bonds = {frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in ligand.mol.GetBonds()}
    same_bonds = bonds == {
        frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in record.GetBonds()
    }
    if same_bonds and numbers == [atom.GetAtomicNum() for atom in record.GetAtoms()]:
        return range(len(numbers))
    if record.GetNumAtoms() != len(numbers) or record.GetNumBonds() != len(bonds):
        return None
    return next(heavy_matches(ligand.mol, record), None)


def _from_pdb(path: Path, ligand: LigandMolecule) -> Iterator[np.ndarray]:
    structure = app.PDBFile(str(path))
    atoms = [atom for atom in structure.topology.atoms() if atom.element is not None]
    names = [atom.name for atom in atoms]
    if sorted(names) == sorted(ligand.names) and len(set(names)) == len(names):
        order = [names.index(name) for name in ligand.names]
    else:
        order = list(range(len(atoms)))
    _check_elements(path, [atoms[i].element.symbol for i in order], ligand)
    chosen = [atoms[i].index for i in order]
    for frame in range(structure.getNumFrames()):
        positions = structure.getPositions(asNumpy=True, frame=frame)
        yield np.array(positions.value_in_unit(unit.nanometer))[chosen]


def _from_xyz(path: Path, ligand: LigandMolecule) -> Iterator[np.ndarray]:
    for frame in ase.io.read(path, index=":", format="extxyz"):
        _check_elements(path, frame.get_chemical_symbols(), ligand)
        yield frame.positions * ANGSTROM_TO_NM


def _check_elements(path: Path, symbols: Sequence[str], ligand: LigandMolecule) -> None:
    wanted = [atom.GetSymbol() for atom in ligand.mol.GetAtoms()]
    if list(symbols) != wanted:
        raise InputError(
            f"{path} must hold the ligand's atoms in its order, {' '.join(wanted)}, "
            f"got {' '.join(symbols)}"
        )
