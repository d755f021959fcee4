"""A ligand to simulate: from a SMILES string, an SD file or a PDB file to an OpenMM topology."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from openmm import app
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from mace_mm.errors import ElementError, GeometryError, InputError
from mace_mm.openmm.isotopes import isotope_masses
from mace_mm.openmm.pdb_file import read_pdb
from mace_mm.openmm.pdb_structure import cell_of, look_at_structure
from mace_mm.units import ANGSTROM_TO_NM

logger = logging.getLogger(__name__)

_SUFFIXES = (".sdf", ".mol", ".pdb")
_CONFORMER_SEED = 20261
_INDEX = "index"


@dataclass(frozen=True, kw_only=True, eq=False)
class Ligand:
    """What a simulation starts from.

    Attributes:
        name: a name for people.
        topology: with elements and, where they are known, bonds; periodic if it has a box.
        positions_nm: (n_atoms, 3).
        smiles: canonical SMILES without mapped hydrogens, None where the bond orders are unknown.
        molecule: the RDKit molecule with the same atom order, None where bond orders are unknown.
        total_charge: sum of the formal charges, e; None where they are unknown.
        isotope_masses: Da, by index, of the atoms whose isotope is named.
        warnings: what the log said about the file.
    """

    name: str
    topology: app.Topology
    positions_nm: np.ndarray
    smiles: str | None
    molecule: Chem.Mol | None
    total_charge: int | None
    isotope_masses: Mapping[int, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def n_atoms(self) -> int:
        return int(self.positions_nm.shape[0])

    @property
    def box_in_words(self) -> str:
        """The lengths of a periodic box, to follow a number of atoms; empty in vacuum."""
        cell = cell_of(self.topology)
        if cell is None:
            return ""
        edges = " x ".join(f"{edge:.1f}" for edge in np.linalg.norm(cell, axis=1))
        return f" in a periodic box of {edges} Å"

    @property
    def smiles_atoms(self) -> tuple[int, ...]:
        """Of every atom the place in ``smiles``, for a hydrogen that of its neighbor; empty
        without one."""
        if self.molecule is None:
            return ()
        tagged = Chem.Mol(self.molecule)
        for atom in tagged.GetAtoms():
            atom.SetIntProp(_INDEX, atom.GetIdx())
        heavy = Chem.RemoveHs(tagged)
        Chem.MolToSmiles(heavy)
        order = heavy.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]
        place = {heavy.GetAtomWithIdx(k).GetIntProp(_INDEX): n for n, k in enumerate(order)}
        for atom in self.molecule.GetAtoms():
            around = [near.GetIdx() for near in atom.GetNeighbors()]
            known = [place[k] for k in around if k in place]
            place.setdefault(atom.GetIdx(), known[0] if known else 0)
        return tuple(place[k] for k in range(self.molecule.GetNumAtoms()))


def load_ligand(source: str, name: str | None = None) -> Ligand:
    """Read a ligand from a file (.sdf, .mol, .pdb) or build one from a SMILES string.

    Args:
        source: path or SMILES.
        name: a name for people; the file's title or name, or the SMILES, if not given.

    Raises:
        InputError: not a file and not a SMILES string; a file that cannot be read, holds no
            coordinates, no molecule or no hydrogens.
        GeometryError: no 3-D structure could be built for the SMILES.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES or path.is_file():
        if not path.is_file():
            raise InputError(f"no such file: {source}")
        if suffix == ".pdb":
            return _from_pdb(path, name)
        if suffix in (".sdf", ".mol"):
            return _from_sdf(path, name)
        raise InputError(f"a ligand file ends in one of {' '.join(_SUFFIXES)}, got {source}")
    return ligand_from_smiles(source, name)


