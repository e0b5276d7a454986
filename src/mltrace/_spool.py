"""
The spool on disk: directories, locks, segments. Lines and files: `mltrace._files`.

    <spool>/<destination>/              one per tracking address; the name is a hash of it without credentials
        destination.json                the address in words
        retired.log                     how many records finished writers took, delivered, dropped and gave up: a line
                                        for each, older ones in one line together
        dead.log, dead/                 dead letters of all writers, and the artifacts that belong to them
        reconcile-<number>.log          where something may still land late, for ten minutes each
        last_error.json                 why nothing could be sent; gone as soon as something can
        <host>-<pid>-<random>/          one per writing process
            lock                        its owner holds an exclusive `flock` on this file
            owner.json                  host, boot, pid, uid, and what all runs of the process share
            tally                       how many records the writer has taken and dropped, by cause
            00000001.seg …              records, in the order they were appended; at most 8 MiB each
            acks                        what became of them
            blobs/                      artifacts too large for a record

The count. Records are numbered from 1 without gaps, dropped ones included. So what damage has taken
is known exactly: the numbers up to the last that are neither acknowledged nor on disk nor dropped.
The last number is the largest that a line or the tally names. The tally is written over in place,
which needs no space on a full disk: at every drop, every `TALLY_EVERY` records, with each segment
and at the end. Only of a writer that was killed *and* whose last segment then lost its end does it know up
to `TALLY_EVERY` - 1 records too few.

Who may open it: only its owner, and only files of mltrace's own making (`mltrace._files`). A directory
that belongs to another user or host is never taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import socket
import time

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from . import _clock, _guard
from ._addresses import destination_id, safe_uri
from ._checks import decode, is_blob_name
from ._files import (
    Foreign,
    append_line,
    frame,
    has_name,
    locked_log,
    make_directory,
    open_directory,
    open_private,
    read_lines,
    read_private,
    unframe,
    warn_of_open_parents,
    write_whole,
)
from .exceptions import ConfigurationError


SEGMENT_BYTES = 8 << 20
TALLY_EVERY = 64
"""A power of two: how many records a writer takes between two notes of their number."""

_TALLY_BYTES = 1024
_RETIRED_BYTES = 64 << 10  # of the log of finished writers, above which older lines become one
_RETIRED_KEPT = 64  # lines
_REMNANT_SECONDS = 60.0
_JSON: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


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


_OWNER = msgspec.json.Decoder(Owner)
_TALLY = msgspec.json.Decoder(Tally)


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
        made = cls(path, open_private(path / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL), owner)
        try:
            fcntl.flock(made._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made._tally = open_private(path / "tally", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
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

        Without its acknowledgements the records would be sent twice, so these have to be ours too.
        """
        try:
            os.close(open_directory(path))
            owner = read_owner(path)
            if owner is None or owner.host != _host() or owner.uid != os.geteuid():
                return None
            with contextlib.suppress(FileNotFoundError):
                os.close(open_private(path / "acks", os.O_RDONLY))
            lock = open_private(path / "lock", os.O_RDWR)
        except Foreign as refusal:
            _guard.warn_once(f"foreign:{path}", f"{refusal}; what it holds is not sent", directory=str(path))
            return None
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever finished it in the meantime removed the path; the lock held then is on a file
            # nobody can see.
            if not has_name(lock, path / "lock"):
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
        stems = [name[:-4] for name in os.listdir(self.path) if name.endswith(".seg")]
        found = [int(stem) for stem in stems if stem.isdigit()]
        return sorted(found, key=lambda number: (_first_number(self.segment(number)) or number, number))

    def make_blobs(self) -> Path:
        """Make the directory of blobs, unless it is there; return its path."""
        folder = open_directory(self.path)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir("blobs", 0o700, dir_fd=folder)
        finally:
            os.close(folder)
        os.close(open_directory(self.path / "blobs"))
        return self.path / "blobs"

    def blob(self, name: str) -> Path:
        """
        Return the path of the blob *name*; a name is a plain file name of our own making, and
        anything else is refused.
        """
        if not is_blob_name(name):
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
        for folder in (self.path / "blobs", self.path):
            for entry in [] if folder.is_symlink() or not folder.is_dir() else list(os.scandir(folder)):
                if entry.is_dir(follow_symlinks=False):
                    os.rmdir(entry)
                elif entry.name not in last:
                    os.unlink(entry)
        for name in last:
            (self.path / name).unlink(missing_ok=True)
        self.path.rmdir()
        self.release()


