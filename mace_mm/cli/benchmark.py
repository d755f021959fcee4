"""``mace-mm benchmark``: how fast a model is on this machine."""

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from mace_mm.errors import InputError


def benchmark(
    model: Path | None = typer.Argument(
        None, help="An archive, a .model file or `medium`; `small` if left out."
    ),
    atoms: list[int] = typer.Option(
        [27, 192, 1029], "--atoms", "-n", help="Sizes; 27 is a ligand, others a box of water."
    ),
    engines: list[str] = typer.Option(
        ["native", "reference"], "--engine", "-e", help="native or reference; may be repeated."
    ),
    precision: str = typer.Option("single", help="single or double."),
    peers: list[str] = typer.Option(
        [], "--peer", help="NAME=COMMAND of a script in benchmarks/, run by its own Python."
    ),
    seconds: float = typer.Option(3.0, min=0.1, help="Spent on each engine and size."),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="Folder for the table, a JSON file and a plot."
    ),
) -> None:
    """Time energy and forces of each engine, with ratios, medians and the machine."""
    from mace_mm.archive.open_model import open_model
    from mace_mm.simulation.benchmark import page as benchmark_report
    from mace_mm.simulation.benchmark.timing import make_system, run_benchmark

    commands = dict(_split(peer) for peer in peers)
    archive = open_model(model)
    systems = [make_system(n) for n in sorted(set(atoms))]
    console = Console()
    with console.status("starting") as status:
        found = run_benchmark(
            archive,
            systems,
            model_path=model,
            engines=engines,
            precision=precision,
            peers=commands,
            seconds=seconds,
            say=lambda text: status.update(text),
        )
    table = Table(title=f"{found.model}; {found.machine}", title_justify="left")
    for heading in benchmark_report.HEADINGS:
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    last = None
    for row in benchmark_report.rows(found):
        if last not in (None, row[0]):
            table.add_section()
        last = row[0]
        table.add_row(*row)
    console.print(table)
    for note in found.notes:
        console.print(note, style="yellow", markup=False)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "benchmark.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n")
        (output / "benchmark.md").write_text(benchmark_report.as_markdown(found))
        benchmark_report.plot(found, output / "benchmark.png")
        console.print(f"written to {output}", markup=False)


def _split(peer: str) -> tuple[str, str]:
    name, mark, command = peer.partition("=")
    if not mark or not name or not command:
        raise InputError(f"--peer wants NAME=COMMAND, got {peer!r}")
    return name, command
