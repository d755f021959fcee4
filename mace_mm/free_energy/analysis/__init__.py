"""Estimates, their errors, and whether to believe them."""
