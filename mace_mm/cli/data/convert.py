"""``mace-mm data convert``: the same frames in another format."""

from pathlib import Path

import typer
from rich.console import Console

from mace_mm.cli.data.files import (
    ATOMIC_ENERGIES,
    ENERGY_KEY,
    FILES,
    FORCES_KEY,
    OVERWRITE,
    SKIP_UNLABELLED,
    check_replaceable,
    open_files,
    read_atomic_energies,
    show_progress,
)


def convert(
    files: list[Path] = typer.Argument(..., help=FILES),
    output: Path = typer.Option(
        ..., "--output", "-o", help="SPICE's layout, extended XYZ or ASE database, by its ending."
    ),
    energy_key: str | None = typer.Option(None, help=ENERGY_KEY),
    forces_key: str | None = typer.Option(None, help=FORCES_KEY),
    skip_unlabelled: bool = typer.Option(False, "--skip-unlabelled", help=SKIP_UNLABELLED),
    atomic_energies: Path | None = typer.Option(
        None, help=f"{ATOMIC_ENERGIES}; SPICE's layout needs them for its formation energies."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help=OVERWRITE),
) -> None:
    """Write frames with their labels in another format."""
    from mace_mm.data.formats.ase_database import write_ase_database
    from mace_mm.data.formats.extxyz import write_extxyz
    from mace_mm.data.formats.spice_writer import write_spice
    from mace_mm.data.frames import conformer_sets
    from mace_mm.errors import ConfigError

    endings = (".hdf5", ".h5", ".xyz", ".extxyz", ".db", ".json")
    if output.suffix not in endings:
        raise ConfigError(f"{output}: the name must end in {', '.join(endings)}")
    check_replaceable(output, overwrite)
    energies = read_atomic_energies(atomic_energies) if atomic_energies else None
    source = open_files(files, energy_key, forces_key, strict=True, skip_unlabelled=skip_unlabelled)
    bar = show_progress(Console(stderr=True), "converting", range(len(source)))
    n = len(source)
    if output.suffix in (".hdf5", ".h5"):
        write_spice(output, conformer_sets(source), atomic_energies=energies)
    elif output.suffix in (".xyz", ".extxyz"):
        write_extxyz(output, (source[i] for i in bar))
    else:
        write_ase_database(output, (source[i] for i in bar))
    Console().print(f"wrote {n} frames to {output}", highlight=False, soft_wrap=True)
