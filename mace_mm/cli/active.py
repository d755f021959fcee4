"""``mace-mm active``: explore until uncertain, label, train, again."""

import logging
from pathlib import Path

import typer
from rich.console import Console

from mace_mm.cli.openmp import wait_briefly
from mace_mm.cli.training_progress import RichReporter


def active(
    config: Path = typer.Argument(..., metavar="CONFIG.yaml", help="Settings; see the manual."),
) -> None:
    """Active learning: dynamics that stops where the model is unsure, labels, fine-tuning.

    Every finished step of every round is a file in the output folder; an interrupted run goes on
    after the last of them.
    """
    wait_briefly()
    from mace_mm.active.config import read_active_config
    from mace_mm.active.rounds import run_rounds

    settings = read_active_config(config)
    console = Console(stderr=True)
    logging.getLogger("mace_mm").setLevel(logging.INFO)

    def tell(number: int, n_found: int) -> None:
        console.print(
            f"round {number}: {n_found} uncertain frames labelled"
            if n_found
            else f"round {number}: no walk met an uncertain frame"
        )

    archive = run_rounds(
        settings,
        on_round=tell,
        make_reporter=lambda n_epochs: RichReporter(console, n_epochs),
    )
    console.print(f"the model is {archive}")
