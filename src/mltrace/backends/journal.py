"""
The journal: one append per record, and the record is safe.

Layout and rules of the directory are in `mltrace._spool`. This module is the only writer of
segments; it appends and never looks back.

What survives. When `emit` returns, the record's line has been handed to the operating system with
one `write` to an `O_APPEND` descriptor: the death of the process, `kill -9` included, loses
nothing. Power loss can take what the system had not written out yet; with ``durability="disk"`` the
descriptor is `O_DSYNC`, and it cannot.

The start of a decorated call (`begin`) is held back for a moment: its end, if it comes first, makes
one record of the two, which halves the cost of a short call. Any other record, and the delivery's
thread as soon as it gets the interpreter (at once when the call waits for anything), appends it
before. So when the call has returned it is safe as a whole, and what a call logs is safe when the
logging returns; a process that dies in the first milliseconds of a call, or in native code that
never lets the interpreter go, may leave no trace of having begun it.

A torn write (disk full, a quota) leaves a line that fails its checksum. The journal then starts a
fresh segment and appends the record again, so that no later line is glued to the torn one; readers
skip and count it.

An unwritable spool (full disk, missing rights, no descriptors) degrades the journal: one warning,
records are kept in at most `MEMORY_BYTES` of memory and delivered from there, and every second the
journal tries the disk again and moves them to it. Beyond the bound records are dropped, counted by
cause.

The count. Every record takes the next number, one that is dropped too; the directory's tally (see
`mltrace._spool`) keeps the last number and the drops, so that the next owner can say exactly what
the disk has lost.

The limit. Above *limit_bytes* new records and artifacts are dropped, waited for, or refused, as
*on_full* says. Lifecycle records have a reserve of a tenth, starts only of half of it, so that runs
still end; the memory of a degraded journal has one like it. The end of a run of which records were
dropped says how many (`shortfall`).

Fork. A child gets an empty journal and a directory of its own on its next record; the parent's
records, descriptor and lock stay the parent's.

Threads. One reentrant lock guards the append, nothing else, and is never held while talking to a
network. It is reentrant: garbage collection can run a stream's finaliser, which ends a run, in
the middle of `emit`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import weakref

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import get_ident
from typing import Any, Protocol, cast
from zlib import crc32

import msgspec

from .. import _guard
from .._addresses import safe_uri
from .._files import open_private
from .._records import LIFECYCLE, Record, RunEnded, RunStarted, whole_run
from .._spool import SEGMENT_BYTES, TALLY_EVERY, Counts, DestinationDirectory, Tally, WriterDirectory
from ..exceptions import ConfigurationError, SpoolFull
from . import Blob, FlushReport, SpoolStatus, blobs
from .overflow import Overflow
from .shortfall import Shortfall


MEMORY_BYTES = 64 << 20
"""Bytes of records kept in memory while the spool cannot be written."""

BLOCK_SECONDS = 30.0
"""The longest that ``on_full="block"`` holds a caller before the record is dropped."""

_TALLY_MASK = TALLY_EVERY - 1
_RETRY_DISK_SECONDS = 1.0

_encode_plainly = msgspec.json.Encoder().encode
_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


class Delivery(Protocol):
    """What a journal needs of whoever delivers it."""

    def wake(self, journal: Journal) -> None:
        """
        Learn that there are new records; called by the caller's thread, so it only leaves a note.
        """

    def run_id(self, uid: str) -> str | None:
        """Return MLflow's id of a run."""

    def wait(self, uid: str, timeout: float) -> bool:
        """Wait until a run's records are delivered."""

    def flush(self, timeout: float) -> bool:
        """Deliver what is there now, for at most *timeout* seconds; say whether all of it is settled."""

    def counts(self) -> tuple[int, int]:
        """Return how many records of the journal were delivered, and how many are dead."""

    def oldest_ms(self) -> int | None:
        """Return the time of the oldest undelivered record that was read."""

    def state(self) -> tuple[str, str | None]:
        """Return the destination's state in a word, and the last error."""

    def close(self, timeout: float) -> int:
        """
        Flush and stop; return how many of the journal's runs exist on the server without their end.
        """

    def handed_over(self) -> None:
        """Forget the journal's records and counts: its directory was left to the next process."""

    def forked(self) -> None:
        """Forget the parent's threads, connections and records: this is a child."""


