"""From a molecule to frames."""
