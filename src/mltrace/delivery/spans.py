"""
What a span says: the records of one call, as MLflow and OpenTelemetry name things.

Beside MLflow's own attributes (``mlflow/tracing/constant.py``) stand those of OpenTelemetry's
semantic conventions for generative AI and exceptions. What a run would have as params, metrics, tags
and text artifacts are attributes; a metric's earlier points are events. The user's tags of a trace's
top span are MLflow's tags of the trace too: each costs the server a query and a row, so what mltrace
and the process say of themselves is in the span alone.
"""

from __future__ import annotations

import contextlib
import functools

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Union

import msgspec

from .._checks import decode
from .._records import (
    DROPPED_TAG,
    FAILED,
    FINISHED,
    ArtifactLogged,
    Logged,
    Metric,
    Record,
    RunEnded,
    RunRecorded,
    RunStarted,
)
from .._texts import fit


MAX_TEXTS, MAX_TEXT_LENGTH, MAX_POINTS = 32, 16_384, 128
"""Of one span: texts kept as attributes, the characters of each, and metric points kept as events."""

_OUTPUTS = ("mltrace.output", "mltrace.response")
_PROMPT = "mltrace.prompt"
_WHOLE_INPUTS = ("inputs.json", "llm_call.json")
_WHOLE_OUTPUTS = ("outputs.json", "llm_response.json")
_ERROR = "mltrace.error."
_TRACEBACK = "traceback.txt"
_TRACE_TAG = "mlflow.traceTag."
_JSON: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

# What else is called a param, metric or tag, under OpenTelemetry's names, and MLflow's where they differ.
_REQUEST = {
    "model": ("gen_ai.request.model", "mlflow.llm.model"),
    "provider": ("gen_ai.provider.name", "mlflow.llm.provider"),
    "temperature": ("gen_ai.request.temperature",),
    "top_p": ("gen_ai.request.top_p",),
    "max_tokens": ("gen_ai.request.max_tokens",),
}
_USAGE = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "total_tokens": "",
    "cache_read_input_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_creation_input_tokens": "gen_ai.usage.cache_creation.input_tokens",
}
_SESSION = {"mlflow.trace.session": "session.id", "mlflow.trace.user": "user.id"}

Value = Union[str, bool, int, float, list[Any], dict[str, Any]]


class Event(msgspec.Struct, frozen=True):
    """Something that happened during a span, at *time_ns* since the epoch."""

    name: str
    time_ns: int
    attributes: dict[str, Value]


class Span(msgspec.Struct, frozen=True):
    """
    One span. *trace* has 32 hex digits, *id* and *parent* have 16; times are nanoseconds since the epoch.
    *is_call*: it is a request to another system. *resource* says whose it is, and is shared by the spans
    of a process.
    """

    trace: str
    id: str
    parent: Union[str, None]
    name: str
    start_ns: int
    end_ns: int
    ok: bool
    message: str
    is_call: bool
    attributes: dict[str, Value]
    events: list[Event]
    resource: dict[str, str]


