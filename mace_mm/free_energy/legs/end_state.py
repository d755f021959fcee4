"""The leg from a force field to the ML potential for one molecule, in any surroundings."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openmm
from openmmml import MLPotential

from mace_mm.archive.open_model import model_path, open_model
from mace_mm.errors import ConfigError, InputError, MaceMMError
from mace_mm.evaluate.domain.limits import geometry_problems
from mace_mm.free_energy.config import Conditions, Potential
from mace_mm.free_energy.conformers.isolated import add_implicit_water, isolate
from mace_mm.free_energy.conformers.leg import conformers_of
from mace_mm.free_energy.conformers.search import End
from mace_mm.free_energy.legs.leg import GAS_CONSTANT_KJ_MOL_K, Leg, fingerprint
from mace_mm.free_energy.legs.schedule import Schedule
from mace_mm.free_energy.sampling.follow import observers_of
from mace_mm.free_energy.sampling.molecule_observer import ForceErrors, known_force_errors
from mace_mm.free_energy.settings import Starts, Watch
from mace_mm.free_energy.systems.inputs import MMSystem
from mace_mm.ml_mm.plugin import MaceEmbeddingFactory
from mace_mm.ml_mm.potential import MacePotentialImpl
from mace_mm.simulation.watch.timestep import timestep_limit
from mace_mm.units import NM_TO_ANGSTROM

logger = logging.getLogger(__name__)

INTERPOLATION_PARAMETER = "lambda_interpolate"
_DEFAULT_STARTS = Starts()
_DEFAULT_WATCH = Watch()


def end_state_leg(
    name: str,
    mm: MMSystem,
    potential: Potential,
    schedule: Schedule,
    conditions: Conditions,
    further: Sequence[openmm.Force] = (),
    starts: Starts = _DEFAULT_STARTS,
    watch: Watch = _DEFAULT_WATCH,
) -> Leg:
    """E(λ) = (1 - λ) E_MM + λ E_ML/MM, through OpenMM-ML's mechanical embedding.

    The ligand's interactions with its surroundings are the force field's at both ends; inside it
    the force field is replaced. ``further`` forces, such as a restraint, act in every state.
    ``starts`` says which conformers it starts from, ``watch`` what is done when it is destroyed.

    Raises:
        ConfigError: a potential that OpenMM-ML does not know.
        InputError: a system that it cannot mix, a molecule that the model cannot evaluate.
        ChargeError: a charge of the ligand that the model was not trained for.
    """
    implementation = _implementation(potential)
    info = _mixed(implementation, name, mm, potential, interpolate=True)
    system = info["system"]
    for force in further:
        system.addForce(openmm.XmlSerializer.clone(force))
    periodic = mm.box_nm is not None
    conformers = conformers_of(
        mm,
        lambda: _ends(implementation, name, mm, potential),
        starts,
        GAS_CONSTANT_KJ_MOL_K * conditions.temperature_k,
    )
    return Leg(
        name=name,
        system=system,
        positions_nm=mm.positions_nm,
        box_nm=mm.box_nm,
        schedule=schedule,
        temperature_k=conditions.temperature_k,
        pressure_bar=conditions.pressure_bar if periodic else None,
        origin=fingerprint(mm.system, _energies(potential), *_weights(potential), *further),
        observers=observers_of(
            mm.topology,
            mm.ligand,
            mm.positions_nm,
            system,
            conditions.temperature_k,
            watch,
            box_nm=mm.box_nm,
            conformers=conformers,
            force_errors=_force_errors(implementation, potential, watch),
        ),
        warnings=(*info.get("warnings", ()), *_geometry_problems(implementation, mm)),
        timestep_limit=timestep_limit(system, mm.topology),
        conformers=conformers,
    )


def check_charge(mm: MMSystem, potential: Potential) -> None:
    """Refuse a ligand whose charge the model was not trained for, before anything is built.

    Raises:
        ChargeError: such a charge.
        ConfigError, ElementError: see :func:`end_state_leg`.
    """
    implementation = _implementation(potential)._impl
    if isinstance(implementation, MacePotentialImpl):
        known = ("charge", "multiplicity", "allow_unknown_charge")
        options = {name: value for name, value in _options(potential).items() if name in known}
        implementation.check_charge(mm.topology, mm.system, mm.ligand, **options)


def _force_errors(
    implementation: MLPotential, potential: Potential, watch: Watch
) -> ForceErrors | None:
    """Where the model's expected force errors come from."""
    if watch.action == "off" or not isinstance(implementation._impl, MacePotentialImpl):
        return None
    return known_force_errors(potential.model, watch.uncertainty, watch.force_errors)


def _geometry_problems(implementation: MLPotential, mm: MMSystem) -> list[str]:
    """What in the start geometry of the ligand the model was not trained for."""
    if not isinstance(implementation._impl, MacePotentialImpl):
        return []
    elements = [atom.element for atom in mm.topology.atoms()]
    numbers = [elements[k].atomic_number for k in mm.ligand]
    positions = mm.positions_nm[list(mm.ligand)] * NM_TO_ANGSTROM
    cell = None if mm.box_nm is None else mm.box_nm * NM_TO_ANGSTROM
    problems = geometry_problems(
        open_model(implementation._impl.model_path), numbers, positions, cell
    )
    for problem in problems:
        logger.warning("outside what the model was trained for: %s", problem)
    return problems


def _implementation(potential: Potential) -> MLPotential:
    # Registered by entry points where the package is installed; from its source folder, here.
    MaceEmbeddingFactory()
    arguments = {} if potential.model is None else {"modelPath": potential.model}
    try:
        return MLPotential(potential.name, **arguments)
    except KeyError as error:
        raise ConfigError(f"OpenMM-ML knows no potential named {potential.name!r}") from error


def _mixed(
    implementation: MLPotential,
    name: str,
    mm: MMSystem,
    potential: Potential,
    *,
    interpolate: bool,
) -> dict[str, Any]:
    """What createMixedSystem tells: the system and its warnings."""
    try:
        info: dict[str, Any] = implementation.createMixedSystem(
            mm.topology,
            mm.system,
            list(mm.ligand),
            interpolate=interpolate,
            returnInfo=True,
            **_options(potential),
        )
    except MaceMMError:
        raise
    except (ValueError, TypeError, openmm.OpenMMException) as error:
        raise InputError(f"OpenMM-ML cannot mix {potential.name} into {name}: {error}") from error
    return info


def _ends(
    implementation: MLPotential, name: str, mm: MMSystem, potential: Potential
) -> tuple[End, ...]:
    """Both ends for the ligand alone, in a continuum where it is surrounded."""
    alone = isolate(mm)
    mixed = _mixed(implementation, name, alone, potential, interpolate=False)
    systems = {"the force field": alone.system, potential.name: mixed["system"]}
    if mm.box_nm is not None:
        for system in systems.values():
            add_implicit_water(alone, system)
    return tuple(End(name=end, system=system) for end, system in systems.items())


def _options(potential: Potential) -> dict[str, Any]:
    """Arguments of ``createMixedSystem``."""
    allowed = {"allow_unknown_charge": True} if potential.allow_unknown_charge else {}
    return {**potential.options, **allowed}


def _energies(potential: Potential) -> str:
    """The settings that energies depend on."""
    return potential.model_dump_json(exclude={"allow_unknown_charge"})


def _weights(potential: Potential) -> list[Path]:
    """The file that holds the model, where there is one: another one in its place is noticed."""
    if potential.name == "mace":
        return [model_path(potential.model)]
    given = Path(potential.model or "")
    return [given] if given.is_file() else []
