"""``mace-mm correct``: the free energy of going from a force field to ML/MM for one molecule."""

import json
import logging
from pathlib import Path

from mace_mm.errors import InputError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.analysis.report import write_report
from mace_mm.free_energy.config import CorrectionConfig, InputFiles, Potential, Solvent
from mace_mm.free_energy.jobs.run_leg import run_leg
from mace_mm.free_energy.leg_result import LegResult, LegStoppedError
from mace_mm.free_energy.legs.end_state import (
    INTERPOLATION_PARAMETER,
    check_charge,
    end_state_leg,
)
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.schedule import even_lambdas, linear_schedule
from mace_mm.free_energy.protocol import OnStage, Protocol
from mace_mm.free_energy.systems.hydrogen_mass import repartition
from mace_mm.free_energy.systems.inputs import MMSystem, load_system
from mace_mm.free_energy.systems.solvate import solvate

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.json"


def correction_protocol(config: CorrectionConfig) -> Protocol:
    """The part of the configuration that sampling needs."""
    return Protocol(
        windows=config.windows,
        switching=config.switching,
        dynamics=config.dynamics,
        execution=config.execution,
        limits=config.limits,
    )


def place_in_environment(
    files: InputFiles,
    environment: str,
    solvent: Solvent,
    hydrogen_mass_amu: float | None = None,
    potential: Potential | None = None,
) -> MMSystem:
    """Read a system and bring it into vacuum or water.

    Args:
        files: what to read.
        environment: "vacuum", "water" or "as_given".
        solvent: the box of water.
        hydrogen_mass_amu: of the ligand's hydrogens, None to leave them.
        potential: what will compute the ligand, None for the force field.

    Raises:
        InputError: surroundings that do not fit the files.
        ChargeError: a charge of the ligand that the potential was not trained for.
    """
    mm = load_system(files, solvent.cutoff_nm)
    if potential is not None:
        check_charge(mm, potential)
    if hydrogen_mass_amu is not None:
        repartition(mm.topology, mm.system, mm.ligand, hydrogen_mass_amu)
    if environment == "as_given":
        return mm
    if not mm.is_alone or mm.box_nm is not None:
        raise InputError(
            f"environment {environment!r} wants files of the molecule alone, without a box; got "
            f"{mm.system.getNumParticles()} atoms, {len(mm.ligand)} of them the molecule: use "
            "environment: as_given"
        )
    return solvate(mm, solvent) if environment == "water" else mm


def correction_leg(config: CorrectionConfig) -> Leg:
    """The leg λ = 0 (force field) to λ = 1 (ML/MM) that a configuration describes."""
    mm = place_in_environment(
        config.input,
        config.environment,
        config.solvent,
        config.dynamics.hydrogen_mass_amu,
        config.potential,
    )
    lambdas = even_lambdas(2) if config.windows is None else config.windows.lambdas
    return end_state_leg(
        config.name,
        mm,
        config.potential,
        linear_schedule(lambdas, INTERPOLATION_PARAMETER),
        config.conditions,
        starts=config.starts,
        watch=config.watch,
    )


def run_correction(config: CorrectionConfig, on_stage: OnStage | None = None) -> LegResult | None:
    """Run or continue a correction, and write its report.

    Returns:
        The result, None on MPI ranks other than the first.

    Raises:
        LegStoppedError: the molecule was destroyed; result and report of what was sampled before
            are written.
    """
    leg = correction_leg(config)
    try:
        result = run_leg(leg, config.output, correction_protocol(config), on_stage)
    except LegStoppedError as error:
        _write(config, error.results[leg.name])
        raise
    if result is not None:
        _write(config, result)
    return result


def _write(config: CorrectionConfig, result: LegResult) -> None:
    estimates = {"F(ML/MM) − F(force field)": result.estimate} if result.has_estimate else {}
    write_config(config.output, config.model_dump_json())
    write_report(
        config.output,
        f"{config.name}: correction from the force field to {config.potential.name}",
        estimates,
        [result],
        result.verdict,
        [
            "The number holds the difference of the two energy scales and means something only "
            "relative to the same molecule elsewhere: in vacuum, in water, in a protein."
        ],
    )


def write_config(folder: Path, content: str) -> None:
    """Keep the settings beside the results."""
    write_atomically(folder / CONFIG_NAME, json.dumps(json.loads(content), indent=1).encode())
