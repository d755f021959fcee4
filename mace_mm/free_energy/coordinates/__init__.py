"""Slow coordinates of a ligand, followed along replicas, and what they say of a run."""