def is_remnant(path: Path) -> bool:
    """
    Say whether nothing is in the writer directory *path* but what its creation begins, or its removal
    ends with: it never had a record, or has none any more.
    """
    try:
        names = {entry.name for entry in os.scandir(path)}
    except OSError:
        return False
    return all(name in ("lock", "tally") or re.fullmatch(r"owner\.json\.\w+\.tmp", name) for name in names)


def remove_remnant(path: Path) -> None:
    """
    Remove the writer directory *path* if its creation or removal was cut short, on this host and by
    this user, more than a minute ago: nobody would take it over, for nothing says whose it is.
    """
    if path.name.rsplit("-", 2)[0] != _host() or not is_remnant(path):
        return
    with contextlib.suppress(OSError):
        found = path.lstat()
        if found.st_uid != os.geteuid() or time.time() - found.st_mtime < _REMNANT_SECONDS:
            return
        with contextlib.ExitStack() as stack:
            if (path / "lock").exists():
                lock = open_private(path / "lock", os.O_RDWR)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_remnant(path):  # still, now that nobody else has it
                WriterDirectory(path, -1, Owner("", 0, 0)).remove()


def read_owner(path: Path) -> Owner | None:
    """Return who writes the directory *path*, None where it does not say."""
    try:
        return decode(read_private(path / "owner.json"), _OWNER)
    except Foreign:
        raise
    except (OSError, msgspec.DecodeError):
        return None


def read_tally(path: Path) -> Tally:
    """Return the tally of the writer directory *path*; an empty one where it is lost or damaged."""
    for payload in read_lines(path / "tally"):
        with contextlib.suppress(msgspec.DecodeError):
            return decode(payload or b"", _TALLY)
    return Tally()


class Counts(msgspec.Struct, frozen=True):
    """What has become of a writer's records; *dropped* by cause."""

    accepted: int = 0
    delivered: int = 0
    dead: int = 0
    dropped: dict[str, int] = {}

    def plus(self, other: Counts) -> Counts:
        """Return the sum."""
        causes = dict.fromkeys((*self.dropped, *other.dropped))
        return Counts(
            self.accepted + other.accepted,
            self.delivered + other.delivered,
            self.dead + other.dead,
            {cause: self.dropped.get(cause, 0) + other.dropped.get(cause, 0) for cause in causes},
        )


class Trouble(msgspec.Struct, frozen=True):
    """
    Why nothing can be sent: the sender's *state*, the *error* in words fit for a user, and when it was
    met, wall-clock milliseconds.
    """

    state: str
    error: str
    time: int


BEHIND_SECONDS = 5.0
"""How old what the server takes has to be for it to count as too slow."""

_FASTER = 1.2  # times: less than that may be chance


class Trend(msgspec.Struct, frozen=True):
    """
    How many runs a second are recorded, and how many the server takes; how many seconds old what it takes
    is, and when that was found, wall-clock milliseconds.
    """

    runs_in: float
    runs_out: float
    seconds_behind: float
    time: int

    @property
    def is_growing(self) -> bool:
        """Whether the server is too slow for what is recorded."""
        return self.seconds_behind > BEHIND_SECONDS and self.runs_in > _FASTER * self.runs_out


class Retired(msgspec.Struct, frozen=True):
    """
    A line of ``retired.log``: the name of a finished writer's directory, and its counts. Without a
    name: of all whose lines were taken out.
    """

    writer: str
    counts: Counts


