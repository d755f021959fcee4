"""The coordinates along which a ligand may be slow: rotatable bonds, ring puckers, inversions.

Bonds and configured centers (double bonds, sp3 carbon) are not here: they do not change in a
simulation that is right. Rotations that only permute equal atoms (methyl, tert-butyl, CF3, half a
turn of a phenyl or carboxylate) are no change of conformer: threefold tops are left out, and angles
of twofold ends are taken modulo half a turn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rdkit import Chem

from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule

# Larger rings bend like chains: their bonds are followed as torsions.
LARGEST_PUCKER = 8
# Degrees: a straighter chain has no torsion; three bonds with a larger sum of angles are flat.
_STRAIGHT = 165.0
_FLAT = 350.0
# Å, of double bonds where bond orders are not known.
_DOUBLE = {
    frozenset("C"): 1.38,
    frozenset("CN"): 1.31,
    frozenset("N"): 1.31,
    frozenset("CO"): 1.29,
    frozenset("NO"): 1.26,
    frozenset("CS"): 1.66,
}

Kind = Literal["torsion", "ring", "inversion"]


@dataclass(frozen=True, kw_only=True)
class SoftCoordinate:
    """One place where a molecule bends slowly; atoms are counted inside the ligand.

    Attributes:
        kind: what it is.
        atoms: of a torsion the four that name it, of a ring its members in order, of an inversion
            the center and its three neighbors.
        first, last: atoms that show the direction of an end of a torsion: one, or two equal ones.
            Empty for other kinds.
        flat: of both ends: two equal atoms lie in a plane with the axis and point opposite ways,
            so that their difference is the direction; of a pyramid it is their sum.
        folds: a turn by 360°/folds permutes equal atoms only.
    """

    kind: Kind
    atoms: tuple[int, ...]
    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    flat: tuple[bool, bool] = (False, False)
    folds: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """A name for each number that describes it."""
        label = f"{self.kind} {'-'.join(str(atom) for atom in self.atoms)}"
        if self.kind == "ring":
            return tuple(f"{label} q{i}" for i in range(len(self.atoms) - 3))
        return (label,)

    @property
    def period(self) -> float | None:
        """Of its numbers, degrees; None for numbers that do not come round."""
        return 360.0 / self.folds if self.kind == "torsion" else None


def find_coordinates(ligand: LigandMolecule) -> tuple[SoftCoordinate, ...]:
    """Every rotatable bond, ring that can pucker, and pyramidal nitrogen that can invert."""
    graph = _Graph(ligand)
    return (*_torsions(graph), *_rings(graph), *_inversions(graph))


def equal_atoms(mol: Chem.Mol) -> list[int]:
    """(n_atoms,) classes: equal numbers where nothing but an index tells atoms apart.

    Bond orders and charges do not count, which resonance shares; the handedness of centers does.
    """
    names: list[object] = [
        (atom.GetAtomicNum(), atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else "")
        for atom in mol.GetAtoms()
    ]
    classes = _numbered(names)
    for _ in range(mol.GetNumAtoms()):
        finer = _numbered(
            [
                (classes[atom.GetIdx()], *sorted(classes[n.GetIdx()] for n in atom.GetNeighbors()))
                for atom in mol.GetAtoms()
            ]
        )
        if len(set(finer)) == len(set(classes)):
            break
        classes = finer
    return classes


def _numbered(names: Sequence[object]) -> list[int]:
    known: dict[object, int] = {}
    return [known.setdefault(name, len(known)) for name in names]


class _Graph:
    """What the search asks about atoms and bonds, with the start's geometry."""

    def __init__(self, ligand: LigandMolecule) -> None:
        self.mol = mol = ligand.mol
        self.positions = mol.GetConformer().GetPositions()
        self.neighbors = [[n.GetIdx() for n in atom.GetNeighbors()] for atom in mol.GetAtoms()]
        self.classes = equal_atoms(mol)
        self.rings = [tuple(ring) for ring in Chem.GetSymmSSSR(mol)]
        self.orders_known = ligand.orders_from is not None

    def is_straight(self, atom: int) -> bool:
        if len(self.neighbors[atom]) != 2:
            return False
        return self.angle(self.neighbors[atom][0], atom, self.neighbors[atom][1]) > _STRAIGHT

    def angle(self, a: int, center: int, b: int) -> float:
        one, two = (self.positions[i] - self.positions[center] for i in (a, b))
        cosine = one @ two / math.sqrt((one @ one) * (two @ two))
        return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))

    def is_flat(self, atom: int) -> bool:
        """Whether three neighbors and the atom lie in one plane."""
        near = self.neighbors[atom]
        if len(near) != 3:
            return len(near) < 3
        angles = sum(self.angle(near[i - 1], atom, near[i]) for i in range(3))
        return angles > _FLAT

    def is_double(self, first: int, second: int) -> bool:
        """A bond that keeps its configuration."""
        bond = self.mol.GetBondBetweenAtoms(first, second)
        if self.orders_known:
            return bool(
                bond.GetIsAromatic()
                or bond.GetBondType() not in (Chem.BondType.SINGLE, Chem.BondType.DATIVE)
            )
        symbols = frozenset(self.mol.GetAtomWithIdx(i).GetSymbol() for i in (first, second))
        length = float(np.linalg.norm(self.positions[first] - self.positions[second]))
        flat = self.is_flat(first) and self.is_flat(second)
        return flat and length < _DOUBLE.get(symbols, 0.0)

    def in_pucker(self, first: int, second: int) -> bool:
        return any(
            first in ring and second in ring and self._adjacent(ring, first, second)
            for ring in self.rings
            if len(ring) <= LARGEST_PUCKER
        )

    @staticmethod
    def _adjacent(ring: tuple[int, ...], first: int, second: int) -> bool:
        apart = abs(ring.index(first) - ring.index(second))
        return apart in (1, len(ring) - 1)


