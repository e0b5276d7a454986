"""
The spool on disk: directories, locks, lines, segments.

    <spool>/<destination>/              one per tracking address; the name is a hash of it without credentials
        destination.json                the address in words
        retired.log                     one line per finished writer: how many records it delivered, dropped and gave up
        dead.log                        dead letters of all writers
        <host>-<pid>-<random>/          one per writing process
            lock                        its owner holds an exclusive `flock` on this file
            owner.json                  host, pid, uid, and the tags that all runs of the process share
            00000001.seg …              records, in the order they were appended; at most 8 MiB each
            acks                        what became of them
            blobs/                      artifacts too large for a record

Every line of a ``.seg`` or log file is ``crc32(8 hex) SP json LF``. A line that fails its checksum
is skipped and counted, never interpreted.

Who may open it: files are made 0600 in directories 0700, never through a symbolic link
(`O_NOFOLLOW`), and a directory that belongs to another user or host is never taken over.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import socket
import stat
import zlib

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from . import _clock
from .exceptions import ConfigurationError


SEGMENT_BYTES = 8 << 20
_LINE_OVERHEAD = 10  # eight digits, a space, a line feed
_CREATE = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def safe_uri(uri: str) -> str:
    """
    Return *uri* without user, password, query and fragment: the only form that is logged, hashed or
    written.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:  # half an IPv6 address
        return re.sub(r"//[^/]*@", "//", uri).partition("?")[0]
    if not parts.netloc:
        return uri
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def destination_id(uri: str) -> str:
    """Return the directory name of the destination *uri*: 16 hex digits."""
    return hashlib.sha256(safe_uri(uri).rstrip("/").encode()).hexdigest()[:16]


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
    Make *path* 0700 with its parents, or accept one that is ours; raise `ConfigurationError` for
    anything else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.stat(path, follow_symlinks=False)
    except FileExistsError:
        raise ConfigurationError(
            f"spool_dir: {path} is a file, and a directory is needed there; remove it or set MLTRACE_SPOOL_DIR"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(
            f"spool_dir: {path} is not a directory (a symbolic link is not followed); set MLTRACE_SPOOL_DIR"
        )
    if found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"spool_dir: {path} belongs to uid {found.st_uid}, not to you; set MLTRACE_SPOOL_DIR to a directory of yours"
        )
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)


def open_append(path: Path) -> int:
    """Open *path* for appending, made 0600 if it is new."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | _CREATE, 0o600)


def append_line(path: Path, payload: bytes) -> None:
    """
    Append one line to the log *path* that several processes share; `O_APPEND` keeps lines whole.
    """
    descriptor = open_append(path)
    try:
        os.write(descriptor, frame(payload))
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[bytes | None]:
    """
    Yield the payloads of the log *path*, None for a damaged line; nothing where there is no such
    file.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in content.splitlines():
        yield unframe(line)


