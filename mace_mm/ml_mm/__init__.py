"""Mixed systems: a region by the model, the rest by a force field."""