_RETIRED = msgspec.json.Decoder(Retired)
_TROUBLE = msgspec.json.Decoder(Trouble)
_TREND: msgspec.json.Decoder[Trend] = msgspec.json.Decoder(Trend)


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
        warn_of_open_parents(self.path.parent)
        make_directory(self.path)
        note = self.path / "destination.json"
        if note.is_symlink() or not note.is_file():
            write_whole(note, msgspec.json.encode({"uri": safe_uri(self.uri)}))

    def writers(self) -> list[Path]:
        """Return the directories of all writers, oldest first."""
        if self.path.is_symlink():
            return []
        try:
            with os.scandir(self.path) as entries:
                found = [
                    (when, Path(entry.path)) for entry in entries if (when := _changed(entry)) is not None
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [path for _, path in sorted(found)]

    def retire(self, directory: WriterDirectory, counts: Counts) -> None:
        """
        Remove the finished *directory*, and keep its counts. A removal that is cut short is finished
        by the next owner; the counts are those of the first, who had all to count by.
        """
        name = directory.path.name
        if name not in self.finished():
            append_line(self.retired, msgspec.json.encode(Retired(name, counts)))
        directory.remove()
        with contextlib.suppress(OSError):  # a full disk: it goes on growing until there is room
            if self.retired.stat().st_size > _RETIRED_BYTES:
                self._compact_retired()

    def _compact_retired(self) -> None:
        """
        Put the lines of the log of finished writers into one, save the latest and those of writers
        whose directory is still there: its next owner has to find that it is counted.
        """
        with locked_log(self.retired):
            entries = self.finished()
            late = list(entries)[-_RETIRED_KEPT:]
            kept = {name: entries.pop(name) for name in list(entries) if name and self._keeps(name, late)}
            total = Counts(dropped={})
            for counts in entries.values():
                total = total.plus(counts)
            lines = [Retired("", total), *(Retired(name, counts) for name, counts in kept.items())]
            write_whole(self.retired, b"".join(frame(msgspec.json.encode(line)) for line in lines))

    def _keeps(self, name: str, late: Iterable[str]) -> bool:
        return name in late or (self.path / name).exists()

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

    def reconcile_log(self, period: int) -> Path:
        """Return the log of what may still land of the requests of *period* (`mltrace.delivery.late`)."""
        return self.path / f"reconcile-{period}.log"

    def reconcile_periods(self) -> list[int]:
        """Return the periods that have such a log."""
        names = (path.stem.partition("-")[2] for path in self.path.glob("reconcile-*.log"))
        return [int(name) for name in names if name.isdecimal()]

    def note_trouble(self, trouble: Trouble | None) -> None:
        """Keep *trouble* for whoever looks from another process; None: there is none any more."""
        path = self.path / "last_error.json"
        with contextlib.suppress(OSError):  # a full disk: it is in the log all the same
            if trouble is None:
                path.unlink(missing_ok=True)
            else:
                write_whole(path, msgspec.json.encode(trouble))

    def trouble(self) -> Trouble | None:
        """Return why nothing could be sent when it was last tried, None where it could."""
        try:
            return decode(read_private(self.path / "last_error.json"), _TROUBLE)
        except (OSError, msgspec.DecodeError):
            return None

    def note_trend(self, trend: Trend) -> None:
        """Keep *trend* for whoever looks from another process."""
        with contextlib.suppress(OSError):
            write_whole(self.path / "trend.json", msgspec.json.encode(trend))

    def trend(self) -> Trend | None:
        """Return how fast runs went in and out when that was last found; None where nobody knows."""
        try:
            return decode(read_private(self.path / "trend.json"), _TREND)
        except (OSError, msgspec.DecodeError):
            return None

    def finished(self) -> dict[str, Counts]:
        """
        Return the counts of the finished writers, by the names of their directories; those of older
        ones together, under no name.
        """
        found: dict[str, Counts] = {}
        for payload in read_lines(self.retired):
            with contextlib.suppress(msgspec.DecodeError):
                entry = decode(payload or b"", _RETIRED)
                found.setdefault(entry.writer, entry.counts)
        return found


def _changed(entry: os.DirEntry[str]) -> float | None:
    """Return when the directory *entry* was changed; None where it is none, or was removed meanwhile."""
    try:
        return entry.stat().st_mtime if entry.is_dir(follow_symlinks=False) else None
    except FileNotFoundError:
        return None


def destinations(spool: Path) -> list[DestinationDirectory]:
    """Return every destination that has a directory in *spool*."""
    found: list[DestinationDirectory] = []
    for note in sorted(spool.glob("*/destination.json")):
        try:
            document: Any = decode(read_private(note), _JSON)
            directory = DestinationDirectory(spool, document["uri"])
        except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError):
            continue
        if directory.path == note.parent and directory.uri.isprintable():
            found.append(directory)
    return found


class Numbered(msgspec.Struct, frozen=True, gc=False):
    """Of a record, its number alone."""

    seq: int


_NUMBERED = msgspec.json.Decoder(Numbered)


def _first_number(segment: Path) -> int | None:
    """Return the number of the first whole record of *segment*, None where there is none."""
    try:
        with open(open_private(segment, os.O_RDONLY), "rb") as file:
            for line in file:
                if (payload := unframe(line.rstrip(b"\n"))) is not None:
                    return decode(payload, _NUMBERED).seq
    except (FileNotFoundError, Foreign, msgspec.DecodeError):
        return None
    return None


@functools.cache  # it is asked for with every record, and a process does not outlive its boot
def _boot() -> str:
    """Return what names the system's present boot, nothing where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _host() -> str:
    return "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:60] or "host"
