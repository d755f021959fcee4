"""MACE for molecular simulation: one archive from training to OpenMM and ASE."""
