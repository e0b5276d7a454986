"""The contract of every backend, and what is particular to each."""

from __future__ import annotations

import time

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mltrace._clock import new_id
from mltrace._records import FAILED, ArtifactLogged, Metric, Record
from mltrace._spool import DestinationDirectory
from mltrace.backends import Backend, FlushReport
from mltrace.backends.journal import Journal
from mltrace.backends.memory import MemoryBackend, RecordedRun
from mltrace.backends.noop import NoopBackend
from mltrace.delivery import connect
from mltrace.delivery.sender import Sender
from mltrace.testing._recorder import RecordingBackend
from mltrace.testing.contracts import check_backend
from tests.harness import ended, logged, payloads, silent_listener, started, until, whole
from tests.server import MlflowServer


class BackendContract:
    """
    What runs rely on, as `mltrace.testing.contracts` states it for third parties. A subclass gives the fixture
    `factory`; what is particular to it uses the fixture `backend`.
    """

    counts = True
    """Whether what is taken is counted; a backend that drops everything by intent counts nothing."""

    @pytest.fixture(name="backend")
    def _backend(self, factory: Callable[[], Backend]) -> Iterator[Backend]:
        backend = factory()
        yield backend
        backend.close(0)

    def test_keeps_the_contract(self, factory: Callable[[], Backend]) -> None:
        """Every law of `check_backend` holds."""
        check_backend(factory, counts=self.counts)

    def test_is_a_backend(self, backend: Backend) -> None:
        """It has every method of the protocol."""
        assert isinstance(backend, Backend)


class TestNoop(BackendContract):
    """The backend that drops everything."""

    counts = False

    @pytest.fixture(name="factory")
    def _factory(self) -> type[NoopBackend]:
        return NoopBackend

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

    @pytest.fixture(name="factory", params=[MemoryBackend, RecordingBackend])
    def _factory(self, request: pytest.FixtureRequest) -> type[MemoryBackend]:
        found: type[MemoryBackend] = request.param
        return found

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

    @pytest.fixture(name="factory")
    def _factory(self, tmp_path: Path) -> Callable[[], Journal]:
        return lambda: Journal(DestinationDirectory(tmp_path / "spool", "http://nowhere.invalid"))

    def test_keeps_everything(self, backend: Journal) -> None:
        """Without a delivery everything stays pending, on disk, also when it is closed."""
        for record in whole():
            backend.emit(record)
        path = Path(str(backend.status().directory))

        assert FlushReport(delivered=0, pending=4, dropped=0, dead=0) == backend.close(0)
        assert 4 == len(payloads(path))


class TestJournalDelivering(BackendContract):
    """The journal with a delivery to a real server."""

    @pytest.fixture(name="factory")
    def _factory(self, tmp_path: Path, server: MlflowServer) -> Callable[[], Journal]:
        return lambda: delivering(tmp_path / "spool", server.url)

    def test_delivers(self, backend: Journal) -> None:
        """
        What was taken is delivered by the flush, its run has an id on the server then, and no file is left
        after the close.
        """
        records = whole()
        for record in records:
            backend.emit(record)
        path = Path(str(backend.status().directory))

        assert FlushReport(delivered=4, pending=0, dropped=0, dead=0) == backend.flush(60)
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

    @pytest.fixture(name="factory")
    def _factory(self, tmp_path: Path) -> Iterator[Callable[[], Journal]]:
        with silent_listener() as url:
            yield lambda: delivering(tmp_path / "spool", url)

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
        assert time.monotonic() - begun < 20.0

    def test_says_how_old_the_oldest_is(self, backend: Journal) -> None:
        """A status with pending records says how old the oldest of them is, also while it is on its way."""
        first, *rest = whole()
        for record in [first, *rest]:
            backend.emit(record)
        backend.flush(0.2)

        assert first.time == backend.status().oldest_ms


def delivering(spool: Path, url: str) -> Journal:
    """Return a journal with a delivery to *url*."""
    directory = DestinationDirectory(spool, url)
    return Journal(directory, delivery=Sender(directory, lambda: connect(url)))


def _stored(backend: Backend, source: Any) -> dict[str, Any]:
    blob = backend.store(source)
    assert blob is not None
    return {"blob": blob.name, "size": blob.size}


def _facts(run: RecordedRun) -> tuple[Any, ...]:
    return run.name, run.parent_id, run.start_time, run.end_time, run.status
