"""``mace-mm data split``: divide a data set by molecule."""

from pathlib import Path

import typer
from rich.console import Console

from mace_mm.cli.data.files import ENERGY_KEY, FILES, FORCES_KEY, SKIP_UNLABELLED, open_files


def split(
    files: list[Path] = typer.Argument(..., help=FILES),
    output: Path = typer.Option(..., "--output", "-o", help="The split, a JSON file."),
    by: str = typer.Option("molecule", help="Keep together: molecule, scaffold or formula."),
    valid: float = typer.Option(0.05, help="Fraction of the frames for validation."),
    test: float = typer.Option(0.05, help="Fraction of the frames for testing."),
    seed: int = typer.Option(0, help="Of the shuffle."),
    energy_key: str | None = typer.Option(None, help=ENERGY_KEY),
    forces_key: str | None = typer.Option(None, help=FORCES_KEY),
    skip_unlabelled: bool = typer.Option(False, "--skip-unlabelled", help=SKIP_UNLABELLED),
) -> None:
    """Divide molecules into train, valid and test, so that none has frames on two sides."""
    from mace_mm.data.split import save_split, split_by_molecule

    source = open_files(files, energy_key, forces_key, strict=True, skip_unlabelled=skip_unlabelled)
    fractions = {"train": 1.0 - valid - test, "valid": valid, "test": test}
    made = split_by_molecule(source, fractions, by=by, seed=seed)
    save_split(output, made, source)
    console = Console()
    for part, members in made.parts.items():
        n = len(made.frames(source, part))
        console.print(f"{part}: {len(members)} molecules, {n} frames", highlight=False)
