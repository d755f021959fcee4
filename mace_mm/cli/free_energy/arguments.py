"""Arguments that the commands ``correct``, ``hydration`` and ``binding`` share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Settings of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace those of the file."),
]
Plan = Annotated[bool, typer.Option("--plan", help="Time the system, print the cost, stop.")]
