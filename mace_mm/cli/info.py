"""``mace-mm info``: what a model file says about itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

if TYPE_CHECKING:
    from mace_mm.archive.archive import Archive


def info(
    archive: Path | None = typer.Argument(
        None,
        metavar="[ARCHIVE]",
        help="An archive, a .model file or `medium`; `small` if left out.",
    ),
    card: bool = typer.Option(False, "--card", help="Print the description too."),
) -> None:
    """Show the elements, architecture, origin and licences of a model."""
    from mace_mm.archive.open_model import open_model

    opened = open_model(archive)
    console = Console()
    table = Table(title=opened.metadata.name, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(opened):
        table.add_row(name, value)
    console.print(table)
    energies = Table("element", "isolated-atom energy (eV)", title_justify="left")
    e0 = opened.potential.atomic_energies.values[0].tolist()
    for symbol, energy in zip(_symbols(opened), e0, strict=True):
        energies.add_row(symbol, f"{energy:.6f}")
    console.print(energies)
    if card and opened.metadata.description:
        console.print(Markdown(opened.metadata.description))


def _symbols(archive: "Archive") -> list[str]:
    from mace_mm.elements import symbol

    return [symbol(z) for z in archive.config.atomic_numbers]


def _rows(archive: "Archive") -> Iterator[tuple[str, str]]:
    config, metadata = archive.config, archive.metadata
    n_weights = sum(p.numel() for p in archive.potential.network.parameters())
    yield "elements", " ".join(_symbols(archive))
    yield "level of theory", metadata.level_of_theory
    yield "trained on", metadata.training_data
    yield "licence of the data", metadata.training_data_licence
    yield "licence of the weights", metadata.weights_licence
    yield "molecular charges", " ".join(f"{q:+d}" for q in metadata.total_charges) or "unknown"
    yield "cutoff", f"{config.r_max:g} Å, {config.n_layers} layers"
    yield "channels", f"{config.channels}, hidden l up to {config.hidden_l_max}"
    yield "edges", f"l up to {config.l_max}, {config.n_radial} radial functions"
    yield "correlation", " ".join(str(nu) for nu in config.correlation)
    yield "pair repulsion", "ZBL" if config.pair_repulsion else "none"
    yield "distance transform", config.distance_transform or "none"
    yield "weights", f"{n_weights:,}"
    for name, value in metadata.results.items():
        yield name, str(value)
    yield "created", metadata.created or "unknown"
    yield "written by", f"mace_mm {metadata.package_version}"
    yield "sha256", archive.sha256
