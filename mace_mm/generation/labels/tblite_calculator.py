"""tblite's ASE calculator, with charge and spin stated and nothing computed as something else.

tblite 0.8.0 takes the sum of initial charges, also of a fraction, for the charge; atoms that are
periodic in one or two directions as it pleases; and several unpaired electrons without spin
polarization, where the energies of a singlet and a triplet come out in the wrong order.
"""

from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import InputError, all_changes
from tblite.ase import TBLite


class TBLiteCalculator(TBLite):
    """`tblite.ase.TBLite` for molecules and crystals whose charge and spin are known.

    The charge is the parameter ``charge``, else ``atoms.info["charge"]``, else the sum of the
    initial charges; the multiplicity is the parameter, else the sum of the initial magnetic moments
    plus one, else the lowest for the number of electrons.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._given = {key: self.parameters.get(key) for key in ("charge", "multiplicity")}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate tblite; called by ASE.

        Raises:
            InputError: atoms periodic in some directions only, a charge that is no integer, a
                multiplicity that does not fit the electrons, or several unpaired electrons without
                ``spin_polarization``.
        """
        if atoms is not None:
            self._state(atoms)
        super().calculate(atoms, properties, list(system_changes))

    def _state(self, atoms: Atoms) -> None:
        if atoms.pbc.any() and not atoms.pbc.all():
            raise InputError(
                f"tblite has molecules and crystals; got periodicity {atoms.pbc.tolist()}"
            )
        charge = self._given["charge"]
        if charge is None:
            charge = atoms.info.get("charge", atoms.get_initial_charges().sum())
        if abs(charge - round(charge)) > 1e-6:
            raise InputError(f"the total charge must be an integer, got {charge}")
        n_electrons = int(atoms.numbers.sum()) - round(charge)
        unpaired = self._unpaired(atoms, n_electrons)
        if unpaired < 0 or (n_electrons - unpaired) % 2:
            raise InputError(f"{n_electrons} electrons do not have multiplicity {unpaired + 1}")
        if unpaired > 1 and self.parameters.spin_polarization is None:
            raise InputError(
                f"multiplicity {unpaired + 1} wants the option spin_polarization (1.0): without it "
                "tblite has no energy of spins"
            )
        stated = {"charge": round(charge), "multiplicity": unpaired + 1}
        if any(self.parameters[key] != value for key, value in stated.items()):
            self.set(**stated)
            self._xtb = None
            self._res = None

    def _unpaired(self, atoms: Atoms, n_electrons: int) -> int:
        if self._given["multiplicity"] is not None:
            return int(self._given["multiplicity"]) - 1
        moments = float(abs(atoms.get_initial_magnetic_moments().sum()))
        return round(moments) if moments > 0.5 else n_electrons % 2