def _torsions(graph: _Graph) -> list[SoftCoordinate]:
    found = []
    for bond in graph.mol.GetBonds():
        pair = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if graph.is_double(*pair) or graph.in_pucker(*pair):
            continue
        axis = _axis(graph, *pair)
        if axis is None:
            continue
        left, right, left_bond, right_bond = axis
        first, fold_first = _end(graph, left, left_bond)
        last, fold_last = _end(graph, right, right_bond)
        if max(fold_first, fold_last) >= 3:
            continue
        found.append(
            SoftCoordinate(
                kind="torsion",
                atoms=(first[0], left, right, last[0]),
                first=first,
                last=last,
                flat=(len(first) > 1 and fold_first > 1, len(last) > 1 and fold_last > 1),
                folds=math.lcm(fold_first, fold_last),
            )
        )
    unique = {(c.atoms[1], c.atoms[2]): c for c in found}
    return [unique[key] for key in sorted(unique)]


def _axis(graph: _Graph, first: int, second: int) -> tuple[int, int, int, int] | None:
    """The bent atoms at both ends of a bond, through straight chains: (left, right, and of each
    the neighbor towards the other), sorted; None where an end has nothing to turn."""
    ends = []
    for atom, before in ((first, second), (second, first)):
        while graph.is_straight(atom):
            ahead = next(n for n in graph.neighbors[atom] if n != before)
            atom, before = ahead, atom
        if len(graph.neighbors[atom]) < 2:
            return None
        ends.append((atom, before))
    (left, left_bond), (right, right_bond) = sorted(ends)
    return left, right, left_bond, right_bond


def _end(graph: _Graph, center: int, before: int) -> tuple[tuple[int, ...], int]:
    """What shows the direction of one end of a torsion, and how many turns look the same."""
    others = [n for n in graph.neighbors[center] if n != before]
    groups: dict[int, list[int]] = {}
    for other in others:
        groups.setdefault(graph.classes[other], []).append(other)
    if len(groups) == 1 and len(others) == 2:
        # Whichever atom is which.
        return tuple(others), 2 if graph.is_flat(center) else 1
    if len(groups) == 1:
        return (others[0],), len(others)
    # The rarest kind of neighbor tells the direction; of those, the heaviest.
    numbers = [atom.GetAtomicNum() for atom in graph.mol.GetAtoms()]
    rarest = min(groups.values(), key=lambda g: (len(g), -numbers[g[0]], g[0]))
    return (rarest[0],) if len(rarest) == 1 else tuple(rarest[:2]), 1


def _rings(graph: _Graph) -> list[SoftCoordinate]:
    return [
        SoftCoordinate(kind="ring", atoms=ring)
        for ring in sorted(graph.rings)
        if 4 <= len(ring) <= LARGEST_PUCKER
        and not all(
            graph.is_flat(atom) and any(graph.is_double(atom, n) for n in graph.neighbors[atom])
            for atom in ring
        )
    ]


def _inversions(graph: _Graph) -> list[SoftCoordinate]:
    """Pyramidal nitrogens whose inversion is not a permutation of equal atoms."""
    found = []
    for atom in graph.mol.GetAtoms():
        center = atom.GetIdx()
        near = graph.neighbors[center]
        if atom.GetAtomicNum() != 7 or len(near) != 3 or graph.is_flat(center):
            continue
        equal = any(
            graph.classes[a] == graph.classes[b] and not _share_ring(graph, center, a, b)
            for i, a in enumerate(near)
            for b in near[:i]
        )
        if not equal:
            found.append(SoftCoordinate(kind="inversion", atoms=(center, *sorted(near))))
    return found


def _share_ring(graph: _Graph, center: int, a: int, b: int) -> bool:
    return any(center in ring and a in ring and b in ring for ring in graph.rings)
