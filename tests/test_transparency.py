"""Decorated callables in the places where undecorated ones are used: pickles, processes, frameworks, the standard library."""

from __future__ import annotations

import abc
import ast
import asyncio
import contextlib
import copy
import dataclasses
import enum
import functools
import inspect
import json
import math
import multiprocessing
import pickle
import sys
import textwrap
import typing
import urllib.parse

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

import mltrace

from mltrace.testing import Recorder, RunTree, record, run, strategies
from mltrace.testing._hypothesis import for_all
from mltrace.testing._laws import make, outcome


pytest_plugins = ["pytester"]

few = settings(deadline=None, max_examples=20)
numbers = st.integers(-99, 99)


def traced(function: Any) -> Any:
    return mltrace.track_run(function)


def names(recorder: Recorder) -> list[str]:
    return [tree.name for tree in recorder.walk()]


# Pickles.


class Adder:
    """A callable instance, with methods of its own."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, x: int) -> int:
        return x + self.offset

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adder) and self.offset == other.offset

    __hash__ = None  # type: ignore[assignment]

    @mltrace.track_run
    def add(self, x: int) -> int:
        return x + self.offset

    @mltrace.track_run
    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @classmethod
    @mltrace.track_run
    def make(cls, x: int) -> Adder:
        return cls(x)


@mltrace.track_run("add_{x}", tags={"env": "test"})
def add(x: int, offset: int = 1) -> int:
    return x + offset


def add_plain(x: int, offset: int) -> int:
    return x + offset


def callables(offset: int, x: int) -> list[tuple[Any, Any]]:
    """Return decorated callables of every sort, each with what it makes of *x*."""
    return [
        (add, x + 1),
        (functools.partial(add, offset=offset), x + offset),
        (traced(functools.partial(add_plain, offset=offset)), x + offset),
        (traced(Adder(offset)), x + offset),
        (traced(Adder(offset).__call__), x + offset),
        (Adder(offset).add, x + offset),
        (Adder(offset).double, 2 * x),
        (Adder.make, Adder(x)),
        (traced(abs), abs(x)),
    ]


picklers = st.sampled_from([pickle, cloudpickle])
protocols = st.integers(0, pickle.HIGHEST_PROTOCOL)


@given(numbers, numbers, picklers, protocols)
@few
def test_any_decorated_callable_is_pickled_as_the_undecorated_one(
    offset: int, x: int, by: Any, protocol: int
) -> None:
    """Functions, methods, instances, partials and bound methods come back with their decoration and their state."""
    for function, expected in callables(offset, x):
        again = pickle.loads(by.dumps(function, protocol))
        with record() as recorder:
            assert expected == again(x)
        assert 1 == len(recorder.runs), function


def serve(connection: Connection) -> None:
    """Make the calls that come, in a process that is spawned for them; answer results and runs."""
    with contextlib.suppress(EOFError):
        while True:
            sent = connection.recv_bytes()
            try:
                call = strategies.Call(*pickle.loads(sent))
                with record() as recorder:
                    result = make(call)
                connection.send((result, repr(recorder.runs)))
            except Exception as error:
                connection.send((repr(error), "[]"))


@pytest.fixture(scope="module")
def there() -> Iterator[Callable[..., tuple[Any, list[RunTree]]]]:
    """Return what makes a pickled call in another process, one for all of this module's."""
    context = multiprocessing.get_context("spawn")
    here, its = context.Pipe()
    process = context.Process(target=serve, args=(its,), daemon=True)
    process.start()
    its.close()

    def call(pickled: bytes) -> tuple[Any, list[RunTree]]:
        here.send_bytes(pickled)
        assert here.poll(60), "the other process does not answer"
        result, runs = here.recv()
        return result, eval(runs, {"run": run, "inf": math.inf, "nan": math.nan})

    yield call
    here.close()
    process.join(60)


