"""
What became of a writer directory's records: an append-only log beside its segments.

The sender of the directory is its only writer (the directory's lock sees to that). An entry is
written after the fact it states: *Created*, *Done*, *Dead* follow a validated answer of the server;
only *Creating* comes before, because creation is the one request that must not be repeated blindly,
and a process that dies between the two leaves a run that may or may not exist.

Losing an entry only means work done again: every request but creation is idempotent, and where a
*Creating* may be among the lost the runs that are not known to exist are looked up first. To notice
that, the first line says how long the file was at the last *Creating*; a file that is shorter, that
has a line whose checksum fails, or that is missing, is *damaged*. After power loss the tail may be
gone without a trace: `mltrace._spool.WriterDirectory.rebooted`. Where the disk refuses an entry it
is kept in memory: the records are delivered and counted all the same, and at worst delivered again
by a later process.
"""

from __future__ import annotations

import errno
import os

from collections.abc import Iterable
from pathlib import Path
from typing import Union

import msgspec

from .._checks import decode, is_server_id
from .._files import frame, open_append, open_private, read_lines


class _Entry(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, gc=False):
    pass


class Extent(_Entry, frozen=True, tag="extent", gc=False):
    """The first entry, of fixed length: the file had *bytes* bytes when it was last of importance."""

    bytes: int = 0


class Creating(_Entry, frozen=True, tag="creating", gc=False):
    """The creation of run *uid* is about to be requested."""

    uid: str


class Created(_Entry, frozen=True, tag="created", gc=False):
    """
    Run *uid* exists on the server.

    *ambiguous*: a creation of it went unanswered, so a second one may exist too.
    """

    uid: str
    run_id: str
    artifact_uri: str
    experiment_id: str
    ambiguous: bool = False


class Done(_Entry, frozen=True, tag="done", gc=False):
    """
    The records *seqs* of run *uid* are on the server; *time* is the latest wall clock among them.
    *closed*: its end is there too.
    """

    uid: str
    seqs: list[int]
    time: int = 0
    closed: bool = False


class Dead(_Entry, frozen=True, tag="dead", gc=False):
    """
    The records *seqs* of run *uid* went to the dead letters.

    *closed*: its end was among them.
    """

    uid: str
    seqs: list[int]
    closed: bool = False


class Unanswered(_Entry, frozen=True, tag="unanswered"):
    """A request that set *tags* of run *uid* was not answered: it may still land, after a later value."""

    uid: str
    tags: dict[str, str]


class Unclear(_Entry, frozen=True, tag="unclear", gc=False):
    """The entries before this one were damaged when a later process read them."""


class Totals(_Entry, frozen=True, tag="totals", gc=False):
    """Counts of entries that a compaction left out."""

    delivered: int
    dead: int


Entry = Union[Extent, Creating, Created, Unanswered, Done, Dead, Totals, Unclear]

_COMPACT_BYTES = 4 << 20
_KEPT_VALUES = 64
_EXTENT_BYTES = 64
_DECODER: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
_encode = msgspec.json.Encoder().encode


