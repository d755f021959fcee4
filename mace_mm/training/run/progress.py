"""Where a run stands: everything besides tensors that a resumed run must know."""

import csv
import io
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mace_mm.errors import CheckpointError, TrainingError
from mace_mm.training.run.metrics import ErrorSums


@dataclass(kw_only=True)
class Progress:
    """Counters, best-so-far and history.

    Attributes:
        stage: index of the stage.
        stage_epoch: epochs of the stage that are complete.
        stage_step: steps of the stage that are done.
        epoch: epochs of the run that are complete; decides the order of the frames.
        batch: batches of this epoch that are done.
        step: steps of the run that are done.
        reductions: how often the plateau schedule cut the rate, this stage.
        waited: epochs since the plateau schedule last saw a better loss.
        since_best: epochs since the best validation loss of the stage.
        plateau_loss: what the plateau schedule compares with.
        best_loss: best validation loss of the stage.
        best_epoch: the epoch of the run it was seen in.
        train_sums: `ErrorSums` of this epoch so far.
        average_updates: updates of the weight average.
        history: one row an epoch.
        finished: all stages are done.
    """

    stage: int = 0
    stage_epoch: int = 0
    stage_step: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    reductions: int = 0
    waited: int = 0
    since_best: int = 0
    plateau_loss: float | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    train_sums: list[float] = field(default_factory=lambda: [0.0] * ErrorSums.SIZE)
    average_updates: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; floats survive exactly."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        """Rebuild from `to_dict`.

        Raises:
            CheckpointError: missing or unknown entries.
        """
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            raise CheckpointError(
                f"progress of the checkpoint has entries {sorted(values)}, expected {sorted(known)}"
            )
        return cls(**values)

    def next_stage(self) -> None:
        """Move to the next stage."""
        self.stage += 1
        self.stage_epoch = self.stage_step = 0
        self.reductions = self.waited = self.since_best = 0
        self.plateau_loss = self.best_loss = None

    def observe(self, loss: float, patience: int | None) -> bool:
        """Take note of an epoch's validation loss; True if it is the stage's best.

        Args:
            loss: validation loss.
            patience: epochs the plateau schedule waits; None if there is no such schedule.
        """
        if patience is not None:
            if self.plateau_loss is None or loss < self.plateau_loss:
                self.plateau_loss, self.waited = loss, 0
            else:
                self.waited += 1
                if self.waited >= patience:
                    self.reductions += 1
                    self.waited = 0
        better = self.best_loss is None or loss < self.best_loss
        if better:
            self.best_loss, self.best_epoch, self.since_best = loss, self.epoch, 0
        else:
            self.since_best += 1
        return better


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write the history as CSV, numbers in full precision.

    Raises:
        TrainingError: it cannot be written, for example because the disk is full.
    """
    if not history:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: repr(v) if isinstance(v, float) else v for k, v in r.items()} for r in history
    )
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text.getvalue())
        partial.replace(path)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}") from error
