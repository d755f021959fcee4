"""MACE for molecular simulation: one archive from training to OpenMM and ASE."""

__version__ = "0.1.0"
