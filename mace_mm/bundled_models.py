"""The models that ship with the package, and how a setting names one of them or a file."""

from importlib import resources
from pathlib import Path

from mace_mm.errors import ArchiveError

BUNDLED_MODELS = ("small", "medium")


def bundled_path(name: str = BUNDLED_MODELS[0]) -> Path:
    """Path of a model that ships with the package.

    Raises:
        ArchiveError: no bundled model has this name.
    """
    if name not in BUNDLED_MODELS:
        raise ArchiveError(f"bundled models are {list(BUNDLED_MODELS)}, got {name!r}")
    return Path(str(resources.files("mace_mm") / "models" / f"{name}.pt"))


def is_bundled(source: str | Path, folder: Path) -> bool:
    """Whether ``source`` names a bundled model; a file of that name in ``folder`` goes first."""
    return str(source) in BUNDLED_MODELS and not (folder / source).exists()


def place_model(source: str, folder: Path) -> str:
    """What a configuration in ``folder`` calls its model, for readers anywhere.

    Returns:
        The name of a bundled model as it is, else the absolute path.
    """
    return source if is_bundled(source, folder) else str((folder / source).resolve())
