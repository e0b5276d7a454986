"""Decorated generators are generators: all that is sent, thrown and returned passes; each run ends once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from hypothesis import example, given, settings
from hypothesis import strategies as st

import mltrace

from mltrace.backends.memory import MemoryBackend, RecordedRun
from mltrace.testing._steps import STEPS, STEPS_LATER, Unknown, echo, echo_later, played, played_later


def only(memory: MemoryBackend) -> RecordedRun:
    [run] = memory.roots
    return run


def counted(memory: MemoryBackend) -> list[str]:
    """Return the statuses of all ends that the backend is given from now on."""
    ends: list[str] = []
    emit = memory.emit

    def watch(record: Any) -> None:
        status = getattr(record, "status", None) or getattr(getattr(record, "end", None), "status", None)
        if status is not None:
            ends.append(status)
        emit(record)

    memory.emit = watch  # type: ignore[method-assign]
    return ends


# Transparency: the same steps on a decorated and an undecorated generator give the same.


@given(st.integers(0, 4), st.lists(st.sampled_from(list(STEPS)), max_size=6))
@example(2, ["next", "throw exit"])
@example(2, ["next", "close", "next"])
@settings(deadline=None, max_examples=200)
def test_a_decorated_generator_does_what_the_undecorated_one_does(limit: int, steps: list[str]) -> None:
    """Whatever is sent, thrown or closed comes back the same; a stream that was started ends once."""
    memory = MemoryBackend()
    ends = counted(memory)
    mltrace.configure(backend=memory, strict=True)
    stream = mltrace.track_run(echo)(limit)
    assert played(echo(limit), steps) == played(stream, steps)
    stream.close()
    del stream
    assert len(memory.roots) == len(ends)
    assert not mltrace.current_run()


@given(st.integers(0, 4), st.lists(st.sampled_from(list(STEPS_LATER)), max_size=6), st.booleans())
@example(2, ["next", "throw exit"], False)
@example(2, ["next", "close", "next"], True)
@example(2, ["next", "cancel"], True)
@settings(deadline=None, max_examples=100)
def test_a_decorated_async_generator_does_what_the_undecorated_one_does(
    limit: int, steps: list[str], task_each: bool
) -> None:
    """The same holds of `asend`, `athrow`, `aclose` and a cancelled step, also where each is another task's."""
    memory = MemoryBackend()
    ends = counted(memory)
    mltrace.configure(backend=memory, strict=True)
    stream = mltrace.track_run(echo_later)(limit)
    expected = asyncio.run(played_later(echo_later(limit), steps, task_each=task_each))
    assert expected == asyncio.run(played_later(stream, steps, task_each=task_each))
    assert len(memory.roots) == len(ends)


def test_values_reach_and_leave_the_body(memory: MemoryBackend) -> None:
    """What is sent is what ``yield`` returns, and what the body returns is the value of ``yield from``."""

    @mltrace.track_run
    def body() -> Generator[str, str, str]:
        first = yield "a"
        second = yield first
        return second

    def consumer() -> Generator[str, str, str]:
        return (yield from body())

    stream = consumer()
    assert "a" == next(stream)
    assert "sent" == stream.send("sent")
    with pytest.raises(StopIteration) as stop:
        stream.send("last")
    assert "last" == stop.value.value
    assert "FINISHED" == only(memory).status


def test_the_exception_thrown_in_is_the_one_that_comes_out(memory: MemoryBackend) -> None:
    """An exception that the body does not know leaves it by identity, without context, and is on the run."""
    error = Unknown("no")
    stream = mltrace.track_run(echo)(3)
    next(stream)
    with pytest.raises(Unknown) as caught:
        stream.throw(error)
    assert (error, None) == (caught.value, error.__context__)
    assert ("FAILED", "Unknown") == (only(memory).status, only(memory).tags["mltrace.error.type"])


def test_close_gives_what_the_body_returns(memory: MemoryBackend) -> None:
    """Where Python's `close` returns the body's value (3.13), a decorated generator's does."""
    plain, decorated = echo(3), mltrace.track_run(echo)(3)
    next(plain)
    next(decorated)
    assert plain.close() == decorated.close()  # type: ignore[func-returns-value]


