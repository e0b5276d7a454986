"""The contract of every backend, and what is particular to each."""

from __future__ import annotations

import threading
import time

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mltrace._clock import new_id
from mltrace._records import FAILED, ArtifactLogged, Metric, Record
from mltrace._spool import DestinationDirectory
from mltrace.backends import Backend, Blob, FlushReport, SpoolStatus
from mltrace.backends.journal import Journal
from mltrace.backends.memory import MemoryBackend, RecordedRun
from mltrace.backends.noop import NoopBackend
from mltrace.delivery import connect
from mltrace.delivery.sender import Sender
from tests.harness import ended, logged, payloads, silent_listener, started, until, whole
from tests.server import MlflowServer


THREADS, RUNS = 8, 5


def conserved(status: SpoolStatus) -> bool:
    """Say whether every accepted record is accounted for."""
    return (
        status.accepted == status.delivered + status.pending + sum(status.dropped.values()) + status.dead
        and status.pending >= 0
    )


class BackendContract:
    """
    What runs rely on. A subclass gives the fixture `backend`, and says how many of the records it takes it
    accounts for.
    """

    counts = True
    """Whether what is taken is counted; a backend that drops everything by intent counts nothing."""

    def test_is_a_backend(self, backend: Backend) -> None:
        """It has every method of the protocol."""
        assert isinstance(backend, Backend)

    def test_takes_every_kind_of_record(self, backend: Backend) -> None:
        """A start, a log, an artifact and an end are each taken and counted once."""
        for record in whole():
            backend.emit(record)

        assert (4 if self.counts else 0) == backend.status().accepted

    def test_takes_records_from_many_threads(self, backend: Backend) -> None:
        """Records that many threads emit at the same moment are all taken."""
        barrier = threading.Barrier(THREADS)

        def work() -> None:
            barrier.wait(10)
            for _ in range(RUNS):
                for record in whole():
                    backend.emit(record)

        _in_threads(work, THREADS)

        assert (THREADS * RUNS * 4 if self.counts else 0) == backend.status().accepted

    def test_begun_and_ended(self, backend: Backend) -> None:
        """
        A start that was only begun is counted with its end, as one record or as two, and nothing is
        outstanding that was not taken.
        """
        uid = new_id()
        backend.begin(started(uid))
        backend.emit(ended(uid))

        status = backend.status()
        assert conserved(status)
        assert status.accepted in ((1, 2) if self.counts else (0,))

    def test_conserves_records_at_every_reading(self, backend: Backend) -> None:
        """
        accepted == delivered + pending + dropped + dead in every status that is read while threads emit and
        begin.
        """
        done = threading.Event()
        violations: list[SpoolStatus] = []
        readings = 0

        def read() -> None:
            nonlocal readings
            while not done.is_set() or not readings:
                if not conserved(status := backend.status()):
                    violations.append(status)
                readings += 1

        def work() -> None:
            for _ in range(RUNS):
                first, *rest = whole()
                backend.begin(first)  # type: ignore[arg-type] # it is the start
                for record in rest:
                    backend.emit(record)

        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read)
            try:
                _in_threads(work, THREADS)
                backend.flush(0.2)
            finally:
                done.set()
            reading.result(10)

        assert [] == violations
        assert conserved(backend.status())

    def test_keeps_bytes(self, backend: Backend) -> None:
        """An artifact's bytes are kept, with their size, or nothing is."""
        blob = backend.store(b"\x00\xff" * 500)

        assert blob is None or (isinstance(blob, Blob) and blob.size == 1000)
        assert conserved(backend.status())

    def test_keeps_a_copy_of_a_file(self, backend: Backend, tmp_path: Path) -> None:
        """A file is kept as it is now: it may be changed and deleted afterwards."""
        file = tmp_path / "model.bin"
        file.write_bytes(b"weights")
        blob = backend.store(str(file))
        file.unlink()

        assert blob is None or blob.size == 7

    def test_keeps_the_same_bytes_twice(self, backend: Backend) -> None:
        """
        Two artifacts with the same bytes have names of their own: one may be let go of before the other.
        """
        first, second = backend.store(b"same"), backend.store(b"same")

        assert first is None or second is None or first.name != second.name

    def test_unknown_run_has_no_id(self, backend: Backend) -> None:
        """A run that never came has no id on any server."""
        assert backend.run_id(new_id()) is None

    def test_wait_for_an_unknown_run_is_bounded(self, backend: Backend) -> None:
        """Waiting for a run that never came ends in time, with a yes or a no."""
        begun = time.monotonic()

        assert backend.wait(new_id(), 0.2) in (True, False)
        assert time.monotonic() - begun < 2.0

    def test_flush_reports(self, backend: Backend) -> None:
        """A flush says what became of everything that was taken, and can be repeated."""
        for record in whole():
            backend.emit(record)

        for report in (backend.flush(0.2), backend.flush(0.0)):
            assert isinstance(report, FlushReport)
            assert (
                4 if self.counts else 0
            ) == report.delivered + report.pending + report.dropped + report.dead

    def test_closes_twice(self, backend: Backend) -> None:
        """Closing reports like a flush, and closing again changes nothing."""
        for record in whole():
            backend.emit(record)
        first = backend.close(0.2)
        second = backend.close(0.2)

        assert (4 if self.counts else 0) == first.delivered + first.pending + first.dropped + first.dead
        assert first.pending + first.dropped + first.dead == second.pending + second.dropped + second.dead

    def test_emits_promptly(self, backend: Backend) -> None:
        """
        A thousand records are taken in the time of a few round trips to a server: nobody asks a network
        first.
        """
        uid = new_id()
        backend.emit(started(uid))
        records = [logged(uid, step) for step in map(str, range(1000))]
        begun = time.monotonic()
        for record in records:
            backend.emit(record)

        assert time.monotonic() - begun < 1.0


