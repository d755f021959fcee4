"""Sampling of a leg: windows, switches, journals, workers."""
