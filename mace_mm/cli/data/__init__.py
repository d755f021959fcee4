"""The commands of `mace-mm data`."""
