"""``mace-mm data fetch-spice``: download a release of SPICE."""

from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


def fetch_spice(
    version: str = typer.Argument("2.0.1", help="The release; `list` shows what is known."),
    folder: Path = typer.Option(Path("."), "--output", "-o", help="Folder for the file."),
    releases: Path | None = typer.Option(
        None, help="YAML file, version: {url, checksum, size}, in place of the built-in list."
    ),
) -> None:
    """Download a release of SPICE and verify its checksum; goes on where it was stopped."""
    from mace_mm.data.fetch import SPICE_RELEASES, fetch, read_releases
    from mace_mm.errors import ConfigError

    known = SPICE_RELEASES if releases is None else read_releases(releases)
    console = Console()
    if version == "list":
        for name, release in known.items():
            console.print(f"{name}  {release.url}  {release.checksum}", soft_wrap=True)
        return
    if version not in known:
        raise ConfigError(f"known releases are {', '.join(known)}, not {version!r}")
    columns = (TextColumn(known[version].file_name), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=known[version].size)
        path = fetch(
            known[version],
            folder,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"{path}: checksum verified", highlight=False, soft_wrap=True)
