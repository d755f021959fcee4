"""Reading the settings of a training."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mace_mm.bundled_models import place_model
from mace_mm.settings import read_yaml, validated
from mace_mm.training.config import FilesConfig, TrainingConfig


def example_yaml() -> str:
    """Return a commented configuration, ready to run on the sample in examples/train."""
    return resources.files("mace_mm.training").joinpath("example.yaml").read_text("utf-8")


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a YAML file and apply `key=value` overrides (`stages.0.epochs=5`).

    Paths, also of the output, are relative to the YAML file's folder.

    Raises:
        ConfigError: no such file, not YAML, an unknown or missing key, a value of a wrong kind.
    """
    path = Path(path)
    return parse_config(read_yaml(path, overrides), origin=str(path), folder=path.parent)


def parse_config(
    values: dict[str, Any], *, origin: str = "configuration", folder: Path | None = None
) -> TrainingConfig:
    """Check settings; every problem is listed with its place in one `ConfigError`."""
    config = validated(values, TrainingConfig, origin)
    return config if folder is None else _resolve_paths(config, folder)


def _resolve_paths(config: TrainingConfig, folder: Path) -> TrainingConfig:
    def place(path: str) -> str:
        # Absolute, so that a run is recognized from wherever it is continued.
        return str((folder / path).resolve())

    def files(section: Sequence[FilesConfig]) -> tuple[FilesConfig, ...]:
        return tuple(f.model_copy(update={"path": place(f.path)}) for f in section)

    data = config.data.model_copy(
        update={"train": files(config.data.train), "validation": files(config.data.validation)}
    )
    changes: dict[str, Any] = {"data": data, "output": place(config.output)}
    if config.fine_tune is not None:
        tune = config.fine_tune
        model = place_model(tune.model, folder)
        changes["fine_tune"] = tune.model_copy(
            update={"model": model, "replay": files(tune.replay)}
        )
    return config.model_copy(update=changes)