@given(numbers, numbers, picklers, protocols)
@few
def test_any_decorated_callable_is_called_in_a_spawned_process(
    there: Any, offset: int, x: int, by: Any, protocol: int
) -> None:
    """What is found there by its name, and the state that is sent along, gives the same and is recorded there."""
    for function, expected in callables(offset, x):
        result, runs = there(by.dumps((function, (x,), {}, "function"), protocol))
        assert (expected, 1) == (result, len(runs)), function


def told(arguments: dict[str, Any]) -> list[Any]:
    return list(arguments.items())


@given(
    strategies.calls(body=told, kinds=strategies.KINDS),
    st.sampled_from(["called", "{x}", None]),
    st.dictionaries(st.sampled_from(["env", "team"]), st.text("ab", max_size=3)),
    protocols,
)
@settings(deadline=None, max_examples=100)
def test_any_call_can_be_sent_to_a_spawned_process(
    there: Any, call: strategies.Call, name: str | None, tags: dict[str, str], protocol: int
) -> None:
    """cloudpickle sends by value what cannot be imported there: any function, of any kind, decorated, with its options."""
    decorated = mltrace.track_run(name, tags=tags)(call.function)
    with record() as recorder:
        expected = make(call, decorated)
    sent = cloudpickle.dumps((decorated, call.args, call.kwargs, call.kind), protocol)
    assert (expected, recorder.runs) == there(sent)


@given(numbers, numbers, st.integers(0, 4), protocols)
@few
def test_methods_of_a_local_class_can_be_sent_to_a_spawned_process(
    there: Any, offset: int, x: int, depth: int, protocol: int
) -> None:
    """cloudpickle sends the class by value with them: bound to an instance, to the class, to nothing; a recursion nests."""

    class Local:
        def __init__(self, offset: int) -> None:
            self.offset = offset

        @mltrace.track_run("add_{x}")
        def add(self, x: int) -> int:
            return x + self.offset

        @mltrace.track_run
        async def later(self, x: int) -> int:
            return x + self.offset

        @mltrace.track_run
        def stream(self, x: int) -> Iterator[int]:
            yield from (x, self.offset)

        @classmethod
        @mltrace.track_run
        def of_class(cls, x: int) -> int:
            return cls(x).offset

        @mltrace.track_run
        @staticmethod
        def static(x: int) -> int:
            return -x

        @mltrace.track_run
        def fall(self, n: int) -> int:
            return self.fall(n - 1) if n else self.offset

    one = Local(offset)
    for function, argument, kind in (
        (one.add, x, "function"), (one.later, x, "coroutine"), (one.stream, x, "generator"),
        (one.of_class, x, "function"), (Local.of_class, x, "function"),
        (one.static, x, "function"), (Local.static, x, "function"), (one.fall, depth, "function"),
    ):  # fmt: skip
        sent = function, (argument,), {}, kind
        with record() as recorder:
            expected = make(strategies.Call(*sent))
        assert (expected, recorder.runs) == there(cloudpickle.dumps(sent, protocol))


@given(numbers, numbers)
@few
def test_a_decorated_instance_is_copied_as_the_undecorated_one(offset: int, x: int) -> None:
    """A function is copied as itself; of an instance the copy has its own state, and is decorated too."""
    original = traced(Adder(offset))
    duplicate = copy.deepcopy(original)
    duplicate.__wrapped__.offset += 1
    with record() as recorder:
        assert (x + offset, x + offset + 1) == (original(x), duplicate(x))
    assert ["Adder", "Adder"] == names(recorder)
    assert add is copy.copy(add)


