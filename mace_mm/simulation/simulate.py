"""A ligand in vacuum or in its box under a MACE model: the main job, in one call."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import unit
from openmmml import MLPotential

from mace_mm.archive.archive import Archive
from mace_mm.archive.open_model import open_potential
from mace_mm.errors import GeometryError, RunStoppedError
from mace_mm.evaluate.domain.force_uncertainty import (
    MOST_ATOMS,
    ForceUncertainty,
    bundled_uncertainty,
)
from mace_mm.evaluate.domain.limits import geometry_problems
from mace_mm.files.atomic_write import write_atomically
from mace_mm.openmm.topology_identity import topology_identity
from mace_mm.simulation.ligand import Ligand
from mace_mm.simulation.run.dynamics import dynamics_result, what_is_left
from mace_mm.simulation.run.loop import EVENT_NAME
from mace_mm.simulation.run.progress import Progress
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.run.summary import SUMMARY_NAME, RunSummary, read_summary
from mace_mm.simulation.watch.findings import Findings
from mace_mm.simulation.watch.recorded_warnings import RecordedWarnings
from mace_mm.simulation.watch.settings import WatchSettings
from mace_mm.simulation.watch.thermal import ThermalWatch
from mace_mm.simulation.watch.timestep import TimestepLimit, timestep_limit
from mace_mm.simulation.watch.watch import ForceErrorWatch, RunWatch
from mace_mm.units import NM_TO_ANGSTROM

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model computes the forces, and how.

    Attributes:
        path: an archive, a published .model file or the name of a bundled model, None for `small`.
        precision: "single" or "double".
        backend: "auto", "torchforce", "pythontorchforce" or "pythonforce".
        device: of the model, such as "cpu" or "cuda"; None chooses.
        uncertainty: a file of `mace-mm uncertainty` made for it, so that expected force errors are
            watched; None for that of a bundled model.
        allow_unknown_charge: for research: a total charge that the model was not trained for.
    """

    path: Path | None = None
    precision: str = "single"
    backend: str = "auto"
    device: str | None = None
    uncertainty: Path | None = None
    allow_unknown_charge: bool = False


