"""A ligand in vacuum or in its box under a MACE model: the main job, in one call."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import unit
from openmmml import MLPotential

from mace_mm.deploy.atomic_write import write_atomically
from mace_mm.deploy.open_model import open_potential
from mace_mm.errors import ConfigError, DataError
from mace_mm.simulation.domain import geometry_problems
from mace_mm.simulation.ligand import Ligand
from mace_mm.simulation.run import RunResult, run_dynamics
from mace_mm.simulation.run_progress import Progress
from mace_mm.simulation.run_settings import RunSettings
from mace_mm.units import NM_TO_ANGSTROM

_log = logging.getLogger(__name__)

SUMMARY_NAME = "run.json"


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model computes the forces, and how.

    Attributes:
        path: an archive, a published .model file or the name of a bundled model, None for `small`.
        precision: "single" or "double".
        backend: "auto", "torchforce", "pythontorchforce" or "pythonforce".
        device: of the model, such as "cpu" or "cuda"; None chooses.
    """

    path: Path | None = None
    precision: str = "single"
    backend: str = "auto"
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What ran and how it ended, kept as ``run.json`` beside the trajectory.

    Attributes:
        ligand: name of the ligand.
        smiles: its SMILES, None where unknown.
        n_atoms: number of atoms.
        model: name of the model.
        level_of_theory: of the model's training labels.
        model_sha256: hash of the model.
        precision: of the model.
        force: kind of the OpenMM Force that evaluates it.
        settings: the RunSettings.
        result: the RunResult.
    """

    ligand: str
    smiles: str | None
    n_atoms: int
    model: str
    level_of_theory: str
    model_sha256: str
    precision: str
    force: str
    settings: RunSettings
    result: RunResult


def simulate(
    ligand: Ligand,
    folder: Path,
    settings: RunSettings,
    model: ModelChoice | None = None,
    *,
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
        resume: continue the run in the folder.
        on_progress, should_stop: see `run_dynamics`.

    Raises:
        MaceMMError: see `open_potential`, `MacePotentialImpl.addForces` and `run_dynamics`.
    """
    model = model or ModelChoice()
    archive = open_potential(model.path)
    numbers = [atom.element.atomic_number for atom in ligand.topology.atoms()]
    box = ligand.topology.getPeriodicBoxVectors()
    cell = None if box is None else np.array(box.value_in_unit(unit.angstrom))
    for problem in geometry_problems(archive, numbers, ligand.positions_nm * NM_TO_ANGSTROM, cell):
        _log.warning("outside what the model was trained for: %s", problem)
    potential = MLPotential("mace", modelPath=model.path)
    options: dict[str, object] = {"precision": model.precision, "backend": model.backend}
    if model.device is not None:
        options["device"] = model.device
    if ligand.total_charge is not None:
        options["charge"] = ligand.total_charge
    system = potential.createSystem(ligand.topology, **options)
    result = run_dynamics(
        system,
        ligand.topology,
        ligand.positions_nm,
        folder,
        settings,
        identity={"model": archive.sha256, "precision": model.precision},
        resume=resume,
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
    )
    write_atomically(folder / SUMMARY_NAME, json.dumps(asdict(summary), indent=1).encode())
    return summary


def _model_force(system: openmm.System) -> str:
    """The kind of Force that holds the model; OpenMM does not know the classes of plugins."""
    forces = [f for f in system.getForces() if not isinstance(f, openmm.CMMotionRemover)]
    return "PythonForce" if isinstance(forces[0], openmm.PythonForce) else "TorchForce"


def read_summary(folder: Path) -> RunSummary:
    """Read the ``run.json`` of a run.

    Raises:
        DataError: missing or damaged.
    """
    path = folder / SUMMARY_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = RunSettings(**content.pop("settings"))
        return RunSummary(settings=settings, result=RunResult(**content.pop("result")), **content)
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no finished or stopped run: no {SUMMARY_NAME}") from error
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
