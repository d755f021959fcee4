"""ASE calculators by name."""

import importlib
from typing import Any

from mace_mm.errors import ConfigError, DependencyError

# name -> module:Class; any other calculator is named by its module and class directly.
CALCULATORS = {
    "emt": "ase.calculators.emt:EMT",
    "lj": "ase.calculators.lj:LennardJones",
    "tblite": "mace_mm.generation.labels.tblite_calculator:TBLiteCalculator",
    "tblite.ase:TBLite": "mace_mm.generation.labels.tblite_calculator:TBLiteCalculator",
    "xtb": "xtb.ase.calculator:XTB",
    "dftb": "ase.calculators.dftb:Dftb",
    "orca": "ase.calculators.orca:ORCA",
    "psi4": "ase.calculators.psi4:Psi4",
    "mace": "mace_mm.evaluate.ase_calculator:MACECalculator",
    "difference": "mace_mm.generation.labels.difference:DifferenceCalculator",
}


def make_calculator(name: str, options: dict[str, Any]) -> Any:
    """An ASE calculator by its name in ``CALCULATORS`` or by ``module:Class``.

    Raises:
        ConfigError: an unknown name, or options that the calculator does not take.
        DependencyError: its package is not installed.
    """
    target = CALCULATORS.get(name, name)
    module_name, separator, class_name = target.partition(":")
    if not separator:
        raise ConfigError(
            f"an ASE calculator is one of {', '.join(sorted(CALCULATORS))} or module:Class;"
            f" got {name!r}"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DependencyError(f"the calculator {name!r} wants {module_name}: {error}") from error
    if not hasattr(module, class_name):
        raise ConfigError(f"{module_name} has no calculator {class_name!r}")
    try:
        return getattr(module, class_name)(**options)
    except TypeError as error:
        raise ConfigError(f"the calculator {name!r} does not take {options}: {error}") from error
