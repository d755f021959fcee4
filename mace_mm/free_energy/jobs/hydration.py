"""``mace-mm hydration``: hydration free energies, by the force field and corrected to ML/MM."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.analysis.convergence import Verdict, join_verdicts
from mace_mm.free_energy.analysis.estimator import Estimate
from mace_mm.free_energy.analysis.report import write_report
from mace_mm.free_energy.config import Conditions, InputFiles, Potential, Solvent
from mace_mm.free_energy.jobs.correct import place_in_environment, write_config
from mace_mm.free_energy.jobs.run_leg import run_legs
from mace_mm.free_energy.leg_result import (
    RESULT_NAME,
    LegResult,
    LegStoppedError,
    estimate_json,
)
from mace_mm.free_energy.legs.alchemical import decoupling_leg
from mace_mm.free_energy.legs.end_state import INTERPOLATION_PARAMETER, end_state_leg
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.schedule import decoupling_schedule, even_lambdas, linear_schedule
from mace_mm.free_energy.protocol import OnStage, Protocol
from mace_mm.free_energy.settings import (
    Dynamics,
    Execution,
    Limits,
    Settings,
    Starts,
    Switching,
    Watch,
    Windows,
)
from mace_mm.free_energy.stopped import write_stopped
from mace_mm.free_energy.systems.freesolv import Reference, find_molecule
from mace_mm.settings import SafeName

logger = logging.getLogger(__name__)

WATER_DECOUPLING, VACUUM_DECOUPLING = "water_decoupling", "vacuum_decoupling"
WATER_CORRECTION, VACUUM_CORRECTION = "water_correction", "vacuum_correction"


class Decoupling(Settings):
    """How the force field's molecule is taken out of water."""

    electrostatics: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25, 0.0)
    sterics: tuple[float, ...] = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
    iterations: int = Field(default=400, ge=1)
    equilibration: int = Field(default=40, ge=0)
    steps: int = Field(default=500, ge=1)
    exchange: bool = True
    dynamics: Dynamics = Dynamics(timestep_fs=2.0, hydrogen_mass_amu=3.0)

    def windows(self) -> Windows:
        """Sampling settings; the λ values of a decoupling stand in its schedule."""
        return Windows(
            lambdas=even_lambdas(2),
            iterations=self.iterations,
            equilibration=self.equilibration,
            steps=self.steps,
            exchange=self.exchange,
        )


class HydrationConfig(Settings):
    """``mace-mm hydration``; without ``correction`` the force field's number only."""

    name: SafeName
    output: Path
    input: InputFiles
    solvent: Solvent = Solvent()
    conditions: Conditions = Conditions()
    decoupling: Decoupling = Decoupling()
    correction: bool = True
    potential: Potential = Potential()
    dynamics: Dynamics = Dynamics()
    windows: Windows | None = Windows()
    switching: Switching | None = None
    starts: Starts = Starts()
    watch: Watch = Watch()
    limits: Limits = Limits()
    execution: Execution = Execution()


@dataclass(frozen=True, kw_only=True, eq=False)
class HydrationResult:
    """Hydration free energies of one molecule, 1 M in gas to 1 M in water.

    Attributes:
        mm: of the force field.
        ml_mm: corrected to ML/MM, None if that was not asked for.
        legs: by name.
        verdict: over all legs.
        reference: FreeSolv's values, None for other molecules.
    """

    mm: Estimate
    ml_mm: Estimate | None
    legs: dict[str, LegResult]
    verdict: Verdict
    reference: Reference | None


