"""Tasks, records and workers."""
