"""Expected force errors, fitted to labelled frames."""
