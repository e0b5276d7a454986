"""
A tracking server over HTTP, with the standard library's client and without importing mlflow.

What an answer means (MLflow 3.17, `server/handlers.py`, `store/db/utils.py`), beside what it means
from any server (`mltrace.delivery.transport`):

    200 with JSON that is not MLflow's              Uncertain
    anything without MLflow's JSON                  Suspended: wrong address, a login page, a captive portal
    404 RESOURCE_DOES_NOT_EXIST                     Missing
    400 BAD_REQUEST, 409, 422                       Doubtful
        (whatever a database refuses that is there: a value too long for PostgreSQL's column, but
        also every change while it is read-only; one that is away is 503, or 500 without JSON)
    other 4xx of MLflow's, 413, 501                 Rejected

and of an answer to spans (`server/otel_api.py`, which has FastAPI's form of errors):

    200 with protobuf                               stored; Rejected where it says that spans were refused
    422                                             Doubtful: a span that is none, or any error of the store
    404, 405, 501                                   Unsupported: too old, or a store without traces
    other 4xx                                       Rejected

Bodies of errors can echo users' values: only the error code and the first words of the message are
kept, without the credentials that were sent. What is not in MLflow's form was not understood, and so
acknowledges nothing.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import urllib.parse

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from email.message import Message
from pathlib import Path
from typing import Any, Union

import msgspec

from .._checks import decode, decoder_of, is_server_id, is_uid
from .._records import TRACE_PREFIX, AssessmentLogged, Dataset, Metric
from .destination import (
    DeliveryError,
    Doubtful,
    Failed,
    Missing,
    ModelStore,
    Parked,
    Reachability,
    Rejected,
    ServerRun,
    Suspended,
    Uncertain,
    Unsupported,
    check_place,
    check_uid,
    settle_factor,
)
from .meter import Upload
from .rest_models import RestModels
from .spans import Span
from .transport import Endpoint


_OPEN_LIMIT = 1000
_FOUND_LIMIT = 100  # runs under one uid; more than asked for is no search's answer
API, API_3 = "/api/2.0/mlflow/", "/api/3.0/mlflow/"
_CHANGING = ("feedback", "expectation", "rationale", "metadata")
"""What of an assessment can be changed, and is called the same in the JSON of a field mask."""

_OLDEST_TESTED = (2, 0)

_encode = msgspec.json.Encoder().encode


class _Tag(msgspec.Struct, frozen=True):
    key: str
    value: str = ""


class _RunInfo(msgspec.Struct):
    run_id: str
    experiment_id: str
    artifact_uri: str = ""
    lifecycle_stage: str = "active"
    status: str = "RUNNING"


class _RunData(msgspec.Struct, frozen=True):
    metrics: list[msgspec.Raw] = []
    params: list[msgspec.Raw] = []
    tags: list[_Tag] = []


class _Run(msgspec.Struct):
    info: _RunInfo
    data: _RunData = msgspec.field(default_factory=_RunData)


class _RunAnswer(msgspec.Struct):
    run: _Run


class _RunsAnswer(msgspec.Struct):
    runs: list[_Run] = []


class _Experiment(msgspec.Struct):
    experiment_id: str
    lifecycle_stage: str = "active"


class _ExperimentAnswer(msgspec.Struct):
    experiment: _Experiment


class _ExperimentId(msgspec.Struct):
    experiment_id: str


class _Done(msgspec.Struct, forbid_unknown_fields=True):
    """MLflow's plain yes: ``{}`` and nothing else."""


class _Ended(msgspec.Struct):
    run_info: _RunInfo


class _Detail(msgspec.Struct):
    """An error of FastAPI's, which is not MLflow's form."""

    detail: str


class _TraceAnswer(msgspec.Struct):
    trace: dict[str, Any]


class _AssessmentAnswer(msgspec.Struct):
    assessment: dict[str, Any]


class _Experiments(msgspec.Struct):
    experiments: list[_Experiment] = []


class _Error(msgspec.Struct):
    error_code: Union[str, int]
    message: str = ""


