"""
The sender: reads writer directories, decides what goes when, and has workers deliver it.

One coordinator thread owns all scheduling state and touches no network; up to
`Destination.connections` workers do, one job at a time each. They talk through queues, so nothing
here is locked across a request, and the caller's thread only ever leaves a note in the inbox.

Order. First in, first out within a run; runs in parallel; a parent's creation before its
children's. A run is delivered when its end has been read, or `COALESCE_SECONDS` after its first
undelivered record: a short call becomes three requests, a long training shows its metrics within a
second.

Failure. When what failed is tried again, and whether all have to wait for it, the circuit breaker
decides (`breaker`). Everything stays in the spool meanwhile.

Reconciliation. When what was noted of late requests (`late`) is due, or `mltrace sync` is done, a worker
looks for what they have done (`Courier.reconcile`).

Memory. No more is read when `READ_AHEAD_RUNS` runs are ready to be sent, or `READ_AHEAD` records
undelivered; the rest stays on disk.
"""

from __future__ import annotations

import heapq
import itertools
import math
import queue
import threading
import time

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import _clock, _guard
from .._records import TRACE_PREFIX, AssessmentLogged, Record, RunRecorded, RunStarted
from .._spool import DestinationDirectory, WriterDirectory, remove_remnant
from ..backends.journal import Journal
from .breaker import Breaker
from .bundles import MAX_AWAY, Bundle, Bundler
from .courier import Courier
from .crew import Crew, Job, report
from .destination import Destination, ServerRun
from .late import RECONCILE_SECONDS, LateLog
from .outbox import JOB_RECORDS, Box, Delivered, Parcel
from .pace import Pace
from .source import Source
from .waiting import Waiter


COALESCE_SECONDS = 0.25
READ_AHEAD = 4096
READ_AHEAD_RUNS = 64
ADOPT_SECONDS = 5.0

_BACKLOG = 16  # records in one read that mean that there are more
_COLLECT_SECONDS = 0.05
"""
Between two looks at the journal, and from the first record to the first look: looking takes the interpreter's
lock from the caller, who is most likely in the middle of a request.
"""
_UNREADABLE_SECONDS = 0.5  # until a segment is tried again that could not be opened
_KNOWN_RUNS = 65_536


