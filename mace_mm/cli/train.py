"""``mace-mm train``: from a YAML file to a trained archive."""

import logging
from pathlib import Path

import typer
from rich.console import Console

from mace_mm.cli.openmp import wait_briefly
from mace_mm.cli.training_progress import RichReporter


def train(
    config: Path | None = typer.Argument(None, metavar="CONFIG.yaml", help="Settings of the run."),
    overrides: list[str] | None = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="Settings that replace those of the file."
    ),
    example: bool = typer.Option(False, "--example", help="Print a commented configuration."),
    check: bool = typer.Option(False, "--check", help="Check settings and data, then stop."),
    committee: int = typer.Option(1, min=1, help="Train this many models with different seeds."),
) -> None:
    """Train a model. A run that was interrupted continues where it stopped."""
    wait_briefly()
    from mace_mm.errors import ConfigError
    from mace_mm.training.committee import member_configs
    from mace_mm.training.config_file import example_yaml, read_config
    from mace_mm.training.train import check_training, train_one

    if example:
        Console(soft_wrap=True).print(example_yaml(), markup=False, highlight=False, end="")
        return
    if config is None:
        raise ConfigError("expected a configuration file; `mace-mm train --example` prints one")
    settings = read_config(config, overrides or [])
    console = Console(stderr=True)
    # What a run tells goes through the handler of the command line.
    logging.getLogger("mace_mm").setLevel(logging.INFO)
    for member in member_configs(settings, committee):
        if check:
            console.print(check_training(member))
        else:
            train_one(member, lambda n_epochs: RichReporter(console, n_epochs))
