"""The ML region of a mixed system: its atoms, the bonds it cuts, and which MM terms lie inside."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import openmm
from openmm import app

from mace_mm.errors import ElementError, InputError
from mace_mm.ml_mm.pairs import plain
from mace_mm.ml_mm.virtual_sites import sites_inside, virtual_sites
from mace_mm.openmm.input import ml_atoms
from mace_mm.openmm.molecules import force_field_bonds, label_molecules, topology_bonds


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Atoms whose interactions with each other come from the model.

    A virtual site is a part of the atoms that define it: it lies inside where all of them do. The
    model does not see it, but what the force field says about it is about those atoms.

    A bonded term lies inside when the model, which sees the atoms and a hydrogen in place of every
    atom across a cut bond, describes it: both atoms of a bond, the middle atom of an angle, the
    middle bond of a torsion, the center of an improper.

    Attributes:
        atoms: particle indices in the order given, the order the model sees.
        cut_bonds: (ML atom, MM atom) of every bond that leaves the region.
        neighbors: bonded atoms of every atom of the topology.
        sites: virtual sites that lie inside.
        bonds: pairs of atoms inside that are bonded; for atoms without any bond in the topology
            those of the force field.
        molecules: a number for every particle inside, the same for those of one molecule.
    """

    atoms: tuple[int, ...]
    cut_bonds: tuple[tuple[int, int], ...]
    neighbors: tuple[frozenset[int], ...]
    sites: tuple[int, ...]
    bonds: tuple[tuple[int, int], ...]
    molecules: Mapping[int, int]
    _members: frozenset[int] = field(init=False, repr=False)
    _seen: frozenset[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        hosts = frozenset(mm for _, mm in self.cut_bonds)
        object.__setattr__(self, "_members", frozenset(self.particles))
        object.__setattr__(self, "_seen", self._members | hosts)

    @property
    def particles(self) -> tuple[int, ...]:
        """The atoms, and the virtual sites that lie inside."""
        return self.atoms + self.sites

    def __contains__(self, particle: int) -> bool:
        return particle in self._members

    def holds_all(self, particles: Iterable[int]) -> bool:
        """Whether all these particles lie inside."""
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
        atoms: particle indices in any order. Virtual sites that lie inside may be among them or
            not.

    Raises:
        InputError: no atoms, an index twice or out of range, a virtual site that does not lie
            inside or lies there in part, a cut bond to hydrogen, two cut bonds to one MM atom, or
            a force field with bonds across the boundary that the topology does not have.
        ElementError: an atom without an element.
    """
    parents = virtual_sites(system)
    chosen = list(atoms)
    taken, _ = ml_atoms(topology, system, [i for i in chosen if i not in parents])
    order = list(range(topology.getNumAtoms())) if taken is None else taken
    members = set(order)
    sites = sites_inside(parents, members)
    _check_sites(system, parents, [i for i in chosen if i in parents], members.union(sites))
    bonded: list[set[int]] = [set() for _ in range(topology.getNumAtoms())]
    for first, second in topology_bonds(topology, range(topology.getNumAtoms())):
        bonded[first].add(second)
        bonded[second].add(first)
    cut = [(i, j) for i in order for j in sorted(bonded[i]) if j not in members]
    lone = {i for i in members if not bonded[i]}
    bonds = topology_bonds(topology, members)
    bonds += [pair for pair in force_field_bonds(system, members) if not lone.isdisjoint(pair)]
    region = Region(
        atoms=tuple(order),
        cut_bonds=tuple(cut),
        neighbors=tuple(frozenset(partners) for partners in bonded),
        sites=tuple(sites),
        bonds=tuple(bonds),
        molecules=_molecules(order, sites, parents, bonded, bonds),
    )
    _check_hosts(topology, region)
    _check_known_bonds(system, region)
    return region


def _check_sites(
    system: openmm.System,
    parents: Mapping[int, tuple[int, ...]],
    given: Sequence[int],
    inside: Collection[int],
) -> None:
    """Refuse sites that were asked for and are not inside, twice, or belong to both sides."""
    repeated = sorted({i for i in given if given.count(i) > 1})
    if repeated:
        raise InputError(f"every particle may be listed once, got these more often: {repeated}")
    for site, defining in parents.items():
        outside = [i for i in defining if i not in inside]
        if site in inside or (site not in given and len(outside) == len(defining)):
            continue
        if site in given or _interacts(system, site):
            raise InputError(
                f"virtual site {site} is defined by the particles {list(defining)}, and "
                f"{outside} lie outside the ML region: take all of them into it or none"
            )


def _interacts(system: openmm.System, particle: int) -> bool:
    """Whether a force between pairs knows a particle by more than zeros."""
    for force in system.getForces():
        values: list[float] = []
        if isinstance(force, openmm.NonbondedForce):
            charge, _, epsilon = plain(force.getParticleParameters(particle))
            values = [charge, epsilon]
            for k in range(force.getNumParticleParameterOffsets()):
                _, index, *scales = force.getParticleParameterOffset(k)
                values += scales if index == particle else []
        elif isinstance(force, openmm.CustomNonbondedForce):
            values = list(force.getParticleParameters(particle))
        if any(values):
            return True
    return False


def _molecules(
    atoms: Sequence[int],
    sites: Sequence[int],
    parents: Mapping[int, tuple[int, ...]],
    neighbors: Sequence[Collection[int]],
    bonds: Iterable[tuple[int, int]],
) -> Mapping[int, int]:
    """Numbers of the molecules of atoms and sites, by the bonds of topology and force field."""
    joined = [set(partners) for partners in neighbors]
    for first, second in bonds:
        joined[first].add(second)
        joined[second].add(first)
    for site in sites:
        for parent in parents[site]:
            joined[site].add(parent)
            joined[parent].add(site)
    return label_molecules([*atoms, *sites], joined)


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
