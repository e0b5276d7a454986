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
import inspect

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from . import _guard
from ._config import is_enabled
from ._context import reset_current, restore_current, set_current
from ._inert import SILENT
from ._instrument import Instrument
from ._llm import is_stream
from ._observed import observe
from ._runs import Run
from ._streams import Stream
from ._traced import Traced
from .exceptions import ConfigurationError


Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]


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
    wrapper = _wrapper(target)(instrument.bound_to(function))
    return Traced(function, wrapper, kind, functools.partial(decorate, instrument))


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
            run.finish(*run.failure(error))
            raise
        restore_current(token)
        if instrument.observes and is_stream(type(result)):
            return observe(instrument, run, result)
        instrument.finish(run, result)
        return result

    return call


def _coroutine(instrument: Instrument) -> Wrapper:
    async def drive(make: Callable[..., Any], args: Any, kwargs: Any, prepared: Run) -> Any:
        run = _launch(instrument, prepared)
        token = set_current(run)
        try:
            result = await make(*args, **kwargs)
        except BaseException as error:
            reset_current(token)
            run.finish(*run.failure(error))
            raise
        reset_current(token)
        if instrument.observes and is_stream(type(result)):
            return observe(instrument, run, result)
        instrument.finish(run, result)
        return result

    return _later(instrument, drive)


def _generator(instrument: Instrument) -> Wrapper:
    def drive(
        make: Callable[..., Generator[Any, Any, Any]], args: Any, kwargs: Any, prepared: Run
    ) -> Generator[Any, Any, Any]:
        generator = make(*args, **kwargs)
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
                run.finish(*run.failure(error))
            raise

    return _later(instrument, drive)


def _async_generator(instrument: Instrument) -> Wrapper:
    async def drive(
        make: Callable[..., AsyncGenerator[Any, Any]], args: Any, kwargs: Any, prepared: Run
    ) -> AsyncGenerator[Any, Any]:
        generator = make(*args, **kwargs)
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
            # what a loop that shuts down does to streams that were left early.
            if error is sent and isinstance(error, (GeneratorExit, asyncio.CancelledError)):
                stream.finish(closed=True)
            else:
                run.finish(*run.failure(error))
            raise

    return _later(instrument, drive)


def _later(instrument: Instrument, drive: Callable[[Any, Any, Any, Run], Any]) -> Wrapper:
    """
    Return a wrapper for what only begins when it is awaited or iterated: arguments are checked and
    rendered at the call, the run starts with the first step.

    The function itself is called with the first step too, where the arguments are known to fit: a
    coroutine that is closed, or whose task is cancelled, before it began must not leave behind an
    inner one that "was never awaited".
    """
    defers = instrument.checks_arguments
    drive.__name__, drive.__qualname__ = instrument.called  # what warnings and the `repr` of tasks show

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
        if defers and not prepared._unfit:
            return drive(wrapped, args, kwargs, prepared)
        return drive(_Made(wrapped(*args, **kwargs)), (), {}, prepared)

    return call


class _Made:
    """What a function made at the call, for the first step; a coroutine that is never begun is closed."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def __call__(self) -> Any:
        made, self._made = self._made, None
        return made

    def __del__(self) -> None:
        if inspect.iscoroutine(self._made):
            self._made.close()


def _launch(instrument: Instrument, prepared: Run) -> Run:
    try:
        return instrument.launch(prepared, call=True)
    except Exception as error:
        _guard.internal_error("the start of a run", error)
        return SILENT
