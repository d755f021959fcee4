"""``mace-mm data``: look at, divide, change and fetch training data."""

import typer

from mace_mm.cli.data.check import check
from mace_mm.cli.data.convert import convert
from mace_mm.cli.data.difference import difference
from mace_mm.cli.data.fetch import fetch_spice
from mace_mm.cli.data.split import split

data = typer.Typer(help="Look at, divide, change and fetch training data.", no_args_is_help=True)
data.command()(check)
data.command()(split)
data.command()(convert)
data.command()(difference)
data.command("fetch-spice")(fetch_spice)
