"""The model as a force of OpenMM."""
