"""One process at a time in a folder of results."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mace_mm.errors import BackendError, DataError

logger = logging.getLogger(__name__)

# What file systems of clusters answer that have no locks, or whose lock service is off.
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def only_process(folder: Path, doing: str) -> Iterator[None]:
    """Hold the folder, with a file `lock` in it.

    The system lets go of it when the process ends, however it ends; after a kill the file stays
    and means nothing. A file system without locks is warned of, and nothing is held.

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
        except OSError as error:
            if error.errno in NO_LOCKS:
                logger.warning("%s has no locks: start no second process there", path.parent)
                return lock
            lock.close()
            raise
        lock.close()
