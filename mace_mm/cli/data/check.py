"""``mace-mm data check``: is this data fit for training?"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mace_mm.cli.data.files import (
    ATOMIC_ENERGIES,
    ENERGY_KEY,
    FILES,
    FORCES_KEY,
    SKIP_UNLABELLED,
    open_files,
    read_atomic_energies,
    show_progress,
)
from mace_mm.units import HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM

if TYPE_CHECKING:
    from mace_mm.data.check.check import CheckReport

_COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def check(
    files: list[Path] = typer.Argument(..., help=FILES),
    energy_key: str | None = typer.Option(None, help=ENERGY_KEY),
    forces_key: str | None = typer.Option(None, help=FORCES_KEY),
    skip_unlabelled: bool = typer.Option(False, "--skip-unlabelled", help=SKIP_UNLABELLED),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="Folder for report.md, report.json and report.png."
    ),
    atomic_energies: Path | None = typer.Option(
        None, help=f"{ATOMIC_ENERGIES}; fitted to the data by default."
    ),
    max_force: float = typer.Option(
        HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
        help="Largest force component in eV/Å; 1 hartree/bohr as in SPICE.",
        show_default=".2f",
    ),
    consistency: bool = typer.Option(
        False, "--consistency", help="Compare energies and forces in every molecule."
    ),
    max_frames: int | None = typer.Option(None, help="Look at a random sample of the frames."),
    seed: int = typer.Option(0, help="Of the random samples."),
    fail_on: str = typer.Option("error", help="Exit code 1 on: error or warning."),
) -> None:
    """Look for wrong units, missing or absurd labels, outliers and duplicates.

    Exit code 0: fit for training; 1: not.
    """
    from mace_mm.data.check.check import check_data
    from mace_mm.data.check.page import write_report
    from mace_mm.data.check.values import LEVELS, CheckSettings
    from mace_mm.errors import ConfigError

    if fail_on not in ("error", "warning"):
        raise ConfigError(f"--fail-on wants error or warning, got {fail_on!r}")
    console = Console()
    source = open_files(
        files, energy_key, forces_key, strict=False, skip_unlabelled=skip_unlabelled
    )
    energies = {"default": read_atomic_energies(atomic_energies)} if atomic_energies else {}
    settings = CheckSettings(
        consistency=consistency,
        max_frames=max_frames,
        seed=seed,
        atomic_energies=energies,
        max_force=max_force,
    )

    def progress(frames: Iterable[int]) -> Iterable[int]:
        return show_progress(Console(stderr=True), "reading frames", list(frames))

    report = check_data(source, settings, progress)
    title = ", ".join(file.name for file in files)
    _show(console, report, title)
    if output is not None:
        for path in write_report(output, report, title):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if LEVELS.index(report.worst) >= LEVELS.index(fail_on):
        raise typer.Exit(1)


def _show(console: Console, report: "CheckReport", title: str) -> None:
    scan = report.scan
    console.print(
        f"{title}: {report.n_molecules} molecules, {scan.index.size} frames, "
        f"{int(scan.n_atoms.sum())} atoms",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for column in ("level", "test", "finding"):
        table.add_column(column, overflow="fold")
    for finding in report.findings:
        color = _COLORS[finding.level]
        table.add_row(f"[{color}]{finding.level}[/{color}]", finding.check, escape(finding.text))
    console.print(table)
