"""The rows mltrace is compared with: nothing, a pass-through, a hand-written floor, and a span.

Each function decorates; none of them imports mltrace.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import time
import zlib

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from random import getrandbits
from typing import Any

import msgspec
import wrapt


Function = Callable[..., Any]


def work(x: int, y: str) -> int:
    """The decorated function: trivial, so that what is measured is the decorator."""
    return x + 1


async def work_async(x: int, y: str) -> int:
    """The same as a coroutine; it never suspends."""
    return x + 1


def pass_through(function: Function) -> Function:
    """Wrap with wrapt and do nothing: the reference for "off"."""

    def call(wrapped: Function, instance: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    wrapper: Function = wrapt.FunctionWrapper(function, call)
    return wrapper


def floor(function: Function, descriptor: int) -> Function:
    """Capture, encode and append one line, by hand: the least a crash-safe record of a call can cost here.

    Names are paired with positional arguments without `Signature.bind`; one record per call holds identity, parent,
    clocks, arguments and output; the line goes to an ``O_APPEND`` descriptor in one write before the call returns.
    No defaults, no redaction, no bounds, no error handling: everything a library has to add comes on top.
    """
    names = tuple(inspect.signature(function).parameters)
    encode = msgspec.json.Encoder().encode
    current: ContextVar[str | None] = ContextVar("floor", default=None)
    name = function.__qualname__

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        arguments = dict(zip(names, args))  # noqa: B905 - the check would cost what is to be measured
        if kwargs:
            arguments.update(kwargs)
        run_id = f"{getrandbits(128):032x}"
        parent = current.get()
        token = current.set(run_id)
        wall, began = time.time_ns(), time.perf_counter_ns()
        try:
            output = function(*args, **kwargs)
        finally:
            current.reset(token)
        line = encode(
            {
                "id": run_id,
                "parent": parent,
                "name": name,
                "start": wall,
                "duration": time.perf_counter_ns() - began,
                "params": arguments,
                "output": output,
            }
        )
        os.write(descriptor, b"%08x %b\n" % (zlib.crc32(line), line))
        return output

    return wrapper


class Spans:
    """OpenTelemetry as its documentation sets it up: BatchSpanProcessor, here with an exporter that counts.

    Raises ImportError when ``opentelemetry-sdk`` is not installed. The provider stays private: nothing global is set.
    """

    def __init__(self) -> None:
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

        spans = self

        class Counting(SpanExporter):
            def export(self, batch: Sequence[ReadableSpan]) -> SpanExportResult:
                spans.exported += len(batch)
                return SpanExportResult.SUCCESS

        self.exported = 0
        self.provider = TracerProvider()
        self.provider.add_span_processor(BatchSpanProcessor(Counting()))
        self.tracer = self.provider.get_tracer("benchmarks")

    def decorate(self, function: Function) -> Function:
        """Open a span around each call, with arguments and output as JSON attributes."""
        names = tuple(inspect.signature(function).parameters)
        start = self.tracer.start_as_current_span
        name = function.__qualname__

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with start(name) as span:
                arguments = {**dict(zip(names, args)), **kwargs}  # noqa: B905 - as in the floor
                span.set_attribute("input", json.dumps(arguments))
                output = function(*args, **kwargs)
                span.set_attribute("output", json.dumps(output))
                return output

        return wrapper

    def settle(self) -> None:
        """Export what is queued, so that no thread works in somebody else's block."""
        self.provider.force_flush()

    def close(self) -> None:
        """Stop the exporting thread."""
        self.provider.shutdown()