def hydration_legs(config: HydrationConfig) -> dict[str, tuple[Leg, Protocol]]:
    """Every leg of the cycle with its protocol, vacuum first: it costs little and fails early."""
    schedules = {
        "vacuum": decoupling_schedule(config.decoupling.electrostatics, (1.0,)),
        "water": decoupling_schedule(config.decoupling.electrostatics, config.decoupling.sterics),
    }
    names = {
        "vacuum": (VACUUM_DECOUPLING, VACUUM_CORRECTION),
        "water": (WATER_DECOUPLING, WATER_CORRECTION),
    }
    legs: dict[str, tuple[Leg, Protocol]] = {}
    for environment, schedule in schedules.items():
        decoupling, correction = names[environment]
        mm = place_in_environment(
            config.input,
            environment,
            config.solvent,
            config.decoupling.dynamics.hydrogen_mass_amu,
            config.potential if config.correction else None,
        )
        dynamics = config.decoupling.dynamics
        if environment == "vacuum":
            # A handful of classical atoms: no platform is faster, and none needs fewer threads.
            dynamics = dynamics.model_copy(
                update={"platform": "Reference", "platform_properties": {}}
            )
        legs[decoupling] = (
            decoupling_leg(
                decoupling, mm, schedule, config.conditions, config.starts, config.watch
            ),
            Protocol(
                windows=config.decoupling.windows(),
                switching=None,
                dynamics=dynamics,
                execution=config.execution,
                limits=config.limits,
            ),
        )
        if not config.correction:
            continue
        mm = place_in_environment(
            config.input, environment, config.solvent, config.dynamics.hydrogen_mass_amu
        )
        lambdas = even_lambdas(2) if config.windows is None else config.windows.lambdas
        legs[correction] = (
            end_state_leg(
                correction,
                mm,
                config.potential,
                linear_schedule(lambdas, INTERPOLATION_PARAMETER),
                config.conditions,
                starts=config.starts,
                watch=config.watch,
            ),
            Protocol(
                windows=config.windows,
                switching=config.switching,
                dynamics=config.dynamics,
                execution=config.execution,
                limits=config.limits,
            ),
        )
    return legs


def run_hydration(
    config: HydrationConfig, on_stage: OnStage | None = None
) -> HydrationResult | None:
    """Run or continue all legs, and write results and a report.

    Returns:
        The result, None on MPI ranks other than the first.

    Raises:
        LegStoppedError: a molecule was destroyed; what the legs have is written.
    """
    try:
        results = run_legs(hydration_legs(config), config.output, on_stage)
    except LegStoppedError as error:
        write_config(config.output, config.model_dump_json())
        write_stopped(config.output, config.name, f"{config.name}: hydration free energy", error)
        raise
    if not results:
        return None
    hydration = combine(results, config)
    write_config(config.output, config.model_dump_json())
    _write(config, hydration)
    return hydration


def combine(results: dict[str, LegResult], config: HydrationConfig) -> HydrationResult:
    """Close the cycle: out of the gas phase uncharged, into water, ML/MM at both ends."""
    mm = results[VACUUM_DECOUPLING].estimate - results[WATER_DECOUPLING].estimate
    ml_mm = None
    if config.correction:
        change = results[WATER_CORRECTION].estimate - results[VACUUM_CORRECTION].estimate
        ml_mm = mm + change
    files = config.input
    known = files.freesolv is not None and files.molecule is not None
    return HydrationResult(
        mm=mm,
        ml_mm=ml_mm,
        legs=results,
        verdict=join_verdicts({name: result.verdict for name, result in results.items()}),
        reference=find_molecule(files.freesolv, files.molecule)  # type: ignore[arg-type]
        if known
        else None,
    )


def estimates(result: HydrationResult) -> dict[str, Estimate]:
    """The numbers of a hydration result by name, those asked for first."""
    found: dict[str, Estimate] = {}
    if result.ml_mm is not None:
        found["ΔG hydration, ML/MM"] = result.ml_mm
    found["ΔG hydration, force field"] = result.mm
    if result.ml_mm is not None:
        found["correction"] = (
            result.legs[WATER_CORRECTION].estimate - result.legs[VACUUM_CORRECTION].estimate
        )
    if result.reference is not None:
        found["FreeSolv, calculated with GAFF"] = result.reference.calculated
        found["FreeSolv, experiment"] = result.reference.experiment
    return found


def _write(config: HydrationConfig, result: HydrationResult) -> None:
    content = {
        "name": config.name,
        **result.verdict.to_json(),
        "estimates": {name: estimate_json(e) for name, e in estimates(result).items()},
        "legs": {name: leg.to_json() for name, leg in result.legs.items()},
    }
    write_atomically(config.output / RESULT_NAME, json.dumps(content, indent=1).encode())
    write_report(
        config.output,
        f"{config.name}: hydration free energy",
        estimates(result),
        list(result.legs.values()),
        result.verdict,
        ["Transfer from the gas phase at 1 mol/L to water at 1 mol/L."],
    )
