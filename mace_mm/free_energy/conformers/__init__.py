"""Conformers of a leg's ligand: found, chosen, and put in their places."""
