"""OpenMM contexts of a leg: platform, minimization, and the cache that openmmtools asks for."""

from collections.abc import Sequence

import openmm
from openmmtools import cache
from openmmtools import states as tools

from mace_mm.errors import BackendError
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.settings import Dynamics


def make_platform(dynamics: Dynamics) -> openmm.Platform | None:
    """The OpenMM platform that the settings name, None to let OpenMM choose.

    Raises:
        BackendError: it does not exist here.
    """
    if dynamics.platform is None:
        return None
    try:
        return openmm.Platform.getPlatformByName(dynamics.platform)
    except openmm.OpenMMException as error:
        known = [
            openmm.Platform.getPlatform(index).getName()
            for index in range(openmm.Platform.getNumPlatforms())
        ]
        raise BackendError(
            f"the OpenMM platform must be one of {known}, got {dynamics.platform!r}"
        ) from error


def make_context(
    system: openmm.System, integrator: openmm.Integrator, dynamics: Dynamics
) -> openmm.Context:
    """A context on the platform that the settings name.

    Raises:
        BackendError: it does not exist here.
    """
    platform = make_platform(dynamics)
    if platform is None:
        return openmm.Context(system, integrator)
    return openmm.Context(system, integrator, platform, dict(dynamics.platform_properties))


def minimized_starts(
    leg: Leg, states: Sequence[int], max_iterations: int, dynamics: Dynamics
) -> list[tools.SamplerState]:
    """The leg's starts, one after the other, minimized in each of some states.

    openmmtools' own minimization copies the System several times a replica, and a copy of a
    System with a network in it takes half a second.
    """
    context = make_context(leg.system, openmm.VerletIntegrator(0.001), dynamics)
    found = []
    for state in states:
        if leg.box_nm is not None:
            context.setPeriodicBoxVectors(*leg.box_nm)
        context.setPositions(leg.start_nm(state))
        context.computeVirtualSites()
        for name, value in leg.schedule.parameters[state].items():
            context.setParameter(name, value)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=max_iterations)
        positions = context.getState(getPositions=True).getPositions(asNumpy=True)
        found.append(tools.SamplerState(positions=positions, box_vectors=leg.box_vectors))
    return found


def context_cache(dynamics: Dynamics) -> cache.ContextCache:
    """Contexts of one run; openmmtools keeps one for each integrator."""
    properties = dynamics.platform_properties or None
    return cache.ContextCache(
        capacity=None,
        time_to_live=None,
        platform=make_platform(dynamics),
        platform_properties=properties,
    )
