"""Differences between labels and xTB, and the sum of xTB and networks that learned them.

A few hundred labels say more about the difference from a semi-empirical method than about the
energy itself, since the method already has most of its shape (R. Ramakrishnan et al., J. Chem.
Theory Comput. 11, 2087, 2015). The sum then samples and labels as many frames as a network that
stands alone wants to learn from.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes

from mace_mm.data.labels import LabeledMolecule
from mace_mm.errors import ConfigError, DataError
from mace_mm.evaluate.ase_results import Results, ResultsCalculator
from mace_mm.generation.labels.base import LabelError, SinglePoint
from mace_mm.generation.labels.calculators import make_calculator
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.labels.tblite import METHODS, TBLiteProgram
from mace_mm.level_of_theory import difference, subtracted_method

# tblite's own convergence leaves 1e-4 eV/Å of noise in forces, a tenth of what is learned.
ACCURACY = 0.01


class XTBBaseline:
    """Energies and forces of an xTB method, converged for use as a baseline.

    Args:
        method: "GFN2-xTB", "GFN1-xTB" or "IPEA1-xTB".

    Raises:
        DependencyError: tblite is not installed.
        ConfigError: a method that tblite does not have.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self._program = TBLiteProgram(
            LabelSettings(
                name="baseline", kind="tblite", method=method, options={"accuracy": ACCURACY}
            )
        )

    def __call__(self, numbers: np.ndarray, positions: np.ndarray, charge: int) -> SinglePoint:
        """The method at positions (n_atoms, 3) Å; LabelError where it does not converge."""
        return self._program.single_point(numbers, positions, charge)

    def subtracted(self, frame: LabeledMolecule) -> LabeledMolecule:
        """The frame with its labels minus the baseline's.

        Raises:
            DataError: a frame without energy or forces or with a cell, or one where the method
                does not converge.
        """
        if frame.energy is None or frame.forces is None:
            raise DataError(f"{frame.name}: a difference wants energy and forces, one is missing")
        if frame.molecule.cell is not None:
            raise DataError(f"{frame.name}: xTB is subtracted from molecules; this has a cell")
        molecule = frame.molecule
        try:
            point = self(molecule.atomic_numbers, molecule.positions, round(molecule.total_charge))
        except LabelError as error:
            raise DataError(f"{frame.name}: {error}") from error
        return replace(
            frame,
            energy=frame.energy - point.energy,
            forces=frame.forces - point.forces,
            level_of_theory=difference(frame.level_of_theory or "unknown", self.method),
        )


class DifferenceCalculator(ResultsCalculator):
    """ASE calculator: networks that learned a difference, plus the method it was taken from.

    ``energy`` (eV) and ``forces`` (n_atoms, 3) eV/Å; of several networks, which may differ in their
    method, the means over the sums, and ``energy_std``, ``forces_std`` the sample standard
    deviations. The charge is ``atoms.info["charge"]``, 0 if not given.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, model: str | Path | Sequence[str | Path], **options: Any) -> None:
        """
        Args:
            model: archive with a level of theory "... minus METHOD", or several of them.
            options: of `MACECalculator`.

        Raises:
            ConfigError: no model, or one that did not learn a difference from an xTB method.
            ArchiveError: a file that cannot be used.
        """
        super().__init__()
        models = [model] if isinstance(model, str | Path) else list(model)
        if not models:
            raise ConfigError("a sum with xTB wants at least one model, got an empty list")
        options = {**options, "difference": True}
        self._networks = [make_calculator("mace", {"model": m, **options}) for m in models]
        self._baselines = [_baseline(m, n) for m, n in zip(models, self._networks, strict=True)]
        if len(models) > 1:
            self.implemented_properties = ["energy", "forces", "energy_std", "forces_std"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate all sums and store means in ``results``; called by ASE.

        Raises:
            LabelError: xTB does not converge, or atoms with a cell.
        """
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        if atoms.pbc.any():
            raise LabelError("the sum of xTB and a network is for molecules, got a periodic cell")
        charge = round(atoms.info.get("charge", 0))
        energies, forces = [], []
        for network, baseline in zip(self._networks, self._baselines, strict=True):
            point = baseline(atoms.numbers, atoms.positions, charge)
            network.calculate(atoms, properties)
            energies.append(network.results["energy"] + point.energy)
            forces.append(network.results["forces"] + point.forces)
        found = {"energy": float(np.mean(energies)), "forces": np.mean(forces, axis=0)}
        if len(energies) > 1:
            found["energy_std"] = float(np.std(energies, ddof=1))
            found["forces_std"] = np.std(forces, axis=0, ddof=1)
        self.results = Results(found)


def _baseline(model: str | Path, network: Any) -> XTBBaseline:
    level = network.archives[0].metadata.level_of_theory
    method = subtracted_method(level)
    if method not in METHODS:
        raise ConfigError(
            f"{model} learned {level!r}; a sum with xTB wants a model that learned a difference, "
            f"{difference('LEVEL', 'METHOD')!r} with METHOD one of {', '.join(METHODS)}"
        )
    return XTBBaseline(method)
