"""Mixed systems: a region of atoms by the model, the rest and the coupling by a force field.

Mechanical embedding: E = E_MM(all) - E_MM(inside the region) + E_ML(region). The interactions of
the region with its surroundings are those of the force field, also with implicit solvent.
Electrostatic embedding adds :mod:`mace_mm.ml_mm.electrostatic_force`.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotentialImpl

from mace_mm.errors import ConfigError, InputError
from mace_mm.ml_mm.bonded import split_bonded
from mace_mm.ml_mm.boundary import LinkDistances, add_link_atoms, check_cut_bonds
from mace_mm.ml_mm.custom_nonbonded import exclude_inside_custom
from mace_mm.ml_mm.electrostatic_force import make_electrostatic_force
from mace_mm.ml_mm.embedding import embedded_region
from mace_mm.ml_mm.long_range import region_long_range
from mace_mm.ml_mm.nonbonded import exclude_inside, images_of_region
from mace_mm.ml_mm.region import Region, make_region
from mace_mm.openmm.copy import copy_system
from mace_mm.openmm.interpolation import PARAMETER, fade_in, fade_in_terms, fade_out
from mace_mm.openmm.molecules import holds_molecules, keep_molecules, warn_of_lone_atoms

EMBEDDINGS = ("mechanical", "electrostatic")
# Force fields whose energy is no sum over pairs and bonds that could be split.
_CANNOT_SPLIT = (
    "AmoebaGeneralizedKirkwoodForce",
    "AmoebaMultipoleForce",
    "AmoebaVdwForce",
    "AmoebaWcaDispersionForce",
    "CustomHbondForce",
    "CustomManyParticleForce",
    "DrudeForce",
    "GayBerneForce",
    "HippoNonbondedForce",
)

_log = logging.getLogger(__name__)

# Adds the forces of the ML part to a System: topology, System, particles.
AddForces = Callable[[app.Topology, openmm.System, list[int]], None]


def create_mixed_system(
    potential: MLPotentialImpl,
    topology: app.Topology,
    system: openmm.System,
    atoms: Iterable[int],
    *,
    embedding: str = "mechanical",
    force_group: int = 0,
    interpolate: bool = False,
    ml_long_range: bool | None = None,
    link_atom_distances: LinkDistances = (),
    long_range_within_region: Any = None,
    constraints_go: bool = True,
    **arguments: Any,
) -> dict[str, Any]:
    """Build a mixed system.

    Args:
        potential: of the ML region; any potential of OpenMM-ML.
        topology: of the System, with the bonds of all molecules the region touches.
        system: described by the force field; it is not changed. It may hold other ML regions.
        atoms: particle indices of the region, in any order, with its virtual sites or without.
        embedding: "mechanical" or "electrostatic".
        force_group: of the ML force and of the correction of electrostatic embedding. Everything
            else keeps its group.
        interpolate: add the global parameter ``lambda_interpolate``, see
            :mod:`mace_mm.openmm.interpolation`.
        ml_long_range: whether the model contains the Coulomb interaction of the region with its
            periodic images; without it they interact by the force field. None: the potential knows.
        link_atom_distances: see :func:`mace_mm.ml_mm.boundary.add_link_atoms`.
        long_range_within_region: whether the force field's pairs inside the region stay where they
            are beyond the reach of the model, see :mod:`mace_mm.ml_mm.long_range`; or
            the distance from which on they stay, in nm or with unit. None leaves them out and
            warns where that matters.
        constraints_go: whether the caller removes the constraints inside the region.
        arguments: for the potential.

    Returns:
        "system", "topology" (with link atoms at its end), "oldToNew" (the identity) and "warnings",
        sentences on what the region misses.

    Raises:
        ConfigError: an unknown embedding, or one that the force field does not allow; the reach of
            the potential is unknown and matters.
        InputError: a region that cannot be cut out, see :func:`make_region`,
            :func:`check_cut_bonds` and :func:`add_link_atoms`; a force field that cannot be split.
        ElementError: an atom without an element, or one that the model does not know.
    """
    if embedding not in EMBEDDINGS:
        raise ConfigError(f"embedding must be one of {EMBEDDINGS}, got {embedding!r}")
    region = make_region(topology, system, atoms)
    check_cut_bonds(topology, system, region)
    _check_forces(system)
    if len(region.particles) == topology.getNumAtoms():
        _log.info("the ML region is the whole system: nothing is left to the force field")
    long_range = _is_long_range(potential, system, ml_long_range)
    kept, missing = _beyond_reach(potential, system, region, long_range_within_region)
    mixed = copy_system(system)
    removed, images = _take_out(mixed, region, long_range)
    keep_molecules(mixed, region.bonds)
    if system.usesPeriodicBoundaryConditions():
        warn_of_lone_atoms(topology, set(region.atoms), region.bonds + region.cut_bonds)
    extended, caps = add_link_atoms(topology, mixed, region, link_atom_distances)
    if interpolate and constraints_go:
        _check_unbound(system, region)
    fading = [fade_out(force) for force in removed] if interpolate else []
    for force in fading + [fade_in_terms(force) if interpolate else force for force in kept]:
        mixed.addForce(force)
    for force in images:
        _add_caps_to_images(force, caps)
        _subtract(mixed, force, interpolate)
    _add_model(
        potential, extended, mixed, [*region.atoms, *caps], force_group, interpolate, arguments
    )
    if embedding == "electrostatic":
        embedded = embedded_region(extended, system, region, caps)
        mixed.addForce(make_electrostatic_force(embedded, force_group, interpolated=interpolate))
    order = list(range(topology.getNumAtoms()))
    return {"system": mixed, "topology": extended, "oldToNew": order, "warnings": missing}


def _beyond_reach(
    potential: MLPotentialImpl, system: openmm.System, region: Region, asked: Any
) -> tuple[list[openmm.Force], list[str]]:
    """What stays of the force field beyond the reach of the model; what is missing is warned of."""
    known = potential.getReach() if hasattr(potential, "getReach") else None
    kept, missing = region_long_range(system, region, asked, known)
    for sentence in missing:
        _log.warning("%s", sentence)
    return kept, missing


def _take_out(
    mixed: openmm.System, region: Region, long_range: bool
) -> tuple[list[openmm.Force], list[openmm.NonbondedForce]]:
    """Remove what the force field says about the inside of the region, in place.

    Returns:
        what was removed, as forces; and the interaction of the region with its images, if that
        is to be removed too.
    """
    removed: list[openmm.Force] = []
    images: list[openmm.NonbondedForce] = []
    replaced = []
    for index, force in enumerate(mixed.getForces()):
        if isinstance(force, openmm.NonbondedForce):
            if long_range and _has_charges(force, region):
                images.append(images_of_region(force, region))
            removed += exclude_inside(force, region)
        elif isinstance(force, openmm.CustomNonbondedForce):
            removed += exclude_inside_custom(force, region)
        elif not holds_molecules(force):
            kept, inside = split_bonded(force, region)
            if inside is not None:
                removed.append(inside)
                replaced.append((index, kept))
    for index, kept in reversed(replaced):
        mixed.removeForce(index)
        mixed.addForce(kept)
    return removed, images


def _add_model(
    potential: MLPotentialImpl,
    topology: app.Topology,
    mixed: openmm.System,
    atoms: list[int],
    force_group: int,
    interpolate: bool,
    arguments: dict[str, Any],
) -> None:
    if getattr(potential, "can_interpolate", False):
        arguments = {**arguments, "interpolated": interpolate}
    elif interpolate:
        collector = _Collector(mixed.usesPeriodicBoundaryConditions())
        potential.addForces(topology, collector, atoms, force_group, **arguments)
        for force in collector.added:
            mixed.addForce(fade_in(force))
        return
    potential.addForces(topology, mixed, atoms, force_group, **arguments)


class _Collector(openmm.System):
    """A System without particles that gives away the forces added to it."""

    def __init__(self, periodic: bool) -> None:
        super().__init__()
        self.added: list[openmm.Force] = []
        self._periodic = periodic

    def addForce(self, force: openmm.Force) -> int:  # noqa: N802 (OpenMM's name)
        self.added.append(force)
        return len(self.added) - 1

    def usesPeriodicBoundaryConditions(self) -> bool:  # noqa: N802 (OpenMM's name)
        return self._periodic


def _subtract(mixed: openmm.System, force: openmm.Force, interpolate: bool) -> None:
    force.setName("images of the ML region")
    if interpolate:
        mixed.addForce(fade_in(force, sign=-1))
        return
    negative = openmm.CustomCVForce("-images")
    negative.setForceGroup(force.getForceGroup())
    negative.setName(force.getName())
    negative.addCollectiveVariable("images", force)
    mixed.addForce(negative)


def _add_caps_to_images(force: openmm.NonbondedForce, caps: list[int]) -> None:
    for _ in caps:
        force.addParticle(0.0, 1.0, 0.0)


def _is_long_range(potential: MLPotentialImpl, system: openmm.System, asked: bool | None) -> bool:
    """Whether the images of the region are the model's business."""
    if not system.usesPeriodicBoundaryConditions():
        return False
    reach = potential.getMLLongRange() if asked is None else asked
    if reach is None:
        raise ConfigError(
            "The system is periodic and it is unknown if the ML model uses long-range "
            "interactions; provide the mlLongRange option to specify."
        )
    return reach


