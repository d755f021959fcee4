"""Drawings of a ligand with one torsion, ring or center marked."""

from collections.abc import Sequence

from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate

_SIZE = 420, 300
_COLOR = (0.96, 0.66, 0.32)


def draw_svg(ligand: LigandMolecule, coordinate: SoftCoordinate) -> str:
    """An SVG with the coordinate's atoms named and its bonds marked."""
    drawer = rdMolDraw2D.MolDraw2DSVG(*_SIZE)
    _draw(drawer, ligand, coordinate)
    return str(drawer.GetDrawingText())


def draw_png(ligand: LigandMolecule, coordinate: SoftCoordinate) -> bytes:
    """The same as PNG."""
    drawer = rdMolDraw2D.MolDraw2DCairo(*_SIZE)
    _draw(drawer, ligand, coordinate)
    return bytes(drawer.GetDrawingText())


def _draw(
    drawer: rdMolDraw2D.MolDraw2D, ligand: LigandMolecule, coordinate: SoftCoordinate
) -> None:
    mol = Chem.RWMol(ligand.mol)
    mol.RemoveAllConformers()
    for atom in mol.GetAtoms():
        atom.SetIntProp("place", atom.GetIdx())
        if atom.GetIdx() in coordinate.atoms:
            atom.SetProp("atomNote", ligand.names[atom.GetIdx()])
    # Hydrogens that name nothing would hide the molecule.
    for index in reversed(range(mol.GetNumAtoms())):
        atom = mol.GetAtomWithIdx(index)
        if atom.GetAtomicNum() == 1 and index not in coordinate.atoms and atom.GetDegree() == 1:
            neighbor = atom.GetNeighbors()[0]
            if neighbor.GetAtomicNum() > 1:
                neighbor.SetNumExplicitHs(neighbor.GetNumExplicitHs() + 1)
                mol.RemoveAtom(index)
    place = {atom.GetIntProp("place"): atom.GetIdx() for atom in mol.GetAtoms()}
    plain = mol.GetMol()
    plain.UpdatePropertyCache(strict=False)
    if ligand.orders_from is not None:
        Chem.Kekulize(plain, clearAromaticFlags=True)
    rdDepictor.Compute2DCoords(plain)
    marked = [place[atom] for atom in coordinate.atoms]
    bonds = [
        plain.GetBondBetweenAtoms(place[first], place[second]).GetIdx()
        for first, second in marked_bonds(ligand, coordinate)
    ]
    options = drawer.drawOptions()
    options.annotationFontScale = 0.75
    options.prepareMolsBeforeDrawing = False
    options.highlightBondWidthMultiplier = 14
    drawer.DrawMolecule(
        plain,
        highlightAtoms=marked,
        highlightBonds=bonds,
        highlightAtomColors={atom: _COLOR for atom in marked},
        highlightBondColors={bond: _COLOR for bond in bonds},
    )
    drawer.FinishDrawing()


def marked_bonds(ligand: LigandMolecule, coordinate: SoftCoordinate) -> Sequence[tuple[int, int]]:
    """The axis of a torsion, through straight chains too; the bonds of a ring or center."""
    atoms = coordinate.atoms
    if coordinate.kind == "torsion":
        path = Chem.GetShortestPath(ligand.mol, atoms[1], atoms[2])
        return [(path[i], path[i + 1]) for i in range(len(path) - 1)]
    if coordinate.kind == "ring":
        return [(atoms[i - 1], atoms[i]) for i in range(len(atoms))]
    return [(atoms[0], other) for other in atoms[1:]]
