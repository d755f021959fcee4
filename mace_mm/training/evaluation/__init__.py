"""Errors of a model on labelled frames, as numbers and as a page."""
