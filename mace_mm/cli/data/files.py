"""What the commands on data files share: opening them with keys from the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from mace_mm.data.frames import ConcatFrames

FILES = "SPICE-style HDF5 (.hdf5, .h5), extended XYZ (.xyz, .extxyz), ASE databases (.db, .json)."
ENERGY_KEY = "Name of the energy; by default that of the format."
SKIP_UNLABELLED = "Molecules (HDF5) without the labels are left out, frames used without them."
ATOMIC_ENERGIES = "YAML file of isolated atoms, symbol: energy in eV"
FORCES_KEY = "Name of the forces (HDF5: of the gradient), by default that of the format."
OVERWRITE = "Replace an existing file."


def open_files(
    files: Sequence[Path],
    energy_key: str | None,
    forces_key: str | None,
    *,
    strict: bool,
    skip_unlabelled: bool = False,
) -> "ConcatFrames":
    """Open files one after the other as one source."""
    from mace_mm.data.formats.sources import open_source
    from mace_mm.data.frames import ConcatFrames

    sources = []
    for file in files:
        is_spice = file.suffix in (".h5", ".hdf5")
        keys: dict[str, object] = {
            "skip_unlabelled" if is_spice else "allow_missing": skip_unlabelled
        }
        if energy_key:
            keys["energy"] = energy_key
        if forces_key:
            keys["gradient" if is_spice else "forces"] = forces_key
        sources.append(open_source(file, keys, strict=strict))
    return ConcatFrames(sources)


def check_replaceable(output: Path, overwrite: bool) -> None:
    """Raise ConfigError where a file would be replaced and must not be."""
    from mace_mm.errors import ConfigError

    if output.exists() and not overwrite:
        raise ConfigError(f"{output} exists; --overwrite replaces it")


def show_progress(console: Console, label: str, items: Sequence[int]) -> Iterator[int]:
    """Yield the items under a progress bar."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, total=len(items))


def read_atomic_energies(path: Path) -> dict[int, float]:
    """Read isolated-atom energies in eV from a YAML file of symbols and numbers."""
    from mace_mm.elements import atomic_number
    from mace_mm.errors import ConfigError
    from mace_mm.settings import read_yaml

    try:
        return {atomic_number(str(key)): float(value) for key, value in read_yaml(path).items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: expected element: energy in eV; {error}") from None
