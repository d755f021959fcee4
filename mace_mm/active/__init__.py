"""Active learning: explore with a model, label what it does not know, train again."""