def test_what_a_decorated_stream_is(memory: MemoryBackend) -> None:
    """Calls return what `inspect` and the type say: a generator, an async generator."""
    stream, later = mltrace.track_run(echo)(0), mltrace.track_run(echo_later)(0)
    assert (True, True) == (inspect.isgenerator(stream), inspect.isasyncgen(later))
    assert (True, True) == (isinstance(stream, Iterator), isinstance(later, AsyncIterator))
    assert {} == memory.runs


# The run is current in the body and nowhere else.


def test_the_run_is_current_in_the_body_only(memory: MemoryBackend) -> None:
    """During each step the run is the stream's, between them the consumer's."""
    seen = []

    @mltrace.track_run("stream")
    def body() -> Iterator[int]:
        for number in range(3):
            seen.append(mltrace.current_run().name)
            yield number

    with mltrace.track_run("consumer") as consumer:
        for _ in body():
            assert consumer is mltrace.current_run()
    assert ["stream"] * 3 == seen
    assert not mltrace.current_run()


def test_the_run_is_current_while_the_body_cleans_up(memory: MemoryBackend) -> None:
    """``finally`` in the body belongs to the stream, whether it is exhausted, closed or thrown into."""

    @mltrace.track_run("stream")
    def body() -> Iterator[int]:
        try:
            yield 1
        finally:
            mltrace.set_tag("cleaned", mltrace.current_run().name)

    list(body())
    for leave in (lambda stream: stream.close(), lambda stream: stream.throw(Unknown())):
        stream = body()
        next(stream)
        with contextlib.suppress(Unknown):
            leave(stream)
        assert not mltrace.current_run()
    assert ["stream"] * 3 == [run.tags["cleaned"] for run in memory.roots]


def test_interleaved_streams_keep_their_own_runs(memory: MemoryBackend) -> None:
    """Two streams that take turns never see each other's run, and their children are their own."""

    @mltrace.track_run("step_{name}_{number}")
    def step(name: str, number: int) -> str:
        return f"{name}{number}"

    @mltrace.track_run("stream_{name}")
    def body(name: str) -> Iterator[str]:
        for number in range(2):
            yield step(name, number)

    assert [("a0", "b0"), ("a1", "b1")] == list(zip(body("a"), body("b"), strict=True))
    found = {root.name: [child.name for child in root.children] for root in memory.roots}
    assert {"stream_a": ["step_a_0", "step_a_1"], "stream_b": ["step_b_0", "step_b_1"]} == found


def test_a_stream_within_a_stream_is_its_child(memory: MemoryBackend) -> None:
    """``yield from`` another decorated generator nests its run."""
    inner = mltrace.track_run("inner")(echo)

    @mltrace.track_run("outer")
    def outer() -> Iterator[Any]:
        yield from inner(2)
        assert "outer" == mltrace.current_run().name

    assert 2 == len(list(outer()))
    assert [(0, "outer"), (1, "inner")] == [(depth, run.name) for depth, run in only(memory).walk()]


def test_the_parent_is_the_run_at_the_call(memory: MemoryBackend) -> None:
    """A stream consumed after its caller's run, or within another, belongs to the run it was called in."""
    with mltrace.track_run("caller"):
        stream = mltrace.track_run("stream")(echo)(2)
    with mltrace.track_run("consumer"):
        list(stream)
    assert {"caller": ["stream"], "consumer": []} == {
        root.name: [child.name for child in root.children] for root in memory.roots
    }


def test_interleaved_tasks_keep_their_own_streams(memory: MemoryBackend) -> None:
    """Async streams of two tasks that take turns step by step keep their runs apart."""

    @mltrace.track_run("stream_{name}")
    async def body(name: str, mine: list[asyncio.Event], others: list[asyncio.Event]) -> AsyncIterator[str]:
        for turn in range(3):
            mine[turn].set()
            await others[turn].wait()
            mltrace.log_metric("turn", turn)
            yield mltrace.current_run().name

    async def consume(*arguments: Any) -> list[str]:
        with mltrace.track_run("consumer") as consumer:
            found = []
            async for name in body(*arguments):
                assert consumer is mltrace.current_run()
                found.append(name)
            return found

    async def main() -> Any:
        first, second = ([asyncio.Event() for _ in range(3)] for _ in range(2))
        return await asyncio.gather(consume("a", first, second), consume("b", second, first))

    assert [["stream_a"] * 3, ["stream_b"] * 3] == asyncio.run(main())
    streams = [run for root in memory.roots for depth, run in root.walk() if depth == 1]
    assert [[0.0, 1.0, 2.0]] * 2 == [[point.value for point in run.history["turn"]] for run in streams]


