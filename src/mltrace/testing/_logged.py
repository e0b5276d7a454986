"""
The contract of a decorator towards MLflow: each call is a run that says what happened.
"""

from __future__ import annotations

import asyncio
import gc
import threading

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._config import configure
from .._context import wrap
from .._fluent import current_run, log_param, set_tag
from ._hypothesis import for_all, st
from ._laws import Decorate, expect, law, make, no_loop, outcome
from ._play import play
from ._recorder import Recorder, record
from ._steps import LEFT, LEFT_LATER, STEPS, STEPS_LATER, Raised, echo, echo_later, played, played_later
from ._trees import RUNNING, RunTree, differences, run, texts
from .strategies import KINDS, Call, calls, trees


OUTPUT = "mltrace.output"


class _Contract:
    """What is expected of the run of each call."""

    def __init__(
        self,
        decorate: Decorate,
        examples: int,
        name: str | None,
        params: Callable[[dict[str, Any]], Mapping[str, Any]] | None,
        tags: Mapping[str, Any] | None,
        kind: str | None,
        output: str | None,
    ) -> None:
        self.output = output
        self.decorate = decorate
        self.examples = examples
        self.name = name
        self.params = params
        self.tags = texts(tags) or {}
        self.kind = kind

    def run(self, function: Any, arguments: Mapping[str, Any], **stated: Any) -> RunTree:
        """Return the run that a call of *function* with *arguments* makes."""
        params = texts(arguments if self.params is None else self.params(dict(arguments)))
        return run(self._name(function.__qualname__, arguments), params=params, kind=self.kind, **stated)

    def _name(self, own: str, arguments: Mapping[str, Any]) -> str:
        if self.name is None:
            return own
        try:
            return self.name.format(**arguments)
        except (LookupError, ValueError, AttributeError):
            return self.name

    def outline(self, tree: RunTree) -> RunTree:
        """Return *tree* as this decorator names runs, with nothing but names, statuses and children."""
        name = self._name(tree.name, tree.params or {})
        return run(name, status=tree.status, children=map(self.outline, tree.children))

    def expect(self, recorder: Recorder, expected: list[RunTree], what: object) -> None:
        """Compare what was recorded, and the tags that every run must have."""
        found = recorder.runs
        expect(
            len(found) == len(expected), f"{what} made {len(found)} root runs, not {len(expected)}: {found}"
        )
        for tree, wanted in zip(found, expected, strict=True):
            lines = "; ".join(differences(wanted, tree))
            expect(not lines, f"{what} made\n{tree!r}\n{lines}")
        for tree in recorder.walk():
            missing = {key: text for key, text in self.tags.items() if (tree.tags or {}).get(key) != text}
            expect(not missing, f"{what}: the run {tree.name!r} lacks the tags {missing}")
        expect(not current_run(), f"{what} left {current_run()!r} current")


def check_logged(
    decorate: Decorate,
    *,
    name: str | None = None,
    params: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
    tags: Mapping[str, Any] | None = None,
    kind: str | None = None,
    output: str | None = OUTPUT,
    examples: int = 25,
) -> None:
    """
    Check that each call of a function decorated by *decorate* is recorded, and truthfully.

    One run for each call, ended once, with the arguments as they were before the call; ``FAILED``
    or ``KILLED`` when it raises; nested as calls nest, in recursion, tasks and threads too; for
    streams, current in the body and never in the consumer, and ended however they are left,
    exhausted, closed, dropped, thrown into or cancelled, in their own task or another;
    decorated twice, recorded once; switched off, not recorded.

    Args:
        decorate: ``decorate(function) -> function``.

        name: The name of every run, or a template over the arguments, as `track_run` takes it
            (default: the function's qualified name).

        params: ``params(arguments) -> params`` for decorators that leave arguments out or add
            params (default: the arguments).

        tags: Tags that every run has.

        kind: Kind of every run.

        output: The tag that holds what the function returned: ``mltrace.output``, for an LLM call
            ``mltrace.response``; None for decorators that leave it out or record something else.

        examples: Calls that are tried for each law.

    Raises: AssertionError: A law is broken; the message says which, with the run and what differs.
    """
    no_loop("check_logged")
    contract = _Contract(decorate, examples, name, params, tags, kind, output)
    for sentence, check in _LAWS.items():
        with law(sentence):
            check(contract)


