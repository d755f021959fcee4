"""Numbering of equal atoms: a structure must be one that the numbered molecule can reach.

Exchanging two hydrogens of a CH2 group is no other molecule, but as far as numbered atoms go it
needs bonds to break. In cyclohexanol it matters: with carbon atoms 2 and 6 exchanged the equatorial
chair has the pucker that the axial one has in the simulation.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from rdkit import Chem

from mace_mm.free_energy.conformers.bond_orders import bare
from mace_mm.free_energy.coordinates.soft_coordinates import equal_atoms

# Ways to lay a molecule on itself that are tried; symmetric molecules have few without hydrogens.
_MOST_MATCHES = 1000


def handedness(mol: Chem.Mol, positions: np.ndarray) -> dict[int, int]:
    """The sense, +1 or -1, in which the numbered neighbors of each four-bonded atom stand."""
    senses = {}
    for atom in mol.GetAtoms():
        near = sorted(n.GetIdx() for n in atom.GetNeighbors())
        if len(near) == 4:
            a, b, c = (positions[i] - positions[near[3]] for i in near[:3])
            senses[atom.GetIdx()] = 1 if np.cross(a, b) @ c > 0.0 else -1
    return senses


def renumbered(mol: Chem.Mol, start: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Exchange equal atoms of a structure until its numbered centers are those of the start.

    Args:
        mol: the molecule.
        start, positions: (n_atoms, 3).

    Returns:
        (n_atoms, 3); the structure as it was if no exchange does it, such as for another
        enantiomer.
    """
    wanted = handedness(mol, start)
    for order in _renumberings(mol):
        tried = _exchanged(mol, wanted, positions[order])
        if handedness(mol, tried) == wanted:
            return tried
    return positions


def heavy_matches(mol: Chem.Mol, other: Chem.Mol) -> Iterator[list[int]]:
    """Index in ``other`` of each atom of a molecule, for all ways to lay the heavy atoms on each
    other; hydrogens follow in any order."""
    parts = [_heavy(mol), _heavy(other)]
    for match in parts[1][0].GetSubstructMatches(
        parts[0][0], uniquify=False, maxMatches=_MOST_MATCHES
    ):
        order = [-1] * mol.GetNumAtoms()
        complete = True
        for mine, theirs in zip(parts[0][1], (parts[1][1][i] for i in match), strict=True):
            order[mine] = theirs
            one, two = _hydrogens(mol, mine), _hydrogens(other, theirs)
            complete = complete and len(one) == len(two)
            for first, second in zip(one, two, strict=False):
                order[first] = second
        if complete and -1 not in order:
            yield order


def _renumberings(mol: Chem.Mol) -> Iterator[list[int]]:
    yield list(range(mol.GetNumAtoms()))
    yield from heavy_matches(mol, mol)


def _exchanged(mol: Chem.Mol, wanted: dict[int, int], positions: np.ndarray) -> np.ndarray:
    """Exchange equal ends (two hydrogens, two oxygens) of centers that have the wrong sense."""
    classes = equal_atoms(mol)
    changed = positions.copy()
    for center, sense in handedness(mol, positions).items():
        if sense == wanted[center]:
            continue
        ends = [n.GetIdx() for n in mol.GetAtomWithIdx(center).GetNeighbors() if n.GetDegree() == 1]
        pair = next(
            ((a, b) for i, a in enumerate(ends) for b in ends[:i] if classes[a] == classes[b]),
            None,
        )
        if pair is not None:
            changed[list(pair)] = changed[list(pair[::-1])]
    return changed


def _heavy(mol: Chem.Mol) -> tuple[Chem.Mol, Sequence[int]]:
    kept = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    graph = Chem.RWMol(bare(mol))
    for index in reversed(range(mol.GetNumAtoms())):
        if index not in kept:
            graph.RemoveAtom(index)
    return graph.GetMol(), kept


def _hydrogens(mol: Chem.Mol, index: int) -> list[int]:
    atom = mol.GetAtomWithIdx(index)
    return [n.GetIdx() for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]
