"""
What crosses a layer: frozen, plain records.

A record is complete and final when it is made: values are rendered, bounded, redacted and
acceptable to MLflow, and every timestamp is the moment the thing happened. The journal stores
records as JSON and delivery translates them into MLflow's calls; neither changes one.

Times are wall-clock milliseconds since the epoch. A `seq` is given by the journal, unique among the
records of one writer directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

import msgspec


class Metric(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    One metric point.

    *value* is a float, or "NaN", "Infinity", "-Infinity": JSON has no such numbers and MLflow reads
    these strings.
    """

    key: str
    value: Union[float, str]
    timestamp: int
    step: int = 0


class _Record(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, kw_only=True, gc=False):
    run: str
    time: int
    seq: int = 0


class RunStarted(_Record, frozen=True, tag="start", kw_only=True, gc=False):
    """
    A run began.

    *parent* is the uid of the enclosing run; *parent_experiment* is set where that run lives in
    another process.

    With *trace*, 32 hex digits, it is no run but a span of that trace: its span id are the first 16
    digits of its uid, and *parent* is the uid of the span above it, or 16 digits where that is another
    tracer's. *span_type* is MLflow's; *started_ns* is *time* to the nanosecond, measured from the top of
    the trace, so that siblings of one millisecond keep their order. *linked* is the uid of the run that the whole trace belongs to,
    *linked_experiment* as *parent_experiment*.
    """

    name: str
    kind: str = "run"
    experiment: str
    parent: Union[str, None] = None
    parent_experiment: Union[str, None] = None
    trace: Union[str, None] = None
    span_type: Union[str, None] = None
    started_ns: Union[int, None] = None
    linked: Union[str, None] = None
    linked_experiment: Union[str, None] = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}


class Logged(_Record, frozen=True, tag="log", gc=False):
    """
    Params, metric points and tags for a run.

    *experiment* is set when another process started the run: delivery has to look there.
    """

    params: dict[str, str] = {}
    metrics: tuple[Metric, ...] = ()
    tags: dict[str, str] = {}
    experiment: Union[str, None] = None


class ArtifactLogged(_Record, frozen=True, tag="artifact", gc=False):
    """
    A file for a run at the relative *path*: its *text*, or the name of a *blob* stored beside the
    journal, of *size* bytes.
    """

    path: str
    text: Union[str, None] = None
    blob: Union[str, None] = None
    size: int = 0
    experiment: Union[str, None] = None


class Dataset(msgspec.Struct, frozen=True, omit_defaults=True):
    """A dataset that a run read, as MLflow describes it; *tags* are those of the reading."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: Union[str, None] = None
    profile: Union[str, None] = None
    tags: dict[str, str] = {}


class InputsLogged(_Record, frozen=True, tag="inputs", gc=False):
    """
    What a run read (MLflow: its inputs): *datasets*, and *models* by their uids, or by the server's ids.
    """

    datasets: tuple[Dataset, ...] = ()
    models: tuple[str, ...] = ()
    experiment: Union[str, None] = None


class ModelFile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file of a model: its relative *path* in it, and the *blob* that holds its *size* bytes."""

    path: str
    blob: str
    size: int
    sha256: str


class ModelLogged(_Record, frozen=True, tag="model", kw_only=True, gc=False):
    """
    A model that a run has made, whole: MLflow's LoggedModel *name*, of *files* that lie beside the
    journal.

    *uid* is the client's own id of it, on the server the tag ``mltrace.uid``; *digest* is of its
    files. It also becomes a version of *registered*, where that is given.
    """

    uid: str
    name: str
    flavor: str
    digest: str
    files: tuple[ModelFile, ...]
    registered: Union[str, None] = None
    model_type: Union[str, None] = None
    model_params: dict[str, str] = {}
    model_tags: dict[str, str] = {}
    step: int = 0
    experiment: Union[str, None] = None


class ModelMeasured(_Record, frozen=True, tag="measured", kw_only=True, gc=False):
    """
    Metric points of a run that were measured with a *model*, its uid or the server's id of it, and
    perhaps with a dataset. The run's own metrics have them too.
    """

    model: str
    metrics: tuple[Metric, ...]
    dataset_name: Union[str, None] = None
    dataset_digest: Union[str, None] = None
    experiment: Union[str, None] = None


class ModelRegistered(_Record, frozen=True, tag="version", kw_only=True, gc=False):
    """
    What a run has made becomes a version of the registered model *name*: the *model* of that uid, or
    the files below *path* among the run's artifacts. *foreign*: another process has logged the model, which
    may arrive later; else it has been delivered, or refused, before.

    *uid* is the client's own id of the version, on the server its tag ``mltrace.uid``; whoever registers
    a model twice makes two versions, as with MLflow. The number is the server's to give.
    """

    uid: str
    name: str
    model: Union[str, None] = None
    foreign: bool = False
    path: str = ""
    version_tags: dict[str, str] = {}
    description: str = ""
    experiment: Union[str, None] = None


class RunEnded(_Record, frozen=True, tag="end", gc=False):
    """
    A run ended with one of MLflow's statuses; *metrics* and *tags* are its last.

    *experiment* is set where its start is not in the same directory: delivery has to look there.
    """

    status: str
    metrics: tuple[Metric, ...] = ()
    tags: dict[str, str] = {}
    experiment: Union[str, None] = None


