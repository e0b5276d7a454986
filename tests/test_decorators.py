"""A decorated call behaves as the undecorated one, and becomes a run that says what happened."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import json
import math
import pickle
import sys
import time

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hypothesis import example, given, settings
from hypothesis import strategies as st

import mltrace

from mltrace._spool import DestinationDirectory
from mltrace._texts import clean_text
from mltrace.backends.journal import Journal
from mltrace.backends.memory import MemoryBackend, RecordedRun
from mltrace.testing import record, run, strategies


def only(memory: MemoryBackend) -> RecordedRun:
    [run] = memory.roots
    return run


def outcome(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Return what a call makes: its result, or the type and text of what it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)


# Calls are transparent.


def variadic(a: int, *rest: int, **more: int) -> Any:
    return dict(locals())


def everything(a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **more: int) -> Any:
    return dict(locals())


def nothing() -> Any:
    return dict(locals())


@given(strategies.calls(matching=False))
@settings(deadline=None, max_examples=150)
def test_any_call_gives_what_the_undecorated_one_gives(call: strategies.Call) -> None:
    """
    Whatever the arguments, result or `TypeError` are the same; the params are what Python binds, and a call
    that was refused has failed.
    """
    expected = outcome(call.function, *call.args, **call.kwargs)
    with record() as recorder:
        assert expected == outcome(mltrace.track_run(call.function), *call.args, **call.kwargs)
    name = call.function.__qualname__
    if isinstance(expected, dict):
        assert [run(name, params=call.arguments)] == recorder.runs
    else:
        assert [run(name, status="FAILED", tags={"mltrace.error.type": "TypeError"})] == recorder.runs


def test_a_keyword_may_have_the_name_of_a_positional_only_argument(memory: MemoryBackend) -> None:
    """Python tells ``a`` from ``**{"a": …}``, and no value of the two is lost."""
    assert {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "rest": (), "more": {"a": 9}} == mltrace.track_run(
        everything
    )(1, 2, d=4, a=9)
    assert "1" == only(memory).params["a"]
    assert "9" in "".join(only(memory).params.values())


def test_the_same_object_is_returned(memory: MemoryBackend) -> None:
    """What the function returns is what the caller gets, by identity."""
    result = object()
    assert result is mltrace.track_run(lambda: result)()


ERRORS = [
    ValueError("no"),
    KeyboardInterrupt(),
    SystemExit(3),
    asyncio.CancelledError(),
    GeneratorExit(),
    StopIteration(1),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_the_same_exception_object_is_raised(memory: MemoryBackend, error: BaseException) -> None:
    """What the function raises is what the caller gets, by identity, with cause and context untouched."""

    @mltrace.track_run
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert error is caught.value
    assert (None, None) == (error.__cause__, error.__context__)


@mltrace.track_run
def decorated(a: int, b: str = "b") -> str:
    """Say something."""
    return f"{a}{b}"


@mltrace.track_run("named", tags={"x": "y"})
async def decorated_coroutine(a: int) -> int:
    """Say something."""
    return a


@mltrace.log_prediction(model_version="3")
def decorated_generator(a: int) -> Any:
    """Say something."""
    yield a


@mltrace.log_llm_call
async def decorated_async_generator(a: int) -> Any:
    """Say something."""
    yield a


KINDS = [decorated, decorated_coroutine, decorated_generator, decorated_async_generator]


@pytest.mark.parametrize("function", KINDS, ids=lambda function: function.__name__)
def test_what_inspection_sees_is_kept(function: Any) -> None:
    """Name, documentation, signature, annotations, kind and type are those of the undecorated function."""
    plain = function.__wrapped__
    for name in (
        "__name__",
        "__qualname__",
        "__doc__",
        "__module__",
        "__annotations__",
        "__defaults__",
        "__code__",
    ):
        assert getattr(plain, name) == getattr(function, name)
    assert inspect.signature(plain) == inspect.signature(function)
    for question in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
        inspect.isfunction,
        callable,
    ):
        assert question(plain) == question(function)
    assert isinstance(function, type(plain))


class Service:
    """Methods of every kind, in both orders of the decorators."""

    name = "service"

    @mltrace.track_run
    def method(self, x: int) -> Any:
        return (self, x)

    @classmethod
    @mltrace.track_run
    def inner_class(cls, x: int) -> Any:
        return (cls, x)

    @mltrace.track_run
    @classmethod
    def outer_class(cls, x: int) -> Any:
        return (cls, x)

    @staticmethod
    @mltrace.track_run
    def inner_static(x: int) -> Any:
        return (None, x)

    @mltrace.track_run
    @staticmethod
    def outer_static(x: int) -> Any:
        return (None, x)

    @property
    @mltrace.track_run
    def attribute(self) -> Any:
        return (self, 0)

    @mltrace.track_run
    async def coroutine(self, x: int) -> Any:
        return (self, x)

    @mltrace.track_run
    def __call__(self, x: int) -> Any:
        return (self, x)


class Special(Service):
    def method(self, x: int) -> Any:
        return super().method(x)


@pytest.mark.parametrize("kind", [Service, Special])
@pytest.mark.parametrize(
    ("use", "owner"),
    [
        (lambda service: service.method(1), "instance"),
        (lambda service: service.method(x=1), "instance"),
        (lambda service: type(service).method(service, 1), "instance"),
        (lambda service: service(1), "instance"),
        (lambda service: asyncio.run(service.coroutine(1)), "instance"),
        (lambda service: service.inner_class(1), "class"),
        (lambda service: type(service).inner_class(x=1), "class"),
        (lambda service: service.outer_class(1), "class"),
        (lambda service: type(service).outer_class(x=1), "class"),
        (lambda service: service.inner_static(1), None),
        (lambda service: type(service).inner_static(x=1), None),
        (lambda service: service.outer_static(1), None),
        (lambda service: type(service).outer_static(x=1), None),
    ],
)
def test_methods_are_bound_as_ever(
    memory: MemoryBackend, kind: type[Service], use: Callable[[Any], Any], owner: str | None
) -> None:
    """Methods get their instance, class methods their class, static methods neither; none is a param."""
    service = kind()
    assert ({"instance": service, "class": kind, None: None}[owner], 1) == use(service)
    assert {"x": "1"} == only(memory).params


def test_a_property_can_be_recorded(memory: MemoryBackend) -> None:
    """Under `property` the getter is a method like any other."""
    service = Service()
    assert (service, 0) == service.attribute
    assert ({}, "Service.attribute") == (only(memory).params, only(memory).name)


class Adder:
    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, x: int) -> int:
        return x + self.offset


class AsyncAdder(Adder):
    async def __call__(self, x: int) -> int:  # type: ignore[override]
        return x + self.offset


def add(x: int, offset: int) -> int:
    return x + offset


async def add_later(x: int, offset: int) -> int:
    return x + offset


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functools.partial(add, offset=2), "add"),
        (functools.partial(functools.partial(add), offset=2), "add"),
        (Adder(2), "Adder"),
        (Adder(2).__call__, "Adder.__call__"),
        (lambda x: x + 2, "<lambda>"),
        (mltrace.track_run(lambda x: x + 2), "<lambda>"),
    ],
)
def test_any_callable_can_be_recorded(memory: MemoryBackend, function: Any, name: str) -> None:
    """Partials, instances, bound methods and lambdas are recorded under the name of what they call."""
    assert 3 == mltrace.track_run(function)(1)
    assert name == only(memory).name
    assert only(memory).tags["mltrace.function"].endswith(f".{name}")
    assert "1" == only(memory).params["x"]


@pytest.mark.parametrize(
    "function", [functools.partial(add_later, offset=2), AsyncAdder(2), AsyncAdder(2).__call__]
)
def test_any_coroutine_callable_can_be_recorded(memory: MemoryBackend, function: Any) -> None:
    """What returns a coroutine by another way than ``async def`` is awaited within its run."""
    assert 3 == asyncio.run(mltrace.track_run(function)(1))
    assert ("FINISHED", {"output"}) == (only(memory).status, only(memory).metrics.keys() - {"latency_ms"})


BUILTINS = [(len, ("abc",), 3), (min, (3, 1, 2), 1), (str.upper, ("a",), "A"), (dict, (), {})]


@pytest.mark.parametrize(("function", "args", "expected"), BUILTINS)
def test_a_builtin_can_be_recorded(memory: MemoryBackend, function: Any, args: Any, expected: Any) -> None:
    """Callables of C are recorded too, whether or not they have a signature."""
    assert expected == mltrace.track_run(function)(*args)
    assert "FINISHED" == only(memory).status


def test_a_wrapper_may_take_more_than_its_signature_says(memory: MemoryBackend) -> None:
    """Under `functools.wraps` the signature is the inner function's: what fits it is still recorded."""

    def retried(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def attempt(*args: Any, retries: int = 3, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return attempt

    assert 3 == mltrace.track_run(retried(add))(1, offset=2, retries=5)
    assert {"x": "1", "offset": "2"}.items() <= only(memory).params.items()


def test_a_parameter_may_have_any_name(memory: MemoryBackend) -> None:
    """Names that the library uses itself are the function's own, and what stands under them is not called."""

    def call(_flatten: Any, _default_x: int = 1, x: int = 2, found: int = 3, **name: Any) -> Any:
        return x

    assert 2 == mltrace.track_run(call)(fail, name=4, ignore=5)
    expected = {"_default_x": "1", "x": "2", "found": "3", "name": "4", "ignore": "5"}
    assert expected == {key: value for key, value in only(memory).params.items() if key != "_flatten"}


def test_a_nested_function_has_its_qualified_name(memory: MemoryBackend) -> None:
    """The default name of a run is the function's `__qualname__`; its tag has the module too."""

    @mltrace.track_run
    def inner() -> None: ...

    inner()
    assert inner.__qualname__ == only(memory).name
    assert f"{__name__}.{inner.__qualname__}" == only(memory).tags["mltrace.function"]


@pytest.mark.parametrize(
    "function", [*KINDS, Service.inner_static, Service.outer_static], ids=lambda function: function.__name__
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_decorated_function_is_pickled_by_reference(function: Any, protocol: int) -> None:
    """As a function's, the pickle of a decorated one is its name, and gives the decorated one again."""
    assert function.__wrapped__ is pickle.loads(pickle.dumps(function, protocol)).__wrapped__


@pytest.mark.parametrize("name", ["method", "inner_class", "outer_class"])
def test_a_bound_method_is_pickled_with_its_instance(memory: MemoryBackend, name: str) -> None:
    """Process pools take methods: the pickle of a bound decorated one works as that of an undecorated one."""
    owner, x = pickle.loads(pickle.dumps(getattr(Service(), name)))(1)
    assert (1, True) == (x, isinstance(owner, Service) or owner is Service)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_decorated_function_is_itself(duplicate: Callable[[Any], Any]) -> None:
    """Functions are copied by reference, so that what holds a decorated one can be copied too."""
    assert decorated is duplicate(decorated)
    assert [decorated] == duplicate([decorated])


def test_applied_twice_it_records_once(memory: MemoryBackend) -> None:
    """The outer decorator replaces the inner one of the same kind."""
    twice = mltrace.track_run("outer")(mltrace.track_run("inner")(add))
    assert 3 == twice(1, 2)
    assert ("outer", []) == (only(memory).name, only(memory).children)


def test_decorators_of_two_kinds_record_two_runs(memory: MemoryBackend) -> None:
    """A function that is an LLM call and a tracked one has a run for each, nested as the decorators are."""
    mltrace.track_run(mltrace.log_llm_call(add))(1, 2)
    assert ["run", "llm_call"] == [run.kind for _, run in only(memory).walk()]


def test_no_option_is_read_from_the_functions_keywords(memory: MemoryBackend) -> None:
    """Arguments named as options are the function's own."""

    @mltrace.track_run("kept")
    def call(**options: Any) -> Any:
        return options

    own = {
        "run_name": "mine",
        "tags": {"a": 1},
        "experiment_name": "mine",
        "sample_rate": 0,
        "self": 1,
        "wrapped": 2,
        "args": 3,
    }
    assert own == call(**own)
    assert ("kept", "Default", "mine") == (
        only(memory).name,
        only(memory).experiment,
        only(memory).params["run_name"],
    )


# The forms of track_run.


@pytest.mark.parametrize("decorate", [mltrace.track_run, mltrace.track_run(), mltrace.track_run(None)])
def test_the_bare_forms_are_the_same(memory: MemoryBackend, decorate: Any) -> None:
    """With or without parentheses, the run is named after the function."""
    assert 3 == decorate(add)(1, 2)
    assert ("add", "run", "Default", None) == (
        only(memory).name,
        only(memory).kind,
        only(memory).experiment,
        only(memory).parent_id,
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("fixed", "fixed"),
        ("add_{x}", "add_1"),
        ("add_{x:03d}_{offset}", "add_001_2"),
        ("add_{x}_{{x}}", "add_1_{x}"),
        ("add_{unknown}", "add_{unknown}"),
        ("add_{x", "add_{x"),
        ("add_{}", "add_{}"),
        ("add_{x:nonsense}", "add_{x:nonsense}"),
        ("add_{x.missing}", "add_{x.missing}"),
        ("x" * 300, "x" * 250),
    ],
)
def test_a_name_is_a_template_over_the_arguments(memory: MemoryBackend, template: str, expected: str) -> None:
    """A template that cannot be filled is used as it stands; a name has at most 250 characters."""
    mltrace.track_run(template)(add)(1, 2)
    assert expected == only(memory).name


def test_a_template_cannot_break_the_call(memory: MemoryBackend) -> None:
    """An argument whose formatting raises leaves the template as it stands."""

    class Awkward:
        def __format__(self, spec: str) -> str:
            raise RuntimeError("no")

    mltrace.track_run("call_{x}")(lambda x: None)(Awkward())
    assert "call_{x}" == only(memory).name


def test_options_become_what_they_say(memory: MemoryBackend) -> None:
    """Experiment, params, tags and description are on the run beside what was captured."""
    options: dict[str, Any] = {
        "experiment_name": "e",
        "params": {"k": 5, "offset": "given"},
        "tags": {"env": "prod"},
        "description": "why",
    }
    mltrace.track_run("named", **options)(add)(1, 2)
    run = only(memory)
    assert ("e", {"x": "1", "k": "5", "offset": "given"}) == (run.experiment, run.params)
    assert ("prod", "why") == (run.tags["env"], run.tags["mlflow.note.content"])


def test_a_nested_call_is_a_child_in_the_parents_experiment(memory: MemoryBackend) -> None:
    """Runs nest as calls do; a child that names no experiment is in its parent's."""
    inner = mltrace.track_run("inner")(add)
    other = mltrace.track_run("other", experiment_name="own")(add)

    @mltrace.track_run("outer", experiment_name="e")
    def outer() -> None:
        inner(1, 2)
        other(1, 2)

    outer()
    found = [(depth, run.name, run.experiment) for depth, run in only(memory).walk()]
    assert [(0, "outer", "e"), (1, "inner", "e"), (1, "other", "own")] == found
    assert [only(memory).id] * 2 == [child.parent_id for child in only(memory).children]


def test_calls_one_after_another_are_no_relatives(memory: MemoryBackend) -> None:
    """After a call, a failed one too, the run before it is current again."""
    outcome(mltrace.track_run(lambda: 1 / 0))
    mltrace.track_run(add)(1, 2)
    assert [None, None] == [run.parent_id for run in memory.roots]
    assert not mltrace.current_run()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"capture_input": False}, set()),
        ({"capture_input": ["x"]}, {"x"}),
        ({"capture_input": ("x", "y")}, {"x", "y"}),
        ({"ignore_arguments": ["x"]}, {"y", "z"}),
        ({"capture_input": {"x", "y"}, "ignore_arguments": {"y"}}, {"x"}),
        ({"process_inputs": lambda inputs: {"size": len(inputs)}}, {"size"}),
    ],
)
def test_the_inputs_can_be_chosen(memory: MemoryBackend, options: dict[str, Any], expected: set[str]) -> None:
    """Arguments are left out by name, or all, or replaced; the function gets all of them."""
    assert (1, 2, 3) == mltrace.track_run(**options)(lambda x, y, z=3: (x, y, z))(1, 2)
    assert expected == only(memory).params.keys()


