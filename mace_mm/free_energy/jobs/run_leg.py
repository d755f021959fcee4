"""Run one leg to its end and analyze it: windows, switches, verdict."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpiplus

from mace_mm.errors import ConfigError, DataError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.files.folder_lock import only_process
from mace_mm.free_energy.analysis.convergence import (
    Verdict,
    join_verdicts,
    judge_methods,
    judge_switches,
    judge_windows,
)
from mace_mm.free_energy.analysis.estimator import Estimate, WindowAnalysis, analyze_windows
from mace_mm.free_energy.analysis.work import SwitchAnalysis, analyze_switches
from mace_mm.free_energy.conformers.starting import with_starts
from mace_mm.free_energy.coordinates.result import ConformerResult, FollowedRun, judge_run
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.sampling.distribute import run_tasks, switch_tasks, window_tasks
from mace_mm.free_energy.sampling.samples import collect
from mace_mm.free_energy.sampling.switching import FORWARD, REVERSE, read_work
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.settings import Dynamics, Execution, Limits, Switching, Windows

logger = logging.getLogger(__name__)

RESULT_NAME = "result.json"
CONFORMERS_FOLDER = "conformers"

OnStage = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a leg is sampled; the parts of a command's configuration that every leg shares."""

    windows: Windows | None
    switching: Switching | None
    dynamics: Dynamics
    execution: Execution
    limits: Limits

    def __post_init__(self) -> None:
        if self.windows is None and self.switching is None:
            raise ConfigError("one of windows and switching is needed, got neither")

    def n_replicas(self, leg: Leg) -> int:
        """Trajectories of a leg, each of which may start in another conformer."""
        return leg.schedule.n_states if self.windows is not None else 2


