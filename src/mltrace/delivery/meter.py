"""
Files on their way: how far each has come, for whoever shows progress.

An `Upload` is what `http.client` reads its body from, in blocks: a model of gigabytes is never in
memory.
"""

from __future__ import annotations

import os
import threading

from pathlib import Path
from typing import IO, NamedTuple

from .._files import open_private


class Progress(NamedTuple):
    """One upload: the artifact's path, and bytes of how many."""

    path: str
    sent: int
    total: int


_under_way: dict[int, Progress] = {}  # by thread


def under_way() -> list[Progress]:
    """Return the uploads that are under way in this process."""
    return list(_under_way.values())


class Upload:
    """The content of the private file *local*, which goes to *path*; a context manager."""

    def __init__(self, local: str | os.PathLike[str], path: str) -> None:
        descriptor = open_private(Path(local), os.O_RDONLY)
        self._file: IO[bytes] = os.fdopen(descriptor, "rb", buffering=0)
        self._path = path
        self.size = os.fstat(descriptor).st_size
        self._sent = 0

    def read(self, size: int = -1) -> bytes:
        """Read the next *size* bytes."""
        block = self._file.read(size)
        self._sent += len(block)
        _under_way[threading.get_ident()] = Progress(self._path, self._sent, self.size)
        return block

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *failure: object) -> None:
        _under_way.pop(threading.get_ident(), None)
        self._file.close()
