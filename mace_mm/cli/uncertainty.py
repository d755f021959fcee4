"""``mace-mm uncertainty``: what a trained model does not know, calibrated on held-out frames."""

from pathlib import Path

import typer
from rich.console import Console


def uncertainty(
    run: Path = typer.Argument(..., metavar="RUN", help="Folder of a training run."),
    archive: Path = typer.Argument(..., metavar="ARCHIVE", help="The archive it wrote."),
    output: Path = typer.Option(..., "--output", "-o", help="The file to write."),
    max_frames: int = typer.Option(1000, min=1, help="Frames used, training and held-out each."),
) -> None:
    """Fit expected force errors of an archive from the frames of its training run.

    Use the file as MACECalculator(uncertainty=...) in ASE or with UncertaintyReporter in OpenMM.
    """
    from mace_mm.archive.archive import load_archive
    from mace_mm.errors import CheckpointError
    from mace_mm.training.config_file import parse_config
    from mace_mm.training.run.checkpoint import latest_checkpoint
    from mace_mm.training.start.setup import prepare_frames
    from mace_mm.training.uncertainty.fit import fit_uncertainty

    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        raise CheckpointError(f"{run}: expected the folder of a training run, got no checkpoint")
    frames = prepare_frames(parse_config(checkpoint.config, origin=f"configuration of {run}"))
    opened = load_archive(archive)
    fitted = fit_uncertainty(
        opened.potential,
        opened.sha256,
        frames.train.source,
        frames.validation.source,
        max_frames=max_frames,
    )
    fitted.save(output)
    Console(stderr=True).print(
        f"wrote {output}: expected force errors from {1e3 * float(fitted.errors[0]):.0f} to "
        f"{1e3 * float(fitted.errors[-1]):.0f} meV/Å on held-out frames"
    )
