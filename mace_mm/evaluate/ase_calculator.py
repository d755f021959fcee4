"""MACE as an ASE calculator."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mace_mm.archive.archive import Archive
from mace_mm.archive.open_model import open_model, open_potential
from mace_mm.elements import species_index
from mace_mm.errors import ConfigError, InputError
from mace_mm.evaluate.ase_results import Results, ResultsCalculator
from mace_mm.evaluate.build import (
    DEFAULT_SKIN,
    build_evaluator,
    check_options,
    checked_device,
)
from mace_mm.evaluate.domain.ase_charge import ElectronicState, atoms_problems, electronic_state
from mace_mm.evaluate.domain.force_uncertainty import ForceUncertainty
from mace_mm.evaluate.domain.structure_watch import StructureWatch
from mace_mm.evaluate.engines import Evaluator
from mace_mm.graph.molecule import check_cell, check_positions
from mace_mm.model.potential import Prediction

_log = logging.getLogger(__name__)

Source = str | Path | Archive
PROPERTIES = ("energy", "free_energy", "interaction_energy", "energies", "forces", "stress")


class MACECalculator(ResultsCalculator):
    """Energies in eV, forces in eV/Å and stress in eV/Å³ for ASE.

    Properties: ``energy`` and ``free_energy`` (with the energies of isolated atoms),
    ``interaction_energy`` (without), ``energies`` (n_atoms,), ``forces`` (n_atoms, 3), and where
    the cell has a volume ``stress`` (6,) in Voigt order. With several models these are means over
    the committee, and ``energy_std``, ``interaction_energy_std``, ``energies_std``, ``forces_std``,
    ``stress_std`` the sample standard deviations over its members (n - 1 in the denominator).
    ``results`` lists what ASE has names for, and gives the others by name too.

    New atoms and structures are looked at: a warning is logged where the first model was not
    trained for them (charged groups, an odd number of electrons, contacts shorter than the
    training set had, see `mace_mm.evaluate.domain.structure_watch`). The charge that
    ``atoms.info["charge"]`` and the initial charges state must be one that all models were trained
    for.

    Attributes:
        warnings: sentences about the charge and the bonds of the atoms looked at last.
    """

    implemented_properties = list(PROPERTIES)

    def __init__(
        self,
        model: Source | Sequence[Source] | None = None,
        device: str | None = "cpu",
        precision: str = "single",
        engine: str = "auto",
        skin: float = DEFAULT_SKIN,
        uncertainty: str | Path | None = None,
        difference: bool = False,
        allow_unknown_charge: bool = False,
    ) -> None:
        """
        Args:
            model: None for the bundled model; an archive or a published mace-torch `.model`, by
                path or opened; or several of these, a committee.
            device: "cpu", "cuda" or "cuda:N"; None for the GPU where there is one.
            precision: "single" for dynamics, "double" for optimization and phonons.
            engine: "native" (compiled), "reference" (plain torch), or "auto" for the fastest one.
            skin: extra radius of the neighbor list, Å.
            uncertainty: file that `mace-mm uncertainty` wrote for this one model; adds the
                property ``forces_uncertainty`` (n_atoms,), the expected root-mean-square error of
                each atom's force components, eV/Å.
            difference: also take models that learned a difference between levels of theory, which
                are no potentials by themselves.
            allow_unknown_charge: for research: warn of a total charge that the models were not
                trained for instead of refusing it.

        Raises:
            ArchiveError, UnsupportedModelError: a file that cannot be used.
            BackendError: unknown precision, engine or device.
            ConfigError: an empty committee, or an uncertainty of one model for several.
        """
        super().__init__()
        sources: list[Source | None]
        sources = [model] if model is None or isinstance(model, Source) else list(model)
        if not sources:
            raise ConfigError("a committee needs at least one model, got an empty list")
        opened = open_model if difference else open_potential
        self.archives = [m if isinstance(m, Archive) else opened(m) for m in sources]
        self._options: dict[str, Any] = {
            "precision": precision,
            "engine": engine,
            "skin": skin,
            "device": checked_device(device),
        }
        self._evaluators: list[Evaluator] = []
        self._numbers: np.ndarray | None = None
        self._watch = StructureWatch(self.archives[0])
        self._state: ElectronicState | None = None
        self._allow_unknown_charge = allow_unknown_charge
        self.warnings: list[str] = []
        # Options are checked now, not at the first energy; so is an engine that was asked for.
        check_options(precision, engine, skin)
        for archive in self.archives if engine == "native" else ():
            build_evaluator(archive, archive.config.atomic_numbers[:1], **self._options)
        if len(self.archives) > 1:
            stds = [f"{name}_std" for name in PROPERTIES if name != "free_energy"]
            self.implemented_properties = [*PROPERTIES, *stds]
        self._uncertainty: ForceUncertainty | None = None
        if uncertainty is not None:
            if len(self.archives) > 1:
                raise ConfigError("an uncertainty belongs to one model, got a committee")
            self._uncertainty = ForceUncertainty(self.archives[0], uncertainty)
            self.implemented_properties = [*PROPERTIES, "forces_uncertainty"]

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; called by ASE, which does not look at info."""
        changes = list(super().check_state(atoms, tol))
        if self._state is not None and electronic_state(atoms) != self._state:
            changes.append("info")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate everything at once and store it in ``results``; called by ASE.

        Raises:
            InputError, ElementError, GeometryError: no atoms, an element the model does not know,
                positions or a cell that are not physical.
            ChargeError, ConfigError: a charge or spin that the models were not trained for.
        """
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        positions, cell, pbc = self._geometry(atoms)
        evaluators = self._for_atoms(atoms)
        self._watch(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        predictions = [evaluate(positions, cell, pbc) for evaluate in evaluators]
        with_stress = atoms.cell.rank == 3
        members = [_as_results(p, with_stress) for p in predictions]
        found = dict(members[0])
        if len(members) > 1:
            for name in members[0]:
                values = np.stack([member[name] for member in members])
                found[name] = _plain(values.mean(axis=0))
                found[f"{name}_std"] = _plain(values.std(axis=0, ddof=1))
        found["free_energy"] = found["energy"]
        if self._uncertainty is not None:
            found["forces_uncertainty"] = self._uncertainty(
                atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc
            )
        self.results = Results(found)

    def _geometry(self, atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        device = self._options["device"]
        if len(atoms) == 0:
            raise InputError("at least one atom is needed, got an empty Atoms object")
        check_positions(atoms.positions, len(atoms))
        if atoms.pbc.all():
            check_cell(atoms.cell.array)
        return (
            torch.tensor(atoms.positions, dtype=torch.float64, device=device),
            torch.tensor(atoms.cell.array, dtype=torch.float64, device=device),
            torch.tensor(atoms.pbc, device=device),
        )

    def _for_atoms(self, atoms: Atoms) -> list[Evaluator]:
        state = electronic_state(atoms)
        is_new = self._numbers is None or not np.array_equal(self._numbers, atoms.numbers)
        if is_new:
            numbers = atoms.numbers.tolist()
            for archive in self.archives:
                species_index(numbers, archive.config.atomic_numbers)
        if is_new or state != self._state:
            self._look(atoms)
        if is_new:
            self._evaluators = [
                build_evaluator(archive, numbers, **self._options) for archive in self.archives
            ]
            self._numbers = atoms.numbers.copy()
        self._state = state
        return self._evaluators

    def _look(self, atoms: Atoms) -> None:
        """Compare charge and spin; log and keep what the models were not trained for."""
        self.warnings = atoms_problems(
            self.archives, atoms, allow_unknown_charge=self._allow_unknown_charge
        )
        for problem in self.warnings:
            _log.warning("outside what the model was trained for: %s", problem)


def _as_results(prediction: Prediction, with_stress: bool) -> dict[str, Any]:
    results: dict[str, Any] = {
        "energy": prediction.energy.item(),
        "interaction_energy": prediction.interaction_energy.item(),
        "energies": prediction.node_energies.detach().cpu().numpy(),
        "forces": prediction.forces.to("cpu", torch.float64).numpy(),
    }
    if with_stress:
        full = prediction.stress[0].to("cpu", torch.float64).numpy()
        results["stress"] = full_3x3_to_voigt_6_stress(full)
    return results


def _plain(value: np.ndarray) -> Any:
    return value.item() if value.ndim == 0 else value
