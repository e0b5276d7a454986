"""
The contract of a decorator towards the caller: it cannot be told from the undecorated function.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import pickle
import sys
import types
import typing

from collections.abc import Callable, Iterable
from typing import Any

from .._config import configure
from ._hypothesis import for_all, st
from ._laws import Decorate, depth_of, expect, law, make, no_loop, outcome
from ._recorder import record
from ._steps import STEPS, STEPS_LATER, echo, echo_later, played, played_later
from .strategies import KEYWORDS, KINDS, Call, calls, values


def check_transparent(decorate: Decorate, *, examples: int = 25, frames: int = 1) -> None:
    """
    Check that functions decorated by *decorate* behave as undecorated ones.

    Results, arguments and exceptions are the same objects; signature, kind, names and type hints
    are kept; wrong arguments raise the same `TypeError`; methods, class and static methods,
    properties, partials and callable instances are bound as ever; ``send``, ``throw``, ``close`` and
    cancellation reach and leave generators, from any task; context variables set in the body are visible to the caller;
    functions are pickled by reference. All of it with mltrace on, and again switched off. What is
    recorded meanwhile goes nowhere.

    Args:
        decorate: ``decorate(function) -> function``.

        examples: Calls that are tried for each law.

        frames: Frames that the decorator may add to a traceback.

    Raises: AssertionError: A law is broken; the message says which, and shows the smallest call.
    """
    no_loop("check_transparent")
    for enabled in (True, False):
        with record():
            configure(enabled=enabled)
            for sentence, check in _LAWS.items():
                with law(sentence if enabled else f"switched off, {sentence}"):
                    check(decorate, examples if enabled else max(examples // 5, 1), frames)


# Calls.


class _Body:
    """What functions of the drawn calls do: note their arguments, then return or raise as told."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self, arguments: dict[str, Any]) -> Any:
        self.seen.append(arguments)
        if self.error is not None:
            raise self.error
        return self.result


def _arguments_and_result(decorate: Decorate, examples: int, frames: int) -> None:
    body = _Body()

    def check(call: Call) -> None:
        body.seen, body.result = [], [object()]
        expected, result = make(call), make(call, decorate(call.function))
        if call.kind in ("generator", "async generator"):
            expect(len(expected) == len(result), f"{call!r} yielded {len(result)} items, not {len(expected)}")
            expect(all(map(_is, expected, result)), f"{call!r} yielded other objects")
        else:
            expect(result is body.result, f"{call!r} returned another object")
        expect(len(body.seen) == 2, f"{call!r} called the function {len(body.seen) - 1} times")
        expect(_same_objects(*body.seen), f"{call!r} reached the function with other arguments")

    for kind in KINDS:
        for_all(calls(values(), body=body, kinds=[kind]), check, examples)


def _is(first: Any, second: Any) -> bool:
    return first is second


