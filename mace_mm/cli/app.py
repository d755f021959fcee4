"""The command line ``mace-mm``: one file a command, registered here.

A command file imports the heavy parts of the package inside its function, so that
``mace-mm --help`` answers at once.
"""

import logging
import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.logging import RichHandler

from mace_mm import __version__
from mace_mm.cli.active import active
from mace_mm.cli.benchmark import benchmark
from mace_mm.cli.compile import compile_
from mace_mm.cli.data.app import data
from mace_mm.cli.evaluate import evaluate
from mace_mm.cli.free_energy.binding import binding
from mace_mm.cli.free_energy.correct import correct
from mace_mm.cli.free_energy.hydration import hydration
from mace_mm.cli.generate import (
    generate,
    generate_frames,
    generate_labels,
    generate_molecules,
)
from mace_mm.cli.import_model import import_model
from mace_mm.cli.info import info
from mace_mm.cli.simulate import simulate
from mace_mm.cli.train import train
from mace_mm.cli.uncertainty import uncertainty
from mace_mm.errors import MaceMMError

app = typer.Typer(
    name="mace-mm",
    help="MACE potentials for molecular simulation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_DEBUG = "--debug"


def _show_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"mace_mm {__version__}", highlight=False)
        raise typer.Exit()


@app.callback()
def _root(
    debug: bool = typer.Option(False, _DEBUG, help="Show the stack trace of an error."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Tell what is chosen and why."),
    show_version: bool = typer.Option(
        False,
        "--version",
        help="Print the version and exit.",
        callback=_show_version,
        is_eager=True,
    ),
) -> None:
    """MACE potentials for molecular simulation."""
    log = logging.getLogger("mace_mm")
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    if not any(isinstance(handler, RichHandler) for handler in log.handlers):
        console = Console(stderr=True)
        log.addHandler(RichHandler(console=console, show_time=False, show_path=False))


app.command("import")(import_model)
app.command()(benchmark)
app.command()(info)
app.command()(simulate)
app.command()(evaluate)
app.command()(generate)
app.command()(generate_molecules)
app.command()(generate_frames)
app.command()(generate_labels)
app.command()(train)
app.command()(uncertainty)
app.command()(active)
app.command("compile")(compile_)
app.command()(correct)
app.command()(hydration)
app.command()(binding)
app.add_typer(data, name="data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of mace_mm end it with one sentence and exit code 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # --debug is taken wherever it stands, also after the command's own options.
    debug = _DEBUG in given
    try:
        app([argument for argument in given if argument != _DEBUG], prog_name="mace-mm")
    except MaceMMError as error:
        if debug:
            raise
        console = Console(stderr=True, soft_wrap=True)
        console.print("[bold red]error:[/bold red] ", end="")
        console.print(str(error), markup=False, highlight=False)
        sys.exit(1)
