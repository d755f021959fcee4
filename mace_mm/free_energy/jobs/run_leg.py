"""Run one leg to its end and analyze it: windows, switches, verdict."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from pymbar.utils import ConvergenceError, ParameterError

from mace_mm.errors import DataError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.files.folder_lock import only_process
from mace_mm.free_energy.analysis.convergence import (
    Verdict,
    join_verdicts,
    judge_methods,
    judge_switches,
    judge_windows,
)
from mace_mm.free_energy.analysis.estimator import WindowAnalysis, analyze_windows
from mace_mm.free_energy.analysis.work import SwitchAnalysis, analyze_switches
from mace_mm.free_energy.conformers.search import Conformers
from mace_mm.free_energy.conformers.starting import with_starts
from mace_mm.free_energy.coordinates.result import ConformerResult, FollowedRun, judge_run
from mace_mm.free_energy.leg_result import RESULT_NAME, LegResult, LegStoppedError
from mace_mm.free_energy.leg_sampling import (
    Sampled,
    is_first_rank,
    sample_switches,
    sample_windows,
)
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.watch import watch_of
from mace_mm.free_energy.protocol import OnStage, Protocol
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.sampling.samples import collect
from mace_mm.free_energy.sampling.switching import FORWARD, REVERSE, read_work
from mace_mm.free_energy.settings import Limits

logger = logging.getLogger(__name__)

CONFORMERS_FOLDER = "conformers"
# What the analysis raises for samples that are too few or do not overlap.
_TOO_LITTLE = (DataError, ValueError, np.linalg.LinAlgError, ConvergenceError, ParameterError)


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
        LegStoppedError: the molecule was destroyed, or numbers stopped being finite; what was
            sampled before is analyzed as far as it goes, and written.
        ConfigError, DataError: see the sampling functions.
        BackendError: likewise, or another process runs in this folder.
    """
    with only_process(folder, "sampling") if is_first_rank() else nullcontext():
        return _run_leg(leg, folder, protocol, on_stage)


def _run_leg(
    leg: Leg, folder: Path, protocol: Protocol, on_stage: OnStage | None
) -> LegResult | None:
    started = time.monotonic()
    warnings = leg_warnings(leg, protocol)
    known = None
    if is_first_rank():
        for warning in set(warnings) - set(leg.warnings):
            logger.warning("leg %s: %s", leg.name, warning)
        leg, known = with_starts(leg, folder / CONFORMERS_FOLDER, protocol.n_replicas(leg))
    report = on_stage or (lambda stage, done, total: None)
    sampled = {"windows": sample_windows(leg, folder, protocol, report)}
    if not is_first_rank():
        return None
    stopped_by = sampled["windows"].stopped_by
    windows = switches = None
    if protocol.windows is not None:
        windows = _windows(leg, folder, protocol, sampled["windows"])
    if protocol.switching is not None and stopped_by is None:
        sampled["switches"] = sample_switches(leg, folder, protocol, report)
        stopped_by = sampled["switches"].stopped_by
        switches = _switches(leg, protocol, sampled["switches"])
    watch = watch_of(leg, {stage: part.journals for stage, part in sampled.items()})
    conformers = None
    if stopped_by is None:
        conformers = _conformers(leg, folder, protocol, known, sampled)
    verdict = judge_leg(windows, switches, protocol.limits, conformers)
    found = Verdict(converged=True, reasons=()) if watch is None else watch.verdict
    reasons = found.reasons + verdict.reasons
    if stopped_by is not None:
        reasons = (f"the leg ended before its end: {stopped_by}", *reasons)
    result = LegResult(
        name=leg.name,
        windows=windows,
        switches=switches,
        verdict=Verdict(converged=not reasons, reasons=reasons, warnings=warnings),
        elapsed_s=time.monotonic() - started,
        conformers=conformers,
        watch=watch,
        stopped_by=stopped_by,
    )
    write_atomically(folder / RESULT_NAME, json.dumps(result.to_json(), indent=1).encode())
    if stopped_by is not None:
        raise LegStoppedError(_sentence(leg, folder, stopped_by), {leg.name: result})
    return result


