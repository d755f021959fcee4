"""Where to look for conformers: distance geometry by RDKit, and turns of every rotatable bond."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from mace_mm.free_energy.conformers.files import configuration_change
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule
from mace_mm.free_energy.coordinates.conformation import measure, per_coordinate
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate
from mace_mm.units import ANGSTROM_TO_NM

logger = logging.getLogger(__name__)

_SEED = 20261
_TURN = 60.0
# Two structures are one conformer if every number agrees within this: degrees of a torsion (a
# quarter of its period at most), Å of a pucker, volume of an inversion.
_SAME = {"torsion": 30.0, "ring": 0.25, "inversion": 0.5}


def embedded(ligand: LigandMolecule, n_conformers: int) -> np.ndarray:
    """Conformers by ETKDGv3 (S. Wang et al., J. Chem. Inf. Model. 60, 2044, 2020), relaxed with
    MMFF94 where it has parameters. Amides may be cis.

    Returns:
        (n, n_atoms, 3) nm; none where bond orders are not known or RDKit finds no structure.
    """
    if ligand.orders_from is None:
        return np.zeros((0, ligand.n_atoms, 3))
    mol = Chem.Mol(ligand.mol)
    # Every center, stereocenter or not, keeps the sense of its numbered neighbors.
    Chem.AssignAtomChiralTagsFromStructure(mol, replaceExistingTags=True)
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = _SEED
    parameters.numThreads = 1
    parameters.forceTransAmides = False
    parameters.maxIterations = 20
    with rdBase.BlockLogs():
        ids = list(rdDistGeom.EmbedMultipleConfs(mol, n_conformers, parameters))
        if ids and rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=300)
    if not ids:
        logger.warning("RDKit finds no structure of the ligand: its bonds are turned instead")
        return np.zeros((0, ligand.n_atoms, 3))
    found = np.array([mol.GetConformer(i).GetPositions() for i in ids]) * ANGSTROM_TO_NM
    return found[[configuration_change(ligand, positions) is None for positions in found]]


def turned(
    ligand: LigandMolecule, coordinates: Sequence[SoftCoordinate], positions_nm: np.ndarray
) -> Iterator[np.ndarray]:
    """Structures with one torsion turned by multiples of 60°, all around its period."""
    for coordinate in coordinates:
        if coordinate.kind != "torsion":
            continue
        for step in range(1, round(360.0 / coordinate.folds / _TURN)):
            moved = rotate_branch(ligand, coordinate.atoms[1:3], step * _TURN, positions_nm)
            if moved is not None:
                yield moved


def rotate_branch(
    ligand: LigandMolecule, axis: Sequence[int], degrees: float, positions_nm: np.ndarray
) -> np.ndarray | None:
    """Turn one side of an axis; None where a ring joins both sides.

    Args:
        ligand: whose bonds say which atoms move.
        axis: two atoms, bonded or joined by a straight chain; the side of the second one moves.
        degrees: how far the torsion grows.
        positions_nm: (n_atoms, 3).
    """
    path = Chem.GetShortestPath(ligand.mol, *axis)
    moving = _side(ligand.mol, path[-1], path[-2])
    if axis[0] in moving:
        return None
    turned_nm = positions_nm.copy()
    origin = positions_nm[axis[1]]
    direction = origin - positions_nm[axis[0]]
    direction = direction / np.linalg.norm(direction)
    angle = np.radians(degrees)
    arm = positions_nm[moving] - origin
    along = np.outer(arm @ direction, direction)
    turned_nm[moving] = (
        origin + along + (arm - along) * np.cos(angle) + np.cross(direction, arm) * np.sin(angle)
    )
    return turned_nm


def _side(mol: Chem.Mol, start: int, without: int) -> list[int]:
    """Atoms that hang on one atom of a bond, that atom included."""
    found = [start]
    for atom in found:
        for neighbor in mol.GetAtomWithIdx(atom).GetNeighbors():
            other = neighbor.GetIdx()
            if other not in found and {atom, other} != {start, without}:
                found.append(other)
    return found


def same_conformer(coordinates: Sequence[SoftCoordinate], one: np.ndarray, two: np.ndarray) -> bool:
    """Whether two rows of :func:`measure` are one conformer."""
    pairs = zip(per_coordinate(coordinates, one), per_coordinate(coordinates, two), strict=True)
    return all(same_well(coordinate, a, b) for (coordinate, a), (_, b) in pairs)


def same_well(coordinate: SoftCoordinate, one: np.ndarray, two: np.ndarray) -> bool:
    """Whether one coordinate has about the same value in two structures."""
    apart = np.abs(one - two)
    limit = _SAME[coordinate.kind]
    if coordinate.period is not None:
        apart = np.minimum(apart, coordinate.period - apart)
        limit = min(limit, 0.25 * coordinate.period)
    return bool((apart <= limit).all())


def distinct(
    coordinates: Sequence[SoftCoordinate], structures: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The first of every conformer."""
    kept: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    for positions in structures:
        row = measure(coordinates, positions)
        if not any(same_conformer(coordinates, row, other) for other in rows):
            kept.append(positions)
            rows.append(row)
    return kept
