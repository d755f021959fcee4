"""``mace-mm compile``: from a training checkpoint to an archive that is proven equal."""

from pathlib import Path

import typer
from rich.console import Console


def compile_(
    checkpoint: Path = typer.Argument(..., metavar="CHECKPOINT", help="File or run folder."),
    output: Path = typer.Option(..., "--output", "-o", help="The archive to write."),
    head: str | None = typer.Option(None, help="Which head, where the run has several."),
    weights: str = typer.Option("best", help="best, average or raw."),
) -> None:
    """Write the model of a checkpoint as an archive and check that both agree."""
    from mace_mm.training.archive import compile_checkpoint, domain_of_checkpoint
    from mace_mm.training.run.checkpoint import latest_checkpoint, list_checkpoints

    if checkpoint.is_dir() and list_checkpoints(checkpoint):
        latest_checkpoint(checkpoint)
        checkpoint = list_checkpoints(checkpoint)[-1]
    compile_checkpoint(
        checkpoint,
        output,
        head=head,
        weights=weights,
        domain=domain_of_checkpoint(checkpoint, head),
    )
    Console(stderr=True).print(f"wrote {output}")