def leg_warnings(leg: Leg, protocol: Protocol) -> tuple[str, ...]:
    """What should be known before a leg is run: of the model, and of the time step."""
    limit = leg.timestep_limit
    problem = None if limit is None else limit.problem(protocol.dynamics.timestep_fs)
    return leg.warnings + (() if problem is None else (problem,))


def _sentence(leg: Leg, folder: Path, stopped_by: str) -> str:
    return (
        f"leg {leg.name} ended before its end: {stopped_by}; take a shorter time step, a lower "
        "temperature or a model that knows the molecule, or let the watch flag it (watch.action="
        f"flag); what was sampled before is in {folder}"
    )


def _windows(leg: Leg, folder: Path, protocol: Protocol, sampled: Sampled) -> WindowAnalysis | None:
    """Analyze the windows; of a leg that ended before its end, what was sampled before that."""
    if protocol.windows is None:
        return None
    discard = protocol.windows.equilibration

    def analyze(journals: Sequence[Journal]) -> WindowAnalysis:
        samples = collect(leg.schedule, leg.temperature_k, journals, discard)
        samples.write(folder)
        return analyze_windows(samples)

    if sampled.stopped_by is None:
        return analyze(sampled.journals)
    try:
        return analyze(sampled.before_event(leg))
    except _TOO_LITTLE as error:
        logger.info("leg %s: too little was sampled for a number: %s", leg.name, error)
        return None


def _switches(leg: Leg, protocol: Protocol, sampled: Sampled) -> SwitchAnalysis | None:
    """Analyze the switches, as `_windows` does the windows."""
    if protocol.switching is None:
        return None
    switching = protocol.switching

    def analyze(journals: Sequence[Journal]) -> SwitchAnalysis:
        works = [read_work(journal, switching) for journal in journals]
        return analyze_switches(works[FORWARD], works[REVERSE], leg.temperature_k)

    if sampled.stopped_by is None:
        return analyze(sampled.journals)
    try:
        return analyze(sampled.before_event(leg))
    except _TOO_LITTLE as error:
        logger.info("leg %s: too few switches for a number: %s", leg.name, error)
        return None


def _conformers(
    leg: Leg,
    folder: Path,
    protocol: Protocol,
    known: Conformers | None,
    sampled: Mapping[str, Sampled],
) -> ConformerResult | None:
    """What moved and what did not, with drawings."""
    if leg.conformers is None or known is None:
        return None
    followed: dict[str, FollowedRun] = {}
    if protocol.windows is not None:
        discard = protocol.windows.equilibration
        followed["windows"] = sampled["windows"].journals, discard, leg.schedule.coordinates
    if protocol.switching is not None:
        discard = protocol.switching.equilibration
        followed["switches"] = sampled["switches"].journals, discard, (0.0, 1.0)
    conformers = judge_run(leg.conformers, known, followed, protocol.limits)
    conformers.write_drawings(folder / CONFORMERS_FOLDER)
    return conformers


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


def run_legs(
    legs: Mapping[str, tuple[Leg, Protocol]], folder: Path, on_stage: OnStage | None = None
) -> dict[str, LegResult]:
    """Run all legs of a cycle, each in the folder of its name.

    A leg that ended before its end or cannot be analyzed does not keep the others from running.

    Returns:
        Results by name; empty on MPI ranks other than the first.

    Raises:
        LegStoppedError: legs whose molecule was destroyed, with the results of all.
        DataError: legs that cannot be analyzed, all of them by name.
    """
    results: dict[str, LegResult] = {}
    failed: list[str] = []
    stopped: list[str] = []
    for name, (leg, protocol) in legs.items():

        def report(stage: str, done: int, total: int, name: str = name) -> None:
            if on_stage is not None:
                on_stage(f"{name}, {stage}", done, total)

        try:
            result = run_leg(leg, folder / name, protocol, report)
        except LegStoppedError as error:
            # Said now: the other legs may take days.
            logger.error("%s", error)
            stopped.append(str(error))
            results[name] = next(iter(error.results.values()))
            continue
        except DataError as error:
            failed.append(f"{name}: {error}")
            continue
        if result is not None:
            results[name] = result
    if stopped:
        raise LegStoppedError("; ".join(stopped + failed), results)
    if failed:
        raise DataError("; ".join(failed))
    return results