def _in_threads(work: Callable[[], None], count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work) for _ in range(count)]:
            future.result(30)


class TestNoop(BackendContract):
    """The backend that drops everything."""

    counts = False

    @pytest.fixture(name="backend")
    def _backend(self) -> NoopBackend:
        return NoopBackend()

    def test_keeps_nothing(self, tmp_path: Path) -> None:
        """No file is read or made, not even for an artifact."""
        backend = NoopBackend()

        assert backend.store(str(tmp_path / "is not there")) is None
        assert not (tmp_path / "spool").exists()

    def test_nothing_is_outstanding(self) -> None:
        """Whoever waits for a run is let go at once: there is nothing to wait for."""
        assert NoopBackend().wait(new_id(), 60) is True


class TestMemory(BackendContract):
    """The backend that keeps a tree."""

    @pytest.fixture(name="backend")
    def _backend(self) -> MemoryBackend:
        return MemoryBackend()

    def test_keeps_runs_as_a_tree(self) -> None:
        """
        Runs nest as their records say, with everything that was logged to them and the times that the
        records state.
        """
        backend = MemoryBackend()
        root, child = new_id(), new_id()
        records: list[Record] = [
            started(root, name="root", params={"k": "5"}, tags={"env": "test"}, time=1000),
            started(child, name="child", parent=root, time=1001),
            logged(child, metrics=(Metric("loss", 2.0, 1002, 0), Metric("loss", 1.0, 1003, 1))),
            ended(child, status=FAILED, time=1004),
            ended(root, tags={"last": "1"}, time=1005),
        ]
        for record in records:
            backend.emit(record)

        ((depth, first), (deeper, second)) = backend.roots[0].walk()
        assert (0, "root", None, 1000, 1005, "FINISHED") == (depth, *_facts(first))
        assert (1, "child", root, 1001, 1004, "FAILED") == (deeper, *_facts(second))
        assert ({"k": "5"}, {"env": "test", "last": "1"}) == (first.params, first.tags)
        assert ({"loss": 1.0}, [2.0, 1.0]) == (
            second.metrics,
            [point.value for point in second.history["loss"]],
        )

    def test_keeps_artifacts(self, tmp_path: Path) -> None:
        """An artifact's content is in the run, whether it came as a text, as bytes or as a file."""
        backend = MemoryBackend()
        (tmp_path / "f").write_bytes(b"from a file")
        uid = new_id()
        backend.emit(started(uid))
        contents = {
            "text": {"text": "a text"},
            "bytes": _stored(backend, b"bytes"),
            "file": _stored(backend, str(tmp_path / "f")),
        }
        for path, fields in contents.items():
            backend.emit(ArtifactLogged(run=uid, time=0, path=path, **fields))

        assert {"text": b"a text", "bytes": b"bytes", "file": b"from a file"} == backend.runs[uid].artifacts

    def test_refuses_an_unknown_run(self) -> None:
        """A record for a run that never started is an error in a test, not a run without a start."""
        with pytest.raises(KeyError):
            MemoryBackend().emit(logged(new_id()))

    def test_knows_its_runs(self) -> None:
        """A run's id on the server is its own id here, and waiting for it ends at once."""
        backend = MemoryBackend()
        backend.emit(started(uid := new_id()))

        assert (uid, True) == (backend.run_id(uid), backend.wait(uid, 60))


