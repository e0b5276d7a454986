"""
Tests of a program that uses mltrace: what it logs, its own decorator, and its own backend.

    pytest examples/test_contracts.py

needs ``pip install "mltrace-mlflow[test]"`` and nothing else: no server, no network, no files but
those of the backend below.
"""

from __future__ import annotations

import csv
import functools
import itertools
import shutil
import threading

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypothesis import given

import mltrace

from mltrace.backends import Blob, FlushReport, SpoolStatus
from mltrace.testing import Recorder, record, run, strategies
from mltrace.testing.contracts import check_backend, check_logged, check_transparent


# The program.


@mltrace.track_run(tags={"team": "docs"})
def embed(text: str) -> list[float]:
    return [float(len(text))]


@mltrace.track_run("search_{query}", tags={"team": "docs"})
def search(query: str, limit: int = 3) -> dict[str, int]:
    embed(query)
    return {"hits": limit}


def audited(function: Callable[..., Any]) -> Callable[..., Any]:
    """Our own decorator: mltrace's, with the tags that each team must set."""
    return mltrace.track_run(tags={"team": "docs", "audit": "2026"})(function)


class CsvBackend:
    """A backend of our own: one row of a CSV file for each record, artifacts beside it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._file = (directory / "runs.csv").open("a", newline="")
        self._rows = csv.writer(self._file)
        self._encode = msgspec.json.Encoder().encode
        self._numbers = itertools.count()
        self._accepted = 0
        self._lock = threading.Lock()

    def emit(self, record: Any) -> None:
        with self._lock:
            self._rows.writerow(
                [record.time, record.run, type(record).__name__, self._encode(record).decode()]
            )
            self._accepted += 1

    begin = emit

    def store(self, source: bytes | str) -> Blob | None:
        name = f"blob-{next(self._numbers)}"
        path = self._directory / name
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            shutil.copyfile(source, path)
        return Blob(name, path.stat().st_size)

    def run_id(self, uid: str) -> str | None:
        return None

    def wait(self, uid: str, timeout: float) -> bool:
        return True

    def flush(self, timeout: float) -> FlushReport:
        with self._lock:
            if not self._file.closed:
                self._file.flush()
            return FlushReport(self._accepted, 0, 0, 0)

    def status(self) -> SpoolStatus:
        with self._lock:
            return SpoolStatus(destination="csv", accepted=self._accepted, delivered=self._accepted)

    def close(self, timeout: float) -> FlushReport:
        report = self.flush(timeout)
        self._file.close()
        return report


# Its tests.


def test_a_search_is_a_run_with_its_embedding_below(mltrace_recorder: Recorder) -> None:
    """What a search logs, as one tree: what is not stated may be anything."""
    search("pinhole")
    assert mltrace_recorder.runs == [
        run(
            "search_pinhole",
            params={"query": "pinhole", "limit": 3},
            metrics={"hits": 3},
            tags={"team": "docs"},
            children=[run("embed", params={"text": "pinhole"})],
        )
    ]


def test_a_slow_search_says_so(mltrace_recorder: Recorder) -> None:
    """Time passes when the test says so."""
    with mltrace.track_run("slow"):
        mltrace_recorder.clock.advance(1.5)
    mltrace_recorder.assert_logged("slow", metrics={"latency_ms": 1500})


@given(strategies.values())
def test_whatever_is_embedded_is_one_run(text: Any) -> None:
    """The contract of `embed`, for any value: it may fail, but then the run says so."""
    with record() as recorder:
        try:
            embed(text)
            expected = "FINISHED"
        except Exception:
            expected = "FAILED"
    recorder.assert_logged("embed", tags={"team": "docs"}, status=expected)


def test_our_decorator_cannot_be_noticed() -> None:
    """Results, exceptions, signatures, methods, coroutines and generators are as without it."""
    check_transparent(audited)


def test_our_decorator_logs_what_the_audit_asks_for() -> None:
    """Each call is a run, nested and ended as it should be, with the tags."""
    check_logged(audited, tags={"team": "docs", "audit": "2026"})


def test_a_decorator_that_swallows_errors_is_caught() -> None:
    """What the contract is for: a mistake that is easily made is found, and named."""

    def careless(function: Callable[..., Any]) -> Callable[..., Any]:
        tracked = mltrace.track_run(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return tracked(*args, **kwargs)
            except ValueError:
                return None

        return call

    with pytest.raises(AssertionError, match="raised nothing"):
        check_transparent(careless, frames=2)


def test_our_backend_can_be_relied_on(tmp_path: Path) -> None:
    """It takes every record from any thread, accounts for each, and keeps artifacts."""
    numbers = itertools.count()
    check_backend(lambda: CsvBackend(tmp_path / str(next(numbers))))


def test_our_backend_keeps_runs(tmp_path: Path) -> None:
    """Configured as the backend, it gets a row for each record of a call."""
    mltrace.configure(backend=CsvBackend(tmp_path))
    try:
        search("pinhole")
        mltrace.shutdown()
    finally:
        mltrace.configure(backend="noop")
    with (tmp_path / "runs.csv").open() as file:
        kinds = [row[2] for row in csv.reader(file)]
    assert kinds == ["RunStarted", "RunStarted", "RunEnded", "RunEnded"]
