"""Files that options name, such as archives: what is in them decides results, too."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from mace_mm.generation.labels.settings import Option


def contents_of(options: Mapping[str, Option]) -> list[str]:
    """Hashes of the contents of all files among the values, in their order."""
    hashes = []
    for value in options.values():
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and Path(name).is_file():
                status = Path(name).stat()
                hashes.append(_hash(name, status.st_mtime_ns, status.st_size))
    return hashes


@lru_cache
def _hash(path: str, changed: int, size: int) -> str:
    """SHA-256 of a file; when it changed and its size tell one version from the next."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
