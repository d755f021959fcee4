"""MACE for molecular simulation: one archive from training to OpenMM and ASE."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mace_mm.evaluate.ase_calculator import MACECalculator

__all__ = ["MACECalculator"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the calculator, and with it ASE and torch, when it is asked for."""
    if name == "MACECalculator":
        from mace_mm.evaluate.ase_calculator import MACECalculator

        return MACECalculator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
