"""Training checkpoints: the whole state of a run in one file, read back bit for bit.

A file holds tensors and one JSON text, so that `torch.load(weights_only=True)` reads it. Files
appear whole or not at all; a file damaged afterwards is passed over for the one before.
"""

import io
import json
import logging
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mace_mm import __version__
from mace_mm.errors import CheckpointError

_LOG = logging.getLogger(__name__)

FORMAT = "mace_mm training checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """State of a run between two steps.

    Attributes:
        config: the run's settings, as JSON values.
        model_config: of the network, as JSON values.
        weights: state of the potential (raw weights and isolated-atom energies).
        average: averaged parameters, in the order of the potential's parameters.
        best: parameters with the best validation loss so far; empty before the first epoch.
        optimizer: its state.
        rng: state of torch's CPU generator.
        progress: counters, best-so-far and history, as JSON values.
    """

    config: dict[str, Any]
    model_config: dict[str, Any]
    weights: dict[str, torch.Tensor]
    average: list[torch.Tensor]
    best: list[torch.Tensor]
    optimizer: dict[str, Any]
    rng: torch.Tensor
    progress: dict[str, Any]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"checkpoint-{step:09d}.pt"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file that appears only when it is complete and on the disk.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "config": checkpoint.config,
        "model_config": checkpoint.model_config,
        "progress": checkpoint.progress,
    }
    content = {
        "header": json.dumps(header),
        "weights": checkpoint.weights,
        "average": checkpoint.average,
        "best": checkpoint.best,
        "optimizer": checkpoint.optimizer,
        "rng": checkpoint.rng,
    }
    # Through memory: torch's own writer does not say that a disk is full.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    partial: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=".pt")
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        CheckpointError: missing, truncated, damaged, foreign or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(f"{path} is truncated or not a checkpoint: {error}") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: checksum of {damaged} does not match")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        header = json.loads(content["header"])
        wrong = header["format"] != FORMAT
        version = int(header["format_version"])
    except (RuntimeError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a mace_mm checkpoint: {error}") from error
    except Exception as error:  # noqa: BLE001 - pickle.UnpicklingError, without importing pickle
        if type(error).__name__ != "UnpicklingError":
            raise
        raise CheckpointError(f"{path} is not a mace_mm checkpoint: {error}") from error
    if wrong:
        raise CheckpointError(f"{path} is {header['format']!r}, expected {FORMAT!r}")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by mace_mm {header.get('package_version')} in checkpoint version "
            f"{version}; this mace_mm {__version__} reads up to {FORMAT_VERSION}: update mace_mm"
        )
    return Checkpoint(
        config=header["config"],
        model_config=header["model_config"],
        weights=content["weights"],
        average=content["average"],
        best=content["best"],
        optimizer=content["optimizer"],
        rng=content["rng"],
        progress=header["progress"],
    )


def is_checkpoint(path: str | Path) -> bool:
    """Whether the file looks like a training checkpoint, damaged or not."""
    return Path(path).name.startswith("checkpoint-")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted(folder.glob("checkpoint-*.pt"))


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that can be read; None if the folder has none.

    Raises:
        CheckpointError: there are checkpoints and none can be read, or the newest is of a newer
            version of this package.
    """
    paths = list_checkpoints(folder)
    errors = []
    for path in reversed(paths):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            if "update mace_mm" in str(error):
                raise
            errors.append(str(error))
            _LOG.error("%s; falling back to the checkpoint before it", error)
    if errors:
        raise CheckpointError("no checkpoint can be read:\n" + "\n".join(errors))
    return None


def remove_old(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what interrupted writes left."""
    for path in list_checkpoints(folder)[:-keep]:
        path.unlink(missing_ok=True)
    for path in folder.glob(".partial-*.pt"):
        path.unlink(missing_ok=True)
