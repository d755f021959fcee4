"""``mace-mm generate`` and its steps: a labelled dataset from one protocol."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from mace_mm.generation.generate import Step
    from mace_mm.generation.protocol import Protocol
    from mace_mm.generation.report import Report

SHOWN = 10

_CONFIG = typer.Argument(..., help="The protocol, a YAML file.")
_OUTPUT = typer.Option(
    None, "--output", "-o", help="Folder of the dataset; the protocol's name by default."
)
_WORKERS = typer.Option(
    None, "--workers", "-w", min=0, help="Worker processes, in place of the protocol's (0: none)."
)


def generate(
    config: Path = _CONFIG, output: Path | None = _OUTPUT, workers: int | None = _WORKERS
) -> None:
    """Make a labelled dataset in SPICE's layout; a run that was cut short goes on where it was."""
    _run(config, output, workers, "assemble")


def generate_molecules(
    config: Path = _CONFIG, output: Path | None = _OUTPUT, workers: int | None = _WORKERS
) -> None:
    """Only the first step of generate: read, filter and order the molecules, and report them."""
    _run(config, output, workers, "molecules")


def generate_frames(
    config: Path = _CONFIG, output: Path | None = _OUTPUT, workers: int | None = _WORKERS
) -> None:
    """The steps of generate up to the sampled frames, without labels."""
    _run(config, output, workers, "sample")


def generate_labels(
    config: Path = _CONFIG, output: Path | None = _OUTPUT, workers: int | None = _WORKERS
) -> None:
    """The steps of generate up to the labels, without the final files."""
    _run(config, output, workers, "label")


def _run(config: Path, output: Path | None, workers: int | None, until: str) -> None:
    from mace_mm.generation.generate import Step
    from mace_mm.generation.protocol import read_protocol
    from mace_mm.generation.report import Report
    from mace_mm.generation.work.execution_settings import ExecutionSettings

    protocol = read_protocol(config)
    if workers is not None:
        execution = ExecutionSettings(kind="local", workers=workers)
        protocol = protocol.model_copy(update={"execution": execution})
    console = Console(soft_wrap=True)
    report = Report(name=protocol.name)
    folder = output or Path(protocol.name)
    try:
        _with_bars(console, protocol, folder, Step(until), report)
    finally:
        _summary(console, report, folder)


def _with_bars(
    console: Console, protocol: "Protocol", folder: Path, until: "Step", report: "Report"
) -> None:
    from mace_mm.generation.generate import generate as make

    with Progress(
        TextColumn("{task.description:>16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        make(protocol, folder, until=until, progress=show, report=report)


def _summary(console: Console, report: "Report", folder: Path) -> None:
    items = ", ".join(f"{count} {kind}" for kind, count in sorted(report.items.items()))
    console.print(f"items: {items or 'none'}; frames: {sum(report.frames.values())}")
    for label, content in report.datasets.items():
        console.print(
            f"{label}: {content['frames']} frames of {content['molecules']} molecules in "
            f"{folder / content['file']}",
            highlight=False,
        )
    left_out = [*report.rejections, *report.notes]
    for entry in left_out[:SHOWN]:
        console.print(
            f"left out: [{entry.stage}] {entry.name}: {entry.reason}", markup=False, highlight=False
        )
    if len(left_out) > SHOWN:
        console.print(f"... and {len(left_out) - SHOWN} more left out", highlight=False)
    console.print(f"report: {folder / 'report.txt'}", highlight=False)
