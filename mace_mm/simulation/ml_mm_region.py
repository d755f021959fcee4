"""The ML region of a mixed system: its atoms, the bonds it cuts, and which MM terms lie inside."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import openmm
from openmm import app

from mace_mm.errors import ElementError, InputError
from mace_mm.simulation.openmm_input import ml_atoms


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Atoms whose interactions with each other come from the model.

    A bonded term lies inside when the model, which sees the atoms and a hydrogen in place of every
    atom across a cut bond, describes it: both atoms of a bond, the middle atom of an angle, the
    middle bond of a torsion, the center of an improper.

    Attributes:
        atoms: particle indices in the order given, the order the model sees.
        cut_bonds: (ML atom, MM atom) of every bond that leaves the region.
        neighbors: bonded atoms of every atom of the topology.
    """

    atoms: tuple[int, ...]
    cut_bonds: tuple[tuple[int, int], ...]
    neighbors: tuple[frozenset[int], ...]
    _members: frozenset[int] = field(init=False, repr=False)
    _seen: frozenset[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        hosts = frozenset(mm for _, mm in self.cut_bonds)
        object.__setattr__(self, "_members", frozenset(self.atoms))
        object.__setattr__(self, "_seen", self._members | hosts)

    def __contains__(self, particle: int) -> bool:
        return particle in self._members

    def holds_all(self, particles: Iterable[int]) -> bool:
        """Whether all these particles are atoms of the region."""
        return all(i in self for i in particles)

    def holds_term(self, kind: str, particles: Sequence[int]) -> bool:
        """Whether the model describes a bonded MM term.

        Args:
            kind: "bond", "angle", "torsion" or "cmap".
            particles: of the term; eight for "cmap".
        """
        if self.holds_all(particles):
            return True
        if kind == "angle" and len(particles) == 3:
            return particles[1] in self and self._seen.issuperset(particles)
        if kind == "torsion" and len(particles) == 4:
            return self._holds_torsion(particles)
        if kind == "cmap":
            middle = (*particles[1:3], *particles[5:7])
            return self.holds_all(middle) and self._seen.issuperset(particles)
        return False

    def _holds_torsion(self, particles: Sequence[int]) -> bool:
        if all(b in self.neighbors[a] for a, b in pairwise(particles)):
            return particles[1] in self and particles[2] in self
        for center in particles:
            if all(other in self.neighbors[center] for other in particles if other != center):
                return center in self
        if not any(i in self for i in particles):
            return False
        raise InputError(
            f"a torsion between the particles {list(particles)} is neither proper nor improper by "
            "the bonds of the topology, and reaches out of the ML region: are bonds missing?"
        )


def make_region(topology: app.Topology, system: openmm.System, atoms: Iterable[int]) -> Region:
    """Check the atoms of an ML region and find its boundary.

    Args:
        topology: of the System, with the bonds of all molecules the region touches.
        system: described by the force field.
        atoms: particle indices in any order.

    Raises:
        InputError: no atoms, a virtual site among them, an index twice or out of range, a cut bond
            to hydrogen, two cut bonds to one MM atom, or a force field with bonds across the
            boundary that the topology does not have.
        ElementError: an atom without an element.
    """
    chosen = list(atoms)
    sites = [i for i in chosen if 0 <= i < system.getNumParticles() and system.isVirtualSite(i)]
    if sites:
        raise InputError(
            f"the ML region takes atoms only; particle {sites[0]} is a virtual site "
            f"({len(sites)} such particles): leave it out, it stays with the force field"
        )
    taken, _ = ml_atoms(topology, system, chosen)
    order = list(range(topology.getNumAtoms())) if taken is None else taken
    bonded: list[set[int]] = [set() for _ in range(topology.getNumAtoms())]
    for bond in topology.bonds():
        first, second = bond.atom1.index, bond.atom2.index
        bonded[first].add(second)
        bonded[second].add(first)
    members = set(order)
    cut = [(i, j) for i in order for j in sorted(bonded[i]) if j not in members]
    region = Region(
        atoms=tuple(order),
        cut_bonds=tuple(cut),
        neighbors=tuple(frozenset(partners) for partners in bonded),
    )
    _check_hosts(topology, region)
    _check_known_bonds(system, region)
    return region


def _check_hosts(topology: app.Topology, region: Region) -> None:
    every = list(topology.atoms())
    hosts: dict[int, int] = {}
    for inside, outside in region.cut_bonds:
        element = every[outside].element
        if element is None:
            raise ElementError(
                f"the ML region cuts the bond {inside}-{outside}, and atom {outside} has no element"
            )
        for atom, other in ((inside, outside), (outside, inside)):
            if every[atom].element.atomic_number == 1:
                raise InputError(
                    f"the ML region must not cut a bond to hydrogen, it cuts {atom} "
                    f"({every[atom].name}) from {other} ({every[other].name}): take both or neither"
                )
        if outside in hosts:
            raise InputError(
                f"the ML region cuts two bonds to MM atom {outside} ({every[outside].name}), from "
                f"{hosts[outside]} and {inside}: their link atoms would collide"
            )
        hosts[outside] = inside


def _check_known_bonds(system: openmm.System, region: Region) -> None:
    """Refuse bonds of the force field across the boundary that the topology does not have."""
    for force in system.getForces():
        if not isinstance(force, openmm.HarmonicBondForce):
            continue
        for i in range(force.getNumBonds()):
            first, second = force.getBondParameters(i)[:2]
            if (first in region) == (second in region) or second in region.neighbors[first]:
                continue
            # Urey-Bradley terms join atoms two bonds apart.
            if not region.neighbors[first] & region.neighbors[second]:
                raise InputError(
                    f"the force field bonds atom {first} to {second} across the boundary of the ML "
                    "region, the topology does not: add the bond to the topology"
                )
