"""The checkpoint of a run: one JSON file, replaced atomically."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mace_mm.errors import ConfigError, DataError
from mace_mm.files.atomic_write import write_atomically

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RunCheckpoint:
    """Everything that continues a run in a new process.

    Attributes:
        identity: what must not change between the parts of a run, by name.
        step: integration steps done.
        elapsed_s: wall time spent in dynamics.
        log_bytes, trajectory_bytes: sizes of the two files when the checkpoint was written.
        state: OpenMM's State as XML: positions, velocities, box and parameters.
        watch: what the run's watch knew by then, None if nobody watched.
    """

    identity: dict[str, str]
    step: int
    elapsed_s: float
    log_bytes: int
    trajectory_bytes: int
    state: str
    watch: dict[str, Any] | None = None


def save_checkpoint(path: Path, checkpoint: RunCheckpoint) -> None:
    """Write a checkpoint; a crash leaves the former one intact."""
    content = json.dumps({"format": FORMAT_VERSION, **asdict(checkpoint)})
    write_atomically(path, content.encode())


def load_checkpoint(path: Path, identity: dict[str, str]) -> RunCheckpoint:
    """Read a checkpoint of the run that ``identity`` describes.

    Raises:
        DataError: the file is missing, damaged or of another format.
        ConfigError: it belongs to another run; the message names the first difference.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.pop("format")
        if found != FORMAT_VERSION:
            raise DataError(f"{path} has format {found}, this version reads {FORMAT_VERSION}")
        checkpoint = RunCheckpoint(**content)
    except FileNotFoundError as error:
        raise DataError(f"nothing to resume: {path} does not exist") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a checkpoint: {error}") from error
    for name in sorted(set(identity) | set(checkpoint.identity)):
        wanted, got = checkpoint.identity.get(name), identity.get(name)
        if wanted != got:
            raise ConfigError(f"the run in {path.parent} has {name} {wanted}, now {got} was given")
    return checkpoint
