"""The optional packages of free-energy calculations, asked for in one place."""

import importlib.util
import logging

from mace_mm.errors import DependencyError

_NEEDED = ("openmmtools", "pymbar", "alchemlyb", "pandas", "pyarrow")


def check_dependencies(*further: str) -> None:
    """Make sure that sampling and analysis packages are installed.

    Args:
        further: importable names needed besides the common ones, such as ``distributed``.

    Raises:
        DependencyError: naming every package that is missing and how to get it.
    """
    missing = [name for name in (*_NEEDED, *further) if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"free-energy calculations need {', '.join(missing)}, not installed here: "
            "pip install 'mace_mm[free-energy]', or take them from conda-forge"
        )
    # pymbar greets with a banner about jax on every import, openmmtools with its own experiments.
    for name in ("pymbar", "openmmtools.multistate.multistatesampler"):
        logging.getLogger(name).setLevel(logging.ERROR)