class _Content:
    """What the records of one call add up to: the first value of a param, the last of a tag and a metric."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.inputs: dict[str, str] = {}
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.metrics: dict[str, Metric] = {}
        self.points: list[Metric] = []
        self.texts: dict[str, str] = {}
        self.dropped = 0
        self.end: RunEnded | None = None
        for record in records:
            self._add(record)

    def _add(self, record: Record) -> None:
        if isinstance(record, RunRecorded):
            self._add(record.start)
            self._add(record.end)
        elif isinstance(record, RunStarted):
            self.inputs.update(record.params)
            self.tags.update(record.tags)
        elif isinstance(record, ArtifactLogged):
            self._keep(record)
        elif isinstance(record, (Logged, RunEnded)):
            self.tags.update(record.tags)
            for metric in record.metrics:
                if metric.key in self.metrics:
                    self.points.append(self.metrics[metric.key])
                self.metrics[metric.key] = metric
            if isinstance(record, RunEnded):
                self.end = record
            else:
                self.params = {**record.params, **self.params}

    def _keep(self, record: ArtifactLogged) -> None:
        if record.text is None or (len(self.texts) >= MAX_TEXTS and record.path not in self.texts):
            self.dropped += 1
        else:
            self.texts[record.path] = record.text

    def whole(self, paths: Sequence[str]) -> Any:
        """Return what the first of the texts *paths* that is there says, as JSON; None where none does."""
        for text in [self.texts.pop(path) for path in paths if path in self.texts]:
            with contextlib.suppress(msgspec.DecodeError):  # one that was cut is none
                return decode(text.encode(), _JSON)
        return None


def span_of(start: RunStarted, records: Iterable[Record], context: Mapping[str, str]) -> Span:
    """
    Return the span that began with *start* and that *records*, its end among them, tell of. *context*
    is what its process says of itself.
    """
    assert start.trace is not None
    content = _Content(records)
    end = content.end or RunEnded(run=start.run, time=start.time, status=FAILED)
    start_ns = start.started_ns if start.started_ns is not None else start.time * 1_000_000
    events = list(_events(content, end))
    inputs, outputs = _inputs(content), _outputs(content)
    kind = _span_type(start, inputs)
    attributes: dict[str, Value] = {
        "mltrace.uid": start.run,
        "mltrace.kind": start.kind,
        "mlflow.spanType": kind,
        **({"mlflow.spanInputs": inputs} if inputs else {}),
        **({"mlflow.spanOutputs": outputs} if outputs is not None else {}),
        **(_llm_attributes(content, kind) if start.kind == "llm_call" else {}),
        **_fields(content),
    }
    if start.linked is not None:
        attributes["mltrace.run_uid"] = start.linked
    if end.status != FINISHED:
        attributes["mltrace.status"] = end.status
    if start.parent is None:
        attributes |= context
        attributes |= {
            f"{_TRACE_TAG}{key}": value
            for key, value in content.tags.items()
            if not key.startswith("mltrace.") or key == DROPPED_TAG
        }
        attributes[f"{_TRACE_TAG}mlflow.traceName"] = start.name
    return Span(
        trace=start.trace,
        id=start.run[:16],
        parent=start.parent[:16] if start.parent is not None else None,
        name=start.name,
        start_ns=start_ns,
        end_ns=max(_end_ns(start_ns, content, end), start_ns),
        ok=end.status == FINISHED,
        message=content.tags.get(f"{_ERROR}message", "" if end.status == FINISHED else end.status),
        is_call=start.kind == "llm_call",
        attributes=attributes,
        events=events,
        resource=_resource(tuple(context.items())),
    )


_SPOKEN = (*_OUTPUTS, _PROMPT)


def _end_ns(start_ns: int, content: _Content, end: RunEnded) -> int:
    """Return the end, to the nanosecond where the latency is known."""
    latency = content.metrics.get("latency_ms")
    if latency is not None and isinstance(latency.value, float):
        return start_ns + round(latency.value * 1e6)
    return end.time * 1_000_000


def _inputs(content: _Content) -> dict[str, Value]:
    """Return the arguments, whole where they did not fit a field; a prompt of messages as messages."""
    whole = content.whole(_WHOLE_INPUTS)
    texts = {**content.inputs, **(whole if isinstance(whole, dict) else {})}
    prompt = texts.pop(_PROMPT, content.tags.get(_PROMPT))
    found: dict[str, Value] = {}
    if prompt is not None:
        said = _parsed(prompt)
        found["messages" if _are_messages(said) else "prompt"] = said
    return found | {key: _parsed(text) for key, text in texts.items()}


def _outputs(content: _Content) -> Any:
    whole = content.whole(_WHOLE_OUTPUTS)
    if whole is not None:
        return whole
    text = next((content.tags[key] for key in _OUTPUTS if key in content.tags), None)
    return None if text is None else _parsed(text)


def _are_messages(said: Any) -> bool:
    return isinstance(said, list) and bool(said) and all(isinstance(m, dict) and "role" in m for m in said)


def _parsed(text: Any) -> Any:
    """Return the structure that a rendered *text* stands for; a text that stands for none as it is."""
    if isinstance(text, str) and text[:1] in ("{", "["):
        try:
            return decode(text.encode(), _JSON)
        except msgspec.DecodeError:  # a preview, or no JSON at all
            return text
    return text


def _span_type(start: RunStarted, inputs: Mapping[str, Value]) -> str:
    if start.span_type is not None:
        return start.span_type
    if start.kind == "llm_call":
        return "CHAT_MODEL" if "messages" in inputs else "LLM"
    return "CHAIN"


def _llm_attributes(content: _Content, span_type: str) -> dict[str, Value]:
    """Return what is known of the request and its price, under everybody's names."""
    found: dict[str, Value] = {
        "gen_ai.operation.name": "chat" if span_type == "CHAT_MODEL" else "text_completion"
    }
    said = {**content.params, **content.inputs}
    for key, names in _REQUEST.items():
        if key in said:
            value = _number(said[key]) if key not in ("model", "provider") else said[key]
            found |= dict.fromkeys(names, value)
    counts = {key: content.metrics[key].value for key in _USAGE if key in content.metrics}
    usage = {key: int(count) for key, count in counts.items() if isinstance(count, float)}
    if usage:
        found["mlflow.chat.tokenUsage"] = dict(usage)
        found |= {name: usage[key] for key, name in _USAGE.items() if name and key in usage}
    if (cost := content.metrics.get("cost_usd")) is not None:
        found["mlflow.llm.cost"] = {"total_cost": cost.value}
    if (reason := content.tags.get("mltrace.finish_reason")) is not None:
        found["gen_ai.response.finish_reasons"] = [reason]
    return found