# One end.


def exhausted(stream: Iterator[Any]) -> None:
    list(stream)


def left_by_break(stream: Iterator[Any]) -> None:
    for _ in stream:
        break


def closed(stream: Any) -> None:
    next(stream)
    stream.close()
    stream.close()


def collected(stream: Iterator[Any]) -> None:
    next(stream)


def raised(stream: Any) -> None:
    next(stream)
    with pytest.raises(ValueError, match="0"):
        stream.send("raise")


def raised_and_closed(stream: Any) -> None:
    raised(stream)
    stream.close()
    assert [] == list(stream)


def interrupted(stream: Any) -> None:
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())


@pytest.mark.parametrize(
    ("leave", "status", "tag"),
    [
        (exhausted, "FINISHED", None),
        (left_by_break, "FINISHED", "closed"),
        (closed, "FINISHED", "closed"),
        (collected, "FINISHED", "closed"),
        (raised, "FAILED", None),
        (raised_and_closed, "FAILED", None),
        (interrupted, "KILLED", None),
    ],
)
def test_a_stream_ends_once(
    memory: MemoryBackend, leave: Callable[[Any], None], status: str, tag: str | None
) -> None:
    """However a consumer leaves a stream, its run gets one end, which says how."""
    ends = counted(memory)
    leave(mltrace.track_run(echo)(3))
    gc.collect()
    assert [status] == ends
    assert tag == only(memory).tags.get("mltrace.stream")


async def exhausted_later(stream: Any) -> None:
    assert 3 == len([item async for item in stream])


async def left_by_break_later(stream: Any) -> None:
    async with contextlib.aclosing(stream):
        async for _ in stream:
            break


async def closed_later(stream: Any) -> None:
    await stream.__anext__()
    await stream.aclose()
    await stream.aclose()


async def raised_later(stream: Any) -> None:
    await stream.__anext__()
    with pytest.raises(ValueError, match="0"):
        await stream.asend("raise")
    await stream.aclose()


async def closed_by_another_task(stream: Any) -> None:
    async def first() -> None:
        await stream.__anext__()

    with mltrace.track_run("opener"):
        await asyncio.ensure_future(first())
    await asyncio.ensure_future(stream.aclose())
    assert not mltrace.current_run()


async def left_to_the_loop(stream: Any) -> None:
    await stream.__anext__()


@pytest.mark.parametrize(
    ("leave", "status", "tag"),
    [
        (exhausted_later, "FINISHED", None),
        (left_by_break_later, "FINISHED", "closed"),
        (closed_later, "FINISHED", "closed"),
        (raised_later, "FAILED", None),
        (closed_by_another_task, "FINISHED", "closed"),
        (left_to_the_loop, "FINISHED", "closed"),
    ],
)
def test_an_async_stream_ends_once(
    memory: MemoryBackend, leave: Callable[[Any], Any], status: str, tag: str | None
) -> None:
    """However an async stream is left, in its own task or another, its run gets one end, which says how."""

    async def main() -> None:
        await leave(mltrace.track_run("stream")(echo_later)(3))

    ends = counted(memory)
    asyncio.run(main())
    gc.collect()
    [stream] = [run for run in memory.runs.values() if run.name == "stream"]
    assert len(memory.runs) == len(ends)
    assert (status, tag) == (stream.status, stream.tags.get("mltrace.stream"))


def test_a_collected_async_stream_ends_once(memory: MemoryBackend) -> None:
    """An async stream that nobody holds any more is closed by the loop."""
    ends = counted(memory)

    async def main() -> None:
        stream = mltrace.track_run(echo_later)(3)
        await stream.__anext__()
        del stream
        gc.collect()
        for _ in range(100):
            if ends:
                return
            await asyncio.sleep(0)

    asyncio.run(main())
    assert (["FINISHED"], "closed") == (ends, only(memory).tags["mltrace.stream"])


