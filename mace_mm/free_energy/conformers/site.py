"""The ligand in a binding site: is it in one, and which of its other conformers would fit there."""

from collections.abc import Iterator

import numpy as np

from mace_mm.free_energy.conformers.candidates import rotate_branch, same_well
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule
from mace_mm.free_energy.conformers.placement import CLASH_NM, align, closest_overlap, radii_of
from mace_mm.free_energy.coordinates.conformation import measure
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate
from mace_mm.free_energy.systems.inputs import MMSystem
from mace_mm.free_energy.systems.ligand_choice import is_solvent

# What is neither solvent nor ion within this distance of the ligand makes a binding site, nm.
_SITE_NM = 0.5


def is_in_site(mm: MMSystem) -> bool:
    """Whether the ligand touches something else than water and ions."""
    other = _surroundings(mm)
    if not other:
        return False
    reach = np.full(mm.topology.getNumAtoms(), 0.5 * _SITE_NM)
    overlap, _, _ = closest_overlap(mm.positions_nm, mm.box_nm, list(mm.ligand), other, reach)
    return overlap > 0.0


def fits_in_site(
    ligand: LigandMolecule,
    mm: MMSystem,
    coordinate: SoftCoordinate,
    value: np.ndarray,
    conformers_nm: np.ndarray,
) -> bool:
    """Whether the site has room for another state of one coordinate.

    Tried are the pose with the one bond turned, either end of it, and relaxed conformers of that
    state laid on the pose; heavy atoms of protein and cofactors must not overlap with them.

    Args:
        ligand: with its pose.
        mm: the complex.
        coordinate: whose state.
        value: (n,) numbers of the state.
        conformers_nm: (n_conformers, n_atoms, 3) relaxed, of any state.
    """
    numbers = [atom.element for atom in mm.topology.atoms()]
    other = [
        i for i in _surroundings(mm) if numbers[i] is not None and numbers[i].atomic_number > 1
    ]
    heavy = [
        ligand.atoms[atom.GetIdx()] for atom in ligand.mol.GetAtoms() if atom.GetAtomicNum() > 1
    ]
    if not other or not heavy:
        return True
    positions = mm.positions_nm.copy()
    radii = radii_of(mm.topology)
    for tried in _shapes(ligand, coordinate, value, conformers_nm):
        positions[list(ligand.atoms)] = tried
        overlap, _, _ = closest_overlap(positions, mm.box_nm, heavy, other, radii)
        if overlap <= CLASH_NM:
            return True
    return False


def _shapes(
    ligand: LigandMolecule,
    coordinate: SoftCoordinate,
    value: np.ndarray,
    conformers_nm: np.ndarray,
) -> Iterator[np.ndarray]:
    pose = ligand.positions_nm
    if coordinate.kind == "torsion":
        turn = float(value[0] - measure([coordinate], pose)[0])
        left, right = coordinate.atoms[1:3]
        # Either side of the bond may turn; both ways the torsion grows by the same angle.
        for axis in ((left, right), (right, left)):
            turned = rotate_branch(ligand, axis, turn, pose)
            if turned is not None:
                yield turned
    for positions in conformers_nm:
        if same_well(coordinate, measure([coordinate], positions), value):
            yield align(positions, pose, ligand.mol)


def _surroundings(mm: MMSystem) -> list[int]:
    inside = set(mm.ligand)
    return [
        atom.index
        for atom in mm.topology.atoms()
        if atom.index not in inside and not is_solvent(atom.residue.atoms())
    ]
