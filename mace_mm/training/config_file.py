"""Reading the settings of a run: YAML, overrides, and errors that name every problem."""

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mace_mm.bundled_models import place_model
from mace_mm.errors import ConfigError
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
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings (key: value), got {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    return parse_config(values, origin=str(path), folder=path.parent)


def parse_config(
    values: dict[str, Any], *, origin: str = "configuration", folder: Path | None = None
) -> TrainingConfig:
    """Check settings; every problem is listed with its place in one `ConfigError`."""
    try:
        config = TrainingConfig.model_validate(values)
    except ValidationError as error:
        lines = [f"  {_describe(e)}" for e in error.errors()]
        raise ConfigError("\n".join([f"{origin} has {len(lines)} problem(s):", *lines])) from error
    return config if folder is None else _resolve_paths(config, folder)


def _describe(error: Any) -> str:
    # Alternatives of a union and internal tags carry no meaning for the reader.
    place = ".".join(str(p) for p in error["loc"] if not str(p).startswith(("literal[", "dict[")))
    if error["type"] != "extra_forbidden":
        return f"{place or 'configuration'}: {error['msg']}"
    known = _known_keys(error["loc"][:-1])
    close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
    return f"{place}: unknown key{hint}"


def _known_keys(place: Sequence[Any]) -> list[str]:
    section: Any = TrainingConfig
    for part in place:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None
        )
        if section is None:
            return []
    return sorted(section.model_fields)


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"expected key=value, got {text!r}")
    *parents, last = key.split(".")
    node: Any = values
    for part in parents:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            raise ConfigError(f"{text!r}: there is no {part!r} to set in the configuration")
    parsed = yaml.safe_load(value)
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise ConfigError(f"{text!r}: there is no {last!r} to set in the configuration")


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
