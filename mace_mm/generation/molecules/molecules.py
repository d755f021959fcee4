"""From raw SMILES to the molecules of a protocol: one clear reason for each that is left out."""

import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rdkit import Chem, rdBase
from rdkit.Chem import EnumerateStereoisomers
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.SimDivFilters.rdSimDivPickers import MaxMinPicker

from mace_mm.elements import atomic_number
from mace_mm.errors import InputError
from mace_mm.generation.frames.seeding import derive_seed
from mace_mm.generation.protocol import MoleculeSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A molecule as a source gives it.

    Attributes:
        name: unique name, or "" where the source has none.
        subset: the subset it will be stored under.
        smiles: any SMILES; with atom maps where conformers are given.
        origin: where it was read, for messages.
        conformers: (file, group) of given conformers, or None.
        n_frames: how many of them to use.
        resample: whether given conformers start the sampling instead of being the frames.
    """

    name: str
    subset: str
    smiles: str
    origin: str
    conformers: tuple[str, str] | None = None
    n_frames: int = 0
    resample: bool = False


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Something left out, and why, for the report."""

    name: str
    stage: str
    reason: str


def parse_smiles(smiles: str) -> Chem.Mol:
    """Parse a SMILES with RDKit; explicit hydrogens are kept.

    Raises:
        InputError: not a SMILES, or chemistry that RDKit refuses (its own words are given).
    """
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    parameters.sanitize = False
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, parameters)
        if mol is None:
            raise InputError(f"{smiles!r} is not a SMILES that RDKit can parse")
        problems = Chem.DetectChemistryProblems(mol)
        if problems:
            raise InputError(f"{smiles!r}: " + "; ".join(problem.Message() for problem in problems))
        Chem.SanitizeMol(mol)
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    if mol.GetNumAtoms() == 0:
        raise InputError("an empty SMILES")
    return mol


def mapped_smiles(mol: Chem.Mol) -> str:
    """The SMILES with all hydrogens and atom maps 1 to n_atoms in the molecule's atom order."""
    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    return str(Chem.MolToSmiles(mol))


def from_mapped_smiles(smiles: str) -> Chem.Mol:
    """The molecule of a mapped SMILES with atoms in map order and the maps removed.

    Raises:
        InputError: the maps are not 1 to n_atoms, each once, hydrogens included.
    """
    mol = parse_smiles(smiles)
    maps = [atom.GetAtomMapNum() for atom in mol.GetAtoms()]
    if sorted(maps) != list(range(1, len(maps) + 1)):
        raise InputError(
            f"a mapped SMILES numbers its {len(maps)} atoms 1 to {len(maps)}, hydrogens included;"
            f" got maps {sorted(maps)[:5]}... in {smiles[:80]!r}"
        )
    if any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
        raise InputError(f"a mapped SMILES names every hydrogen; some are implicit in {smiles!r}")
    order = sorted(range(len(maps)), key=maps.__getitem__)
    mol = Chem.RenumberAtoms(mol, order)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol


def check_molecule(mol: Chem.Mol, settings: MoleculeSettings) -> None:
    """Raise InputError unless the molecule (with hydrogens) passes the protocol's filters."""
    elements = sorted({atom.GetSymbol() for atom in mol.GetAtoms()})
    known = {atomic_number(symbol) for symbol in settings.elements}
    foreign = [s for s in elements if s == "*" or atomic_number(s) not in known]
    if foreign:
        raise InputError(
            f"elements {' '.join(foreign)} are not among {' '.join(settings.elements)}"
        )
    n_atoms = mol.GetNumAtoms()
    if not settings.min_atoms <= n_atoms <= settings.max_atoms:
        raise InputError(
            f"{n_atoms} atoms; {settings.min_atoms} to {settings.max_atoms} are wanted"
        )
    charge = Chem.GetFormalCharge(mol)
    if charge not in settings.charges:
        raise InputError(f"total charge {charge}; wanted one of {settings.charges}")
    electrons = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    if electrons and not settings.radicals:
        raise InputError(f"a radical with {electrons} unpaired electrons")


