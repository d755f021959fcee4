"""The models that ship with the package, and how a setting names one of them or a file."""

from importlib import resources
from pathlib import Path

from mace_mm.errors import ArchiveError

BUNDLED_MODELS = ("small",)


def bundled_path(name: str = BUNDLED_MODELS[0]) -> Path:
    """Path of a model that ships with the package.

    Raises:
        ArchiveError: no bundled model has this name.
    """
    if name not in BUNDLED_MODELS:
        raise ArchiveError(f"bundled models are {list(BUNDLED_MODELS)}, got {name!r}")
    return Path(str(resources.files("mace_mm") / "models" / f"{name}.pt"))


def place_model(source: str, folder: Path) -> str:
    """What a configuration in ``folder`` calls its model, for readers anywhere.

    Returns:
        The name of a bundled model as it is, else the absolute path. A file goes before a name.
    """
    path = (folder / source).resolve()
    return source if source in BUNDLED_MODELS and not path.exists() else str(path)
