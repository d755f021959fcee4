"""The commands `correct`, `hydration` and `binding`."""