def test_any_keyword_can_be_left_out(memory: MemoryBackend) -> None:
    """Where a function takes any keywords, any of them can be chosen or ignored by name."""
    mltrace.track_run(ignore_arguments=["b"])(variadic)(1, b=2, c=3)
    mltrace.track_run(capture_input=["b"])(variadic)(1, b=2, c=3)
    assert [{"a": "1", "c": "3"}, {"b": "2"}] == [run.params for run in memory.roots]


def test_the_output_can_be_left_out(memory: MemoryBackend) -> None:
    """With `capture_output=False` neither text nor number of the output is recorded."""
    assert 3 == mltrace.track_run(capture_output=False)(add)(1, 2)
    assert {"latency_ms"} == only(memory).metrics.keys()
    assert "mltrace.output" not in only(memory).tags


def test_the_output_can_be_replaced(memory: MemoryBackend) -> None:
    """What `process_outputs` returns is recorded; the caller gets the original."""
    assert 3 == mltrace.track_run(process_outputs=lambda result: result * 10)(add)(1, 2)
    assert (30.0, "30") == (only(memory).metrics["output"], only(memory).tags["mltrace.output"])


@pytest.mark.parametrize("keys", [{1: "a"}, {None: "a"}, {("a", 1): "a"}], ids=repr)
def test_keys_that_are_no_texts_become_texts(memory: MemoryBackend, keys: dict[Any, str]) -> None:
    """Params, tags and processed inputs may have any keys; none makes the run disappear."""
    mltrace.track_run(params=keys, tags=keys, process_inputs=lambda inputs: {**inputs, **keys})(add)(1, 2)
    assert 3 == len(only(memory).params)
    assert "a" in only(memory).tags.values()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("run_name", 5), ("run_name", b"name"), ("experiment_name", 5), ("description", 5)),
        *(("params", [1]), ("tags", "a=1"), ("capture_output", "no")),
        *(("capture_input", "x"), ("capture_input", None), ("capture_input", [1]), ("capture_input", 1.5)),
        *(("ignore_arguments", "x"), ("ignore_arguments", None)),
        *(("capture_input", ["unknown"]), ("ignore_arguments", ["unknown"])),
        *(("process_inputs", 5), ("process_outputs", "x"), ("output_reducer", [])),
        *(("sample_rate", -0.1), ("sample_rate", 1.1), ("sample_rate", "half"), ("sample_rate", math.nan)),
    ],
    ids=repr,
)  # fmt: skip
def test_a_wrong_option_raises_at_decoration(name: str, value: Any) -> None:
    """A value that cannot be used is refused before any call, by an error that names the option."""
    with pytest.raises(mltrace.ConfigurationError, match=name):
        mltrace.track_run(**{name: value})(add)


