"""
Reading runs over HTTP; which answer means what: `mltrace.delivery.rest`.
"""

from __future__ import annotations

import urllib.parse

from collections.abc import Iterator
from typing import Any, Union

import msgspec

from .destination import Missing
from .reading import PAGE, FoundRun
from .rest import API, RestDestination


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
