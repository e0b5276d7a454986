"""The current run follows tasks, copied contexts, wrapped threads and carriers: no run is a stray one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mltrace

from mltrace.backends.memory import MemoryBackend, RecordedRun


def only(memory: MemoryBackend) -> RecordedRun:
    [run] = memory.roots
    return run


def shape(run: RecordedRun) -> Any:
    """Return the names of a tree, children sorted: ``("name", [children])``."""
    return run.name, sorted(shape(child) for child in run.children)


def in_thread(function: Callable[[], Any]) -> Any:
    """Return what *function* returns in a thread of its own."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture(name="lenient")
def _lenient() -> MemoryBackend:
    """Record into memory as in production: misuse is warned of, not raised."""
    backend = MemoryBackend()
    mltrace.configure(backend=backend)
    return backend


@mltrace.track_run("leaf")
def leaf() -> str:
    return mltrace.current_run().id


@mltrace.track_run("leaf")
async def leaf_later() -> str:
    return mltrace.current_run().id


# Tasks.


def test_tasks_that_take_turns_nest_right(memory: MemoryBackend) -> None:
    """Two tasks that are in their runs at the same time each have their own children."""

    @mltrace.track_run("task_{name}")
    async def work(name: str, mine: list[asyncio.Event], others: list[asyncio.Event]) -> None:
        for turn in range(2):
            mine[turn].set()
            await others[turn].wait()
            with mltrace.track_run(f"step_{name}_{turn}"):
                await leaf_later()

    async def main() -> None:
        first, second = ([asyncio.Event(), asyncio.Event()] for _ in range(2))
        with mltrace.track_run("outer") as outer:
            await asyncio.gather(work("a", first, second), work("b", second, first))
            assert outer is mltrace.current_run()

    asyncio.run(main())
    tasks = [
        (f"task_{name}", [(f"step_{name}_{turn}", [("leaf", [])]) for turn in range(2)]) for name in "ab"
    ]
    assert ("outer", tasks) == shape(only(memory))


def test_a_task_that_outlives_its_parent_is_still_its_child(memory: MemoryBackend) -> None:
    """A task belongs to the run that it was started in, even when that has ended first."""

    async def main() -> None:
        ended = asyncio.Event()

        async def late() -> None:
            await ended.wait()
            await leaf_later()

        with mltrace.track_run("outer"):
            task = asyncio.ensure_future(late())
        ended.set()
        await task

    asyncio.run(main())
    assert ("outer", [("leaf", [])]) == shape(only(memory))


def test_to_thread_carries_the_run(memory: MemoryBackend) -> None:
    """What `asyncio.to_thread` runs belongs to the task that waits for it."""

    async def main() -> None:
        with mltrace.track_run("outer"):
            await asyncio.gather(*(asyncio.to_thread(leaf) for _ in range(3)))

    asyncio.run(main())
    assert ("outer", [("leaf", [])] * 3) == shape(only(memory))


def test_a_copied_context_carries_the_run(memory: MemoryBackend) -> None:
    """A context that was copied within a run has it, in any thread."""
    with mltrace.track_run("outer"):
        copied = contextvars.copy_context()
        in_thread(lambda: copied.run(leaf))
    assert ("outer", [("leaf", [])]) == shape(only(memory))


def test_a_coroutine_may_be_resumed_in_another_context(memory: MemoryBackend) -> None:
    """A coroutine that is driven by hand from two contexts gives its result, and its run ends."""

    class Pause:
        def __await__(self) -> Iterator[None]:
            yield

    @mltrace.track_run("paused")
    async def paused() -> str:
        await Pause()
        return "done"

    coroutine = paused()
    contextvars.Context().run(coroutine.send, None)
    with pytest.raises(StopIteration) as stop:
        contextvars.Context().run(coroutine.send, None)
    assert ("done", "FINISHED") == (stop.value.value, only(memory).status)
    assert not mltrace.current_run()


# Threads.


def test_wrap_carries_the_run_into_threads(memory: MemoryBackend) -> None:
    """Four threads that work at the same time under `wrap` nest under the run of the wrapping."""
    barrier = threading.Barrier(4)

    @mltrace.track_run("work_{number}")
    def work(number: int) -> int:
        barrier.wait()
        leaf()
        return number

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        with mltrace.track_run("outer"):
            assert [0, 1, 2, 3] == list(pool.map(mltrace.wrap(work), range(4)))
        assert [False] * 4 == list(pool.map(lambda _: bool(mltrace.current_run()), range(4)))
    assert ("outer", [(f"work_{number}", [("leaf", [])]) for number in range(4)]) == shape(only(memory))


