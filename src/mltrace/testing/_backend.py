"""
The contract of a backend: what runs rely on.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._clock import new_id, now_ms
from .._records import ArtifactLogged, Logged, Metric, Record, RunEnded, RunStarted
from ..backends import Backend, Blob, FlushReport, SpoolStatus
from ._hypothesis import for_all
from ._laws import expect, law
from ._trees import RunTree
from .strategies import trees


THREADS, RUNS = 8, 5
WHOLE = 4  # records of a whole run, below


def check_backend(factory: Callable[[], Backend], *, counts: bool = True, examples: int = 20) -> None:
    """
    Check that what *factory* makes is a backend that runs can rely on.

    It takes every kind of record, from many threads, without waiting for a network; at every moment
    ``accepted == delivered + pending + dropped + dead``; it keeps artifacts as they are now, or says
    that it does not; waiting, flushing and closing end in their time and can be repeated.

    Args:
        factory: Makes a fresh backend; each law has its own, and closes it.

        counts: Whether the backend counts what it takes (True); False for one that drops everything
            by intent.

        examples: Sequences of records that are tried.

    Raises: AssertionError: A law is broken; the message says which.
    """
    for sentence, check in _LAWS.items():
        backend = factory()
        try:
            with law(sentence):
                check(backend, _Counts(counts), examples)
        finally:
            backend.close(0.0)


class _Counts:
    """How many of the records that were emitted a backend has to account for."""

    def __init__(self, counts: bool) -> None:
        self.counts = counts

    def of(self, number: int) -> int:
        """Return what *accepted* is after *number* records."""
        return number if self.counts else 0


def conserved(status: SpoolStatus) -> bool:
    """Say whether every accepted record is accounted for."""
    accounted = status.delivered + status.pending + sum(status.dropped.values()) + status.dead
    return status.accepted == accounted and status.pending >= 0


def whole(uid: str | None = None, parent: str | None = None) -> list[Record]:
    """Return one record of every kind that a run can have, in order."""
    uid, now = uid or new_id(), now_ms()
    return [
        RunStarted(
            run=uid, time=now, name="run", experiment="Default", parent=parent, params={"p": "1"}, tags={"t": "1"}
        ),
        Logged(run=uid, time=now, metrics=(Metric("m", 1.0, now), Metric("nan", "NaN", now))),
        ArtifactLogged(run=uid, time=now, path="note.txt", text="kept", size=4),
        RunEnded(run=uid, time=now, status="FINISHED", tags={"last": "1"}),
    ]  # fmt: skip


def _expect_conserved(backend: Backend) -> None:
    status = backend.status()
    expect(conserved(status), f"accepted is not delivered + pending + dropped + dead in {status}")


def _is_a_backend(backend: Backend, counts: _Counts, examples: int) -> None:
    missing = [name for name in _METHODS if not callable(getattr(backend, name, None))]
    expect(not missing, f"{type(backend).__name__} has no {', '.join(missing)}")
    expect(isinstance(backend.status(), SpoolStatus), f"status() is {backend.status()!r}, not a SpoolStatus")


_METHODS = ("emit", "begin", "store", "run_id", "wait", "flush", "status", "close")


def _takes_every_kind(backend: Backend, counts: _Counts, examples: int) -> None:
    for number, record in enumerate(whole(), 1):
        backend.emit(record)
        accepted = backend.status().accepted
        expect(
            accepted == counts.of(number),
            f"after {number} records, the last a {type(record).__name__}, {accepted} are accepted",
        )


def _takes_from_threads(backend: Backend, counts: _Counts, examples: int) -> None:
    barrier = threading.Barrier(THREADS)

    def work() -> None:
        barrier.wait(30)
        for _ in range(RUNS):
            for record in whole():
                backend.emit(record)

    _in_threads(work)
    accepted = backend.status().accepted
    expect(
        accepted == counts.of(THREADS * RUNS * WHOLE),
        f"of {THREADS * RUNS * WHOLE} records {accepted} are accepted",
    )


def _joins_begin_and_end(backend: Backend, counts: _Counts, examples: int) -> None:
    first, *_, last = whole()
    assert isinstance(first, RunStarted)
    backend.begin(first)
    backend.emit(last)
    _expect_conserved(backend)
    accepted = backend.status().accepted
    expect(
        accepted in {counts.of(1), counts.of(2)}, f"a start that was begun and an end are {accepted} records"
    )


def _conserves_at_every_reading(backend: Backend, counts: _Counts, examples: int) -> None:
    done = threading.Event()
    violations: list[SpoolStatus] = []

    def read() -> None:
        while True:
            last = done.is_set()
            if not conserved(status := backend.status()):
                violations.append(status)
            if last:
                return

    def work() -> None:
        for _ in range(RUNS):
            first, *rest = whole()
            assert isinstance(first, RunStarted)
            backend.begin(first)
            for record in rest:
                backend.emit(record)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            _in_threads(work)
            backend.flush(0.2)
        finally:
            done.set()
        reading.result(30)
    expect(not violations, f"{len(violations)} readings did not add up, the first {violations[:1]}")


def _takes_any_tree(backend: Backend, counts: _Counts, examples: int) -> None:
    def check(tree: RunTree) -> None:
        before, records = backend.status().accepted, list(_records_of(tree, None))
        for record in records:
            backend.emit(record)
            _expect_conserved(backend)
        accepted, number = backend.status().accepted - before, len(records)
        expect(accepted == counts.of(number), f"of {number} records {accepted} are accepted, for\n{tree!r}")

    for_all(trees(), check, examples)


def _records_of(tree: RunTree, parent: str | None) -> Iterator[Record]:
    """Yield the records of a tree in the order in which they happen."""
    start, logged, artifact, end = whole(parent=parent)
    yield start
    yield logged
    for child in tree.children:
        yield from _records_of(child, start.run)
    yield artifact
    yield end


def _keeps_bytes(backend: Backend, counts: _Counts, examples: int) -> None:
    blob = backend.store(b"\x00\xff" * 500)
    good = blob is None or (isinstance(blob, Blob) and blob.size == 1000)
    expect(good, f"store() of 1000 bytes returned {blob!r}")
    _expect_conserved(backend)


def _keeps_a_copy_of_a_file(backend: Backend, counts: _Counts, examples: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.bin")
        with open(path, "wb") as file:
            file.write(b"weights")
        blob = backend.store(path)
        os.unlink(path)
    expect(blob is None or blob.size == 7, f"store() of a file of 7 bytes returned {blob!r}")
    if blob is not None:
        uid = new_id()
        start, *_, end = whole(uid)
        for record in (
            start,
            ArtifactLogged(run=uid, time=now_ms(), path="m.bin", blob=blob.name, size=7),
            end,
        ):
            backend.emit(record)
        _expect_conserved(backend)


def _names_blobs_apart(backend: Backend, counts: _Counts, examples: int) -> None:
    first, second = backend.store(b"same"), backend.store(b"same")
    apart = first is None or second is None or first.name != second.name
    expect(apart, "the same bytes stored twice have one name: letting go of one would lose the other")


def _bounds_waiting(backend: Backend, counts: _Counts, examples: int) -> None:
    expect(backend.run_id(new_id()) is None, "a run that never came has an id")
    begun = time.monotonic()
    answer = backend.wait(new_id(), 0.2)
    expect(answer in (True, False), f"wait() returned {answer!r}")
    expect(time.monotonic() - begun < 2.0, "wait(…, 0.2) took more than 2 s")


def _reports(backend: Backend, counts: _Counts, examples: int) -> None:
    for record in whole():
        backend.emit(record)
    for name, report in (
        ("flush", backend.flush(0.2)), ("flush", backend.flush(0.0)), ("close", backend.close(0.2)), ("close", backend.close(0.2)),
    ):  # fmt: skip
        expect(isinstance(report, FlushReport), f"{name}() returned {report!r}")
        total = report.delivered + report.pending + report.dropped + report.dead
        expect(total == counts.of(WHOLE), f"{name}() accounts for {total} of {WHOLE} records: {report}")


def _takes_promptly(backend: Backend, counts: _Counts, examples: int) -> None:
    start, *_ = whole()
    backend.emit(start)
    now = now_ms()
    records = [
        Logged(run=start.run, time=now, metrics=(Metric("m", 1.0, now, step),)) for step in range(1000)
    ]
    begun = time.monotonic()
    for record in records:
        backend.emit(record)
    took = time.monotonic() - begun
    expect(took < 1.0, f"1000 records took {took:.1f} s")


def _in_threads(work: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(work) for _ in range(THREADS)]:
            future.result(60)


_LAWS: dict[str, Callable[[Backend, _Counts, int], None]] = {
    "it has every method of the protocol": _is_a_backend,
    "it takes every kind of record, and counts each once": _takes_every_kind,
    "it takes the records of many threads": _takes_from_threads,
    "a start that is begun is counted with its end": _joins_begin_and_end,
    "its counts add up at every reading": _conserves_at_every_reading,
    "it takes any tree of runs, and its counts add up after each record": _takes_any_tree,
    "it keeps an artifact's bytes, or says that it does not": _keeps_bytes,
    "it keeps a copy of a file, which may be deleted then": _keeps_a_copy_of_a_file,
    "it gives two artifacts two names": _names_blobs_apart,
    "waiting for a run that never came ends in time": _bounds_waiting,
    "flush and close account for everything, and can be repeated": _reports,
    "it takes a record in no time: nobody asks a network first": _takes_promptly,
}
