"""
The spool on disk: directories, locks, lines, segments.

    <spool>/<destination>/              one per tracking address; the name is a hash of it without credentials
        destination.json                the address in words
        retired.log                     one line per finished writer: how many records it took, delivered, dropped and gave up
        dead.log, dead/                 dead letters of all writers, and the artifacts that belong to them
        reconcile.log                   where duplicates of unclear creations may still turn up
        <host>-<pid>-<random>/          one per writing process
            lock                        its owner holds an exclusive `flock` on this file
            owner.json                  host, boot, pid, uid, and what all runs of the process share
            tally                       how many records the writer has taken and dropped, by cause
            00000001.seg …              records, in the order they were appended; at most 8 MiB each
            acks                        what became of them
            blobs/                      artifacts too large for a record

Every line of a ``.seg`` or log file is ``crc32(8 hex) SP json LF``. A line that fails its checksum
is skipped and counted, never interpreted.

The count. Records are numbered from 1 without gaps, dropped ones included. So what damage has taken
is known exactly: the numbers up to the last that are neither acknowledged nor on disk nor dropped.
The last number is the largest that a line or the tally names. The tally is written over in place,
which needs no space on a full disk: at every drop, every `TALLY_EVERY` records, with each segment
and at the end. Only of a writer that was killed *and* whose last segment then lost its end does it
know up to `TALLY_EVERY` - 1 records too few.

Who may open it: files are made 0600 in directories 0700, never through a symbolic link
(`O_NOFOLLOW`), and a directory that belongs to another user or host is never taken over.
"""

from __future__ import annotations

import contextlib
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
TALLY_EVERY = 64
"""A power of two: how many records a writer takes between two notes of their number."""

_TALLY_BYTES = 1024
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

    Raise OSError where the disk does not take all of it; the next line is not glued to the torn one.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | _CREATE, 0o600)
    try:
        end = os.fstat(descriptor).st_size
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        line = b"\n" * torn + frame(payload)
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, "the disk took only a part", str(path))
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
    for line in content.split(b"\n"):
        if line:
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


class Owner(msgspec.Struct, frozen=True):
    """
    Who writes a directory, as ``owner.json`` says.

    *boot* is the system's boot: after another one the last acknowledgements may be missing.
    *context* are the tags that all runs of the process have in common, *experiment* is where a run
    goes whose own start was damaged.
    """

    host: str
    pid: int
    uid: int
    boot: str = ""
    context: dict[str, str] = {}
    experiment: str = ""


class Tally(msgspec.Struct, frozen=True):
    """
    How many records a writer has *accepted*, and *dropped* by cause; *memory*: how many of them
    only its memory holds, because the disk refuses them.
    """

    accepted: int = 0
    dropped: dict[str, int] = {}
    memory: int = 0