def test_a_cancelled_step_has_killed_the_stream(memory: MemoryBackend) -> None:
    """Cancelling the consumer while the body waits ends the run as KILLED, once."""
    ends = counted(memory)

    async def main() -> None:
        waiting = asyncio.Event()

        @mltrace.track_run
        async def body() -> AsyncIterator[int]:
            yield 1
            waiting.set()
            await asyncio.Event().wait()

        async def consume() -> None:
            async for _ in body():
                pass

        task = asyncio.ensure_future(consume())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    assert ["KILLED"] == ends


def test_a_consumer_cancelled_between_steps_has_closed_the_stream(memory: MemoryBackend) -> None:
    """A consumer that is cancelled while it holds an item leaves the stream: the body has not failed."""
    ends = counted(memory)

    async def main() -> None:
        waiting = asyncio.Event()

        async def consume() -> None:
            async for _ in mltrace.track_run(echo_later)(3):
                waiting.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(consume())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    assert (["FINISHED"], "closed") == (ends, only(memory).tags["mltrace.stream"])


def test_a_body_that_raises_while_it_is_closed_has_failed(memory: MemoryBackend) -> None:
    """An exception of the cleaning up leaves `close` as it is and is on the run."""
    ends = counted(memory)

    @mltrace.track_run
    def body() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise ValueError("while closing")

    stream = body()
    next(stream)
    with pytest.raises(ValueError, match="while closing"):
        stream.close()  # type: ignore[attr-defined]
    assert ["FAILED"] == ends


def test_a_body_that_ignores_its_end_is_told(memory: MemoryBackend) -> None:
    """A body that yields when it is closed makes Python's `RuntimeError`, decorated or not."""
    ends = counted(memory)

    @mltrace.track_run
    def body() -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    stream = body()
    next(stream)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        stream.close()  # type: ignore[attr-defined]
    assert ["FAILED"] == ends


@pytest.mark.parametrize("error", [GeneratorExit(), asyncio.CancelledError(), SystemExit()], ids=repr)
def test_a_body_that_stops_itself_is_killed(memory: MemoryBackend, error: BaseException) -> None:
    """What the body raises on its own is no `close` by the consumer, whatever it is."""

    @mltrace.track_run
    def body() -> Iterator[int]:
        yield 1
        raise error

    @mltrace.track_run
    async def body_later() -> AsyncIterator[int]:
        yield 1
        raise error

    async def consume() -> None:
        with contextlib.suppress(type(error)):
            async for _ in body_later():
                pass

    with contextlib.suppress(type(error)):
        list(body())
    asyncio.run(consume())
    assert [("KILLED", None)] * 2 == [(run.status, run.tags.get("mltrace.stream")) for run in memory.roots]


def test_the_end_is_after_the_last_step(memory: MemoryBackend) -> None:
    """The run lasts until the stream ends: it begins with the first step, not with the call."""
    stream = mltrace.track_run(echo)(2)
    assert [] == memory.roots
    next(stream)
    assert None is only(memory).status
    list(stream)
    assert "FINISHED" == only(memory).status


def test_a_stream_that_is_never_started_records_nothing(memory: MemoryBackend) -> None:
    """A generator that is only made, or closed before its first step, has done nothing."""
    mltrace.track_run(echo)(3)
    mltrace.track_run(echo)(3).close()
    mltrace.track_run(echo_later)(3)
    gc.collect()
    assert {} == memory.runs


def test_a_stream_that_is_called_wrongly_records_nothing(memory: MemoryBackend) -> None:
    """Wrong arguments raise at the call, as for the undecorated function."""
    with pytest.raises(TypeError, match="limit"):
        mltrace.track_run(echo)()  # type: ignore[call-arg]
    assert {} == memory.runs


# What is recorded.


