"""File formats of labelled frames."""
