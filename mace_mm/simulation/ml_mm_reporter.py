"""Watch an ML region during a run: its energy, the model's uncertainty, its bonds."""

import itertools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app

from mace_mm.elements import covalent_radius
from mace_mm.errors import ConfigError, InputError, RunStoppedError
from mace_mm.simulation.interpolation import PARAMETER
from mace_mm.simulation.openmm_copy import copy_force
from mace_mm.units import NM_TO_ANGSTROM

# A bond is broken beyond, and made within, this times the sum of the covalent radii.
BROKEN = 1.5
MADE = 1.15
ACTIONS = ("flag", "stop")
_COLUMNS = "step,time_ps,ml_energy_kj_mol,uncertainty,changed_bonds"

_log = logging.getLogger(__name__)

# From atomic numbers (n_atoms,), positions (n_atoms, 3) Å and box vectors (3, 3) Å or None to one
# number for every atom; the largest counts.
Uncertainty = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


class RegionReporter:
    """An OpenMM reporter that writes a CSV line about an ML region and acts when it changes.

    The energy is that of the model at full strength, whatever the interpolation is at.

    Attributes:
        flagged: what was noticed, in order: (step, message).
    """

    def __init__(
        self,
        path: str | Path,
        interval: int,
        topology: app.Topology,
        atoms: Iterable[int],
        *,
        force_name: str = "MACE",
        uncertainty: Uncertainty | None = None,
        uncertainty_limit: float | None = None,
        on_change: str = "flag",
        append: bool = False,
    ) -> None:
        """
        Args:
            path: of the CSV file.
            interval: steps between two lines.
            topology: with the bonds of the region.
            atoms: particle indices of the region, link atoms included if their uncertainty counts.
            force_name: of the ML forces in the System.
            uncertainty: of the model, by atom, for example a
                :class:`mace_mm.simulation.force_uncertainty.ForceUncertainty`.
            uncertainty_limit: beyond it the action is taken; in the unit of `uncertainty`.
            on_change: what to do when a bond of the region breaks or forms, or the uncertainty
                passes its limit: "flag" logs a warning, "stop" also raises.
            append: go on with an existing file.

        Raises:
            ConfigError: an action that is neither, a limit without an uncertainty, an interval
                below 1.
            InputError: an atom without an element, or that the topology does not have.
        """
        if on_change not in ACTIONS:
            raise ConfigError(f"on_change must be one of {ACTIONS}, got {on_change!r}")
        if interval < 1:
            raise ConfigError(f"the interval must be at least 1 step, got {interval}")
        if uncertainty_limit is not None and uncertainty is None:
            raise ConfigError("an uncertainty_limit needs a function for the uncertainty")
        self.flagged: list[tuple[int, str]] = []
        self._interval = interval
        self._atoms = np.array(list(atoms))
        self._force_name = force_name
        self._uncertainty = uncertainty
        self._limit = uncertainty_limit
        self._stops = on_change == "stop"
        self._context: openmm.Context | None = None
        self._known: set[str] = set()
        self._names = [f"{a.name}{a.index}" for a in topology.atoms()]
        self._set_bonds(topology)
        self._path = Path(path)
        if not append or not self._path.exists():
            self._path.write_text(_COLUMNS + "\n")

    def _set_bonds(self, topology: app.Topology) -> None:
        members = set(self._atoms.tolist())
        numbers = {a.index: a.element.atomic_number for a in topology.atoms() if a.element}
        missing = sorted(members - set(numbers))
        if missing:
            raise InputError(f"every atom of an ML region needs an element; without: {missing}")
        self._numbers = np.array([numbers[i] for i in self._atoms.tolist()])
        bonded = {
            tuple(sorted((b.atom1.index, b.atom2.index)))
            for b in topology.bonds()
            if b.atom1.index in members and b.atom2.index in members
        }
        pairs = list(itertools.combinations(sorted(members), 2))
        self._pairs = np.array(pairs).reshape(-1, 2)
        self._is_bonded = np.array([pair in bonded for pair in pairs], dtype=bool)
        self._lengths = np.array(
            [covalent_radius(numbers[i]) + covalent_radius(numbers[j]) for i, j in pairs]
        )

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:  # noqa: N802
        """OpenMM asks when to report next, and what is needed."""
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": False, "include": ["positions"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write a line, and act.

        Raises:
            RunStoppedError: with `on_change="stop"`, when there is a reason.
        """
        positions = state.getPositions(asNumpy=True)._value * NM_TO_ANGSTROM
        box = None
        if simulation.system.usesPeriodicBoundaryConditions():
            box = state.getPeriodicBoxVectors(asNumpy=True)._value * NM_TO_ANGSTROM
        energy = self._ml_energy(simulation, state)
        changes = self._changes(positions, box)
        uncertain: float | None = None
        if self._uncertainty is not None:
            inside = positions[self._atoms]
            uncertain = float(np.max(self._uncertainty(self._numbers, inside, box)))
        step = simulation.currentStep
        shown = "" if uncertain is None else f"{uncertain:.6g}"
        line = f"{step},{state.getTime()._value:.6g},{energy:.6f},{shown},{' '.join(changes)}\n"
        with self._path.open("a") as file:
            file.write(line)
        reasons = [f"bond {change}" for change in changes]
        if self._limit is not None and uncertain is not None and not uncertain <= self._limit:
            reasons.append(f"uncertainty {uncertain:.4g} above {self._limit:.4g}")
        self._act(step, reasons)

    def _act(self, step: int, reasons: list[str]) -> None:
        new = [reason for reason in reasons if reason.split(" above")[0] not in self._known]
        self._known.update(new)
        for reason in new:
            self.flagged.append((step, reason))
            _log.warning("step %d: ML region: %s", step, reason)
        if reasons and self._stops:
            raise RunStoppedError(f"step {step}: the ML region changed: {'; '.join(reasons)}")

    def _changes(self, positions: np.ndarray, box: np.ndarray | None) -> list[str]:
        """Names of bonds that broke ("-C1-H5") and formed ("+O2-H5")."""
        vectors = positions[self._pairs[:, 1]] - positions[self._pairs[:, 0]]
        if box is not None:
            for i in (2, 1, 0):
                vectors -= np.round(vectors[:, i] / box[i, i])[:, None] * box[i]
        ratio = np.linalg.norm(vectors, axis=1) / self._lengths
        found = []
        # Written so that a distance that is not a number counts as broken.
        for sign, mask in (
            ("-", self._is_bonded & ~(ratio <= BROKEN)),
            ("+", ~self._is_bonded & (ratio < MADE)),
        ):
            for i, j in self._pairs[mask]:
                found.append(f"{sign}{self._names[i]}-{self._names[j]}")
        return found

    def _ml_energy(self, simulation: app.Simulation, state: openmm.State) -> float:
        """Energy of the model, evaluated in a context of its own, kJ/mol."""
        if self._context is None:
            self._context = self._make_context(simulation.system)
        self._context.setPeriodicBoxVectors(*state.getPeriodicBoxVectors())
        self._context.setPositions(state.getPositions())
        result = self._context.getState(energy=True)
        return float(result.getPotentialEnergy()._value)

    def _make_context(self, system: openmm.System) -> openmm.Context:
        alone = openmm.System()
        alone.setDefaultPeriodicBoxVectors(*system.getDefaultPeriodicBoxVectors())
        for _ in range(system.getNumParticles()):
            alone.addParticle(0.0)
        found = [f for f in system.getForces() if f.getName() == self._force_name]
        if not found:
            names = sorted({f.getName() for f in system.getForces()})
            raise ConfigError(f"no force is called {self._force_name!r}; there are {names}")
        for force in found:
            alone.addForce(copy_force(force))
        platform = openmm.Platform.getPlatform("Reference")
        context = openmm.Context(alone, openmm.VerletIntegrator(0.001), platform)
        if PARAMETER in dict(context.getParameters()):
            context.setParameter(PARAMETER, 1.0)
        return context
