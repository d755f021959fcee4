"""Tell OpenMM which atoms form molecules, where no force of bonds does.

OpenMM finds molecules by the bonds of forces, by constraints and virtual sites. A network has none
of them, so that each of its atoms would be a molecule: states with ``enforcePeriodicBox=True``, the
default of OpenMM's reporters in a box, would wrap atoms one by one, and a barostat would stretch
bonds. A bond force without energy keeps them together.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

import openmm
from openmm import app

NAME = "molecules"
_NO_ENERGY = "0"

_log = logging.getLogger(__name__)


def keep_molecules(system: openmm.System, bonds: Iterable[tuple[int, int]]) -> None:
    """Make bonded particles one molecule for OpenMM; in place, without changing any energy.

    Args:
        system: gets a CustomBondForce named "molecules", or more bonds in the one it has.
        bonds: pairs of particles; those it knows already are not added again.
    """
    force = next((f for f in system.getForces() if holds_molecules(f)), None)
    known = set() if force is None else {frozenset(pair) for pair in _pairs(force)}
    new = [pair for pair in bonds if frozenset(pair) not in known]
    if not new:
        return
    if force is None:
        force = openmm.CustomBondForce(_NO_ENERGY)
        force.setName(NAME)
        index = system.addForce(force)
        force = system.getForce(index)
    for first, second in new:
        force.addBond(first, second, [])


def holds_molecules(force: openmm.Force) -> bool:
    """Whether a force came from :func:`keep_molecules`: bonds that are no part of a force field."""
    return isinstance(force, openmm.CustomBondForce) and force.getEnergyFunction() == _NO_ENERGY


def topology_bonds(topology: app.Topology, atoms: Collection[int]) -> list[tuple[int, int]]:
    """Bonds between the given atoms."""
    ends = ((bond.atom1.index, bond.atom2.index) for bond in topology.bonds())
    return [(i, j) for i, j in ends if i in atoms and j in atoms]


def force_field_bonds(system: openmm.System, atoms: Collection[int]) -> list[tuple[int, int]]:
    """What the force field holds together between the given atoms: constraints and bond terms."""
    found = [
        tuple(system.getConstraintParameters(i)[:2]) for i in range(system.getNumConstraints())
    ]
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce | openmm.CustomBondForce):
            found += _pairs(force)
    return [(i, j) for i, j in found if i in atoms and j in atoms]


def warn_of_lone_atoms(
    topology: app.Topology, atoms: Collection[int], bonds: Iterable[tuple[int, int]]
) -> None:
    """Log which atoms OpenMM will treat one by one although they share a residue with others."""
    bonded = {i for pair in bonds for i in pair}
    lone = []
    for residue in topology.residues():
        members = [a for a in residue.atoms() if a.element is not None and a.index in atoms]
        lone += [a for a in members if len(members) > 1 and a.index not in bonded]
    if lone:
        _log.warning(
            "the topology has no bonds for %d atoms (first: %s): OpenMM takes each for a molecule "
            "of its own, so that a trajectory written with enforcePeriodicBox tears them apart and "
            "a barostat scales their distances; add the bonds (CONECT, Topology.addBond)",
            len(lone),
            lone[0],
        )


def label_molecules(
    particles: Iterable[int], neighbors: Sequence[Collection[int]]
) -> Mapping[int, int]:
    """Number the molecules of some particles.

    Args:
        particles: to be labelled.
        neighbors: bonded particles, of every particle; the way from one to another may lead through
            particles that are not asked for.
    """
    wanted = list(particles)
    labels: dict[int, int] = {}
    for start in wanted:
        if start in labels:
            continue
        labels[start] = start
        front = [start]
        while front:
            for j in neighbors[front.pop()]:
                if j not in labels:
                    labels[j] = start
                    front.append(j)
    return {i: labels[i] for i in wanted}


def _pairs(force: openmm.HarmonicBondForce | openmm.CustomBondForce) -> list[tuple[int, int]]:
    return [tuple(force.getBondParameters(i)[:2]) for i in range(force.getNumBonds())]
