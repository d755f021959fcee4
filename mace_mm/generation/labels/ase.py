"""Labels of any ASE calculator, by name."""

from importlib.metadata import version

import numpy as np

from mace_mm.elements import symbol
from mace_mm.generation.labels.base import LabelError, SinglePoint, provenance
from mace_mm.generation.labels.calculators import make_calculator
from mace_mm.generation.labels.settings import LabelSettings


class ASEProgram:
    """Single points of an ASE calculator; ``options`` are its arguments.

    The standard deviations of a committee are taken from its results ``energy_std`` (eV) and
    ``forces_std`` (n_atoms, 3) eV/Å.
    """

    def __init__(self, settings: LabelSettings) -> None:
        self._name = str(settings.program)
        self._calculator = make_calculator(self._name, dict(settings.options))
        self._provenance = provenance(settings, ase=version("ase"))

    def provenance_of(self, atomic_numbers: np.ndarray) -> dict[str, str]:
        """See `SinglePointProgram`."""
        return self._provenance

    def single_point(
        self, atomic_numbers: np.ndarray, positions: np.ndarray, charge: int
    ) -> SinglePoint:
        """See `SinglePointProgram`. The charge goes to the calculator as ASE's convention has it:
        as initial charges that sum to it, and in ``atoms.info["charge"]``.
        """
        from ase import Atoms
        from ase.calculators.calculator import (
            CalculationFailed,
            InputError,
            PropertyNotImplementedError,
            SCFError,
        )

        atoms = Atoms(numbers=atomic_numbers, positions=positions)
        atoms.set_initial_charges(np.full(len(atoms), charge / len(atoms)))
        atoms.info["charge"] = charge
        # Nothing of the last frame, not even its wave function, decides this one.
        self._calculator.reset()
        atoms.calc = self._calculator
        try:
            energy, forces = float(atoms.get_potential_energy()), np.asarray(atoms.get_forces())
        except (
            CalculationFailed,
            SCFError,
            InputError,
            PropertyNotImplementedError,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:
            raise LabelError(f"{self._name}: {type(error).__name__}: {error}") from error
        results = self._calculator.results
        return SinglePoint(
            energy=energy,
            forces=forces.copy(),
            energy_std=results.get("energy_std"),
            force_std=results.get("forces_std"),
        )

    def atom_energy(self, atomic_number: int) -> float:
        """Programs differ in how they take a spin, so ``atom_energies`` has to name them all."""
        raise LabelError(f"atom_energies wants {symbol(atomic_number)} too, in hartree")
