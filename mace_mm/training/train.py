"""One training, from settings to the archives of its heads."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from mace_mm.archive.open_model import open_model
from mace_mm.files.folder_lock import only_process
from mace_mm.model.potential import Potential
from mace_mm.training.archive import compile_checkpoint, potential_of_checkpoint
from mace_mm.training.config import TrainingConfig
from mace_mm.training.run.allocator import keep_freed_memory
from mace_mm.training.run.checkpoint import checkpoint_path, is_checkpoint, load_checkpoint
from mace_mm.training.run.devices import make_fabric
from mace_mm.training.run.loop import TrainingLoop
from mace_mm.training.run.reporter import Reporter, SilentReporter
from mace_mm.training.start.setup import build_potential, prepare_frames

logger = logging.getLogger(__name__)

# Makes a reporter for a number of epochs; it is open while the loop runs.
MakeReporter = Callable[[int], AbstractContextManager[Reporter]]


def check_training(settings: TrainingConfig) -> str:
    """Build what a training would start with, and say in one line what it is.

    Raises:
        ConfigError, DataError: settings or data that cannot be trained with.
    """
    frames = prepare_frames(settings)
    potential = build_potential(settings, frames, base_potential(settings))
    n_weights = sum(p.numel() for p in potential.parameters())
    return (
        f"settings and data are in order: {len(frames.train.source)} training and "
        f"{len(frames.validation.source)} validation frames, {n_weights} weights"
    )


def train_one(settings: TrainingConfig, make_reporter: MakeReporter | None = None) -> list[Path]:
    """Train, or continue, and write an archive for each head.

    Args:
        settings: of the run.
        make_reporter: shows progress in the first process; silent without it.

    Returns:
        The archives; empty in processes other than the first.

    Raises:
        ConfigError, DataError: settings or data that cannot be trained with.
        BackendError: another process trains in the folder.
    """
    folder = Path(settings.output)
    frames = prepare_frames(settings)
    base = base_potential(settings)
    keep_freed_memory()
    fabric = make_fabric(settings.run, folder)
    n_epochs = sum(stage.epochs for stage in settings.stages)
    first = fabric.is_global_zero
    shown: AbstractContextManager[Reporter] = nullcontext(SilentReporter())
    if first and make_reporter is not None:
        shown = make_reporter(n_epochs)
    with only_process(folder, "training") if first else nullcontext(), shown as reporter:
        loop = TrainingLoop(settings, frames, fabric=fabric, base=base, reporter=reporter)
        loop.run()
    if not first:
        return []
    archives = []
    heads = settings.heads()
    for head in heads:
        name = settings.name if len(heads) == 1 else f"{settings.name}-{head}"
        archives.append(folder / f"{name}.pt")
        compile_checkpoint(
            checkpoint_path(folder, loop.progress.step),
            archives[-1],
            head=head,
            domain=frames.domains.get(head),
        )
        logger.info("wrote %s", archives[-1])
    return archives


def base_potential(settings: TrainingConfig) -> Potential | None:
    """What a fine-tuning starts from: an archive, a published model or a checkpoint."""
    if settings.fine_tune is None:
        return None
    model = settings.fine_tune.model
    if is_checkpoint(model):
        return potential_of_checkpoint(load_checkpoint(model), settings.fine_tune.head)
    return open_model(model, head=settings.fine_tune.head).potential
