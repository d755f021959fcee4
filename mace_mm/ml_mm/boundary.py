"""Covalent boundaries of an ML region: which bonds may be cut, and hydrogen link atoms."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from mace_mm.elements import covalent_radius
from mace_mm.errors import InputError
from mace_mm.ml_mm.region import Region
from mace_mm.units import ANGSTROM_TO_NM, NM_TO_ANGSTROM

_MULTIPLE = {app.Double: "double", app.Triple: "triple", app.Aromatic: "aromatic"}
# A bond this much shorter than the sum of single-bond radii is not a single bond.
_SHORT = 0.93
_FULL_VALENCE = {5: 4, 6: 4, 7: 3, 8: 2, 14: 4}
_MAX_AROMATIC_RING = 6

_log = logging.getLogger(__name__)

# Two atoms and a length, in nm or with unit.
LinkDistances = Iterable[tuple[int, int, Any]]


def check_cut_bonds(topology: app.Topology, system: openmm.System, region: Region) -> None:
    """Refuse cuts through double, triple and aromatic bonds.

    The type of a bond is taken from the topology. Where it has none, as after reading a PDB file,
    the equilibrium length in the force field and the number of neighbors tell it.

    Raises:
        InputError: such a bond is cut.
    """
    if not region.cut_bonds:
        return
    types = {frozenset((b.atom1.index, b.atom2.index)): b.type for b in topology.bonds()}
    numbers = [0 if a.element is None else a.element.atomic_number for a in topology.atoms()]
    lengths = _equilibrium_lengths(system)
    atoms = list(topology.atoms())
    for pair in region.cut_bonds:
        kind = types[frozenset(pair)]
        if kind is None:
            length = lengths.get(frozenset(pair))
            name = None if length is None else _multiple_bond(pair, numbers, length, region)
        else:
            name = _MULTIPLE.get(kind)
        if name is not None:
            inside, outside = pair
            raise InputError(
                f"the ML region may cut single bonds only; {inside} ({atoms[inside]}) to {outside} "
                f"({atoms[outside]}) is {name}"
            )


def add_link_atoms(
    topology: app.Topology,
    system: openmm.System,
    region: Region,
    distances: LinkDistances = (),
) -> tuple[app.Topology, list[int]]:
    """Append a hydrogen for every cut bond, as a virtual site on the bond.

    Args:
        topology: of the System; it is copied if anything is added.
        system: it gains massless particles without any MM interaction.
        region: whose bonds are cut.
        distances: (atom, atom, distance in nm or with unit) of cut bonds, in either order, from the
            ML atom to the hydrogen; by default the sum of the covalent radii.

    Returns:
        the topology with the link atoms in a chain of their own, and their particle indices.

    Raises:
        InputError: a distance for a bond that is not cut, or implicit solvent.
    """
    chosen = _link_distances(region, distances)
    if not region.cut_bonds:
        return topology, []
    extended = copy.deepcopy(topology)
    atoms = list(extended.atoms())
    chain = extended.addChain()
    indices = []
    for number, (inside, outside) in enumerate(region.cut_bonds):
        length = chosen.get(frozenset((inside, outside)))
        if length is None:
            radii = covalent_radius(atoms[inside].element.atomic_number) + covalent_radius(1)
            length = radii * ANGSTROM_TO_NM
        site = openmm.LocalCoordinatesSite(
            [inside, outside], [1.0, 0.0], [-1.0, 1.0], [0.0, 0.0], [length, 0.0, 0.0]
        )
        index = system.addParticle(0.0)
        system.setVirtualSite(index, site)
        residue = extended.addResidue("LNK", chain)
        extended.addAtom(f"V{number}", app.element.hydrogen, residue)
        indices.append(index)
    _extend_forces(system, indices)
    _log.info("%d link atoms on the bonds %s", len(indices), list(region.cut_bonds))
    return extended, indices


def with_link_atoms(positions: Any, system: openmm.System) -> unit.Quantity:
    """Positions of the original atoms with those of the link atoms appended, in nm.

    Args:
        positions: (n_atoms, 3), array or list, in nm or with unit.
        system: from ``createMixedSystem``.
    """
    if unit.is_quantity(positions):
        positions = positions.value_in_unit(unit.nanometer)
    known = np.array([[p[0], p[1], p[2]] for p in positions], dtype=np.float64)
    added = []
    for index in range(len(known), system.getNumParticles()):
        site = system.getVirtualSite(index)
        inside, outside = known[site.getParticle(0)], known[site.getParticle(1)]
        length = site.getLocalPosition()[0].value_in_unit(unit.nanometer)
        direction = outside - inside
        added.append(inside + length * direction / np.linalg.norm(direction))
    return np.concatenate([known, np.reshape(added, (-1, 3))]) * unit.nanometer


def _multiple_bond(
    pair: tuple[int, int], numbers: Sequence[int], length: float, region: Region
) -> str | None:
    """Tell from neighbors and length (nm) whether a bond of unknown type is a multiple one."""
    single = sum(covalent_radius(numbers[i]) for i in pair)
    if length * NM_TO_ANGSTROM >= _SHORT * single:
        return None
    if all(len(region.neighbors[i]) <= 3 for i in pair) and _in_small_ring(pair, region):
        return "aromatic"
    unsaturated = [
        len(region.neighbors[i]) < _FULL_VALENCE.get(numbers[i], len(region.neighbors[i]) + 1)
        for i in pair
    ]
    return "a multiple bond" if all(unsaturated) else None


def _in_small_ring(pair: tuple[int, int], region: Region) -> bool:
    """Whether another way of at most five bonds joins the two atoms."""
    start, goal = pair
    reached, front = {start}, {start}
    for step in range(_MAX_AROMATIC_RING - 1):
        front = {
            j
            for i in front
            for j in region.neighbors[i]
            if j not in reached and not (step == 0 and j == goal)
        }
        reached |= front
        if goal in front:
            return True
    return False


def _equilibrium_lengths(system: openmm.System) -> Mapping[frozenset[int], float]:
    """Bond lengths of the force field in nm: constraints and harmonic bonds."""
    lengths = {}
    for i in range(system.getNumConstraints()):
        first, second, length = system.getConstraintParameters(i)
        lengths[frozenset((first, second))] = length.value_in_unit(unit.nanometer)
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for i in range(force.getNumBonds()):
                first, second, length, _ = force.getBondParameters(i)
                lengths[frozenset((first, second))] = length.value_in_unit(unit.nanometer)
    return lengths


def _link_distances(region: Region, distances: LinkDistances) -> dict[frozenset[int], float]:
    cut = {frozenset(pair) for pair in region.cut_bonds}
    chosen = {}
    for first, second, distance in distances or ():
        if frozenset((first, second)) not in cut:
            raise InputError(
                f"linkAtomDistances names the bond {first}-{second}, but the region cuts "
                f"{[tuple(sorted(c)) for c in cut]}"
            )
        length = distance.value_in_unit(unit.nanometer) if unit.is_quantity(distance) else distance
        if not length > 0.0:
            raise InputError(f"a link atom distance must be positive, got {length} nm")
        chosen[frozenset((first, second))] = float(length)
    return chosen


def _extend_forces(system: openmm.System, indices: Sequence[int]) -> None:
    """Give every force that lists all particles a particle without interactions."""
    forces = system.getForces()
    custom = [f for f in forces if isinstance(f, openmm.CustomNonbondedForce)]
    for force in forces:
        if isinstance(force, openmm.NonbondedForce):
            for index in indices:
                force.addParticle(0.0, 1.0, 0.0)
                # Platforms want the same exclusions in every nonbonded force.
                for other in range(index if custom else 0):
                    force.addException(other, index, 0.0, 1.0, 0.0)
        elif isinstance(force, openmm.CustomNonbondedForce):
            for index in indices:
                force.addParticle([0.0] * force.getNumPerParticleParameters())
                for other in range(index):
                    force.addExclusion(other, index)
        elif isinstance(force, openmm.GBSAOBCForce | openmm.CustomGBForce):
            raise InputError(
                f"link atoms cannot be added to a {type(force).__name__}: choose an ML region of "
                "whole molecules"
            )
