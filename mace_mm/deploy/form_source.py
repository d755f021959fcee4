"""Where saved systems look for `FormSource`."""

from mace_mm.evaluate.form_source import FormSource

__all__ = ["FormSource"]
