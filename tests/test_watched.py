"""Code of the user's objects is given a bounded time, whatever it does with it; the caller goes on."""

from __future__ import annotations

import contextvars
import signal
import sys
import threading
import time

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mltrace

from mltrace import _watched
from mltrace._numbers import numbers
from mltrace._redaction import Redactor
from mltrace._values import Renderer
from mltrace.backends.memory import MemoryBackend
from tests.harness import run_python, until


RENDERER = Renderer(Redactor())
PATIENCE = 60.0
"""What a busy machine may add to the budget before a test says that the caller was held."""

METHODS = (
    *(
        "__repr__",
        "__str__",
        "__eq__",
        "__bool__",
        "__hash__",
        "__len__",
        "__iter__",
        "__contains__",
        "__format__",
    ),
    *("__getattr__", "__getattribute__", "__class__", "__reduce__", "__index__", "__float__", "__fspath__"),
)


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """Forget slow types and threads before and after each test."""
    _watched.reset()
    yield
    _watched.reset()


def plain(value: Any) -> Any:
    return RENDERER.plain("x", value, [])


def field(value: Any) -> str:
    return RENDERER.field("x", value, [])


def for_ever(*_: object, **__: object) -> Any:
    while True:
        pass


class Gate:
    """A method that returns when the test says so; for the renderer it never does."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.calls = 0

    def __call__(self, *_: object, **__: object) -> Any:
        self.calls += 1
        self.opened.wait(60)
        return "late"


@pytest.fixture(name="unhurried")
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take its time, where nothing is slow by itself."""
    monkeypatch.setattr(_watched, "BUDGET_SECONDS", 10.0)


@pytest.fixture(name="gate")
def _gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def having(method: str, function: Callable[..., Any], *bases: type) -> Any:
    """Return an object whose *method* is *function*."""
    made: Any = property(function) if method == "__class__" else function
    if method != "__class__":
        made = lambda *args, **kwargs: function(*args, **kwargs)  # noqa: E731 - a function, so that it is a method
    return type("Slow", bases, {method: made})


def text_is_late(kind: type) -> str:
    return f"<{kind.__module__}.Slow: its representation took longer than 50 ms>"


# Nothing that an object does holds the caller.


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_waits_does_not_hold_the_caller(method: str, gate: Gate) -> None:
    """Whichever method of an object never returns, its rendering does."""
    value = having(method, gate)()
    started = time.monotonic()
    assert "Slow" in field(value)
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_loops_does_not_hold_the_caller(method: str) -> None:
    """A loop without end is left behind too, and told to stop: its thread does not eat the processor for ever."""
    value = having(method, for_ever)()
    started = time.monotonic()
    assert "Slow" in field(value)
    assert time.monotonic() - started < PATIENCE
    until(lambda: not any(worker.is_alive for worker in _watched._left_behind))


CONTAINERS: list[tuple[type, tuple[Any, ...], str]] = [
    (dict, ({"a": 1},), "items"),
    (dict, ({"a": 1},), "__len__"),
    (list, ([1],), "__iter__"),
    (list, ([1],), "__len__"),
    (tuple, ([1],), "__iter__"),
    (set, ([1],), "__iter__"),
]


@pytest.mark.parametrize(("base", "arguments", "method"), CONTAINERS)
def test_a_container_that_waits_does_not_hold_the_caller(
    base: type, arguments: tuple[Any, ...], method: str, gate: Gate
) -> None:
    """Containers of the user's own are read under watch, those of Python's own kind are not."""
    kind = having(method, gate, base)
    assert text_is_late(kind) == plain(kind(*arguments))


@pytest.mark.usefixtures("unhurried")
def test_a_container_without_end_is_cut() -> None:
    """A sequence that always has another element is read up to the limit."""

    class Endless(list[int]):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield 1

    assert 20_000 <= len(plain(Endless())) <= 20_001


