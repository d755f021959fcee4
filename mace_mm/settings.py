"""Settings from YAML files: one reader, one way to override a value, one way to say what is wrong.

Paths in a settings file are relative to the folder of the file, whatever the command.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from mace_mm.errors import ConfigError

# Far above any protocol, far below what would exhaust memory before it is validated.
_MOST_BYTES = 32 << 20
_DEEPEST = 64
_MOST_NODES = 2_000_000

# What may become the name of a file or folder: nothing that leaves the output folder.
SafeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=100)]

AnyModel = TypeVar("AnyModel", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """The safe loader with a limit to nesting, and without repeated keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(
                None, None, f"more than {_DEEPEST} levels of nesting", mark
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is set twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML text.

    Raises:
        yaml.YAMLError: no YAML, a key that is set twice, a node that contains itself, or more
            nesting or repetition than settings have.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, {}, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_size(node: Any, sizes: dict[int, int], above: set[int]) -> int:
    """How many values a node stands for once its aliases are followed, without following them."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in above:
        raise yaml.composer.ComposerError(None, None, "a node contains itself", node.start_mark)
    if id(node) not in sizes:
        above.add(id(node))
        inside = node.value
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_check_size(part, sizes, above) for part in inside)
        above.remove(id(node))
        if sizes[id(node)] > _MOST_NODES:
            raise yaml.composer.ComposerError(
                None, None, f"aliases stand for more than {_MOST_NODES} values", node.start_mark
            )
    return sizes[id(node)]


def read_yaml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file of settings by name, and apply ``key=value`` overrides (``stages.0.epochs=5``).

    Raises:
        ConfigError: no such file, too large a file, not YAML, or no settings by name in it.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ConfigError(
                f"{path}: settings of at most {_MOST_BYTES >> 20} MiB were expected, "
                f"got {size >> 20} MiB"
            )
        values = parse_yaml(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: it is no UTF-8 text ({error.reason})") from error
    # PyYAML lets the errors of impossible dates and numbers through.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings (key: value), got {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    return values


def validated(values: dict[str, Any], kind: type[AnyModel], origin: str) -> AnyModel:
    """Settings from plain values; every problem is listed with its place.

    Args:
        values: by name.
        kind: the settings they must be.
        origin: what the values are, for the error.

    Raises:
        ConfigError: unknown or missing keys, values of a wrong kind.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"  {_describe(problem, kind)}" for problem in error.errors()]
        raise ConfigError("\n".join([f"{origin} has {len(lines)} problem(s):", *lines])) from error


def _describe(problem: Any, kind: type[BaseModel]) -> str:
    # Alternatives of a union and internal tags carry no meaning for the reader.
    place = ".".join(str(p) for p in problem["loc"] if not str(p).startswith(("literal[", "dict[")))
    if problem["type"] != "extra_forbidden":
        got = problem.get("input")
        # A section that lacks a key would be printed whole.
        shown = "" if isinstance(got, dict | list | BaseModel) else f" (got {got!r})"
        return f"{place or 'settings'}: {problem['msg']}{shown[:120]}"
    known = _known_keys(problem["loc"][:-1], kind)
    close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
    return f"{place}: unknown key{hint if known else ''}"


def _known_keys(place: Sequence[Any], kind: type[BaseModel]) -> list[str]:
    section: type[BaseModel] | None = kind
    for part in place:
        # Positions in lists and tags of unions name no field.
        if section is not None and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation)
    return sorted(section.model_fields) if section is not None else []


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The only kind of section that an annotation holds; None where there is none, or a choice."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = {_section_in(part) for part in getattr(annotation, "__args__", ())} - {None}
    return found.pop() if len(found) == 1 else None


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
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            raise ConfigError(f"{text!r}: there is no {part!r} to set in the configuration")
    try:
        parsed = parse_yaml(value)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{text!r} is not YAML: {error}") from error
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise ConfigError(f"{text!r}: there is no {last!r} to set in the configuration")
