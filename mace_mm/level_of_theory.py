"""Levels of theory in words, and those of a difference: "LEVEL minus METHOD"."""

_MINUS = " minus "


def difference(level: str, method: str) -> str:
    """The level of labels from which those of a method are subtracted."""
    return f"{level}{_MINUS}{method}"


def subtracted_method(level: str) -> str | None:
    """The method that has to be added again, None for a level that is no difference."""
    _, minus, method = level.rpartition(_MINUS)
    return method if minus else None
