"""The line that a training shows."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from mace_mm.training.run.progress import Progress as RunProgress


class RichReporter:
    """A line that moves: epoch, steps, errors of the last epoch, time left."""

    def __init__(self, console: Console, n_epochs: int) -> None:
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
        )

    def __enter__(self) -> "RichReporter":
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
