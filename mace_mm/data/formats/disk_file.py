"""A file under HDF5 that a full disk cannot crash.

HDF5 (1.14) ends the process with a segmentation fault when writes fail while a file with many
groups is closed. It writes through this object instead, which keeps the first error to itself.
"""

import io
from pathlib import Path


class DiskFile(io.FileIO):
    """A binary file for h5py whose failed writes are reported after closing, not during.

    Args:
        path: the file.
        mode: ``"w+b"`` for a new file or ``"r+b"`` to change one.

    Attributes:
        error: the first write that failed, or None; the content is worthless if there is one.
    """

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self.error: OSError | None = None

    def write(self, data: object) -> int:
        """Write all of the data, or remember why not and go on as if it were written."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        end = self.tell() + len(view)
        try:
            done = 0
            while self.error is None and done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = error
        self.seek(end)
        return len(view)

    def readinto(self, buffer: object) -> int:
        """Read; what a failed write left out is zeros."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        n_read = super().readinto(view) or 0
        if self.error is not None and n_read < len(view):
            view[n_read:] = bytes(len(view) - n_read)
            return len(view)
        return n_read

    def truncate(self, size: int | None = None) -> int:
        """Change the length, or remember why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0
