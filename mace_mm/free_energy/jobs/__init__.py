"""The commands: correct, hydration, binding."""
