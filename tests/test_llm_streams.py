"""A stream that an LLM function returns stays what it is to the caller, and its run ends once, with what was said."""

from __future__ import annotations

import asyncio
import gc
import inspect
import io
import json
import threading

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

import mltrace

from mltrace import _watched
from mltrace._prices import forget_prices
from mltrace.backends.memory import MemoryBackend, RecordedRun
from mltrace.exceptions import LoggingError
from mltrace.testing._steps import STEPS, STEPS_LATER, echo, echo_later, played, played_later
from tests.providers.replies import ALL, ARGUMENTS, TEXT
from tests.server import MlflowServer


SECRET = "correct-horse-battery"


def only(memory: MemoryBackend) -> RecordedRun:
    [run] = memory.roots
    return run


def delta(text: str = "", **more: Any) -> dict[str, Any]:
    """Return a chunk of a chat completion, as JSON."""
    return {"model": "m", "choices": [{"index": 0, "delta": {"content": text}, **more}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def returned(chunks: Any, **options: Any) -> Any:
    """Return what a decorated function gives that returns *chunks*, an iterator."""
    return mltrace.log_llm_call(**options)(lambda prompt: chunks)("How?")


# What the caller gets.


@given(st.integers(0, 4), st.lists(st.sampled_from(list(STEPS)), max_size=6))
@settings(deadline=None, max_examples=100)
def test_a_returned_generator_does_what_it_did(limit: int, steps: list[str]) -> None:
    """Whatever is sent, thrown or closed comes back the same from a generator that a function returns."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, strict=True)
    stream = returned(echo(limit))
    assert inspect.isgenerator(stream)
    assert played(echo(limit), steps) == played(stream, steps)
    del stream
    gc.collect()
    assert only(memory).status is not None


@given(st.integers(0, 4), st.lists(st.sampled_from(list(STEPS_LATER)), max_size=6), st.booleans())
@settings(deadline=None, max_examples=50)
def test_a_returned_async_generator_does_what_it_did(limit: int, steps: list[str], task_each: bool) -> None:
    """The same holds of an asynchronous one."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, strict=True)
    stream = returned(echo_later(limit))
    assert inspect.isasyncgen(stream)
    expected = asyncio.run(played_later(echo_later(limit), steps, task_each=task_each))
    assert expected == asyncio.run(played_later(stream, steps, task_each=task_each))
    del stream
    gc.collect()
    assert only(memory).status is not None


@pytest.mark.parametrize("make", [list, dict, object, io.StringIO, lambda: range(3), lambda: "text"])
def test_what_is_no_iterator_comes_back_itself(memory: MemoryBackend, make: Callable[[], Any]) -> None:
    """Containers, files and responses are the same objects, as from any decorated function."""
    made = make()
    assert returned(made) is made


@pytest.mark.parametrize("decorate", [mltrace.track_run, mltrace.log_prediction, mltrace.log_training_run])
def test_other_decorators_return_streams_themselves(memory: MemoryBackend, decorate: Any) -> None:
    """Only what is declared an LLM call has its streams followed."""
    made = iter(["a"])
    assert decorate(lambda: made)() is made


def test_an_iterator_stays_of_its_kind(memory: MemoryBackend) -> None:
    """A synchronous stream does not look asynchronous, nor the other way round: frameworks ask."""

    async def later() -> AsyncIterator[str]:
        yield "a"

    sync, other = returned(iter(["a"])), returned(later())
    assert (True, False) == (isinstance(sync, Iterator), isinstance(sync, AsyncIterator))
    assert isinstance(other, AsyncIterator)
    assert not hasattr(type(other), "__next__")
    assert not hasattr(sync, "close")


def test_chunks_are_the_same_objects(memory: MemoryBackend) -> None:
    """Each chunk is handed on as it is, and attributes of the stream are its own."""

    class Own:
        def __init__(self) -> None:
            self.chunks = [delta("a"), delta("b")]
            self.left = iter(self.chunks)
            self.response = object()

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> Any:
            return next(self.left)

    made = Own()
    stream = returned(made)
    assert isinstance(stream, Own)
    assert stream.response is made.response
    stream.mark = 1
    assert 1 == made.mark  # type: ignore[attr-defined]
    assert all(map(lambda a, b: a is b, stream, made.chunks))


# What is recorded.


@pytest.mark.parametrize("reply", ALL, ids=[reply.path for reply in ALL])
def test_chunks_as_json_are_assembled(memory: MemoryBackend, reply: Any) -> None:
    """The JSON of each provider's stream, without any package, says what the whole response says."""
    lines = [line for piece in reply.pieces for line in piece.decode().splitlines()]
    found = [line.removeprefix("data: ") for line in lines]
    list(returned(iter([json.loads(line) for line in found if line.startswith("{")])))
    run = only(memory)
    assert TEXT == run.tags["mltrace.response"]
    assert ["weather", ARGUMENTS] == [
        json.loads(run.tags["mltrace.tool_calls"])[0][f] for f in ("name", "arguments")
    ]
    assert {"input_tokens": 20.0, "output_tokens": 12.0, "total_tokens": 32.0} == {
        name: run.metrics[name] for name in ("input_tokens", "output_tokens", "total_tokens")
    }


def test_texts_are_joined(memory: MemoryBackend) -> None:
    """An iterator of texts is the text."""
    assert ["It ", "is"] == list(returned(iter(["It ", "is"])))
    assert "It is" == only(memory).tags["mltrace.response"]


def test_the_first_text_is_the_first_token(memory: MemoryBackend) -> None:
    """A chunk that brings a role, or nothing, is not the first token."""
    seen: list[float] = []
    clock = threading.Event()

    def chunks() -> Iterator[Any]:
        yield delta()
        clock.wait(0.02)
        yield delta("a")

    list(returned(chunks()))
    seen.append(only(memory).metrics["time_to_first_token_ms"])
    assert seen[0] >= 20.0


def test_usage_is_found_behind_the_bound(memory: MemoryBackend) -> None:
    """However much text came before it, the last chunk's usage and finish reason are recorded, and the text is cut."""
    piece = "x" * 1_000

    def chunks() -> Iterator[Any]:
        for _ in range(3_000):
            yield delta(piece)
        yield delta("", finish_reason="stop")
        yield USAGE

    list(returned(chunks()))
    run = only(memory)
    assert ("stop", 3.0, 2.0) == (
        run.tags["mltrace.finish_reason"],
        run.metrics["input_tokens"],
        run.metrics["output_tokens"],
    )
    assert run.tags["mltrace.response"].startswith("xxx")
    assert len(run.artifacts["llm_response.json"]) < 1_100_000


def test_many_small_pieces_are_kept_whole(memory: MemoryBackend) -> None:
    """Text is bounded by its length, not by the number of its pieces."""
    list(returned(delta("ab") for _ in range(25_000)))
    assert json.dumps("ab" * 25_000) == run_text(only(memory))


def run_text(run: RecordedRun) -> str:
    """Return the whole response of a run, which does not fit its tag."""
    content = run.artifacts["llm_response.json"]
    return content.decode() if isinstance(content, bytes) else str(content)


def test_a_chunk_that_is_changed_later_counts_as_it_came(memory: MemoryBackend) -> None:
    """Consumers add tool calls up in the first chunk's object: what is recorded is what was sent."""

    def piece(arguments: str, **named: Any) -> dict[str, Any]:
        call = {"index": 0, "function": {"arguments": arguments, **named}}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}

    chunks = [piece('{"a"', name="f"), piece(": 1}")]
    first = None
    for chunk in returned(iter(chunks)):
        function = chunk["choices"][0]["delta"]["tool_calls"][0]["function"]
        if first is None:
            first = function
        else:
            first["arguments"] += function["arguments"]
    assert '{"a": 1}' == first["arguments"]  # type: ignore[index]
    assert [{"id": None, "name": "f", "arguments": {"a": 1}}] == json.loads(
        only(memory).tags["mltrace.tool_calls"]
    )


def test_the_first_of_several_answers_is_the_text(memory: MemoryBackend) -> None:
    """Chunks of the second answer (``n=2``) are not mixed into the first."""
    second = {"choices": [{"index": 1, "delta": {"content": "no"}}]}
    list(returned(iter([delta("yes"), second, delta(" indeed")])))
    assert "yes indeed" == only(memory).tags["mltrace.response"]


def test_calls_in_one_place_are_told_apart_by_their_ids(memory: MemoryBackend) -> None:
    """Some servers give every tool call of an answer the index 0."""
    calls = [{"index": 0, "id": id_, "function": {"name": id_, "arguments": "{}"}} for id_ in ("a", "b")]
    list(returned(iter([{"choices": [{"delta": {"tool_calls": [call]}}]} for call in calls])))
    assert ["a", "b"] == [call["name"] for call in json.loads(only(memory).tags["mltrace.tool_calls"])]


def test_chunks_of_no_known_form_are_kept_as_they_are(memory: MemoryBackend) -> None:
    """Items that say nothing of a model are recorded as any stream's."""
    list(returned(iter([{"step": 1}, "and", {"step": 2}])))
    assert [{"step": 1}, "and", {"step": 2}] == json.loads(only(memory).tags["mltrace.response"])


def test_secrets_across_chunks_are_hidden(memory: MemoryBackend) -> None:
    """A secret that comes in two pieces is one in the joined text, and one in a tool call's arguments too."""
    half = len(SECRET) // 2
    arguments = json.dumps({"password": "hunter2hunter2"})
    call = {"index": 0, "function": {"name": "login", "arguments": arguments}}

    @mltrace.log_llm_call
    def ask(password: str) -> Any:
        return iter(
            [delta(SECRET[:half]), delta(SECRET[half:]), {"choices": [{"delta": {"tool_calls": [call]}}]}]
        )

    list(ask(SECRET))
    said = repr(only(memory).tags) + repr(only(memory).artifacts)
    assert SECRET not in said
    assert "hunter2" not in said


def test_an_output_that_is_not_captured_is_not_kept(memory: MemoryBackend) -> None:
    """Without the output there are the counts and times, and neither text nor tool calls."""
    list(returned(iter([delta("a"), delta("b"), USAGE]), capture_output=False))
    run = only(memory)
    assert ("mltrace.response" in run.tags, 2.0) == (False, run.metrics["output_tokens"])
    assert "time_to_first_token_ms" in run.metrics


def test_a_reducer_makes_the_text_and_usage_stays(memory: MemoryBackend) -> None:
    """`output_reducer` gets the chunks as they came; what they said beside the text is recorded too."""
    chunks = [delta("a"), delta("b"), USAGE]
    list(returned(iter(chunks), output_reducer=lambda items: f"{len(items)} {items == chunks}"))
    run = only(memory)
    assert ("3 True", 3.0) == (run.tags["mltrace.response"], run.metrics["input_tokens"])


# How it ends.


def test_a_stream_that_nobody_reads_ends(memory: MemoryBackend) -> None:
    """The run of a stream that is dropped ends once, as closed."""
    stream = returned(iter([delta("a")]))
    assert only(memory).status is None
    del stream
    gc.collect()
    assert ("FINISHED", "closed") == (only(memory).status, only(memory).tags["mltrace.stream"])


def test_a_stream_that_is_left_early_ends_when_it_goes(memory: MemoryBackend) -> None:
    """After a ``break`` the run ends with the stream, and has what was read."""
    for _ in returned(iter([delta("a"), delta("b")])):
        break
    gc.collect()
    run = only(memory)
    assert ("a", "closed") == (run.tags["mltrace.response"], run.tags["mltrace.stream"])


def test_an_error_of_the_stream_is_the_runs(memory: MemoryBackend) -> None:
    """The exception comes out by identity, and the run has failed."""
    error = ConnectionError("gone")

    def chunks() -> Iterator[Any]:
        yield delta("a")
        raise error

    with pytest.raises(ConnectionError) as caught:
        list(returned(chunks()))
    assert caught.value is error
    assert ("FAILED", "ConnectionError") == (only(memory).status, only(memory).tags["mltrace.error.type"])


def test_a_cancelled_step_kills_the_run(memory: MemoryBackend) -> None:
    """A task that is cancelled while it waits for a chunk ends the run as KILLED."""

    async def chunks() -> AsyncIterator[Any]:
        yield delta("a")
        await asyncio.Event().wait()

    async def main() -> None:
        async def consume() -> None:
            async for _ in returned(chunks()):
                begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(consume())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert "KILLED" == only(memory).status


def test_the_run_is_current_in_the_steps_only(memory: MemoryBackend) -> None:
    """What the stream does while it is read belongs to its run; what the consumer does, does not."""
    inner = mltrace.track_run("inner")(lambda: None)

    def chunks() -> Iterator[Any]:
        inner()
        yield delta("a")

    for _ in returned(chunks(), run_name="ask"):
        assert not mltrace.current_run()
    assert [(0, "ask"), (1, "inner")] == [(depth, run.name) for depth, run in only(memory).walk()]


def test_switched_off_a_stream_is_itself(memory: MemoryBackend) -> None:
    """Off is off: no view, no run."""
    mltrace.configure(enabled=False)
    made = iter(["a"])
    assert returned(made) is made


def test_a_chunk_that_is_slow_to_ask_does_not_hold_the_stream(memory: MemoryBackend) -> None:
    """A chunk whose fields wait for ever costs its reader 50 ms once, and is passed on."""

    asked = threading.Event()

    class Slow:
        @property
        def choices(self) -> Any:
            asked.wait()

    chunks = [Slow(), Slow(), Slow()]
    try:
        stream = returned(iter(chunks))
        assert chunks == list(stream)
        assert only(memory).metrics["latency_ms"] < 2_000
    finally:
        asked.set()
        _watched.reset()


# Blocks.


def test_a_block_follows_a_stream(memory: MemoryBackend) -> None:
    """`Call.stream` gives a view to read, and the block records what was read of it."""
    with mltrace.log_llm_call(model="m", prompt="How?") as call:
        assert ["a", "b"] == [
            chunk["choices"][0]["delta"]["content"] for chunk in call.stream(iter([delta("a"), delta("b")]))
        ]
        assert only(memory).status is None
        call.record_usage(input_tokens=1, output_tokens=2)
    run = only(memory)
    assert ("ab", 3.0, "FINISHED") == (run.tags["mltrace.response"], run.metrics["total_tokens"], run.status)
    assert "time_to_first_token_ms" in run.metrics


def test_a_stream_as_response_is_a_mistake(memory: MemoryBackend) -> None:
    """Nobody would read it: the remedy is named."""
    with mltrace.log_llm_call(model="m") as call, pytest.raises(LoggingError, match=r"call\.stream"):
        call.response = iter(["a"])


def test_a_block_that_is_switched_off_gives_the_stream_itself(memory: MemoryBackend) -> None:
    """Off is off in blocks too."""
    mltrace.configure(enabled=False)
    made = iter(["a"])
    with mltrace.log_llm_call(model="m") as call:
        assert call.stream(made) is made


# Delivered.


def test_a_stream_arrives_at_the_server(server: MlflowServer, tmp_path: Path) -> None:
    """What a stream said is on a real MLflow server, as params, metrics and tags of one finished run."""
    mltrace.configure(tracking_uri=server.url, experiment_name="streams", spool_dir=str(tmp_path / "spool"))
    mltrace.register_price("m", input=1, output=10)
    try:
        list(returned(iter([delta("It "), delta("is", finish_reason="stop"), USAGE]), model="m"))
        assert mltrace.flush(60).pending == 0
    finally:
        forget_prices()
    [run] = server.runs("streams")
    assert ("FINISHED", "It is", "stop") == (
        run["status"],
        run["tags"]["mltrace.response"],
        run["tags"]["mltrace.finish_reason"],
    )
    metrics = run["metrics"]
    assert {"input_tokens": 3.0, "output_tokens": 2.0, "total_tokens": 5.0, "cost_usd": 0.000023} == {
        name: value for name, value in metrics.items() if name == "cost_usd" or name.endswith("_tokens")
    }
    assert {"time_to_first_token_ms", "latency_ms"} <= metrics.keys()