class Journal:
    """
    A `Backend` that appends records to a writer directory below *destination*; a *delivery* takes
    them from there.
    """

    def __init__(
        self,
        destination: DestinationDirectory,
        *,
        delivery: Delivery | None = None,
        context: Mapping[str, str] | None = None,
        experiment: str = "",
        limit_bytes: int = 1 << 30,
        on_full: str = "drop",
        durability: str = "process",
    ) -> None:
        self.destination = destination
        # From the 30th attribute on CPython reads each of them slower, and the caller pays: two in one.
        self._common = (dict(context or {}), experiment)
        self._delivery = delivery
        self._left: FlushReport | None = None
        self._limit = limit_bytes
        self._segment_bytes = min(SEGMENT_BYTES, max(limit_bytes // 8, 4096))
        self._on_full = on_full
        self._flags = os.O_DSYNC if durability == "disk" else 0
        self._lock = threading.RLock()
        self._start_afresh()
        _journals.add(self)

    def _start_afresh(self) -> None:
        self.directory: WriterDirectory | None = None
        self.segment = 0
        self._descriptor = -1
        self._segment_size = 0
        self._numbers = itertools.count(1)
        self._begun: dict[str, RunStarted] = {}
        self._appending = 0  # the thread that is in the middle of an append
        self._nested: deque[Record] = deque()
        self._waiting_since: int | None = None
        self._bytes = 0
        self._room = threading.Event()
        self._memory = Overflow()
        self._next_try = 0.0
        self.accepted = 0
        self.dropped: dict[str, int] = {}
        self._short = Shortfall()
        self._encode: Callable[[Record], bytes] = _encode_plainly
        self.degraded = False
        self.idle = True
        """
        Set by the delivery before it sleeps; the next `emit` clears it and wakes the delivery.
        """

    @property
    def context(self) -> dict[str, str]:
        """
        Tags that all runs of this process have in common; written once per directory, not with
        every run.
        """
        return self._common[0]

    # The caller's path.

    def emit(self, record: Record) -> None:
        """
        Append *record*; see the module's docstring for what that means. Raises `SpoolFull` only
        with ``on_full="raise"``.
        """
        thread = get_ident()
        with self._lock:
            if self._appending == thread:
                self._nested.append(record)
                return
            self._appending = thread
            try:
                self._take(record)
                while self._nested:
                    self._take(self._nested.popleft())
            finally:
                self._appending = 0
        if self.idle:
            self._wake(record.time)

    def _take(self, record: Record) -> None:
        if self._begun:
            start = self._begun.pop(record.run, None) if type(record) is RunEnded else None
            if self._begun:  # in the order in which they began, so that a parent comes before its children
                self._append_begun()
            if start is not None:
                record = whole_run(start, cast("RunEnded", record))
        self._append(record)

    def begin(self, start: RunStarted) -> None:
        """
        Hold the start of a call back until its end, any other record, or the delivery's next look
        at the journal, whichever comes first.
        """
        with self._lock:
            self._begun[start.run] = start
        if self.idle:
            self._wake(start.time)

    def commit(self) -> int:
        """Append the starts that are held back; return how many there were."""
        if not self._begun:
            return 0
        with self._lock:
            if self._appending == get_ident():
                return 0
            self._appending = get_ident()
            try:
                count = self._append_begun()
                while self._nested:
                    self._take(self._nested.popleft())
            finally:
                self._appending = 0
        return count

    def _append_begun(self) -> int:
        """
        Append the held-back starts; one that a full spool does not take is dropped: whoever comes
        by here is not to wait for it, or to be told.
        """
        begun, self._begun = self._begun, {}
        for start in begun.values():
            if self._bytes < self._limit or self._is_within_reserve(start):
                self._append(start)
            else:
                self._drop_for_space()
                self._fall_short(start)
        return len(begun)

    def _append(self, record: Record) -> None:
        payload = self._encode(record)
        if self._bytes >= self._limit and not self._make_room(record):
            return
        # The count and the number are one: a reader of either sees both.
        self.accepted = number = next(self._numbers)
        payload = b'{"seq":%d,%b' % (number, payload[1:])
        line = b"%08x %b\n" % (crc32(payload), payload)
        try:
            written = os.write(self._descriptor, line)
        except OSError:
            written = 0
        size = len(line)
        if written == size:
            self._segment_size += size
            self._bytes += size
        else:
            self._repair(record, number, line, written)
        if self._segment_size >= self._segment_bytes:
            self._rotate()
        elif not number & _TALLY_MASK:
            self._note()

    def _note(self) -> None:
        """Write down how many records were taken and dropped."""
        if self.directory is not None:
            self.directory.write_tally(Tally(self.accepted, self.dropped, len(self._memory)))

    def _wake(self, time_ms: int) -> None:
        self.idle = False
        self._waiting_since = time_ms
        if self._delivery is not None:
            self._delivery.wake(self)

    def store(self, source: bytes | str) -> Blob | None:
        """
        Copy an artifact into the spool's blobs; None, counted as dropped, where the disk refuses, or
        the spool is full. Raises `SpoolFull` only with ``on_full="raise"``.
        """
        try:
            size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
            with self._lock:
                if self._is_full(size) and not self._find_room(size):
                    return None
                directory = self._directory()
            blob = blobs.copy(directory, source)
            with self._lock:
                self._bytes += blob.size
            return blob
        except (OSError, ConfigurationError) as error:
            self._count_dropped("blob_unwritable")
            _guard.warn_once(
                "blob",
                "mltrace could not keep a copy of an artifact; it is counted as dropped",
                error=str(error),
            )
            return None

    # Away from the common path: fresh segments, failing disks, full spools.

    def _directory(self) -> WriterDirectory:
        if self.directory is None:
            self.destination.make()
            self.directory = WriterDirectory.create(self.destination.path, *self._common)
        return self.directory

    def _next_segment(self) -> None:
        """Close the segment and open the next one; raise OSError where the disk refuses."""
        directory = self._directory()
        self._close_segment()
        number = self.segment + 1
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | self._flags
        self._descriptor = open_private(directory.segment(number), flags)
        self.segment = number
        self._segment_size = 0
        self._note()

    def _rotate(self) -> None:
        """
        Go on to the next segment; where the disk refuses one, the next record finds out and is kept
        in memory.
        """
        try:
            self._next_segment()
        except OSError:
            self._segment_size = 0

    def _close_segment(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _repair(self, record: Record, number: int, line: bytes, written: int) -> None:
        """
        Get *line* onto a fresh segment after a write failed or was short; else keep it in memory.
        """
        self._segment_size += written
        self._memory.add(number, line)
        if self.degraded and time.monotonic() < self._next_try:
            self._bound_memory(record)
            self._note()
            return
        try:
            self._next_segment()
            self._spill()
        except (OSError, ConfigurationError) as error:
            self._close_segment()
            self._next_try = time.monotonic() + _RETRY_DISK_SECONDS
            self.degraded = True
            self._bound_memory(record)
            self._note()
            _guard.warn_once(
                "degraded",
                "mltrace cannot write its spool and keeps records in memory; free the disk or set MLTRACE_SPOOL_DIR to a writable directory",
                spool=str(self.destination.path),
                error=str(error),
            )
            return
        self._note()
        if self.degraded:
            self.degraded = False
            _guard.forget("degraded")

    def _spill(self) -> None:
        """
        Write what memory holds to the segment, oldest first; a line leaves memory once it is whole
        on disk.
        """
        while self._memory:
            line = self._memory.oldest()
            written = os.write(self._descriptor, line)
            self._segment_size += written
            if written < len(line):
                raise OSError(f"the disk took {written} of {len(line)} bytes")
            self._bytes += written
            self._memory.drop_oldest()

    def _bound_memory(self, latest: Record) -> None:
        reserve = MEMORY_BYTES // 10 if isinstance(latest, LIFECYCLE) else 0
        if self._memory.trim(MEMORY_BYTES + reserve):
            self.dropped["memory_full"] = self.dropped.get("memory_full", 0) + 1
            self._fall_short(latest)

    def _make_room(self, record: Record) -> bool:
        """
        Say whether *record* may be appended although the limit is reached; drop, wait or raise as
        *on_full* says.
        """
        if self._is_within_reserve(record):
            return True
        found = False
        try:
            found = self._find_room()
        finally:
            if not found:
                self._fall_short(record)
        return found

    def _is_within_reserve(self, record: Record) -> bool:
        share = 10 if isinstance(record, RunEnded) else 20
        return isinstance(record, LIFECYCLE) and self._bytes < self._limit + self._limit // share

    def _is_full(self, size: int = 0) -> bool:
        return self._bytes + size >= self._limit

    def _find_room(self, size: int = 0) -> bool:
        """
        Drop, wait or raise as *on_full* says, for a record or for *size* bytes; say whether there is
        room for them now. Otherwise they are counted.
        """
        if self._on_full == "raise":
            self._count_dropped("spool_full")
            raise SpoolFull(
                f"the spool of {safe_uri(self.destination.uri)} holds {self._bytes} bytes,"
                f" its limit is {self._limit}; run `mltrace sync`"
            )
        if self._on_full == "block" and self._wait_for_room(size):
            return True
        self._drop_for_space()
        return False

    def _drop_for_space(self) -> None:
        self._count_dropped("spool_full")
        _guard.warn_once(
            "spool_full",
            "the spool is full and mltrace drops records; run `mltrace sync` or raise MLTRACE_SPOOL_LIMIT_BYTES",
        )

    def _wait_for_room(self, size: int) -> bool:
        if size >= self._limit:
            return False
        deadline, appending = time.monotonic() + BLOCK_SECONDS, self._appending
        while self._is_full(size) and (left := deadline - time.monotonic()) > 0:
            self._room.clear()
            # Give the lock back entirely, however often it is held: delivery needs it to report the
            # space it frees.
            with _released(self._lock):
                self._room.wait(min(left, 0.2))
        self._appending = appending  # others may have appended meanwhile
        return not self._is_full(size)

    def _count_dropped(self, cause: str) -> None:
        with self._lock:
            self.accepted = next(self._numbers)
            self.dropped[cause] = self.dropped.get(cause, 0) + 1
            self._note()

    def _fall_short(self, record: Record) -> None:
        """Remember for the end of its run that *record* was dropped."""
        self._short.add(record)
        if self._short:
            self._encode = self._encode_short

    def _encode_short(self, record: Record) -> bytes:
        """
        Encode *record*, an end with how many records of its run were dropped. In the place of the
        plain encoder only while there is such a run: others are not to pay for the question.
        """
        record = self._short.tagged(record)
        if not self._short:
            self._encode = _encode_plainly
        return _encode_plainly(record)

    # The delivery's side.

    def count_damaged(self, found: Callable[[], int | None]) -> None:
        """
        Account for the records that the disk does not give back: all that were taken, less those
        *found* and those that were dropped. *found* is None where there are more to read.
        """
        with self._lock:
            if (known := found()) is not None:
                others = sum(number for cause, number in self.dropped.items() if cause != "damaged")
                if lost := self.accepted - known - others:
                    self.dropped["damaged"] = lost
                    self._note()

    def in_memory(self, after: int) -> list[bytes]:
        """
        Return the lines with numbers above *after* that are in memory because the disk refuses
        them.
        """
        with self._lock:
            return self._memory.after(after)

    def forget(self, numbers: Iterable[int]) -> None:
        """Let go of records in memory: they are delivered."""
        with self._lock:
            if self._memory:
                self._memory.forget(numbers)

    def reclaimed(self, size: int) -> None:
        """Learn that *size* bytes of segments or blobs were deleted."""
        with self._lock:
            self._bytes -= size
        self._room.set()

    # Backend.

    def run_id(self, uid: str) -> str | None:
        """Return MLflow's id of the run *uid*, None until it is delivered."""
        return self._delivery.run_id(uid) if self._delivery else None

    def wait(self, uid: str, timeout: float) -> bool:
        """Wait until what was logged to *uid* is delivered."""
        self._start_delivery()
        return self._delivery.wait(uid, timeout) if self._delivery else False

    def flush(self, timeout: float) -> FlushReport:
        """Deliver for at most *timeout* seconds."""
        self._start_delivery()
        if self._delivery is not None:
            self._delivery.flush(timeout)
        return self.status().report()

    def _start_delivery(self) -> None:
        """Have somebody read what is there, also where the delivery was closed and nothing came since."""
        self.commit()
        if self.idle and self.accepted and self._delivery is not None:
            self._delivery.wake(self)

    def status(self) -> SpoolStatus:
        """Return the state of this process's journal."""
        delivered, dead = self._delivery.counts() if self._delivery else (0, 0)
        state, error = self._delivery.state() if self._delivery else ("idle", None)
        with self._lock:
            accepted, dropped = self.accepted, dict(self.dropped)
            pending = accepted - delivered - dead - sum(dropped.values())
            oldest = self._delivery.oldest_ms() if self._delivery else None
            return SpoolStatus(
                destination=safe_uri(self.destination.uri),
                directory=str(self.directory.path) if self.directory else None,
                accepted=accepted,
                delivered=delivered,
                pending=pending,
                dropped=dropped,
                dead=dead,
                bytes=max(self._bytes, 0),
                oldest_ms=(oldest or self._waiting_since) if pending else None,
                degraded=self.degraded,
                state=state,
                last_error=error,
                trend=self.destination.trend(),
            )

    def close(self, timeout: float) -> FlushReport:
        """
        Flush, stop the delivery, and leave the directory to the next process, or remove it if
        nothing is left in it. A later record starts anew.

        With runs that are open on the server the directory stays this process's: while its lock is
        held nobody ends them as `KILLED`.
        """
        self.commit()
        if self.accepted == 0 and self._left is not None:
            return self._left  # closed before, and nothing since
        open_runs = self._delivery.close(timeout) if self._delivery is not None else 0
        self._rescue()
        # At once: what another thread logs meanwhile is to be found in the directory that is left, or
        # to begin a new one.
        with self._lock:
            report = self.status().report()
            self._close_segment()
            self.idle = True  # nobody reads any more; the next record starts a reader
            if self.directory is not None and not open_runs:
                self._leave(self.directory, report)
                self._left = report
        return report

    def _rescue(self) -> None:
        """
        Move what is in memory to disk, if that is possible now; the rest ends with the process and
        is counted.
        """
        with self._lock:
            if self._memory:
                with contextlib.suppress(OSError, ConfigurationError):
                    self._next_segment()
                    self._spill()
            if lost := len(self._memory):
                self.dropped["memory_lost"] = self.dropped.get("memory_lost", 0) + lost
                self._memory.clear()
            self._note()

    def _leave(self, directory: WriterDirectory, report: FlushReport) -> None:
        counts = Counts(self.accepted, report.delivered, report.dead, self.dropped)
        try:
            if report.pending:
                directory.release()
            else:
                self.destination.retire(directory, counts)
        except OSError:
            directory.release()
        # What is left is the next owner's to deliver and to count; that may be this process. The next
        # directory counts from one.
        self._start_afresh()
        if self._delivery is not None:
            self._delivery.handed_over()

    # Fork.

    def _fork_child(self) -> None:
        """
        Become the child's own, empty journal.

        Closing the inherited descriptors releases nothing: the parent has them open too.
        """
        self._close_segment()
        if self.directory is not None:
            self.directory.release()
        self._lock = threading.RLock()
        self._start_afresh()
        if self._delivery is not None:
            self._delivery.forked()


@contextlib.contextmanager
def _released(lock: Any) -> Iterator[None]:
    """Give a reentrant lock up, however often it is held, and take it back as often."""
    state = lock._release_save()
    try:
        yield
    finally:
        lock._acquire_restore(state)


_locked: list[Journal] = []


def _before_fork() -> None:
    # One list from here to `_after_fork_in_parent`, whatever is created or collected meanwhile.
    _locked[:] = _journals
    for journal in _locked:
        journal._lock.acquire()
        journal.commit()


def _after_fork_in_parent() -> None:
    for journal in _locked:
        journal._lock.release()
    _locked.clear()


def _after_fork_in_child() -> None:
    _locked.clear()
    for journal in list(_journals):
        journal._fork_child()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