class RunRecorded(_Record, frozen=True, tag="run", kw_only=True, gc=False):
    """
    A whole run in one record, begun at *time* and ended at *ended*: what a backend makes of a start
    and an end that follow each other at once.

    *start_tags* are the start's, *tags* the end's.
    """

    name: str
    kind: str = "run"
    experiment: str
    ended: int
    status: str = "FINISHED"
    parent: Union[str, None] = None
    parent_experiment: Union[str, None] = None
    trace: Union[str, None] = None
    span_type: Union[str, None] = None
    started_ns: Union[int, None] = None
    linked: Union[str, None] = None
    linked_experiment: Union[str, None] = None
    params: dict[str, str] = {}
    start_tags: dict[str, str] = {}
    metrics: tuple[Metric, ...] = ()
    tags: dict[str, str] = {}

    @property
    def start(self) -> RunStarted:
        """The start alone."""
        return RunStarted(
            run=self.run, time=self.time, seq=self.seq, name=self.name, kind=self.kind, experiment=self.experiment,
            parent=self.parent, parent_experiment=self.parent_experiment, trace=self.trace, span_type=self.span_type, started_ns=self.started_ns,
            linked=self.linked, linked_experiment=self.linked_experiment, params=self.params, tags=self.start_tags,
        )  # fmt: skip

    @property
    def end(self) -> RunEnded:
        """The end alone."""
        return RunEnded(
            run=self.run,
            time=self.ended,
            seq=self.seq,
            status=self.status,
            metrics=self.metrics,
            tags=self.tags,
        )


def whole_run(start: RunStarted, end: RunEnded) -> RunRecorded:
    """Return *start* and *end* of one run as one record."""
    whole = RunRecorded(
        run=start.run, time=start.time, name=start.name, kind=start.kind, experiment=start.experiment, ended=end.time, status=end.status,
        parent=start.parent, parent_experiment=start.parent_experiment, params=start.params, start_tags=start.tags, metrics=end.metrics,
        tags=end.tags,
    )  # fmt: skip
    if start.trace is None:  # most are no spans, and each field costs the caller
        return whole
    return msgspec.structs.replace(
        whole, trace=start.trace, span_type=start.span_type, started_ns=start.started_ns,
        linked=start.linked, linked_experiment=start.linked_experiment,
    )  # fmt: skip


class AssessmentLogged(_Record, frozen=True, tag="assessment", kw_only=True, gc=False):
    """
    What somebody says of a trace, MLflow's assessment; *kind* is ``feedback`` or ``expectation``.

    *run* is the uid of a span of the trace: the record is delivered behind that span, where the span
    is on its way; whoever only knows the trace gives its id. *trace* has 32 hex digits. *assessment_id*
    is made by the client: what is logged twice under one id is there once, with the last *value*, which
    is JSON. *source_type* is MLflow's ``HUMAN``, ``LLM_JUDGE`` or ``CODE``; *span* has 16 hex digits.
    """

    trace: str
    assessment_id: str
    name: str
    value: str
    kind: str = "feedback"
    rationale: Union[str, None] = None
    source_type: str = "HUMAN"
    source_id: str = ""
    span: Union[str, None] = None
    metadata: dict[str, str] = {}
    experiment: Union[str, None] = None


Record = Union[
    RunStarted,
    Logged,
    ArtifactLogged,
    InputsLogged,
    ModelLogged,
    ModelMeasured,
    ModelRegistered,
    AssessmentLogged,
    RunEnded,
    RunRecorded,
]

APART = (ArtifactLogged, InputsLogged, ModelLogged, ModelMeasured, ModelRegistered, AssessmentLogged)
"""Records that are told in requests of their own each, not in batches."""

FOREIGN = "mlflow"
"""The kind of a run that MLflow's own API made: user, source and name come from there too."""

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
"""The terminal statuses of `mlflow.entities.RunStatus`."""

RUN, TRACE = "run", "trace"
"""What a call can be recorded as: ``record_as``."""

KINDS = ("run", "training", "llm_call", "prediction", "evaluation")
"""The kinds of calls that `record_as` can name."""

TRACE_PREFIX = "tr-"
"""What MLflow's id of a trace begins with; OpenTelemetry's follows."""

DROPPED_TAG = "mltrace.dropped_records"
"""Of a run that its backend dropped records of: how many."""

LIFECYCLE = (RunStarted, RunEnded, RunRecorded)
"""
Records that a full spool still takes, from a reserve: a run whose metrics were dropped must still
end.
"""


def blobs_of(record: Record) -> tuple[str, ...]:
    """Return the names of the blobs that *record* refers to."""
    if isinstance(record, ModelLogged):
        return tuple(file.blob for file in record.files)
    return (record.blob,) if isinstance(record, ArtifactLogged) and record.blob is not None else ()


def with_blobs(record: Record, names: Mapping[str, str]) -> Record:
    """Return *record* with its blobs renamed as *names* says."""
    replace = msgspec.structs.replace
    if isinstance(record, ModelLogged):
        return replace(record, files=tuple(replace(file, blob=names[file.blob]) for file in record.files))
    if isinstance(record, ArtifactLogged) and record.blob is not None:
        return replace(record, blob=names[record.blob])
    return record


def wire_number(value: float) -> float | str:
    """
    Return *value* as MLflow's JSON takes it; a raw NaN makes the server answer 200 and drop the
    rest of the batch.
    """
    if value - value == 0.0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
