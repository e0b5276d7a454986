"""
What this process knows of the runs that it has recorded through MLflow's own API: enough to answer
MLflow's reads while nothing is delivered, and after.

A view is made from a run's records, in MLflow's terms: the last value of a metric is the one at the
largest step, params are write-once. Memory is bounded: of more than `KEPT_RUNS` runs, or `KEPT_POINTS`
metric points, those that ended first are forgotten, and the server is asked for them.
"""

from __future__ import annotations

import os
import sys
import threading

from array import array
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mlflow.entities import (
    DatasetInput,
    LifecycleStage,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunOutputs,
    RunTag,
)

from .. import _records as records
from ..delivery.sdk import dataset_input


KEPT_RUNS = 10_000
KEPT_POINTS = 2_000_000

_RUNNING = "RUNNING"
_LARGEST = sys.float_info.max


class Stored(NamedTuple):
    """Where an artifact is until it is delivered, a *file* or a *text*, and its size in bytes."""

    file: str | None
    text: str | None
    size: int


class Link(NamedTuple):
    """What a metric point was measured with: a model, and a dataset's name and digest."""

    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


UNLINKED = Link()


class Series:
    """The points of one metric, in the order in which they were logged: 24 bytes each."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.values, self.times, self.steps = array("d"), array("q"), array("q")
        self.links: dict[int, Link] = {}
        self.last = 0
        """The place of the point that MLflow calls the metric's value."""

    def add(self, value: float, time: int, step: int, link: Link = UNLINKED) -> None:
        """Take the next point; an infinite one as MLflow's databases keep it."""
        place = len(self.values)
        self.values.append(min(max(value, -_LARGEST), _LARGEST) if value == value else value)
        self.times.append(time)
        self.steps.append(step)
        if link is not UNLINKED:
            self.links[place] = link
        if self._rank(place) >= self._rank(self.last):
            self.last = place

    def _rank(self, place: int) -> tuple[int, int, float]:
        return self.steps[place], self.times[place], self.values[place]

    def point(self, place: int, run_id: str) -> Metric:
        """Return one point as MLflow's."""
        link = self.links.get(place, UNLINKED)
        return Metric(self.key, self.values[place], self.times[place], self.steps[place], *link, run_id)

    def points(self, run_id: str) -> list[Metric]:
        """Return all of them; a point logged twice is there once, as it is in MLflow's databases."""
        found: dict[tuple[int, int, str, Link], Metric] = {}
        for place in range(len(self.values)):
            point = self.point(place, run_id)
            alike = point.step, point.timestamp, repr(point.value), self.links.get(place, UNLINKED)
            found.setdefault(alike, point)
        return list(found.values())


