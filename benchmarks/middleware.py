"""Part ``middleware``: microseconds that the ASGI middleware adds to a request and to a chunk of a stream, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mltrace

from mltrace.integrations.asgi import TracingMiddleware

from . import endpoints
from .harness import Part, Target, differences, interleave, median, number, spread, table
from .settings import Settings


ROUNDS, REQUESTS, CHUNKS = 15, 1_000, 5_000
QUICK_ROUNDS, QUICK_REQUESTS, QUICK_CHUNKS = 5, 300, 1_000
WARM = 50
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
HEADERS = [(b"host", b"127.0.0.1"), (b"user-agent", b"benchmark"), (b"accept", b"*/*")]


@mltrace.track_run("retrieve")
def retrieve(question: str, limit: int = 4) -> list[str]:
    """Find nothing much."""
    return ["The rays cross at the hole."] * limit


@mltrace.log_llm_call(model="none", run_name="llm_call")
async def answer(prompt: str, temperature: float = 0.0) -> str:
    """Say nothing much."""
    return "So the image is upside down."


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once."""
    await receive()
    await send(START)
    await send({"type": "http.response.body", "body": b"So the image is upside down."})


async def rag(scope: Any, receive: Any, send: Any) -> None:
    """Answer as a RAG service does, without the work: three runs."""
    await receive()
    context = "\n".join(retrieve("Why is the image upside down?"))
    found = await answer(context)
    mltrace.log_prediction(question="Why is the image upside down?", answer=found, context=context)
    await send(START)
    await send({"type": "http.response.body", "body": found.encode()})


async def stream(count: int, scope: Any, receive: Any, send: Any) -> None:
    """Answer in chunks."""
    await receive()
    await send(START)
    for _ in range(count):
        await send({"type": "http.response.body", "body": b"word ", "more_body": True})
    await send({"type": "http.response.body"})


async def receive() -> dict[str, Any]:
    """Say that there is no body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    """Take a message."""


async def request(app: Any) -> float:
    """Send one request; return its microseconds."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/ask",
        "query_string": b"",
        "headers": HEADERS,
        "client": ("127.0.0.1", 5),
    }
    began = time.perf_counter_ns()
    await app(scope, receive, send)
    return (time.perf_counter_ns() - began) / 1000


def block(app: Any, requests: int, use: Callable[[], None], leave: Callable[[], None]) -> float:
    """Return the median microseconds of a request: single ones are put aside by what else the machine does."""

    async def several() -> list[float]:
        for _ in range(min(WARM, requests)):
            await request(app)
        return [await request(app) for _ in range(requests)]

    use()
    gc.collect()
    found = median(asyncio.run(several()))
    leave()
    return found


def run(quick: bool, scratch: Path) -> Part:
    """Measure and return the part."""
    rounds, requests, chunks = (
        (QUICK_ROUNDS, QUICK_REQUESTS, QUICK_CHUNKS) if quick else (ROUNDS, REQUESTS, CHUNKS)
    )
    part = Part("middleware")
    settings = Settings(scratch)
    long = partial(stream, chunks)
    with endpoints.refusing() as url, contextlib.ExitStack() as stack:
        stack.callback(settings.leave)
        off = partial(settings.off_by_environment, tracking_uri=url)
        on = partial(settings.use, tracking_uri=url)
        rows = {
            f"{name}, {how}": partial(
                block, app if how == "bare" else TracingMiddleware(app), count, use, settings.leave
            )
            for (name, app, count), (how, use) in itertools.product(
                (
                    ("request", plain, requests),
                    ("request with three runs", rag, requests),
                    ("stream", long, 5),
                ),
                (("bare", off), ("off", off), ("journal", on)),
            )
        }
        samples = interleave(rows, rounds)
    part.samples = {"us": samples}
    part.say(
        f"An ASGI application called by hand, {rounds} interleaved rounds, medians, in µs; *bare* is without the middleware and with mltrace off. "
        f"Records go to the journal, the server refuses. The stream has {chunks:,} chunks.",
        table(
            ("row", "µs", "added", "min–max"),
            [
                (
                    name,
                    number(median(values)),
                    number(median(added(samples, name))),
                    spread(added(samples, name)),
                )
                for name, values in samples.items()
            ],
        ),
    )
    per_chunk = median(added(samples, "stream, journal")) / chunks
    part.say(f"Per chunk of the stream: {number(per_chunk)} µs.")
    part.targets = [
        Target(
            "request with three runs, added",
            median(added(samples, "request with three runs, journal")),
            200,
            "µs",
        ),
        Target("a chunk of a stream, added", per_chunk, 50, "µs"),
    ]
    return part


def added(samples: dict[str, list[float]], name: str) -> list[float]:
    """Return what a row adds to the bare one, by round."""
    return differences(samples[name], samples[f"{name.rpartition(',')[0]}, bare"])
