"""Download a published data file: resumable, checked by size and checksum, whole or not at all."""

import hashlib
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mace_mm.errors import ConfigError, DataError
from mace_mm.settings import read_yaml

_LOG = logging.getLogger(__name__)
_BLOCK = 1 << 20

# (bytes done, bytes in all or None)
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Release:
    """Where a file is and how to know it.

    Attributes:
        url: http or https.
        checksum: "md5:" or "sha256:" and the digest in hexadecimal.
        size: bytes, None if unknown.
    """

    url: str
    checksum: str
    size: int | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"a release is fetched by http or https, got {self.url!r}")
        kind, _, digest = self.checksum.partition(":")
        length = {"md5": 32, "sha256": 64}.get(kind)
        if length is None or len(digest) != length or set(digest) - set("0123456789abcdef"):
            raise ConfigError(
                f"a checksum is md5: or sha256: and its hexadecimal digits, got {self.checksum!r}"
            )

    @property
    def file_name(self) -> str:
        """Last part of the URL's path."""
        return self.url.partition("?")[0].rstrip("/").rpartition("/")[2]


# The releases of SPICE on Zenodo, with the checksums Zenodo gives (CC0).
SPICE_RELEASES: Mapping[str, Release] = {
    "1.1.3": Release(
        url="https://zenodo.org/records/7606550/files/SPICE-1.1.3.hdf5",
        checksum="md5:be93706b3bb2b2e327b690b185905856",
    ),
    "1.1.4": Release(
        url="https://zenodo.org/records/8222043/files/SPICE-1.1.4.hdf5",
        checksum="md5:f27d4c81da0e37d6547276bf6b4ae6a1",
    ),
    "2.0.1": Release(
        url="https://zenodo.org/records/10975225/files/SPICE-2.0.1.hdf5",
        checksum="md5:bfba2224b6540e1390a579569b475510",
        size=37479271148,
    ),
}


def read_releases(path: str | Path) -> dict[str, Release]:
    """Read a YAML file: version -> url, checksum and (optional) size.

    Raises:
        ConfigError: the file is missing, not YAML, or an entry is incomplete.
    """
    content = read_yaml(path)
    releases = {}
    for version, fields in content.items():
        if not isinstance(fields, dict) or not {"url", "checksum"} <= set(fields):
            raise ConfigError(f"{path}: {version} needs url and checksum, got {fields!r}")
        unknown = sorted(set(fields) - {"url", "checksum", "size"})
        if unknown:
            raise ConfigError(f"{path}: {version} has unknown keys {', '.join(unknown)}")
        releases[str(version)] = Release(**fields)
    return releases


def fetch(
    release: Release,
    folder: str | Path,
    *,
    progress: Progress | None = None,
    attempts: int = 5,
    wait: float = 2.0,
    timeout: float = 60.0,
) -> Path:
    """Download a file unless it is there, and verify it.

    The bytes go to `<name>.partial`; a later call goes on where this one was stopped. The file
    gets its name after its checksum is right.

    Args:
        release: what to download.
        folder: made if it does not exist.
        progress: called with (bytes done, bytes in all or None).
        attempts: connections tried in a row without a single new byte.
        wait: seconds before another attempt, doubled each time.
        timeout: seconds without an answer.

    Returns:
        path of the verified file.

    Raises:
        DataError: it cannot be downloaded, there is no room, or the checksum is wrong (what was
            downloaded is then removed).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / release.file_name
    if path.exists():
        if _digest(path, release) != release.checksum:
            raise DataError(
                f"{path}: there is a file with another checksum than {release.checksum}; "
                "move it away to download the release"
            )
        return path
    partial = path.with_name(path.name + ".partial")
    failures = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            if _download(release, partial, progress, timeout):
                break
            reason = "the connection ended early"
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise DataError(f"{release.url}: {error}") from None
            reason = str(error)
        after = partial.stat().st_size if partial.exists() else 0
        failures = 1 if after > before else failures + 1
        if failures >= attempts:
            raise DataError(
                f"{release.url}: could not be downloaded: {reason}; {after} bytes are kept in "
                f"{partial} and the next call goes on from there"
            )
        _LOG.warning("%s: %s; trying again", release.url, reason)
        time.sleep(wait * 2 ** (failures - 1))
    found = _digest(partial, release)
    if found != release.checksum:
        partial.unlink()
        raise DataError(
            f"{release.url}: the checksum must be {release.checksum}, got {found}; "
            "what was downloaded is removed"
        )
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path


def _download(release: Release, partial: Path, progress: Progress | None, timeout: float) -> bool:
    """Append what is missing; True when the server has sent everything."""
    done = partial.stat().st_size if partial.exists() else 0
    if release.size is not None and done >= release.size:
        return True
    request = urllib.request.Request(release.url)  # noqa: S310 (http and https only, see Release)
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:
            # Nothing is left to send: the file is complete, and the checksum decides.
            return True
        raise
    with answer:
        if answer.status != 206:
            done = 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length is not None else release.size
        if total is not None:
            _check_room(partial, total - done)
        with open(partial, "ab" if done else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
    return total is None or done >= total


def _check_room(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if free < needed:
        raise DataError(
            f"{partial.parent}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        )


def _digest(path: Path, release: Release) -> str:
    kind = release.checksum.partition(":")[0]
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"
