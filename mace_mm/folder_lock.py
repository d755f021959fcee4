"""One process at a time in a folder of results."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mace_mm.errors import BackendError, DataError


@contextmanager
def only_process(folder: Path, doing: str) -> Iterator[None]:
    """Hold the folder, with a file `lock` in it.

    The system lets go of it when the process ends, however it ends; after a kill the file stays
    and means nothing.

    Args:
        folder: made if it does not exist.
        doing: what for, for the message of the next process.

    Raises:
        BackendError: another process holds it.
        DataError: it cannot be made or written.
    """
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
    except BlockingIOError:
        raise BackendError(f"another process is {doing} in {folder}") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from error
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> TextIO:
    while True:
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file between the two lines above.
            if os.fstat(lock.fileno()).st_nlink:
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()
