"""``mace-mm import``: a published mace-torch model becomes an archive."""

from pathlib import Path

import typer
from rich.console import Console

from mace_mm.cli.data.files import OVERWRITE, check_replaceable


def import_model(
    file: Path = typer.Argument(..., metavar="FILE", help="A mace-torch .model file."),
    output: Path = typer.Option(..., "--output", "-o", help="The archive to write."),
    head: str | None = typer.Option(None, help="Which head, where the model has several."),
    total_charges: str | None = typer.Option(
        None, help="Total charges it was trained for, e, such as '0 -1', as its publisher says."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help=OVERWRITE),
) -> None:
    """Turn a published mace-torch model into an archive, without running the file's code."""
    from dataclasses import replace

    from mace_mm.archive.archive import save_archive
    from mace_mm.archive.open_model import open_model

    check_replaceable(output, overwrite)
    archive = open_model(file, head=head)
    if total_charges is not None:
        metadata = replace(archive.metadata, total_charges=_charges(total_charges))
        archive = replace(archive, metadata=metadata)
    save_archive(output, archive)
    Console(soft_wrap=True).print(
        f"wrote {output}: {archive.metadata.name}, {len(archive.config.atomic_numbers)} elements",
        markup=False,
        highlight=False,
    )


def _charges(text: str) -> tuple[int, ...]:
    from mace_mm.errors import ConfigError

    try:
        return tuple(sorted({int(word) for word in text.replace(",", " ").split()}))
    except ValueError as error:
        raise ConfigError(
            f"--total-charges wants whole numbers of e such as '0 -1', got {text!r}"
        ) from error
