"""Decoupling a molecule inside a pure MACE system: a research option, without any force field."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit

from mace_mm.archive.archive import Archive
from mace_mm.archive.open_model import model_path, open_potential
from mace_mm.elements import species_index
from mace_mm.errors import ConfigError, InputError
from mace_mm.evaluate.compile import compile_module, run_compiled
from mace_mm.evaluate.domain.force_uncertainty import MOST_ATOMS
from mace_mm.free_energy.config import Conditions
from mace_mm.free_energy.legs.direct_network import DecoupledModule
from mace_mm.free_energy.legs.leg import Leg, fingerprint
from mace_mm.free_energy.legs.schedule import coupling_schedule
from mace_mm.free_energy.sampling.follow import observers_of
from mace_mm.free_energy.sampling.molecule_observer import known_force_errors
from mace_mm.free_energy.sampling.observers import Observer
from mace_mm.free_energy.settings import Watch
from mace_mm.ml_mm.region_charge import region_problems
from mace_mm.ml_mm.region_parts import MLAtoms
from mace_mm.openmm.force import PythonComputation
from mace_mm.openmm.molecules import keep_molecules, topology_bonds
from mace_mm.simulation.watch.timestep import timestep_limit

logger = logging.getLogger(__name__)

COUPLING_PARAMETER = "lambda_coupling"
_DEFAULT_WATCH = Watch()
DEFAULT_COUPLINGS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
DEFAULT_SOFTNESS = 2.0
_SKIN = 1.0
_PRECISIONS = {"single": torch.float32, "double": torch.float64}


class CoupledComputation(PythonComputation):
    """What OpenMM calls: the module at the context's coupling parameter."""

    def evaluate(
        self, state: openmm.State, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energy in kJ/mol and forces (n_atoms, 3) in kJ/mol/nm."""
        box = None
        if self._periodic:
            box = torch.from_numpy(state.getPeriodicBoxVectors(asNumpy=True)._value)
        coupling = float(state.getParameters()[COUPLING_PARAMETER])
        with self._lock:
            return run_compiled(self._module, positions, box, coupling)


def decoupled_force(
    topology: app.Topology,
    solute: Sequence[int],
    *,
    model: Path | None = None,
    precision: str = "single",
    softness: float = DEFAULT_SOFTNESS,
    periodic: bool,
) -> openmm.Force:
    """A force on all atoms in which λ couples a solute to the rest.

    Args:
        topology: of all atoms, with elements.
        solute: indices of the atoms that are decoupled.
        model: an archive or `.model`, None for the bundled one.
        precision: "single" or "double", of the network.
        softness: the soft core's length, Å.
        periodic: whether the system is.

    Raises:
        InputError: atoms without elements, or a solute that is not a part of the system.
        ElementError: an element the model does not know.
        ConfigError: another precision, a softness that is not positive.
    """
    if precision not in _PRECISIONS:
        raise ConfigError(f"precision must be 'single' or 'double', got {precision!r}")
    if not softness > 0.0:
        raise ConfigError(f"the soft core's length must be above 0 Å, got {softness}")
    n_atoms = topology.getNumAtoms()
    inside = sorted(set(solute))
    if not inside or inside[0] < 0 or inside[-1] >= n_atoms or len(inside) == n_atoms:
        raise InputError(
            f"the solute must be some of the {n_atoms} atoms, and not all, got {len(inside)} "
            f"indices from {inside[:1]} to {inside[-1:]}"
        )
    elements = [atom.element for atom in topology.atoms()]
    if None in elements:
        raise InputError(f"atom {elements.index(None)} of the topology has no element")
    archive = open_potential(model)
    numbers = [element.atomic_number for element in elements]
    mask = torch.zeros(n_atoms, dtype=torch.bool)
    mask[inside] = True
    module = DecoupledModule(
        copy.deepcopy(archive.potential).to(_PRECISIONS[precision]),
        torch.tensor(species_index(numbers, archive.config.atomic_numbers)),
        mask,
        periodic,
        softness,
        _SKIN,
    )
    computation = CoupledComputation(compile_module(module), periodic, "cpu")
    force = openmm.PythonForce(computation, {COUPLING_PARAMETER: 1.0})
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setName("MACE with a soft core")
    return force


def _charge_problems(
    topology: app.Topology,
    solute: Sequence[int],
    archive: Archive,
    force_field: openmm.System | None,
    allow_unknown_charge: bool,
) -> list[str]:
    """What the model was not trained for, in all atoms and in the solute, which ends up alone."""
    elements = [atom.element for atom in topology.atoms()]
    problems: list[str] = []
    for particles in (range(len(elements)), sorted(solute)):
        atoms = MLAtoms(
            topology=topology,
            particles=particles,
            atomic_numbers=[elements[i].atomic_number for i in particles],
            force_field=force_field,
        )
        found = region_problems(archive, atoms, allow_unknown_charge=allow_unknown_charge)
        problems += [problem for problem in found if problem not in problems]
    for problem in problems:
        logger.warning("outside what the model was trained for: %s", problem)
    return problems


def _observers(
    topology: app.Topology,
    positions_nm: np.ndarray,
    box_nm: np.ndarray | None,
    system: openmm.System,
    conditions: Conditions,
    model: Path | None,
    watch: Watch,
) -> tuple[Observer, ...]:
    """All molecules are the model's here, the solvent's too, and all are watched."""
    force_errors = None
    if watch.action != "off" and topology.getNumAtoms() <= MOST_ATOMS:
        force_errors = known_force_errors(model, watch.uncertainty, watch.force_errors)
    return observers_of(
        topology,
        range(topology.getNumAtoms()),
        positions_nm,
        system,
        conditions.temperature_k,
        watch,
        box_nm=box_nm,
        force_errors=force_errors,
    )


def direct_leg(
    name: str,
    topology: app.Topology,
    positions_nm: np.ndarray,
    box_nm: np.ndarray | None,
    solute: Sequence[int],
    conditions: Conditions,
    *,
    model: Path | None = None,
    couplings: Sequence[float] = DEFAULT_COUPLINGS,
    precision: str = "single",
    softness: float = DEFAULT_SOFTNESS,
    force_field: openmm.System | None = None,
    allow_unknown_charge: bool = False,
    watch: Watch = _DEFAULT_WATCH,
) -> Leg:
    """From a coupled to a decoupled solute; the solute keeps its inner energy.

    The hydration free energy is minus the free energy of this leg: the decoupled solute is in the
    gas phase, no second leg is needed. All atoms move freely, so that steps must be short.

    Args:
        name: of the leg.
        topology: of all atoms, with elements.
        positions_nm: (n_atoms, 3) start positions.
        box_nm: (3, 3) rows, None for a cluster.
        solute: indices of the atoms that are decoupled.
        conditions: the temperature.
        model, precision, softness: see :func:`decoupled_force`.
        couplings: λ of the states, from 1 to 0.
        force_field: a System that describes the same atoms, for their charges; formal charges of
            the topology are used as well.
        allow_unknown_charge: for research: warn of a total charge, of all atoms or of the solute,
            that the model was not trained for.
        watch: what is done when a molecule is destroyed.

    Raises:
        ConfigError: couplings that do not run from 1 to 0.
        InputError: see :func:`decoupled_force`.
        ChargeError: a charge that the model was not trained for.
    """
    periodic = box_nm is not None
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(0.0 if atom.element is None else atom.element.mass)
    if box_nm is not None:
        system.setDefaultPeriodicBoxVectors(*(box_nm * unit.nanometer))
    system.addForce(
        decoupled_force(
            topology, solute, model=model, precision=precision, softness=softness, periodic=periodic
        )
    )
    keep_molecules(system, topology_bonds(topology, range(topology.getNumAtoms())))
    warnings = _charge_problems(
        topology, solute, open_potential(model), force_field, allow_unknown_charge
    )
    # openmmtools finds parameters in forces that count them, which a PythonForce does not.
    declaration = openmm.CustomBondForce(f"0*{COUPLING_PARAMETER}")
    declaration.addGlobalParameter(COUPLING_PARAMETER, 1.0)
    system.addForce(declaration)
    return Leg(
        name=name,
        system=system,
        positions_nm=positions_nm,
        box_nm=box_nm,
        schedule=coupling_schedule(couplings, COUPLING_PARAMETER),
        temperature_k=conditions.temperature_k,
        # Every pressure move costs two evaluations of the network and gains little in water.
        pressure_bar=None,
        origin=fingerprint(model_path(model), f"{precision} {softness} {sorted(solute)}"),
        observers=_observers(topology, positions_nm, box_nm, system, conditions, model, watch),
        warnings=tuple(warnings),
        timestep_limit=timestep_limit(system, topology),
    )
