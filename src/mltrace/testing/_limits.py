"""
MLflow's limits, as the server checks them (``mlflow/utils/validation.py``, 3.x): written down a
second time here, so that a mistake in what mltrace sends cannot hide in what the test expects.
"""

from __future__ import annotations

import json
import posixpath
import re

from collections.abc import Iterable, Iterator, Mapping

from .._records import (
    ArtifactLogged,
    AssessmentLogged,
    Dataset,
    InputsLogged,
    Logged,
    Metric,
    ModelLogged,
    Record,
    RunEnded,
    RunRecorded,
    RunStarted,
)
from ..backends.memory import RecordedRun
from ..exceptions import LoggingError


KEY, KEY_LENGTH = re.compile(r"^[/\w.\- :]*$"), 250
PARAM_LENGTH, TAG_LENGTH = 6_000, 8_000
NAME_LENGTH, EXPERIMENT_LENGTH = 250, 500
DATASET_LENGTHS = {"name": 500, "digest": 36, "source": 65_535, "schema": 1_048_575, "profile": 16_777_215}
ID_LENGTH = 50
STATUSES = ("FINISHED", "FAILED", "KILLED")
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_INT64 = 1 << 63


def refuse(record: Record, runs: Mapping[str, RecordedRun]) -> None:
    """
    Raise `LoggingError` where MLflow would refuse *record*, or *runs* say that it cannot be: the
    run ends a second time, or a param changes.
    """
    for problem in _problems(record, runs):
        raise LoggingError(f"MLflow would refuse this {type(record).__name__}: {problem}")


def _problems(record: Record, runs: Mapping[str, RecordedRun]) -> Iterator[str]:
    if isinstance(record, RunRecorded):
        yield from _start_problems(record.start)
        yield from _end_problems(record.end, None)
        return
    known = runs.get(record.run)
    if isinstance(record, RunStarted):
        if known is not None:
            yield f"the run {record.run} began before"
        yield from _start_problems(record)
    elif isinstance(record, RunEnded):
        yield from _end_problems(record, known)
    elif isinstance(record, ArtifactLogged):
        yield from _path_problems(record.path)
    elif isinstance(record, InputsLogged):
        yield from (problem for dataset in record.datasets for problem in _dataset_problems(dataset))
    elif isinstance(record, AssessmentLogged):
        yield from _assessment_problems(record)
    elif isinstance(record, ModelLogged):
        yield from (problem for file in record.files for problem in _path_problems(file.path))
    elif isinstance(record, Logged):
        yield from _log_problems(record, known)
    yield from _time_problems(record.time)


def _start_problems(record: RunStarted) -> Iterator[str]:
    if len(record.name) > NAME_LENGTH:
        yield f"the run's name has {len(record.name)} characters; {NAME_LENGTH} are allowed"
    if not record.experiment.strip() or len(record.experiment) > EXPERIMENT_LENGTH:
        yield f"the experiment's name {record.experiment!r:.60} is empty or longer than {EXPERIMENT_LENGTH}"
    yield from _text_problems("name", {"name": record.name, "experiment": record.experiment}, NAME_LENGTH * 2)
    yield from _field_problems("param", record.params, PARAM_LENGTH)
    yield from _field_problems("tag", record.tags, TAG_LENGTH)


def _end_problems(record: RunEnded, known: RecordedRun | None) -> Iterator[str]:
    if record.status not in STATUSES:
        yield f"status {record.status!r} is not one of {', '.join(STATUSES)}"
    if known is not None and known.status is not None:
        yield f"the run {known.name!r} ended before, as {known.status}"
    yield from _metric_problems(record.metrics)
    yield from _field_problems("tag", record.tags, TAG_LENGTH)


def _dataset_problems(dataset: Dataset) -> Iterator[str]:
    for field, most in DATASET_LENGTHS.items():
        text = getattr(dataset, field)
        if text is not None and not 0 < len(text) <= most:
            yield f"the dataset's {field} has {len(text)} characters; 1 to {most} are allowed"


def _log_problems(record: Logged, known: RecordedRun | None) -> Iterator[str]:
    yield from _field_problems("param", record.params, PARAM_LENGTH)
    yield from _field_problems("tag", record.tags, TAG_LENGTH)
    yield from _metric_problems(record.metrics)
    before = {} if known is None else known.params
    for key, text in record.params.items():
        if before.get(key, text) != text:
            yield f"param {key!r} is {before[key]!r:.60} already; params are written once, not {text!r:.60}"


def _assessment_problems(record: AssessmentLogged) -> Iterator[str]:
    if record.kind not in ("feedback", "expectation"):
        yield f"kind {record.kind!r} is neither feedback nor expectation"
    if not 0 < len(record.assessment_id) <= ID_LENGTH:
        yield f"the assessment's id has {len(record.assessment_id)} characters; 1 to {ID_LENGTH} are allowed"
    if not record.name:
        yield "the assessment has no name"
    texts = {"name": record.name, "rationale": record.rationale or "", "value": record.value}
    yield from _text_problems("assessment's", texts, 1 << 20)
    try:
        json.loads(record.value)
    except ValueError:
        yield f"the assessment's value {record.value!r:.60} is not JSON"


def _metric_problems(metrics: Iterable[Metric]) -> Iterator[str]:
    for metric in metrics:
        yield from _key_problems("metric", metric.key)
        value = metric.value
        if isinstance(value, str) and value not in NOT_FINITE:
            yield f"metric {metric.key!r} is the text {value!r}"
        elif not isinstance(value, str) and value - value != 0:
            yield f"metric {metric.key!r} is {value!r}, which JSON has no number for"
        if not -_INT64 <= metric.step < _INT64:
            yield f"metric {metric.key!r} has the step {metric.step}, beyond 64 bits"
        yield from _time_problems(metric.timestamp)


def _field_problems(kind: str, fields: Mapping[str, str], limit: int) -> Iterator[str]:
    for key in fields:
        yield from _key_problems(kind, key)
    yield from _text_problems(kind, fields, limit)


def _text_problems(kind: str, fields: Mapping[str, str], limit: int) -> Iterator[str]:
    for key, text in fields.items():
        if len(text) > limit:
            yield f"{kind} {key!r} has {len(text)} characters; {limit} are allowed"
        try:
            text.encode()
        except UnicodeEncodeError:
            yield f"{kind} {key!r} is no Unicode text: {text!r:.60}"
        if "\0" in text:
            yield f"{kind} {key!r} has a NUL in it, which databases refuse"


def _key_problems(kind: str, key: str) -> Iterator[str]:
    if not KEY.match(key) or not key:
        yield f"the key of {kind} {key!r} has a character that is not allowed, or none"
    if len(key) > KEY_LENGTH:
        yield f"the key of {kind} {key!r:.40} has {len(key)} characters; {KEY_LENGTH} are allowed"
    yield from _path_problems(key)


def _path_problems(path: str) -> Iterator[str]:
    if path != posixpath.normpath(path) or path == "." or path.startswith(("..", "/")):
        yield f"{path!r} is no path below the run's own"


def _time_problems(milliseconds: int) -> Iterator[str]:
    if not 0 <= milliseconds < _INT64:
        yield f"{milliseconds} is no time in milliseconds since the epoch"
