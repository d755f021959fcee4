"""How fast a model runs here."""
