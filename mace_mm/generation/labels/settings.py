"""What a label is computed with: one section of the protocol for each level of theory."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from mace_mm.settings import SafeName

Option = bool | int | float | str | list[str]


class LabelSettings(BaseModel):
    """One level of theory.

    ``tblite``: ``method`` GFN2-xTB, GFN1-xTB or IPEA1-xTB. ``ani``: the networks in NeuroChem
    format that the info file ``path`` names. ``pyscf``: ``method`` is a functional (or HF),
    ``basis`` a basis set. ``qcengine``: ``program`` with ``method`` and ``basis``. ``ase``:
    ``program`` is a calculator's name or ``module:Class``, ``method`` what the data call its level
    of theory. ``options`` go to the program and are recorded. ``atom_energies`` (hartree, by
    symbol) replace the isolated atoms that tblite, ani and pyscf compute; the other kinds need
    them, since SPICE stores formation energies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: SafeName
    kind: Literal["tblite", "ani", "pyscf", "qcengine", "ase"]
    program: str | None = None
    method: str | None = None
    basis: str | None = None
    path: Path | None = None
    options: dict[str, Option] = {}
    atom_energies: dict[str, float] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "LabelSettings":
        wanted = {
            "tblite": ("method",),
            "ani": ("path",),
            "pyscf": ("method", "basis"),
            "qcengine": ("program", "method", "atom_energies"),
            "ase": ("program", "atom_energies"),
        }[self.kind]
        missing = [key for key in wanted if getattr(self, key) is None]
        if missing:
            raise ValueError(
                f"label {self.name!r} of kind {self.kind!r} wants {', '.join(missing)}"
            )
        unused = [
            key
            for key in ("program", "method", "basis", "path")
            if getattr(self, key) is not None and key not in (*wanted, *_OPTIONAL[self.kind])
        ]
        if unused:
            raise ValueError(f"a label of kind {self.kind!r} does not use {', '.join(unused)}")
        return self

    def level_of_theory(self) -> str:
        """The level in words, as stored with the data."""
        if self.kind == "ani":
            return f"{Path(str(self.path)).stem} committee mean"
        method = self.method or str(self.program)
        return f"{method}/{self.basis}" if self.basis else method


_OPTIONAL: dict[str, tuple[str, ...]] = {
    "tblite": (),
    "ani": (),
    "pyscf": (),
    "qcengine": ("basis",),
    "ase": ("method",),
}
