"""Electrostatic embedding of an ML region: read from a System what its force needs."""

import logging
from collections.abc import Sequence

import openmm
import torch
from openmm import app, unit

from mace_mm.errors import ConfigError
from mace_mm.simulation.electrostatic_force import EmbeddedRegion, spread_charges
from mace_mm.simulation.electrostatics import charge_parameters, polarizabilities
from mace_mm.simulation.ml_mm_region import Region
from mace_mm.units import NM_TO_ANGSTROM

_log = logging.getLogger(__name__)


def embedded_region(
    topology: app.Topology, system: openmm.System, region: Region, caps: Sequence[int]
) -> EmbeddedRegion:
    """Collect charges, sources and the cutoff.

    Args:
        topology: with the link atoms.
        system: described by the force field, before anything was taken out.
        region: of the model.
        caps: particle indices of the link atoms.

    Raises:
        ConfigError: not exactly one NonbondedForce, or charges that depend on a global parameter.
        ElementError: an element without parameters.
    """
    force = _only_nonbonded(system)
    every = list(topology.atoms())
    atoms = [*region.atoms, *caps]
    numbers = [every[i].element.atomic_number for i in atoms]
    charges = [
        force.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge)
        for i in range(force.getNumParticles())
    ]
    omitted = _bonded_surroundings(force, region)
    residues = [[a.index for a in residue.atoms()] for residue in topology.residues()]
    outside = [[i for i in group if i not in region and i not in caps] for group in residues]
    spread = spread_charges(charges, omitted, outside)
    sources = [i for i, q in enumerate(spread) if q != 0.0 and i not in region]
    lost = sum(q for i, q in enumerate(charges) if i not in region) - sum(
        spread[i] for i in sources
    )
    if abs(lost) > 1e-3:
        _log.warning(
            "charges of %.4f e next to the ML region polarize nothing: their residues lie wholly "
            "within three bonds of it",
            lost,
        )
    method = force.getNonbondedMethod()
    own = [charges[i] for i in region.atoms] + [0.0] * len(caps)
    cutoff = None
    if method != openmm.NonbondedForce.NoCutoff:
        cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer) * NM_TO_ANGSTROM
    return EmbeddedRegion(
        atoms=tuple(atoms),
        parameters=charge_parameters(numbers),
        polarizability=polarizabilities(numbers),
        force_field_charges=torch.tensor(own, dtype=torch.float64),
        sources=tuple(sources),
        source_charges=torch.tensor([spread[i] for i in sources], dtype=torch.float64),
        cutoff=cutoff,
        periodic=bool(force.usesPeriodicBoundaryConditions()),
    )


def _only_nonbonded(system: openmm.System) -> openmm.NonbondedForce:
    found = [f for f in system.getForces() if isinstance(f, openmm.NonbondedForce)]
    if len(found) != 1:
        raise ConfigError(
            "electrostatic embedding needs the charges of one NonbondedForce, the System has "
            f"{len(found)}"
        )
    force = found[0]
    for i in range(force.getNumParticleParameterOffsets()):
        name, index, charge, *_ = force.getParticleParameterOffset(i)
        if charge != 0.0:
            raise ConfigError(
                "electrostatic embedding needs constant charges, that of particle "
                f"{index} depends on {name!r}"
            )
    return force


def _bonded_surroundings(force: openmm.NonbondedForce, region: Region) -> list[int]:
    """MM particles whose interaction with an atom of the region is excluded or scaled."""
    found = set()
    for i in range(force.getNumExceptions()):
        first, second = force.getExceptionParameters(i)[:2]
        if first in region and second not in region:
            found.add(second)
        elif second in region and first not in region:
            found.add(first)
    return sorted(found)
