"""The legs of a cycle: systems along a coupling parameter."""
