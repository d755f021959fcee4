"""Free energies with a MACE end state: legs, sampling, estimators, convergence, reports."""
