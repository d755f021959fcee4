"""``mace-mm generate``: a labelled dataset from one protocol."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from mace_mm.generation.generate import Step
    from mace_mm.generation.protocol import Protocol
    from mace_mm.generation.report import Report

STEPS = ("molecules", "sample", "label", "assemble")
SHOWN = 10


def generate(
    config: Path = typer.Argument(..., help="The protocol, a YAML file."),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="Folder of the dataset; the protocol's name by default."
    ),
    workers: int | None = typer.Option(
        None, "--workers", "-w", help="Worker processes, in place of the protocol's (0: none)."
    ),
    until: str = typer.Option(
        "assemble", "--until", help=f"The last step to do: {', '.join(STEPS)}."
    ),
) -> None:
    """Make a labelled dataset in SPICE's layout; a run that was cut short goes on where it was."""
    from mace_mm.errors import ConfigError
    from mace_mm.generation.execution_settings import ExecutionSettings
    from mace_mm.generation.generate import Step
    from mace_mm.generation.protocol import read_protocol
    from mace_mm.generation.report import Report

    if until not in STEPS:
        raise ConfigError(f"--until wants one of {', '.join(STEPS)}; got {until!r}")
    protocol = read_protocol(config)
    if workers is not None:
        if workers < 0:
            raise ConfigError(f"--workers wants 0 or more; got {workers}")
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
        console=console,
    ) as bars:
        tasks: dict[str, object] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)  # type: ignore[arg-type]

        make(protocol, folder, until=until, progress=show, report=report)


def _summary(console: Console, report: "Report", folder: Path) -> None:
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
