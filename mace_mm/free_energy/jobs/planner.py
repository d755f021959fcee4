"""What a calculation will cost: the user's own system, timed before anything is started."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import openmm
from openmm import unit

from mace_mm.free_energy.jobs.run_leg import leg_warnings
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.protocol import Protocol
from mace_mm.free_energy.sampling.contexts import make_context

_BUDGET_S = 3.0
_WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Expected cost of one leg.

    Attributes:
        name: of the leg.
        n_atoms: particles.
        platform: OpenMM's platform that was timed.
        step_ms: one step of dynamics between the end states.
        energy_ms: one energy at given positions.
        steps: all steps of dynamics.
        energies: all further energies, for the overlap of windows and the work of switches.
        workers: processes that share the work.
        conformers: in how many the leg starts, and why.
        warnings: what should be known before it is run.
    """

    name: str
    n_atoms: int
    platform: str
    step_ms: float
    energy_ms: float
    steps: int
    energies: int
    workers: int
    conformers: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def wall_s(self) -> float:
        """Expected wall time, if workers do not slow each other down."""
        serial = 1e-3 * (self.steps * self.step_ms + self.energies * self.energy_ms)
        return serial / self.workers


def plan_leg(leg: Leg, protocol: Protocol) -> Plan:
    """Time a leg in its middle state and count what its protocol asks for.

    Raises:
        BackendError: the platform does not exist.
    """
    integrator = openmm.LangevinMiddleIntegrator(
        leg.temperature_k * unit.kelvin,
        protocol.dynamics.friction_per_ps / unit.picosecond,
        protocol.dynamics.timestep_fs * unit.femtosecond,
    )
    context = make_context(leg.system, integrator, protocol.dynamics)
    if leg.box_nm is not None:
        context.setPeriodicBoxVectors(*leg.box_nm)
    context.setPositions(leg.positions_nm)
    middle = leg.schedule.parameters[leg.schedule.n_states // 2]
    for name, value in middle.items():
        context.setParameter(name, value)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=20)
    context.setVelocitiesToTemperature(leg.temperature_k * unit.kelvin)
    integrator.step(_WARM_UP_STEPS)
    step_s = _time(lambda: integrator.step(1), context)
    first = leg.schedule.names[0]

    def energy() -> None:
        # Another λ, so that no cached energy answers.
        context.setParameter(first, 1.0 - context.getParameter(first))
        context.getState(getEnergy=True)

    energy_s = _time(energy, context)
    steps, energies = count_work(leg.schedule.n_states, protocol)
    return Plan(
        name=leg.name,
        n_atoms=leg.system.getNumParticles(),
        platform=context.getPlatform().getName(),
        step_ms=1e3 * step_s,
        energy_ms=1e3 * energy_s,
        steps=steps,
        energies=energies,
        workers=protocol.execution.workers,
        conformers=_count_conformers(leg, protocol),
        warnings=leg_warnings(leg, protocol),
    )


def _count_conformers(leg: Leg, protocol: Protocol) -> str:
    """Looks for them, as the run will."""
    if leg.conformers is None:
        return "1 conformer, as given"
    return leg.conformers.prepare(None, protocol.n_replicas(leg)).ground


def count_work(n_states: int, protocol: Protocol) -> tuple[int, int]:
    """Steps of dynamics and further energies that a protocol needs for a leg."""
    steps = energies = 0
    if protocol.windows is not None:
        n_samples = n_states * (protocol.windows.iterations + protocol.windows.equilibration)
        steps += n_samples * protocol.windows.steps
        energies += n_samples * n_states
    if protocol.switching is not None:
        switching = protocol.switching
        stretches = 2 * (switching.switches + switching.equilibration)
        steps += stretches * switching.stretch + 2 * switching.switches * switching.steps
        energies += 2 * switching.switches * 2 * switching.updates
    return steps, energies


def describe_duration(seconds: float) -> str:
    """A wall time for people."""
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    if seconds < 7200.0:
        return f"{seconds / 60.0:.0f} min"
    if seconds < 172800.0:
        return f"{seconds / 3600.0:.1f} h"
    return f"{seconds / 86400.0:.1f} days"


def _time(action: Callable[[], object], context: openmm.Context) -> float:
    """Seconds of one call, averaged over a fixed budget of wall time."""
    n_calls = 0
    started = time.monotonic()
    while True:
        action()
        n_calls += 1
        context.getState(getEnergy=True)
        elapsed = time.monotonic() - started
        if elapsed > _BUDGET_S:
            return elapsed / n_calls
