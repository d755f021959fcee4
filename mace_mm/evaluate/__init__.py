"""From positions to energies and forces: engines, their check, and the ASE calculator."""
