"""
Blobs: the artifacts' content beside the segments.
"""

from __future__ import annotations

import hashlib
import os

from collections.abc import Iterable

from .. import _clock
from .._spool import WriterDirectory
from . import Blob


_COPY_BYTES = 1 << 20


def copy(directory: WriterDirectory, source: bytes | str) -> Blob:
    """
    Copy *source*, bytes or the file at a path, into the blobs of *directory*; raise OSError, and leave
    nothing, where the disk refuses.
    """
    folder = directory.make_blobs()
    temporary = folder / f"{_clock.new_id()}.tmp"
    digest, size = hashlib.sha256(), 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as target:
            for block in _blocks(source):
                digest.update(block)
                size += target.write(block)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # Content-addressed, with a suffix: the same bytes logged again must outlive the deletion of
    # the first copy.
    name = f"{digest.hexdigest()}.{_clock.new_id()[:8]}"
    temporary.rename(directory.blob(name))
    return Blob(name, size)


def _blocks(source: bytes | str) -> Iterable[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb") as file:
        while block := file.read(_COPY_BYTES):
            yield block