def write_whole(path: Path, content: bytes) -> None:
    """Write *path* so that a reader sees all of *content* or none of it."""
    temporary = path.with_name(f"{path.name}.{_clock.new_id()[:8]}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_EXCL | _CREATE, 0o600)
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


class WriterDirectory:
    """
    One process's directory, owned while `lock` is held.

    Create a new one, or take over a dead writer's with `adopt`.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, destination: Path, context: Mapping[str, str]) -> WriterDirectory:
        """
        Make and lock a new directory below *destination*; *context* are the tags that all runs of
        this process have in common.
        """
        path = destination / f"{_host()}-{os.getpid()}-{_clock.new_id()[:8]}"
        make_directory(path)
        made = cls(path, os.open(path / "lock", os.O_RDWR | _CREATE, 0o600))
        try:
            fcntl.flock(made._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            owner = {"host": _host(), "pid": os.getpid(), "uid": os.geteuid(), "context": dict(context)}
            write_whole(path / "owner.json", msgspec.json.encode(owner))
        except BaseException:  # a full disk is tried again every second, and is not to fill with attempts
            made.remove()
            raise
        return made

    @classmethod
    def adopt(cls, path: Path) -> WriterDirectory | None:
        """
        Take over *path* if its writer is gone: its lock is free, and host and uid are ours. None
        where it is not ours to take.
        """
        try:
            owner = msgspec.json.decode((path / "owner.json").read_bytes())
            if (
                owner["host"] != _host()
                or owner["uid"] != os.geteuid()
                or path.lstat().st_uid != os.geteuid()
            ):
                return None
            lock = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, msgspec.DecodeError, KeyError, TypeError):
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever finished it in the meantime removed the path; the lock held then is on a file
            # nobody can see.
            if os.fstat(lock).st_ino != (path / "lock").stat().st_ino:
                raise FileNotFoundError
        except OSError:
            os.close(lock)
            return None
        return cls(path, lock)

    def context(self) -> dict[str, str]:
        """Return the tags that all runs of the writer have in common."""
        try:
            found = msgspec.json.decode((self.path / "owner.json").read_bytes()).get("context", {})
        except (OSError, msgspec.DecodeError, AttributeError):
            return {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def segment(self, number: int) -> Path:
        """Return the path of segment *number*."""
        return self.path / f"{number:08d}.seg"

    def segments(self) -> list[int]:
        """Return the numbers of the segments that exist, ascending."""
        return sorted(int(path.stem) for path in self.path.glob("*.seg") if path.stem.isdigit())

    def blob(self, name: str) -> Path:
        """
        Return the path of the blob *name*; a name is a plain file name of our own making, and
        anything else is refused.
        """
        if not name or not all(part.isalnum() for part in name.split(".")):
            raise ConfigurationError(f"blob name {name!r} is not one that mltrace made")
        return self.path / "blobs" / name

    def release(self) -> None:
        """Give up ownership; the directory stays for the next process."""
        os.close(self._lock)

    def remove(self) -> None:
        """Delete the directory, finished and empty of records, and give up ownership."""
        for child in [*self.path.glob("blobs/*"), *self.path.iterdir()]:
            if child.is_dir():
                child.rmdir()
            elif child.name != "lock":
                child.unlink()
        (self.path / "lock").unlink()
        self.path.rmdir()
        self.release()


class DestinationDirectory:
    """
    The directory of one destination below the *spool*, shared by all processes of the user that log
    there.
    """

    def __init__(self, spool: Path, uri: str) -> None:
        self.uri = uri
        self.path = spool / destination_id(uri)

    def make(self) -> None:
        """Make the directory and say in ``destination.json`` which address it is for."""
        make_directory(self.path.parent)
        make_directory(self.path)
        if not (note := self.path / "destination.json").exists():
            write_whole(note, msgspec.json.encode({"uri": safe_uri(self.uri)}))

    def writers(self) -> list[Path]:
        """Return the directories of all writers, oldest first."""
        try:
            found = [
                (entry.stat().st_mtime, Path(entry.path))
                for entry in os.scandir(self.path)
                if entry.is_dir(follow_symlinks=False)
            ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [path for _, path in sorted(found)]

    def retire(
        self, directory: WriterDirectory, delivered: int, dead: int, dropped: Mapping[str, int]
    ) -> None:
        """Remove the finished *directory*, and keep its counts."""
        self.count(delivered, dead, dropped)
        directory.remove()

    def count(self, delivered: int, dead: int, dropped: Mapping[str, int]) -> None:
        """Keep counts of records beyond the life of the writer that had them."""
        if delivered or dead or dropped:
            append_line(
                self.retired,
                msgspec.json.encode({"delivered": delivered, "dead": dead, "dropped": dict(dropped)}),
            )

    @property
    def dead_letters(self) -> Path:
        """The log of dead letters."""
        return self.path / "dead.log"

    @property
    def retired(self) -> Path:
        """The log of finished writers."""
        return self.path / "retired.log"


def destinations(spool: Path) -> list[DestinationDirectory]:
    """Return every destination that has a directory in *spool*."""
    found: list[DestinationDirectory] = []
    for note in sorted(spool.glob("*/destination.json")):
        try:
            document: Any = msgspec.json.decode(note.read_bytes())
            directory = DestinationDirectory(spool, document["uri"])
        except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError):
            continue
        if directory.path == note.parent:
            found.append(directory)
    return found


def _host() -> str:
    return "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:60] or "host"
