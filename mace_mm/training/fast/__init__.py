"""The network in the form that trains fast on CPUs."""
