"""Charged groups of a molecule, from formal charges or from the pattern of its bonds.

The pattern needs elements and bonds alone, no bond orders: what a PDB file or an Amber topology
holds. It knows the groups that have no other closed-shell structure, such as ammonium, guanidinium,
carboxylate, sulfonate and phosphate, and says nothing about others (phenolate, pyridinium), which
an odd number of electrons shows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_NONMETALS = frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 52, 53})
_CHALCOGENS = frozenset({8, 16, 34})
_HALOGENS = frozenset({17, 35, 53})
_WITHOUT_PAIR = _HALOGENS | {1, 6, 9}
# Bonds of an atom that has given away its lone pair, or taken one.
_ONIUM_BONDS = {7: 4, 15: 4, 8: 3, 16: 3, 34: 3}


@dataclass(frozen=True, kw_only=True)
class ChargedGroup:
    """Atoms that carry a charge together.

    Attributes:
        atoms: indices of the charged atoms, or of the center of the group.
        charge: e, not 0.
    """

    atoms: tuple[int, ...]
    charge: int


def connected(n_atoms: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Atoms connected by pairs, each list ascending."""
    root = list(range(n_atoms))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in pairs:
        root[find(i)] = find(j)
    groups: dict[int, list[int]] = {}
    for i in range(n_atoms):
        groups.setdefault(find(i), []).append(i)
    return list(groups.values())


def formal_groups(
    bonds: Iterable[tuple[int, int]], formal_charges: Sequence[int]
) -> list[ChargedGroup]:
    """Groups of formal charges that do not cancel on bonded atoms.

    Nitro groups, N-oxides, azides and diazo groups are neutral: their charges are neighbors.

    Args:
        bonds: pairs of atom indices.
        formal_charges: (n_atoms,) e.
    """
    formal = list(formal_charges)
    pairs = [(i, j) for i, j in bonds if formal[i] and formal[j]]
    found = []
    for site in connected(len(formal), pairs):
        charge = sum(formal[i] for i in site)
        if charge:
            found.append(ChargedGroup(atoms=tuple(site), charge=charge))
    return found


def pattern_groups(
    atomic_numbers: Sequence[int], bonds: Iterable[tuple[int, int]]
) -> list[ChargedGroup]:
    """Groups that elements and bonds alone show to be charged.

    Args:
        atomic_numbers: (n_atoms,).
        bonds: pairs of atom indices, hydrogens included.
    """
    numbers = [int(z) for z in atomic_numbers]
    neighbors: list[list[int]] = [[] for _ in numbers]
    for i, j in bonds:
        neighbors[i].append(j)
        neighbors[j].append(i)
    found = []
    for center, z in enumerate(numbers):
        around = neighbors[center]
        # The bonds of a metal are not counted as those of molecules are.
        if z not in _NONMETALS or any(numbers[j] not in _NONMETALS for j in around):
            continue
        charge = _cation(center, numbers, neighbors) or _anion(center, numbers, neighbors)
        if charge:
            found.append(ChargedGroup(atoms=(center,), charge=charge))
    return found


def _bare(center: int, numbers: Sequence[int], neighbors: Sequence[Sequence[int]]) -> int:
    """Oxygen and sulfur atoms that are bonded to this atom only."""
    return sum(numbers[j] in _CHALCOGENS and len(neighbors[j]) == 1 for j in neighbors[center])


def _cation(center: int, numbers: Sequence[int], neighbors: Sequence[Sequence[int]]) -> int:
    z, around = numbers[center], neighbors[center]
    if z == 6 and len(around) == 3:
        return int(_is_amidinium(center, numbers, neighbors))
    if len(around) != _ONIUM_BONDS.get(z):
        return 0
    # N-oxides, sulfoxides, adducts of boranes, ylides and sulfimides are neutral.
    for j in around:
        n = len(neighbors[j])
        if (numbers[j] in _CHALCOGENS and n == 1) or (numbers[j] == 5 and n == 4):
            return 0
        if (numbers[j] == 7 and n <= 2) or (numbers[j] == 6 and n <= 2):
            return 0
    return 1


def _is_amidinium(center: int, numbers: Sequence[int], neighbors: Sequence[Sequence[int]]) -> bool:
    """Guanidinium, amidinium and imidazolium: no neighbor has a lone bond left for the carbon."""
    nitrogens = [j for j in neighbors[center] if numbers[j] == 7]
    others = [j for j in neighbors[center] if numbers[j] != 7]
    if len(nitrogens) < 2 or any(len(neighbors[j]) != 3 for j in nitrogens):
        return False
    if any(_bare(j, numbers, neighbors) for j in nitrogens):
        return False
    return all(numbers[j] in (1, 9) or (numbers[j] == 6 and len(neighbors[j]) == 4) for j in others)


def _anion(center: int, numbers: Sequence[int], neighbors: Sequence[Sequence[int]]) -> int:
    z, n_bonds = numbers[center], len(neighbors[center])
    bare = _bare(center, numbers, neighbors)
    if z == 5 and n_bonds == 4:
        # A neighbor with a lone pair may have given it: such a center is neutral.
        return -int(all(numbers[j] in _WITHOUT_PAIR for j in neighbors[center]))
    # Atoms, bonds -> bare neighbors that a neutral molecule has here.
    neutral = {
        (6, 4): 0,  # alkoxides, thiolates
        (14, 4): 0,
        (6, 3): 1,  # carboxylates, carbonates
        (7, 3): 2,  # nitrate
        (16, 3): 1,  # sulfinates
        (16, 4): 2,  # sulfonates, sulfates
        (34, 4): 2,
        (15, 4): 1,  # phosphates, phosphonates
        (33, 4): 1,
    }.get((z, n_bonds))
    if z in _HALOGENS and n_bonds in (3, 4):
        neutral = n_bonds - 1  # chlorates, perchlorates
    if neutral is None or bare <= neutral or (z == 16 and n_bonds == bare == 3):
        return 0  # SO3 is neutral, and SO3(2-) looks like it
    return neutral - bare


def separated_problems(
    groups: Sequence[ChargedGroup],
    labels: Sequence[str],
    kind: str,
    *,
    neutral: bool,
    with_force_field: bool = False,
) -> list[str]:
    """Warn of charges of both signs, and of any in a molecule that is neutral as a whole.

    Args:
        groups: of everything that the model computes.
        labels: (n_atoms,) names of the atoms.
        kind: how the groups were found, such as "formal charges".
        neutral: the total charge is known to be 0.
        with_force_field: a force field has charges on the atoms.
    """
    if not groups or (not neutral and len({group.charge > 0 for group in groups}) < 2):
        return []
    sentence = (
        f"separated charges, {kind} on {_named(groups, labels)}: in a zwitterion or ion pair the "
        "model, which sees no charges, may take a proton from one to the other"
    )
    if with_force_field:
        sentence += ", while the force field's charges stay where they are"
    return [sentence]


def _named(groups: Sequence[ChargedGroup], labels: Sequence[str]) -> str:
    """Atoms and charges, cations first, such as "N 3 (+1), C 0 (-1)"."""
    shown = 4
    words = [
        f"{' '.join(labels[i] for i in group.atoms[:shown])} ({group.charge:+d})"
        for group in sorted(groups, key=lambda g: -g.charge)
    ]
    if len(words) > 2 * shown:
        words = [*words[:shown], f"{len(words) - 2 * shown} more", *words[-shown:]]
    return ", ".join(words)