# Single calls.


def _spoil(arguments: dict[str, Any]) -> Any:
    """Change every argument that can be changed, as functions do; return what streams yield."""
    for value in arguments.values():
        if isinstance(value, list):
            value.append("changed")
    return [1, 2]


def _each_call(contract: _Contract) -> None:
    arguments = st.integers(0, 9) | st.text("abc", max_size=3) | st.lists(st.integers(0, 9), max_size=2)

    def check(call: Call) -> None:
        found = call.arguments
        expected = contract.run(call.function, found)
        with record() as recorder:
            make(call, contract.decorate(call.function))
            contract.expect(recorder, [expected], repr(call))
            if contract.output is not None:
                found_output = (recorder.runs[0].tags or {}).get(contract.output)
                expect(
                    found_output == "[1,2]",
                    f"{call!r} gave [1,2], recorded as {found_output} in {contract.output}",
                )

    for_all(calls(arguments, body=_spoil, kinds=KINDS), check, contract.examples * 3)


_STATUS = {
    ValueError: "FAILED", AssertionError: "FAILED",
    KeyboardInterrupt: "KILLED", SystemExit: "KILLED", asyncio.CancelledError: "KILLED", GeneratorExit: "KILLED",
}  # fmt: skip


def _failures(contract: _Contract) -> None:
    raised: list[type[BaseException]] = []

    def body(arguments: dict[str, Any]) -> Any:
        raise raised[-1]("no")

    def check(drawn: tuple[Call, type[BaseException]]) -> None:
        call, kind = drawn
        raised.append(kind)
        what = f"{call!r} that raises {kind.__name__}"
        expected = contract.run(call.function, call.arguments, status=_STATUS[kind])
        with record() as recorder:
            outcome(lambda: make(call, contract.decorate(call.function)))
            contract.expect(recorder, [expected], what)
            tags = recorder.runs[0].tags or {}
            error = tags.get("mltrace.error.type"), tags.get("mltrace.error.message")
            expect(error == (kind.__name__, "no"), f"{what} is recorded as {error}")

    drawn = st.tuples(calls(body=body, kinds=KINDS), st.sampled_from(list(_STATUS)))
    for_all(drawn, check, contract.examples * 2)


def _twice(contract: _Contract) -> None:
    def check(call: Call) -> None:
        with record() as recorder:
            make(call, contract.decorate(contract.decorate(call.function)))
            contract.expect(
                recorder, [contract.run(call.function, call.arguments)], f"{call!r}, decorated twice,"
            )

    for_all(calls(body=lambda _: [1], kinds=KINDS), check, contract.examples)


