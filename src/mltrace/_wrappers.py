"""
The four ways to run an instrumented function as it is: plain, coroutine, generator, async
generator.

In streams the run is current during each step of the body and never in the consumer: a run that is
current across a ``yield`` would be the consumer's too, and two interleaved streams would leave the
wrong one behind.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any

import wrapt

from . import _clock, _guard
from ._config import is_enabled
from ._context import reset_current, restore_current, set_current
from ._instrument import Instrument
from ._runs import SILENT, Run, failure_fields
from ._values import WHOLE_LIMIT
from .exceptions import ConfigurationError


Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]

_STREAM_ITEMS = 10_000


class _Copied:
    """A decorated callable is copied and pickled as a function is: by reference."""

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


class TracedMethod(_Copied, wrapt.BoundFunctionWrapper):  # type: ignore[type-arg] # see Traced
    """A decorated method, looked up on an instance or a class."""

    def __reduce__(self) -> Any:
        """
        Return what finds the method again: its instance and name, or, without one, its qualified
        name.
        """
        function = self.__wrapped__
        if self._self_instance is not None:
            return getattr, (self._self_instance, function.__name__)
        return _look_up, (function.__module__, function.__qualname__)


class Traced(_Copied, wrapt.FunctionWrapper):  # type: ignore[type-arg] # its parameters are newer than our oldest wrapt
    """A decorated callable."""

    __bound_function_wrapper__ = TracedMethod

    def __init__(self, wrapped: Any, wrapper: Wrapper, kind: str) -> None:
        super().__init__(wrapped, wrapper)
        self._self_kind = kind

    def __reduce__(self) -> Any:
        """Return the qualified name, under which unpickling finds the decorated function again."""
        return self.__wrapped__.__qualname__


def _look_up(module: str, qualified_name: str) -> Any:
    return functools.reduce(getattr, qualified_name.split("."), importlib.import_module(module))


def decorate(instrument: Instrument, function: Any) -> Any:
    """
    Return *function* instrumented, with its kind, signature and identity kept.

    Applied twice with the same kind, it records once, with the options of the outer decorator.
    """
    kind = instrument.options.kind
    if not callable(function) and not isinstance(function, (classmethod, staticmethod)):
        raise ConfigurationError(f"{kind}: {function!r:.100} is not a function")
    if isinstance(function, Traced) and function._self_kind == kind:
        function = function.__wrapped__
    target = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
    return Traced(function, _wrapper(target)(instrument.bound_to(function)), kind)


def _wrapper(target: Any) -> Callable[[Instrument], Wrapper]:
    """Return the wrapper for the kind of callable that *target* is."""
    while isinstance(target, functools.partial):
        target = target.func
    for candidate in (target, getattr(type(target), "__call__", None)):  # noqa: B004 # a callable instance's kind is its method's
        if inspect.iscoroutinefunction(candidate):
            return _coroutine
        if inspect.isgeneratorfunction(candidate):
            return _generator
        if inspect.isasyncgenfunction(candidate):
            return _async_generator
    return _plain


def _plain(instrument: Instrument) -> Wrapper:
    def call(
        wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not is_enabled() or (run := instrument.start(instance, args, kwargs)) is None:
            return wrapped(*args, **kwargs)
        token = set_current(run)
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            restore_current(token)
            run.finish(*failure_fields(run, error))
            raise
        restore_current(token)
        instrument.finish(run, result)
        return result

    return call


def _coroutine(instrument: Instrument) -> Wrapper:
    async def call(coroutine: Coroutine[Any, Any, Any], prepared: Run) -> Any:
        run = _launch(instrument, prepared)
        token = set_current(run)
        try:
            result = await coroutine
        except BaseException as error:
            reset_current(token)
            run.finish(*failure_fields(run, error))
            raise
        reset_current(token)
        instrument.finish(run, result)
        return result

    return _later(instrument, call)


def _generator(instrument: Instrument) -> Wrapper:
    def drive(generator: Generator[Any, Any, Any], prepared: Run) -> Generator[Any, Any, Any]:
        run = _launch(instrument, prepared)
        stream = Stream(instrument, run)
        step: Callable[[Any], Any] = generator.send
        sent: Any = None
        try:
            while True:
                token = set_current(run)
                try:
                    item = step(sent)
                finally:
                    reset_current(token)
                stream.add(item)
                if type(sent) is GeneratorExit:
                    stream.ignored_exit()
                try:
                    sent = yield item
                    step = generator.send
                except BaseException as error:  # `close` among them, which is a GeneratorExit thrown in
                    step, sent = generator.throw, error
        except StopIteration as stop:
            stream.finish(closed=type(sent) is GeneratorExit)
            return stop.value
        except BaseException as error:
            if error is sent and type(error) is GeneratorExit:
                stream.finish(closed=True)
            else:
                run.finish(*failure_fields(run, error))
            raise

    return _later(instrument, drive)


def _async_generator(instrument: Instrument) -> Wrapper:
    async def drive(generator: AsyncGenerator[Any, Any], prepared: Run) -> AsyncGenerator[Any, Any]:
        run = _launch(instrument, prepared)
        stream = Stream(instrument, run)
        step: Callable[[Any], Any] = generator.asend
        sent: Any = None
        try:
            while True:
                token = set_current(run)
                try:
                    item = await step(sent)
                finally:
                    reset_current(token)
                stream.add(item)
                if type(sent) is GeneratorExit:
                    stream.ignored_exit()
                try:
                    sent = yield item
                    step = generator.asend
                except BaseException as error:  # `aclose` among them, which is a GeneratorExit thrown in
                    step, sent = generator.athrow, error
        except StopAsyncIteration:
            stream.finish(closed=type(sent) is GeneratorExit)
        except BaseException as error:
            # A CancelledError that was thrown in is not a cancelled step, but a cancelled `aclose`:
            # what a
            # loop that shuts down does to streams that were left early.
            if error is sent and isinstance(error, (GeneratorExit, asyncio.CancelledError)):
                stream.finish(closed=True)
            else:
                run.finish(*failure_fields(run, error))
            raise

    return _later(instrument, drive)


def _later(instrument: Instrument, drive: Callable[[Any, Run], Any]) -> Wrapper:
    """
    Return a wrapper for what only begins when it is awaited or iterated: arguments are checked and
    rendered at the call, the run starts with the first step.
    """

    def call(
        wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not is_enabled():
            return wrapped(*args, **kwargs)
        try:
            prepared = instrument.prepare(instance, args, kwargs)
        except Exception as error:
            _guard.internal_error("the start of a run", error)
            return wrapped(*args, **kwargs)
        return drive(wrapped(*args, **kwargs), prepared)

    return call


def _launch(instrument: Instrument, prepared: Run) -> Run:
    try:
        return instrument.launch(prepared, call=True)
    except Exception as error:
        _guard.internal_error("the start of a run", error)
        return SILENT


class Stream:
    """What a stream has yielded so far, bounded, and the end of its run."""

    def __init__(self, instrument: Instrument, run: Run) -> None:
        self._instrument = instrument
        self._run = run
        self._items: list[Any] = []
        self._keep = instrument.options.capture_output
        self._count = 0
        self._room = WHOLE_LIMIT
        self.first_ns: int | None = None

    def add(self, item: Any) -> None:
        """
        Take the next item; the first 10,000 items, or about 1 MiB of text, are kept for the output.
        """
        if self.first_ns is None:
            self.first_ns = _clock.elapsed_ns()
        self._count += 1
        if not self._keep:
            return
        try:
            if self._instrument.options.output_reducer is None and type(item) is not str:
                item = self._run._renderer.plain("", item, self._run._secrets)
            self._items.append(item)
            self._room -= len(item) if type(item) is str else 100
            self._keep = self._room > 0 and len(self._items) < _STREAM_ITEMS
        except Exception as error:
            _guard.internal_error("recording a stream", error)

    def ignored_exit(self) -> None:
        """
        End the run of a body that yields when it is closed: Python raises in the consumer, and the
        body gets no other step.
        """
        self._run.finish(*failure_fields(self._run, RuntimeError("the generator ignored GeneratorExit")))

    def finish(self, *, closed: bool = False) -> None:
        """End the run with the reduced output."""
        run = self._run
        try:
            result = reduce(self._items, self._instrument.options.output_reducer, self._count)
        except Exception as error:
            _guard.internal_error("output_reducer", error)
            result = self._items
        first_ms = None if self.first_ns is None else (self.first_ns - run._start_ns) / 1e6
        self._instrument.finish(
            run, result, first_ms=first_ms, extra={"mltrace.stream": "closed"} if closed else None
        )


def reduce(items: list[Any], reducer: Callable[[list[Any]], Any] | None, count: int) -> Any:
    """
    Return a stream's output: what *reducer* makes of the *items* kept of *count*; else texts
    joined, anything else as a list, and how many were left out.
    """
    if reducer is not None:
        return reducer(items)
    left = [f"… [{count - len(items)} more items]"] if items and count > len(items) else []
    return "".join(items + left) if items and all(type(item) is str for item in items) else items + left
