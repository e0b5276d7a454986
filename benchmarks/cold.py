"""Part ``cold``: CPU time of the four runs of a RAG request, one behind the other, and with cold caches as at a few requests a second."""

from __future__ import annotations

import contextlib
import os
import time
import zlib

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

import mltrace

from . import endpoints
from .harness import Part, Target, interleave, median, number, spread, table
from .settings import Settings


ROUNDS, HOT, COLD = 5, 300, 60
QUICK_ROUNDS, QUICK_HOT, QUICK_COLD = 2, 100, 20
IDLE_SECONDS = 0.05
CACHE_BYTES = 32 << 20  # more than the processor keeps
TARGET_US = 200  # what a request of the service may take longer

QUESTION = "Why is the image in a pinhole camera upside down?"
ANSWER = "Because the rays of light cross at the hole. " * 5
_encode = msgspec.json.Encoder().encode


class Passage(msgspec.Struct):
    """What a retriever finds."""

    document: str
    text: str
    score: float


PASSAGES = [
    Passage(f"{n}.md", f"Light passes through a small hole, {n}. " * 10, 1.0 / (n + 1)) for n in range(4)
]
CONTEXT = "\n\n".join(passage.text for passage in PASSAGES)
MESSAGES = [
    {"role": "system", "content": "Answer the question from the context alone."},
    {"role": "user", "content": f"{CONTEXT}\n\nQuestion: {QUESTION}"},
]
REPLY = {
    "model": "none",
    "choices": [{"message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
}


@mltrace.track_run("retrieve")
def retrieve(question: str, limit: int = 4) -> list[Passage]:
    """Find the passages."""
    return PASSAGES


@mltrace.log_llm_call(run_name="llm_call")
def complete(messages: list[dict[str, str]], model: str = "none") -> dict[str, object]:
    """Answer."""
    return REPLY


def request() -> None:
    """Do what `/ask` does, without the work: four runs, where mltrace is on."""
    with mltrace.track_run("POST /ask"):
        retrieve(QUESTION)
        complete(MESSAGES)
        mltrace.log_prediction(question=QUESTION, answer=ANSWER, context=CONTEXT)


def by_hand(file: int) -> None:
    """Encode what the four runs say, and append a line for each: nothing is bound, bounded, hidden or nested."""
    for name, given, output in (
        ("retrieve", {"question": QUESTION, "limit": 4}, PASSAGES),
        ("llm_call", {"messages": MESSAGES, "model": "none"}, REPLY),
        ("prediction", {"question": QUESTION, "context": CONTEXT}, ANSWER),
        ("POST /ask", {}, None),
    ):
        params = {
            key: value if type(value) is str else _encode(value).decode() for key, value in given.items()
        }
        said = {
            "run": os.urandom(16).hex(),
            "time": time.time(),
            "name": name,
            "params": params,
            "output": output,
        }
        line = _encode(said)
        os.write(file, b"%08x %b\n" % (zlib.crc32(line), line))


@contextlib.contextmanager
def cache_spoiler() -> Iterator[Callable[[], None]]:
    """Yield what takes the caches as other programs do meanwhile."""
    content = bytearray(os.urandom(1 << 20)) * (CACHE_BYTES >> 20)

    def spoil() -> None:
        time.sleep(IDLE_SECONDS)
        sum(content[::64])

    yield spoil


def block(
    do: Callable[[], None],
    spoil: Callable[[], None] | None,
    count: int,
    use: Callable[[], None],
    leave: Callable[[], None],
) -> float:
    """Return the median microseconds of CPU time that *do* takes the calling thread."""
    use()
    for _ in range(20):
        do()
    taken = []
    for _ in range(count):
        if spoil is not None:
            spoil()
        began = time.thread_time_ns()
        do()
        taken.append((time.thread_time_ns() - began) / 1000)
    leave()
    return median(taken)


def run(quick: bool, scratch: Path) -> Part:
    """Measure and return the part."""
    rounds, hot, cold = (QUICK_ROUNDS, QUICK_HOT, QUICK_COLD) if quick else (ROUNDS, HOT, COLD)
    settings = Settings(scratch)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(endpoints.refusing())
        spoil = stack.enter_context(cache_spoiler())
        stack.callback(settings.leave)
        file = os.open(scratch / "lines", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        stack.callback(os.close, file)
        ways = {
            "by hand": (partial(by_hand, file), lambda: None),
            "off": (request, partial(settings.off_by_environment, tracking_uri=url)),
            "noop backend": (request, partial(settings.use, tracking_uri=url, backend="noop")),
            "journal": (request, partial(settings.use, tracking_uri=url)),
        }
        rows = {
            f"{name}, {how}": partial(block, do, spoiler, count, use, settings.leave)
            for name, (do, use) in ways.items()
            for how, spoiler, count in (("hot", None, hot), ("cold", spoil, cold))
        }
        samples = interleave(rows, rounds, warm_rounds=1)
    part = Part("cold")
    part.samples = {"us": samples}
    part.say(
        f"CPU µs of the calling thread for a request with four passages, prompt, answer and four runs; {rounds} interleaved rounds, medians. *Cold*: after {IDLE_SECONDS * 1000:g} ms"
        f" without work and a walk over {CACHE_BYTES >> 20} MiB. *By hand*: the same content encoded and appended as four lines, without names, bounds, secrets hidden, or nesting. The server refuses.",
        table(
            ("row", "µs", "min–max"),
            [(name, number(median(values)), spread(values)) for name, values in samples.items()],
        ),
    )
    part.targets = [Target("four runs, cold", median(samples["journal, cold"]), TARGET_US, "µs")]
    return part
