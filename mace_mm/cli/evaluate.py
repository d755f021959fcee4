"""``mace-mm evaluate``: the errors of a model on labelled frames."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from mace_mm.training.evaluation.errors import ErrorSummary

_COLUMNS = (
    ("energy_mae", "energy\nMAE"),
    ("energy_rmse", "energy\nRMSE"),
    ("relative_energy_mae", "relative\nenergy MAE"),
    ("forces_mae", "forces\nMAE"),
    ("forces_rmse", "forces\nRMSE"),
)


def evaluate(
    archive: Path = typer.Argument(..., help="An archive or a mace-torch .model file."),
    data: Path = typer.Argument(
        ..., metavar="DATA", help="Labelled frames: extended XYZ, or HDF5 in SPICE's layout."
    ),
    energy_key: str = typer.Option("REF_energy", help="Name of the energy (eV)."),
    forces_key: str = typer.Option("REF_forces", help="Name of the forces (eV/Å)."),
    head: str | None = typer.Option(None, help="Which head, where a .model file has several."),
    precision: str = typer.Option("double", help="single or double."),
    skip_unknown: bool = typer.Option(
        False, "--skip-unknown", help="Leave out frames with elements the model does not know."
    ),
    output: Path | None = typer.Option(None, "--output", "-o", help="Write the table as JSON too."),
    report: Path | None = typer.Option(None, help="Write an HTML report with pictures."),
    history: Path | None = typer.Option(
        None, help="history.csv of a training run, for learning curves in the report."
    ),
) -> None:
    """Compare energies and forces with the labels of a file, in all and by subset."""
    import torch

    from mace_mm.archive.open_model import open_model
    from mace_mm.errors import BackendError
    from mace_mm.training.config import FilesConfig
    from mace_mm.training.evaluation.errors import evaluate_frames, summarize
    from mace_mm.training.evaluation.page import write_html, write_json
    from mace_mm.training.frames import open_file

    dtypes = {"single": torch.float32, "double": torch.float64}
    if precision not in dtypes:
        raise BackendError(f"precision must be 'single' or 'double', got {precision!r}")
    potential = open_model(archive, head=head).potential.to(dtypes[precision])
    frames = open_file(
        FilesConfig(path=str(data), energy_key=energy_key, forces_key=forces_key), seed=0
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("evaluating", total=len(frames))
        errors = evaluate_frames(
            potential,
            frames,
            dtype=dtypes[precision],
            skip_unknown=skip_unknown,
            on_progress=lambda done: progress.update(task, completed=done),
        )
    subsets = sorted({error.subset for error in errors})
    summaries = {}
    if len(subsets) > 1:
        for subset in subsets:
            chosen = [error for error in errors if error.subset == subset]
            summaries[subset or "(no subset)"] = summarize(chosen)
    summaries["all"] = summarize(errors)
    Console().print(_table(f"{archive.name} on {data.name}", summaries))
    left_out = len(frames) - len(errors)
    if left_out:
        console.print(f"left out {left_out} of {len(frames)} frames: elements unknown to the model")
    if output is not None:
        write_json(output, summaries)
    if report is not None:
        write_html(
            report,
            title=f"{archive.name} on {data.name}",
            summaries=summaries,
            errors=errors,
            molecule_names=[entry.name for entry in frames.entries],
            history=history,
        )


def _table(title: str, summaries: "dict[str, ErrorSummary]") -> Table:
    table = Table(
        title=title,
        title_justify="left",
        caption="energies in meV/atom, forces in meV/Å; relative: without each molecule's mean",
        caption_justify="left",
    )
    table.add_column("subset")
    table.add_column("frames", justify="right")
    for _, heading in _COLUMNS:
        table.add_column(heading, justify="right")
    for name, summary in summaries.items():
        values = [getattr(summary, field) for field, _ in _COLUMNS]
        cells = ["-" if value is None else f"{value * 1e3:.2f}" for value in values]
        table.add_row(name, str(summary.n_frames), *cells)
    return table
