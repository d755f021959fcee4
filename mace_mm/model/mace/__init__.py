"""The layers of MACE."""