MAIN = """
import functools, multiprocessing, pickle, subprocess, sys
import mltrace

mltrace.configure(backend="memory", strict=True)

@mltrace.track_run("fall_{x}", tags={"env": "test"})
def fall(x):
    return mltrace.current_run().name if x == 0 else fall(x - 1)

class Service:
    def __init__(self, name):
        self.name = name

    @mltrace.track_run("{greeting}")
    def greet(self, greeting):
        return (self.name, mltrace.current_run().name)

    @mltrace.track_run
    @staticmethod
    def static(x):
        return mltrace.current_run().name

    @mltrace.track_run
    async def later(self, x):
        return mltrace.current_run().name

def enclosing(y):
    @mltrace.track_run
    def inner(x):
        return (x + y, mltrace.current_run().name)
    return inner

service = Service("a")
"""


def test_a_spawned_process_gets_decorated_callables(tmp_path: Path) -> None:
    """Functions and methods of a script are found by name in processes that are spawned, and record there."""
    script = tmp_path / "script.py"
    script.write_text(
        MAIN
        + textwrap.dedent("""
        if __name__ == "__main__":
            from concurrent.futures import ProcessPoolExecutor
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                print([pool.submit(fall, 2).result(), pool.submit(service.greet, "hello").result(),
                       pool.submit(Service.static, 1).result(), pool.submit(service.static, 1).result()])
        """)
    )
    done = _run(script)
    assert "['fall_0', ('a', 'hello'), 'Service.static', 'Service.static']" == done


def test_cloudpickle_takes_decorated_callables_of_a_script_along(tmp_path: Path) -> None:
    """What another process cannot import arrives there by value, decorated, with its options; a recursion stays one."""
    script = tmp_path / "script.py"
    script.write_text(
        MAIN
        + textwrap.dedent("""
        import cloudpickle
        child = '''
        import asyncio, pickle, sys
        from mltrace.testing import record
        fall, greet, static, bound_static, later, inner, anonymous, service = pickle.load(sys.stdin.buffer)
        with record() as recorder:
            results = [fall(2), greet("hello"), static(1), bound_static(1), asyncio.run(later(1)), inner(1), anonymous(), service.greet("again")]
        print(results)
        print(recorder.runs[0])
        '''
        import textwrap
        sent = (fall, service.greet, Service.static, service.static, service.later, enclosing(2), mltrace.track_run("named")(lambda: mltrace.current_run().name), service)
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(child)], input=cloudpickle.dumps(sent), capture_output=True)
        print(done.stdout.decode() or done.stderr.decode())
        """)
    )
    results, *tree = _run(script).splitlines()
    assert (
        "['fall_0', ('a', 'hello'), 'Service.static', 'Service.static', 'Service.later', (3, 'enclosing.<locals>.inner'), 'named', ('a', 'again')]"
        == results
    )
    expected = run("fall_2", tags={"env": "test"}, children=[run("fall_1", children=[run("fall_0")])])
    assert expected == eval("\n".join(tree), {"run": run})


def _run(script: Path) -> str:
    import subprocess

    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


def test_cloudpickle_asks_and_others_see_a_function() -> None:
    """Only cloudpickle is told the real type: to all others a decorated function is a function."""
    assert isinstance(add, type(add_plain))
    assert type(add_plain) is add.__class__


# The standard library.


@given(st.data(), st.integers(1, 4))
@few
def test_caches_keep_their_results(data: st.DataObject, times: int) -> None:
    """Under `functools.cache` the same call again is no call and no run; over it, every call is a run."""
    made: list[object] = []

    def body(arguments: dict[str, Any]) -> object:
        made.append(object())
        return made[-1]

    call = data.draw(strategies.calls(body=body))
    expected = run(call.function.__qualname__, params=call.arguments)
    with record() as recorder:
        cached = functools.cache(traced(call.function))
        assert {id(cached(*call.args, **call.kwargs)) for _ in range(times)} == {id(made[-1])}
    assert ([expected], 1) == (recorder.runs, len(made))
    with record() as recorder:
        over = traced(functools.cache(call.function))
        assert {id(over(*call.args, **call.kwargs)) for _ in range(times)} == {id(made[-1])}
    assert ([expected] * times, 2, times - 1) == (recorder.runs, len(made), over.cache_info().hits)


