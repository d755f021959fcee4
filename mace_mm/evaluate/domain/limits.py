"""What a model was not made for: said before a simulation starts, not found out afterwards.

Elements a model does not know are refused elsewhere (`elements.species_index`). Here are the cases
that evaluate without an error and may mean nothing: ions, radicals, bonding unlike that of the
training molecules, contacts shorter than any that was trained on, atoms without a neighbor, and
with the bundled models atoms in surroundings unlike any that was trained on.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch

from mace_mm.archive.archive import Archive
from mace_mm.elements import covalent_radius, symbol
from mace_mm.evaluate.domain.charged_groups import connected, formal_groups, pattern_groups
from mace_mm.evaluate.domain.force_uncertainty import MOST_ATOMS, UNLIKE_SEEN, bundled_uncertainty
from mace_mm.graph.batching import build_graph
from mace_mm.graph.graph import Graph
from mace_mm.graph.molecule import Molecule
from mace_mm.graph.neighbors import completed_box

# Bonded neighbors of an atom in neutral closed-shell molecules of the main-group elements.
_MOST_BONDS = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1, 17: 1, 35: 1, 53: 1}
# Without a record of the training set: a fraction of the sum of the covalent radii. The shortest
# bonds of organic molecules, N#N and C#N, are at 0.74.
_SHORT = 0.7
# Thermal motion goes a little below the shortest distance that was seen.
_BELOW_SEEN = 0.95
_SHOWN = 3


def bonding_problems(
    atomic_numbers: Sequence[int],
    bonds: Iterable[tuple[int, int]],
    total_charge: float = 0,
    formal_charges: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
) -> list[str]:
    """Look for ions and radicals in a topology whose charges nobody stated.

    A molecule, the atoms that bonds connect, of neutral closed-shell kind has an even number of
    electrons, no atom with more bonds than its element has without a charge, and no acid group
    without its hydrogen.

    Args:
        atomic_numbers: (n_atoms,).
        bonds: pairs of atom indices. Without any, all atoms count as one molecule.
        total_charge: of all atoms, e.
        formal_charges: (n_atoms,) where they are known.
        labels: (n_atoms,) names of the atoms; symbol and index if not given.

    Returns:
        sentences, empty if nothing was found.
    """
    numbers = [int(z) for z in atomic_numbers]
    pairs = list(bonds)
    names = atom_labels(numbers) if labels is None else labels
    formal = [0] * len(numbers) if formal_charges is None else list(formal_charges)
    groups = formal_groups(pairs, formal)
    problems = []
    if groups:
        problems.append(f"formal charges on {_listed([i for g in groups for i in g.atoms], names)}")
    problems += crowded_problems(numbers, pairs, [i for i, q in enumerate(formal) if q], names)
    acids = [g.atoms[0] for g in pattern_groups(numbers, pairs) if g.charge < 0]
    if acids and not total_charge and not any(formal):
        problems.append(f"no hydrogen on the acid group at {_listed(acids, names)}: an anion?")
    whole = not pairs or total_charge != 0
    molecules = [list(range(len(numbers)))] if whole else connected(len(numbers), pairs)
    charge = round(total_charge) if whole else 0
    return problems + electron_problems(numbers, [(m, charge) for m in molecules], names)


def crowded_problems(
    atomic_numbers: Sequence[int],
    bonds: Sequence[tuple[int, int]],
    charged: Collection[int],
    labels: Sequence[str],
) -> list[str]:
    """Look for atoms that have more bonds than their element has without a charge.

    Args:
        atomic_numbers: (n_atoms,).
        bonds: pairs of atom indices.
        charged: atoms whose charge is known.
        labels: (n_atoms,) names of the atoms.
    """
    n_bonds = Counter(i for pair in bonds for i in pair)
    most = {i: _MOST_BONDS.get(int(z), 8) for i, z in enumerate(atomic_numbers)}
    # In N-oxides and chlorates the oxygen, bonded to nothing else, has the other charge.
    for i, j in (ends for pair in bonds for ends in (pair, pair[::-1])):
        if atomic_numbers[j] == 8 and n_bonds[j] == 1:
            most[i] = {7: 4, 17: 4, 35: 4, 53: 4}.get(int(atomic_numbers[i]), most[i])
    crowded = [i for i in most if n_bonds[i] > most[i] and i not in charged]
    if not crowded:
        return []
    return [f"more bonds than a neutral atom has on {_listed(crowded, labels)}: charged centers?"]


def electron_problems(
    atomic_numbers: Sequence[int],
    molecules: Sequence[tuple[Sequence[int], int]],
    labels: Sequence[str],
) -> list[str]:
    """Look for molecules with an odd number of electrons.

    Args:
        atomic_numbers: (n_atoms,).
        molecules: atoms and charge (e) of each.
        labels: (n_atoms,) names of the atoms.
    """
    odd = [m for m, charge in molecules if (sum(atomic_numbers[i] for i in m) - charge) % 2]
    if not odd:
        return []
    return [
        f"an odd number of electrons in {len(odd)} of {len(molecules)} molecules (first: "
        f"{_listed(odd[0], labels)}): ions or radicals"
    ]


def atom_labels(
    atomic_numbers: Sequence[int] | np.ndarray, indices: Sequence[int] | None = None
) -> list[str]:
    """Symbol and index of every atom, such as "C 0"."""
    places = range(len(atomic_numbers)) if indices is None else indices
    return [f"{symbol(int(z))} {i}" for z, i in zip(atomic_numbers, places, strict=True)]


def geometry_problems(
    archive: Archive,
    atomic_numbers: Sequence[int] | np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray | None = None,
    pbc: Sequence[bool] | np.ndarray = (True, True, True),
    *,
    surroundings: bool = True,
) -> list[str]:
    """Look for contacts shorter than the training set had, atoms without a neighbor, and atoms in
    surroundings unlike those of the training set.

    Args:
        archive: its metadata may hold the shortest distances seen, by pair of elements; without
            them 0.7 times the sum of the covalent radii is the limit. Surroundings are looked at
            with the bundled models, whose uncertainty is known, up to 1000 atoms.
        atomic_numbers: (n_atoms,).
        positions: (n_atoms, 3) Å.
        cell: (3, 3) lattice vectors as rows, Å; None in vacuum. Zero rows along open directions
            will do.
        pbc: (3,) the periodic directions.
        surroundings: also look at these, which takes ten times as long as an evaluation.

    Returns:
        sentences, empty if nothing was found.

    Raises:
        ElementError, GeometryError: what cannot be evaluated at all.
    """
    numbers = np.asarray(atomic_numbers)
    config = archive.config
    box = completed_box(cell, pbc)
    molecule = Molecule(atomic_numbers=numbers, positions=positions, cell=box)
    graph = build_graph(molecule, config.atomic_numbers, config.r_max, pbc=pbc)
    vectors = graph.positions[graph.receivers] - graph.positions[graph.senders]
    vectors = vectors + graph.cell_shifts @ graph.cell[0]
    distances = torch.linalg.vector_norm(vectors, dim=1).numpy()
    senders, receivers = graph.senders.numpy(), graph.receivers.numpy()
    limits = _limits(archive)[graph.species[senders].numpy(), graph.species[receivers].numpy()]
    problems = []
    short = np.flatnonzero((distances < limits) & (senders <= receivers))
    if short.size:
        worst = short[np.argmin(distances[short] / limits[short])]
        i, j = int(senders[worst]), int(receivers[worst])
        problems.append(
            f"{short.size} contacts shorter than any in the training set, such as "
            f"{_named([i, j], numbers)} at {distances[worst]:.2f} Å (limit {limits[worst]:.2f} Å)"
        )
    alone = np.setdiff1d(np.arange(numbers.size), receivers).tolist()
    if alone and numbers.size > 1:
        problems.append(
            f"no neighbor within the cutoff of {config.r_max:g} Å: {_named(alone, numbers)}"
        )
    # What was found already is strange to the model, too: nothing new would be said.
    if problems or not surroundings:
        return problems
    return _unlike_seen(archive, numbers, graph)


def _unlike_seen(archive: Archive, numbers: np.ndarray, graph: Graph) -> list[str]:
    if numbers.size > MOST_ATOMS:
        return []
    uncertainty = bundled_uncertainty(archive)
    if uncertainty is None:
        return []
    usual = float(uncertainty.errors[-1])
    expected = uncertainty(archive.potential, graph).numpy()
    strange = np.flatnonzero(expected > UNLIKE_SEEN * usual)
    if not strange.size:
        return []
    strange = strange[np.argsort(-expected[strange])]
    return [
        f"surroundings unlike those of the training set at {_named(strange.tolist(), numbers)}: "
        f"forces may be wrong by {expected.max():.1f} eV/Å (on held-out frames {usual:.1f} at most)"
    ]


def _limits(archive: Archive) -> np.ndarray:
    """(n_species, n_species) distances in Å below which the model was not trained."""
    elements = archive.config.atomic_numbers
    seen = archive.metadata.shortest_distances
    limits = np.empty((len(elements), len(elements)))
    for i, a in enumerate(elements):
        for j, b in enumerate(elements):
            known = seen.get("-".join(symbol(z) for z in sorted((a, b))))
            radii = covalent_radius(a) + covalent_radius(b)
            limits[i, j] = _SHORT * radii if known is None else _BELOW_SEEN * known
    return limits


def _listed(atoms: Sequence[int], labels: Sequence[str]) -> str:
    more = f" and {len(atoms) - _SHOWN} more" if len(atoms) > _SHOWN else ""
    return ", ".join(labels[i] for i in atoms[:_SHOWN]) + more


def _named(atoms: Sequence[int], atomic_numbers: Sequence[int] | np.ndarray) -> str:
    return _listed(atoms, atom_labels(atomic_numbers))