class AckLog:
    """
    The acknowledgements of one writer directory, in memory and in the file *path* (None: in memory
    only, until `attach`).
    """

    def __init__(self, path: Path | None = None) -> None:
        self._descriptor = self._head = -1
        self._path: Path | None = None
        self._size = 0
        self._compact_at = _COMPACT_BYTES
        self._torn = False
        self.damaged = False
        """Whether entries were missing when the file was read."""
        self.unclear = False
        """
        Whether a creation may have been requested that is not mentioned: entries were missing at some
        time in the file's life.
        """
        self.settled: set[int] = set()
        """Numbers of records that are done or dead and whose segment still exists."""
        self.given_up: set[int] = set()
        """Of these the dead; numbers whose segment is gone may be among them."""
        self.creating: set[str] = set()
        self.refused: set[str] = set()
        """Runs whose creation was refused for good: what else is logged to them is refused too."""
        self.created: dict[str, Created] = {}
        """Runs that exist on the server and have not ended there."""
        self.unanswered: dict[str, dict[str, tuple[str, ...]]] = {}
        """The values of tags of runs that requests without an answer may still set."""
        self.last_time: dict[str, int] = {}
        self.delivered = 0
        self.dead = 0
        if path is not None:
            self.attach(path)

    def replay_file(self, path: Path) -> None:
        """
        Take the entries of the file *path* into account; damaged ones are passed over.
        """
        entries = [self._replay(payload) for payload in read_lines(path)]
        first = entries[0] if entries else None
        self.damaged |= None in entries or not isinstance(first, Extent) or _is_shorter(path, first.bytes)

    def attach(self, path: Path) -> None:
        """Take what the file *path* says into account, where there is one, and write to it from now on."""
        self.load(path)
        self.compact(self.settled)

    def load(self, path: Path) -> None:
        """As `attach`, but leave the file as it is: with `compact` it is whole again, and its damage forgotten."""
        if path.exists():
            self.replay_file(path)
        self._path = path

    def start_over(self, delivered: int, dead: int) -> None:
        """
        Have every record that is still on disk delivered again; *delivered* and *dead* are how many
        are not on disk any more.
        """
        self.delivered, self.dead, self.settled = delivered, dead, set()

    def write(self, entry: Entry) -> None:
        """
        Take *entry* into account and append it to the file.

        Raises OSError where a *Creating* leaves no trace at all.
        """
        self._apply(entry)
        line = frame(_encode(entry))
        if isinstance(entry, Creating):
            self._announce(len(line))
        if not self._torn and self._descriptor >= 0:
            try:
                self._torn = os.write(self._descriptor, line) < len(line)
            except OSError:
                self._torn = True
            self._size += len(line)
        if self._torn or self._size >= self._compact_at:
            # A torn entry would swallow the next one: the file is written anew as soon as the disk
            # takes it.
            self.compact(self.settled)

    def _announce(self, length: int) -> None:
        """
        Have the first line say that the file is to be longer by *length*. In place, which takes no
        room on a full disk: if the entry does not get there the file is too short, which is noticed.
        """
        if self._head >= 0:
            os.pwrite(self._head, _extent(self._size + length), 0)
        elif self._path is not None:
            self._path.unlink(missing_ok=True)  # what is missing is damaged, what is old is not

    def compact(self, keep: Iterable[int]) -> None:
        """
        Rewrite the file: totals, open runs, and of the settled records only *keep*, those whose
        segments still exist. Where the disk refuses, the old file stays.
        """
        if self._path is None:
            return
        self.settled = set(keep)
        self.given_up &= self.settled
        entries: list[Entry] = [
            Totals(self.delivered, self.dead),
            Done("", sorted(self.settled - self.given_up)),
        ]
        entries += [Dead("", sorted(self.given_up))] * bool(self.given_up)
        entries += [Unclear()] * (self.damaged or self.unclear)
        entries += [Creating(uid) for uid in self.creating]
        entries += [Dead(uid, []) for uid in self.refused]
        for uid, created in self.created.items():
            entries += [created, Done(uid, [], self.last_time.get(uid, 0))]
        entries += [
            Unanswered(uid, {key: value})
            for uid, tags in self.unanswered.items()
            for key, values in tags.items()
            for value in values
        ]
        content = b"".join(frame(_encode(entry)) for entry in entries)
        size = _EXTENT_BYTES + len(content)
        temporary = self._path.with_name("acks.tmp")
        try:
            temporary.unlink(missing_ok=True)
            self._write_file(temporary, _extent(size) + content)
        except OSError:
            temporary.unlink(missing_ok=True)
            self._torn = self._torn or self._descriptor < 0
            self._compact_at = self._size + _COMPACT_BYTES

    def _write_file(self, temporary: Path, content: bytes) -> None:
        """
        Put *content* in the file's place. It is opened before: a file that could not be written to
        must not come to be.
        """
        assert self._path is not None
        descriptor = open_append(temporary)
        head = -1
        try:
            head = open_private(temporary, os.O_WRONLY)
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, "the disk took only a part", str(temporary))
            os.replace(temporary, self._path)
        except BaseException:
            for opened in (descriptor, head):
                if opened >= 0:
                    os.close(opened)
            raise
        self.close()
        self._descriptor, self._head = descriptor, head
        self._size, self._torn, self._compact_at = len(content), False, len(content) + _COMPACT_BYTES

    def close(self) -> None:
        """Close the file."""
        descriptors, self._descriptor, self._head = (self._descriptor, self._head), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def _replay(self, payload: bytes | None) -> Entry | None:
        """Take one line into account; return its entry, None where it is damaged."""
        try:
            entry = decode(payload or b"", _DECODER)
        except msgspec.DecodeError:
            return None
        if isinstance(entry, Created) and not (
            is_server_id(entry.run_id) and is_server_id(entry.experiment_id)
        ):
            return None
        self._apply(entry)
        return entry

    def _apply(self, entry: Entry) -> None:
        if isinstance(entry, Extent):
            return
        if isinstance(entry, Unclear):
            self.unclear = True
        elif isinstance(entry, Totals):
            self.delivered += entry.delivered
            self.dead += entry.dead
        elif isinstance(entry, Creating):
            self.creating.add(entry.uid)
        elif isinstance(entry, Created):
            self.creating.discard(entry.uid)
            self.created[entry.uid] = entry
        elif isinstance(entry, Unanswered):
            tags = self.unanswered.setdefault(entry.uid, {})
            for key, value in entry.tags.items():
                tags[key] = with_latest(tags.get(key, ()), value)
        else:
            self._settle(entry)

    def _settle(self, entry: Done | Dead) -> None:
        fresh = set(entry.seqs) - self.settled
        self.settled |= fresh
        counted = len(fresh) if entry.uid else 0  # without a run: what a compaction remembers
        if isinstance(entry, Dead):
            self.given_up |= fresh
            self.dead += counted
            if entry.uid and entry.uid not in self.created:
                self.refused.add(entry.uid)
        else:
            self.delivered += counted
            if entry.uid in self.created:
                self.last_time[entry.uid] = max(entry.time, self.last_time.get(entry.uid, 0))
        if entry.closed:
            self.creating.discard(entry.uid)
            self.created.pop(entry.uid, None)
            self.unanswered.pop(entry.uid, None)
            self.last_time.pop(entry.uid, None)


def with_latest(values: tuple[str, ...], value: str) -> tuple[str, ...]:
    """Return the *values* that a tag was sent with, and *value* as the latest; of very many the last."""
    return (*(one for one in values if one != value), value)[-_KEPT_VALUES:]


def _is_shorter(path: Path, size: int) -> bool:
    """Say whether there is less of the file *path* than *size* bytes."""
    try:
        return path.stat().st_size < size
    except FileNotFoundError:  # finished, and removed since it was read
        return False


def _extent(size: int) -> bytes:
    """Return the first line for a file of *size* bytes."""
    payload = _encode(Extent(size))
    return frame(payload.ljust(_EXTENT_BYTES - len(frame(b""))))