def test_the_arguments_are_rendered_at_the_call(memory: MemoryBackend) -> None:
    """A change of an argument between call and first step is not in the record."""
    items = [1]

    @mltrace.track_run
    def body(items: list[int]) -> Iterator[int]:
        yield from items

    stream = body(items)
    items.append(2)
    assert [1, 2] == list(stream)
    assert ({"items": "[1]"}, "[1,2]") == (only(memory).params, only(memory).tags["mltrace.output"])


@pytest.mark.parametrize(
    ("items", "options", "expected"),
    [
        (["It ", "is"], {}, "It is"),
        ([1, "a", None], {}, '[1,"a",null]'),
        ([], {}, "[]"),
        (["a", "b"], {"output_reducer": len}, "2"),
        (["a", "b"], {"output_reducer": lambda items: "-".join(items)}, "a-b"),
        ([1, 2], {"process_outputs": sum}, "3"),
    ],
)
def test_the_output_of_a_stream(
    memory: MemoryBackend, items: list[Any], options: dict[str, Any], expected: str
) -> None:
    """Texts are joined, other items are a list, and a reducer makes of them what it likes."""

    @mltrace.track_run(**options)
    def body() -> Iterator[Any]:
        yield from items

    assert items == list(body())
    assert expected == only(memory).tags["mltrace.output"]


def test_a_reduced_number_is_a_metric(memory: MemoryBackend) -> None:
    """What a reducer returns is an output like a function's."""
    list(mltrace.track_run(output_reducer=lambda items: {"items": len(items)})(echo)(3))
    assert 3.0 == only(memory).metrics["items"]


def test_the_output_of_a_closed_stream_is_what_it_yielded(memory: MemoryBackend) -> None:
    """A stream that is left early keeps the items up to there."""

    @mltrace.track_run
    def body() -> Iterator[str]:
        yield "It "
        yield "is "
        yield "long"

    stream = body()
    assert "It is " == next(stream) + next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert "It is " == only(memory).tags["mltrace.output"]


def test_the_output_can_be_left_out(memory: MemoryBackend) -> None:
    """With `capture_output=False` no item is kept."""
    list(mltrace.track_run(capture_output=False)(echo)(3))
    assert "mltrace.output" not in only(memory).tags


def test_a_later_change_of_an_item_does_not_change_the_record(memory: MemoryBackend) -> None:
    """Items are rendered as they pass."""
    item: list[int] = []

    @mltrace.track_run
    def body() -> Iterator[list[int]]:
        for number in range(2):
            item.append(number)
            yield item

    for _ in body():
        pass
    item.append(9)
    assert "[[0],[0,1]]" == only(memory).tags["mltrace.output"]


@pytest.mark.parametrize("item", ["x" * 1_000, [0] * 100, "y"], ids=["long texts", "lists", "short texts"])
def test_an_endless_stream_is_kept_within_bounds(memory: MemoryBackend, item: Any) -> None:
    """Of a long stream the consumer gets everything, and the record about a mebibyte."""

    @mltrace.track_run
    def body() -> Iterator[Any]:
        for _ in range(30_000):
            yield item

    assert 30_000 == sum(1 for _ in body())
    assert len(only(memory).tags["mltrace.output"]) <= 8_000
    assert sum(map(len, only(memory).artifacts.values())) < 3 << 20


def test_a_reducer_gets_no_more_than_is_kept(memory: MemoryBackend) -> None:
    """Of a long stream a reducer sees the first 10,000 items: the rest is not held in memory."""

    @mltrace.track_run(output_reducer=lambda items: {"items": len(items), "last": items[-1]})
    def body() -> Iterator[int]:
        yield from range(30_000)

    assert 30_000 == len(list(body()))
    assert (10_000.0, 9_999.0) == (only(memory).metrics["items"], only(memory).metrics["last"])


def test_what_a_long_stream_leaves_out_is_said(memory: MemoryBackend) -> None:
    """An output that is not the whole stream says so: a record must not pass for more than it is."""

    @mltrace.track_run
    def body() -> Iterator[str]:
        for _ in range(30_000):
            yield "y"

    list(body())
    recorded = " ".join(
        [
            *only(memory).tags.values(),
            *(content.decode()[-200:] for content in only(memory).artifacts.values()),
        ]
    )
    assert "30000" in recorded or "20000 more" in recorded
