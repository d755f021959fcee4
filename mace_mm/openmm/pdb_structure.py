"""What a structure file leaves out or means otherwise: hydrogens, bonds, a box."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
from openmm import app, unit

from mace_mm.errors import InputError
from mace_mm.graph.neighbors import neighbor_list
from mace_mm.identity.bonds import COMPRESSED, bond_radii, minimum_image
from mace_mm.identity.hydrogens import atoms_without_hydrogens
from mace_mm.identity.pairs import bonds_by_distance
from mace_mm.openmm.molecules import label_molecules, topology_bonds
from mace_mm.units import NM_TO_ANGSTROM

# Å. A molecule that comes nearer to its own image does not know whether it is alone.
_NEAR = 6.0
_SHOWN = 3

_log = logging.getLogger(__name__)


def look_at_structure(topology: app.Topology, positions_nm: np.ndarray, source: str) -> list[str]:
    """Add bonds that the file lacks, refuse missing hydrogens, tell of images in a small box.

    Args:
        topology: all atoms with elements; it gets the bonds of atoms that have none, by distance.
        positions_nm: (n_atoms, 3).
        source: the file, for messages.

    Returns:
        sentences to warn with.

    Raises:
        InputError: see :func:`check_hydrogens`; a molecule that overlaps with its own image.
    """
    atoms = list(topology.atoms())
    numbers = np.array([atom.element.atomic_number for atom in atoms])
    positions = positions_nm * NM_TO_ANGSTROM
    cell = cell_of(topology)
    given = topology_bonds(topology, range(len(atoms)))
    lone = ~np.isin(np.arange(len(atoms)), [i for pair in given for i in pair])
    added = []
    if lone.any():
        added = sorted(set(bonds_by_distance(numbers, positions, cell, lone)) - _sorted(given))
    if added:
        _log.info("%s: %d bonds are told from distances", source, len(added))
    for i, j in added:
        topology.addBond(atoms[i], atoms[j])
    check_hydrogens(topology, positions_nm, range(len(atoms)), source)
    if cell is None:
        return []
    return _image_problems(numbers, positions, [*given, *added], cell, source)


def check_hydrogens(
    topology: app.Topology,
    positions_nm: np.ndarray,
    atoms: Sequence[int],
    source: str,
    n_anions: int = 0,
) -> None:
    """Refuse molecules that lack hydrogens, which a model would take for what it sees.

    Args:
        topology: of the structure.
        positions_nm: (n_particles, 3).
        atoms: indices of those to be looked at; particles without an element are passed over.
        source: the file, for the message.
        n_anions: so many oxygen or sulfur atoms may be ends of single bonds, being charged.

    Raises:
        InputError: atoms that must have more neighbors than they have.
    """
    every = list(topology.atoms())
    chosen = [i for i in atoms if every[i].element is not None]
    place = {atom: k for k, atom in enumerate(chosen)}
    numbers = np.array([every[i].element.atomic_number for i in chosen])
    positions = np.asarray(positions_nm)[chosen] * NM_TO_ANGSTROM
    cell = cell_of(topology)
    given = _sorted((place[i], place[j]) for i, j in topology_bonds(topology, place))
    bonded = sorted(given | set(bonds_by_distance(numbers, positions, cell)))
    found = atoms_without_hydrogens(numbers, bonded, positions, cell)
    ends = [k for k in found if numbers[k] in (8, 16)]
    # In zwitterions nitrogen with four neighbors holds the other charge.
    n_bonds = np.bincount(np.array(bonded, dtype=int).ravel(), minlength=len(numbers))
    if len(ends) <= n_anions + int(((numbers == 7) & (n_bonds == 4)).sum()):
        found = [k for k in found if k not in ends]
    if found:
        names = [f"{every[chosen[k]].name} of {every[chosen[k]].residue.name}" for k in found]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise InputError(
            f"{source} lacks hydrogen atoms: {', '.join(names[:_SHOWN])}{more} must have more "
            "neighbors than the file has. Add them with coordinates, with PDBFixer, RDKit or Open "
            "Babel"
        )


def cell_of(topology: app.Topology) -> np.ndarray | None:
    """(3, 3) box vectors as rows, Å; None without a box."""
    vectors = topology.getPeriodicBoxVectors()
    return None if vectors is None else np.array(vectors.value_in_unit(unit.angstrom))


def _image_problems(
    numbers: np.ndarray,
    positions: np.ndarray,
    bonds: Sequence[tuple[int, int]],
    cell: np.ndarray,
    source: str,
) -> list[str]:
    """Say so where a molecule comes near to its own periodic image; refuse one that overlaps."""
    neighbors: list[list[int]] = [[] for _ in positions]
    for i, j in bonds:
        neighbors[i].append(j)
        neighbors[j].append(i)
    whole = positions.copy()
    molecules = label_molecules(range(len(positions)), neighbors)
    for start in set(molecules.values()):
        front, seen = [start], {start}
        while front:
            i = front.pop()
            for j in neighbors[i]:
                if j not in seen:
                    seen.add(j)
                    front.append(j)
                    whole[j] = whole[i] + minimum_image(positions[j] - positions[i], cell)
    pairs = neighbor_list(whole, _NEAR, cell)
    labels = np.array([molecules[i] for i in range(len(positions))])
    own = pairs.cell_shifts.any(axis=1) & (labels[pairs.senders] == labels[pairs.receivers])
    if not own.any():
        return []
    vectors = whole[pairs.receivers] - whole[pairs.senders] + pairs.cell_shifts @ cell
    distances = np.linalg.norm(vectors[own], axis=1)
    radii = bond_radii(numbers)
    reach = COMPRESSED * (radii[pairs.senders[own]] + radii[pairs.receivers[own]])
    edges = " x ".join(f"{edge:.1f}" for edge in np.linalg.norm(cell, axis=1))
    sentence = (
        f"{source} has a box of {edges} Å (CRYST1), in which a molecule comes within "
        f"{distances.min():.1f} Å of its own image"
    )
    if (distances < reach).any():
        raise InputError(f"{sentence}: it does not fit in; without the CRYST1 line it is alone")
    return [f"{sentence}: it is simulated as a crystal or liquid; without the line it is alone"]


def _sorted(pairs: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    return {(min(i, j), max(i, j)) for i, j in pairs}
