"""``mace-mm train``: from a YAML file to a trained archive."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mace_mm.cli.openmp import wait_briefly

if TYPE_CHECKING:
    from mace_mm.model.potential import Potential
    from mace_mm.training.config import TrainingConfig
    from mace_mm.training.progress import Progress as RunProgress


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
        train_one(member, console, check)


def train_one(settings: "TrainingConfig", console: Console, check: bool) -> None:
    from mace_mm.cli.compile import compile_checkpoint
    from mace_mm.folder_lock import only_process
    from mace_mm.training.allocator import keep_freed_memory
    from mace_mm.training.checkpoint import checkpoint_path
    from mace_mm.training.devices import make_fabric
    from mace_mm.training.loop import TrainingLoop
    from mace_mm.training.setup import build_potential, prepare_frames

    folder = Path(settings.output)
    frames = prepare_frames(settings)
    base = _base(settings)
    if check:
        potential = build_potential(settings, frames, base)
        n_weights = sum(p.numel() for p in potential.parameters())
        console.print(
            f"settings and data are in order: {len(frames.train.source)} training and "
            f"{len(frames.validation.source)} validation frames, {n_weights} weights"
        )
        return
    keep_freed_memory()
    fabric = make_fabric(settings.run, folder)
    n_epochs = sum(stage.epochs for stage in settings.stages)
    first = fabric.is_global_zero
    with (
        only_process(folder, "training") if first else nullcontext(),
        _RichReporter(console, n_epochs, quiet=not first) as reporter,
    ):
        loop = TrainingLoop(settings, frames, fabric=fabric, base=base, reporter=reporter)
        loop.run()
    if first:
        heads = settings.heads()
        for head in heads:
            name = settings.name if len(heads) == 1 else f"{settings.name}-{head}"
            archive = folder / f"{name}.pt"
            compile_checkpoint(
                checkpoint_path(folder, loop.progress.step),
                archive,
                head=head,
                domain=frames.domains.get(head),
            )
            console.print(f"wrote {archive}")


def _base(settings: "TrainingConfig") -> "Potential | None":
    if settings.fine_tune is None:
        return None
    from mace_mm.cli.compile import potential_of_checkpoint
    from mace_mm.deploy.open_model import open_model
    from mace_mm.training.checkpoint import is_checkpoint, load_checkpoint

    model = settings.fine_tune.model
    if is_checkpoint(model):
        return potential_of_checkpoint(load_checkpoint(model), settings.fine_tune.head)
    return open_model(model, head=settings.fine_tune.head).potential


class _RichReporter:
    """A line that moves: epoch, steps, errors of the last epoch, time left."""

    def __init__(self, console: Console, n_epochs: int, quiet: bool) -> None:
        self._n_epochs = n_epochs
        self._last = ""
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[n_epochs]}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[errors]}"),
            console=console,
            disable=quiet,
        )

    def __enter__(self) -> "_RichReporter":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, progress: "RunProgress", n_batches: int) -> None:
        """Move the bar."""
        done = progress.epoch + progress.batch / max(n_batches, 1)
        if self._task is None:
            # The time left counts from here, also in a continued run.
            self._task = self._progress.add_task(
                "",
                total=self._n_epochs,
                epoch=0,
                n_epochs=self._n_epochs,
                errors="",
            )
        self._progress.update(
            self._task, completed=done, epoch=progress.epoch + 1, errors=self._last
        )

    def epoch(self, row: dict[str, float]) -> None:
        """Remember the errors."""
        self._last = (
            f"loss {row['validation_loss']:.4g}  "
            f"E {1e3 * row['validation_energy_mae']:.2f} meV/atom  "
            f"F {1e3 * row['validation_forces_mae']:.1f} meV/Å"
        )