def _number(text: str) -> Value:
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return text


def _fields(content: _Content) -> dict[str, Value]:
    """Return what else was logged."""
    found: dict[str, Value] = {f"params.{key}": text for key, text in content.params.items()}
    found |= {f"metrics.{key}": metric.value for key, metric in content.metrics.items()}
    for key, value in content.tags.items():
        if key in _SESSION:
            found[_SESSION[key]] = value
        elif not key.startswith(("mlflow.", _ERROR, *_SPOKEN)):
            found[key] = value
    if (function := content.tags.get("mltrace.function")) is not None:
        found["mlflow.spanFunctionName"] = function
    for path, text in content.texts.items():
        if path != _TRACEBACK:
            found[f"artifacts.{path}"] = fit(text, MAX_TEXT_LENGTH, None)
    if content.dropped:
        found[DROPPED_TAG] = str(content.dropped + int(content.tags.get(DROPPED_TAG, "0")))
    return found


def _events(content: _Content, end: RunEnded) -> Iterator[Event]:
    """Yield the earlier points of metrics that have several, and the exception that ended the span."""
    for point in content.points[-MAX_POINTS:]:
        attributes: dict[str, Value] = {"key": point.key, "value": point.value, "step": point.step}
        yield Event("metric", point.timestamp * 1_000_000, attributes)
    if (kind := content.tags.get(f"{_ERROR}type")) is not None:
        about = {
            "exception.type": kind,
            "exception.message": content.tags.get(f"{_ERROR}message", ""),
            "exception.stacktrace": content.texts.get(_TRACEBACK, ""),
        }
        yield Event("exception", end.time * 1_000_000, {key: text for key, text in about.items() if text})


@functools.lru_cache(maxsize=32)  # there is one for each process that recorded, and its spans share it
def _resource(context: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return what OpenTelemetry calls the resource: the service, and what its environment says of it."""
    found = {key: value for key, value in context if not key.startswith(("mlflow.", "mltrace."))}
    program = dict(context).get("mlflow.source.name", "").rpartition("/")[2]
    return {"service.name": program or "mltrace", **found}