DECORATORS = [mltrace.track_run, mltrace.log_llm_call, mltrace.log_prediction, mltrace.log_training_run]


@pytest.mark.parametrize("decorator", [*DECORATORS, mltrace.start_run])
def test_an_unknown_option_raises_at_decoration(decorator: Any) -> None:
    """An option that does not exist is a `TypeError` that names it, as for any function."""
    with pytest.raises(TypeError, match="colour"):
        decorator(colour="red")


@pytest.mark.parametrize("decorator", [mltrace.track_run, mltrace.log_training_run])
def test_options_beside_the_function_raise(decorator: Any) -> None:
    """Options given together with the function belong in the parentheses, which the error says."""
    with pytest.raises(mltrace.ConfigurationError, match="tags"):
        decorator(add, tags={})


def test_what_is_no_function_cannot_be_decorated() -> None:
    """A decorator applied to a value raises at once."""
    with pytest.raises(mltrace.ConfigurationError, match="not a function"):
        mltrace.track_run("name")(5)  # type: ignore[arg-type]


# Blocks.


def test_a_block_is_a_run(memory: MemoryBackend) -> None:
    """Within ``with track_run(…) as run`` the run is current, and calls are its children."""
    with mltrace.track_run("evaluation", params={"k": 5}) as run:
        assert run is mltrace.current_run()
        decorated(1)
    assert ("evaluation", "FINISHED", {"k": "5"}, run.id) == (
        only(memory).name,
        only(memory).status,
        only(memory).params,
        only(memory).id,
    )
    assert ["decorated"] == [child.name for child in only(memory).children]
    assert not mltrace.current_run()