def _off(contract: _Contract) -> None:
    def check(call: Call) -> None:
        with record() as recorder:
            configure(enabled=False)
            make(call, contract.decorate(call.function))
            contract.expect(recorder, [], f"{call!r}, switched off,")

    for_all(calls(body=lambda _: [1], kinds=KINDS), check, max(contract.examples // 5, 1))


# Trees.


def _nesting(contract: _Contract) -> None:
    def check(tree: RunTree) -> None:
        with record() as recorder:
            play(tree, contract.decorate)
            contract.expect(recorder, [contract.outline(tree)], f"the calls of\n{tree!r}\n")

    for_all(trees(), check, contract.examples)


def _recursion(contract: _Contract) -> None:
    def check(depth: int) -> None:
        def even(n: int) -> bool:
            return n == 0 or functions["odd"](n - 1)

        def odd(n: int) -> bool:
            return n != 0 and functions["even"](n - 1)

        functions = {"even": contract.decorate(even), "odd": contract.decorate(odd)}
        names = {True: even, False: odd}
        children: list[RunTree] = []
        for n in range(depth + 1):
            children = [contract.run(names[n % 2 == depth % 2], {"n": n}, children=children)]
        with record() as recorder:
            functions["even"](depth)
            contract.expect(recorder, children, f"mutual recursion of depth {depth}")

    for_all(st.integers(0, 8), check, max(contract.examples // 5, 1))


def _tasks_and_threads(contract: _Contract) -> None:
    barrier = threading.Barrier(2)

    def leaf(owner: str) -> str:
        return owner

    def worker(owner: str) -> None:
        barrier.wait(10)
        for _ in range(3):
            leaves["leaf"](owner)

    async def task(owner: str, mine: asyncio.Event, other: asyncio.Event) -> None:
        mine.set()
        await other.wait()
        leaves["leaf"](owner)

    async def tasks(decorated: Any) -> None:
        first, second = asyncio.Event(), asyncio.Event()
        await asyncio.gather(decorated("a", first, second), decorated("b", second, first))

    leaves = {"leaf": contract.decorate(leaf)}
    starts: dict[str, tuple[Callable[[], Any], int]] = {
        "two threads": (lambda: _in_threads(contract.decorate(worker)), 3),
        "two tasks": (lambda: asyncio.run(tasks(contract.decorate(task))), 1),
    }
    for what, (start, count) in starts.items():
        with record() as recorder:
            start()
            found = recorder.runs
            shapes = sorted((tree.params or {}).get("owner", "?") for tree in found)
            expect(len(found) == 2, f"{what} made {len(found)} root runs, not 2: {found}")
            for tree in found:
                owners = [(child.params or {}).get("owner", "?") for child in tree.children]
                wanted = [(tree.params or {}).get("owner", "?")] * count
                expect(owners == wanted, f"{what} at once mixed their runs up ({shapes}): {tree!r}")


def _in_threads(function: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(wrap(function), owner) for owner in "ab"]:
            future.result(60)


# Streams.


def _stream_ends(contract: _Contract) -> None:
    for what, (leave, status) in LEFT.items():
        with record() as recorder:
            leave(contract.decorate(echo)(3))
            _finalize(recorder)
            expected = contract.run(echo, {"limit": 3}, status=status)
            contract.expect(recorder, [expected], f"a generator that {what}")
    for what, (leave, status) in LEFT_LATER.items():
        with record() as recorder:
            asyncio.run(_left(leave, contract.decorate(echo_later)))
            _finalize(recorder)
            expected = contract.run(echo_later, {"limit": 3}, status=status)
            contract.expect(recorder, [expected], f"an async generator that {what}")


def _finalize(recorder: Recorder) -> None:
    """
    Have what nobody holds finalised where references are not counted: its run is still open. Only then, as a
    full collection takes a second where much is imported.
    """
    if any(run.status == RUNNING for run in recorder.walk()):
        gc.collect()


async def _left(leave: Callable[[Any], Any], function: Callable[[int], Any]) -> None:
    await leave(function(3))
    expect(not current_run(), f"{current_run()!r} is the consumer's current one")


def _any_steps(contract: _Contract) -> None:
    def run_of(function: Any, limit: int, steps: list[str], story: list[Any]) -> RunTree:
        return contract.run(function, {"limit": limit}, status=_status_after(steps, story))

    def check(drawn: tuple[int, list[str], bool]) -> None:
        limit, steps, closes = drawn
        steps = ["next", *steps, *["close"] * closes]  # else it is dropped where it stands
        expected = run_of(echo, limit, steps, played(echo(limit), steps))
        with record() as recorder:
            played(contract.decorate(echo)(limit), steps, _expect_none_current)
            _finalize(recorder)
            contract.expect(recorder, [expected], f"a generator of {limit}, after {steps},")

    def check_later(drawn: tuple[int, list[str], bool]) -> None:
        limit, steps, task_each = drawn
        steps = ["next", *steps]
        plain = asyncio.run(played_later(echo_later(limit), steps, task_each=task_each))
        expected = run_of(echo_later, limit, steps, plain)
        with record() as recorder:
            stream = contract.decorate(echo_later)(limit)
            asyncio.run(played_later(stream, steps, _expect_none_current, task_each=task_each))
            contract.expect(recorder, [expected], f"an async generator of {limit}, after {steps},")

    check_later((3, ["cancel"], False))
    limits = st.integers(0, 4)
    for_all(st.tuples(limits, _lists_of(STEPS), st.booleans()), check, contract.examples)
    for_all(st.tuples(limits, _lists_of(STEPS_LATER), st.booleans()), check_later, contract.examples)


def _lists_of(steps: Mapping[str, Any]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(list(steps)), max_size=4)


def _expect_none_current() -> None:
    expect(not current_run(), f"between its steps {current_run()!r} is the consumer's current one")


def _status_after(steps: list[str], story: list[Any]) -> str:
    """Return the status of a stream's run: the first step by which the stream was over decides."""
    for step, found in zip(steps, story, strict=False):
        if step == "close":
            break
        if isinstance(found, Raised):
            ended = issubclass(found.kind, (StopIteration, StopAsyncIteration))
            return "FINISHED" if ended else "FAILED" if issubclass(found.kind, Exception) else "KILLED"
    return "FINISHED"


def _stream_is_current_in_its_body_only(contract: _Contract) -> None:
    seen: list[str] = []

    def body(n: int) -> Iterator[int]:
        for step in range(n):
            seen.append(current_run().id)
            yield step

    async def body_later(n: int) -> AsyncIterator[int]:
        for step in range(n):
            seen.append(current_run().id)
            yield step

    def consumer() -> None:
        own = current_run().id
        for _ in contract.decorate(body)(3):
            expect(
                current_run().id == own,
                "between the steps of a generator its run is the consumer's current one",
            )
        set_tag("consumed", 1)

    async def consumer_later() -> None:
        own = current_run().id
        async for _ in contract.decorate(body_later)(3):
            expect(
                current_run().id == own, "between the steps of an async generator its run is the consumer's"
            )
        set_tag("consumed", 1)

    for consume, function in ((consumer, body), (consumer_later, body_later)):
        seen.clear()
        with record() as recorder:
            result = contract.decorate(consume)()
            if result is not None:
                asyncio.run(result)
            child = contract.run(function, {"n": 3})
            contract.expect(
                recorder, [contract.run(consume, {}, children=[child])], f"a consumer of {function.__name__}"
            )
            ids = {tree.id for tree in recorder.walk() if tree.name == child.name and not tree.children}
            expect(
                set(seen) <= ids and len(seen) == 3,
                f"the run of {function.__name__} is not current in its body",
            )


def _interleaved(contract: _Contract) -> None:
    def body(mark: str) -> Iterator[str]:
        for step in range(3):
            log_param(f"step{step}", mark)
            yield mark

    def check(order: list[int]) -> None:
        with record() as recorder:
            streams = [contract.decorate(body)(mark) for mark in "ab"]
            for which in order:
                next(streams[which], None)
            for stream in streams:
                list(stream)
            for tree in recorder.runs:
                marks = {text for key, text in (tree.params or {}).items() if key.startswith("step")}
                expect(
                    len(marks) == 1,
                    f"two generators that take turns {order} logged to each other's runs: {tree!r}",
                )
            expect(len(recorder.runs) == 2, f"two generators made {len(recorder.runs)} runs")

    for_all(st.lists(st.integers(0, 1), max_size=6), check, contract.examples)


_LAWS: dict[str, Callable[[_Contract], None]] = {
    "each call is one run, with the arguments that the caller gave": _each_call,
    "a call that raises is FAILED or KILLED, with the error": _failures,
    "decorated twice, a call is recorded once": _twice,
    "runs nest as calls do": _nesting,
    "recursion nests": _recursion,
    "tasks and threads keep their runs apart": _tasks_and_threads,
    "a stream's run is current in its body and not in its consumer": _stream_is_current_in_its_body_only,
    "a stream's run ends once, however it is left": _stream_ends,
    "a stream's run ends once, whatever its consumer does": _any_steps,
    "streams that take turns keep their runs apart": _interleaved,
    "switched off, nothing is recorded": _off,
}
