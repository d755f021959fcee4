"""Labels of any program that QCEngine runs (D. Smith et al., J. Chem. Phys. 155, 204801, 2021)."""

from importlib.metadata import version

import numpy as np

from mace_mm.elements import symbol
from mace_mm.errors import ConfigError, DependencyError
from mace_mm.generation.labels.base import LabelError, SinglePoint, provenance
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

# Programs that want more than elements and positions, or answer in other units than they say.
_UNUSABLE = {
    "rdkit": "wants bonds, which labels do not have, and gives kcal/mol as kJ/mol: "
    "MMFF94 is a sampler here",
    "openmm": "wants a molecule with bonds, which labels do not have",
}


class QCEngineProgram:
    """Gradients of a QCEngine ``program`` (psi4, xtb, ...) with ``method``, ``basis``, keywords.

    Raises:
        DependencyError: QCEngine or the program is not installed.
        ConfigError: a program that QCEngine does not know or that cannot give labels.
    """

    def __init__(self, settings: LabelSettings) -> None:
        try:
            import qcengine
        except ImportError as error:
            raise DependencyError(
                f"labels of kind 'qcengine' want the package qcengine: {error}"
            ) from error
        self._program = str(settings.program)
        if self._program in _UNUSABLE:
            reason = _UNUSABLE[self._program]
            raise ConfigError(f"labels cannot come from QCEngine's {self._program!r}: it {reason}")
        if self._program not in qcengine.list_all_programs():
            raise ConfigError(f"QCEngine does not know a program {self._program!r}")
        available = qcengine.list_available_programs()
        if self._program not in available:
            raise DependencyError(
                f"QCEngine does not find {self._program!r} here; it finds {sorted(available)}"
            )
        self._model = {"method": settings.method, "basis": settings.basis}
        self._keywords = dict(settings.options)
        self._provenance = provenance(
            settings,
            qcengine=version("qcengine"),
            **{self._program: str(qcengine.get_program(self._program).get_version())},
        )

    def provenance_of(self, atomic_numbers: np.ndarray) -> dict[str, str]:
        """See `SinglePointProgram`."""
        return self._provenance

    def single_point(
        self, atomic_numbers: np.ndarray, positions: np.ndarray, charge: int
    ) -> SinglePoint:
        """See `SinglePointProgram`; whatever QCEngine reports as failed is a LabelError."""
        import qcengine

        request = {
            "molecule": {
                "symbols": [symbol(int(z)) for z in atomic_numbers],
                "geometry": (positions / BOHR_TO_ANGSTROM).ravel().tolist(),
                "molecular_charge": float(charge),
                "fix_com": True,
                "fix_orientation": True,
            },
            "driver": "gradient",
            "model": self._model,
            "keywords": self._keywords,
        }
        result = qcengine.compute(request, self._program, raise_error=False)
        if not result.success:
            raise LabelError(f"{self._program}: {result.error.error_message.strip()[-300:]}")
        gradient = np.asarray(result.return_result).reshape(-1, 3)
        forces = -HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM * gradient
        energy = float(result.properties.return_energy) * HARTREE_TO_EV
        return SinglePoint(energy=energy, forces=forces)

    def atom_energy(self, atomic_number: int) -> float:
        """Programs differ in how they take a spin, so ``atom_energies`` has to name them all."""
        raise LabelError(f"atom_energies wants {symbol(atomic_number)} too, in hartree")
