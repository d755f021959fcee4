"""Find the stereocenters and stereo double bonds of a molecule with RDKit."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mace_mm.identity.bonds import minimum_image
from mace_mm.identity.stereo import NO_ATOM, Stereo

# Å. Conjugated C-C single bonds are at 1.43 and above, C-N bonds of amides at 1.33 (and their
# nitrogen has three neighbors), aromatic bonds lie in rings, which are left out below 8 members.
_DOUBLE_BELOW = {(6, 6): 1.40, (6, 7): 1.32, (7, 7): 1.31}


def stereo_of(molecule: Any) -> Stereo:
    """Stereocenters and stereo double bonds of an RDKit molecule with explicit hydrogens.

    Unspecified ones count, as do those that exist only through others, such as the two centers of
    1,4-dimethylcyclohexane. A nitrogen with a lone pair counts where a ring holds it (aziridines,
    bridgeheads), not where it inverts freely.
    """
    from rdkit import Chem

    centers, double_bonds = [], []
    for found in Chem.FindPotentialStereo(molecule, cleanIt=False, flagPossible=True):
        around = [int(k) for k in found.controllingAtoms]
        if found.type == Chem.StereoType.Atom_Tetrahedral:
            if len(around) in (3, 4):
                centers.append([found.centeredOn, *around, *[NO_ATOM] * (4 - len(around))])
        elif found.type == Chem.StereoType.Bond_Double:
            bond = molecule.GetBondWithIdx(found.centeredOn)
            a, b = bond.GetBeginAtom(), bond.GetEndAtom()
            # Cumulenes are straight: nothing is cis or trans at their inner carbon.
            if any(end.GetAtomicNum() == 6 and end.GetDegree() == 2 for end in (a, b)):
                continue
            # Two neighbors of either end, or one beside a lone pair: the first that exists.
            ends = [[k for k in pair if k < molecule.GetNumAtoms()] for pair in _halves(around)]
            if all(ends):
                double_bonds.append([ends[0][0], a.GetIdx(), b.GetIdx(), ends[1][0]])
    return Stereo(
        centers=np.array(centers, dtype=np.int64).reshape(-1, 5),
        double_bonds=np.array(double_bonds, dtype=np.int64).reshape(-1, 4),
    )


def specified_stereo_of(molecule: Any) -> Stereo:
    """As `stereo_of`, only what the molecule's SMILES or file specifies."""
    from rdkit import Chem

    every = stereo_of(molecule)
    open_center = Chem.ChiralType.CHI_UNSPECIFIED
    open_bond = (Chem.BondStereo.STEREONONE, Chem.BondStereo.STEREOANY)
    centers = [
        molecule.GetAtomWithIdx(int(row[0])).GetChiralTag() != open_center for row in every.centers
    ]
    double_bonds = [
        molecule.GetBondBetweenAtoms(int(row[1]), int(row[2])).GetStereo() not in open_bond
        for row in every.double_bonds
    ]
    return Stereo(
        centers=every.centers[np.array(centers, dtype=bool)],
        double_bonds=every.double_bonds[np.array(double_bonds, dtype=bool)],
    )


