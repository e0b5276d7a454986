"""A spool at its limit while the server is away: what the program sees, what arrives afterwards, and that it is told."""

from __future__ import annotations

import asyncio
import time

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError  # another one until 3.11
from pathlib import Path
from typing import Any

import pytest

import mltrace

from mltrace import SpoolFull, _guard
from mltrace._records import DROPPED_TAG
from mltrace.backends import journal as journal_module
from mltrace.delivery import breaker
from tests.harness import Proxy, until
from tests.server import MlflowServer
from tests.test_cli import mltrace_command
from tests.test_delivery import Target, delivered


LIMIT = 64 << 10
Log = Callable[..., None]


@pytest.fixture(name="proxy")
def _proxy(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, which refuses for now; it is tried again soon."""
    monkeypatch.setattr(breaker, "BACKOFF_BASE", 0.02)
    with Proxy(server.port) as proxy:
        proxy.refuse()
        yield proxy


@pytest.fixture(name="target")
def _target(server: MlflowServer, request: pytest.FixtureRequest) -> Target:
    """The server, and an experiment of this test's own."""
    return Target(server, f"full spool {request.node.nodeid.partition('::')[2]}")


@pytest.fixture(name="log_to")
def _log_to(target: Target, proxy: Proxy) -> Log:
    """Have this process log through the proxy, with a spool of 64 KiB."""
    return lambda **options: target.log_to(proxy.url, spool_limit_bytes=LIMIT, **options)


def fill(run: mltrace.Run) -> None:
    """Log to *run* until the spool has reached its limit."""
    while mltrace.status().bytes < LIMIT:
        run.set_tag("filling", "x" * 1000)


def dropped_of(target: Target) -> dict[str, str | None]:
    """Return by run what its tag says of dropped records."""
    return {name: run["tags"].get(DROPPED_TAG) for name, run in target.by_name().items()}


def test_drop(log_to: Log, proxy: Proxy, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Runs end with their true status whatever was dropped of them, each says how many records it lacks, and the
    sum is what the status and the command line say.
    """
    log_to(on_full="drop")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)

    @mltrace.track_run
    def fails() -> None:
        for step in range(7):
            mltrace.log_metric("lost", step)
        raise ValueError("no")

    with mltrace.track_run("whole"):
        pass
    with mltrace.track_run("long") as run:
        fill(run)
        for step in range(50):
            run.log_metric("lost", step)
        with pytest.raises(ValueError, match="no"):
            fails()
    status = mltrace.status()
    words = mltrace_command("status").stdout
    proxy.accept()
    report = delivered()
    runs = target.by_name()

    assert {"whole": "FINISHED", "long": "FINISHED", fails.__qualname__: "FAILED"} == {
        name: run["status"] for name, run in runs.items()
    }
    # Of the one that failed its traceback too.
    assert {"whole": None, "long": "50", fails.__qualname__: "8"} == dropped_of(target)
    assert ({"spool_full": 58}, 58) == (status.dropped, report.dropped)
    assert "58 spool_full" in words


def test_room_comes_back(log_to: Log, proxy: Proxy, target: Target) -> None:
    """What is delivered makes room, of which nothing is dropped any more."""
    log_to(on_full="drop")
    with mltrace.track_run("long") as run:
        fill(run)
        run.log_metric("lost", 1.0)
        proxy.accept()
        mltrace.flush(60)
        left = mltrace.status().bytes
        for step in range(50):
            run.log_metric("kept", float(step), step=step)
    delivered()
    (stored,) = target.runs()

    assert left <= LIMIT // 8
    assert ({"spool_full": 1}, "1") == (mltrace.status().dropped, stored["tags"][DROPPED_TAG])
    assert 50 == len(target.server.metric_history(stored["id"], "kept"))


class TestArtifacts:
    """Their bytes count as records' do."""

    @pytest.fixture(name="file")
    def _file(self, tmp_path: Path) -> Path:
        """A file of half the limit."""
        file = tmp_path / "weights.bin"
        file.write_bytes(bytes(LIMIT // 2))
        return file

    def test_drop(self, log_to: Log, proxy: Proxy, target: Target, file: Path) -> None:
        """One that does not fit is dropped, counted, and on its run; delivered ones make room for the next."""
        log_to(on_full="drop")
        with mltrace.track_run("run") as run:
            run.log_artifact(file, "first")
            run.log_artifact(file, "second")
            dropped = mltrace.status().dropped
            proxy.accept()
            mltrace.flush(60)
            run.log_artifact(file, "third")
        delivered()
        (stored,) = target.runs()

        assert ["first/weights.bin", "third/weights.bin"] == target.server.artifacts(stored["id"])
        assert ({"spool_full": 1}, "1") == (dropped, stored["tags"][DROPPED_TAG])

    def test_raise(self, log_to: Log, file: Path) -> None:
        """With "raise" the program is told of it, as of a metric."""
        log_to(on_full="raise")
        with mltrace.track_run("run") as run:
            run.log_artifact(file, "first")
            with pytest.raises(SpoolFull):
                run.log_artifact(file, "second")

        assert {"spool_full": 1} == mltrace.status().dropped

    def test_block(self, log_to: Log, proxy: Proxy, target: Target, file: Path) -> None:
        """With "block" it waits for room; one that is larger than the spool does not wait in vain."""
        log_to(on_full="block")
        with mltrace.track_run("run") as run, ThreadPoolExecutor(1) as pool:
            run.log_artifact(file, "first")
            waiting = pool.submit(run.log_artifact, file, "second")
            until(lambda: not run._backend._room.is_set() and proxy.accept() is None)  # type: ignore[attr-defined]
            waiting.result(15)
            run.log_text("x" * 2 * LIMIT, "too large.txt")
        delivered()
        (stored,) = target.runs()

        assert ["first/weights.bin", "second/weights.bin"] == target.server.artifacts(stored["id"])
        assert "1" == stored["tags"][DROPPED_TAG]


class TestBlock:
    """`on_full="block"`."""

    def test_released(self, log_to: Log, proxy: Proxy, target: Target) -> None:
        """A caller waits while the server is away, and goes on when it is back; nothing is dropped."""
        log_to(on_full="block")
        with mltrace.track_run("run") as run, ThreadPoolExecutor(1) as pool:
            fill(run)
            waiting = pool.submit(run.log_metric, "late", 1.0)
            with pytest.raises(FutureTimeoutError):
                waiting.result(0.3)
            proxy.accept()
            waiting.result(15)
        delivered()
        (stored,) = target.runs()

        assert (1.0, None, {}) == (
            stored["metrics"]["late"],
            stored["tags"].get(DROPPED_TAG),
            mltrace.status().dropped,
        )

    def test_deadline(
        self, log_to: Log, proxy: Proxy, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the server stays away for too long the caller goes on without the record, which is counted."""
        monkeypatch.setattr(journal_module, "BLOCK_SECONDS", 0.3)
        log_to(on_full="block")
        with mltrace.track_run("run") as run:
            fill(run)
            began = time.monotonic()
            run.log_metric("lost", 1.0)
            took = time.monotonic() - began
        dropped = mltrace.status().dropped
        proxy.accept()
        delivered()
        (stored,) = target.runs()

        assert 0.3 <= took < 3
        assert ({"spool_full": 1}, "1", "FINISHED") == (
            dropped,
            stored["tags"][DROPPED_TAG],
            stored["status"],
        )


@pytest.mark.parametrize("strict", [True, False])
class TestRaise:
    """`on_full="raise"`: who is told, and who is not."""

    def test_what_the_program_logs(self, log_to: Log, strict: bool) -> None:
        """Logging by hand raises, and so do a direct call, a block and a run by hand that cannot begin."""
        log_to(on_full="raise", strict=strict)
        with mltrace.track_run("run") as run:
            fill(run)
            for log in (
                lambda: run.log_metric("m", 1.0),
                lambda: run.set_tag("t", "v"),
                lambda: run.log_text("text", "note.txt"),
            ):
                with pytest.raises(SpoolFull, match="mltrace sync"):
                    log()
            with pytest.raises(SpoolFull):  # after a few, which begin from the reserve
                deque((mltrace.log_prediction(question="why?", answer="so") for _ in range(100)), 0)
            with pytest.raises(SpoolFull), mltrace.track_run("block"):
                raise AssertionError("the block was entered")
            with pytest.raises(SpoolFull):
                mltrace.start_run("by hand")
        assert run is not mltrace.current_run()

    def test_decorated_calls(self, log_to: Log, strict: bool) -> None:
        """A decorated function returns what it returns and raises what it raises, also where all of it is dropped."""
        log_to(on_full="raise", strict=strict)
        failure = ValueError("mine")

        @mltrace.track_run
        def plain(text: str) -> str:
            return text

        @mltrace.track_run
        def failing(text: str) -> None:
            raise failure

        @mltrace.track_run
        async def coroutine(text: str) -> str:
            return text

        @mltrace.track_run
        def stream(text: str) -> Iterator[str]:
            yield text

        @mltrace.log_llm_call(model="m")
        def answer(prompt: str) -> str:
            return prompt

        text = "x" * 10_000  # does not fit a param or a tag: it is kept as an artifact of the run
        with mltrace.track_run("run") as run:
            fill(run)
            for _ in range(10):
                seen: list[Any] = [plain(text), asyncio.run(coroutine(text)), *stream(text), answer(text)]
                assert [text] * 4 == seen
                with pytest.raises(ValueError, match="mine") as caught:
                    failing(text)
                assert failure is caught.value

        assert mltrace.status().dropped["spool_full"] > 50
        assert {} == _guard.errors()