KINDS_OF_VALUE: list[type] = [int, bool, str, float, list, type(None)]
mixed = (
    st.integers()
    | st.booleans()
    | st.text(max_size=3)
    | st.floats()
    | st.none()
    | st.lists(numbers, max_size=2)
)


@given(st.lists(st.sampled_from(KINDS_OF_VALUE), unique=True), st.lists(mixed, max_size=5))
@few
def test_single_dispatch_chooses_as_ever(kinds: list[type], values: list[Any]) -> None:
    """Generic functions and methods, decorated as their implementations are, dispatch by type, whichever there are."""

    def build(decorate: Callable[[Any], Any]) -> tuple[Any, Any]:
        def told(name: str) -> Any:
            return decorate(lambda *arguments: (name, arguments[-1]))

        function = functools.singledispatch(told("other"))
        method: Any = functools.singledispatchmethod(told("other"))
        for kind in kinds:
            function.register(kind, told(kind.__name__))
            method.register(kind, told(kind.__name__))
        owner = type("Owner", (), {"kind": method})
        return decorate(function), owner().kind

    plain = build(lambda function: function)
    with record() as recorder:
        decorated = build(traced)
        for value in values:
            assert [function(value) for function in plain] == [function(value) for function in decorated]
    assert 2 * len(values) == len(recorder.runs)


@given(numbers)
@few
def test_context_managers_of_decorated_generators_work(x: int) -> None:
    """`contextlib.contextmanager` on a decorated generator: the block's exception reaches the body, and the run."""

    @contextlib.contextmanager
    @mltrace.track_run
    def opened(x: int) -> Iterator[int]:
        try:
            yield x
        except KeyError:
            mltrace.set_tag("seen", "KeyError")

    @contextlib.asynccontextmanager
    @mltrace.track_run
    async def opened_later(x: int) -> AsyncIterator[int]:
        yield x

    async def main() -> None:
        async with opened_later(x) as value:
            assert (x, False) == (value, bool(mltrace.current_run()))

    with record() as recorder:
        with opened(x) as value:
            assert (x, False) == (value, bool(mltrace.current_run()))
            raise KeyError
        asyncio.run(main())
    assert [opened.__qualname__, opened_later.__qualname__] == names(recorder)
    assert {"seen": "KeyError"}.items() <= (recorder.runs[0].tags or {}).items()


class Shape(abc.ABC):
    @mltrace.track_run
    @abc.abstractmethod
    def area(self) -> float: ...

    @property
    @abc.abstractmethod
    def name(self) -> str: ...

    @abc.abstractmethod
    @mltrace.track_run
    def scaled(self, by: float) -> float: ...


class Sized(typing.Protocol):
    def area(self) -> float: ...


Checked = typing.runtime_checkable(Sized)


@dataclasses.dataclass(frozen=True)
class Square(Shape):
    side: float

    @mltrace.track_run
    def area(self) -> float:
        return self.side**2

    @property
    @mltrace.track_run
    def name(self) -> str:
        return f"square {self.side}"

    @functools.cached_property
    @mltrace.track_run
    def half(self) -> float:
        return self.side / 2

    @typing.overload
    def scaled(self, by: float) -> float: ...
    @typing.overload
    def scaled(self, by: str) -> float: ...
    @mltrace.track_run
    def scaled(self, by: Any) -> float:
        return self.side * float(by)

    @mltrace.track_run
    def __lt__(self, other: Square) -> bool:
        return self.side < other.side

    twice = functools.partialmethod(scaled, 2.0)


class Level(enum.Enum):
    LOW = 1

    @mltrace.track_run
    def describe(self) -> str:
        return self.name.lower()


