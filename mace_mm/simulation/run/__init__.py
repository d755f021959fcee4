"""Molecular dynamics into a folder: settings, checkpoints, trajectory."""