def test_the_run_of_the_wrapping_is_what_counts(memory: MemoryBackend) -> None:
    """A wrapped function belongs to the run that it was wrapped in, and leaves the caller's current."""
    with mltrace.track_run("wrapping"):
        wrapped = mltrace.wrap(leaf)
    with mltrace.track_run("calling") as calling:
        wrapped()
        assert calling is mltrace.current_run()
    assert [("wrapping", [("leaf", [])]), ("calling", [])] == [shape(root) for root in memory.roots]


def test_wrap_outside_any_run_carries_none(memory: MemoryBackend) -> None:
    """A function wrapped where there is no run makes roots."""
    wrapped = mltrace.wrap(leaf)
    with mltrace.track_run("calling"):
        wrapped()
    assert [("calling", []), ("leaf", [])] == [shape(root) for root in memory.roots]


def test_wrap_leaves_exceptions_and_results_alone(memory: MemoryBackend) -> None:
    """What a wrapped function raises or returns passes, and its thread's run is restored."""
    error = ValueError("no")

    def fail() -> None:
        raise error

    with mltrace.track_run("outer"):
        wrapped = mltrace.wrap(fail)
    with pytest.raises(ValueError, match="no") as caught:
        wrapped()
    assert error is caught.value
    assert not mltrace.current_run()


class Worker:
    def method(self, x: int, *, y: int = 2) -> tuple[str, int, int]:
        """Work."""
        return mltrace.current_run().name, x, y

    __call__ = method


@pytest.mark.parametrize(
    "function",
    [
        Worker().method,
        Worker(),
        functools.partial(Worker().method),
        lambda x, *, y=2: Worker().method(x, y=y),
    ],
)
def test_wrap_takes_any_callable(memory: MemoryBackend, function: Callable[..., Any]) -> None:
    """Methods, partials, instances and lambdas can be wrapped, with any arguments."""
    with mltrace.track_run("outer"):
        wrapped = mltrace.wrap(function)
    assert ("outer", 1, 3) == in_thread(lambda: wrapped(1, y=3))


def test_what_wrap_returns_looks_like_the_function(memory: MemoryBackend) -> None:
    """Name, documentation and signature are kept."""
    wrapped = mltrace.wrap(Worker().method)
    assert ("method", "Work.") == (wrapped.__name__, wrapped.__doc__)
    assert inspect.signature(Worker().method) == inspect.signature(wrapped)


def test_wrap_takes_coroutine_functions(memory: MemoryBackend) -> None:
    """A wrapped coroutine function is one, and has the run in another thread's loop."""
    with mltrace.track_run("outer"):
        wrapped = mltrace.wrap(leaf_later)
    assert inspect.iscoroutinefunction(wrapped)
    in_thread(lambda: asyncio.run(wrapped()))
    assert ("outer", [("leaf", [])]) == shape(only(memory))


def test_wrap_takes_generator_functions(memory: MemoryBackend) -> None:
    """A wrapped generator has the run during each step in another thread, and its consumer has not."""

    def steps() -> Iterator[str]:
        yield mltrace.current_run().name
        yield mltrace.current_run().name

    with mltrace.track_run("outer"):
        wrapped = mltrace.wrap(steps)
    assert [("outer", False), ("outer", False)] == in_thread(
        lambda: [(name, bool(mltrace.current_run())) for name in wrapped()]
    )


def test_logging_in_a_bare_thread_records_nothing(lenient: MemoryBackend, said: list[str]) -> None:
    """A thread that carries no run logs to none; one warning names the thread and the remedy."""

    def log() -> None:
        for number in range(3):
            mltrace.log_metric("m", number)

    with mltrace.track_run("outer"):
        in_thread(log)
        in_thread(log)
    assert {"latency_ms"} == only(lenient).metrics.keys()
    assert 1 == len(said)
    assert "mltrace.wrap" in said


def test_a_call_in_a_bare_thread_is_a_root_and_is_said(lenient: MemoryBackend, said: list[str]) -> None:
    """A call in a bare thread has no parent; while a run is open in the main thread, one warning says so."""
    with mltrace.track_run("outer"):
        in_thread(leaf)
        in_thread(leaf)
    assert [("outer", []), ("leaf", []), ("leaf", [])] == [shape(root) for root in lenient.roots]
    assert 1 == len(said)
    assert "mltrace.wrap" in said


