"""
What the spool holds, read from its files alone: for the command line, which looks into the spools
of other processes.

Nothing here takes a lock or changes a file, so that a living writer is not disturbed.
"""

from __future__ import annotations

import heapq
import os

from pathlib import Path
from typing import Union

import msgspec

from ._addresses import destination_id, safe_uri
from ._config import Settings, normal_uri
from ._records import Logged, Metric, Record, RunEnded, RunRecorded, RunStarted
from ._spool import Counts, DestinationDirectory, Trouble, destinations, is_remnant
from .delivery.inventory import Inventory, take_inventory
from .delivery.letters import read_office


STARTED_EARLIER = "(started earlier)"
"""The name of a pending run whose start is not pending: it is delivered, or another process's."""


class DestinationReport(msgspec.Struct):
    """
    One destination's spool, over all its writers.

    Counts are of records; *oldest_ms* is wall clock, None where nothing is pending. *last_error* is
    why nothing could be sent when it was last tried, None where it could.
    """

    destination: str
    directory: str
    accepted: int = 0
    delivered: int = 0
    pending: int = 0
    dead: int = 0
    dropped: dict[str, int] = {}
    bytes: int = 0
    oldest_ms: Union[int, None] = None
    writers: int = 0
    last_error: Union[Trouble, None] = None


class PendingRun(msgspec.Struct):
    """A run with undelivered records. *status* is None while it is open."""

    id: str
    name: str
    kind: str
    destination: str
    parent_id: Union[str, None] = None
    start_time: Union[int, None] = None
    end_time: Union[int, None] = None
    status: Union[str, None] = None
    experiment: Union[str, None] = None
    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    records: int = 0


def survey(settings: Settings) -> list[tuple[DestinationDirectory, DestinationReport]]:
    """Return every destination in the spool, the configured one first, with what its files say."""
    return [(directory, report(directory)) for directory in all_destinations(settings)]


def all_destinations(settings: Settings) -> list[DestinationDirectory]:
    """Return every destination in the spool, the configured one first."""
    found = {directory.path: directory for directory in destinations(settings.spool_dir)}
    configured = DestinationDirectory(settings.spool_dir, settings.tracking_uri)
    # The configured address has the credentials that the spool does not keep.
    ordered = {
        configured.path: configured,
        **{path: directory for path, directory in found.items() if path != configured.path},
    }
    return list(ordered.values())


def report(directory: DestinationDirectory) -> DestinationReport:
    """Return what the files of one destination say."""
    total = DestinationReport(
        safe_uri(directory.uri), str(directory.path), dropped={}, last_error=directory.trouble()
    )
    writers = directory.writers()
    finished = directory.finished()
    for counts in finished.values():
        _add(total, counts)
    for writer in writers:
        if writer.name in finished or is_remnant(writer):  # its removal is under way, or was cut short
            continue
        found = take_inventory(writer)
        _add(total, found)
        total.pending += len(found.pending) + found.elsewhere
        total.writers += 1
        total.bytes += found.bytes
        if found.oldest_ms is not None:
            total.oldest_ms = min(found.oldest_ms, total.oldest_ms or found.oldest_ms)
    _add_letters(total, read_office(directory).settled)
    return total


def _add(total: DestinationReport, counts: Counts | Inventory) -> None:
    total.accepted += counts.accepted
    total.delivered += counts.delivered
    total.dead += counts.dead
    for cause, number in counts.dropped.items():
        total.dropped[cause] = total.dropped.get(cause, 0) + number


def _add_letters(total: DestinationReport, settled: dict[str, int]) -> None:
    """Count what became of dead letters: a requeued record was accepted again, by another writer."""
    requeued, discarded = settled.get("requeued", 0), settled.get("discarded", 0)
    total.dead -= requeued + discarded
    total.accepted -= requeued
    if discarded:
        total.dropped["discarded"] = discarded


def pending_runs(directory: DestinationDirectory) -> list[PendingRun]:
    """
    Return the runs with undelivered records, in the order in which their first pending record was
    made. What several processes have logged to one run is applied in the order of its times.
    """
    runs: dict[str, PendingRun] = {}
    found = (take_inventory(writer).pending for writer in directory.writers())
    for record in heapq.merge(*found, key=lambda record: record.time):
        run = runs.setdefault(
            record.run,
            PendingRun(
                record.run,
                STARTED_EARLIER,
                "run",
                safe_uri(directory.uri),
                params={},
                metrics={},
                tags={},
            ),
        )
        run.records += 1
        _apply(run, record)
    return sorted(runs.values(), key=lambda run: run.start_time or 0)


def _apply(run: PendingRun, record: Record) -> None:
    if isinstance(record, RunRecorded):
        _apply(run, record.start)
        _apply(run, record.end)
    elif isinstance(record, RunStarted):
        run.name, run.kind, run.parent_id, run.start_time, run.experiment = (
            record.name,
            record.kind,
            record.parent,
            record.time,
            record.experiment,
        )
        run.params.update(record.params)
        run.tags.update(record.tags)
    elif isinstance(record, (Logged, RunEnded)):
        run.params.update(record.params if isinstance(record, Logged) else {})
        run.tags.update(record.tags)
        run.metrics.update({metric.key: _float(metric) for metric in record.metrics})
        run.experiment = run.experiment or record.experiment
        if isinstance(record, RunEnded):
            run.status, run.end_time = record.status, record.time


def _float(metric: Metric) -> float:
    return float(metric.value)


def is_configured(directory: DestinationDirectory, settings: Settings) -> bool:
    """Say whether *directory* is the configured destination's."""
    return directory.path.name == destination_id(normal_uri(settings.tracking_uri))


def spool_problem(path: Path) -> str | None:
    """
    Return in words why the spool directory cannot be used; None if it can, or will be made on first
    use.
    """
    for candidate in (path, *path.parents):
        if candidate.exists() or candidate.is_symlink():
            if not candidate.is_dir():
                return f"{candidate} is not a directory; remove it or set MLTRACE_SPOOL_DIR"
            if not os.access(candidate, os.W_OK | os.X_OK):
                return f"{candidate} is not writable; set MLTRACE_SPOOL_DIR to a directory of yours"
            return None
    return None
