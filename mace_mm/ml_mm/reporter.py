"""Watch an ML region during a run: its energy, the model's uncertainty, its molecules."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app

from mace_mm.errors import ConfigError, InputError, RunStoppedError
from mace_mm.identity.change import Change, Kind
from mace_mm.identity.watch import MoleculeWatch
from mace_mm.openmm.copy import copy_force
from mace_mm.openmm.interpolation import PARAMETER
from mace_mm.openmm.topology_identity import topology_identity
from mace_mm.units import NM_TO_ANGSTROM

ACTIONS = ("flag", "stop", "strict")
_COLUMNS = "step,time_ps,ml_energy_kj_mol,uncertainty,changed_bonds,noticed"
# The charges of the force field stay where they are: a proton that moved makes them wrong.
_BONDS = (Kind.NOT_FINITE, Kind.BOND_BROKEN, Kind.BOND_MADE, Kind.PROTON_MOVED)

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
            topology: with the bonds of the region. Bonds that leave it are watched, too. What is
                there at the first line is the configuration that later ones are compared with.
            atoms: particle indices of the region, link atoms included if their uncertainty counts.
            force_name: of the ML forces in the System.
            uncertainty: of the model, by atom, for example a
                :class:`mace_mm.evaluate.domain.force_uncertainty.ForceUncertainty`.
            uncertainty_limit: beyond it the action is taken; in the unit of `uncertainty`.
            on_change: "flag" logs whatever is noticed; "stop" also raises when a bond of the
                region breaks or forms, a proton moves, or the uncertainty passes its limit;
                "strict" raises at inverted centers and short contacts as well.
            append: go on with an existing file.

        Raises:
            ConfigError: an action that is none of these, a limit without an uncertainty, an
                interval below 1, a file with other columns.
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
        self._on_change = on_change
        self._topology = topology
        self._watch: MoleculeWatch | None = None
        self._context: openmm.Context | None = None
        self._known: set[str] = set()
        self._names = [f"{a.name}{a.index}" for a in topology.atoms()]
        numbers = {a.index: a.element.atomic_number for a in topology.atoms() if a.element}
        missing = sorted(set(self._atoms.tolist()) - set(numbers))
        if missing:
            raise InputError(f"every atom of an ML region needs an element; without: {missing}")
        self._numbers = np.array([numbers[i] for i in self._atoms.tolist()])
        self._path = Path(path)
        if not append or not self._path.exists():
            self._path.write_text(_COLUMNS + "\n")
        elif self._path.read_text().partition("\n")[0] != _COLUMNS:
            raise ConfigError(f"{self._path} must have the columns {_COLUMNS} to go on with it")

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
        changes = self._look(positions, box)
        bonds = [name for change in changes for name in self._bonds_of(change)]
        others = [change for change in changes if change.kind not in _BONDS]
        uncertain: float | None = None
        if self._uncertainty is not None:
            inside = positions[self._atoms]
            uncertain = float(np.max(self._uncertainty(self._numbers, inside, box)))
        step = simulation.currentStep
        shown = "" if uncertain is None else f"{uncertain:.6g}"
        noticed = "; ".join(change.text for change in others)
        line = f"{step},{state.getTime()._value:.6g},{energy:.6f},{shown},{' '.join(bonds)}"
        with self._path.open("a") as file:
            file.write(f'{line},"{noticed}"\n' if noticed else f"{line},\n")
        reasons = [f"bond {name}" for name in bonds]
        if self._limit is not None and uncertain is not None and not uncertain <= self._limit:
            reasons.append(f"uncertainty {uncertain:.4g} above {self._limit:.4g}")
        self._act(step, reasons, [change.text for change in others])

    def _act(self, step: int, reasons: list[str], mild: list[str]) -> None:
        every = reasons + mild
        new = [reason for reason in every if reason.split(" above")[0] not in self._known]
        self._known.update(new)
        for reason in new:
            self.flagged.append((step, reason))
            _log.warning("step %d: ML region: %s", step, reason)
        fatal = {"flag": [], "stop": reasons, "strict": every}[self._on_change]
        if fatal:
            raise RunStoppedError(f"step {step}: the ML region changed: {'; '.join(fatal)}")

    def _look(self, positions: np.ndarray, box: np.ndarray | None) -> list[Change]:
        """What is not as the topology and the first line say."""
        if self._watch is None:
            self._watch = MoleculeWatch(
                topology_identity(
                    self._topology,
                    positions / NM_TO_ANGSTROM,
                    None if box is None else box / NM_TO_ANGSTROM,
                    atoms=self._atoms.tolist(),
                )
            )
        return self._watch.look(positions[self._watch.identity.indices], box)

    def _bonds_of(self, change: Change) -> list[str]:
        """Names of the bonds that a change breaks ("-C1-H5") and forms ("+O2-H5")."""
        if change.kind == Kind.PROTON_MOVED:
            hydrogen, host, target = change.atoms
            pairs = [("-", host, hydrogen), ("+", target, hydrogen)]
        elif change.kind in (Kind.BOND_BROKEN, Kind.BOND_MADE):
            sign = "-" if change.kind == Kind.BOND_BROKEN else "+"
            pairs = [(sign, change.atoms[0], change.atoms[1])]
        else:
            return ["positions are not numbers"] if change.kind == Kind.NOT_FINITE else []
        return [f"{sign}{self._names[i]}-{self._names[j]}" for sign, i, j in pairs]

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
