"""What may still land late is noted, looked for when it has had the time, and forgotten."""

from __future__ import annotations

import errno
import time

from pathlib import Path
from typing import Any

import pytest

import mltrace

from mltrace._clock import new_id
from mltrace._spool import DestinationDirectory
from mltrace.delivery import late, sender
from mltrace.delivery.late import RECONCILE_SECONDS, LateLog, Suspect
from tests.harness import until
from tests.server import MlflowServer


@pytest.fixture(name="directory")
def _directory(tmp_path: Path) -> DestinationDirectory:
    directory = DestinationDirectory(tmp_path / "spool", "http://127.0.0.1:9")
    directory.path.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock, in periods."""
    now = [1000.0]
    monkeypatch.setattr(late.time, "time", lambda: now[0] * RECONCILE_SECONDS)
    return now


def test_due(directory: DestinationDirectory, clock: list[float]) -> None:
    """Notes are due when a whole period has passed since theirs; another process finds and removes them."""
    LateLog(directory).note_creation("1")
    clock[0] = 1001.99
    early = LateLog(directory).overdue()
    clock[0] = 1002.0
    other = LateLog(directory)

    assert ([], [1000]) == (early, other.overdue())
    assert [Suspect("1")] == other.read([1000])
    other.forget([1000])
    assert [] == LateLog(directory).periods()


def test_clock_set_back(directory: DestinationDirectory, clock: list[float]) -> None:
    """Notes of a time that is still to come are due: the clock was set back."""
    LateLog(directory).note_creation("1")
    clock[0] = 10.0

    assert [1000] == LateLog(directory).overdue()


def test_once_in_a_period(directory: DestinationDirectory, clock: list[float]) -> None:
    """A program that makes thousands of runs in an experiment notes that once in each period."""
    log = LateLog(directory)
    for when in (1000.0, 1000.5, 1001.0):
        clock[0] = when
        for _ in range(100):
            log.note_creation("1")
            log.note_creation("2")

    assert [2, 2] == [
        len(directory.reconcile_log(period).read_bytes().splitlines()) for period in (1000, 1001)
    ]


def test_last_value(directory: DestinationDirectory, clock: list[float]) -> None:
    """Of a tag that changed more than once all earlier values are stale, and the last is final, over all periods."""
    log = LateLog(directory)
    log.note(Suspect("1", "run", {"key": {"a"}}, {"key": "b"}))
    clock[0] += 1
    log.note(Suspect("1", "run", {"key": {"b"}}, {"key": "c"}))

    assert [Suspect("1", "run", {"key": {"a", "b"}}, {"key": "c"})] == log.read(log.periods())


def test_full_disk(
    directory: DestinationDirectory, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk does not take is kept in memory, up to a bound, and forgotten in its time."""

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(late, "append_line", refuse)
    monkeypatch.setattr(late, "_MOST_UNWRITTEN", 3)
    log = LateLog(directory)
    for number in range(5):
        log.note_creation(str(number))
    clock[0] += 2

    assert [Suspect("0"), Suspect("1"), Suspect("2")] == log.read(log.overdue())
    log.forget(log.overdue())
    assert [] == log.periods()


def test_found_by_a_later_process(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that a request made once more, long after its process had gone, is deleted by the next one."""
    monkeypatch.setattr(sender, "ADOPT_SECONDS", 0.05)
    experiment = f"late-{new_id()[:8]}"
    spool = tmp_path / "spool"
    settings = {"tracking_uri": server.url, "experiment_name": experiment, "spool_dir": spool}
    mltrace.configure(**settings)
    with mltrace.track_run("first") as run:
        pass
    assert 0 == mltrace.flush(60).pending
    mltrace.shutdown()
    (first,) = server.runs(experiment)
    tags = [{"key": "mltrace.uid", "value": run.id}]
    again = {"experiment_id": first["experiment_id"], "start_time": first["start_time"], "tags": tags}
    server.rest("runs/create", again)
    (note,) = spool.glob("*/reconcile-*.log")
    before = int(time.time() // RECONCILE_SECONDS) - 2
    note.rename(note.with_name(f"reconcile-{before}.log"))
    mltrace.configure(**settings)
    with mltrace.track_run("second"):
        pass
    until(lambda: not (note.parent / f"reconcile-{before}.log").exists())

    assert ["first", "second"] == sorted(found["name"] for found in server.runs(experiment))
