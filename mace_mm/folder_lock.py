"""One process at a time in a folder of results."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mace_mm.errors import BackendError, DataError


@contextmanager
def only_process(folder: Path, doing: str) -> Iterator[None]:
    """Hold the folder; the system lets go of it when the process ends, however it ends.

    Args:
        folder: made if it does not exist; the file `lock` in it stays.
        doing: what for, for the message of the next process.

    Raises:
        BackendError: another process holds it.
        DataError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackendError(f"another process is {doing} in {folder}") from None
        yield
