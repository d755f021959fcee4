"""``mace-mm data difference``: labels minus a semi-empirical method."""

from pathlib import Path

import typer
from rich.console import Console

from mace_mm.cli.data.files import (
    ENERGY_KEY,
    FILES,
    FORCES_KEY,
    OVERWRITE,
    check_replaceable,
    open_files,
    show_progress,
)


def difference(
    files: list[Path] = typer.Argument(..., help=FILES),
    output: Path = typer.Option(..., "--output", "-o", help="Extended XYZ (.xyz, .extxyz)."),
    method: str = typer.Option("GFN2-xTB", help="GFN2-xTB, GFN1-xTB or IPEA1-xTB."),
    energy_key: str | None = typer.Option(None, help=ENERGY_KEY),
    forces_key: str | None = typer.Option(None, help=FORCES_KEY),
    overwrite: bool = typer.Option(False, "--overwrite", help=OVERWRITE),
) -> None:
    """Subtract an xTB method from the labels, for a model of the difference.

    Train on the result with a level of theory that ends in " minus METHOD"; the calculator
    `difference` of `mace-mm generate` adds the method again.
    """
    from mace_mm.data.formats.extxyz import write_extxyz
    from mace_mm.errors import ConfigError
    from mace_mm.generation.labels.difference import XTBBaseline

    # SPICE's layout wants formation energies, which a difference does not have.
    if output.suffix not in (".xyz", ".extxyz"):
        raise ConfigError(f"{output}: a difference is written as .xyz or .extxyz")
    check_replaceable(output, overwrite)
    baseline = XTBBaseline(method)
    source = open_files(files, energy_key, forces_key, strict=True)
    bar = show_progress(Console(stderr=True), f"subtracting {method}", range(len(source)))
    n = write_extxyz(output, (baseline.subtracted(source[i]) for i in bar))
    Console().print(f"wrote {n} frames minus {method} to {output}", highlight=False, soft_wrap=True)