def ligand_from_smiles(smiles: str, name: str | None = None) -> Ligand:
    """Build a ligand with RDKit: ETKDG embedding, then an MMFF94 (else UFF) minimization.

    Raises:
        InputError: the string is not a SMILES, or names several molecules.
        GeometryError: RDKit finds no 3-D structure.
    """
    parsed = Chem.MolFromSmiles(smiles) if smiles.strip() else None
    if parsed is None or parsed.GetNumAtoms() == 0:
        raise InputError(f"{smiles!r} is neither a file that exists nor a SMILES string")
    _check_one_fragment(parsed, repr(smiles))
    molecule = Chem.AddHs(parsed)
    embedding = rdDistGeom.ETKDGv3()
    embedding.randomSeed = _CONFORMER_SEED
    if rdDistGeom.EmbedMolecule(molecule, embedding) != 0:
        embedding.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(molecule, embedding) != 0:
            raise GeometryError(f"RDKit found no 3-D structure for {smiles!r}")
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=2000)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=2000)
    else:
        logger.warning("no classical force field covers %s: its embedded structure is used", smiles)
    return _from_rdkit(molecule, name or smiles)


def _check_one_fragment(molecule: Chem.Mol, where: str) -> None:
    n_fragments = len(Chem.GetMolFrags(molecule))
    if n_fragments != 1:
        raise InputError(f"one molecule was expected, {where} holds {n_fragments}")


def _from_sdf(path: Path, name: str | None) -> Ligand:
    try:
        supplier = Chem.SDMolSupplier(str(path), removeHs=False)
        molecules = list(supplier)
    except OSError as error:
        raise InputError(f"{path} is not an SD file: {error}") from error
    if not molecules or molecules[0] is None:
        raise InputError(f"{path} holds no molecule that RDKit can read")
    if len(molecules) > 1:
        raise InputError(f"one molecule was expected, {path} holds {len(molecules)}")
    molecule = molecules[0]
    if molecule.GetNumConformers() == 0 or not molecule.GetConformer().Is3D():
        raise InputError(f"{path} holds no 3-D coordinates")
    n_missing = sum(atom.GetTotalNumHs() for atom in molecule.GetAtoms())
    if n_missing:
        raise InputError(f"{path} lacks {n_missing} hydrogen atoms: add them with coordinates")
    title = molecule.GetProp("_Name").strip() if molecule.HasProp("_Name") else ""
    return _from_rdkit(molecule, name or title or path.stem)


def _from_rdkit(molecule: Chem.Mol, name: str) -> Ligand:
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    counts: dict[str, int] = {}
    atoms = []
    for atom in molecule.GetAtoms():
        symbol = atom.GetSymbol()
        if atom.GetAtomicNum() < 1:
            raise ElementError(f"atom {atom.GetIdx()} of {name} has no element, got {symbol!r}")
        counts[symbol] = counts.get(symbol, 0) + 1
        element = app.Element.getByAtomicNumber(atom.GetAtomicNum())
        label = f"{symbol}{counts[symbol]}"
        charge = atom.GetFormalCharge()
        atoms.append(topology.addAtom(label, element, residue, formalCharge=charge))
    for bond in molecule.GetBonds():
        topology.addBond(atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()])
    positions = np.array(molecule.GetConformer().GetPositions(), dtype=np.float64)
    return Ligand(
        name=name,
        topology=topology,
        positions_nm=positions * ANGSTROM_TO_NM,
        smiles=Chem.MolToSmiles(Chem.RemoveHs(molecule)),
        molecule=molecule,
        total_charge=Chem.GetFormalCharge(molecule),
        isotope_masses=isotope_masses(molecule),
    )


def _from_pdb(path: Path, name: str | None) -> Ligand:
    structure = read_pdb(path)
    topology, positions_nm = structure.topology, structure.positions_nm
    for atom in topology.atoms():
        if atom.element is None:
            raise ElementError(f"atom {atom.name} (index {atom.index}) of {path} has no element")
    warnings = look_at_structure(topology, positions_nm, str(path))
    for warning in (*structure.warnings, *warnings):
        logger.warning("%s", warning)
    formal = [atom.formalCharge for atom in topology.atoms()]
    return Ligand(
        name=name or path.stem,
        topology=topology,
        positions_nm=positions_nm,
        smiles=None,
        molecule=None,
        total_charge=None if None in formal else sum(formal),
        warnings=(*structure.warnings, *warnings),
    )