def test_a_call_in_a_thread_with_no_run_anywhere_is_ordinary(lenient: MemoryBackend, said: list[str]) -> None:
    """The threads of a server record roots, and nothing is said about it."""
    with mltrace.track_run("before") as before:
        pass
    in_thread(leaf)
    assert [("before", []), ("leaf", [])] == [shape(root) for root in lenient.roots]
    assert (False, 0) == (before.is_open, len(said))


# Processes.


def test_a_carrier_is_a_small_dict_of_strings(memory: MemoryBackend) -> None:
    """It names run and experiment, with a W3C ``traceparent``, for JSON; outside any run it is empty."""
    assert {} == mltrace.carrier()
    with (
        mltrace.track_run("outer", experiment_name="e") as outer,
        mltrace.track_run("middle"),
        mltrace.track_run("inner") as inner,
    ):
        found = mltrace.carrier()
    assert (inner.id, "e") == (found["mltrace-run"], found["mltrace-experiment"])
    assert f"00-{outer.id}-{inner.id[:16]}-01" == found["traceparent"]
    assert found == json.loads(json.dumps(found))


def test_a_carrier_says_whether_the_tree_is_recorded(memory: MemoryBackend) -> None:
    """The flag is 00 in a tree that is not sampled, and what is attached to it is not recorded either."""
    with mltrace.track_run("outer", sample_rate=0.0), mltrace.track_run("inner"):
        carrier = mltrace.carrier()
    assert carrier["traceparent"].endswith("-00")
    with mltrace.attach(carrier):
        mltrace.log_metric("m", 1)
        leaf()
    assert {} == memory.runs


def test_attach_makes_the_run_current(memory: MemoryBackend) -> None:
    """In the block new runs nest under the carrier's, in its experiment, and logging goes to it."""
    with mltrace.track_run("outer", experiment_name="e") as outer:
        carrier = mltrace.carrier()
    with mltrace.attach(carrier):
        assert outer.id == mltrace.current_run().id
        assert carrier == mltrace.carrier()
        mltrace.log_metric("m", 1)
        leaf()
    assert not mltrace.current_run()
    assert ("outer", [("leaf", [])]) == shape(only(memory))
    assert ("e", 1.0) == (only(memory).children[0].experiment, only(memory).metrics["m"])


def test_attach_within_a_run_is_undone(memory: MemoryBackend) -> None:
    """An exception leaves the block with the run before it current again."""
    with mltrace.track_run("first"):
        carrier = mltrace.carrier()
    with mltrace.track_run("second") as second:
        with pytest.raises(ValueError, match="no"), mltrace.attach(carrier):
            raise ValueError("no")
        assert second is mltrace.current_run()


def test_the_end_of_a_run_is_its_owners(memory: MemoryBackend) -> None:
    """Who has a run from a carrier cannot end it."""
    with mltrace.track_run("outer"):
        with mltrace.attach(mltrace.carrier()):
            mltrace.end_run("KILLED")
        assert None is only(memory).status
    assert "FINISHED" == only(memory).status


def test_an_empty_carrier_attaches_nothing(memory: MemoryBackend) -> None:
    """A carrier made outside any run can be passed on as any other."""
    with mltrace.track_run("outer") as outer, mltrace.attach({}):
        assert outer is mltrace.current_run()


GOOD = {"mltrace-run": "a" * 32, "mltrace-experiment": "e", "traceparent": f"00-{'b' * 32}-{'a' * 16}-01"}
MALFORMED: list[Any] = [
    None,
    "text",
    5,
    ["mltrace-run"],
    {"mltrace-run": "a" * 32},
    {**GOOD, "mltrace-run": "short"},
    {**GOOD, "mltrace-run": "A" * 32},
    {**GOOD, "mltrace-run": 5},
    {**GOOD, "mltrace-experiment": None},
    {**GOOD, "traceparent": "00-b-a-01"},
    {**GOOD, "traceparent": None},
    {"unknown": "x"},
]


@pytest.mark.parametrize("carrier", MALFORMED, ids=repr)
def test_a_malformed_carrier_attaches_nothing(lenient: MemoryBackend, said: list[str], carrier: Any) -> None:
    """What is no carrier leaves the current run as it is, with one warning."""
    for _ in range(2):
        with mltrace.track_run("outer") as outer, mltrace.attach(carrier):
            assert outer is mltrace.current_run()
            leaf()
    assert [("outer", [("leaf", [])])] * 2 == [shape(root) for root in lenient.roots]
    assert 1 == len(said)
    assert "not a carrier" in said