def test_an_async_block_is_a_run(memory: MemoryBackend) -> None:
    """``async with`` does the same."""

    async def main() -> None:
        async with mltrace.track_run("outer") as run:
            assert run is mltrace.current_run()
            await decorated_coroutine(1)

    asyncio.run(main())
    assert ["outer", "named"] == [run.name for _, run in only(memory).walk()]


def test_a_block_that_raises_has_failed(memory: MemoryBackend) -> None:
    """The exception leaves the block as it is, and is on the run."""
    error = ValueError("no")
    with pytest.raises(ValueError, match="no") as caught, mltrace.track_run("block"):
        raise error
    assert error is caught.value
    assert ("FAILED", "ValueError", "no") == (
        only(memory).status,
        only(memory).tags["mltrace.error.type"],
        only(memory).tags["mltrace.error.message"],
    )


def test_one_object_makes_many_blocks(memory: MemoryBackend) -> None:
    """The same object can be entered again, within itself too; each time is a run of its own."""
    block = mltrace.track_run("block")
    with block as outer, block as inner:
        assert inner.parent_id == outer.id
    with block:
        pass
    assert [[0, 1], [0]] == [[depth for depth, _ in root.walk()] for root in memory.roots]
    assert {"FINISHED"} == {run.status for run in memory.runs.values()}


def test_two_tasks_share_one_object(memory: MemoryBackend) -> None:
    """Blocks of the same object in two tasks end their own runs, in whatever order they are left."""
    block = mltrace.track_run("block")

    async def worker(mine: asyncio.Event, others: asyncio.Event, number: int) -> None:
        with block as run:
            mine.set()
            await others.wait()
            run.log_param("number", number)

    async def main() -> None:
        first, second = asyncio.Event(), asyncio.Event()
        await asyncio.gather(worker(first, second, 1), worker(second, first, 2))

    asyncio.run(main())
    assert [("FINISHED", {"number": "1"}), ("FINISHED", {"number": "2"})] == [
        (run.status, run.params) for run in memory.roots
    ]


# What is recorded.


def test_a_later_change_of_an_argument_does_not_change_the_record(memory: MemoryBackend) -> None:
    """Arguments are rendered before the call, outputs at the return."""
    given_list, returned = [1], {"a": 1}

    @mltrace.track_run
    def call(items: list[int]) -> dict[str, int]:
        items.append(2)
        return returned

    call(given_list)
    returned["a"] = 2
    assert ({"items": "[1]"}, '{"a":1}') == (only(memory).params, only(memory).tags["mltrace.output"])


def test_the_arguments_of_a_coroutine_are_rendered_at_the_call(memory: MemoryBackend) -> None:
    """What happens to an argument between call and await is not in the record."""

    @mltrace.track_run
    async def call(items: list[int]) -> None: ...

    async def main() -> None:
        items = [1]
        pending = call(items)
        items.append(2)
        await pending

    asyncio.run(main())
    assert {"items": "[1]"} == only(memory).params


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("leave", ["close", "cancel"])
def test_a_coroutine_that_never_began_leaves_nothing_behind(memory: MemoryBackend, leave: str) -> None:
    """Closed, or its task cancelled, before its first step, it warns of nothing and records nothing."""
    unraisable: list[Any] = []

    async def main() -> None:
        pending = decorated_coroutine(1)
        if leave == "close":
            pending.close()
            return
        task = asyncio.ensure_future(pending)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        asyncio.run(main())
        gc.collect()
    finally:
        sys.unraisablehook = before
    assert ([], {}) == (unraisable, memory.runs)


def test_a_coroutine_has_the_name_of_its_function(memory: MemoryBackend) -> None:
    """What shows in the `repr` of tasks, and in the warning of one that was never awaited, is the function."""
    pending = decorated_coroutine(1)
    pending.close()
    stream = decorated_generator(1)
    assert ("decorated_coroutine", "decorated_generator") == (pending.__qualname__, stream.__name__)


class Abort(BaseException):
    """An exception that is none of Python's."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((ValueError("a"), "FAILED"), (StopIteration("a"), "FAILED"), (AssertionError(), "FAILED")),
        *((KeyboardInterrupt("a"), "KILLED"), (SystemExit(0), "KILLED"), (GeneratorExit(), "KILLED")),
        *((asyncio.CancelledError(), "KILLED"), (Abort("a"), "KILLED")),
    ],
    ids=repr,
)  # fmt: skip
def test_the_status_says_how_it_ended(memory: MemoryBackend, error: BaseException, status: str) -> None:
    """An `Exception` is a failure; what stops a program from outside has killed the run."""

    @mltrace.track_run
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        fail()
    run = only(memory)
    assert (status, type(error).__name__, str(error)) == (
        run.status,
        run.tags["mltrace.error.type"],
        run.tags["mltrace.error.message"],
    )
    assert "in fail" in run.artifacts["traceback.txt"].decode()


def test_a_cancelled_task_is_killed(memory: MemoryBackend) -> None:
    """A coroutine that is cancelled while it waits ends as KILLED, and the cancellation goes on."""

    async def main() -> None:
        started = asyncio.Event()

        @mltrace.track_run
        async def wait() -> None:
            started.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(wait())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    assert "KILLED" == only(memory).status


def test_the_traceback_names_the_cause(memory: MemoryBackend) -> None:
    """``traceback.txt`` is what Python prints, chained exceptions included."""

    @mltrace.track_run
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError, match="second"):
        fail()
    text = only(memory).artifacts["traceback.txt"].decode()
    assert text.index("KeyError: 'first'") < text.index("direct cause") < text.index("ValueError: second")


@pytest.mark.parametrize(
    "message", ["x" * 20_000, "\udc00\0", ""], ids=["long", "surrogate and NUL", "empty"]
)
def test_any_message_can_be_recorded(memory: MemoryBackend, message: str) -> None:
    """A message is bounded as a tag is, and free of what a database refuses; the traceback has it whole."""

    @mltrace.track_run
    def fail() -> None:
        raise ValueError(message)

    with pytest.raises(ValueError, match=r"^"):
        fail()
    recorded = only(memory).tags["mltrace.error.message"]
    assert len(recorded) <= 8_000
    assert "\0" not in recorded
    recorded.encode()
    assert clean_text(message) in only(memory).artifacts["traceback.txt"].decode()


def test_an_exception_without_a_text_is_recorded(memory: MemoryBackend) -> None:
    """An exception whose own `str` raises is raised as it is, and its type is recorded."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @mltrace.track_run
    def fail() -> None:
        raise Mute

    with pytest.raises(Mute):
        fail()
    assert ("FAILED", Mute.__qualname__) == (only(memory).status, only(memory).tags["mltrace.error.type"])