@given(st.floats(0, 100))
@few
def test_methods_of_every_class_work(side: float) -> None:
    """Abstract methods, protocols, data classes, properties, overloads, operators, partial methods and enums."""
    with pytest.raises(TypeError, match="abstract"):
        Shape()  # type: ignore[abstract]
    assert {"area", "name", "scaled"} == Shape.__abstractmethods__
    with record() as recorder:
        square = Square(side)
        assert isinstance(square, Checked)
        assert (side**2, f"square {side}", side / 2, side / 2) == (
            square.area(),
            square.name,
            square.half,
            square.half,
        )
        assert (side * 3, side * 2, "low") == (square.scaled("3"), square.twice(), Level.LOW.describe())
        assert (True, Square(side)) == (square < Square(side + 1), square)
    used = ["area", "name", "half", "scaled", "scaled", "describe", "__lt__"]
    assert used == [name.rpartition(".")[2] for name in names(recorder)]


class Celsius:
    """A property with a setter and a deleter, each decorated."""

    def __init__(self, value: float) -> None:
        self._value = value

    @property
    @mltrace.track_run
    def value(self) -> float:
        return self._value

    @value.setter
    @mltrace.track_run
    def value(self, value: float) -> None:
        self._value = value

    @value.deleter
    @mltrace.track_run
    def value(self) -> None:
        del self._value


@given(numbers)
@few
def test_properties_are_read_set_and_deleted(x: int) -> None:
    """Each access of a property is a run with the value that was set, and nothing of the instance."""
    celsius = Celsius(0)
    with record() as recorder:
        celsius.value = x
        assert x == celsius.value
        del celsius.value
        with pytest.raises(AttributeError):
            celsius.value  # noqa: B018
    statuses = ["FINISHED", "FINISHED", "FINISHED", "FAILED"]
    assert [{"value": str(x)}, {}, {}, {}] == [tree.params for tree in recorder.runs]
    assert statuses == [tree.status for tree in recorder.runs]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
@given(
    st.data(),
    st.lists(st.sampled_from([ValueError("v"), KeyError("k"), KeyboardInterrupt()]), min_size=1, max_size=3),
)
@few
def test_exception_groups_are_passed_on_whole(data: st.DataObject, errors: list[BaseException]) -> None:
    """``except*`` sees the group that was raised; its run is KILLED when what is in it would kill."""
    group = BaseExceptionGroup("some", errors)  # noqa: F821

    def fail(_: object) -> None:
        raise group

    call = data.draw(strategies.calls(body=fail, kinds=strategies.KINDS))
    with record() as recorder:
        _, raised = outcome(lambda: make(call, mltrace.track_run(call.function)))
    assert group is raised
    killed = any(isinstance(error, KeyboardInterrupt) for error in errors)
    [tree] = recorder.runs
    assert ("KILLED" if killed else "FAILED") == tree.status
    assert "some" in (tree.artifacts or {})["traceback.txt"].decode()


@given(strategies.calls(kinds=strategies.KINDS), st.integers(2, 4))
@few
def test_a_stack_of_decorators_records_each_kind_once(call: strategies.Call, times: int) -> None:
    """However often it is decorated as the same, also around other decorators' work, a call is one run of a kind."""
    function: Any = call.function
    for _ in range(times):
        function = mltrace.track_run(function)
    with record() as recorder:
        make(call, function)
    assert 1 == len(list(recorder.walk()))


# Frameworks.


def get(app: Any, path: str) -> tuple[int, Any]:
    """Ask an ASGI application for *path*; return status and body, decoded."""
    sent: list[dict[str, Any]] = []
    route, _, query = path.partition("?")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http", "path": route,
        "raw_path": route.encode(), "query_string": query.encode(), "headers": [], "client": ("c", 1), "server": ("s", 80), "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


