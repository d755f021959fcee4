"""The identity of the atoms that a model describes, from an OpenMM topology."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from openmm import app

from mace_mm.errors import InputError
from mace_mm.identity.perception import stereo_of
from mace_mm.identity.reference import MolecularIdentity, make_identity
from mace_mm.units import NM_TO_ANGSTROM

# The residue of the hydrogens that cap cut bonds: they sit on those bonds and never leave.
_LINK_RESIDUE = "LNK"


def topology_identity(
    topology: app.Topology,
    positions_nm: np.ndarray,
    box_nm: np.ndarray | None = None,
    *,
    atoms: Sequence[int] | None = None,
    molecule: Any = None,
) -> MolecularIdentity:
    """The identity of some atoms of a topology, or of all that have an element.

    A bond that leaves the chosen atoms, as at the boundary of an ML region, is watched too.

    Args:
        topology: with elements, and bonds where they are known.
        positions_nm: (n_particles, 3), the start.
        box_nm: (3, 3) rows; None in vacuum.
        atoms: indices; those without element (virtual sites) and link atoms are passed over.
        molecule: an RDKit molecule of exactly the topology's atoms in their order, where bond
            orders are known.

    Raises:
        InputError: an index that the topology does not have, no atom at all.
    """
    every = list(topology.atoms())
    asked = range(len(every)) if atoms is None else atoms
    outside = [k for k in asked if not 0 <= k < len(every)]
    if outside:
        raise InputError(f"atom indices lie between 0 and {len(every) - 1}, got {outside[0]}")
    chosen = [k for k in asked if _is_atom(every[k])]
    if not chosen:
        raise InputError("at least one atom with an element is needed, got none")
    inside = set(chosen)
    ends = [
        (bond.atom1.index, bond.atom2.index)
        for bond in topology.bonds()
        if _is_atom(bond.atom1) and _is_atom(bond.atom2)
    ]
    bonds = [pair for pair in ends if not inside.isdisjoint(pair)]
    partners = sorted({k for pair in bonds for k in pair} - inside)
    indices = chosen + partners
    place = {atom: k for k, atom in enumerate(indices)}
    whole = molecule is not None and indices == list(range(len(every)))
    return make_identity(
        [every[k].element.atomic_number for k in indices],
        [(place[i], place[j]) for i, j in bonds],
        np.asarray(positions_nm, dtype=np.float64)[indices] * NM_TO_ANGSTROM,
        None if box_nm is None else np.asarray(box_nm, dtype=np.float64) * NM_TO_ANGSTROM,
        indices=indices,
        names=_names(topology, [every[k] for k in indices]),
        stereo=stereo_of(molecule) if whole else None,
        open_ends=[place[k] for k in partners],
    )


def _is_atom(atom: app.topology.Atom) -> bool:
    return atom.element is not None and atom.residue.name != _LINK_RESIDUE


def _names(topology: app.Topology, atoms: Sequence[app.topology.Atom]) -> list[str]:
    """Names of atoms, with their residue where there are several."""
    labels = [atom.name.strip() or f"{atom.element.symbol}{atom.index}" for atom in atoms]
    if topology.getNumResidues() == 1:
        return labels
    return [
        f"{atom.residue.name}{atom.residue.id}:{label}"
        for atom, label in zip(atoms, labels, strict=True)
    ]