def test_the_latency_is_the_calls(memory: MemoryBackend) -> None:
    """`latency_ms` lies between what body and caller measure, and the run's times around it."""
    inside: list[float] = []

    @mltrace.track_run
    def work() -> None:
        started = time.perf_counter()
        sum(range(200_000))
        inside.append(time.perf_counter() - started)

    before, started = time.time_ns() // 1_000_000, time.perf_counter()
    work()
    outside, after = time.perf_counter() - started, time.time_ns() // 1_000_000 + 1
    run = only(memory)
    assert inside[0] * 1_000 <= run.metrics["latency_ms"] <= outside * 1_000
    assert before <= run.start_time <= (run.end_time or 0) <= after


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        *((3, {"output": 3.0}), (0.5, {"output": 0.5}), (True, {}), ("3", {}), (None, {}), ([1, 2], {})),
        ({"loss": 0.5, "acc": 1, "note": "x", "ok": True}, {"loss": 0.5, "acc": 1.0}),
        ({"val": {"loss": 0.5}}, {"val.loss": 0.5}),
        ({"MAP@k": 1}, {"MAP_k": 1.0}),
    ],
    ids=repr,
)  # fmt: skip
def test_returned_numbers_are_metrics(memory: MemoryBackend, result: Any, expected: dict[str, float]) -> None:
    """A number is the metric `output`, numbers of a mapping are metrics under their keys; nothing else is."""
    assert result == mltrace.track_run(lambda: result)()
    assert expected == {
        key.partition("-")[0]: value for key, value in only(memory).metrics.items() if key != "latency_ms"
    }


def test_returned_numbers_may_be_infinite(memory: MemoryBackend) -> None:
    """NaN and the infinities are kept as the metrics that they are."""
    mltrace.track_run(lambda: {"nan": math.nan, "up": math.inf, "down": -math.inf})()
    metrics = only(memory).metrics
    assert (True, math.inf, -math.inf) == (math.isnan(metrics["nan"]), metrics["up"], metrics["down"])


def test_a_returned_latency_does_not_replace_the_measured_one(memory: MemoryBackend) -> None:
    """A mapping may have any keys: the run's own latency stays what was measured."""
    mltrace.track_run(lambda: {"latency_ms": 1e9})()
    assert only(memory).metrics["latency_ms"] < 1e9


@pytest.mark.parametrize("size", [10, 7_900, 9_000, 300_000])
def test_an_output_that_does_not_fit_is_kept_whole(memory: MemoryBackend, size: int) -> None:
    """A tag holds 8,000 characters; beyond that ``outputs.json`` has the output, and the tag says so."""
    mltrace.track_run(lambda: {"text": "x" * size})()
    run = only(memory)
    if size < 7_950:
        assert json.loads(run.tags["mltrace.output"]) == {"text": "x" * size}
        assert {} == run.artifacts
    else:
        assert len(run.tags["mltrace.output"]) <= 8_000
        assert "outputs.json" in run.tags["mltrace.output"]
        assert json.loads(run.artifacts["outputs.json"]) == {"text": "x" * size}


def test_an_input_that_does_not_fit_is_kept_whole(memory: MemoryBackend) -> None:
    """A param holds 6,000 characters; ``inputs.json`` has longer ones by name, and the param says so."""
    mltrace.track_run(add)("x" * 5_000, "y" * 7_000)  # type: ignore[arg-type]
    run = only(memory)
    assert "x" * 5_000 == run.params["x"]
    assert len(run.params["offset"]) <= 6_000
    assert "inputs.json" in run.params["offset"]
    assert {"offset": "y" * 7_000} == json.loads(run.artifacts["inputs.json"])


def test_options_that_do_not_fit_are_kept_whole(memory: MemoryBackend) -> None:
    """Params and tags given to the decorator are kept whole as captured ones are."""
    mltrace.track_run("call", params={"long": "x" * 7_000}, tags={"note": "y" * 9_000})(nothing)()
    kept = b"".join(only(memory).artifacts.values())
    assert (True, True) == (b"x" * 7_000 in kept, b"y" * 9_000 in kept)


# Nothing of mltrace's reaches the caller.


class Broken(MemoryBackend):
    """A backend that takes nothing."""

    def emit(self, record: Any) -> None:
        raise OSError("no space")

    begin = emit  # type: ignore[assignment]

    def store(self, source: Any) -> Any:
        raise OSError("no space")


def test_a_backend_that_fails_does_not_reach_the_caller(said: list[str]) -> None:
    """Calls, coroutines, streams, blocks and logging go on without their record; each cause is said once."""
    mltrace.configure(backend=Broken())

    async def main() -> Any:
        return [await decorated_coroutine(1), [item async for item in decorated_async_generator(2)]]

    for _ in range(3):
        assert "1b" == decorated(1)
        assert [3] == list(decorated_generator(3))
        assert [1, [2]] == asyncio.run(main())
        with mltrace.track_run("block") as run:
            run.log_metric("a", 1)
            run.log_text("x" * 100_000, "a.txt")
        mltrace.log_llm_call(model="m", response="r")
    assert "mltrace failed in" in said
    assert len(list(said)) == len(set(said))


def fail(*_: Any) -> Any:
    raise RuntimeError("the hook is broken")


@pytest.mark.parametrize("option", ["process_inputs", "process_outputs", "output_reducer"])
def test_a_hook_that_raises_does_not_reach_the_caller(said: list[str], option: str) -> None:
    """A failing hook costs what it was to make, not the call; a warning says so."""
    mltrace.configure(backend=MemoryBackend())
    options: dict[str, Any] = {option: fail}

    @mltrace.track_run(**options)
    def call(x: int) -> int:
        return x

    @mltrace.track_run(**options)
    def stream(x: int) -> Any:
        yield x

    assert (1, [2]) == (call(1), list(stream(2)))
    assert "the hook is broken" in said