def test_a_malformed_carrier_raises_in_strict_mode(memory: MemoryBackend) -> None:
    """In tests it is an error."""
    with pytest.raises(mltrace.LoggingError, match="not a carrier"), mltrace.attach({"unknown": "x"}):
        pass


def test_the_environment_can_hold_a_carrier(memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``MLTRACE_CARRIER`` the process's roots nest under that run; a run of its own comes first."""
    monkeypatch.setenv("MLTRACE_CARRIER", json.dumps(GOOD))
    leaf()
    with mltrace.track_run("outer"):
        leaf()
    assert GOOD == mltrace.carrier()
    assert [("leaf", []), ("outer", [("leaf", [])])] == [shape(root) for root in memory.roots]
    assert [("a" * 32, "e")] * 2 == [(root.parent_id, root.experiment) for root in memory.roots]


@pytest.mark.parametrize("text", ["", "{}", "nonsense", "[1]", '{"mltrace-run": 5}', "null"], ids=repr)
def test_a_malformed_environment_is_said_once(
    lenient: MemoryBackend, said: list[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """What is no carrier there is warned of once, and the runs have no parent; an empty one is none."""
    monkeypatch.setenv("MLTRACE_CARRIER", text)
    leaf()
    leaf()
    assert [None, None] == [root.parent_id for root in lenient.roots]
    assert (0 if text in ("", "{}") else 1) == len(said)


CHILD = """
import json, sys, mltrace
@mltrace.track_run
def call():
    return mltrace.current_run().parent_id
print(json.dumps([mltrace.current_run().id, call(), mltrace.carrier()]))
"""


def test_a_subprocess_takes_the_run_from_its_environment(memory: MemoryBackend) -> None:
    """A program that knows nothing of its parent nests under the run in its environment."""
    with mltrace.track_run("outer") as outer:
        environment = {
            **os.environ,
            "MLTRACE_CARRIER": json.dumps(mltrace.carrier()),
            "MLTRACE_BACKEND": "memory",
        }
        answer = subprocess.run(
            [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=True
        )
        assert [outer.id, outer.id, mltrace.carrier()] == json.loads(answer.stdout)


def look(carrier: dict[str, str]) -> tuple[str, str | None, dict[str, str], int]:
    """Return what a worker process sees in the block and after it."""
    with mltrace.attach(carrier):
        found = mltrace.current_run().id, parent_of_a_call(), mltrace.carrier()
    return (*found, os.getpid())


@mltrace.track_run
def parent_of_a_call() -> str | None:
    return mltrace.current_run().parent_id


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of threads that other tests have left
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_process_pool_takes_a_carrier(
    memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """In a worker process, however it was started, what is attached is the parent's run, by id and trace."""
    monkeypatch.setenv("MLTRACE_BACKEND", "memory")
    with (
        mltrace.track_run("outer", experiment_name="e") as outer,
        concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool,
    ):
        carrier = mltrace.carrier()
        run, parent, again, pid = pool.submit(look, carrier).result()
    assert (outer.id, outer.id, carrier) == (run, parent, again)
    assert pid != os.getpid()
    assert [outer.id] == list(memory.runs)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_decorated_functions_are_pool_workers(memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decorated function is found by its name in another process, and runs there."""
    monkeypatch.setenv("MLTRACE_BACKEND", "memory")
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert re.fullmatch("[0-9a-f]{32}", pool.submit(leaf).result())
    assert {} == memory.runs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_ends_nor_repeats_its_parents_runs(memory: MemoryBackend) -> None:
    """A child that leaves the block of its parent's run does not end it, and makes ids of its own."""
    receive, send = os.pipe()
    with mltrace.track_run("outer"):
        pid = os.fork()
        if pid == 0:  # the child reports and is gone, whatever happens
            try:
                mltrace.current_run().end()
                report = [leaf(), next(run.status for run in memory.runs.values())]
                os.write(send, json.dumps(report).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        child_id, status_in_child = json.loads(os.read(receive, 10_000))
        os.close(receive)
        os.close(send)
        assert None is status_in_child
        assert child_id != leaf()
    assert "FINISHED" == only(memory).status
