"""xTB labels through tblite (C. Bannwarth et al., J. Chem. Theory Comput. 15, 1652, 2019)."""

from importlib.metadata import version

import numpy as np

from mace_mm.errors import ConfigError, DependencyError
from mace_mm.generation.labels.base import LabelError, SinglePoint, provenance, unpaired_electrons
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

METHODS = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")


class TBLiteProgram:
    """Single points of a GFN-xTB method; options such as ``accuracy`` or ``max-iter`` go to tblite.

    Raises:
        DependencyError: tblite is not installed.
        ConfigError: a method that tblite does not have.
    """

    def __init__(self, settings: LabelSettings) -> None:
        try:
            from tblite import exceptions, interface
        except ImportError as error:
            raise DependencyError(
                f"labels of kind 'tblite' want the package tblite: {error}"
            ) from error
        if settings.method not in METHODS:
            raise ConfigError(f"tblite has the methods {', '.join(METHODS)}; got {settings.method}")
        self._calculator = interface.Calculator
        self._errors = (exceptions.TBLiteRuntimeError, exceptions.TBLiteValueError)
        self._method = settings.method
        self._options = dict(settings.options)
        self._provenance = provenance(settings, tblite=version("tblite"))

    def provenance_of(self, atomic_numbers: np.ndarray) -> dict[str, str]:
        """See `SinglePointProgram`."""
        return self._provenance

    def single_point(
        self, atomic_numbers: np.ndarray, positions: np.ndarray, charge: int, unpaired: int = 0
    ) -> SinglePoint:
        """See `SinglePointProgram`; an SCF that does not converge is a LabelError."""
        try:
            calculator = self._calculator(
                self._method,
                np.asarray(atomic_numbers),
                positions / BOHR_TO_ANGSTROM,
                float(charge),
                unpaired,
            )
            calculator.set("verbosity", 0)
            for key, value in self._options.items():
                calculator.set(key, value)
            result = calculator.singlepoint()
        except self._errors as error:
            raise LabelError(f"tblite: {error}") from error
        forces = -HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM * result.get("gradient")
        return SinglePoint(energy=float(result.get("energy")) * HARTREE_TO_EV, forces=forces)

    def atom_energy(self, atomic_number: int) -> float:
        """Energy of the isolated atom, eV."""
        numbers, origin = np.array([atomic_number]), np.zeros((1, 3))
        return self.single_point(numbers, origin, 0, unpaired_electrons(atomic_number)).energy
