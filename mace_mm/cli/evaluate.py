"""``mace-mm evaluate``: the errors of a model on labelled frames."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from mace_mm.training.evaluation import ErrorSummary

_COLUMNS = (
    ("energy_mae", "energy\nMAE"),
    ("energy_rmse", "energy\nRMSE"),
    ("relative_energy_mae", "relative\nenergy MAE"),
    ("forces_mae", "forces\nMAE"),
    ("forces_rmse", "forces\nRMSE"),
)


def evaluate(
    archive: Path = typer.Argument(..., help="An archive or a mace-torch .model file."),
    data: Path = typer.Argument(..., metavar="DATA.xyz", help="Labelled frames, extended XYZ."),
    energy_key: str = typer.Option("REF_energy", help="Name of the energy (eV)."),
    forces_key: str = typer.Option("REF_forces", help="Name of the forces (eV/Å)."),
    head: str | None = typer.Option(None, help="Which head, where a .model file has several."),
    precision: str = typer.Option("double", help="single or double."),
    skip_unknown: bool = typer.Option(
        False, "--skip-unknown", help="Leave out frames with elements the model does not know."
    ),
    output: Path | None = typer.Option(None, "--output", "-o", help="Write the table as JSON too."),
) -> None:
    """Compare energies and forces with the labels of a file, in all and by subset."""
    import torch

    from mace_mm.data.extxyz import ExtxyzFile
    from mace_mm.data.extxyz_format import ExtxyzKeys
    from mace_mm.deploy.open_model import open_model
    from mace_mm.errors import BackendError
    from mace_mm.training.evaluation import evaluate_frames, summarize

    dtypes = {"single": torch.float32, "double": torch.float64}
    if precision not in dtypes:
        raise BackendError(f"precision must be 'single' or 'double', got {precision!r}")
    potential = open_model(archive, head=head).potential.to(dtypes[precision])
    frames = ExtxyzFile(data, ExtxyzKeys(energy=energy_key, forces=forces_key))
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
        text = json.dumps({name: asdict(summary) for name, summary in summaries.items()}, indent=1)
        output.write_text(text + "\n", encoding="utf-8")


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
