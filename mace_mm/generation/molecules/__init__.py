"""From a SMILES to the molecules of a dataset."""
