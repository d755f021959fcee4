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


def missing_openmmforcefields(error: ImportError) -> DependencyError:
    """What to say where the force fields for SD files are not installed."""
    return DependencyError(
        "parameters for an SD file come from openmmforcefields and openff-toolkit, which are on "
        "conda-forge and not on PyPI: conda install -c conda-forge openmmforcefields, or give "
        f"prmtop and inpcrd, or system_xml and pdb ({error})"
    )
