"""A folder for each room of the package, `journeys` for whole stories, `support` for all."""