class RestDestination(Endpoint):
    """
    The server at *uri* (``http`` or ``https``); TLS settings as MLflow's own variables say, and
    unless *credentials* is false so for these; read again at each connection.
    """

    connections = 4
    settle_factor = 1.0

    def __init__(self, uri: str, *, credentials: bool = True) -> None:
        super().__init__(uri, credentials=credentials)
        self._experiments: dict[str, str] = {}
        self.models: ModelStore = RestModels(self._call)

    # The calls.

    def probe(self) -> Reachability:
        """
        Ask for an experiment list of one: it needs the server, the right address, authorisation and
        a working store.
        """
        self._call("POST", f"{API}experiments/search", {"max_results": 1}, _Experiments)
        version = self._text("/version")
        store = self._store_type()
        if version and _version(version) < _OLDEST_TESTED:
            return Reachability(
                False,
                f"MLflow {version} at {self.uri} is too old; mltrace is tested with 3.x and needs 2.0 or newer",
                version,
                store,
            )
        message = f"MLflow {version or '(version unknown)'} at {self.uri} answers and takes these credentials"
        return Reachability(True, message, version, store)

    def experiment(self, name: str) -> str:
        """
        Return the experiment's id; several processes may create it at once, and all get the same
        one. The first time ask what store it is in.
        """
        if (known := self._experiments.get(name)) is not None:
            return known
        query = f"{API}experiments/get-by-name?{urllib.parse.urlencode({'experiment_name': name})}"
        try:
            found = self._call("GET", query, None, _ExperimentAnswer).experiment
        except Missing:
            try:
                found = _Experiment(
                    self._call(
                        "POST", f"{API}experiments/create", {"name": name}, _ExperimentId
                    ).experiment_id
                )
            except (Rejected, Doubtful) as refusal:
                try:  # another process may have made it in the meantime
                    found = self._call("GET", query, None, _ExperimentAnswer).experiment
                except Missing:
                    if not str(refusal).startswith("RESOURCE_ALREADY_EXISTS"):
                        raise refusal from None
                    raise Missing(
                        f"experiment {name!r} exists, and the server's reads do not show it: they lag"
                    ) from None
        if found.lifecycle_stage != "active":
            raise Parked(
                f"experiment {name!r} is deleted on the server; restore it (`mlflow experiments restore`) and its runs will be delivered"
            )
        identity: str = found.experiment_id
        self._check_ids(identity)
        if not self._experiments:
            with contextlib.suppress(DeliveryError):  # nice to know
                self.settle_factor = settle_factor(self._store_type())
        self._experiments[name] = identity
        return identity

    def forget_experiment(self, name: str) -> None:
        """Look the experiment up again at its next use."""
        self._experiments.pop(name, None)

    def create_run(
        self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str]
    ) -> ServerRun:
        """POST runs/create."""
        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": start_time,
            "tags": _tags(tags),
        }
        if user := tags.get("mlflow.user"):
            body["user_id"] = user[:250]
        return self._server_run(self._call("POST", f"{API}runs/create", body, _RunAnswer).run)

    def find_runs(self, experiment_ids: Sequence[str], uid: str) -> Sequence[ServerRun]:
        """
        POST runs/search by the tag; *uid* is alphanumeric, so that nothing needs escaping. Other runs
        are passed over, should the server have ignored the filter: what is found may be deleted.
        """
        check_uid(uid)
        found = self._search(experiment_ids, f"tags.`mltrace.uid` = '{uid}'", "ALL", _FOUND_LIMIT)
        return [run for run in found if run.uid == uid]

    def tags(self, run_id: str) -> Mapping[str, str]:
        """GET runs/get."""
        query = urllib.parse.urlencode({"run_id": run_id})
        run = self._call("GET", f"{API}runs/get?{query}", None, _RunAnswer).run
        return {tag.key: tag.value for tag in run.data.tags}

    def open_runs(self, experiment_id: str) -> Sequence[ServerRun]:
        """POST runs/search by status."""
        condition = "attributes.status = 'RUNNING' and tags.`mltrace.uid` LIKE '%'"
        found = self._search([experiment_id], condition, "ACTIVE_ONLY", _OPEN_LIMIT)
        return [run for run in found if is_uid(run.uid) and not run.ended]

    def _search(
        self, experiment_ids: Sequence[str], condition: str, view: str, most: int
    ) -> Sequence[ServerRun]:
        body = {
            "experiment_ids": experiment_ids,
            "filter": condition,
            "run_view_type": view,
            "max_results": most,
        }
        found = self._call("POST", f"{API}runs/search", body, _RunsAnswer).runs
        if len(found) > most:
            raise Uncertain(f"{self.uri} sent {len(found)} runs where {most} were asked for")
        return [self._server_run(run) for run in found]

    def experiments(self) -> Sequence[str]:
        """POST experiments/search."""
        found = self._call("POST", f"{API}experiments/search", {"max_results": 1000}, _Experiments)
        self._check_ids(*(experiment.experiment_id for experiment in found.experiments))
        return [experiment.experiment_id for experiment in found.experiments]

    def delete_run(self, run_id: str) -> None:
        """POST runs/delete; a run that is not there is as good as deleted."""
        try:
            self._call("POST", f"{API}runs/delete", {"run_id": run_id}, _Done)
        except Missing:
            return

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """POST runs/log-batch."""
        body: dict[str, Any] = {"run_id": run_id}
        if metrics:
            body["metrics"] = [_point(metric) for metric in metrics]
        if params:
            body["params"] = _tags(params)
        if tags:
            body["tags"] = _tags(tags)
        self._call("POST", f"{API}runs/log-batch", body, _Done)

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str]) -> None:
        """POST runs/log-inputs."""
        body: dict[str, Any] = {"run_id": run_id}
        if datasets:
            body["datasets"] = [
                {"tags": _tags(dataset.tags), "dataset": _described(dataset)} for dataset in datasets
            ]
        if models:
            body["models"] = [{"model_id": model} for model in models]
        self._call("POST", f"{API}runs/log-inputs", body, _Done)

    def log_model_metrics(
        self,
        run_id: str,
        model_id: str,
        metrics: Sequence[Metric],
        dataset: tuple[str, str | None] | None,
    ) -> None:
        """POST runs/log-batch."""
        links = {"model_id": model_id}
        if dataset is not None:
            links |= {"dataset_name": dataset[0], "dataset_digest": dataset[1] or ""}
        points = [{**_point(metric), **links} for metric in metrics]
        self._call("POST", f"{API}runs/log-batch", {"run_id": run_id, "metrics": points}, _Done)

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """POST runs/update."""
        self._call(
            "POST", f"{API}runs/update", {"run_id": run_id, "status": status, "end_time": end_time}, _Ended
        )

    def upload(self, run: ServerRun, path: str, content: bytes | str) -> None:
        """PUT through the server's artifact proxy; a store without one needs MLflow's client."""
        check_place(path, run)
        place = urllib.parse.urlsplit(run.artifact_uri)
        if place.scheme in ("http", "https") and (place.scheme, place.netloc) != self._origin:
            # MLflow's client would send the credentials there.
            raise Rejected(f"the server's artifact address {run.artifact_uri!r} is another server's")
        if place.scheme in ("http", "https") and not self._with_credentials:
            raise self._refused_credentials("its artifacts need MLflow's client")
        if place.scheme != "mlflow-artifacts":
            _upload_with_mlflow(self, run, path, content)
            return
        root = place.path.strip("/")
        target = "/".join(urllib.parse.quote(part, safe="") for part in f"{root}/{path}".split("/"))
        target = f"/api/2.0/mlflow-artifacts/artifacts/{target}"
        if isinstance(content, bytes):
            self._call("PUT", target, content, _Done)
        else:
            with Upload(content, path) as file:
                self._call("PUT", target, file, _Done)

    # Traces.

    def log_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:
        """POST /v1/traces, OpenTelemetry's own endpoint, in requests of at most a megabyte."""
        otlp = _otlp(self.uri)
        for body in otlp.requests(spans):
            status, headers, reply = self._exchange(
                "POST", "/v1/traces", body, otlp.CONTENT_TYPE, {"x-mlflow-experiment-id": experiment_id}
            )
            if status != 200:
                raise self._span_refusal(status, headers, reply)
            if otlp.CONTENT_TYPE not in headers.get("Content-Type", ""):
                raise self._foreign(f"200 with {self._quoted(str(headers['Content-Type']))}")
            otlp.check_answer(reply)

    def _span_refusal(self, status: int, headers: Message, reply: bytes) -> Exception:
        """Return what an answer to spans means: that endpoint's own errors are not in MLflow's form."""
        try:
            said = decode(reply, decoder_of(_Detail)).detail
        except msgspec.DecodeError:
            said = None
        if status == 501 or (status in (404, 405) and self._is_mlflow()):
            return Unsupported(
                f"{self.uri} takes no traces (HTTP {status}): it needs MLflow 3.6 or newer and a database;"
                " set MLTRACE_RECORD_AS=run"
            )
        if said is None or status >= 500:
            return self._refusal(status, headers, reply)
        kind = Doubtful if status == 422 else Rejected
        return self._misfortune(status, headers, said) or kind(f"HTTP {status}: {self._quoted(said)}")

    def _is_mlflow(self) -> bool:
        """Say that the server is MLflow; raise what it is else."""
        self._call("POST", f"{API}experiments/search", {"max_results": 1}, _Experiments)
        return True

    def link_traces(self, run_id: str, traces: Sequence[str]) -> None:
        """POST traces/link-to-run."""
        body = {"run_id": run_id, "trace_ids": [f"{TRACE_PREFIX}{trace}" for trace in traces]}
        self._call("POST", f"{API}traces/link-to-run", body, _Done)

    def has_trace(self, trace: str) -> bool:
        """GET the trace's head."""
        try:
            self._call("GET", f"{API_3}traces/{TRACE_PREFIX}{trace}", None, _TraceAnswer)
        except Missing:
            return False
        return True

    def assess(self, assessment: AssessmentLogged) -> None:
        """
        POST traces/…/assessments; one that is there, for which the server fails, is replaced with PATCH.
        """
        path = f"{API_3}traces/{TRACE_PREFIX}{assessment.trace}/assessments"
        said = _assessment(assessment)
        try:
            self._call("POST", path, {"assessment": said}, _AssessmentAnswer)
        except Failed as failure:
            mask = ",".join(key for key in _CHANGING if key in said)
            body = {"assessment": said, "update_mask": mask}
            try:
                self._call("PATCH", f"{path}/{assessment.assessment_id}", body, _AssessmentAnswer)
            except (Missing, Rejected):
                raise failure from None

    # One request.

    def _call(self, method: str, path: str, body: Any, answer: type[Any]) -> Any:
        raw = isinstance(body, (bytes, Upload))
        content = body if raw or body is None else _encode(body)
        kind = "application/octet-stream" if raw else "application/json"
        status, headers, reply = self._exchange(method, path, content, kind)
        if status != 200:
            raise self._refusal(status, headers, reply)
        try:
            # To an upload the server's yes is an empty body.
            return decode(reply or (b"{}" if method == "PUT" else b""), decoder_of(answer))
        except msgspec.DecodeError as error:
            if "json" not in headers.get("Content-Type", "json"):
                raise self._foreign(f"200 with {self._quoted(headers['Content-Type'])}") from None
            raise Uncertain(
                f"{self.uri} sent an answer that is not MLflow's ({self._quoted(str(error))})"
            ) from None

    def _server_run(self, run: _Run) -> ServerRun:
        info = run.info
        self._check_ids(info.run_id, info.experiment_id)
        try:
            urllib.parse.urlsplit(info.artifact_uri)
        except ValueError:
            raise Uncertain(f"{self.uri} sent an artifact address that is none") from None
        if not info.artifact_uri.isprintable() or self._repeats_secrets(info.artifact_uri):
            raise Uncertain(f"{self.uri} sent an artifact address that is none")
        return ServerRun(
            info.run_id,
            info.artifact_uri,
            info.experiment_id,
            deleted=info.lifecycle_stage == "deleted",
            ended=info.status not in ("RUNNING", "SCHEDULED"),
            bare=not run.data.metrics and not run.data.params,
            uid=next((tag.value for tag in run.data.tags if tag.key == "mltrace.uid"), ""),
        )

    def _check_ids(self, *ids: str) -> None:
        for text in ids:
            if not is_server_id(text) or self._repeats_secrets(text):
                raise Uncertain(f"{self.uri} sent an id that is none")

    def _foreign(self, what: str) -> Suspended:
        return Suspended(
            f"{self.uri} is not an MLflow server ({what}): check MLFLOW_TRACKING_URI, path included,"
            " and whether a login page, proxy or portal stands before it"
        )

    def _refusal(self, status: int, headers: Message, reply: bytes) -> Exception:
        """
        Return the error that an answer other than 200 stands for; the table is in the module's
        docstring.
        """
        try:
            error = decode(reply, decoder_of(_Error))
        except msgspec.DecodeError:
            error = None
        said = (
            f"{self._quoted(str(error.error_code))}: {self._quoted(error.message)}"
            if error
            else f"HTTP {status}"
        )
        if (trouble := self._misfortune(status, headers, said)) is not None:
            return trouble
        if status == 501 and error is None:
            return Uncertain(f"{self.uri} failed ({said})")
        if error is None and status != 413:
            return self._foreign(f"{status} without MLflow's JSON")
        if error is not None and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return Missing(said)
        if status in (409, 422) or (error is not None and error.error_code == "BAD_REQUEST"):
            return Doubtful(said)
        return Rejected(said)

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": "mltrace", "Accept": "application/json"}
        user, password = self._userinfo or (_credentials() if self._with_credentials else (None, None))
        token = os.environ.get("MLFLOW_TRACKING_TOKEN") if self._with_credentials else None
        if user and password is not None:
            headers["Authorization"] = self._basic(user, password)
            token = headers["Authorization"].removeprefix("Basic ")
        elif token:
            if not (token.isascii() and token.isprintable()):  # the error of `http.client` would show it
                raise Suspended(
                    "MLFLOW_TRACKING_TOKEN has a character that no header takes, perhaps a line feed"
                )
            headers["Authorization"] = f"Bearer {token}"
        self._local.secrets = [secret for secret in (password, token) if secret]
        return headers

    def _store_type(self) -> str | None:
        status, _, reply = self._exchange("GET", "/api/3.0/mlflow/server-info", None, "")
        try:
            found = decode(reply, msgspec.json.Decoder()) if status == 200 else {}
            return self._quoted(str(found["store_type"])[:40])
        except (msgspec.DecodeError, KeyError, TypeError):
            return None


