"""Where saved systems look for `ElectrostaticComputation` and `EmbeddedRegion`."""

from mace_mm.ml_mm.electrostatic_force import ElectrostaticComputation, EmbeddedRegion

__all__ = ["ElectrostaticComputation", "EmbeddedRegion"]
