"""
One writer directory as delivery reads it: its unsettled records in order, and their settlement.

A source is *live* while its journal is in this process and may still grow, else *adopted*: its
writer is dead, it is read to the end, and the runs left open in it are ended as `KILLED` with the
last time known of them.

A segment is deleted when it is read to its end, a later one exists, and all its records are settled; the
last of a dead writer, which has the last number, with the directory.

A directory with damaged acknowledgements is delivered again as far as it is still there, and the
runs of it are looked up before they are created: both are safe to repeat.
"""

from __future__ import annotations

import os
import threading

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from .. import _guard
from .._files import Foreign, open_private
from .._records import KILLED, AssessmentLogged, Record, RunEnded, RunRecorded, RunStarted, blobs_of
from .._spool import Counts, DestinationDirectory, Tally, WriterDirectory, read_tally
from ..backends.journal import Journal
from .acks import AckLog, Created, Creating, Dead, Done, Unanswered
from .destination import NotApplied
from .inventory import losses, read_record, take_inventory


_READ_BYTES = 16 << 10


class Source:
    """
    The records of one writer.

    Read by the sender's coordinator, settled by its workers; a lock of their own keeps them apart.
    """

    def __init__(self, directory: WriterDirectory | None, journal: Journal | None = None) -> None:
        self.lock = threading.RLock()
        self.journal = journal
        self.directory = directory
        self.writer = directory.path.name if directory is not None else ""
        """The name of the directory, also when that was left."""
        self.context = journal.context if journal else directory.owner.context if directory else {}
        self.acks = AckLog()
        if directory is not None and journal is None:
            self._take_over(directory)
        self.delivered_before, self.dead_before = self.acks.delivered, self.acks.dead
        self.last_read = 0
        """The highest record number that was read."""
        self.outstanding: dict[int, int] = {}
        """Records read and not settled: number → the number of their segment (0: from memory)."""
        self.aside: dict[int, int] = {}
        """Records read, not settled, and not in memory either: to be read again after `rewind`."""
        self.held: dict[int, int] = {}
        """Records of spans that are open: kept in memory, take no room that others need, and nobody waits for them."""
        self.parked: dict[int, int] = {}
        """Those of spans that cannot be delivered for long: kept in the same way, and waited for."""
        self._again = False
        self.started_over = False
        """Set when the second reading begins; whoever waits for it clears it."""
        self.resumed = journal is None
        """Whether another sender has had it before: what it requested last may still land."""
        self._broken = False
        self._closed = False
        self._blobs: dict[int, tuple[str, ...]] = {}
        self._segment = 0
        self._descriptor = -1
        self._offset = 0
        self._rest = b""
        self._held: dict[int, int] = {}
        self._numbers: dict[int, set[int]] = {}
        self._complete: set[int] = set()
        self._from_memory = 0
        self._open: dict[str, int] = {uid: self.acks.last_time.get(uid, 0) for uid in self.acks.created}
        self.read_to_end = False
        self._last = 0
        """The last segment of a dead writer that has records."""
        if directory is not None and journal is None:
            self._segments = deque(directory.segments())
            self._last = next(filter(partial(_has_records, directory), reversed(self._segments)), 0)

    def _take_over(self, directory: WriterDirectory) -> None:
        path = directory.path / "acks"
        self.acks.damaged = not path.exists()
        self.acks.load(path)
        if self.acks.damaged:
            found = take_inventory(directory.path)
            self.acks.start_over(found.delivered, found.dead)
        # Once: a process that dies before it leaves the damage for the next one to see.
        self.acks.compact(self.acks.settled)

    @property
    def unclear(self) -> bool:
        """Whether a run may exist on the server although the acknowledgements do not mention it."""
        rebooted = self.directory is not None and self.directory.rebooted
        return self.acks.damaged or self.acks.unclear or rebooted

    @property
    def experiment(self) -> str:
        """The experiment of the writer's runs that name none."""
        owner = self.directory.owner if self.directory is not None else None
        return (owner.experiment if owner else "") or "Default"

    # Reading.

    def read(self) -> list[Record]:
        """
        Return the next unsettled records in the order of the journal; empty when there are none
        now. Raises OSError where the disk, or a want of descriptors, does not give them now.
        """
        with self.lock:
            return self._read()

    def _read(self) -> list[Record]:
        if self.journal is not None and self.directory is None and self.journal.directory is not None:
            self.directory = self.journal.directory
            self.writer = self.directory.path.name
            before = self.acks.delivered, self.acks.dead
            self.resumed = (path := self.directory.path / "acks").exists()
            self.acks.attach(path)
            # What an earlier sender of this process has settled in the directory.
            self.delivered_before += self.acks.delivered - before[0]
            self.dead_before += self.acks.dead - before[1]
        while self.directory is not None:
            if self._descriptor < 0 and not self._open_next():
                break
            # In this order: what the writer appends before it steps to the next segment is read
            # after the step was seen.
            last = self._is_last_read()
            if found := self._read_segment():
                return found
            if not last:
                break
            self._finish_segment()
        found = self._read_memory(self.journal) if self.journal is not None else []
        if not found and self._broken and self.journal is not None:
            self.journal.count_damaged(self._accounted_for)
        if not found and self._again and self.aside:
            self._start_over()
        elif self.journal is None:
            self.read_to_end = True
        return found

    def _open_next(self) -> bool:
        """Open the next segment that there is; say whether there was one."""
        directory = self.directory
        assert directory is not None
        while (number := self._next_number()) is not None:
            try:
                self._descriptor = open_private(directory.segment(number), os.O_RDONLY)
            except FileNotFoundError:
                self._begin_segment(number)
                continue  # deleted when it was settled, or never made by a rotation that failed
            except Foreign as refusal:
                _guard.warn_once(f"foreign:{directory.segment(number)}", str(refusal))
                self._begin_segment(number)
                self._found_damage()
                continue
            self._begin_segment(number)
            self._held.setdefault(number, 0)
            self._numbers.setdefault(number, set())
            return True
        return False

    def _begin_segment(self, number: int) -> None:
        """Go on to segment *number*: it is open, or cannot be read for good."""
        if self.journal is None:
            self._segments.popleft()
        self._segment, self._offset, self._rest = number, 0, b""

    def _next_number(self) -> int | None:
        if self.journal is None:
            return self._segments[0] if self._segments else None
        return self._segment + 1 if self._segment < self.journal.segment else None

    def _read_segment(self) -> list[Record]:
        while block := os.pread(self._descriptor, _READ_BYTES, self._offset):
            self._offset += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            if found := [record for line in lines if (record := self._take(line, self._segment)) is not None]:
                return found
        return []

    def _take(self, line: bytes, segment: int) -> Record | None:
        record = read_record(line)
        if record is None:
            self._found_damage()
            return None
        number = record.seq
        if number not in (self._numbers[segment] if segment else self.outstanding):
            self._follow(record)
        if segment:
            self._numbers[segment].add(number)
        self.last_read = max(self.last_read, number)
        if number in self.acks.settled:
            return None
        in_memory = next(
            (place for place in (self.outstanding, self.held, self.parked) if number in place), {}
        )
        known = in_memory.get(number, self.aside.get(number))
        if segment and not known:
            # New; or read from memory before, and moved to the disk since: its segment has to stay.
            self._held[segment] += 1
        if number in in_memory:
            in_memory[number] = segment or in_memory[number]
            return None
        self.outstanding[number] = segment or self.aside.pop(number, 0)
        self.aside.pop(number, None)
        if blobs := blobs_of(record):
            self._blobs[number] = blobs
        return record

    def set_aside(self, records: Sequence[Record]) -> None:
        """
        Forget the content of *records*, which cannot be delivered for long: they are on disk, and
        read again after `rewind`.
        """
        with self.lock:
            for record in records:
                if record.seq in self.outstanding:
                    self.aside[record.seq] = self.outstanding.pop(record.seq)

    def hold(self, records: Sequence[Record]) -> None:
        """Count *records* as `held`: they are of an open span."""
        self._move(records, self.outstanding, self.held)

    def park(self, records: Sequence[Record]) -> None:
        """Count *records* as `parked`."""
        self._move(records, self.outstanding, self.parked)

    def release(self, records: Sequence[Record]) -> None:
        """Count *records* as before `hold`."""
        self._move(records, self.held, self.outstanding)

    def _move(self, records: Sequence[Record], origin: dict[int, int], goal: dict[int, int]) -> None:
        with self.lock:
            for record in records:
                if record.seq in origin:
                    goal[record.seq] = origin.pop(record.seq)

    def rewind(self) -> None:
        """
        Read again from the beginning, once the end is reached: passes that are asked for while one is
        under way would never get to what is new.
        """
        self._again = True

    def _start_over(self) -> None:
        self._again, self.started_over = False, True
        self.close_segment()
        self._segment = self._from_memory = 0
        self._complete.clear()  # or a segment would be reclaimed in the middle of its second reading
        if self.journal is None and self.directory is not None:
            self._segments = deque(self.directory.segments())

    def _found_damage(self) -> None:
        self._broken = True
        _guard.warn_once(
            "damaged",
            "the spool has damaged lines; they are skipped and counted",
            directory=str(self.directory and self.directory.path),
        )

    def _accounted_for(self) -> int | None:
        """Return how many records are known, None while there are more to read."""
        if self.behind():
            return None
        return self.acks.delivered + self.acks.dead + sum(map(len, self._places))

    def _follow(self, record: Record) -> None:
        """Keep track of the runs that this writer has open, and of their last known time."""
        if isinstance(record, RunStarted):
            # A start that is settled, of a run that is not open on the server, has its end behind
            # it.
            if record.seq not in self.acks.settled or record.run in self.acks.created:
                self._open[record.run] = record.time
        elif isinstance(record, (RunEnded, RunRecorded)):
            self._open.pop(record.run, None)
        elif record.run in self._open:
            self._open[record.run] = max(record.time, self._open[record.run])
        elif isinstance(record, AssessmentLogged):
            return  # what is said of a trace opens nothing
        elif record.experiment is None and record.seq not in self.acks.settled:
            # Logged while its run was open here: the line of its start is damaged.
            self._open[record.run] = record.time

    def _read_memory(self, journal: Journal) -> list[Record]:
        lines = journal.in_memory(self._from_memory)
        found = [record for line in lines if (record := self._take(line.rstrip(b"\n"), 0)) is not None]
        if found:
            self._from_memory = max(record.seq for record in found)
        return found

    def _is_last_read(self) -> bool:
        return self.journal is None or self._segment < self.journal.segment

    def _finish_segment(self) -> None:
        self.close_segment()
        # A torn last line is no loss: the journal appended its record again, to the next segment.
        self._rest = b""
        self._complete.add(self._segment)
        self._reclaim(self._segment)

    def killed(self) -> Iterator[RunEnded]:
        """
        Yield the ends of the runs that the dead writer left open; call once, when `read_to_end`.
        They have no number: nobody recorded them.
        """
        for uid, time in self._open.items():
            yield RunEnded(run=uid, time=time, status=KILLED)
        self._open = {}

    # Settling.

    @property
    def is_left(self) -> bool:
        """Whether the acknowledgements are the next owner's now, who delivers again what is not settled."""
        return self._closed

    def done(self, uid: str, records: Sequence[Record], *, closed: bool = False) -> None:
        """Settle *records* of run *uid*: they are on the server; with *closed* so is its end."""
        with self.lock:
            if self._closed:
                return
            numbers = self._unsettled(records)
            self.acks.write(Done(uid, numbers, max((record.time for record in records), default=0), closed))
            self._settled(numbers)

    def dead(self, uid: str, records: Sequence[Record], *, closed: bool = False) -> None:
        """Settle *records* of run *uid*: they are among the dead letters."""
        with self.lock:
            if self._closed:
                return
            numbers = self._unsettled(records)
            self.acks.write(Dead(uid, numbers, closed))
            self._settled(numbers)

    def note(self, entry: Creating | Created | Unanswered) -> None:
        """
        Write down how far a run has come; raise `NotApplied` where the next process may have the
        directory: two would create the run, or fill it.
        """
        with self.lock:
            if self._closed:
                raise NotApplied("the run was left to the next process")
            self.acks.write(entry)

    def _unsettled(self, records: Sequence[Record]) -> list[int]:
        """Return the numbers of those that are to be settled: one that was read again may have been meanwhile."""
        return [record.seq for record in records if any(record.seq in place for place in self._places)]

    def _settled(self, numbers: Sequence[int]) -> None:
        touched: set[int] = set()
        for number in numbers:
            segment = next((place.pop(number) for place in self._places if number in place), 0)
            if segment:
                self._held[segment] -= 1
                touched.add(segment)
            for blob in self._blobs.pop(number, ()):
                if self.directory is not None:
                    self._delete(self.directory.blob(blob))
        if self.journal is not None and self.journal.degraded:
            self.journal.forget(numbers)
        for segment in touched:
            self._reclaim(segment)

    def _reclaim(self, segment: int) -> None:
        """Delete *segment* if nothing in it is needed any more, and it is not the one to be kept."""
        if segment == self._last or segment not in self._complete or self._held[segment]:
            return
        if self.directory is not None:
            self._delete(self.directory.segment(segment))
            self._complete.discard(segment)
            del self._held[segment]
            self.acks.settled.difference_update(self._numbers.pop(segment))

    def _delete(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            path.unlink()
        except OSError:
            return
        if self.journal is not None:
            self.journal.reclaimed(size)

    # The whole.

    def first_unsettled(self, default: int) -> int:
        """Return about the lowest number of a record that was read and not settled; records are read nearly in order."""
        return min(next(iter(place), default) for place in (self.outstanding, self.aside, self.parked))

    @property
    def _places(self) -> tuple[dict[int, int], ...]:
        """Where the number of a record that was read, and is not settled, is found."""
        return self.outstanding, self.aside, self.held, self.parked

    @property
    def empty(self) -> bool:
        """Whether everything that was read is settled."""
        return not any(self._places)

    def behind(self) -> bool:
        """Whether a live journal has records that were not read yet."""
        journal = self.journal
        if journal is None:
            return not self.read_to_end
        if journal.segment > self._segment or journal.in_memory(self._from_memory):
            return True
        return self._descriptor >= 0 and os.fstat(self._descriptor).st_size > self._offset

    def leave(self, destination: DestinationDirectory) -> None:
        """
        Let go of an adopted directory: removed when it is finished, else left for the next process.
        """
        self.close()
        directory = self.directory
        if directory is None or self.journal is not None:
            self.directory = None
        elif self.read_to_end and self.empty and not self._open and not self.acks.created:
            destination.retire(directory, self.counts())
            self.directory = None
        else:
            directory.release()
            self.directory = None

    def counts(self) -> Counts:
        """Return what has become of the records of a dead writer, once everything is settled."""
        tally = read_tally(self.directory.path) if self.directory is not None else Tally()
        known = self.acks.delivered + self.acks.dead
        accepted = max(tally.accepted, self.last_read, known + sum(tally.dropped.values()))
        return Counts(accepted, self.acks.delivered, self.acks.dead, losses(tally, accepted, known))

    def abandon(self) -> None:
        """
        Close what a forked child has inherited; the parent goes on with it, and its lock must not
        live on here.
        """
        self.close()
        if self.directory is not None and self.journal is None:
            self.directory.release()

    def close(self) -> None:
        """Close the files."""
        self._closed = True
        self.acks.close()
        self.close_segment()

    def close_segment(self) -> None:
        """Close the segment that is being read."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _has_records(directory: WriterDirectory, segment: int) -> bool:
    try:
        return directory.segment(segment).stat().st_size > 0
    except FileNotFoundError:
        return False
