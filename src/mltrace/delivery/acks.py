"""
What became of a writer directory's records: an append-only log beside its segments.

The sender of the directory is its only writer (the directory's lock sees to that). An entry is
written after the fact it states: *Created*, *Done*, *Dead* follow a validated answer of the server;
only *Creating* comes before, because creation is the one request that must not be repeated blindly,
and a process that dies between the two leaves a run that may or may not exist.

Losing the last entries (power loss) only means work done again: every request but creation is
idempotent, and a creation is looked up first. Where the disk refuses an entry it is kept in memory:
the records are delivered and counted all the same, and at worst delivered again by a later process.
"""

from __future__ import annotations

import os

from collections.abc import Iterable
from pathlib import Path
from typing import Union

import msgspec

from .._checks import decode, is_server_id
from .._spool import frame, open_append, read_lines, write_whole


class _Entry(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, gc=False):
    pass


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


class Totals(_Entry, frozen=True, tag="totals", gc=False):
    """Counts of entries that a compaction left out."""

    delivered: int
    dead: int


Entry = Union[Creating, Created, Done, Dead, Totals]

_COMPACT_BYTES = 4 << 20
_DECODER: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
_encode = msgspec.json.Encoder().encode


class AckLog:
    """
    The acknowledgements of one writer directory, in memory and in the file *path* (None: in memory
    only, until `attach`).
    """

    def __init__(self, path: Path | None) -> None:
        self._descriptor = -1
        self._path: Path | None = None
        self._size = 0
        self._torn = False
        self.settled: set[int] = set()
        """Numbers of records that are done or dead and whose segment still exists."""
        self.creating: set[str] = set()
        self.created: dict[str, Created] = {}
        """Runs that exist on the server and have not ended there."""
        self.last_time: dict[str, int] = {}
        self.delivered = 0
        self.dead = 0
        if path is not None:
            self.attach(path)

    def replay_file(self, path: Path) -> None:
        """
        Take the entries of the file *path* into account; damaged ones are passed over, which only
        means work done again.
        """
        for payload in read_lines(path):
            self._replay(payload)

    def attach(self, path: Path) -> None:
        """Take what the file *path* says into account, and write to it from now on."""
        if self._path is None:
            self.replay_file(path)
        self._path = path
        self.compact(self.settled)

    def write(self, entry: Entry) -> None:
        """Take *entry* into account and append it to the file."""
        self._apply(entry)
        if not self._torn and self._descriptor >= 0:
            line = frame(_encode(entry))
            try:
                self._torn = os.write(self._descriptor, line) < len(line)
            except OSError:
                self._torn = True
            self._size += len(line)
        if self._torn or self._size >= _COMPACT_BYTES:
            # A torn entry would swallow the next one: the file is written anew as soon as the disk
            # takes it.
            self.compact(self.settled)

    def compact(self, keep: Iterable[int]) -> None:
        """
        Rewrite the file: totals, open runs, and of the settled records only *keep*, those whose
        segments still exist.
        """
        if self._path is None:
            return
        self.settled = set(keep)
        entries: list[Entry] = [Totals(self.delivered, self.dead), Done("", sorted(self.settled))]
        entries += [Creating(uid) for uid in self.creating]
        for uid, created in self.created.items():
            entries += [created, Done(uid, [], self.last_time.get(uid, 0))]
        content = b"".join(frame(_encode(entry)) for entry in entries)
        try:
            write_whole(self._path, content)
            self.close()
            self._descriptor = open_append(self._path)
            self._size, self._torn = len(content), False
        except OSError:
            self._size = 0

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _replay(self, payload: bytes | None) -> None:
        if payload is None:
            return
        try:
            entry = decode(payload, _DECODER)
        except msgspec.DecodeError:
            return
        if not isinstance(entry, Created) or (
            is_server_id(entry.run_id) and is_server_id(entry.experiment_id)
        ):
            self._apply(entry)

    def _apply(self, entry: Entry) -> None:
        if isinstance(entry, Totals):
            self.delivered += entry.delivered
            self.dead += entry.dead
        elif isinstance(entry, Creating):
            self.creating.add(entry.uid)
        elif isinstance(entry, Created):
            self.creating.discard(entry.uid)
            self.created[entry.uid] = entry
        else:
            self._settle(entry)

    def _settle(self, entry: Done | Dead) -> None:
        self.settled.update(entry.seqs)
        if isinstance(entry, Dead):
            self.dead += len(entry.seqs)
        elif entry.uid:  # without a run: what a compaction remembers, counted already
            self.delivered += len(entry.seqs)
            if entry.uid in self.created:
                self.last_time[entry.uid] = max(entry.time, self.last_time.get(entry.uid, 0))
        if entry.closed:
            self.creating.discard(entry.uid)
            self.created.pop(entry.uid, None)
            self.last_time.pop(entry.uid, None)
