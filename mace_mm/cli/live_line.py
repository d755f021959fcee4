"""The live line of a run, and stopping it with a signal."""

import signal
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from mace_mm.simulation.run.progress import Progress as RunProgress

# Lines in all where the output is no terminal, for each stage.
_N_PLAIN_LINES = 10


class LiveLine:
    """Shows where a run is: a live line on a terminal, else some plain lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}

    def show(self, progress: "RunProgress") -> None:
        """Take a report of the run."""
        state = f"{progress.potential_energy_kj_mol:.1f} kJ/mol"
        if progress.temperature_k is not None:
            state += f"  {progress.temperature_k:.0f} K"
        if progress.ns_per_day is not None:
            state += f"  {progress.ns_per_day:.3g} ns/day"
        if not self._console.is_terminal:
            self._print_sometimes(progress, state)
            return
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(
                progress.stage, total=progress.n_steps, completed=progress.step, state=state
            )
        else:
            self._bars.update(self._tasks[progress.stage], completed=progress.step, state=state)

    def _print_sometimes(self, progress: "RunProgress", state: str) -> None:
        tenth = progress.step * _N_PLAIN_LINES // progress.n_steps
        if self._tenths.get(progress.stage) != tenth:
            self._tenths[progress.stage] = tenth
            self._console.print(f"{progress.stage} {progress.step}/{progress.n_steps}  {state}")

    def __enter__(self) -> "LiveLine":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()


class StopOnSignal:
    """Remembers a first SIGINT or SIGTERM; a second one acts as usual."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._stop = False
        self._former = {number: signal.getsignal(number) for number in self._SIGNALS}

    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._stop

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def __enter__(self) -> "StopOnSignal":
        for number in self._SIGNALS:
            signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
