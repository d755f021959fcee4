"""Results of an ASE calculator for which ASE has no names, beside those for which it has."""

import copy
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_properties


class Results(dict[str, Any]):
    """Results by name. The keys are properties that ASE knows, because its calculators of stored
    results refuse others; what a calculator gives beside them is found by its name all the same.

    Attributes:
        others: what is beside them.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        """Args: found, everything by name."""
        super().__init__({name: found[name] for name in found if name in all_properties})
        self.others = {name: found[name] for name in found if name not in all_properties}

    def __missing__(self, name: str) -> Any:
        return self.others[name]

    def get(self, name: str, default: Any = None) -> Any:
        """As for any dict; it would not ask for what is missing."""
        return self[name] if name in self or name in self.others else default


class ResultsCalculator(Calculator):
    """An ASE calculator whose ``calculate`` leaves `Results`, the energy among them."""

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """A property by name; None where it is not known and must not be computed.

        Raises:
            PropertyNotImplementedError: none of these atoms' properties.
        """
        if name in all_properties or name not in self.implemented_properties:
            return super().get_property(name, atoms, allow_calculation)
        if super().get_property("energy", atoms, allow_calculation) is None:
            return None
        others = getattr(self.results, "others", {})
        if name not in others:
            raise PropertyNotImplementedError(f"{name} is not known for these atoms")
        return copy.copy(others[name])