def simulate(
    ligand: Ligand,
    folder: Path,
    settings: RunSettings,
    model: ModelChoice | None = None,
    *,
    watch: WatchSettings | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunSummary:
    """Simulate a ligand with ``MLPotential('mace')`` and write the run into a folder.

    Args:
        ligand: the atoms and where they start.
        folder: receives the files of `run_dynamics` and ``run.json``.
        settings: the protocol.
        model: which model; the bundled one if not given.
        watch: what to do when the molecule changes; by default the run ends when it is destroyed.
        resume: continue the run in the folder.
        on_progress, should_stop: see `run_dynamics`.

    Raises:
        RunStoppedError: the watch ended the run; ``run.json`` is written.
        GeometryError: the energy or the positions stopped being finite; ``run.json`` is written
            unless that happened in the minimization.
        MaceMMError: see `open_potential`, `MacePotentialImpl.addForces` and `run_dynamics`.
    """
    model, watch = model or ModelChoice(), watch or WatchSettings()
    with RecordedWarnings() as recorded:
        archive = open_potential(model.path)
        system = _system(ligand, archive, model)
        limit = timestep_limit(system, ligand.topology)
        problem = limit.problem(settings.timestep_fs)
        if problem is not None:
            _log.warning("%s", problem)
    looking = None
    if watch.watch != "off":
        looking = _watch(ligand, archive, model, system, settings, watch)
    earlier = _earlier_stops(folder) if resume else ()
    result = dynamics_result(
        system,
        ligand.topology,
        ligand.positions_nm,
        folder,
        settings,
        identity=_identity(ligand, archive, model),
        watch=looking,
        resume=resume,
        attempt=len(earlier),
        on_progress=on_progress,
        should_stop=should_stop,
    )
    summary = RunSummary(
        ligand=ligand.name,
        smiles=ligand.smiles,
        n_atoms=ligand.n_atoms,
        model=archive.metadata.name,
        level_of_theory=archive.metadata.level_of_theory,
        model_sha256=archive.sha256,
        precision=model.precision,
        force=_model_force(system),
        settings=settings,
        result=result,
        watch=watch,
        warnings=(*ligand.warnings, *recorded.texts),
        earlier_stops=earlier,
        seen=None if looking is None else looking.to_json(),
        watched="" if looking is None else looking.identity.in_words(),
        smiles_atoms=ligand.smiles_atoms,
    )
    write_atomically(folder / SUMMARY_NAME, json.dumps(summary.to_json(), indent=1).encode())
    if result.stopped_by is not None:
        kind = RunStoppedError if result.finite else GeometryError
        raise kind(_sentence(summary, folder, limit))
    return summary


def _system(ligand: Ligand, archive: Archive, model: ModelChoice) -> openmm.System:
    """The System of a ligand; what the model was not trained for is warned of."""
    numbers = [atom.element.atomic_number for atom in ligand.topology.atoms()]
    box = ligand.topology.getPeriodicBoxVectors()
    cell = None if box is None else np.array(box.value_in_unit(unit.angstrom))
    options: dict[str, object] = {"precision": model.precision, "backend": model.backend}
    options["allow_unknown_charge"] = model.allow_unknown_charge
    if model.device is not None:
        options["device"] = model.device
    # The formal charges of a SMILES or an SD file stand in the topology.
    system = MLPotential("mace", modelPath=model.path).createSystem(ligand.topology, **options)
    for atom, mass in ligand.isotope_masses.items():
        system.setParticleMass(atom, mass)
    for problem in geometry_problems(archive, numbers, ligand.positions_nm * NM_TO_ANGSTROM, cell):
        _log.warning("outside what the model was trained for: %s", problem)
    return system


def _identity(ligand: Ligand, archive: Archive, model: ModelChoice) -> dict[str, str]:
    """What a continued run must share with its beginning."""
    identity = {"model": archive.sha256, "precision": model.precision}
    if ligand.isotope_masses:
        identity["isotopes"] = json.dumps(dict(ligand.isotope_masses))
    return identity


def _watch(
    ligand: Ligand,
    archive: Archive,
    model: ModelChoice,
    system: openmm.System,
    settings: RunSettings,
    watch: WatchSettings,
) -> RunWatch:
    """What looks at the run: the molecule, temperatures, and expected force errors if known."""
    numbers = [atom.element.atomic_number for atom in ligand.topology.atoms()]
    box = ligand.topology.getPeriodicBoxVectors()
    given = model.uncertainty if model.uncertainty is not None else bundled_uncertainty(archive)
    force_error = None
    if given is not None and len(numbers) <= MOST_ATOMS:
        estimate = ForceUncertainty(archive, given)
        force_error = ForceErrorWatch(estimate, range(len(numbers)), numbers)
    return RunWatch(
        identity=topology_identity(
            ligand.topology,
            ligand.positions_nm,
            None if box is None else np.array(box.value_in_unit(unit.nanometer)),
            molecule=ligand.molecule,
        ),
        settings=watch,
        thermal=ThermalWatch(system, numbers, settings.temperature_k, settings.friction_per_ps),
        force_error=force_error,
        findings=Findings(),
    )


def _earlier_stops(folder: Path) -> tuple[str, ...]:
    """What ended the run in a folder before it is resumed."""
    if not (folder / SUMMARY_NAME).exists():
        return ()
    before = read_summary(folder)
    own = before.result.stopped_by
    return before.earlier_stops + (() if own is None else (own,))


def _sentence(summary: RunSummary, folder: Path, limit: TimestepLimit) -> str:
    """What happened, what to do, and what is left of a run that ended by itself."""
    result, step_fs = summary.result, summary.settings.timestep_fs
    if limit.problem(step_fs) is not None:
        advice = f"take a time step of at most {limit.timestep_fs:.2g} fs, it was {step_fs:g} fs"
    elif result.step == 0:
        advice = (
            "the start is not the molecule that its bonds describe: check the order of the atoms, "
            "and that none lie on top of each other"
        )
    elif result.finite:
        advice = f"look at {folder / EVENT_NAME}; if such a change is wanted, let the watch flag it"
    else:
        advice = "start from a relaxed structure or take a shorter time step"
    return (
        f"the run of {summary.ligand} ended {result.stopped_by}; {advice}; "
        f"{what_is_left(result, folder)}"
    )


def _model_force(system: openmm.System) -> str:
    """The kind of Force that holds the model; OpenMM does not know the classes of plugins."""
    forces = [f for f in system.getForces() if not isinstance(f, openmm.CMMotionRemover)]
    return "PythonForce" if isinstance(forces[0], openmm.PythonForce) else "TorchForce"