def _credentials() -> tuple[str | None, str | None]:
    """
    Return user and password as MLflow finds them: the environment, else the section ``[mlflow]`` of
    ``~/.mlflow/credentials``.
    """
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password is not None:
        return user, password
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path("~/.mlflow/credentials").expanduser())
        section = parser["mlflow"]
    except (configparser.Error, KeyError, OSError, RuntimeError, UnicodeDecodeError):
        return user, password
    return user or section.get("mlflow_tracking_username"), password if password is not None else section.get(
        "mlflow_tracking_password"
    )


def _upload_with_mlflow(
    destination: RestDestination, run: ServerRun, path: str, content: bytes | str
) -> None:
    try:
        from .sdk import SdkDestination
    except ImportError:
        raise Suspended(
            f"artifacts of {destination.uri} lie at {urllib.parse.urlsplit(run.artifact_uri).scheme}:, which needs MLflow's client: install mltrace-mlflow[mlflow]"
        ) from None
    SdkDestination(destination.uri).upload(run, path, content)


def _otlp(uri: str) -> Any:
    try:
        from . import otlp
    except ImportError as error:
        raise Suspended(
            f"traces for {uri} need OpenTelemetry's protocol ({error}); install mltrace-mlflow[otlp]"
        ) from None
    return otlp


def _assessment(assessment: AssessmentLogged) -> dict[str, Any]:
    """Return *assessment* as MLflow's JSON has it."""
    when = datetime.fromtimestamp(assessment.time / 1000, timezone.utc).isoformat().replace("+00:00", "Z")
    found = {
        "assessment_id": assessment.assessment_id,
        "assessment_name": assessment.name,
        "trace_id": f"{TRACE_PREFIX}{assessment.trace}",
        "source": {"source_type": assessment.source_type, "source_id": assessment.source_id or "unknown"},
        "create_time": when,
        "last_update_time": when,
        assessment.kind: {"value": msgspec.Raw(assessment.value.encode())},
        "rationale": assessment.rationale,
        "span_id": assessment.span,
        "metadata": assessment.metadata or None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _tags(tags: Mapping[str, str]) -> list[_Tag]:
    return [_Tag(key, value) for key, value in tags.items()]


def _point(metric: Metric) -> dict[str, Any]:
    return {"key": metric.key, "value": metric.value, "timestamp": metric.timestamp, "step": metric.step}


def _described(dataset: Dataset) -> dict[str, str]:
    described = msgspec.structs.asdict(dataset)
    del described["tags"]
    return {field: text for field, text in described.items() if text is not None}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
