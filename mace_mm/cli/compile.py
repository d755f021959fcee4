"""``mace-mm compile``: from a training checkpoint to an archive that is proven equal."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

_LOG = logging.getLogger(__name__)

if TYPE_CHECKING:
    from mace_mm.model.potential import Potential
    from mace_mm.training.checkpoint import Checkpoint
    from mace_mm.training.domain import Domain


def compile_(
    checkpoint: Path = typer.Argument(..., metavar="CHECKPOINT", help="File or run folder."),
    output: Path = typer.Option(..., "--output", "-o", help="The archive to write."),
    head: str | None = typer.Option(None, help="Which head, where the run has several."),
    weights: str = typer.Option("best", help="best, average or raw."),
) -> None:
    """Write the model of a checkpoint as an archive and check that both agree."""
    from mace_mm.training.checkpoint import latest_checkpoint, list_checkpoints

    if checkpoint.is_dir() and list_checkpoints(checkpoint):
        latest_checkpoint(checkpoint)
        checkpoint = list_checkpoints(checkpoint)[-1]
    compile_checkpoint(
        checkpoint, output, head=head, weights=weights, domain=_domain(checkpoint, head)
    )
    Console(stderr=True).print(f"wrote {output}")


def _domain(path: Path, head: str | None) -> "Domain | None":
    """The range of the training frames, if they are still where the run found them.

    None for a tuned model, which also knows what its base was trained on.
    """
    from mace_mm.errors import ConfigError, DataError
    from mace_mm.training.checkpoint import load_checkpoint
    from mace_mm.training.config_file import parse_config
    from mace_mm.training.setup import prepare_frames

    checkpoint = load_checkpoint(path)
    try:
        config = parse_config(checkpoint.config, origin=f"settings of {path}")
        if config.fine_tune is not None:
            return None
        frames = prepare_frames(config)
    except (ConfigError, DataError) as error:
        _LOG.warning("the archive will not know the limits of its training data: %s", error)
        return None
    return frames.domains.get(head or checkpoint.model_config["heads"][0])


def potential_of_checkpoint(
    checkpoint: "Checkpoint", head: str | None, weights: str = "best"
) -> "Potential":
    """Rebuild one head of a checkpoint's potential, float64."""
    from mace_mm.deploy.select_head import select_head
    from mace_mm.training.restore import trained_potential

    return select_head(trained_potential(checkpoint, weights), head)


def compile_checkpoint(
    path: Path,
    output: Path,
    *,
    head: str | None = None,
    weights: str = "best",
    domain: "Domain | None" = None,
) -> None:
    """Write the archive of a checkpoint; see `compile_`.

    Without the `domain` of its training frames the archive does not know its limits, and a
    simulation can only warn by general rules.

    Raises:
        CheckpointError, ArchiveError: a file that cannot be read, or an archive that disagrees.
    """
    from datetime import UTC, datetime

    from mace_mm.deploy.archive import ArchiveMetadata, load_archive, make_archive, save_archive
    from mace_mm.training.checkpoint import load_checkpoint
    from mace_mm.training.restore import check_equal

    checkpoint = load_checkpoint(path)
    potential = potential_of_checkpoint(checkpoint, head, weights)
    data: dict[str, Any] = checkpoint.config["data"]
    metadata = ArchiveMetadata(
        name=checkpoint.config["name"],
        level_of_theory=data["level_of_theory"],
        training_data=data["description"],
        training_data_licence=data["licence"],
        created=datetime.now(UTC).date().isoformat(),
        results=_results(checkpoint),
        total_charges=() if domain is None else tuple(sorted(domain.charges)),
        shortest_distances={} if domain is None else domain.shortest_distances(),
    )
    save_archive(output, make_archive(potential, metadata))
    check_equal(checkpoint, head, weights, load_archive(output).potential)


def _results(checkpoint: "Checkpoint") -> dict[str, Any]:
    best = checkpoint.progress["best_epoch"]
    rows = [r for r in checkpoint.progress["history"] if r["epoch"] == best]
    return {
        "seed": checkpoint.config["seed"],
        "steps": checkpoint.progress["step"],
        "validation": {k: v for k, v in rows[0].items() if v == v} if rows else {},
    }