class Sender:
    """
    Delivers the records below *directory* to what *connect* returns.

    Implements `mltrace.backends.journal.Delivery`.
    """

    def __init__(
        self,
        directory: DestinationDirectory,
        connect: Callable[[], Destination],
        *,
        link_seconds: float = 3600.0,
    ) -> None:
        self._directory = directory
        self._connect = connect
        self._link_seconds = link_seconds
        self._known: dict[str, ServerRun] = {}
        self._before = (0, 0)
        self._sources: list[Source] = []
        self.forked()

    def forked(self) -> None:
        """
        Begin afresh, without threads, in a forked child; the ids of known runs stay, its records
        refer to them.
        """
        for source in self._sources:
            source.abandon()
        self._before = (0, 0)
        self._reset()

    def _reset(self) -> None:
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._crew = Crew(self._inbox, self._open_courier)
        self._own: Source | None = None
        self._sources = []
        self._boxes: dict[str, Box] = {}
        self._bundler = Bundler()
        self._bundles_busy = 0
        self._pace = Pace()
        self._ready: deque[Parcel] = deque()
        self._timers: list[tuple[float, int, Parcel]] = []
        self._order = itertools.count()
        self._waiters: list[Waiter] = []
        self._breaker = Breaker(self._directory, lambda: bool(self._waiters))
        self._collect_at = 0.0
        self._next_adoption = 0.0
        self._late = LateLog(self._directory)
        self._next_reconciliation = 0.0
        self._unreadable = False
        self._left = [0, 0]

    # What a journal and the command line ask of it, from any thread.

    def start(self, journal: Journal | None = None) -> None:
        """Start the coordinator, once; a *journal* of this process is read from now on."""
        with self._start_lock:
            if self._thread is not None or self._closed:
                return
            if journal is not None:
                self._own = Source(None, journal)
                self._sources.append(self._own)
            thread = threading.Thread(target=self._run, name="mltrace-sender", daemon=True)
            try:
                # The first worker too: since 3.12 no thread can be started when the interpreter exits,
                # which is when a short program's records are sent.
                self._crew.start_one()
                thread.start()
            except RuntimeError:
                # It exits already; the records are safe and the next process sends them.
                self._own, self._sources = None, []
                return
            self._thread = thread

    def wake(self, journal: Journal) -> None:
        """Learn that *journal* has new records."""
        if self._thread is None:
            self.start(journal)
        self._inbox.put(("wake",))

    def run_id(self, uid: str) -> str | None:
        """
        Return MLflow's id of the run *uid*, None while it is not created; the latest 65,536 runs
        are remembered.
        """
        known = self._known.get(uid)
        return known.run_id if known else None

    def run_ids(self) -> dict[str, str]:
        """Return MLflow's ids of the runs that are known to be created, by uid."""
        return {uid: known.run_id for uid, known in list(self._known.items())}

    def wait(self, uid: str, timeout: float) -> bool:
        """Wait until everything logged to run *uid* before the call is delivered."""
        return self._await(Waiter(uid, self._accepted(), patient=True), timeout)

    def flush(self, timeout: float) -> bool:
        """
        Wait until everything logged before the call, or left by dead processes, is settled, at most
        *timeout* seconds, and less where only a person can help; say whether it is.
        """
        return self._await(Waiter(None, self._accepted(), patient=True), timeout)

    def counts(self) -> tuple[int, int]:
        """Return how many records of the own journal were delivered, and how many are dead."""
        delivered, dead = self._before
        if (own := self._own) is not None:
            delivered += own.acks.delivered - own.delivered_before
            dead += own.acks.dead - own.dead_before
        return delivered, dead

    def settled(self) -> tuple[int, int]:
        """
        Return how many records of all writers this sender has delivered, and how many it gave up.
        """
        sources = list(self._sources)
        return (
            self._left[0] + sum(source.acks.delivered - source.delivered_before for source in sources),
            self._left[1] + sum(source.acks.dead - source.dead_before for source in sources),
        )

    def is_idle(self) -> bool:
        """
        Say whether nothing that was read waits or is under way, and no directory of a dead writer
        is left.
        """
        return (
            not self._crew.busy
            and not any(box.records for box in list(self._boxes.values()))
            and all(source is self._own for source in self._sources)
        )

    def reconcile(self, timeout: float) -> bool:
        """
        Look for what late requests have done, however young they are, for at most *timeout* seconds; say
        whether that is done. Call it when all is delivered.
        """
        if self._thread is None or not self._thread.is_alive():
            return False
        done: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._inbox.put(("reconcile", done))
        try:
            return done.get(timeout=timeout)
        except queue.Empty:
            return False

    def open_runs(self) -> int:
        """Return how many runs of the own journal exist on the server without their end, and spans that are open."""
        return len(self._own.acks.created) + len(self._own.held) if self._own else 0

    def oldest_ms(self) -> int | None:
        """Return the wall-clock time of the oldest record that was read and is undelivered."""
        return min(
            (box.records[0][1].time for box in list(self._boxes.values()) if box.records), default=None
        )

    def state(self) -> tuple[str, str | None]:
        """
        Return the destination's state (idle, healthy, unreachable, throttled, suspended) and the
        last error.
        """
        return self._breaker.state

    def close(self, timeout: float) -> int:
        """
        Deliver for at most *timeout* seconds, less where the destination does not answer, then
        stop; requests under way are left behind.
        """
        if self._thread is None:
            return 0
        deadline = time.monotonic() + timeout
        if timeout > 0:
            self._await(Waiter(None, self._accepted(), patient=False), timeout)
        self._closed = True
        self._inbox.put(("stop",))
        self._thread.join(max(deadline - time.monotonic(), 0.5))
        open_runs = self.open_runs()
        if not self._thread.is_alive():
            self._before = self.counts()
            self._reset()  # the journal may go on, and starts it again
        return open_runs

    def handed_over(self) -> None:
        """Forget the journal's counts: its directory was left to the next process."""
        self._own, self._before = None, (0, 0)

    def _accepted(self) -> int:
        return self._own.journal.accepted if self._own and self._own.journal else 0

    def _await(self, waiter: Waiter, timeout: float) -> bool:
        if self._thread is None or not self._thread.is_alive():
            return False
        self._inbox.put(("wait", waiter))
        done = waiter.event.wait(timeout)
        self._inbox.put(("forget", waiter))
        return done and not waiter.in_vain

    # The coordinator.

    def _run(self) -> None:
        pause: float = 0
        while True:
            try:
                message = self._inbox.get(timeout=pause) if pause > 0 else self._inbox.get_nowait()
            except queue.Empty:
                message = None
            try:
                while message is not None:
                    if message[0] == "stop":
                        self._stop()
                        return
                    self._handle(*message)
                    message = None if self._inbox.empty() else self._inbox.get_nowait()
                pause = self._step()
            except Exception as error:
                # Scheduling must go on: whatever this was, the records are in the spool.
                pause = 1.0
                report(error)

    def _handle(self, kind: str, *details: Any) -> None:
        if kind == "wake":
            self._collect_at = time.monotonic() + _COLLECT_SECONDS
        elif kind == "done":
            self._finished(*details)
        elif kind == "arrived":
            self._arrived(*details)
        elif kind == "wait":
            self._waiters.append(details[0])
            self._hurry()
        elif kind == "reconcile":
            self._reconcile(details[0])
        elif kind == "reconciled":
            self._reconciled(*details)
        elif kind == "forget" and details[0] in self._waiters:
            self._waiters.remove(details[0])

    def _step(self) -> float:
        """
        Do what can be done now; return the seconds until there is more to do without a message.
        """
        now = time.monotonic()
        if now >= self._next_adoption:
            self._next_adoption = now + ADOPT_SECONDS
            self._adopt()
            if now >= self._next_reconciliation and self._breaker.is_healthy and self._late.overdue():
                self._reconcile()
        collecting = now < self._collect_at and not self._waiters
        found = 0 if collecting else self._read(now)
        self._dispatch(now, hurry=bool(self._waiters) and found < _BACKLOG)
        self._answer()
        self._pace.look(now, self._directory, healthy=self._breaker.is_healthy)
        if collecting:
            return self._collect_at - now
        if self._unreadable:
            return _UNREADABLE_SECONDS
        if found >= _BACKLOG and self._has_room():
            return 0
        return _COLLECT_SECONDS if found else self._doze(time.monotonic())

    def _doze(self, now: float) -> float:
        if self._own is not None and self._own.journal is not None and self._has_room():
            self._own.journal.idle = True
            # In this order: a record appended before the flag went up is seen here, one after it
            # sends a message.
            if self._own.behind() or self._own.journal.commit():
                self._own.journal.idle = False
                return 0
        pause = self._next_adoption - now
        if self._timers:
            pause = min(pause, self._timers[0][0] - now)
        if self._bundles_wanted() and (due := self._bundler.next_due()) is not None:
            pause = min(pause, due - now)
        if self._ready and self._crew.busy < self._width():
            pause = min(pause, self._breaker.not_before - now)
        return max(pause, 0.001)

    def _stop(self) -> None:
        self._crew.dismiss()
        for source in list(self._sources):
            with source.lock:
                source.leave(self._directory)
        for waiter in self._waiters:
            waiter.give_up()

    # Reading.

    def _has_room(self) -> bool:
        return (
            len(self._ready) < READ_AHEAD_RUNS
            and sum(len(source.outstanding) for source in self._sources) < READ_AHEAD
        )

    def _read(self, now: float) -> int:
        """Read ahead from every writer; return how many records were found."""
        found = 0
        self._unreadable = False
        for source in list(self._sources):
            if not self._has_room():
                break
            if source.journal is not None:
                source.journal.commit()
            try:
                records = source.read()
            except OSError as error:
                self._unreadable = True
                _guard.warn_once(
                    "unreadable", "the spool cannot be read at present; it is tried again", error=str(error)
                )
                continue
            if source.started_over:
                self._read_again(source)
            found += len(records)
            for record in records:
                self._take(source, record, now)
            if source.read_to_end:
                self._wind_up(source, now)
        return found

    def _take(self, source: Source, record: Record, now: float) -> None:
        # What is said of a trace is delivered for itself: it may have been recorded elsewhere.
        uid = f"said {record.assessment_id}" if isinstance(record, AssessmentLogged) else record.run
        box = self._boxes.get(uid)
        if box is None or box.job:
            late = box.trace if box is not None else None
            box = self._boxes[uid] = Box(uid)
            box.server = self._known.get(uid)
            if late is not None:
                box.server = ServerRun(f"{TRACE_PREFIX}{late}", "", "", is_trace=True)
            box.restore(source)
        box.add(source, record)
        if isinstance(record, (RunStarted, RunRecorded)) and not box.is_span:
            self._pace.read(record.time)
        if box.is_span:
            self._take_span(box, source, record, now)
            return
        if box.aside and record.seq:
            box.set_aside()
            return
        if box.server is not None:
            self._remember(box)
        self._schedule(box, now, record)

    def _take_span(self, box: Box, source: Source, record: Record, now: float) -> None:
        """Keep what is known of a span until its end; then it is ready to travel."""
        if not box.ended:
            source.hold([record])
        elif box.queue == "none":
            for writer, records in box.by_source().items():
                writer.release(records)
            self._bundler.add(box, now)

    def _schedule(self, box: Box, now: float, record: Record) -> None:
        if box.queue not in ("none", "timer"):
            return
        age = (_clock.now_ms() - record.time) / 1000
        if box.ended or self._waiters or len(box.records) >= JOB_RECORDS or age >= COALESCE_SECONDS:
            self._enqueue(box)
        elif box.queue == "none":
            self._delay(box, now + COALESCE_SECONDS - max(age, 0))

    def _enqueue(self, parcel: Parcel) -> None:
        parcel.queue = "ready"
        self._ready.append(parcel)

    def _delay(self, parcel: Parcel, until: float) -> None:
        parcel.queue = "timer"
        heapq.heappush(self._timers, (until, next(self._order), parcel))

    def _adopt(self) -> None:
        """Take over the directories of writers that are gone."""
        mine = {source.directory.path for source in self._sources if source.directory is not None}
        if (
            self._own is not None
            and self._own.journal is not None
            and self._own.journal.directory is not None
        ):
            mine.add(self._own.journal.directory.path)
        for path in self._directory.writers():
            if path in mine:
                continue
            if (directory := WriterDirectory.adopt(path)) is None:
                remove_remnant(path)
                continue
            try:
                self._sources.append(Source(directory))
            except BaseException:
                directory.release()
                raise

    def _wind_up(self, source: Source, now: float) -> None:
        """
        End the runs that a dead writer left open, and remove its directory when nothing of it is
        left.
        """
        for end in source.killed():
            self._take(source, end, now)
        if source.empty and not source.acks.created:
            self._sources.remove(source)
            self._left[0] += source.acks.delivered - source.delivered_before
            self._left[1] += source.acks.dead - source.dead_before
            source.leave(self._directory)

    # Dispatching.

    def _hurry(self) -> None:
        """Do at once what was put off: somebody waits."""
        self._breaker.not_before = 0.0
        self._next_adoption = 0.0
        for _, _, box in self._timers:
            if box.queue == "timer" and not box.ambiguous:
                box.not_before = 0.0
                self._enqueue(box)

    def _recall(self, box: Box) -> None:
        """
        Read the records of a box that was set aside again: now something can be done with them. Until
        that reading has begun what is new of the run is set aside too, as it comes later.
        """
        box.recalled = True
        for source in box.aside:
            source.rewind()

    def _read_again(self, source: Source) -> None:
        """Take the records of recalled boxes from *source*, which begins to read it from the beginning."""
        source.started_over = False
        for box in self._boxes.values():
            if box.recalled:
                box.aside -= {source}
                box.recalled = bool(box.aside)

    def _dispatch(self, now: float, *, hurry: bool) -> None:
        for bundle in itertools.islice(self._bundler.due(now, hurry=hurry), self._bundles_wanted()):
            self._enqueue(bundle)
        while self._timers and self._timers[0][0] <= now:
            _, _, box = heapq.heappop(self._timers)
            if box.queue == "timer":
                self._enqueue(box)
        while self._ready and now >= self._breaker.not_before and self._crew.busy < self._width():
            self._send(self._ready.popleft(), now)

    def _bundles_wanted(self) -> int:
        """Return how many bundles more may be on their way; when one of them arrives, it is said."""
        away = self._bundles_busy + sum(isinstance(parcel, Bundle) for parcel in self._ready)
        return max(MAX_AWAY - away, 0)

    def _width(self) -> int:
        """
        Return how many jobs may be under way: one while the destination is being probed or opened,
        else what it takes.
        """
        if self._crew.destination is None or self._breaker.is_open:
            return 1
        return self._crew.destination.connections

    def _send(self, parcel: Parcel, now: float) -> None:
        if parcel.not_before > now:
            self._delay(parcel, parcel.not_before)
        elif self._waits_for_others(parcel):
            parcel.queue = "parent"
        elif isinstance(parcel, Box):
            parcel.queue = "busy"
            job = parcel.take()
            self._crew.assign(Job(partial(Courier.deliver, box=parcel, job=job), ("done", parcel, job)))
        elif isinstance(parcel, Bundle):
            parcel.queue = "busy"
            self._bundles_busy += 1
            self._crew.assign(Job(partial(Courier.deliver_bundle, bundle=parcel), ("arrived", parcel)))

    def _waits_for_others(self, parcel: Parcel) -> bool:
        """Say whether *parcel* has to wait for another to exist; that is hurried then."""
        for uid in parcel.needs():
            other = self._boxes.get(uid)
            if (
                other is None
                or other is parcel
                or other.server is not None
                or other.start is None
                or other.refused
                or other.aside
            ):
                continue
            other.children = other.children or []
            other.children.append(parcel)
            if other.queue == "timer" and not other.ambiguous:
                other.queue = "ready"
                self._ready.appendleft(other)
            return True
        return False

    # After a job.

    def _finished(self, box: Box, job: list[Delivered], error: Exception | None) -> None:
        self._crew.busy -= 1
        box.queue = "none"
        if box.server is not None:
            self._remember(box)
        if error is None:
            self._succeeded(box)
        else:
            box.put_back(job)
            self._failed(box, error, time.monotonic())
        if box.server is not None or box.refused or box.aside:  # else it may take long, and is linked later
            self._let_go(box)

    def _arrived(self, bundle: Bundle, error: Exception | None) -> None:
        """Take note of how a bundle's delivery went."""
        self._crew.busy -= 1
        self._bundles_busy -= 1
        bundle.queue = "none"
        for box in bundle.done:
            if box.server is not None:
                self._remember(box)
            if self._boxes.get(box.uid) is box:
                del self._boxes[box.uid]
            self._let_go(box)
        bundle.done = []
        if error is not None:
            self._failed(bundle, error, time.monotonic())
            return
        self._breaker.succeeded(bundle)
        self._bundler.back(bundle)
        if bundle.boxes:  # they are there, and the run that they belong to is not
            bundle.defer()
            self._link_later(bundle)

    def _let_go(self, box: Box) -> None:
        """Send what waited for *box*."""
        for child in box.children or ():
            self._enqueue(child)
        box.children = None

    def _remember(self, box: Box) -> None:
        assert box.server is not None
        self._known[box.uid] = box.server
        if len(self._known) > _KNOWN_RUNS:
            del self._known[next(iter(self._known))]

    def _succeeded(self, box: Box) -> None:
        self._breaker.succeeded(box)
        if box.aside:
            self._recall(box)
        elif box.records:
            self._enqueue(box)
        elif box.unlinked:
            self._link_later(box)
        elif box.ended or box.start is None:
            self._boxes.pop(box.uid, None)
            self._pace.sent()

    def _link_later(self, parcel: Parcel) -> None:
        """
        Have *parcel*, which is delivered, linked when its run is there. How long that may take counts from
        when no record of that run is left here: one whose start was damaged takes its time.
        """
        if any(uid in self._boxes for uid in parcel.links()):
            parcel.link_deadline = 0.0
        parcel.link_tries += 1
        self._delay(parcel, time.monotonic() + self._breaker.pause(parcel.link_tries + 2))

    def _failed(self, parcel: Parcel, error: Exception, now: float) -> None:
        self._breaker.failed(parcel, error, now)
        if parcel.not_before > now:
            self._delay(parcel, parcel.not_before)
        else:
            parcel.queue = "ready"
            self._ready.appendleft(parcel)

    def _answer(self) -> None:
        """Tell those who wait for delivery."""
        for waiter in list(self._waiters):
            if self._is_delivered(waiter):
                waiter.event.set()
            elif waiter.is_in_vain(self._breaker.gave_up):
                waiter.give_up()
            else:
                continue
            self._waiters.remove(waiter)

    def _is_delivered(self, waiter: Waiter) -> bool:
        own = self._own
        if own is not None and own.last_read < waiter.target and own.behind():
            return False
        if waiter.uid is not None:
            box = self._boxes.get(waiter.uid)
            return waiter.uid in self._known and (
                box is None or (not box.records and not box.aside and box.queue == "none")
            )
        if any(source is not own for source in self._sources):
            return False  # a dead writer's runs have their end when its directory is gone
        return own is None or own.first_unsettled(waiter.target + 1) > waiter.target

    # Reconciliation.

    def _reconcile(self, done: queue.SimpleQueue[bool] | None = None) -> None:
        """Have a worker look for what requests have done late; *done* is told whether it has."""
        self._next_reconciliation = math.inf
        # Looked at before all are read: to the others more may be added meanwhile. All, for of a tag the last value counts.
        overdue = self._late.overdue()
        work = partial(Courier.reconcile, suspects=self._late.read(self._late.periods()))
        self._crew.assign(Job(work, ("reconciled", overdue, done)))

    def _reconciled(
        self, overdue: list[int], done: queue.SimpleQueue[bool] | None, error: Exception | None
    ) -> None:
        self._crew.busy -= 1
        self._next_reconciliation = 0.0
        if error is None:
            self._late.forget(overdue)
        else:
            self._next_reconciliation = time.monotonic() + RECONCILE_SECONDS
        if done is not None:
            done.put(error is None)

    def _open_courier(self) -> tuple[Destination, Courier]:
        destination = self._connect()
        return destination, Courier(destination, self._directory, self._late, self.run_id, self._link_seconds)
