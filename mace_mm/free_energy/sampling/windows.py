"""Equilibrium sampling of λ windows with openmmtools' multistate samplers, crash-safe."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mpiplus
import numpy as np
from openmm import unit
from openmmtools import mcmc, multistate
from openmmtools import states as tools
from openmmtools.multistate.utils import SimulationNaNError

from mace_mm.errors import GeometryError
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.sampling.contexts import context_cache, minimized_starts
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.sampling.restart import Restart
from mace_mm.free_energy.settings import Dynamics, Windows

logger = logging.getLogger(__name__)

_NM_PER_PS = unit.nanometer / unit.picosecond
# openmmtools asks for a limit; runs end by their own count.
_NO_LIMIT = 10**9

OnIteration = Callable[[int, int], None]


class _LangevinMove(mcmc.LangevinDynamicsMove):
    """openmmtools' Langevin move with a seed."""

    def __init__(self, n_steps: int, seed: int, **kwargs: Any) -> None:
        super().__init__(n_steps=n_steps, n_restart_attempts=1, **kwargs)
        self.seed = seed

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"seed": self.seed}

    def __setstate__(self, serialization: dict[str, Any]) -> None:
        super().__setstate__(serialization)
        self.seed = serialization["seed"]

    def _get_integrator(self, thermodynamic_state: tools.ThermodynamicState) -> Any:
        integrator = super()._get_integrator(thermodynamic_state)
        integrator.setRandomNumberSeed(self.seed)
        return integrator


class _JournalReporter:
    """What openmmtools' samplers ask of a reporter, answered by a journal."""

    checkpoint_interval = 1

    def __init__(
        self, journal: Journal, done: int, total: int, on_iteration: OnIteration | None
    ) -> None:
        self.filepath = str(journal.folder / "journal")
        self._journal = journal
        self._done = done
        self._total = total
        self._on_iteration = on_iteration
        self._sampler_states: Sequence[tools.SamplerState] = ()
        self._states = np.zeros(0, dtype=np.int64)
        self._reduced = np.zeros((0, 0))

    def storage_exists(self) -> bool:
        return False

    def is_open(self) -> bool:
        return False

    def open(self, mode: str) -> None: ...

    def close(self) -> None: ...

    def write_thermodynamic_states(self, sampled: object, unsampled: object) -> None: ...

    def write_dict(self, path: str, data: object) -> None: ...

    # Positions and energies come with write_items; these are called outside of iterations.
    def write_sampler_states(self, states: object, iteration: int) -> None: ...

    def write_energies(self, *energies: object) -> None: ...

    def write_items(
        self,
        sampler_states: Sequence[tools.SamplerState],
        states: np.ndarray,
        reduced: np.ndarray,
    ) -> None:
        self._sampler_states = sampler_states
        self._states = np.asarray(states)
        self._reduced = np.asarray(reduced)

    def write_last_iteration(self, iteration: int) -> None:
        if iteration == 0:
            return
        done = self._done + iteration
        if not np.isfinite(self._reduced).all():
            raise GeometryError(f"an energy of iteration {done} is not finite")
        restart = pack_restart(done, self._states, self._sampler_states)
        self._journal.append(restart, self._reduced)
        if self._on_iteration is not None:
            self._on_iteration(done, self._total)


class _Reports:
    """Reporting without openmmtools' signal handlers, which a worker's thread may not set.

    The journal needs no protection from signals: a write that is cut off costs one iteration.
    """

    _reporter: _JournalReporter
    _iteration: int

    @mpiplus.on_single_node(rank=0, broadcast_result=False, sync_nodes=False)
    def _report_iteration(self) -> None:
        self._report_iteration_items()
        self._reporter.write_last_iteration(self._iteration)

    @mpiplus.on_single_node(rank=0, broadcast_result=False, sync_nodes=False)
    def _report_iteration_items(self) -> None:
        self._reporter.write_items(
            self._sampler_states,  # type: ignore[attr-defined]
            self._replica_thermodynamic_states,  # type: ignore[attr-defined]
            self._energy_thermodynamic_states,  # type: ignore[attr-defined]
        )


class _ExchangeSampler(_Reports, multistate.ReplicaExchangeSampler):
    """Replica exchange into a journal."""


