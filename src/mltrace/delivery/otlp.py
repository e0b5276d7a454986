"""
Spans as OpenTelemetry's protocol has them: an ``ExportTraceServiceRequest`` in protobuf, and what the
answer to one says. Needs ``mltrace-mlflow[otlp]``; MLflow's client brings the same package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from .._checks import is_span_id, is_trace_id
from .._version import __version__
from .destination import Rejected, Uncertain, first_words
from .spans import Span
from .turns import in_turns


if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer


CONTENT_TYPE = "application/x-protobuf"
MAX_BYTES = 1_000_000
"""Of one request; its frame comes on top."""

_LEAST, _MOST = -(1 << 63), 1 << 63
_TIMES = 1 << 64


def message(span: Span, *, flat: bool = False) -> trace_pb2.Span:
    """
    Return *span* as protobuf; raise `Rejected` for one that protobuf does not hold. *flat*: structures
    are JSON texts, as not every back end of a collector takes others.
    """
    if not (is_trace_id(span.trace) and is_span_id(span.id) and 0 <= span.start_ns <= span.end_ns < _TIMES):
        raise Rejected(
            f"{span.trace}/{span.id} from {span.start_ns} to {span.end_ns} is no span of OpenTelemetry's"
        )
    status = trace_pb2.Status
    kinds = trace_pb2.Span.SpanKind
    found = trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace),
        span_id=bytes.fromhex(span.id),
        parent_span_id=bytes.fromhex(span.parent) if span.parent else b"",
        name=span.name,
        kind=kinds.SPAN_KIND_CLIENT if span.is_call else kinds.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        status=status(
            code=status.STATUS_CODE_OK if span.ok else status.STATUS_CODE_ERROR,
            message="" if span.ok else span.message,
        ),
    )
    _add_attributes(found.attributes, span.attributes, flat)
    for event in span.events:
        added = found.events.add(name=event.name, time_unix_nano=event.time_ns)
        _add_attributes(added.attributes, event.attributes, flat)
    return found


def requests(spans: Sequence[Span], *, flat: bool = False) -> Iterator[bytes]:
    """Yield requests of about `MAX_BYTES` that export *spans* between them; a larger span has one for itself."""
    batch: list[tuple[Span, trace_pb2.Span]] = []
    size = 0
    for span in in_turns(spans):
        found = message(span, flat=flat)
        weight = found.ByteSize()
        if batch and size + weight > MAX_BYTES:
            yield request(batch)
            batch, size = [], 0
        batch.append((span, found))
        size += weight
    if batch:
        yield request(batch)


def request(spans: Sequence[tuple[Span, trace_pb2.Span]]) -> bytes:
    """Return the request that exports *spans*, each with its message."""
    found = ExportTraceServiceRequest()
    for _, group in groupby(spans, key=lambda pair: pair[0].resource):
        members = list(group)
        of_one = found.resource_spans.add()
        _add_attributes(of_one.resource.attributes, members[0][0].resource, flat=True)
        scope = of_one.scope_spans.add()
        scope.scope.name, scope.scope.version = "mltrace", __version__
        scope.spans.extend(message for _, message in members)
    return bytes(found.SerializeToString())


def check_answer(reply: bytes) -> None:
    """
    Raise `Rejected` where the answer says that spans were refused, and `Uncertain` where it is none of
    this protocol's.
    """
    try:
        answer = ExportTraceServiceResponse.FromString(reply)
    except DecodeError:
        raise Uncertain("the answer is not one of OpenTelemetry's protocol") from None
    if (count := answer.partial_success.rejected_spans) > 0:
        raise Rejected(f"{count} spans were refused: {first_words(answer.partial_success.error_message)}")


def _add_attributes(
    found: RepeatedCompositeFieldContainer[KeyValue], values: Mapping[str, Any], flat: bool
) -> None:
    for key, value in values.items():
        added = found.add()
        added.key = key
        if type(value) is str:  # most are
            added.value.string_value = value
        else:
            _set(added.value, value, flat)


def _set(found: AnyValue, value: Any, flat: bool) -> None:
    if isinstance(value, bool):
        found.bool_value = value
    elif isinstance(value, int) and _LEAST <= value < _MOST:
        found.int_value = value
    elif isinstance(value, float) and value - value == 0.0:
        found.double_value = value
    elif isinstance(value, dict) and not flat:
        found.kvlist_value.SetInParent()
        _add_attributes(found.kvlist_value.values, value, flat)
    elif isinstance(value, list) and not (flat and any(isinstance(item, (dict, list)) for item in value)):
        found.array_value.SetInParent()
        for item in value:
            _set(found.array_value.values.add(), item, flat)
    elif isinstance(value, (dict, list)):
        found.string_value = msgspec.json.encode(value).decode()
    elif value is None:
        found.SetInParent()
    else:
        found.string_value = value if isinstance(value, str) else str(value)