def test_a_subclass_of_a_plain_type_is_read_without_its_methods(gate: Gate) -> None:
    """A text is a text and a number a number, whatever a subclass makes of the conversions."""
    methods = dict.fromkeys(
        ("__str__", "__repr__", "__int__", "__float__", "__index__", "__len__", "__getitem__"), gate
    )
    kinds = [type("Own", (base,), methods) for base in (str, int, float)]
    assert ["text", 5, 1.5] == [
        plain(kind(value)) for kind, value in zip(kinds, ("text", 5, 1.5), strict=True)
    ]
    assert 0 == gate.calls


def test_the_search_for_numbers_does_not_hold_the_caller(gate: Gate) -> None:
    """A returned mapping whose items never come has no metrics."""
    started = time.monotonic()
    assert [] == numbers(having("items", gate, dict)(a=1))
    assert time.monotonic() - started < PATIENCE


# Through a decorated call.


def held(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    started = time.monotonic()
    try:
        call()
    except Exception:  # it is the call's own
        pass
    return time.monotonic() - started


def test_arguments_share_one_budget(memory: MemoryBackend, gate: Gate) -> None:
    """However many slow arguments a call has, they hold it no longer than one."""
    kinds = [having("__repr__", gate) for _ in range(20)]

    @mltrace.track_run
    def call(**values: Any) -> None: ...

    assert (
        held(lambda: call(**{f"x{place}": kind() for place, kind in enumerate(kinds)}))
        < 10 * _watched.BUDGET_SECONDS
    )
    assert 20 == len(memory.roots[0].params)


SLOW_ENDS: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "output": lambda slow: having("__repr__", slow)(),
    "mapping": lambda slow: having("items", slow, dict)(a=1),
    "nested": lambda slow: {"a": [having("__repr__", slow)()]},
    "attribute": lambda slow: having("__getattr__", slow)(),
}


@pytest.mark.parametrize("make", SLOW_ENDS.values(), ids=SLOW_ENDS)
@pytest.mark.parametrize("decorate", [mltrace.track_run, mltrace.log_llm_call, mltrace.log_prediction])
def test_a_slow_output_does_not_hold_the_caller(
    memory: MemoryBackend, gate: Gate, make: Callable[..., Any], decorate: Any
) -> None:
    """A result that nobody can read is handed over at once, the same object, and its run ends."""
    result = make(gate)
    found: list[Any] = []
    assert held(lambda: found.append(decorate(lambda: result)())) < PATIENCE
    assert (True, "FINISHED") == (found[0] is result, memory.roots[0].status)


@pytest.mark.parametrize("method", ["__str__", "__repr__"])
def test_a_slow_exception_does_not_hold_the_caller(memory: MemoryBackend, gate: Gate, method: str) -> None:
    """The exception passes on; the traceback says where it came from though its text cannot be had."""
    kind = having(method, gate, ValueError)
    error = kind(having("__repr__", gate)())

    @mltrace.track_run
    def call() -> None:
        raise error

    assert held(call) < PATIENCE
    [run] = memory.roots
    assert "took longer than 50 ms" in run.tags["mltrace.error.message"]
    assert "raise error" in run.artifacts["traceback.txt"].decode()


def test_a_slow_cause_does_not_hold_the_caller(memory: MemoryBackend, gate: Gate) -> None:
    """The exceptions behind an exception are in its traceback, and watched as it is."""

    @mltrace.track_run
    def call() -> None:
        raise KeyError("plain") from having("__str__", gate, ValueError)()

    assert held(call) < PATIENCE
    assert "FAILED" == memory.roots[0].status


def test_a_slow_value_in_a_name_does_not_hold_the_caller(memory: MemoryBackend, gate: Gate) -> None:
    """A template that asks for such a value is used as it stands."""
    call = mltrace.track_run("load_{value}")(lambda value: None)
    assert held(lambda: call(having("__format__", gate)())) < PATIENCE
    assert "load_{value}" == memory.roots[0].name


def test_slow_keys_and_texts_do_not_hold_the_caller(memory: MemoryBackend, gate: Gate) -> None:
    """Keys that are no texts, and texts that are none, are asked for one under watch."""
    slow: Any = having("__str__", gate)()
    with mltrace.track_run("block") as run:
        assert held(lambda: run.log_params({slow: 1})) < PATIENCE
        assert held(lambda: run.log_text(slow, "a.txt")) < PATIENCE
        assert held(lambda: run.log_dict({slow: slow}, "a.json")) < PATIENCE
    assert {"a.txt", "a.json"} == set(memory.roots[0].artifacts)


