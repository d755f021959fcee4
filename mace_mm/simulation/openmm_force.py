"""Where saved systems look for `PythonComputation`."""

from mace_mm.openmm.force import PythonComputation

__all__ = ["PythonComputation"]