def _same_objects(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Compare by identity, and the packed ``rest`` and ``more`` by that of what they hold."""
    if list(first) != list(second):
        return False
    pairs = []
    for name in first:
        if name == "rest":
            pairs += [(len(first[name]), len(second[name])), *zip(first[name], second[name], strict=False)]
        elif name == "more":
            pairs += [(sys.intern(a), sys.intern(b)) for a, b in zip(first[name], second[name], strict=False)]
            pairs += zip(first[name].values(), second[name].values(), strict=False)
            pairs.append((len(first[name]), len(second[name])))
        else:
            pairs.append((first[name], second[name]))
    return all(a is b for a, b in pairs)


def _keywords(decorate: Decorate, examples: int, frames: int) -> None:
    def options(**more: Any) -> Any:
        return more

    decorated = decorate(options)
    for name in KEYWORDS:
        value = object()
        found, error = outcome(lambda name=name, value=value: decorated(**{name: value}))  # type: ignore[misc]
        reached = error is None and list(found) == [name] and found[name] is value
        expect(
            reached,
            f"{name}= reached the function as {found!r}" if error is None else f"{name}= raised {error!r}",
        )


def _raised() -> list[BaseException]:
    """Return one exception of each sort that a body can leave by."""
    found: list[BaseException] = [
        ValueError("no"),
        KeyError("k"),
        StopIteration(1),
        KeyboardInterrupt(),
        SystemExit(3),
    ]
    found += [asyncio.CancelledError(), GeneratorExit()]
    group = getattr(__import__("builtins"), "ExceptionGroup", None)  # since 3.11
    return [*found, group("some", [ValueError(1), KeyError(2)])] if group is not None else found


def _exception(decorate: Decorate, examples: int, frames: int) -> None:
    body = _Body()

    def check(drawn: tuple[Call, int]) -> None:
        call, number = drawn
        body.error = first = _raised()[number]
        _, plain = outcome(lambda: make(call))
        expected = _story(plain)
        body.error = fresh = _raised()[number]
        decorated = decorate(call.function)
        _, raised = outcome(lambda: make(call, decorated))
        what = f"{call!r} that raises {fresh!r}"
        expect(raised is not None, f"{what} raised nothing")
        expect(
            _story(raised)[:-1] == expected[:-1],
            f"{what} raised {raised!r} with other text, cause or context",
        )
        if plain is first:  # not so where Python itself raises another, as it does for StopIteration
            expect(raised is fresh, f"{what} raised another object, {raised!r}")
        more = _story(raised)[-1] - expected[-1]
        expect(more <= frames, f"{what} has a traceback that is {more} frames longer")

    numbers = st.integers(0, len(_raised()) - 1)
    for_all(st.tuples(calls(body=body, kinds=KINDS), numbers), check, examples * 2)


def _story(error: BaseException | None) -> tuple[Any, ...]:
    """Return what a caller can tell of an exception, without the objects themselves."""
    if error is None:
        return (None, 0)
    return (
        *(type(error), str(error), type(error.__cause__), type(error.__context__), error.__suppress_context__),
        depth_of(error),
    )  # fmt: skip


def _wrong_arguments(decorate: Decorate, examples: int, frames: int) -> None:
    def check(call: Call) -> None:
        expected = _refusal(call, call.function)
        found = _refusal(call, decorate(call.function))
        expect(expected == found, f"{call!r} raised {found or 'nothing'}, not {expected or 'nothing'}")

    for kind in KINDS:
        for_all(calls(kinds=[kind], matching=False), check, examples)


def _refusal(call: Call, function: Callable[..., Any]) -> str | None:
    """Return the text of the `TypeError` that a call raises at once; nothing is awaited."""
    made, error = outcome(lambda: function(*call.args, **call.kwargs))
    if inspect.iscoroutine(made):
        made.close()
    return None if error is None else f"{type(error).__name__}: {error}"


# What inspection sees.

_ATTRIBUTES = (
    *("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"),
    *("__defaults__", "__kwdefaults__"),
)
_QUESTIONS: tuple[Callable[[Any], Any], ...] = (
    *(inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction, callable),
)


def _inspection(decorate: Decorate, examples: int, frames: int) -> None:
    def check(call: Call) -> None:
        plain, found = call.function, decorate(call.function)
        for name in _ATTRIBUTES:
            expect(_equal(getattr(plain, name), getattr(found, name, None)), f"{name} of {call!r} is another")
        expect(inspect.signature(plain) == inspect.signature(found), f"{call!r} has another signature")
        expect(typing.get_type_hints(plain) == typing.get_type_hints(found), f"{call!r} has other type hints")
        expect(inspect.unwrap(found) is plain, f"unwrapping {call!r} does not lead to the function")
        for question in _QUESTIONS:
            name = getattr(question, "__name__", str(question))
            expect(question(plain) == question(found), f"{name} of {call!r} is {question(found)}")

    for_all(calls(kinds=KINDS), check, examples * 2)


def _equal(first: Any, second: Any) -> bool:
    return first is second or bool(first == second)


# Methods and other callables.


def _owner(decorate: Decorate) -> Any:
    """Return a class with a method of every sort, each under *decorate*."""

    class Owner:
        def method(self, *args: Any, **kwargs: Any) -> Any:
            return self, args, kwargs

        async def later(self, *args: Any, **kwargs: Any) -> Any:
            return self, args, kwargs

        def of_class(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 # becomes a class method below
            return cls, args, kwargs

        def static(*args: Any, **kwargs: Any) -> Any:  # becomes a static method below
            return args, kwargs

        def attribute(self) -> Any:
            return self

    namespace: Any = Owner
    of_class, static, attribute = (Owner.__dict__[name] for name in ("of_class", "static", "attribute"))
    wrap: Any = decorate  # also of what is no function yet
    namespace.outer_class, namespace.inner_class = wrap(classmethod(of_class)), classmethod(wrap(of_class))
    namespace.outer_static, namespace.inner_static = wrap(staticmethod(static)), staticmethod(wrap(static))
    namespace.attribute = property(decorate(attribute))
    namespace.method, namespace.later = decorate(Owner.__dict__["method"]), decorate(Owner.__dict__["later"])
    return namespace


_METHODS = ("method", "outer_class", "inner_class", "outer_static", "inner_static")


def _methods(decorate: Decorate, examples: int, frames: int) -> None:
    owner = _owner(decorate)
    kinds = {"class": owner, "a subclass": type("Sub", (owner,), {})}
    arguments = st.tuples(
        st.lists(st.integers(), max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["self", "cls", "instance", "x"]), st.integers(), max_size=3),
    )

    def check(drawn: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        args, kwargs = drawn
        free = {name: value for name, value in kwargs.items() if name not in ("self", "cls")}
        for where, kind in kinds.items():
            one = kind()
            for name in _METHODS:
                bound: Any = {"method": (one,), "outer_class": (kind,), "inner_class": (kind,)}.get(name, ())
                given = kwargs if name.endswith("static") else free
                found = getattr(one, name)(*args, **given)
                expect(
                    (*bound, args, given) == found,
                    f"{name} of an instance of {where} was called with {found!r}",
                )
                if name != "method":
                    found = getattr(kind, name)(*args, **given)
                    expect(
                        (*bound, args, given) == found, f"{name} of {where} itself was called with {found!r}"
                    )
            expect(
                (one, args, free) == kind.method(one, *args, **free), f"method of {where} lost its instance"
            )
            expect(one is one.attribute, f"property of {where} lost its instance")
            expect(
                (one, args, free) == asyncio.run(one.later(*args, **free)), f"coroutine of {where} differs"
            )

    for_all(arguments, check, examples)


class _Adder:
    """A callable instance."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, x: int) -> int:
        return x + self.offset


def _add(offset: int, x: int) -> int:
    return x + offset


def _callables(decorate: Decorate, examples: int, frames: int) -> None:
    def check(drawn: tuple[int, int]) -> None:
        offset, x = drawn
        for plain in (
            functools.partial(_add, offset),
            _Adder(offset),
            _Adder(offset).__call__,
            lambda x: x + offset,
        ):
            found = decorate(plain)(x)
            expect(found == x + offset, f"{plain!r} of {x} is {found!r}, not {x + offset}")

    for_all(st.tuples(st.integers(), st.integers()), check, examples)


# Streams.


def _streams(decorate: Decorate, examples: int, frames: int) -> None:
    def check(drawn: tuple[int, list[str]]) -> None:
        limit, steps = drawn
        steps = [*steps, *["next"] * (limit + 1)]
        expected, found = played(echo(limit), steps), played(decorate(echo)(limit), steps)
        expect(expected == found, f"a generator of {limit}, after {steps}, gave {found}, not {expected}")

    def check_later(drawn: tuple[tuple[int, list[str]], bool]) -> None:
        (limit, steps), task_each = drawn
        expected = asyncio.run(played_later(echo_later(limit), steps, task_each=task_each))
        found = asyncio.run(played_later(decorate(echo_later)(limit), steps, task_each=task_each))
        what = f"an async generator of {limit}, after {steps}"
        expect(expected == found, f"{what}, gave {found}, not {expected}")

    for step in STEPS:
        check((3, ["next", step]))
    for step in STEPS_LATER:
        check_later(((3, ["next", step, "next"]), True))

    def stepped(steps: Iterable[str]) -> st.SearchStrategy[tuple[int, list[str]]]:
        return st.tuples(st.integers(0, 4), st.lists(st.sampled_from(list(steps)), max_size=6))

    for_all(stepped(STEPS), check, examples * 2)
    for_all(st.tuples(stepped(STEPS_LATER), st.booleans()), check_later, examples)


# Context variables.

_VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("_VARIABLE", default=None)


def _set(arguments: dict[str, Any]) -> Any:
    _VARIABLE.set(arguments)
    return [1]


def _context_variables(decorate: Decorate, examples: int, frames: int) -> None:
    def check(call: Call) -> None:
        token = _VARIABLE.set(None)
        decorated = decorate(call.function)
        try:
            if call.kind in ("function", "generator"):
                make(call, decorated)
                visible = _VARIABLE.get() is not None
            else:
                visible = asyncio.run(_visible_after(call, decorated))
            expect(visible, f"what {call!r} sets is not visible to its caller")
        finally:
            _VARIABLE.reset(token)

    for kind in KINDS:
        for_all(calls(body=_set, kinds=[kind]), check, max(examples // 5, 1))


async def _visible_after(call: Call, decorated: Callable[..., Any]) -> bool:
    if call.kind == "coroutine":
        await decorated(*call.args, **call.kwargs)
    else:
        async for _ in decorated(*call.args, **call.kwargs):
            expect(
                _VARIABLE.get() is not None, "an async generator's variable is not visible to its consumer"
            )
    return _VARIABLE.get() is not None


# Copies.


def _pickled(decorate: Decorate, examples: int, frames: int) -> None:
    module = types.ModuleType("mltrace_contract")
    sys.modules[module.__name__] = module

    def check(call: Call) -> None:
        function: Any = call.function
        function.__module__, function.__name__, function.__qualname__ = module.__name__, "task", "task"
        decorated = decorate(function)
        module.task = decorated  # type: ignore[attr-defined] # where unpickling looks for it
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            found, error = outcome(lambda protocol=protocol: pickle.loads(pickle.dumps(decorated, protocol)))  # type: ignore[misc] # noqa: S301 # of our own making
            expect(error is None, f"pickling {call!r} raised {error!r}")
            expect(found is decorated, f"unpickling {call!r} by protocol {protocol} gave {found!r}")
        expect(copy.deepcopy(decorated) is decorated, f"a deep copy of {call!r} is another object")

    try:
        for_all(calls(kinds=KINDS), check, max(examples // 5, 1))
    finally:
        del sys.modules[module.__name__]


_LAWS: dict[str, Callable[[Decorate, int, int], None]] = {
    "arguments reach the function and its result the caller, as the same objects": _arguments_and_result,
    "keyword arguments of any name reach the function": _keywords,
    "the exception of the function reaches the caller, as the same object": _exception,
    "wrong arguments raise the TypeError of the undecorated function": _wrong_arguments,
    "inspection sees the undecorated function": _inspection,
    "methods are bound as undecorated ones": _methods,
    "partials, instances, bound methods and lambdas are called as ever": _callables,
    "generators give what undecorated ones give, whatever is done to them": _streams,
    "a context variable set in the function is visible to its caller": _context_variables,
    "a decorated function is pickled by reference, and copied as itself": _pickled,
}
