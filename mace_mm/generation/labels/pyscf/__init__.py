"""Labels through PySCF: basis sets, functionals, and a fast path for closed shells."""