def refuse(*_: Any) -> Any:
    raise RuntimeError("no")


@pytest.mark.parametrize("option", ["process_inputs", "process_outputs"])
def test_a_hook_that_raises_in_strict_mode_leaves_nothing_behind(memory: MemoryBackend, option: str) -> None:
    """In tests the hook's error reaches the caller, and the run before is current again."""
    options: dict[str, Any] = {option: fail}
    with mltrace.track_run("outer") as outer:
        with pytest.raises(RuntimeError, match="the hook is broken"):
            mltrace.track_run(**options)(add)(1, 2)
        assert outer is mltrace.current_run()


SEALED: dict[str, Callable[[], Any]] = {
    "object": type("Sealed", (), {"__getattribute__": refuse}),
    "type": lambda: type("Opaque", (type,), {"__getattribute__": refuse})("Sealed", (), {})(),
    "mapping": type(
        "Sealed", (dict,), dict.fromkeys(["items", "keys", "get", "__iter__", "__len__"], refuse)
    ),
    "number": type("Sealed", (int,), dict.fromkeys(["__float__", "__int__", "__lt__", "__gt__"], refuse)),
    "text": type("Sealed", (str,), dict.fromkeys(["__len__", "__eq__", "__hash__", "__str__"], refuse)),
}


@pytest.mark.parametrize("make", SEALED.values(), ids=SEALED)
@pytest.mark.parametrize("decorate", DECORATORS)
def test_a_value_that_cannot_be_read_does_not_reach_the_caller(
    memory: MemoryBackend, decorate: Any, make: Callable[[], Any]
) -> None:
    """Even in strict mode, calls may take and return objects that refuse every question."""
    value = make()
    assert value is decorate(lambda prompt: prompt)(value)
    assert [value] == list(decorate(stream_of)(value))
    assert ["FINISHED"] * 2 == [run.status for run in memory.roots]


def stream_of(x: Any) -> Any:
    yield x


# LLM calls.


def completion(text: str = "It is …") -> Any:
    return SimpleNamespace(
        model="gpt-4-0613",
        choices=[SimpleNamespace(message=SimpleNamespace(content=text), finish_reason="stop")],
        usage=SimpleNamespace(prompt_tokens=12, completion_tokens=80, total_tokens=92),
    )


def test_a_direct_call_whose_output_cannot_be_read_is_over(said: list[str]) -> None:
    """What failed in mltrace costs the output alone: the run has ended, with what else the call was told."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory)
    mltrace.log_prediction(question="q", answer="a", process_outputs=fail)
    mltrace.log_llm_call("m", "p", "r", tokens_used=3, process_outputs=fail)
    assert [("FINISHED", None), ("FINISHED", 3.0)] == [
        (run.status, run.metrics.get("total_tokens")) for run in memory.roots
    ]
    assert "mltrace failed in" in said


def test_a_direct_call_is_one_record(tmp_path: Path) -> None:
    """Its start waits for its end, which comes at once."""
    journal = Journal(DestinationDirectory(tmp_path, "http://127.0.0.1:9"))  # nobody reads it meanwhile
    mltrace.configure(backend=journal)
    mltrace.log_prediction(question="q", answer="a")
    mltrace.log_llm_call("m", "p", "r")
    assert 2 == journal.accepted


def told(call: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Return what a direct *call* with *options* records, but for its times and ids."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, strict=True)
    call(**options)
    run = only(memory)
    metrics = {name: value for name, value in run.metrics.items() if name != "latency_ms"}
    return run.name, run.kind, run.status, run.params, repr(metrics), run.tags, run.artifacts


@given(strategies.values() | strategies.secrets(), strategies.values() | strategies.secrets())
@settings(max_examples=60)
def test_direct_calls_record_the_same_with_and_without_options(asked: Any, answered: Any) -> None:
    """A direct call that has no options of its own takes a shorter way: it says the same."""
    for call, options in (
        (mltrace.log_prediction, {"question": asked, "answer": answered, "model_version": asked}),
        (mltrace.log_llm_call, {"model": asked, "prompt": asked, "response": answered, "tokens_used": 3}),
    ):
        assert told(call, options) == told(call, {**options, "tags": {}})


def test_a_decorated_llm_call_is_read_from_its_arguments_and_response(memory: MemoryBackend) -> None:
    """Prompt, settings, text, tokens and finish reason come from the call; the caller gets the response."""

    @mltrace.log_llm_call(model="gpt-4")
    def generate_answer(question: str, context: str, temperature: float = 0.7) -> Any:
        return response

    response = completion()
    assert response is generate_answer("What is RAG?", "docs")
    run = only(memory)
    assert ("llm_call", {"model": "gpt-4", "context": "docs", "temperature": "0.7"}) == (run.kind, run.params)
    assert (12.0, 80.0, 92.0) == tuple(run.metrics[f"{name}_tokens"] for name in ("input", "output", "total"))
    said = tuple(run.tags[f"mltrace.{name}"] for name in ("prompt", "response", "finish_reason"))
    assert ("What is RAG?", "It is …", "stop") == said


@pytest.mark.parametrize("name", ["prompt", "messages", "question", "query", "input", "contents"])
def test_the_prompt_is_found_by_the_name_of_its_argument(memory: MemoryBackend, name: str) -> None:
    """Whatever of the usual names the prompt has, it is the tag ``mltrace.prompt`` and no param."""
    mltrace.log_llm_call(lambda **arguments: "text")(**{name: "What?", "seed": 1})
    assert ("What?", {"seed": "1"}) == (only(memory).tags["mltrace.prompt"], only(memory).params)


def test_a_bare_llm_call_takes_the_model_from_the_response(memory: MemoryBackend) -> None:
    """Where no model is given, the response's is the param."""
    mltrace.log_llm_call(lambda prompt: completion())("What?")
    assert {"model": "gpt-4-0613"} == only(memory).params


def test_a_coroutine_can_be_an_llm_call(memory: MemoryBackend) -> None:
    """Asynchronous clients are recorded as synchronous ones are."""

    @mltrace.log_llm_call(model="gpt-4")
    async def ask(prompt: str) -> Any:
        return completion()

    asyncio.run(ask("What?"))
    run = only(memory)
    assert ("It is …", 92.0) == (run.tags["mltrace.response"], run.metrics["total_tokens"])


