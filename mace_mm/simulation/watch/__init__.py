"""Is the molecule still what it was? Looks during a run, and the verdict after it."""
