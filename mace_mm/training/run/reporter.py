"""What is told about a run while it goes on."""

from typing import Protocol

from mace_mm.training.run.progress import Progress


class Reporter(Protocol):
    """Told about steps and epochs, in the first process."""

    def step(self, progress: Progress, n_batches: int) -> None:
        """Called after every step."""

    def epoch(self, row: dict[str, float]) -> None:
        """Called after every epoch with its row of the history."""


class SilentReporter:
    """Says nothing."""

    def step(self, progress: Progress, n_batches: int) -> None:
        """Do nothing."""

    def epoch(self, row: dict[str, float]) -> None:
        """Do nothing."""
