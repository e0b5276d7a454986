"""
What delivery needs of a tracking server, and what a server's answer means.

    DeliveryError
    ├── NotApplied    certainly not applied: refused, unknown host, TLS; send again
    │   └── Throttled the server asked for a pause (429, Retry-After)
    ├── Uncertain     sent, no usable answer: may have been applied
    │   └── Failed    the server itself failed over it (500)
    ├── Suspended     nothing will be accepted until a person acts: credentials, address, a missing extra
    ├── Doubtful      refused, but not for good reason: a lost race, an internal error of the server
    ├── Missing       the run is not there (yet, or any more)
    ├── Parked        the experiment takes no runs until a person acts
    └── Rejected      refused for good: this data, sent again, will be refused again
        └── Unsupported  whatever the data is: the destination has no place for such

Which HTTP answer is which: `mltrace.delivery.rest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Union
from urllib.parse import unquote, urlsplit

import msgspec

from .._checks import is_artifact_path, is_uid
from .._records import AssessmentLogged, Dataset, Metric
from .._redaction import Redactor, shown
from .spans import Span


_REDACTOR = Redactor()
_PREAMBLE = "(raised as a result of"  # SQLAlchemy's first line, whatever was wrong with a session's writes
UID = "mltrace.uid"
"""The tag that mltrace finds again what it has made."""

SLOW_SETTLE = 5.0
"""
How much longer to wait where a search may not show what was just created: a file store writes a run in
several steps, and a replica lags.
"""

FILE_STORE, COLLECTOR = "FileStore", "OpenTelemetry"
"""Stores of which less is promised."""

_LONGEST = 1000  # characters of a message: a server may say as much as it likes


class DeliveryError(Exception):
    """
    Base of what can go wrong between the spool and the server; the message is fit for a user's
    eyes: passwords that others put into it are taken out, and control characters escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(_REDACTOR.text(message))[:_LONGEST])


class NotApplied(DeliveryError):
    """The request did not reach the server, or it said that it did nothing."""


class Throttled(NotApplied):
    """The server asked to wait *seconds*."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Uncertain(DeliveryError):
    """The request may have been applied."""


class Failed(Uncertain):
    """The server failed over this request; where that is so each time, it is the request's fault."""


class Suspended(DeliveryError):
    """The destination takes nothing until a person changes something; the message says what."""


class Doubtful(DeliveryError):
    """Refused in a way that does not prove that it always will be."""


class Missing(DeliveryError):
    """The run that the request names does not exist: not yet, or not any more."""


class Parked(DeliveryError):
    """
    The run's experiment takes no runs until a person changes something there; other experiments go
    on.
    """


class Rejected(DeliveryError):
    """Refused for good."""


class Unsupported(Rejected):
    """Refused for good, and others like it would be too: there is no need to try them one by one."""


def first_words(message: str) -> str:
    """
    Return the line of a server's or a library's *message* that says what is wrong; what follows it
    can echo users' values.
    """
    lines = (line for line in message.splitlines() if not line.startswith(_PREAMBLE))
    return "".join(c if c.isprintable() else "?" for c in next(lines, ""))[:160]


class ServerRun(msgspec.Struct, frozen=True):
    """
    A run as the server knows it: its id, where its artifacts go, whether it is deleted or has ended
    there; *bare*: it has neither params nor metrics; *uid* is its tag ``mltrace.uid``.

    *is_trace*: it is no run but a trace, and *run_id* MLflow's id of that.
    """

    run_id: str
    artifact_uri: str
    experiment_id: str
    deleted: bool = False
    ended: bool = False
    bare: bool = False
    uid: str = ""
    is_trace: bool = False


def check_uid(uid: str) -> None:
    """Raise `Rejected` for what could end the string of a search's filter."""
    if not is_uid(uid):
        raise Rejected(f"{uid!r} is not a run's uid")


def check_place(path: str, run: ServerRun) -> None:
    """
    Raise `Rejected` where an artifact at *path* would land outside its run.

    The server says where a run's artifacts lie. A directory of this machine is only believed where
    MLflow's own layout ends it, ``<run id>/artifacts``: no file that is there already is in one.
    """
    if not is_artifact_path(path):
        raise Rejected(f"artifact path {path!r} does not stay inside its run")
    place = urlsplit(run.artifact_uri)
    parts = unquote(place.path).strip("/").split("/")
    if ".." in parts:
        raise Rejected(f"the server's artifact address {run.artifact_uri!r} leads out of its store")
    if place.scheme in ("", "file") and parts[-2:] != [run.run_id, "artifacts"]:
        raise Rejected(f"the server's artifact address {run.artifact_uri!r} is not the run's own directory")


def settle_factor(store: str | None) -> float:
    """Return how much longer than usual a run has to settle in a *store* before it is looked up."""
    return SLOW_SETTLE if store == FILE_STORE else 1.0