def application(decorate: Callable[[Any], Any]) -> Any:
    """Return an application whose handlers and dependencies, of every kind, are under *decorate*."""
    from fastapi import Depends, FastAPI

    app = FastAPI()
    log: list[str] = []
    app.state.log = log

    @decorate
    def user(name: str = "nobody") -> str:
        return name.upper()

    @decorate
    def session() -> Iterator[str]:
        log.append("open")
        yield "session"
        log.append("closed")

    @decorate
    async def later() -> AsyncIterator[int]:
        log.append("open later")
        yield 7
        log.append("closed later")

    class Limit:
        @decorate
        def __call__(self, limit: int = 10) -> int:
            return limit

    @app.get("/sync/{x}")
    @decorate
    def sync(
        x: int,
        user: str = Depends(user),
        limit: int = Depends(Limit()),
        session: str = Depends(session),
    ) -> dict[str, Any]:
        return {"x": x, "user": user, "limit": limit, "session": session}

    @app.get("/async/{x}")
    @decorate
    async def asynchronous(x: int, later: int = Depends(later)) -> dict[str, int]:
        return {"x": x, "later": later}

    return app


@given(numbers, st.sampled_from(["", "?name=ada", "?limit=3", "?limit=many"]))
@settings(deadline=None, max_examples=8)
def test_fastapi_handlers_and_dependencies_work(x: int, query: str) -> None:
    """Routes answer, validate, document and clean up as undecorated ones; each handler and dependency is a run."""
    plain, decorated = application(lambda function: function), application(traced)
    assert plain.openapi() == decorated.openapi()
    with record() as recorder:
        for path in (f"/sync/{x}{query}", f"/async/{x}{query}", "/sync/nonsense"):
            assert get(plain, path) == get(decorated, path)
    assert plain.state.log == decorated.state.log
    found = {name.rpartition(".")[2] for name in names(recorder)}
    assert {"asynchronous", "later", "user"} <= found
    assert ("sync" in found) == (query != "?limit=many")
    # An invalid request is thrown into the dependencies that are open by then.
    errors = {
        (tree.tags or {}).get("mltrace.error.type") for tree in recorder.walk() if tree.status != "FINISHED"
    }
    assert errors <= {"RequestValidationError"}


EMPTY = inspect.Parameter.empty
VALUES: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(0, 99),
    float: st.floats(0, 9),
    str: st.text("abc", min_size=1, max_size=5),
    bool: st.booleans(),
}


class Option(NamedTuple):
    """A parameter of a command or handler, and what is given for it: None where it is left out."""

    name: str
    kind: type
    default: Any
    given: Any

    @property
    def value(self) -> Any:
        return self.default if self.given is None else self.given


@st.composite
def option_lists(draw: Any) -> list[Option]:
    """Draw parameters of several types, some with defaults, some without and left out all the same."""
    found = []
    for name in draw(
        st.lists(st.sampled_from(["count", "name", "loud", "run", "tags"]), max_size=4, unique=True)
    ):
        kind = draw(st.sampled_from(list(VALUES)))
        default = draw(st.just(EMPTY) | VALUES[kind])
        found.append(Option(name, kind, default, draw(VALUES[kind] | VALUES[kind] | st.none())))
    return sorted(found, key=lambda option: option.default is not EMPTY)


def declared(options: list[Option], tell: Callable[[Any], Any], *, later: bool = False) -> Any:
    """Return a function of these parameters that returns what *tell* makes of its arguments."""
    parameters = ", ".join(
        f"{name}: {kind.__name__}{'' if default is EMPTY else f' = {default!r}'}"
        for name, kind, default, _ in options
    )
    scope: dict[str, Any] = {"tell": tell}
    source = f"def hello({parameters}) -> dict:\n    'Greet somebody.'\n    return tell(dict(locals()))"
    exec(f"async {source}" if later else source, scope)
    return scope["hello"]


def expected_runs(options: list[Option], times: int = 1) -> list[RunTree]:
    """Return what is recorded of *times* calls; none where an argument that is needed was left out."""
    if any(option.value is EMPTY for option in options):
        return []
    return [run("hello", params={option.name: option.value for option in options})] * times


