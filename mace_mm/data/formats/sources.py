"""Open a data file by what its name says it is."""

from pathlib import Path
from typing import Any

from mace_mm.data.formats.ase_database import AseDatabase, AseKeys
from mace_mm.data.formats.extxyz import ExtxyzFile
from mace_mm.data.formats.extxyz_format import ExtxyzKeys
from mace_mm.data.formats.spice import SpiceFile, SpiceKeys
from mace_mm.errors import ConfigError

_KINDS: dict[str, tuple[Any, Any]] = {
    ".hdf5": (SpiceFile, SpiceKeys),
    ".h5": (SpiceFile, SpiceKeys),
    ".xyz": (ExtxyzFile, ExtxyzKeys),
    ".extxyz": (ExtxyzFile, ExtxyzKeys),
    ".db": (AseDatabase, AseKeys),
    ".json": (AseDatabase, AseKeys),
}

Source = SpiceFile | ExtxyzFile | AseDatabase


def open_source(
    path: str | Path, keys: dict[str, Any] | None = None, *, strict: bool = True
) -> Source:
    """Open `.hdf5`/`.h5` (SPICE's layout), `.xyz`/`.extxyz` or `.db`/`.json` (ASE).

    Args:
        path: the file.
        keys: settings of SpiceKeys, ExtxyzKeys or AseKeys by name; the others keep their default.
        strict: raise on the first damaged item instead of listing it in `problems`.

    Raises:
        ConfigError: an ending or a setting that is not known.
        DataError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix not in _KINDS:
        raise ConfigError(f"{path}: the name must end in {', '.join(_KINDS)}")
    reader, kind = _KINDS[path.suffix]
    known = kind.__dataclass_fields__
    unknown = [key for key in keys or {} if key not in known]
    if unknown:
        raise ConfigError(
            f"{path}: unknown keys {', '.join(unknown)}; known are {', '.join(known)}"
        )
    return reader(path, kind(**(keys or {})), strict=strict)
