"""From a frame to its labels: one file a program."""
