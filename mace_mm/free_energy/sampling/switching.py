"""Bidirectional nonequilibrium switching between the end states of a leg, crash-safe."""

import logging
from pathlib import Path

import numpy as np
import openmm
from openmm import unit

from mace_mm.errors import ConfigError, GeometryError
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.sampling.contexts import make_context
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.sampling.restart import Restart
from mace_mm.free_energy.sampling.windows import OnIteration
from mace_mm.free_energy.settings import Dynamics, Switching

logger = logging.getLogger(__name__)

_NM_PER_PS = unit.nanometer / unit.picosecond
_KJ_MOL = unit.kilojoule_per_mole
FORWARD, REVERSE = 0, 1


class SwitchRun:
    """Switches of one direction: equilibrium at one end state, driven to the other, again.

    Every switch starts from a snapshot of an equilibrium trajectory at its end state; λ moves in
    equal steps and the work is the sum of the energy changes at fixed positions (Crooks, J. Stat.
    Phys. 90, 1481, 1998). One switch is one iteration of the journal.
    """

    def __init__(self, leg: Leg, switching: Switching, dynamics: Dynamics, direction: int) -> None:
        if not leg.schedule.linear:
            raise ConfigError(
                f"switching needs a path with one coupling parameter, leg {leg.name} has "
                f"{list(leg.schedule.names)} in its schedule"
            )
        self.leg = leg
        self.switching = switching
        self.direction = direction
        self._name = leg.schedule.names[0]
        self._start = 0.0 if direction == FORWARD else 1.0
        system = _with_barostat(leg)
        self._integrator = openmm.LangevinMiddleIntegrator(
            leg.temperature_k * unit.kelvin,
            dynamics.friction_per_ps / unit.picosecond,
            dynamics.timestep_fs * unit.femtosecond,
        )
        self._integrator.setConstraintTolerance(dynamics.constraint_tolerance)
        if dynamics.seed:
            # The two directions must not share their noise.
            self._integrator.setRandomNumberSeed(2 * dynamics.seed % (2**31 - 2) + direction)
        self.context = make_context(system, self._integrator, dynamics)

    def begin(self, minimization: int) -> None:
        """Minimize this direction's start in its end state."""
        if self.leg.box_nm is not None:
            self.context.setPeriodicBoxVectors(*self.leg.box_nm)
        self.context.setPositions(self.leg.start_nm(self.direction))
        self.context.computeVirtualSites()
        self.context.setParameter(self._name, self._start)
        openmm.LocalEnergyMinimizer.minimize(self.context, maxIterations=minimization)
        self.context.setVelocitiesToTemperature(self.leg.temperature_k * unit.kelvin)

    def resume(self, restart: Restart) -> None:
        """Go to the snapshot that a former process reached."""
        if restart.boxes_nm is not None:
            self.context.setPeriodicBoxVectors(*restart.boxes_nm[0])
        self.context.setPositions(restart.positions_nm[0])
        self.context.setVelocities(restart.velocities_nm_ps[0])

    def equilibrate(self) -> None:
        """One stretch of equilibrium dynamics at the end state."""
        self.context.setParameter(self._name, self._start)
        self._integrator.step(self.switching.stretch)

    def switch(self) -> float:
        """Drive λ to the other end; the work in kJ/mol. The context is left there."""
        n_updates = self.switching.updates
        between = self.switching.steps // n_updates
        work = 0.0
        for update in range(1, n_updates + 1):
            before = self._energy()
            done = update / n_updates
            value = done if self.direction == FORWARD else 1.0 - done
            self.context.setParameter(self._name, value)
            work += self._energy() - before
            if update < n_updates:
                self._integrator.step(between)
        return work

    def snapshot(self, iteration: int) -> Restart:
        """Positions, velocities and box as the journal keeps them."""
        state = self.context.getState(getPositions=True, getVelocities=True)
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        return Restart(
            iteration=iteration,
            states=np.array([self.direction]),
            positions_nm=state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)[None],
            velocities_nm_ps=state.getVelocities(asNumpy=True).value_in_unit(_NM_PER_PS)[None],
            boxes_nm=None if self.leg.box_nm is None else np.array(box)[None],
        )

    def _energy(self) -> float:
        state = self.context.getState(getEnergy=True)
        return float(state.getPotentialEnergy().value_in_unit(_KJ_MOL))


def run_switches(
    leg: Leg,
    folder: Path,
    switching: Switching,
    dynamics: Dynamics,
    direction: int,
    *,
    minimization: int = 500,
    on_iteration: OnIteration | None = None,
) -> Journal:
    """Do switches of one direction until the folder holds all; continues what is there.

    Raises:
        ConfigError: the folder holds another run, or the leg's path has several parameters.
        GeometryError: the work stopped being finite.
        BackendError: the platform does not exist.
        MaceMMError: an observer of the leg ended the run.
    """
    journal = Journal(folder, 1, 1, leg.observers)
    restart = journal.prepare(
        leg.identity()
        | {"direction": direction, "timestep_fs": dynamics.timestep_fs}
        | switching.model_dump(exclude={"switches"})
    )
    done = 0 if restart is None else restart.iteration
    total = switching.equilibration + switching.switches
    if done >= total:
        return journal
    run = SwitchRun(leg, switching, dynamics, direction)
    if restart is None:
        run.begin(minimization)
    else:
        run.resume(restart)
    for iteration in range(done + 1, total + 1):
        run.equilibrate()
        snapshot = run.snapshot(iteration)
        work = 0.0
        if iteration > switching.equilibration:
            work = run.switch() / leg.kt_kj_mol
            run.resume(snapshot)
        if not np.isfinite(work) or not np.isfinite(snapshot.positions_nm).all():
            raise GeometryError(
                f"leg {leg.name}: the work or the positions of switch {iteration} are not finite"
            )
        journal.append(snapshot, np.array([[work]]))
        if on_iteration is not None:
            on_iteration(iteration, total)
    return journal


def read_work(journal: Journal, switching: Switching) -> np.ndarray:
    """(n_switches,) work in kT, without the iterations that only equilibrated."""
    return journal.read().reduced[switching.equilibration :, 0, 0]


def _with_barostat(leg: Leg) -> openmm.System:
    # openmmtools adds the barostat of a leg at constant pressure; the same system serves here.
    states = leg.thermodynamic_states()
    return states[0].get_system(remove_thermostat=True)
