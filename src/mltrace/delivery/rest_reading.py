"""
Reading runs over HTTP; which answer means what: `mltrace.delivery.rest`.
"""

from __future__ import annotations

import urllib.parse

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, Union

import msgspec

from .destination import Missing
from .reading import PAGE, FoundRun, FoundTrace, Said
from .rest import API, API_3, RestDestination


class _Pair(msgspec.Struct, frozen=True):
    key: str
    value: str = ""


class _Point(msgspec.Struct, frozen=True):
    key: str
    value: Union[float, str] = 0.0


class _Info(msgspec.Struct, frozen=True):
    run_id: str
    run_name: str = ""
    status: str = ""
    start_time: int = 0
    end_time: Union[int, None] = None
    artifact_uri: str = ""


class _Data(msgspec.Struct, frozen=True):
    metrics: list[_Point] = []
    params: list[_Pair] = []
    tags: list[_Pair] = []


class _Run(msgspec.Struct, frozen=True):
    info: _Info
    data: _Data = msgspec.field(default_factory=_Data)


class _Page(msgspec.Struct, frozen=True):
    runs: list[_Run] = []
    next_page_token: str = ""


class _Experiment(msgspec.Struct, frozen=True):
    experiment_id: str
    lifecycle_stage: str = "active"


class _ExperimentAnswer(msgspec.Struct, frozen=True):
    experiment: _Experiment


class _Value(msgspec.Struct, frozen=True):
    value: Any = None


class _Source(msgspec.Struct, frozen=True):
    source_id: str = ""


class _Assessment(msgspec.Struct, frozen=True):
    assessment_id: str
    assessment_name: str
    create_time: datetime
    source: _Source = _Source()
    feedback: Union[_Value, None] = None
    rationale: str = ""
    metadata: dict[str, str] = {}
    valid: bool = True


class _TraceInfo(msgspec.Struct, frozen=True):
    trace_id: str
    request_time: datetime
    request_preview: str = ""
    response_preview: str = ""
    tags: dict[str, str] = {}
    assessments: list[_Assessment] = []


class _TracePage(msgspec.Struct, frozen=True):
    traces: list[_TraceInfo] = []
    next_page_token: str = ""


class _Attribute(msgspec.Struct, frozen=True):
    key: str
    value: dict[str, Any] = {}


class _Span(msgspec.Struct, frozen=True):
    parent_span_id: Union[str, None] = None
    attributes: list[_Attribute] = []


class _Trace(msgspec.Struct, frozen=True):
    spans: list[_Span] = []


class _TraceAnswer(msgspec.Struct, frozen=True):
    trace: _Trace


class RestReader(RestDestination):
    """The server at *uri*, read."""

    def experiment_id(self, name: str) -> str | None:
        """GET experiments/get-by-name."""
        query = urllib.parse.urlencode({"experiment_name": name})
        try:
            found = self._call("GET", f"{API}experiments/get-by-name?{query}", None, _ExperimentAnswer)
        except Missing:
            return None
        experiment: _Experiment = found.experiment
        return experiment.experiment_id if experiment.lifecycle_stage == "active" else None

    def read_runs(self, experiment_id: str, condition: str, most: int | None = None) -> Iterator[FoundRun]:
        """POST runs/search, page by page."""
        body: dict[str, Any] = {
            "experiment_ids": [experiment_id],
            "filter": condition,
            "run_view_type": "ACTIVE_ONLY",
            "order_by": ["attributes.start_time DESC"],
        }
        left = most
        while left is None or left > 0:
            body["max_results"] = PAGE if left is None else min(left, PAGE)
            page: _Page = self._call("POST", f"{API}runs/search", body, _Page)
            yield from map(_found, page.runs[:left])
            left = None if left is None else left - len(page.runs)
            if not page.next_page_token:
                return
            body["page_token"] = page.next_page_token

    def read_traces(self, experiment_id: str, condition: str) -> Iterator[FoundTrace]:
        """POST traces/search, page by page."""
        body: dict[str, Any] = {
            "locations": [
                {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}
            ],
            "filter": condition,
            "max_results": PAGE,
        }
        while True:
            page: _TracePage = self._call("POST", f"{API_3}traces/search", body, _TracePage)
            yield from map(_found_trace, page.traces)
            if not page.next_page_token:
                return
            body["page_token"] = page.next_page_token

    def read_whole(self, trace_id: str) -> tuple[Any, Any]:
        """GET traces/get."""
        query = urllib.parse.urlencode({"trace_id": trace_id})
        found: _TraceAnswer = self._call("GET", f"{API_3}traces/get?{query}", None, _TraceAnswer)
        top = next((span for span in found.trace.spans if not span.parent_span_id), _Span())
        has = {attribute.key: _plain(attribute.value) for attribute in top.attributes}
        return has.get("mlflow.spanInputs"), has.get("mlflow.spanOutputs")

    def read_artifact(self, run: FoundRun, path: str) -> bytes:
        """GET the server's own address for artifacts, which reaches whatever store they are in."""
        query = urllib.parse.urlencode({"run_uuid": run.run_id, "path": path})
        status, headers, reply = self._exchange("GET", f"/get-artifact?{query}", None, "")
        if status != 200:
            raise self._refusal(status, headers, reply)
        return reply


def _found(run: _Run) -> FoundRun:
    info, data = run.info, run.data
    return FoundRun(
        info.run_id, info.run_name, info.status, info.start_time, info.artifact_uri, info.end_time,
        {param.key: param.value for param in data.params},
        {metric.key: float(metric.value) for metric in data.metrics},
        {tag.key: tag.value for tag in data.tags},
    )  # fmt: skip


def _found_trace(info: _TraceInfo) -> FoundTrace:
    said = [
        Said(
            one.assessment_id, one.assessment_name, _milliseconds(one.create_time), one.feedback.value,
            one.rationale, one.source.source_id, one.metadata,
        )
        for one in info.assessments
        if one.feedback is not None and one.valid
    ]  # fmt: skip
    return FoundTrace(
        info.trace_id, _milliseconds(info.request_time), info.request_preview, info.response_preview, info.tags, said
    )  # fmt: skip


def _milliseconds(moment: datetime) -> int:
    return round(moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp() * 1000)


def _plain(value: dict[str, Any]) -> Any:
    """Return what one of OpenTelemetry's values, a mapping of its type to it, says."""
    kind: str
    content: Any
    kind, content = next(iter(value.items()), ("", {}))
    if kind == "array_value":
        return [_plain(item) for item in content.get("values", ())]
    if kind == "kvlist_value":
        return {item["key"]: _plain(item.get("value", {})) for item in content.get("values", ())}
    return int(content) if kind == "int_value" else content
