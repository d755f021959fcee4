"""Verdict of a unit test: the ratio measured / expected, and the mistake it looks like."""

from dataclasses import dataclass

import numpy as np

from mace_mm import units

_TOLERANCE = 1.35

FACTORS: dict[str, dict[str, float]] = {
    "length": {
        "bohr": 1 / units.BOHR_TO_ANGSTROM,
        "nm": units.ANGSTROM_TO_NM,
        "Å taken for bohr": units.BOHR_TO_ANGSTROM,
        "Å taken for nm": units.NM_TO_ANGSTROM,
    },
    "forces": {
        "hartree/bohr": 1 / units.HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
        "hartree/Å": 1 / units.HARTREE_TO_EV,
        "eV/bohr": units.BOHR_TO_ANGSTROM,
        "kcal/mol/Å": 1 / units.KCAL_MOL_TO_EV,
        "kJ/mol/Å": units.EV_TO_KJ_MOL,
        "kJ/mol/nm": units.EV_PER_ANGSTROM_TO_KJ_MOL_NM,
        "hartree/bohr converted as hartree/Å": units.BOHR_TO_ANGSTROM,
        "eV/Å converted once more from hartree": units.HARTREE_TO_EV,
        "eV/Å converted once more from bohr": 1 / units.BOHR_TO_ANGSTROM,
        "eV/Å converted once more from hartree/bohr": units.HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
    },
    "energy": {
        "hartree": 1 / units.HARTREE_TO_EV,
        "kcal/mol": 1 / units.KCAL_MOL_TO_EV,
        "kJ/mol": units.EV_TO_KJ_MOL,
        "rydberg": 2 / units.HARTREE_TO_EV,
        "eV converted once more from hartree": units.HARTREE_TO_EV,
    },
}


@dataclass(frozen=True, kw_only=True)
class UnitVerdict:
    """Outcome of one test.

    Attributes:
        quantity: "length", "forces" or "energy".
        ratio: measured / expected; NaN where the data do not tell.
        n: samples behind it.
        how: one sentence: what was measured, on what.
        ok: True, False, or None where the data do not tell.
    """

    quantity: str
    ratio: float
    n: int
    how: str
    ok: bool | None

    @property
    def guess(self) -> str:
        """What kind of mistake the ratio looks like, "" if none."""
        if self.ok is not False:
            return ""
        if self.ratio < 0:
            return "the sign is wrong: gradients given as forces?"
        table = FACTORS[self.quantity]
        off = {name: abs(np.log(factor / self.ratio)) for name, factor in table.items()}
        near = sorted((name for name in off if off[name] < np.log(1.25)), key=off.__getitem__)
        if not near:
            return "no common unit explains this factor"
        named = " or ".join(f"{name} (factor {table[name]:.4g})" for name in near)
        return f"looks like {named} instead of {_WANTED[self.quantity]}"


_WANTED = {"length": "Å", "forces": "eV/Å", "energy": "eV"}


def verdict(quantity: str, ratio: float, n: int, how: str) -> UnitVerdict:
    """Judge a ratio: right within a factor of 1.35, so that 1.89 and 27.2 are wrong."""
    ok = None if not np.isfinite(ratio) else bool(1 / _TOLERANCE < ratio < _TOLERANCE)
    return UnitVerdict(quantity=quantity, ratio=float(ratio), n=int(n), how=how, ok=ok)