def standardize(smiles: str, settings: MoleculeSettings, seed: int) -> Chem.Mol:
    """One neutral-graph molecule with hydrogens in canonical atom order, or the reason why not.

    Unspecified stereo is fixed to one isomer that RDKit can embed, chosen by ``seed``, so that all
    conformers of a group are the same molecule.

    Raises:
        InputError: unparsable, filtered out, or no stereoisomer.
    """
    mol = parse_smiles(smiles)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    if any(atom.GetIsotope() for atom in mol.GetAtoms()):
        if settings.isotopes == "reject":
            raise InputError("isotope labels")
        for atom in mol.GetAtoms():
            atom.SetIsotope(0)
    n_parts = len(Chem.GetMolFrags(mol))
    with rdBase.BlockLogs():
        if n_parts > 1:
            if settings.salts == "reject":
                raise InputError(f"a salt or mixture of {n_parts} parts")
            mol = rdMolStandardize.FragmentParent(mol)
        mol = Chem.RemoveHs(mol)
        check_molecule(Chem.AddHs(mol), settings)
        options = EnumerateStereoisomers.StereoEnumerationOptions(
            tryEmbedding=True, maxIsomers=1, rand=random.Random(seed)
        )
        if _has_unspecified_stereo(mol):
            isomers = list(EnumerateStereoisomers.EnumerateStereoisomers(mol, options=options))
            if not isomers:
                raise InputError("no stereoisomer that RDKit can embed")
            mol = isomers[0]
        # Writing and reading the canonical SMILES gives the canonical atom order.
        canonical = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
        if canonical is None:
            raise InputError(f"RDKit does not read its own canonical SMILES of {smiles!r}")
        return Chem.AddHs(canonical)


def _has_unspecified_stereo(mol: Chem.Mol) -> bool:
    return any(
        center.specified == Chem.StereoSpecified.Unspecified
        for center in Chem.FindPotentialStereo(mol)
    )


def select_molecules(
    candidates: Iterable[Candidate], settings: MoleculeSettings, seed: int
) -> tuple[list[Candidate], list[Rejection]]:
    """Filter, deduplicate and order the candidates; returns (kept, left out).

    Kept molecules come in MaxMin order (most different first) and carry mapped SMILES; those with
    given conformers are kept apart from the ordering, after it.
    """
    kept: list[tuple[Candidate, str]] = []
    given: list[Candidate] = []
    rejected: list[Rejection] = []
    seen: dict[str, str] = {}
    names: set[str] = set()
    for candidate in candidates:
        label = candidate.name or candidate.origin
        try:
            if candidate.conformers is not None:
                mol = from_mapped_smiles(candidate.smiles)
                check_molecule(mol, settings)
                chosen, canonical = candidate, f"{candidate.subset}/{candidate.smiles}"
            else:
                mol = standardize(
                    candidate.smiles, settings, derive_seed(seed, "stereo", candidate.smiles)
                )
                canonical = Chem.MolToSmiles(Chem.RemoveHs(mol))
                chosen = replace(candidate, smiles=mapped_smiles(mol))
            if canonical in seen:
                raise InputError(f"the same molecule as {seen[canonical]}")
            chosen = replace(chosen, name=_name(chosen, canonical, names))
        except InputError as error:
            rejected.append(Rejection(name=label, stage="molecules", reason=str(error)))
            continue
        seen[canonical] = chosen.name
        names.add(chosen.name)
        if chosen.conformers is not None:
            given.append(chosen)
        else:
            kept.append((chosen, canonical))
    ordered, dropped = _maxmin_order(kept, settings, seed)
    return [*ordered, *given], [*rejected, *dropped]


def _name(candidate: Candidate, canonical: str, taken: set[str]) -> str:
    """The source's name, or the canonical SMILES; HDF5 uses / for groups, so it becomes ⁄."""
    name = (candidate.name or canonical).replace("/", "\N{FRACTION SLASH}").strip(". ")
    if name in taken:
        name = f"{candidate.subset}:{name}"
    if name in taken or not name:
        raise InputError(f"the name {candidate.name!r} is empty or already taken")
    return name


def _maxmin_order(
    kept: list[tuple[Candidate, str]], settings: MoleculeSettings, seed: int
) -> tuple[list[Candidate], list[Rejection]]:
    """Order by MaxMin on Morgan fingerprints (M. Ashton et al., Quant. Struct.-Act. Relat. 21, 598,
    2002) and stop where the next one is a near-duplicate or enough are kept.
    """
    if not kept:
        return [], []
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(canonical)) for _, canonical in kept]
    n_wanted = min(len(kept), settings.max_count or len(kept))
    # Identical fingerprints are still different molecules: -1 never stops the picking.
    threshold = -1.0 if settings.similarity == 1.0 else 1.0 - settings.similarity
    picks, _ = MaxMinPicker().LazyBitVectorPickWithThreshold(
        prints, len(prints), n_wanted, threshold, seed=seed % (2**31 - 1) or 1
    )
    order = list(picks)
    chosen = set(order)
    reason = (
        f"max_count {settings.max_count} reached"
        if len(order) == n_wanted
        else f"Tanimoto similarity above {settings.similarity} to a kept molecule"
    )
    dropped = [
        Rejection(name=candidate.name, stage="molecules", reason=reason)
        for i, (candidate, _) in enumerate(kept)
        if i not in chosen
    ]
    return [kept[i][0] for i in order], dropped