def _has_charges(force: openmm.NonbondedForce, region: Region) -> bool:
    return any(force.getParticleParameters(i)[0]._value != 0.0 for i in region.particles)


def _check_forces(system: openmm.System) -> None:
    for force in system.getForces():
        if type(force).__name__ in _CANNOT_SPLIT:
            raise InputError(
                f"a {type(force).__name__} cannot be split into the inside of an ML region and the "
                "rest: a force field of bonds and pairs is needed"
            )


def _check_unbound(system: openmm.System, region: Region) -> None:
    """Refuse to interpolate where removing constraints would leave atoms without bonds."""
    bonds = set()
    for force in system.getForces():
        if holds_molecules(force):
            continue
        if isinstance(force, openmm.HarmonicBondForce | openmm.CustomBondForce):
            for i in range(force.getNumBonds()):
                bonds.add(frozenset(force.getBondParameters(i)[:2]))
    for i in range(system.getNumConstraints()):
        first, second, _ = system.getConstraintParameters(i)
        if first in region and second in region and frozenset((first, second)) not in bonds:
            if second not in region.neighbors[first]:
                continue
            raise InputError(
                f"at {PARAMETER} = 0 nothing would hold atoms {first} and {second} together: their "
                "constraint is removed, and the force field has no bond term for them. Create its "
                "System with flexibleConstraints=True or constraints=None, or pass "
                "removeConstraints=False"
            )
