"""The backend that keeps runs in memory as a tree: for tests, of this library and of its users."""

from __future__ import annotations

import threading

from pathlib import Path
from typing import Union

import msgspec

from .._records import (
    ArtifactLogged,
    AssessmentLogged,
    Dataset,
    InputsLogged,
    Logged,
    Metric,
    ModelLogged,
    ModelMeasured,
    ModelRegistered,
    Record,
    RunEnded,
    RunRecorded,
    RunStarted,
)
from . import Blob, FlushReport, SpoolStatus


_Following = Union[
    Logged,
    ArtifactLogged,
    InputsLogged,
    ModelLogged,
    ModelMeasured,
    ModelRegistered,
    AssessmentLogged,
    RunEnded,
]


class RecordedRun(msgspec.Struct):
    """
    A run as MLflow would hold it.

    *status* is None while it is open; *metrics* has each key's last value, *history* every point; *models*
    has the files of each by their paths. *trace* is the id of the trace that it is a span of, None for a
    run; *linked* the uid of the run that the trace belongs to. *assessments* are those of its trace that
    name it, by their id.
    """

    id: str
    name: str
    kind: str
    experiment: str
    parent_id: str | None
    start_time: int
    end_time: int | None = None
    status: str | None = None
    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    history: dict[str, list[Metric]] = {}
    tags: dict[str, str] = {}
    artifacts: dict[str, bytes] = {}
    datasets: list[Dataset] = []
    children: list[RecordedRun] = []
    trace: str | None = None
    span_type: str | None = None
    linked: str | None = None
    assessments: dict[str, AssessmentLogged] = {}
    models: dict[str, dict[str, bytes]] = {}

    def walk(self, depth: int = 0) -> list[tuple[int, RecordedRun]]:
        """
        Return this run and its descendants, each with its depth, in the order in which they
        started.
        """
        return [(depth, self), *(pair for child in self.children for pair in child.walk(depth + 1))]


class MemoryBackend:
    """
    Keeps every record as a tree of `RecordedRun`; `roots` are the runs without a (known) parent.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._blobs: dict[str, bytes] = {}
        self._accepted = 0
        self.runs: dict[str, RecordedRun] = {}
        self.roots: list[RecordedRun] = []

    def emit(self, record: Record) -> None:
        """Apply *record* to its run; raise `KeyError` for a run that never started here."""
        with self._lock:
            if isinstance(record, RunRecorded):
                self._start(record.start)
                self._apply(self.runs[record.run], record.end)
            elif isinstance(record, RunStarted):
                self._start(record)
            else:
                self._apply(self.runs[record.run], record)
            self._accepted += 1

    def begin(self, start: RunStarted) -> None:
        """Apply *start* at once."""
        self.emit(start)

    def _start(self, record: RunStarted) -> None:
        run = RecordedRun(
            record.run, record.name, record.kind, record.experiment, record.parent or record.linked, record.time,
            params=dict(record.params), tags=dict(record.tags),
            trace=record.trace, span_type=record.span_type, linked=record.linked,
        )  # fmt: skip
        self.runs[record.run] = run
        above = record.parent or record.linked
        parent = self.runs.get(above) if above else None
        (parent.children if parent else self.roots).append(run)

    def _apply(self, run: RecordedRun, record: _Following) -> None:
        if isinstance(record, (ModelMeasured, ModelRegistered)):
            return  # the run has the points too; a version is a registry's
        if isinstance(record, AssessmentLogged):
            run.assessments[record.assessment_id] = record
            return
        if isinstance(record, ModelLogged):
            run.models[record.name] = {file.path: self._blobs[file.blob] for file in record.files}
            return
        if isinstance(record, ArtifactLogged):
            run.artifacts[record.path] = (
                self._blobs[record.blob] if record.blob else (record.text or "").encode()
            )
            return
        if isinstance(record, InputsLogged):
            run.datasets.extend(dataset for dataset in record.datasets if dataset not in run.datasets)
            return
        if isinstance(record, Logged):
            run.params.update(record.params)
        run.tags.update(record.tags)
        for metric in record.metrics:
            run.metrics[metric.key] = float(metric.value)
            run.history.setdefault(metric.key, []).append(metric)
        if isinstance(record, RunEnded):
            run.status, run.end_time = record.status, record.time

    def store(self, source: bytes | str) -> Blob | None:
        """Keep the bytes, or the content of the file."""
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        with self._lock:
            name = f"{len(self._blobs):032x}"
            self._blobs[name] = content
        return Blob(name, len(content))

    def run_id(self, uid: str) -> str | None:
        """Return *uid* itself once the run is known: in memory there is no other id."""
        return uid if uid in self.runs else None

    def wait(self, uid: str, timeout: float) -> bool:
        """Say whether the run is known."""
        return uid in self.runs

    def flush(self, timeout: float) -> FlushReport:
        """Return the counts: everything is delivered at once."""
        return self.status().report()

    def status(self) -> SpoolStatus:
        """Return the state: nothing is ever pending."""
        return SpoolStatus(destination="memory", accepted=self._accepted, delivered=self._accepted)

    def close(self, timeout: float) -> FlushReport:
        """Return the counts; the runs stay readable."""
        return self.flush(timeout)