@dataclass(frozen=True, kw_only=True, eq=False)
class LegResult:
    """The free energy of a leg's last state relative to its first.

    Attributes:
        name: of the leg.
        windows, switches: analyses of what was run.
        verdict: of both, of their agreement, and of what was seen of the molecule.
        conformers: starts and followed coordinates, None for legs without a ligand that is known.
        elapsed_s: wall time of this process; a continued run counts its last part only.
    """

    name: str
    windows: WindowAnalysis | None
    switches: SwitchAnalysis | None
    verdict: Verdict
    elapsed_s: float
    conformers: ConformerResult | None = None

    @property
    def estimate(self) -> Estimate:
        """MBAR where there are windows, else BAR of the switches."""
        if self.windows is not None:
            return self.windows.mbar
        if self.switches is not None:
            return self.switches.bar
        raise ConfigError(f"leg {self.name} has no result")

    @property
    def methods(self) -> dict[str, Estimate]:
        """Every estimate by the name of its method."""
        found: dict[str, Estimate] = {}
        if self.windows is not None:
            found |= {"MBAR": self.windows.mbar, "BAR": self.windows.bar}
            if self.windows.ti is not None:
                found["TI"] = self.windows.ti
        if self.switches is not None:
            found["switching, BAR"] = self.switches.bar
            found["switching, Crooks"] = self.switches.crooks
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values for a results file."""
        content: dict[str, Any] = {
            "name": self.name,
            "estimate": estimate_json(self.estimate),
            "converged": self.verdict.converged,
            "reasons": list(self.verdict.reasons),
            "methods": {name: estimate_json(value) for name, value in self.methods.items()},
            "elapsed_s": round(self.elapsed_s, 1),
        }
        if self.conformers is not None:
            content["conformers"] = self.conformers.to_json()
        if self.windows is not None:
            content["windows"] = {
                "lambdas": list(self.windows.samples.schedule.coordinates),
                "samples": list(self.windows.samples.counts),
                "independent_samples": list(self.windows.independent),
                "left_out": self.windows.left_out,
                "overlap": self.windows.overlap.round(4).tolist(),
                "profile_kj_mol": self.windows.profile_kj_mol.round(4).tolist(),
            }
        if self.switches is not None:
            content["switching"] = {
                "forward_kt": self.switches.forward_kt.round(4).tolist(),
                "reverse_kt": self.switches.reverse_kt.round(4).tolist(),
                "left_out": self.switches.left_out,
                "independent_switches": [
                    self.switches.effective_forward,
                    self.switches.effective_reverse,
                ],
                "overlap": round(self.switches.overlap, 4),
                "dissipation_kj_mol": round(self.switches.dissipation_kj_mol, 4),
            }
        return content


def estimate_json(estimate: Estimate) -> dict[str, float]:
    """An estimate in both units."""
    return {
        "value_kj_mol": round(estimate.value_kj_mol, 4),
        "error_kj_mol": round(estimate.error_kj_mol, 4),
        "value_kcal_mol": round(estimate.value_kcal_mol, 4),
        "error_kcal_mol": round(estimate.error_kcal_mol, 4),
    }


def run_leg(
    leg: Leg, folder: Path, protocol: Protocol, on_stage: OnStage | None = None
) -> LegResult | None:
    """Sample what the protocol asks for, continue what the folder holds, analyze.

    Args:
        leg: the system and its states.
        folder: of this leg.
        protocol: windows, switching, dynamics, execution, limits.
        on_stage: called with a stage's name, its complete iterations and their total.

    Returns:
        The result; None on MPI ranks other than the first, which only sample.

    Raises:
        ConfigError, DataError, GeometryError: see the sampling functions.
        BackendError: likewise, or another process runs in this folder.
    """
    with only_process(folder, "sampling") if is_first_rank() else nullcontext():
        return _run_leg(leg, folder, protocol, on_stage)


def _run_leg(
    leg: Leg, folder: Path, protocol: Protocol, on_stage: OnStage | None
) -> LegResult | None:
    started = time.monotonic()
    known = None
    if is_first_rank():
        leg, known = with_starts(leg, folder / CONFORMERS_FOLDER, protocol.n_replicas(leg))
    report = on_stage or (lambda stage, done, total: None)
    distributed = protocol.execution.workers > 1 or protocol.execution.scheduler is not None
    windows = None
    journals = []
    if protocol.windows is not None:
        if protocol.windows.exchange and not distributed:
            journals = [
                run_windows(
                    leg,
                    folder / "windows",
                    protocol.windows,
                    protocol.dynamics,
                    on_iteration=lambda done, total: report("windows", done, total),
                )
            ]
        elif is_first_rank():
            journals = run_tasks(
                leg,
                window_tasks(leg, folder, protocol.windows, protocol.dynamics),
                protocol.execution,
                lambda done, total: report("windows", done, total),
            )
    if not is_first_rank():
        return None
    if protocol.windows is not None:
        samples = collect(leg.schedule, leg.temperature_k, journals, protocol.windows.equilibration)
        samples.write(folder)
        windows = analyze_windows(samples)
    switches = None
    if protocol.switching is not None:
        switched = run_tasks(
            leg,
            switch_tasks(folder, protocol.switching, protocol.dynamics),
            protocol.execution,
            lambda done, total: report("switches", done, total),
        )
        works = [read_work(journal, protocol.switching) for journal in switched]
        switches = analyze_switches(works[FORWARD], works[REVERSE], leg.temperature_k)
    conformers = None
    if leg.conformers is not None and known is not None:
        followed: dict[str, FollowedRun] = {}
        if protocol.windows is not None:
            discard = protocol.windows.equilibration
            followed["windows"] = journals, discard, leg.schedule.coordinates
        if protocol.switching is not None:
            followed["switches"] = switched, protocol.switching.equilibration, (0.0, 1.0)
        conformers = judge_run(leg.conformers, known, followed, protocol.limits)
        conformers.write_drawings(folder / CONFORMERS_FOLDER)
    result = LegResult(
        name=leg.name,
        windows=windows,
        switches=switches,
        verdict=judge_leg(windows, switches, protocol.limits, conformers),
        elapsed_s=time.monotonic() - started,
        conformers=conformers,
    )
    write_atomically(folder / RESULT_NAME, json.dumps(result.to_json(), indent=1).encode())
    return result


def judge_leg(
    windows: WindowAnalysis | None,
    switches: SwitchAnalysis | None,
    limits: Limits,
    conformers: ConformerResult | None = None,
) -> Verdict:
    """The verdict over windows, switches, the agreement of the two, and the conformers."""
    parts: dict[str, Verdict] = {}
    if conformers is not None:
        parts["conformers"] = conformers.verdict
    if windows is not None:
        parts["windows"] = judge_windows(windows, limits)
    if switches is not None:
        parts["switches"] = judge_switches(switches, limits)
    if windows is not None and switches is not None:
        parts["both"] = judge_methods({"MBAR": windows.mbar, "switching": switches.bar}, limits)
    return join_verdicts(parts)


def is_first_rank() -> bool:
    """True in a run without MPI and on MPI's rank 0."""
    communicator = mpiplus.get_mpicomm()
    return communicator is None or communicator.rank == 0


def run_legs(
    legs: Mapping[str, tuple[Leg, Protocol]], folder: Path, on_stage: OnStage | None = None
) -> dict[str, LegResult]:
    """Run all legs of a cycle, each in the folder of its name.

    A leg that cannot be analyzed does not keep the others from running.

    Returns:
        Results by name; empty on MPI ranks other than the first.

    Raises:
        DataError: legs that cannot be analyzed, all of them by name.
    """
    results: dict[str, LegResult] = {}
    failed: list[str] = []
    for name, (leg, protocol) in legs.items():

        def report(stage: str, done: int, total: int, name: str = name) -> None:
            if on_stage is not None:
                on_stage(f"{name}, {stage}", done, total)

        try:
            result = run_leg(leg, folder / name, protocol, report)
        except DataError as error:
            failed.append(f"{name}: {error}")
            continue
        if result is not None:
            results[name] = result
    if failed:
        raise DataError("; ".join(failed))
    return results
