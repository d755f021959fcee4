"""Where saved systems look for `CoupledComputation`."""

from mace_mm.free_energy.legs.direct import CoupledComputation

__all__ = ["CoupledComputation"]