def request(application: Any, options: list[Option]) -> tuple[int, Any]:
    given = {option.name: option.given for option in options if option.given is not None}
    return get(application, f"/hello?{urllib.parse.urlencode(given)}")


@given(option_lists(), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=30)
def test_fastapi_reads_any_signature(options: list[Option], later: bool, depends: bool) -> None:
    """Whatever a handler or dependency declares is documented, validated and given as for the undecorated one."""
    from fastapi import Depends, FastAPI

    def build(decorate: Callable[[Any], Any]) -> Any:
        app = FastAPI()
        handler = decorate(declared(options, lambda arguments: arguments, later=later))

        def handle(found: dict[str, Any] = Depends(handler)) -> dict[str, Any]:
            return found

        app.get("/hello")(handle if depends else handler)
        return app

    plain, decorated = build(lambda function: function), build(traced)
    assert plain.openapi() == decorated.openapi()
    with record() as recorder:
        assert request(plain, options) == request(decorated, options)
    assert expected_runs(options) == recorder.runs


@given(option_lists(), st.sampled_from([[], ["--help"], ["--unknown"]]))
@settings(deadline=None, max_examples=50)
def test_click_and_typer_read_any_signature(options: list[Option], more: list[str]) -> None:
    """Commands parse, print, help and fail as undecorated ones, and each invocation is a run."""
    for invoke in (click_command, typer_command):
        with record() as recorder:
            assert invoke(lambda function: function, options, more) == invoke(traced, options, more)
        assert ([] if more else expected_runs(options)) == recorder.runs


def click_command(
    decorate: Callable[[Any], Any], options: list[Option], arguments: list[str]
) -> tuple[int, str]:
    import click

    from click.testing import CliRunner

    function = decorate(declared(options, click.echo))
    for name, kind, default, said in options:
        needed = {"required": True} if default is EMPTY else {"default": default}
        function = click.option(f"--{name}", type=kind, help=f"The {name}.", **needed)(function)
        if said is not None:
            arguments = [*arguments, f"--{name}", str(said)]
    result = CliRunner().invoke(click.command()(function), arguments)
    return result.exit_code, result.output


def typer_command(
    decorate: Callable[[Any], Any], options: list[Option], arguments: list[str]
) -> tuple[int, str]:
    import typer

    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(decorate(declared(options, typer.echo)))
    for name, kind, default, said in options:
        if said is None:
            continue
        if default is EMPTY:  # which makes it an argument, by its place
            arguments = [*arguments, str(said)]
        elif kind is bool:
            arguments = [*arguments, f"--{name}" if said else f"--no-{name}"]
        else:
            arguments = [*arguments, f"--{name}", str(said)]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


class Fixture(NamedTuple):
    """A fixture of a generated module: its *value* is added to that of the fixture before, if it *needs* it."""

    value: int
    yields: bool
    needs: bool
    params: list[int]
    scope: str


fixtures = st.lists(
    st.builds(
        Fixture, numbers, st.booleans(), st.booleans(), st.lists(numbers, max_size=2, unique=True),
        st.sampled_from(["module", "function"]),
    ),
    min_size=1, max_size=4,
)  # fmt: skip

HEAD = """
import pathlib
import mltrace, pytest
from mltrace.testing import record

decorate = {decorate}
LOG = []

@pytest.fixture(scope="module", autouse=True)
def recording():
    with record() as recorder:
        yield
    found = LOG, [tree.name for tree in recorder.walk()]
    pathlib.Path(__file__).with_suffix(".log").write_text(repr(found))
"""