def test_a_block_is_an_llm_call(memory: MemoryBackend) -> None:
    """What is set on the block's object is recorded at its end; the total is the sum of the tokens."""
    with mltrace.log_llm_call(model="gpt-4", prompt="What?", temperature=0.2) as call:
        call.response = "It is …"
        call.record_usage(input_tokens=12, output_tokens=80)
    run = only(memory)
    assert (call.id, {"model": "gpt-4", "temperature": "0.2"}) == (run.id, run.params)
    assert (12.0, 80.0, 92.0) == tuple(run.metrics[f"{name}_tokens"] for name in ("input", "output", "total"))
    assert ("What?", "It is …") == (run.tags["mltrace.prompt"], run.tags["mltrace.response"])


def test_a_block_without_a_response_has_none(memory: MemoryBackend) -> None:
    """A block that sets nothing records the request alone; one that fails has its error."""
    with mltrace.log_llm_call(model="gpt-4") as call:
        assert None is call.response
    with pytest.raises(ValueError, match="no"), mltrace.log_llm_call(model="gpt-4"):
        raise ValueError("no")
    assert ["FINISHED", "FAILED"] == [run.status for run in memory.roots]
    assert "mltrace.response" not in memory.roots[0].tags


def test_a_provider_response_can_be_set_as_it_is(memory: MemoryBackend) -> None:
    """A block reads text and tokens from the provider's object too; what the caller counted comes first."""
    with mltrace.log_llm_call(model="gpt-4", messages=[{"role": "user", "content": "What?"}]) as call:
        call.response = completion()
        call.record_usage(total_tokens=100)
    run = only(memory)
    assert ("It is …", 100.0) == (run.tags["mltrace.response"], run.metrics["total_tokens"])
    assert [{"role": "user", "content": "What?"}] == json.loads(run.tags["mltrace.prompt"])


def test_a_direct_llm_call_is_recorded_at_once(memory: MemoryBackend) -> None:
    """With `response=` the call is over: one finished run, a child of the current one, is returned."""
    with mltrace.track_run("outer") as outer:
        recorded = mltrace.log_llm_call(
            model="gpt-4",
            prompt="What is RAG?",
            response="It is …",
            tokens_used=256,
            temperature=0.7,
            latency_ms=1500.5,
            finish_reason="x",
        )
        [run] = only(memory).children
        assert ("FINISHED", recorded.id, outer.id) == (run.status, run.id, run.parent_id)
        assert outer is mltrace.current_run()
    assert {"model": "gpt-4", "temperature": "0.7"} == run.params
    assert {"total_tokens": 256.0, "latency_ms": 1500.5} == run.metrics
    assert ("What is RAG?", "It is …", "x") == tuple(
        run.tags[f"mltrace.{name}"] for name in ("prompt", "response", "finish_reason")
    )


def test_a_direct_call_began_as_long_ago_as_it_took() -> None:
    """Its run ends now, to the millisecond."""
    with record() as recorder:
        mltrace.log_llm_call(model="gpt-4", prompt="What is RAG?", response="It is …", latency_ms=1500.5)
    [run] = recorder.runs
    assert run.start_ms is not None
    assert run.end_ms is not None
    assert 1500 == run.end_ms - run.start_ms


@pytest.mark.parametrize(
    "response", [None, "", completion(), {"text": "It is …"}], ids=["none", "empty", "object", "mapping"]
)
def test_any_response_makes_a_direct_call(memory: MemoryBackend, response: Any) -> None:
    """It is the presence of `response=` that counts: None and the empty text are answers too."""
    assert mltrace.log_llm_call(model="m", response=response).id == only(memory).id
    assert "FINISHED" == only(memory).status


@pytest.mark.parametrize("form", ["decorated", "block", "direct"])
def test_a_long_prompt_and_response_are_kept_whole(memory: MemoryBackend, form: str) -> None:
    """What does not fit a tag is whole in an artifact that the tag names, in all three forms."""
    prompt, response = "why " * 5_000, "because " * 3_000
    if form == "decorated":
        mltrace.log_llm_call(lambda prompt: response)(prompt)
    elif form == "block":
        with mltrace.log_llm_call(model="m", prompt=prompt) as call:
            call.response = response
    else:
        mltrace.log_llm_call(model="m", prompt=prompt, response=response)
    run = only(memory)
    kept = b"".join(run.artifacts.values()).decode()
    for name, text in (("mltrace.prompt", prompt), ("mltrace.response", response)):
        assert len(run.tags[name]) <= 8_000
        assert run.tags[name].partition("whole in ")[2].rstrip("]") in run.artifacts
        assert text in kept


@pytest.mark.parametrize("count", [None, "many", [1], math.nan], ids=repr)
def test_a_token_count_that_is_none_does_not_reach_the_caller(count: Any) -> None:
    """Providers leave counts out: what is no number is left out of the record, which is kept."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory)
    with mltrace.log_llm_call(model="m") as call:
        call.record_usage(input_tokens=count, output_tokens=5)
        call.response = "text"
    mltrace.log_llm_call(model="m", response="text", tokens_used=count, latency_ms=count)
    assert ["text", "text"] == [run.tags["mltrace.response"] for run in memory.roots]
    assert 5.0 == memory.roots[0].metrics["output_tokens"]


@pytest.mark.parametrize("name", ["tokens_used", "input_tokens", "latency_ms", "finish_reason"])
def test_what_only_a_direct_call_can_say_is_refused_elsewhere(name: str) -> None:
    """Options that describe a call that is over raise where its response is missing, and say so."""
    with pytest.raises(mltrace.ConfigurationError, match=f"{name}.*response="):
        mltrace.log_llm_call(model="m", **{name: 1})  # type: ignore[arg-type]


def test_a_stream_of_an_llm_knows_its_first_token(memory: MemoryBackend) -> None:
    """For streams the time to the first item is a metric, at most the latency."""

    @mltrace.log_llm_call(model="m")
    def ask(prompt: str) -> Any:
        yield "It "
        yield "is"

    assert ["It ", "is"] == list(ask("What?"))
    run = only(memory)
    assert "It is" == run.tags["mltrace.response"]
    assert 0 < run.metrics["time_to_first_token_ms"] <= run.metrics["latency_ms"]


# Predictions, training, evaluation.


def test_a_decorated_prediction(memory: MemoryBackend) -> None:
    """Arguments and version are params, what was predicted is the output."""

    @mltrace.log_prediction(model_version="3")
    def predict(features: list[float]) -> float:
        return sum(features)

    assert 3.0 == predict([1.0, 2.0])
    run = only(memory)
    assert ("prediction", {"features": "[1.0,2.0]", "model_version": "3"}) == (run.kind, run.params)
    assert (3.0, "3.0") == (run.metrics["output"], run.tags["mltrace.output"])


@pytest.mark.parametrize("name", ["output", "answer", "response"])
def test_a_block_prediction(memory: MemoryBackend, name: str) -> None:
    """A block's result may be set under any of three names."""
    with mltrace.log_prediction(model_version="3", inputs=[1, 2]) as call:
        setattr(call, name, 0.5)
    run = only(memory)
    assert ({"model_version": "3", "inputs": "[1,2]"}, 0.5, "0.5") == (
        run.params,
        run.metrics["output"],
        run.tags["mltrace.output"],
    )