class TestJournalAlone(BackendContract):
    """The journal without a delivery."""

    @pytest.fixture(name="backend")
    def _backend(self, tmp_path: Path) -> Iterator[Journal]:
        journal = Journal(DestinationDirectory(tmp_path / "spool", "http://nowhere.invalid"))
        yield journal
        journal.close(0)

    def test_keeps_everything(self, backend: Journal) -> None:
        """Without a delivery everything stays pending, on disk, also when it is closed."""
        for record in whole():
            backend.emit(record)
        path = Path(str(backend.status().directory))

        assert FlushReport(delivered=0, pending=4, dropped=0, dead=0) == backend.close(0)
        assert 4 == len(payloads(path))


class TestJournalDelivering(BackendContract):
    """The journal with a delivery to a real server."""

    @pytest.fixture(name="backend")
    def _backend(self, tmp_path: Path, server: MlflowServer) -> Iterator[Journal]:
        directory = DestinationDirectory(tmp_path / "spool", server.url)
        journal = Journal(directory, delivery=Sender(directory, lambda: connect(server.url)))
        yield journal
        journal.close(0)

    def test_delivers(self, backend: Journal) -> None:
        """
        What was taken is delivered by the flush, its run has an id on the server then, and no file is left
        after the close.
        """
        records = whole()
        for record in records:
            backend.emit(record)
        path = Path(str(backend.status().directory))

        assert FlushReport(delivered=4, pending=0, dropped=0, dead=0) == backend.flush(10)
        assert backend.run_id(records[0].run) is not None
        assert FlushReport(delivered=4, pending=0, dropped=0, dead=0) == backend.close(5)
        assert not path.exists()

    def test_waits_for_one_run(self, backend: Journal) -> None:
        """Waiting for a run ends when what was logged to it is on the server, although the run goes on."""
        uid = new_id()
        backend.emit(started(uid))
        backend.emit(logged(uid))

        assert backend.wait(uid, 10)
        assert 0 == backend.status().pending

    def test_begun_is_delivered_without_an_end(self, backend: Journal) -> None:
        """A call that was begun and takes long is on the server before it ends."""
        uid = new_id()
        backend.begin(started(uid))

        assert until(lambda: backend.run_id(uid))


class TestJournalBeforeSilence(BackendContract):
    """The journal with a delivery to a server that accepts connections and never answers."""

    @pytest.fixture(name="backend")
    def _backend(self, tmp_path: Path) -> Iterator[Journal]:
        with silent_listener() as url:
            directory = DestinationDirectory(tmp_path / "spool", url)
            journal = Journal(directory, delivery=Sender(directory, lambda: connect(url)))
            yield journal
            journal.close(0)

    def test_nothing_waits_for_the_server(self, backend: Journal) -> None:
        """
        While a request hangs, records are taken and a flush and a close end in their time; everything is
        pending.
        """
        for record in whole():
            backend.emit(record)
        begun = time.monotonic()
        reports = [backend.flush(0.3), backend.close(0.3)]

        assert [FlushReport(0, 4, 0, 0)] * 2 == reports
        assert time.monotonic() - begun < 3.0

    def test_says_how_old_the_oldest_is(self, backend: Journal) -> None:
        """A status with pending records says how old the oldest of them is, also while it is on its way."""
        first, *rest = whole()
        for record in [first, *rest]:
            backend.emit(record)
        backend.flush(0.2)

        assert first.time == backend.status().oldest_ms


def _stored(backend: Backend, source: Any) -> dict[str, Any]:
    blob = backend.store(source)
    assert blob is not None
    return {"blob": blob.name, "size": blob.size}


def _facts(run: RecordedRun) -> tuple[Any, ...]:
    return run.name, run.parent_id, run.start_time, run.end_time, run.status