def module_of(drawn: list[Fixture], decorate: str) -> str:
    """Return a test module whose fixtures and test are under *decorate*, and which logs what they see."""
    parts = [HEAD.format(decorate=decorate)]
    # A module's fixture cannot need a function's.
    for number, one in enumerate(drawn := sorted(drawn, key=lambda one: one.scope, reverse=True)):
        needed = [f"f{number - 1}"] if one.needs and number else []
        arguments, terms = [*needed], [str(one.value), *needed]
        options = f"scope={one.scope!r}"
        if one.params:
            arguments, terms = [*arguments, "request"], [*terms, "request.param"]
            options += f", params={one.params}"
        parts.append(
            f"@pytest.fixture({options})\n@decorate\ndef f{number}({', '.join(arguments)}):\n"
            f"    value = {' + '.join(terms)}\n    LOG.append(('f{number}', value))\n"
            + (f"    yield value\n    LOG.append(('', {number}))\n" if one.yields else "    return value\n")
        )
    names = ", ".join(f"f{number}" for number in range(len(drawn)))
    parts.append(f"@decorate\ndef test_them({names}):\n    LOG.append(('test_them', [{names}]))\n")
    return "\n".join(parts)


def test_pytest_takes_any_decorated_fixtures(pytester: pytest.Pytester) -> None:
    """Fixtures of any scope, with parameters, needs and clean-up, and tests are found, given and closed as ever."""
    drawn: list[list[Fixture]] = []
    for_all(fixtures, drawn.append, 15)
    modules = {f"test_plain_{n}": module_of(one, "lambda function: function") for n, one in enumerate(drawn)}
    modules |= {f"test_traced_{n}": module_of(one, "mltrace.track_run") for n, one in enumerate(drawn)}
    pytester.makepyfile(**modules)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q")
    outcomes = result.parseoutcomes()
    assert ["passed"] == [word for word in outcomes if word != "seconds"]
    for n in range(len(drawn)):
        (plain, none), (log, runs) = (
            ast.literal_eval((pytester.path / f"test_{kind}_{n}.log").read_text())
            for kind in ("plain", "traced")
        )
        assert (plain, []) == (log, none)
        assert [name for name, _ in log if name] == runs


def test_pytest_fixtures_can_be_decorated(pytester: pytest.Pytester) -> None:
    """Fixtures, with requests, parameters and clean-up, and test functions work when they are decorated."""
    pytester.makepyfile(
        """
        import mltrace, pytest
        from mltrace.testing import run

        @pytest.fixture(params=[1, 2])
        @mltrace.track_run(capture_input=False)
        def number(mltrace_recorder, request):
            yield request.param
            assert mltrace_recorder.runs[0].status == "RUNNING"

        @pytest.fixture
        @mltrace.track_run
        def doubled(number):
            return 2 * number

        @mltrace.track_run(capture_input=["doubled"])
        def test_is_doubled(number, doubled, mltrace_recorder):
            assert doubled == 2 * number
            assert [tree.name for tree in mltrace_recorder.runs] == ["number", "doubled", "test_is_doubled"]
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


@given(st.lists(numbers, max_size=4))
@few
def test_awaitables_that_are_no_coroutines_are_returned(values: list[int]) -> None:
    """A plain function that returns a coroutine, a task or a future returns that very object."""

    async def work(x: int) -> int:
        return x

    async def main() -> list[int]:
        made: list[Awaitable[int]] = []

        def start(x: int) -> Awaitable[int]:
            made.append(asyncio.ensure_future(work(x)))
            return made[-1]

        returned = [traced(start)(x) for x in values]
        assert all(one is other for one, other in zip(made, returned, strict=True))
        return [await one for one in returned]

    with record() as recorder:
        assert values == asyncio.run(main())
    assert ["FINISHED"] * len(values) == [tree.status for tree in recorder.runs]


def tree_of(depth: int) -> RunTree:
    return run("f", children=[tree_of(depth - 1)] if depth else [])


@given(st.integers(0, 20))
@few
def test_recursion_nests(depth: int) -> None:
    """A function that calls itself has a run within a run for each call."""

    def f(n: int) -> int:
        return decorated(n - 1) + 1 if n else 0

    f.__qualname__ = "f"
    decorated = traced(f)
    with record() as recorder:
        assert depth == decorated(depth)
    assert [tree_of(depth)] == recorder.runs