def test_a_direct_prediction(memory: MemoryBackend) -> None:
    """With `answer=` the prediction is over and recorded at once."""
    recorded = mltrace.log_prediction(
        question="What?",
        answer="It is …",
        context="docs",
        latency_ms=125.5,
        model_version="gpt-4-turbo",
        user_feedback="helpful",
    )
    run = only(memory)
    assert ("FINISHED", recorded.id, "prediction") == (run.status, run.id, run.name)
    assert {"question": "What?", "context": "docs", "model_version": "gpt-4-turbo"} == run.params
    assert {"latency_ms": 125.5} == run.metrics
    assert ("It is …", "helpful") == (run.tags["mltrace.output"], run.tags["user_feedback"])


def test_a_direct_prediction_may_be_a_number(memory: MemoryBackend) -> None:
    """`output=` is another name of `answer=`; a number is a metric too."""
    mltrace.log_prediction(inputs={"a": 1}, output=0.25)
    assert (0.25, {"inputs": '{"a":1}'}) == (only(memory).metrics["output"], only(memory).params)


def test_a_training_run_is_a_run_of_that_kind(memory: MemoryBackend) -> None:
    """`log_training_run` is `track_run` with the kind ``training``, in every form."""
    mltrace.log_training_run(add)(1, 2)
    mltrace.log_training_run("fit_{x}", params={"lr": 0.1})(add)(1, 2)
    with mltrace.log_training_run(run_name="block", params={"lr": 0.1}):
        mltrace.log_metric("loss", 0.5, step=1)
    assert [("training", "add"), ("training", "fit_1"), ("training", "block")] == [
        (run.kind, run.name) for run in memory.roots
    ]
    assert "0.1" == memory.roots[1].params["lr"]
    assert {"loss": 0.5} == {"loss": memory.roots[2].metrics["loss"]}


@pytest.mark.parametrize("decorator", DECORATORS)
def test_every_bare_decorator_takes_class_and_static_methods(memory: MemoryBackend, decorator: Any) -> None:
    """In either order, without parentheses, all four make the method a run."""

    class Owner:
        outer_class = decorator(classmethod(lambda cls, x: (cls, x)))
        inner_class = classmethod(decorator(lambda cls, x: (cls, x)))
        outer_static = decorator(staticmethod(lambda x: (None, x)))
        inner_static = staticmethod(decorator(lambda x: (None, x)))

    for method, owner in (
        (Owner.outer_class, Owner),
        (Owner.inner_class, Owner),
        (Owner.outer_static, None),
        (Owner().inner_static, None),
    ):
        assert (owner, 1) == method(1)
    assert [{"x": "1"}] * 4 == [run.params for run in memory.roots]


def test_evaluation_metrics_belong_to_the_current_run(memory: MemoryBackend) -> None:
    """Inside a run the metrics are that run's, which is returned."""
    with mltrace.track_run("outer") as outer:
        assert outer is mltrace.log_evaluation_metrics({"f1": 0.5}, step=2)
    assert [(0.5, 2)] == [(point.value, point.step) for point in only(memory).history["f1"]]
    assert [] == only(memory).children


def test_evaluation_metrics_outside_a_run_have_one_of_their_own(memory: MemoryBackend) -> None:
    """Where there is no run, one of kind ``evaluation`` is made, ended and returned."""
    run = mltrace.log_evaluation_metrics({"f1": 0.5})
    assert (run.id, "evaluation", "FINISHED", 0.5) == (
        only(memory).id,
        only(memory).kind,
        only(memory).status,
        only(memory).metrics["f1"],
    )
    assert not mltrace.current_run()


# Sampling.


def tree(rate: float | None, *, fails: bool) -> None:
    """Call a tree of four runs, of which the second leaf may fail; its parent goes on."""

    @mltrace.track_run("leaf", sample_rate=1.0)
    def leaf(number: int) -> None:
        mltrace.log_metric("number", number)
        if fails and number == 2:
            raise ValueError(number)

    @mltrace.track_run("root", sample_rate=rate)
    def root() -> None:
        mltrace.log_text("x" * 100_000, "large.txt")
        for number in (1, 2, 3):
            outcome(leaf, number)

    root()


@pytest.mark.parametrize("how", ["option", "configured"])
def test_a_tree_that_is_not_sampled_is_not_recorded(how: str) -> None:
    """The root decides for the tree: with a rate of 0 nothing is recorded, whatever its children say."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, strict=True, sample_rate=0.0 if how == "configured" else 1.0)
    tree(0.0 if how == "option" else None, fails=False)
    assert {} == memory.runs


def test_a_failed_tree_is_always_recorded(memory: MemoryBackend) -> None:
    """A failure anywhere in the tree keeps all of it, from before and after, as if it had been sampled."""
    tree(0.0, fails=True)
    names = [(depth, run.name, run.status, run.metrics.get("number")) for depth, run in only(memory).walk()]
    assert [
        (0, "root", "FINISHED", None),
        (1, "leaf", "FINISHED", 1.0),
        (1, "leaf", "FAILED", 2.0),
        (1, "leaf", "FINISHED", 3.0),
    ] == names
    assert 100_000 == len(only(memory).artifacts["large.txt"])


def test_a_failed_tree_is_not_followed_by_others(memory: MemoryBackend) -> None:
    """Each tree is decided on its own: the one after a failed one is dropped again."""
    tree(0.0, fails=True)
    tree(0.0, fails=False)
    assert 1 == len(memory.roots)


@given(st.integers(0, 2**32))
@example(0)
@settings(deadline=None, max_examples=20)
def test_the_share_of_sampled_trees_is_the_rate(seed: int) -> None:
    """Of many roots about the share that was asked for is recorded, whatever the program seeds."""
    import random

    memory = MemoryBackend()
    mltrace.configure(backend=memory, strict=True)
    random.seed(seed)
    call = mltrace.track_run(sample_rate=0.5)(nothing)
    for _ in range(400):
        call()
    assert 120 < len(memory.roots) < 280
