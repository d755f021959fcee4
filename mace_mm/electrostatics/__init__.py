"""Charges, polarization and their long-range sums."""
