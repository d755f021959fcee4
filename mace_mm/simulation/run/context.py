"""The OpenMM context of a run."""

import openmm
from openmm import unit

from mace_mm.errors import BackendError
from mace_mm.openmm.molecules import NAME as MOLECULES
from mace_mm.simulation.run.settings import RunSettings

_SMALL = 2000  # particles
_LIGHT_FORCES = {"MACE", MOLECULES, "CMMotionRemover", "MonteCarloBarostat"}


def make_context(system: openmm.System, settings: RunSettings, seed: int) -> openmm.Context:
    """A context with a LangevinMiddleIntegrator (Zhang et al., J. Phys. Chem. A 123, 6056, 2019).

    Raises:
        BackendError: the platform does not exist here.
    """
    integrator = openmm.LangevinMiddleIntegrator(
        settings.temperature_k * unit.kelvin,
        settings.friction_per_ps / unit.picosecond,
        settings.timestep_fs * unit.femtosecond,
    )
    integrator.setRandomNumberSeed(seed)
    platform = make_platform(settings.platform or _light_platform(system))
    return openmm.Context(system, integrator, *([] if platform is None else [platform]))


def _light_platform(system: openmm.System) -> str | None:
    """Reference, where OpenMM would choose CPU and has next to nothing to compute itself.

    The threads of the CPU platform cost some 0.3 ms a step, more than the model needs for a ligand.
    """
    platforms = [openmm.Platform.getPlatform(i) for i in range(openmm.Platform.getNumPlatforms())]
    fastest = max(platforms, key=lambda platform: platform.getSpeed())
    forces = {force.getName() for force in system.getForces()}
    small = system.getNumParticles() <= _SMALL and forces <= _LIGHT_FORCES
    return "Reference" if small and fastest.getName() == "CPU" else None


def make_platform(name: str | None) -> openmm.Platform | None:
    """The OpenMM platform of this name; None lets OpenMM choose.

    Raises:
        BackendError: there is no such platform; the message lists those there are.
    """
    if name is None:
        return None
    known = [
        openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
    ]
    if name not in known:
        raise BackendError(f"the OpenMM platforms here are {' '.join(known)}, got {name!r}")
    return openmm.Platform.getPlatformByName(name)


def degrees_of_freedom(system: openmm.System) -> int:
    """Three a particle with mass, less the constraints and a removed center-of-mass motion."""
    massive = [
        system.getParticleMass(i).value_in_unit(unit.dalton) > 0
        for i in range(system.getNumParticles())
    ]
    removed = any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces())
    return 3 * sum(massive) - system.getNumConstraints() - (3 if removed else 0)
