"""One door to every model: the bundled one, an archive, or a published mace-torch file."""

from pathlib import Path

from mace_mm.archive.archive import Archive, ArchiveMetadata, is_archive, load_archive, make_archive
from mace_mm.archive.import_mace import import_mace
from mace_mm.archive.select_head import select_head
from mace_mm.bundled_models import BUNDLED_MODELS, bundled_path, is_bundled
from mace_mm.errors import ArchiveError
from mace_mm.level_of_theory import subtracted_method


def model_path(source: str | Path | None = None) -> Path:
    """The file that `open_model` reads.

    Raises:
        ArchiveError: there is none.
    """
    if source is None:
        path = bundled_path()
    elif is_bundled(source, Path()):
        path = bundled_path(str(source))
    else:
        path = Path(source)
    if not path.is_file():
        raise ArchiveError(
            f"expected an archive, a mace-torch .model file or one of {list(BUNDLED_MODELS)}, got "
            f"{str(path)!r}, which " + ("is a folder" if path.is_dir() else "does not exist")
        )
    return path


def open_model(source: str | Path | None = None, *, head: str | None = None) -> Archive:
    """Open a model, also one that is no potential by itself; simulations take `open_potential`.

    Args:
        source: None for the first of `BUNDLED_MODELS`, the name of one of them, or the path of an
            archive or of a mace-torch `.model`. A file goes before a name.
        head: which head of a multi-head `.model` file; archives hold one.

    Raises:
        ArchiveError: missing, damaged or foreign file.
        UnsupportedModelError: a published model with features this package does not have.
        ConfigError: several heads and none chosen, or an unknown head.
    """
    path = model_path(source)
    if is_archive(path):
        return load_archive(path)
    potential = select_head(import_mace(path), head)
    metadata = ArchiveMetadata(
        name=path.stem,
        training_data_licence="see the publisher of the file",
        weights_licence="see the publisher of the file",
        description=f"Imported from the mace-torch file {path.name}.",
    )
    return make_archive(potential, metadata)


def open_potential(source: str | Path | None = None) -> Archive:
    """Open a model that can be simulated with.

    Raises:
        ArchiveError: see `open_model`, and a model that learned a difference.
        UnsupportedModelError, ConfigError: see `open_model`.
    """
    archive = open_model(source)
    method = subtracted_method(archive.metadata.level_of_theory)
    if method is not None:
        raise ArchiveError(
            f"expected a model of energies, got {str(source)!r}, which learned the difference "
            f"{archive.metadata.level_of_theory!r}: {method} has to be added, as the calculator "
            "`difference` of `mace-mm generate` does"
        )
    return archive
