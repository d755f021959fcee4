"""Systems of ligands, solvents and proteins."""
