"""A reporter of an OpenMM simulation: how far the model can be trusted, as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import unit

from mace_mm.errors import InputError
from mace_mm.evaluate.domain.force_uncertainty import ForceUncertainty


class UncertaintyReporter:
    """Writes the largest and the mean expected force error of an OpenMM simulation as CSV.

    Add it to `simulation.reporters`; columns step, time_ps, max_ev_per_angstrom,
    mean_ev_per_angstrom, worst_atom (index of the particle).

    Args:
        file: CSV file to write.
        interval: steps between rows.
        estimate: of the model that drives the simulation.
        atoms: indices of the particles that the model describes; all with an element if None.

    Raises:
        InputError: an interval below 1.
    """

    def __init__(
        self,
        file: str | Path,
        interval: int,
        estimate: ForceUncertainty,
        atoms: Sequence[int] | None = None,
    ) -> None:
        if interval < 1:
            raise InputError(f"the interval must be at least 1 step, got {interval}")
        self.interval = interval
        self.estimate = estimate
        self.atoms = None if atoms is None else [int(i) for i in atoms]
        self.latest: np.ndarray | None = None
        self._file = open(file, "w", newline="", encoding="utf-8")  # noqa: SIM115 - closed in close
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(
            ["step", "time_ps", "max_ev_per_angstrom", "mean_ev_per_angstrom", "worst_atom"]
        )
        self._numbers: np.ndarray | None = None

    def describeNextReport(self, simulation: Any) -> dict[str, Any]:  # noqa: N802 - OpenMM's name
        """Tell OpenMM when the next row is due and that it needs positions."""
        steps = self.interval - simulation.currentStep % self.interval
        return {"steps": steps, "periodic": None, "include": ["positions"]}

    def report(self, simulation: Any, state: openmm.State) -> None:
        """Write a row; called by OpenMM."""
        if self._numbers is None:
            self._choose(simulation.topology)
        if self.atoms is None or self._numbers is None:
            raise InputError("the reporter has no atoms to report on")
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)[self.atoms]
        cell = None
        if simulation.system.usesPeriodicBoundaryConditions():
            cell = np.array(
                [list(v) for v in state.getPeriodicBoxVectors().value_in_unit(unit.angstrom)]
            )
        self.latest = self.estimate(self._numbers, np.asarray(positions), cell)
        worst = int(self.latest.argmax())
        time_ps = state.getTime().value_in_unit(unit.picosecond)
        self._writer.writerow(
            [
                simulation.currentStep,
                f"{time_ps:.6g}",
                f"{self.latest[worst]:.6g}",
                f"{self.latest.mean():.6g}",
                self.atoms[worst],
            ]
        )
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _choose(self, topology: Any) -> None:
        elements = [atom.element for atom in topology.atoms()]
        if self.atoms is None:
            self.atoms = [i for i, element in enumerate(elements) if element is not None]
        missing = [i for i in self.atoms if elements[i] is None]
        if missing or not self.atoms:
            raise InputError(f"every reported particle needs an element; without one: {missing}")
        self._numbers = np.array([elements[i].atomic_number for i in self.atoms])
