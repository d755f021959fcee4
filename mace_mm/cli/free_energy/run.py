"""What the commands ``correct``, ``hydration`` and ``binding`` share: plan, progress, verdict."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

if TYPE_CHECKING:
    from mace_mm.free_energy.analysis.convergence import Verdict
    from mace_mm.free_energy.analysis.estimator import Estimate
    from mace_mm.free_energy.analysis.report import TextTable
    from mace_mm.free_energy.jobs.planner import Plan


class Stages(AbstractContextManager["Stages"]):
    """One progress bar a stage."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> "Stages":
        self._progress.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        """Move a stage's bar."""
        if stage not in self._tasks:
            self._tasks[stage] = int(self._progress.add_task(stage, total=total))
        self._progress.update(self._tasks[stage], completed=done)  # type: ignore[arg-type]


def show_plan(console: Console, plans: Iterable["Plan"]) -> None:
    """Print what each leg is expected to cost."""
    from mace_mm.free_energy.jobs.planner import describe_duration

    table = Table(
        Column("leg", no_wrap=True, overflow="fold"),
        "atoms",
        "platform",
        "ms/step",
        "steps",
        "further energies",
        "wall time",
    )
    total = 0.0
    lines = []
    for plan in plans:
        lines.append(f"{plan.name} starts from {plan.conformers}")
        lines += [f"{plan.name}, warning: {warning}" for warning in plan.warnings]
        total += plan.wall_s
        table.add_row(
            plan.name,
            str(plan.n_atoms),
            plan.platform,
            f"{plan.step_ms:.2f}",
            f"{plan.steps:,}",
            f"{plan.energies:,}",
            describe_duration(plan.wall_s),
        )
    console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False)
    console.print(f"expected wall time: {describe_duration(total)}", highlight=False)


def show_table(console: Console, content: "TextTable") -> None:
    """Print a table of words."""
    table = Table(*content.columns, title=content.title, title_justify="left")
    for row in content.rows:
        table.add_row(*row)
    console.print(table)


def show_result(
    console: Console, estimates: dict[str, "Estimate"], verdict: "Verdict", folder: object
) -> None:
    """Print the numbers, the verdict and where the report is."""
    table = Table("", "kJ/mol", "kcal/mol")
    for name, estimate in estimates.items():
        table.add_row(
            name,
            f"{estimate.value_kj_mol:.2f} ± {estimate.error_kj_mol:.2f}",
            f"{estimate.value_kcal_mol:.2f} ± {estimate.error_kcal_mol:.2f}",
        )
    console.print(table)
    if verdict.converged:
        console.print("[green]converged[/green]")
    else:
        console.print("[red]NOT CONVERGED[/red]")
        for reason in verdict.reasons:
            console.print(f"- {reason}", markup=False, highlight=False)
    for warning in verdict.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)
    console.print(f"report: {folder}/report.html", markup=False, highlight=False)
