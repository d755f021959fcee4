"""Checks of what OpenMM-ML hands over: which particles, which elements, which box.

Imports neither torch nor the network: OpenMM-ML loads its plugins while it is imported.
"""

import logging
import operator
from collections.abc import Iterable, Sequence

import openmm
from openmm import app

from mace_mm.errors import ConfigError, ElementError, InputError

_log = logging.getLogger(__name__)


def ml_atoms(
    topology: app.Topology, system: openmm.System, atoms: Iterable[int] | None
) -> tuple[list[int] | None, list[int]]:
    """Choose the particles the model acts on.

    Args:
        topology: of the whole System.
        system: its particles must be the atoms of the topology; a System without particles, as
            interpolation passes, is not asked.
        atoms: indices in any order, from any iterable; None for every atom with an element.

    Returns:
        particle indices, or None if they are all particles in their order, and atomic numbers.

    Raises:
        InputError: an empty list, an index twice or outside the topology, a topology that does not
            match the System.
        ElementError: atoms without an element were asked for, or none has one.
    """
    every = list(topology.atoms())
    n_particles = system.getNumParticles()
    if n_particles and n_particles != len(every):
        raise InputError(
            f"topology and System must hold the same particles, got {len(every)} atoms and "
            f"{n_particles} particles"
        )
    chosen = _all_with_element(every) if atoms is None else _checked_indices(atoms, len(every))
    without = [i for i in chosen if every[i].element is None]
    if without:
        atom = every[without[0]]
        raise ElementError(
            f"every atom of the model needs an element; atom {without[0]} ({atom.name} in residue "
            f"{atom.residue.name}) has none ({len(without)} such atoms)"
        )
    numbers = [every[i].element.atomic_number for i in chosen]
    everything = chosen == list(range(len(every)))
    return (None if everything else chosen), numbers


def _all_with_element(every: list[app.topology.Atom]) -> list[int]:
    if not every:
        raise InputError("at least one atom is needed, got an empty topology")
    chosen = [i for i, atom in enumerate(every) if atom.element is not None]
    if not chosen:
        raise ElementError(
            f"a topology with elements is needed, none of the {len(every)} atoms has one"
        )
    if len(chosen) < len(every):
        _log.warning(
            "%d of %d particles have no element (virtual sites?): the model does not see them",
            len(every) - len(chosen),
            len(every),
        )
    return chosen


def _checked_indices(atoms: Iterable[int], n_atoms: int) -> list[int]:
    try:
        chosen = [operator.index(i) for i in atoms]
    except TypeError as error:
        raise InputError(f"atoms must be an iterable of integers: {error}") from error
    if not chosen:
        raise InputError("at least one atom is needed, got an empty list")
    outside = [i for i in chosen if not 0 <= i < n_atoms]
    if outside:
        raise InputError(f"atom indices lie between 0 and {n_atoms - 1}, got {outside[0]}")
    if len(set(chosen)) < len(chosen):
        repeated = sorted({i for i in chosen if chosen.count(i) > 1})
        raise InputError(f"every atom may be listed once, got these more often: {repeated}")
    return chosen


def ml_bonds(topology: app.Topology, atoms: Sequence[int]) -> list[tuple[int, int]]:
    """The topology's bonds between the given atoms, as pairs of positions in their list."""
    place = {atom: k for k, atom in enumerate(atoms)}
    ends = ((bond.atom1.index, bond.atom2.index) for bond in topology.bonds())
    return [(place[i], place[j]) for i, j in ends if i in place and j in place]


def formal_charges(topology: app.Topology, atoms: Sequence[int]) -> list[int | None]:
    """Formal charges of the given atoms, e; None where the topology does not know."""
    every = list(topology.atoms())
    return [every[i].formalCharge for i in atoms]


def is_periodic(topology: app.Topology, system: openmm.System) -> bool:
    """Whether the model sees periodic images: the topology has a box or the System uses one."""
    return topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()


def wants_interaction_energy(return_energy_type: str) -> bool:
    """Read OpenMM-ML's ``returnEnergyType``.

    Raises:
        ConfigError: neither 'interaction_energy' nor 'energy'.
    """
    kinds = ("interaction_energy", "energy")
    if return_energy_type not in kinds:
        raise ConfigError(f"returnEnergyType must be one of {kinds}, got {return_energy_type!r}")
    return return_energy_type == "interaction_energy"
