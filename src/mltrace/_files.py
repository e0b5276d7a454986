"""
Files of our own: opened only where they are, written whole or line by line, each line with a checksum.

Every line is ``crc32(8 hex) SP json LF``; one that fails its checksum is skipped and counted by
whoever reads, never interpreted. Files are made 0600 in directories 0700 and opened by
`open_private`, which takes only a regular file of ours with one name, in a directory that is no
link: what anybody has put in its place is neither followed nor waited for (`Foreign`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import zlib

from collections.abc import Iterator
from pathlib import Path

from . import _clock, _guard
from .exceptions import ConfigurationError


_LINE_OVERHEAD = 10  # eight digits, a space, a line feed


class Foreign(OSError):
    """What is in the place of a file or directory of the spool is not one of mltrace's making."""


def frame(payload: bytes) -> bytes:
    """Return *payload* as a line: checksum, space, payload, line feed."""
    return b"%08x %b\n" % (zlib.crc32(payload), payload)


def unframe(line: bytes) -> bytes | None:
    """
    Return the payload of *line* (without its line feed), or None where the checksum does not hold.
    """
    if len(line) < _LINE_OVERHEAD - 1 or line[8:9] != b" ":
        return None
    payload = line[9:]
    return payload if line[:8] == b"%08x" % zlib.crc32(payload) else None


def make_directory(path: Path) -> None:
    """
    Make *path* 0700 with its parents, or accept one that is ours, closed to others; raise
    `ConfigurationError` for anything else.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(open_directory(path))
    except Foreign as refusal:
        raise ConfigurationError(
            f"spool_dir: {refusal}; remove it or set MLTRACE_SPOOL_DIR to a directory of yours"
        ) from None


def open_directory(path: Path) -> int:
    """
    Open the directory *path* if it is ours, and close it to others; raise `Foreign` for anything
    else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        what = "a symbolic link, which is not followed" if path.is_symlink() else "a file"
        raise Foreign(f"{path} is {what}, and a directory is needed there") from None
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise Foreign(f"{path} belongs to uid {found.st_uid}, not to you")
        if found.st_mode & 0o077:
            os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def warn_of_open_parents(path: Path) -> None:
    """
    Warn where others can put something of theirs in the place of *path*.

    They can take the spool away then, but not read or forge it, which is why it is not refused:
    volumes of containers are often made like that.
    """
    for parent in path.resolve().parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            _guard.warn_once(
                f"open:{parent}",
                "everybody may rename what is in this directory, the spool too; make it private"
                " (chmod o-w) or set MLTRACE_SPOOL_DIR",
                directory=str(parent),
            )


def open_private(path: Path, flags: int) -> int:
    """
    Open *path*, made 0600 with `O_CREAT`, if it is a regular file of ours that has one name, in a
    directory that is no link; raise `Foreign` for anything else. Never waits: opening a FIFO would,
    for ever.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        descriptor = os.open(
            path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise Foreign(_not_ours(path)) from None
    finally:
        os.close(folder)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
        os.close(descriptor)
        raise Foreign(_not_ours(path))
    return descriptor


def _not_ours(path: Path) -> str:
    return (
        f"{path} is not a file of mltrace's own (a link, a special file, or another user's); it is not used"
    )


def read_private(path: Path) -> bytes:
    """Return the content of *path*; see `open_private`."""
    with open(open_private(path, os.O_RDONLY), "rb") as file:
        return file.read()


def open_append(path: Path) -> int:
    """Open *path* for appending, made 0600 if it is new."""
    return open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _open_log(path: Path) -> int:
    return open_private(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)


def append_line(path: Path, payload: bytes) -> None:
    """
    Append one line to the log *path* that several processes share.

    Raise OSError where the disk does not take all of it; the next line is not glued to the torn one.
    What is in the log's place and not ours is renamed: the directory is ours, so the name is.
    """
    with locked_log(path) as descriptor:
        end = os.fstat(descriptor).st_size
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        line = b"\n" * torn + frame(payload)
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, "the disk took only a part", str(path))


@contextlib.contextmanager
def locked_log(path: Path) -> Iterator[int]:
    """
    Open the log *path* and keep other processes from it: whoever holds the lock of the file that has
    the name may append to it, or put another one in its place.
    """
    while True:
        try:
            descriptor = _open_log(path)
        except Foreign as refusal:
            aside = path.with_name(f"{path.name}.{_clock.new_id()[:8]}.foreign")
            os.rename(path, aside)
            _guard.warn_once(f"foreign:{path}", f"{refusal}; it is called {aside.name} now")
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if has_name(descriptor, path):
                yield descriptor
                return
        finally:
            # By hand: a child that was forked meanwhile has the descriptor too, and would keep the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def has_name(descriptor: int, path: Path) -> bool:
    """Say whether the open file is still the one that is called *path*."""
    try:
        return os.fstat(descriptor).st_ino == path.lstat().st_ino
    except FileNotFoundError:
        return False


def read_lines(path: Path) -> Iterator[bytes | None]:
    """
    Yield the payloads of the log *path*, None for a damaged line; nothing where there is no such
    file of ours.
    """
    try:
        content = read_private(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except Foreign as refusal:
        _guard.warn_once(f"foreign:{path}", str(refusal))
        return
    for line in content.split(b"\n"):
        if line:
            yield unframe(line)


def write_whole(path: Path, content: bytes) -> None:
    """Write *path* so that a reader sees all of *content* or none of it."""
    temporary = path.with_name(f"{path.name}.{_clock.new_id()[:8]}.tmp")
    descriptor = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, "the disk took only a part", str(path))
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
