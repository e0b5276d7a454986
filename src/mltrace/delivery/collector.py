"""
Any receiver of OpenTelemetry's protocol in the place of MLflow: ``otlp+http://host:4318``, or
``otlp+https://``, with a path before ``/v1/traces`` where the receiver has one.

Everything is recorded as spans then; there are no experiments and no runs, and what is said of a trace
cannot be told. Headers, credentials among them, are those of ``OTEL_EXPORTER_OTLP_HEADERS`` and
``OTEL_EXPORTER_OTLP_TRACES_HEADERS``; experiment names travel as the attribute ``mltrace.experiment``.
A span that is sent again is the same span by its id, which is how back ends tell.
"""

from __future__ import annotations

import os
import urllib.parse

from collections.abc import Mapping, Sequence
from typing import NoReturn, Union

import msgspec

from .._addresses import OTLP_SCHEME
from .._records import AssessmentLogged, Dataset, Metric
from . import otlp
from .destination import COLLECTOR, Reachability, Rejected, ServerRun, Suspended, Unsupported
from .spans import Span
from .transport import Endpoint


_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
_PATH = "/v1/traces"


class CollectorDestination(Endpoint):
    """The receiver at *uri*, ``otlp+http`` or ``otlp+https``."""

    connections = 4
    settle_factor = 1.0

    def __init__(self, uri: str, *, credentials: bool = True) -> None:
        super().__init__(uri.removeprefix(OTLP_SCHEME).removesuffix(_PATH), credentials=credentials)

    def probe(self) -> Reachability:
        """Send a request without spans, which a receiver takes."""
        self._post(b"")
        return Reachability(True, f"{self.uri} takes OpenTelemetry's traces", None, COLLECTOR)

    def experiment(self, name: str) -> str:
        """Return the name: there are no ids."""
        return name

    def forget_experiment(self, name: str) -> None:
        """Do nothing: nothing is remembered."""

    def log_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:
        """POST /v1/traces; structures are JSON texts."""
        where = {"mltrace.experiment": experiment_id}
        told = [msgspec.structs.replace(span, attributes=span.attributes | where) for span in spans]
        for body in otlp.requests(told, flat=True):
            self._post(body)

    def _post(self, body: bytes) -> None:
        status, headers, reply = self._exchange("POST", _PATH, body, otlp.CONTENT_TYPE)
        if status == 200:
            otlp.check_answer(reply)
            return
        said = f"HTTP {status}"
        if (trouble := self._misfortune(status, headers, said)) is not None:
            raise trouble
        if status in (404, 405, 415, 501):
            raise Suspended(
                f"{self.uri} is no receiver of OpenTelemetry's traces over HTTP ({said} at {_PATH}): check"
                " MLFLOW_TRACKING_URI; the port for HTTP is usually 4318"
            )
        raise Rejected(f"{self.uri} refused spans ({said})")

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": "mltrace", "Accept": otlp.CONTENT_TYPE}
        given = ",".join(os.environ.get(name, "") for name in _HEADERS) if self._with_credentials else ""
        secrets: list[str] = []
        for pair in filter(str.strip, given.split(",")):
            name, _, value = (part.strip() for part in pair.partition("="))
            value = urllib.parse.unquote(value)
            if not (name.isascii() and value.isascii() and (name + value).isprintable()) or not name:
                raise Suspended(f"{' or '.join(_HEADERS)} has a character that no header takes")
            headers[name] = value
            secrets.append(value)
        if self._userinfo is not None:
            headers["Authorization"] = self._basic(*self._userinfo)
            secrets.append(self._userinfo[1])
        self._local.secrets = [secret for secret in secrets if secret]
        return headers

    # What a receiver of spans does not know.

    def create_run(
        self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str]
    ) -> ServerRun:
        """Refuse."""
        self._refuse("runs")

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Refuse."""
        self._refuse("runs")

    def upload(self, run: ServerRun, path: str, content: Union[bytes, str]) -> None:
        """Refuse."""
        self._refuse("artifacts")

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str]) -> None:
        """Refuse."""
        self._refuse("datasets")

    def log_model_metrics(
        self,
        run_id: str,
        model_id: str,
        metrics: Sequence[Metric],
        dataset: Union[tuple[str, Union[str, None]], None],
    ) -> None:
        """Refuse."""
        self._refuse("models")

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """Refuse."""
        self._refuse("runs")

    @property
    def models(self) -> NoReturn:
        """Refuse."""
        self._refuse("models")

    def assess(self, assessment: AssessmentLogged) -> None:
        """Refuse."""
        self._refuse("assessments")

    def _refuse(self, what: str) -> NoReturn:
        raise Unsupported(f"{self.uri} takes spans alone, and no {what}")

    def link_traces(self, run_id: str, traces: Sequence[str]) -> None:
        """Do nothing: the attribute ``mltrace.run_uid`` says it."""

    def has_trace(self, trace: str) -> bool:
        """Say yes: a receiver does not tell."""
        return True

    def find_runs(self, experiment_ids: Sequence[str], uid: str) -> Sequence[ServerRun]:
        """Return nothing: there are no runs."""
        return []

    def open_runs(self, experiment_id: str) -> Sequence[ServerRun]:
        """Return nothing: there are no runs."""
        return []

    def experiments(self) -> Sequence[str]:
        """Return nothing: there are no experiments."""
        return []

    def tags(self, run_id: str) -> Mapping[str, str]:
        """Return nothing: there are no runs."""
        return {}

    def delete_run(self, run_id: str) -> None:
        """Do nothing: there are no runs."""