class _WindowSampler(_Reports, multistate.MultiStateSampler):
    """Independent windows into a journal."""


def pack_restart(
    iteration: int, states: np.ndarray, sampler_states: Sequence[tools.SamplerState]
) -> Restart:
    """The journal's form of openmmtools' sampler states."""
    periodic = sampler_states[0].box_vectors is not None
    return Restart(
        iteration=iteration,
        states=np.array(states),
        positions_nm=np.array([s.positions.value_in_unit(unit.nanometer) for s in sampler_states]),
        velocities_nm_ps=np.array([s.velocities.value_in_unit(_NM_PER_PS) for s in sampler_states]),
        boxes_nm=np.array([s.box_vectors.value_in_unit(unit.nanometer) for s in sampler_states])
        if periodic
        else None,
    )


def unpack_restart(restart: Restart) -> list[tools.SamplerState]:
    """openmmtools' form of a restart, one sampler state a replica."""
    boxes = restart.boxes_nm
    return [
        tools.SamplerState(
            positions=restart.positions_nm[index] * unit.nanometer,
            velocities=restart.velocities_nm_ps[index] * _NM_PER_PS,
            box_vectors=None if boxes is None else boxes[index] * unit.nanometer,
        )
        for index in range(len(restart.positions_nm))
    ]


def run_windows(
    leg: Leg,
    folder: Path,
    windows: Windows,
    dynamics: Dynamics,
    *,
    replicas: Sequence[int] | None = None,
    on_iteration: OnIteration | None = None,
) -> Journal:
    """Sample states of a leg until the folder holds all iterations; continues what is there.

    Under ``mpiexec`` the replicas are spread over the ranks (mpiplus).

    Args:
        leg: the system and its states.
        folder: the journal's folder.
        windows: how many iterations and of what length.
        dynamics: the integrator and platform.
        replicas: states to sample, all of them if None. With exchange, replicas wander over all
            states of the leg, so that then all must be sampled.
        on_iteration: called with the complete iterations and their total.

    Raises:
        ConfigError: the folder holds another run.
        GeometryError: the energy or positions stopped being finite.
        BackendError: the platform does not exist.
        MaceMMError: an observer of the leg ended the run.
    """
    n_states = leg.schedule.n_states
    initial = list(range(n_states)) if replicas is None else list(replicas)
    exchange = windows.exchange and replicas is None
    journal = Journal(folder, len(initial), n_states, leg.observers)
    identity = leg.identity() | {
        "initial_states": initial,
        "exchange": exchange,
        "steps": windows.steps,
        "timestep_fs": dynamics.timestep_fs,
    }
    restart = mpiplus.run_single_node(0, journal.prepare, identity, broadcast_result=True)
    done = 0 if restart is None else restart.iteration
    total = windows.equilibration + windows.iterations
    if done >= total:
        return journal
    move = _LangevinMove(
        n_steps=windows.steps,
        seed=dynamics.seed,
        timestep=dynamics.timestep_fs * unit.femtosecond,
        collision_rate=dynamics.friction_per_ps / unit.picosecond,
        constraint_tolerance=dynamics.constraint_tolerance,
    )
    kind = _ExchangeSampler if exchange else _WindowSampler
    sampler = kind(mcmc_moves=move, number_of_iterations=_NO_LIMIT, online_analysis_interval=None)
    # openmmtools prints what to cite; the documentation and reports of this package do.
    sampler._global_citation_silence = True
    sampler.energy_context_cache = context_cache(dynamics)
    sampler.sampler_context_cache = context_cache(dynamics)
    reporter = _JournalReporter(journal, done, total, on_iteration)
    if restart is None:
        start = mpiplus.run_single_node(
            0, minimized_starts, leg, initial, windows.minimization, dynamics, broadcast_result=True
        )
    else:
        start = unpack_restart(restart)
    sampler.create(
        leg.thermodynamic_states(),
        start,
        reporter,
        initial_thermodynamic_states=initial if restart is None else restart.states,
    )
    try:
        with warnings.catch_warnings():
            # openmmtools repeats OpenMM's NaN message as a warning before it raises.
            warnings.simplefilter("ignore", UserWarning)
            sampler.run(total - done)
    except SimulationNaNError as error:
        raise GeometryError(f"leg {leg.name}: {error}") from error
    return journal
