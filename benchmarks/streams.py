"""Part ``streams``: what following a provider's stream costs its reader, chunk by chunk, first chunk apart."""

from __future__ import annotations

import gc
import time

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mltrace

from .harness import Part, Target, differences, interleave, median, number, quantile, spread, table
from .settings import Settings


CHUNKS = 100
FIRST_LIMIT_US = 50


class Size(NamedTuple):
    """How much is measured."""

    rounds: int = 15
    streams: int = 60


FULL, QUICK = Size(), Size(rounds=5, streams=20)


class Form(NamedTuple):
    """One kind of chunks: the first of a stream, and those after it."""

    name: str
    chunks: list[Any]


def forms() -> list[Form]:
    """Return chunks as JSON, and as OpenAI's own objects where the package is installed."""
    found = [Form("JSON", [_chunk(f"w{place} ") for place in range(CHUNKS)] + [_usage()])]
    try:
        from openai.types.chat import ChatCompletionChunk
    except ImportError:
        return found
    return [*found, Form("openai", [ChatCompletionChunk.model_validate(chunk) for chunk in found[0].chunks])]


def _chunk(text: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def _usage() -> dict[str, Any]:
    usage = {"prompt_tokens": 20, "completion_tokens": CHUNKS, "total_tokens": 20 + CHUNKS}
    return {**_chunk(""), "choices": [], "usage": usage}


class Stream:
    """A stream of ready chunks, as light as Python makes one: all that is measured beside it is ours."""

    def __init__(self, chunks: list[Any]) -> None:
        self._left = iter(chunks)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._left)

    def close(self) -> None:
        """Have nothing to close."""


def run(quick: bool, scratch: Path) -> Part:
    """Measure and return the part."""
    size = QUICK if quick else FULL
    part = Part("streams")
    settings = Settings(scratch)
    firsts: dict[str, list[float]] = {}
    rows: dict[str, Callable[[], float]] = {}
    for form in forms():
        ask = partial(Stream, form.chunks)
        followed = mltrace.log_llm_call(model="m")(ask)
        for name, function in ((form.name, ask), (f"{form.name}, followed", followed)):
            rows[name] = partial(_chunk_us, function, size.streams, firsts.setdefault(name, []))
    settings.use(backend="mlflow", tracking_uri="http://127.0.0.1:9")
    try:
        samples = interleave(rows, size.rounds)
    finally:
        settings.leave()
    part.samples = {"us_per_chunk": samples, "first_us": firsts}
    _report(part, samples, firsts)
    return part


def _chunk_us(ask: Callable[[], Any], streams: int, firsts: list[float]) -> float:
    """Read so many streams; keep the microseconds to each first chunk, and return those of a later one."""
    clock = time.perf_counter_ns
    later = 0
    gc.collect()
    for _ in range(streams):
        stream = ask()
        began = clock()
        next(stream)
        first = clock()
        for _ in stream:
            pass
        later += clock() - first
        firsts.append((first - began) / 1000)
    return later / streams / CHUNKS / 1000


def _report(part: Part, samples: dict[str, list[float]], firsts: dict[str, list[float]]) -> None:
    """Say what a chunk costs, and judge the target."""
    lines = []
    for name, values in samples.items():
        first = firsts[name]
        lines.append(
            (
                name,
                number(median(values)),
                spread(values),
                number(median(first)),
                number(quantile(first, 0.99)),
            )
        )
        if name.endswith("followed"):
            plain = name.removesuffix(", followed")
            added = median(first) - median(firsts[plain])
            part.targets.append(Target(f"first chunk, {plain}: added", added, FIRST_LIMIT_US, "µs"))
            part.say(f"{plain}: {number(median(differences(values, samples[plain])))} µs added a chunk.")
    part.say(
        f"Streams of {CHUNKS} chunks of text and one of usage, read as fast as they come; the server is down, and every stream is a run in "
        "the journal. The end of the run is in the chunks after the first.",
        table(("row", "µs a chunk", "min–max", "first chunk µs", "its p99"), lines),
    )