class RunView:
    """One run as MLflow shows it. *foreign*: another process has started it."""

    def __init__(
        self, start: records.RunStarted, experiment_id: str, artifact_uri: str, user: str = ""
    ) -> None:
        self.uid = start.run
        self.name = start.name
        self.user = user or start.tags.get("mlflow.user", "")
        self.experiment = start.experiment
        self.experiment_id = experiment_id
        self.artifact_uri = artifact_uri
        self.start_time = start.time
        self.end_time: int | None = None
        self.status = _RUNNING
        self.foreign = False
        self.was_ended = False
        self.deleted = False
        self.params = dict(start.params)
        self.tags = dict(start.tags)
        self.metrics: dict[str, Series] = {}
        self.datasets: dict[tuple[str, str], DatasetInput] = {}
        self.model_inputs: dict[str, LoggedModelInput] = {}
        self.model_outputs: dict[str, LoggedModelOutput] = {}
        self.artifacts: dict[str, Stored] = {}
        self._process = os.getpid()

    @property
    def elsewhere(self) -> str | None:
        """
        The experiment where delivery has to look the run up: another process started it, or its end may
        be delivered.
        """
        ours = self._process == os.getpid() and not self.foreign and not self.was_ended
        return None if ours else self.experiment

    def apply(self, record: records.Record) -> None:
        """Take the next record of the run."""
        if isinstance(record, records.ArtifactLogged):
            self.artifacts.setdefault(record.path, Stored(None, record.text, record.size))
            return
        if isinstance(record, records.InputsLogged):
            for dataset in record.datasets:
                self.datasets.setdefault((dataset.name, dataset.digest), dataset_input(dataset))
            return
        if isinstance(
            record,
            (records.ModelLogged, records.ModelMeasured, records.ModelRegistered, records.AssessmentLogged),
        ):
            return
        if isinstance(record, (records.Logged, records.RunRecorded)):
            for key, value in record.params.items():
                self.params.setdefault(key, value)
        self.tags.update(record.tags)
        if isinstance(record, records.RunStarted):
            return
        for metric in record.metrics:
            self.add(metric.key, float(metric.value), metric.timestamp, metric.step)
        if isinstance(record, (records.RunEnded, records.RunRecorded)):
            self.status, self.was_ended = record.status, True
            self.end_time = record.time if isinstance(record, records.RunEnded) else record.ended

    def add(self, key: str, value: float, time: int, step: int, link: Link = UNLINKED) -> None:
        """Take a metric point."""
        series = self.metrics.get(key)
        if series is None:
            series = self.metrics[key] = Series(key)
        series.add(value, time, step, link)

    def keep(self, path: str, stored: Stored) -> None:
        """Take note of where the artifact *path* is."""
        self.artifacts[path] = stored

    @property
    def info(self) -> RunInfo:
        """The run's `mlflow.entities.RunInfo`."""
        return RunInfo(
            run_id=self.uid,
            experiment_id=self.experiment_id,
            user_id=self.user,
            status=self.status,
            start_time=self.start_time,
            end_time=self.end_time,
            lifecycle_stage=LifecycleStage.DELETED if self.deleted else LifecycleStage.ACTIVE,
            artifact_uri=self.artifact_uri,
            run_name=self.tags.get("mlflow.runName", self.name),
        )

    def run(self) -> Run:
        """Return the run as `mlflow.entities.Run`."""
        data = RunData(
            metrics=[series.point(series.last, self.uid) for series in list(self.metrics.values())],
            params=[Param(key, value) for key, value in list(self.params.items())],
            tags=[RunTag(key, value) for key, value in list(self.tags.items())],
        )
        inputs = RunInputs(
            dataset_inputs=list(self.datasets.values()), model_inputs=list(self.model_inputs.values())
        )
        return Run(self.info, data, inputs, RunOutputs(model_outputs=list(self.model_outputs.values())))

    def history(self, key: str) -> list[Metric]:
        """Return the points of the metric *key*."""
        series = self.metrics.get(key)
        return [] if series is None else series.points(self.uid)

    @property
    def size(self) -> int:
        """How many metric points it holds."""
        return sum(len(series.values) for series in list(self.metrics.values()))


class Views:
    """The views of this process's runs, by uid."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._runs: dict[str, RunView] = {}
        self._points = 0  # of the runs that have ended

    def __iter__(self) -> Iterator[RunView]:
        with self.lock:
            return iter(list(self._runs.values()))

    def get(self, uid: str) -> RunView | None:
        """Return the view of run *uid*, None where it is not (or no longer) known here."""
        return self._runs.get(uid)

    def put(self, view: RunView) -> RunView:
        """Keep *view*."""
        with self.lock:
            self._runs[view.uid] = view
            if len(self._runs) > KEPT_RUNS:
                self._forget(ended for ended in self._runs.values() if ended.was_ended)
        return view

    def ended(self, view: RunView) -> None:
        """Learn that a run has ended: from now on it can be forgotten."""
        with self.lock:
            self._points += view.size
            if self._points > KEPT_POINTS:
                self._forget(old for old in self._runs.values() if old.was_ended and old is not view)

    def forget(self, uid: str) -> None:
        """Forget the run *uid*: from now on the server is asked for it."""
        with self.lock:
            self._runs.pop(uid, None)

    def forked(self) -> None:
        """Begin with a lock of its own in a child; the parent's runs stay readable."""
        self.lock = threading.RLock()

    def _forget(self, candidates: Iterable[RunView]) -> None:
        if (oldest := next(iter(candidates), None)) is not None:
            del self._runs[oldest.uid]
            self._points -= oldest.size


def dataset_record(found: Any) -> records.Dataset:
    """Return MLflow's `DatasetInput` as the journal keeps it."""
    dataset = found.dataset
    return records.Dataset(
        name=dataset.name,
        digest=dataset.digest,
        source_type=dataset.source_type,
        source=dataset.source,
        schema=dataset.schema,
        profile=dataset.profile,
        tags={tag.key: tag.value for tag in found.tags or ()},
    )