def _halves(around: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    return around[:2], around[2:]


def stereo_from_geometry(
    atomic_numbers: np.ndarray,
    bonds: Sequence[tuple[int, int]],
    positions: np.ndarray,
    cell: np.ndarray | None = None,
    distinct: Sequence[int] = (),
) -> Stereo:
    """The same where bond orders are unknown: double bonds are told by length and neighbors.

    Args:
        atomic_numbers: (n_atoms,).
        bonds: pairs of atoms.
        positions: (n_atoms, 3) Å.
        cell: (3, 3) rows, Å; None in vacuum.
        distinct: atoms that are like no other whatever their neighbors are, such as those where a
            larger molecule goes on.
    """
    neighbors: list[list[int]] = [[] for _ in atomic_numbers]
    double: set[tuple[int, int]] = set()
    for i, j in bonds:
        neighbors[i].append(j)
        neighbors[j].append(i)
    for i, j in bonds:
        length = float(np.linalg.norm(minimum_image(positions[j] - positions[i], cell)))
        if _is_double(i, j, length, atomic_numbers, neighbors):
            double |= {(i, j), (j, i)}
    isotopes = {atom: k + 1 for k, atom in enumerate(distinct)}
    found = [Stereo.none()]
    for fragment in _fragments(neighbors):
        if not _may_have_stereo(fragment, atomic_numbers, neighbors):
            continue
        stereo = stereo_of(_molecule(fragment, atomic_numbers, neighbors, double, isotopes))
        # The index -1 for a lone pair stays -1.
        index = np.array([*fragment, NO_ATOM], dtype=np.int64)
        found.append(Stereo(centers=index[stereo.centers], double_bonds=index[stereo.double_bonds]))
    return Stereo(
        centers=np.concatenate([s.centers for s in found]),
        double_bonds=np.concatenate([s.double_bonds for s in found]),
    )


def _fragments(neighbors: Sequence[Sequence[int]]) -> list[list[int]]:
    seen = [False] * len(neighbors)
    fragments = []
    for start in range(len(neighbors)):
        if seen[start]:
            continue
        seen[start] = True
        fragment, front = [], [start]
        while front:
            atom = front.pop()
            fragment.append(atom)
            for other in neighbors[atom]:
                if not seen[other]:
                    seen[other] = True
                    front.append(other)
        fragments.append(sorted(fragment))
    return fragments


def _may_have_stereo(
    fragment: Sequence[int], numbers: np.ndarray, neighbors: Sequence[Sequence[int]]
) -> bool:
    """Whether RDKit needs to look: solvents with thousands of molecules mostly have none."""
    for atom in fragment:
        heavy = sum(numbers[k] > 1 for k in neighbors[atom])
        if numbers[atom] > 1 and (heavy >= 3 or (heavy == 2 and len(neighbors[atom]) <= 3)):
            return True
    return False


def _molecule(
    fragment: Sequence[int],
    numbers: np.ndarray,
    neighbors: Sequence[Sequence[int]],
    double: set[tuple[int, int]],
    isotopes: dict[int, int],
) -> Any:
    """An RDKit molecule of a fragment, as far as its orders can be told."""
    from rdkit import Chem

    editable = Chem.RWMol()
    place = {atom: k for k, atom in enumerate(fragment)}
    for atom in fragment:
        new = Chem.Atom(int(numbers[atom]))
        new.SetNoImplicit(True)
        if _is_onium(atom, numbers, neighbors):
            new.SetFormalCharge(1)
        # Isotopes make atoms differ for RDKit, and nothing else.
        new.SetIsotope(isotopes.get(atom, 0))
        editable.AddAtom(new)
    for atom in fragment:
        for other in neighbors[atom]:
            if atom < other:
                kind = Chem.BondType.DOUBLE if (atom, other) in double else Chem.BondType.SINGLE
                editable.AddBond(place[atom], place[other], kind)
    molecule = editable.GetMol()
    molecule.UpdatePropertyCache(strict=False)
    # Rings and hybridization tell which nitrogens are held; more cannot be known without orders.
    Chem.SanitizeMol(molecule, Chem.SANITIZE_SYMMRINGS | Chem.SANITIZE_SETHYBRIDIZATION)
    return molecule


def _is_onium(atom: int, numbers: np.ndarray, neighbors: Sequence[Sequence[int]]) -> bool:
    """Quaternary ammonium; sulfonium, which has no oxygen of its own."""
    around = neighbors[atom]
    if numbers[atom] == 7:
        return len(around) == 4
    terminal = any(numbers[k] == 8 and len(neighbors[k]) == 1 for k in around)
    return bool(numbers[atom] == 16 and len(around) == 3 and not terminal)


def _is_double(
    first: int,
    second: int,
    length: float,
    numbers: np.ndarray,
    neighbors: Sequence[Sequence[int]],
) -> bool:
    i, j = sorted((first, second), key=lambda k: numbers[k])
    pair = int(numbers[i]), int(numbers[j])
    if pair == (8, 16) and len(neighbors[i]) == 1:
        # The oxygen of a sulfoxide, without which sulfur would not be a center.
        return len(neighbors[j]) == 3
    # sp2 carbon has three neighbors, the nitrogen of an imine two and a lone pair.
    wanted = {6: 3, 7: 2}
    if pair not in _DOUBLE_BELOW or any(len(neighbors[k]) != wanted[numbers[k]] for k in (i, j)):
        return False
    return length < _DOUBLE_BELOW[pair]
