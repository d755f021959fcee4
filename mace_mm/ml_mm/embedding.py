"""Electrostatic embedding of an ML region: read from a System what its force needs."""

import logging
from collections.abc import Sequence

import openmm
import torch
from openmm import app, unit

from mace_mm.electrostatics.charge_model import polarizabilities
from mace_mm.errors import ConfigError
from mace_mm.ml_mm.electrostatic_force import EmbeddedRegion, spread_charges
from mace_mm.ml_mm.region import Region
from mace_mm.units import NM_TO_ANGSTROM

_IMPLICIT_SOLVENT = (openmm.GBSAOBCForce, openmm.CustomGBForce)

_log = logging.getLogger(__name__)


def embedded_region(
    topology: app.Topology, system: openmm.System, region: Region, caps: Sequence[int]
) -> EmbeddedRegion:
    """Collect polarizabilities, sources and the cutoff.

    Args:
        topology: with the link atoms.
        system: described by the force field, before anything was taken out.
        region: of the model.
        caps: particle indices of the link atoms.

    Raises:
        ConfigError: implicit solvent; not exactly one NonbondedForce; charges that depend on a
            global parameter.
        ElementError: an element without a polarizability.
    """
    force = _only_nonbonded(system)
    every = list(topology.atoms())
    atoms = [*region.atoms, *caps]
    charges = [
        force.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge)
        for i in range(force.getNumParticles())
    ]
    # The charges of virtual sites inside the region are its own.
    inside = {*region.particles, *caps}
    omitted = _bonded_surroundings(force, region)
    residues = [[a.index for a in residue.atoms()] for residue in topology.residues()]
    outside = [[i for i in group if i not in inside] for group in residues]
    spread = spread_charges(charges, omitted, outside)
    sources = [i for i, q in enumerate(spread) if q != 0.0 and i not in inside]
    lost = sum(q for i, q in enumerate(charges) if i not in inside) - sum(
        spread[i] for i in sources
    )
    if abs(lost) > 1e-3:
        _log.warning(
            "charges of %.4f e next to the ML region polarize nothing: their residues lie wholly "
            "within three bonds of it",
            lost,
        )
    cutoff = None
    if force.usesPeriodicBoundaryConditions():
        cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer) * NM_TO_ANGSTROM
    _log.warning(
        "electrostatic embedding is experimental: the charges of the force field stay, dipoles "
        "induced in %d atoms of the ML region by %d charges are added",
        len(atoms),
        len(sources),
    )
    return EmbeddedRegion(
        atoms=tuple(atoms),
        polarizability=polarizabilities([every[i].element.atomic_number for i in atoms]),
        sources=tuple(sources),
        source_charges=torch.tensor([spread[i] for i in sources], dtype=torch.float64),
        cutoff=cutoff,
    )


def _only_nonbonded(system: openmm.System) -> openmm.NonbondedForce:
    for force in system.getForces():
        if isinstance(force, _IMPLICIT_SOLVENT):
            raise ConfigError(
                "electrostatic embedding needs the solvent as molecules or none: a "
                f"{type(force).__name__} (implicit solvent) would screen the charges, and the "
                "dipoles that they induce would not know it. Use embedding='mechanical'"
            )
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