class WriterDirectory:
    """
    One process's directory, owned while `lock` is held.

    Create a new one, or take over a dead writer's with `adopt`.
    """

    def __init__(self, path: Path, lock: int, owner: Owner, tally: int = -1) -> None:
        self.path = path
        self.owner = owner
        self._lock = lock
        self._tally = tally

    @classmethod
    def create(cls, destination: Path, context: Mapping[str, str], experiment: str = "") -> WriterDirectory:
        """
        Make and lock a new directory below *destination*; *context* are the tags that all runs of
        this process have in common, *experiment* the one of runs that name none.
        """
        path = destination / f"{_host()}-{os.getpid()}-{_clock.new_id()[:8]}"
        owner = Owner(_host(), os.getpid(), os.geteuid(), _boot(), dict(context), experiment)
        make_directory(path)
        made = cls(path, os.open(path / "lock", os.O_RDWR | _CREATE, 0o600), owner)
        try:
            fcntl.flock(made._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made._tally = os.open(path / "tally", os.O_WRONLY | os.O_EXCL | _CREATE, 0o600)
            made.write_tally(Tally())
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
        owner = read_owner(path)
        try:
            if (
                owner is None
                or owner.host != _host()
                or owner.uid != os.geteuid()
                or path.lstat().st_uid != os.geteuid()
            ):
                return None
            lock = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
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
        return cls(path, lock, owner)

    @property
    def rebooted(self) -> bool:
        """Whether the system was started anew since the directory was written."""
        return self.owner.boot != _boot()

    def write_tally(self, tally: Tally) -> None:
        """Write *tally* over the one before, in one piece and in the same place on the disk."""
        payload = msgspec.json.encode(tally)
        with contextlib.suppress(OSError):  # a lost note is made up for by the next one
            os.pwrite(self._tally, frame(payload.ljust(_TALLY_BYTES)), 0)

    def segment(self, number: int) -> Path:
        """Return the path of segment *number*."""
        return self.path / f"{number:08d}.seg"

    def segments(self) -> list[int]:
        """Return the numbers of the segments that exist, in the order of what they hold."""
        found = [int(path.stem) for path in self.path.glob("*.seg") if path.stem.isdigit()]
        return sorted(found, key=lambda number: (_first_number(self.segment(number)) or number, number))

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
        for descriptor in (self._lock, self._tally):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._tally = -1

    def remove(self) -> None:
        """
        Delete the directory, finished and empty of records, and give up ownership.

        What says whose it is goes last: a removal that is cut short is finished by the next owner.
        """
        last = ("acks", "tally", "owner.json", "lock")
        for child in [*self.path.glob("blobs/*"), *self.path.iterdir()]:
            if child.is_dir():
                child.rmdir()
            elif child.name not in last:
                child.unlink()
        for name in last:
            (self.path / name).unlink(missing_ok=True)
        self.path.rmdir()
        self.release()


def read_owner(path: Path) -> Owner | None:
    """Return who writes the directory *path*, None where it does not say."""
    try:
        return msgspec.json.decode((path / "owner.json").read_bytes(), type=Owner)
    except (OSError, msgspec.DecodeError):
        return None


def read_tally(path: Path) -> Tally:
    """Return the tally of the writer directory *path*; an empty one where it is lost or damaged."""
    for payload in read_lines(path / "tally"):
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(payload or b"", type=Tally)
    return Tally()


class Counts(msgspec.Struct, frozen=True):
    """What has become of a writer's records; *dropped* by cause."""

    accepted: int = 0
    delivered: int = 0
    dead: int = 0
    dropped: dict[str, int] = {}


class Retired(msgspec.Struct, frozen=True):
    """A line of ``retired.log``: the name of a finished writer's directory, and its counts."""

    writer: str
    counts: Counts


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

    def retire(self, directory: WriterDirectory, counts: Counts) -> None:
        """
        Remove the finished *directory*, and keep its counts. A removal that is cut short is finished
        by the next owner, which writes the counts again; the last ones of a directory are valid.
        """
        append_line(self.retired, msgspec.json.encode(Retired(directory.path.name, counts)))
        directory.remove()

    @property
    def dead_letters(self) -> Path:
        """The log of dead letters."""
        return self.path / "dead.log"

    @property
    def dead_artifacts(self) -> Path:
        """The directory of the artifacts that dead letters refer to."""
        return self.path / "dead"

    @property
    def retired(self) -> Path:
        """The log of finished writers."""
        return self.path / "retired.log"

    @property
    def reconcile(self) -> Path:
        """The log of experiments in which duplicates may still turn up."""
        return self.path / "reconcile.log"

    def finished(self) -> dict[str, Counts]:
        """Return the counts of the finished writers, by the names of their directories."""
        found: dict[str, Counts] = {}
        for payload in read_lines(self.retired):
            with contextlib.suppress(msgspec.DecodeError):
                entry = msgspec.json.decode(payload or b"", type=Retired)
                found[entry.writer] = entry.counts
        return found


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


def _first_number(segment: Path) -> int | None:
    """Return the number of the first whole record of *segment*, None where there is none."""
    try:
        with segment.open("rb") as file:
            for line in file:
                if (payload := unframe(line.rstrip(b"\n"))) is not None:
                    return msgspec.json.decode(payload, type=Numbered).seq
    except (OSError, msgspec.DecodeError):
        return None
    return None


class Numbered(msgspec.Struct, frozen=True, gc=False):
    """Of a record, its number alone."""

    seq: int


def _boot() -> str:
    """Return what names the system's present boot, nothing where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _host() -> str:
    return "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:60] or "host"
