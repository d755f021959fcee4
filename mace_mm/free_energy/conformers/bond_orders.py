"""Bond orders and formal charges for a graph of bonds, from whatever knows them."""

import logging
from collections.abc import Callable

from openmm import app
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from mace_mm.errors import InputError

logger = logging.getLogger(__name__)

# DetermineBondOrders tries combinations of valences, whose number explodes in large aromatics.
_MOST_TRIALS = 20_000
_ORDERS = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


def match_smiles(smiles: str, graph: Chem.Mol) -> Chem.Mol:
    """The molecule of a SMILES string with the atom order and positions of a graph of bonds.

    Raises:
        InputError: no SMILES, or that of another molecule.
    """
    with rdBase.BlockLogs():
        parsed = Chem.MolFromSmiles(smiles)
    if parsed is None:
        raise InputError(f"{smiles!r} is not a SMILES string")
    return match_graph(Chem.AddHs(parsed), graph, f"the SMILES {smiles}")


def match_graph(template: Chem.Mol, graph: Chem.Mol, what: str) -> Chem.Mol:
    """A template's bond orders and charges on the atoms of a graph.

    Raises:
        InputError: the two do not have the same atoms and bonds.
    """
    match = bare(graph).GetSubstructMatch(bare(template))
    if len(match) != graph.GetNumAtoms() or template.GetNumBonds() != graph.GetNumBonds():
        raise InputError(
            f"{what} has {_formula(template)} and {template.GetNumBonds()} bonds, and is not the "
            f"ligand with {_formula(graph)} and {graph.GetNumBonds()} bonds: give all hydrogens "
            "and charges as they are in the force field"
        )
    filled = Chem.RWMol(graph)
    for atom in template.GetAtoms():
        filled.GetAtomWithIdx(match[atom.GetIdx()]).SetFormalCharge(atom.GetFormalCharge())
    kekulized = Chem.Mol(template)
    Chem.Kekulize(kekulized, clearAromaticFlags=True)
    for bond in kekulized.GetBonds():
        pair = match[bond.GetBeginAtomIdx()], match[bond.GetEndAtomIdx()]
        filled.GetBondBetweenAtoms(*pair).SetBondType(bond.GetBondType())
    return _sanitized(filled.GetMol())


def bare(mol: Chem.Mol) -> Chem.Mol:
    """Elements and connections alone, for comparing graphs whose bond orders may differ."""
    stripped = Chem.RWMol()
    for atom in mol.GetAtoms():
        plain = Chem.Atom(atom.GetAtomicNum())
        plain.SetNoImplicit(True)
        stripped.AddAtom(plain)
    for bond in mol.GetBonds():
        stripped.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    return stripped.GetMol()


def with_orders(
    graph: Chem.Mol,
    topology: app.Topology,
    place: dict[int, int],
    smiles: str | None,
    charge: int | None,
) -> tuple[str | None, Chem.Mol]:
    """Fill in the orders of a graph of bonds.

    Args:
        graph: all bonds single, with positions.
        topology: which may know the orders.
        place: index in the graph of each of the ligand's atoms in the topology.
        smiles: of the ligand, which is believed.
        charge: of the ligand, None if not known.

    Returns:
        where they come from, None if nothing told them, and the molecule.

    Raises:
        InputError: no SMILES, or that of another molecule.
    """
    if smiles is not None:
        return "SMILES", match_smiles(smiles, graph)

    def of_topology() -> Chem.Mol:
        filled = Chem.RWMol(graph)
        for bond in topology.bonds():
            if bond.atom1.index in place and bond.atom2.index in place:
                if bond.order not in _ORDERS:
                    raise ValueError(f"a bond of order {bond.order}")
                pair = place[bond.atom1.index], place[bond.atom2.index]
                filled.GetBondBetweenAtoms(*pair).SetBondType(_ORDERS[bond.order])
        if charge != 0:
            raise ValueError("a topology does not say where charges are")
        mol = _sanitized(filled.GetMol())
        # Bonds that the topology does not have stay single.
        if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
            raise ValueError("valences are left open")
        return mol

    def of_valences() -> Chem.Mol:
        filled = Chem.Mol(graph)
        rdDetermineBonds.DetermineBondOrders(
            filled, charge=charge or 0, embedChiral=False, maxIterations=_MOST_TRIALS
        )
        return _sanitized(filled)

    sources: dict[str, Callable[[], Chem.Mol]] = {
        "topology": of_topology,
        "bonds, valences and net charge": of_valences,
    }
    for name, source in sources.items():
        try:
            with rdBase.BlockLogs():
                return name, source()
        except (ValueError, RuntimeError) as error:
            # RDKit's exceptions are of these kinds.
            logger.debug("no bond orders from %s: %s", name, error)
    logger.warning(
        "the ligand's bond orders are not known: every bond is taken for single; give its SMILES"
    )
    graph.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(graph)
    Chem.AssignStereochemistryFrom3D(graph)
    return None, graph


def _sanitized(mol: Chem.Mol) -> Chem.Mol:
    Chem.SanitizeMol(mol)
    Chem.AssignStereochemistryFrom3D(mol)
    return mol


def _formula(mol: Chem.Mol) -> str:
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    return " ".join(f"{name}{symbols.count(name)}" for name in sorted(set(symbols)))