def test_a_slow_exception_is_not_asked_again(memory: MemoryBackend, gate: Gate) -> None:
    """An exception that is raised again and again costs its time once."""
    kind = having("__str__", gate, ValueError)

    @mltrace.track_run
    def call() -> None:
        raise kind("x")

    held(call)
    asked = gate.calls
    assert held(lambda: [held(call) for _ in range(20)]) < 10 * _watched.BUDGET_SECONDS
    assert (asked, 21) == (gate.calls, len(memory.roots))


# What is recorded.


def test_a_slow_type_is_not_asked_again(gate: Gate) -> None:
    """What was late once costs nothing for a minute, and then is given another chance."""
    kind = having("__repr__", gate)
    assert [text_is_late(kind)] * 3 == [plain(kind()) for _ in range(3)]
    assert 1 == gate.calls


def test_a_slow_type_is_asked_again_after_a_minute(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A type that was late on a busy machine is not lost for the rest of the process."""
    kind = having("__repr__", gate)
    plain(kind())
    gate.opened.set()
    monkeypatch.setattr(_watched, "BUDGET_SECONDS", 10.0)
    later = _watched._clock.elapsed_ns() + _watched._QUARANTINE_NS
    monkeypatch.setattr(_watched._clock, "elapsed_ns", lambda: later)
    assert "late" == plain(kind())


def test_what_stands_beside_a_slow_value_is_rendered(gate: Gate) -> None:
    """Of a list the elements before the late one are as they are; those of other types are shown the next time."""

    class Quick:
        def __repr__(self) -> str:
            return "quick"

    kind = having("__repr__", gate)
    values = [Quick(), kind(), Quick(), 5]
    first = plain(values)
    assert ["quick", text_is_late(kind), 5] == [first[0], first[1], first[3]]
    assert ["quick", text_is_late(kind), "quick", 5] == plain(values)


@pytest.mark.usefixtures("unhurried")
def test_a_long_list_is_handed_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand objects with a text of their own cost one hand-over, not a thousand."""

    class Own:
        def __repr__(self) -> str:
            return "own"

    runs = []
    run = _watched.run
    monkeypatch.setattr(_watched, "run", lambda *args: runs.append(1) or run(*args))
    shared = Own()
    assert ["own"] * 1_010 == plain([*(Own() for _ in range(1_000)), *([shared] * 10)])
    assert 1 == len(runs)


@pytest.mark.usefixtures("unhurried")
def test_an_object_that_ends_the_program_does_not() -> None:
    """`SystemExit` and `KeyboardInterrupt` from an object's text are its text's failure, and nothing else."""

    def leave(*_: object) -> str:
        sys.exit(1)

    assert "SystemExit" in field(having("__repr__", leave)())


def test_no_thread_is_made_for_plain_values() -> None:
    """Values of known types are rendered where they are."""
    before = threading.active_count()
    field({"a": [1, "text", 2.5, None, {"b": b"bytes"}], "time": time, "error": ValueError("text")})
    assert (before, []) == (threading.active_count(), _watched._idle)


@pytest.mark.usefixtures("unhurried")
def test_a_thread_is_used_again() -> None:
    """One value after the other is read by the same thread."""

    class Own:
        def __repr__(self) -> str:
            return threading.current_thread().name + str(threading.get_ident())

    assert 1 == len({plain(Own()) for _ in range(5)})


def test_a_shutdown_leaves_no_thread(memory: MemoryBackend) -> None:
    """Threads that wait for work end with the sender's."""
    before = set(threading.enumerate())
    mltrace.track_run(lambda value: None)(having("__repr__", lambda *_: "own")())
    mltrace.shutdown()
    until(
        lambda: (
            not [one for one in threading.enumerate() if one not in before and one.name == "mltrace-watched"]
        )
    )


def test_too_many_left_behind_threads_are_not_joined_by_more(gate: Gate) -> None:
    """Objects whose text never comes take a handful of threads; then no text is asked for until one ends."""
    kinds = [having("__repr__", gate) for _ in range(_watched._LEFT_BEHIND)]
    for kind in kinds:
        plain(kind())

    class Own:
        def __repr__(self) -> str:
            return "own"

    assert "not asked" in plain(Own())
    gate.opened.set()
    until(lambda: plain(Own()) == "own")


# Where it runs.


@pytest.mark.usefixtures("unhurried")
def test_the_context_is_the_callers() -> None:
    """Context variables have the caller's values in an object's text."""
    variable = contextvars.ContextVar("variable", default="default")

    class Own:
        def __repr__(self) -> str:
            return variable.get()

    variable.set("the caller's")
    assert "the caller's" == plain(Own())


def test_a_text_that_makes_a_traced_call_of_itself_ends(memory: MemoryBackend) -> None:
    """An object whose text calls a decorated method of its own does not start thread after thread."""

    class Own:
        @mltrace.track_run
        def name(self, other: Any) -> str:
            return repr(other)

        def __repr__(self) -> str:
            return self.name(self)

    before = threading.active_count()
    field(Own())
    assert threading.active_count() < before + 10
    until(lambda: not any(worker.is_alive for worker in _watched._left_behind))


def test_several_threads_render_at_once() -> None:
    """Each caller gets the text of its own object."""

    class Own:
        def __init__(self, number: int) -> None:
            self.number = number

        def __repr__(self) -> str:
            return f"own {self.number}"

    found: dict[int, list[str]] = {}
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait(10)
        found[number] = [plain(Own(number)) for _ in range(50)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # On a busy machine a hand-over may be late: then it says so, and never shows another's text.
    assert all(text == f"own {number}" or "Own" in text for number, texts in found.items() for text in texts)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that signals")
def test_an_interrupt_during_the_wait_reaches_the_caller(gate: Gate) -> None:
    """A signal's handler that raises while an object is asked for its text is not swallowed."""

    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, _watched.BUDGET_SECONDS / 5)
        with pytest.raises(Interrupted):
            plain(having("__repr__", gate)())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_forked_child_has_threads_of_its_own() -> None:
    """Threads do not survive a fork: the child starts its own, also where the parent left one behind."""
    done = run_python(
        """
        import os, threading
        from mltrace._redaction import Redactor
        from mltrace._values import Renderer

        class Own:
            def __repr__(self): return "own"

        class Late:
            def __repr__(self): threading.Event().wait(30)

        render = Renderer(Redactor()).field
        print(render("x", Own(), []), render("x", Late(), []), flush=True)
        if (child := os.fork()) == 0:
            print(render("x", Own(), []), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """
    )
    assert [
        "own <__main__.Late: its representation took longer than 50 ms>",
        "own",
    ] == done.stdout.splitlines()


def test_the_exit_does_not_wait_for_what_was_left_behind() -> None:
    """A process ends though an object's text never came, and an object that is rendered at the exit is harmless."""
    done = run_python(
        """
        import atexit, threading
        from mltrace._redaction import Redactor
        from mltrace._values import Renderer

        class Late:
            def __repr__(self): threading.Event().wait(300)

        class Own:
            def __repr__(self): return "own"

        render = Renderer(Redactor()).field
        atexit.register(lambda: print("Own" in render("x", Own(), []) or render("x", Own(), [])))
        render("x", Late(), [])
        """
    )
    assert ("own" in done.stdout or "True" in done.stdout, "") == (True, done.stderr)


def test_a_thread_that_is_left_behind_at_any_moment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether work is left behind before it begins, during it or as it ends, its thread ends without a word."""

    class Own:
        def __repr__(self) -> str:
            return "own"

    said: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    for microseconds in range(0, 400, 2):
        _watched._slow.clear()
        monkeypatch.setattr(_watched, "BUDGET_SECONDS", microseconds / 1e6 + 1e-9)
        plain(Own())
    until(lambda: not any(worker.is_alive for worker in _watched._left_behind))
    assert [] == said