class Reachability(msgspec.Struct, frozen=True):
    """
    What a probe of the destination found: *ok*, and *message*, a sentence with the remedy where it
    is not. *store* is MLflow's name for what keeps the runs, None where it is not known; *away*:
    nobody answers there.
    """

    ok: bool
    message: str
    server_version: Union[str, None] = None
    store: Union[str, None] = None
    away: bool = False


class ServerModel(msgspec.Struct, frozen=True):
    """A LoggedModel as the server knows it: its id, where its files go, and whether it is complete."""

    model_id: str
    artifact_uri: str
    ready: bool = False
    tags: dict[str, str] = {}


class NewVersion(msgspec.Struct, frozen=True):
    """
    What a version of a registered model is made of: the address of its files, and the id of the
    LoggedModel that they are of, if they are.
    """

    source: str
    model_id: Union[str, None]
    tags: dict[str, str]
    description: str = ""


class ModelStore(Protocol):
    """What delivery needs of a server that keeps models. As `Destination`."""

    def find(self, experiment_id: str, uid: str) -> Sequence[ServerModel]:
        """Return the LoggedModels whose tag ``mltrace.uid`` is *uid*."""

    def create(
        self,
        experiment_id: str,
        run_id: str,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        model_type: Union[str, None],
    ) -> ServerModel:
        """Create a LoggedModel; not to be repeated blindly."""

    def files(self, model: ServerModel) -> Mapping[str, int]:
        """Return the sizes of the files that are there, by path."""

    def finish(self, model_id: str) -> None:
        """Say that the model is complete."""

    def delete(self, model_id: str) -> None:
        """Delete a proven duplicate."""

    def set_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a LoggedModel."""

    def outputs(self, run_id: str) -> Sequence[str]:
        """Return the ids of the models that the run is said to have made."""

    def add_output(self, run_id: str, model_id: str, step: int) -> None:
        """Say that the run has made the model; not to be repeated blindly."""

    def version(self, name: str, run_id: str, uid: str) -> Union[str, None]:
        """Return the version of the registered model *name* whose tag ``mltrace.uid`` is *uid*."""

    def register(self, name: str, run_id: str, version: NewVersion) -> str:
        """
        Create the registered model *name* where needed, and a version of it; return its number. Not to be
        repeated blindly.
        """


class Destination(Protocol):
    """
    One tracking server or store.

    Methods block, are called from delivery threads only, and raise `DeliveryError`.
    """

    connections: int
    """How many threads may use it at once."""

    settle_factor: float
    """See `settle_factor`; 1.0 as long as the store is not known."""

    @property
    def models(self) -> ModelStore:
        """Where models go."""

    def probe(self) -> Reachability:
        """Ask whether the destination can be used now."""

    def experiment(self, name: str) -> str:
        """Return the id of the experiment *name*, creating it where needed."""

    def forget_experiment(self, name: str) -> None:
        """Look the experiment *name* up again at its next use: a run in it was refused."""

    def create_run(
        self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str]
    ) -> ServerRun:
        """
        Create a run.

        The one call that must not be repeated blindly: every repetition makes another run.
        """

    def find_runs(self, experiment_ids: Sequence[str], uid: str) -> Sequence[ServerRun]:
        """Return the runs whose tag ``mltrace.uid`` is *uid*, deleted ones too."""

    def tags(self, run_id: str) -> Mapping[str, str]:
        """Return the tags of a run."""

    def open_runs(self, experiment_id: str) -> Sequence[ServerRun]:
        """Return mltrace's active runs that have no end, the latest 1,000."""

    def experiments(self) -> Sequence[str]:
        """Return the ids of all active experiments, the latest 1,000."""

    def delete_run(self, run_id: str) -> None:
        """Delete a proven duplicate."""

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Log at most 1,000 metrics, 100 params and 100 tags, 1,000 in all."""

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str]) -> None:
        """Log datasets and models (by id) that a run read; what is logged already is left as it is."""

    def log_model_metrics(
        self,
        run_id: str,
        model_id: str,
        metrics: Sequence[Metric],
        dataset: Union[tuple[str, Union[str, None]], None],
    ) -> None:
        """Log metric points of a run as measured with a model, and a dataset (name, digest)."""

    def upload(self, run: ServerRun, path: str, content: Union[bytes, str]) -> None:
        """Store an artifact at the relative *path*: bytes, or the file at a local path."""

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """Set the run's status and end time."""

    def log_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:
        """Store *spans*; those that are there are replaced. All of them are, or none is, when it returns or raises."""

    def link_traces(self, run_id: str, traces: Sequence[str]) -> None:
        """Have at most 100 *traces* belong to a run; those that do are left as they are."""

    def has_trace(self, trace: str) -> bool:
        """Say whether a span of *trace* is there."""

    def assess(self, assessment: AssessmentLogged) -> None:
        """Store *assessment*, in the place of the one of the same id; raise `Missing` without its trace."""

    def close(self) -> None:
        """Close the calling thread's connection."""
