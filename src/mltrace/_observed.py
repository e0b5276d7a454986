"""
Streams that a function returns: the caller gets the provider's object in a transparent proxy, and
the run follows the chunks while the caller reads them.

The proxy is what the object is: `isinstance`, attributes, ``with``, ``close`` and ``await`` work as
before, chunks are handed on as they come, and nothing is read ahead. The run ends once: when the
stream is exhausted, raises, is closed or left, or when nobody holds it any more.
"""

from __future__ import annotations

import functools
import inspect
import types

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import wrapt

from . import _guard
from ._context import reset_current, set_current
from ._instrument import Instrument
from ._known_types import lookup, mro_of
from ._llm import CLOSES, DRAINS, INNER, is_stream
from ._runs import Run
from ._streams import Stream


T = TypeVar("T")

_Proxy: Any = getattr(
    wrapt, "BaseObjectProxy", wrapt.ObjectProxy
)  # the former, since 2.0, is no iterable of itself

_STEPS = frozenset({"send", "throw"})
_STEPS_LATER = frozenset({"asend", "athrow"})


def observe(instrument: Instrument, run: Run, source: Any) -> Any:
    """Return the view of the stream *source* through which *run* sees what it says, and ends."""
    if not run:
        return source
    try:
        return _view(source, Reading(Stream(instrument, run), run))
    except Exception as error:
        _guard.internal_error("following a stream", error, run.hide)
        instrument.finish(run, source)
        return source


def observe_in_block(stream: Stream, run: Run, source: T) -> T:
    """Return the view of *source* through which *stream* sees what it says; the block ends the run."""
    viewed: T = _view(source, Reading(stream, run, ends_run=False))
    return viewed


class Reading:
    """The reading of one stream, shared by all its views: what they read is recorded here, and ends here."""

    def __init__(self, stream: Stream, run: Run, *, ends_run: bool = True) -> None:
        self._stream = stream
        self._run = run
        self._ends_run = ends_run
        self._over = False

    def step(self, advance: Callable[..., Any], *arguments: Any) -> Any:
        """Return the next chunk, read with the run current."""
        if self._over:
            return advance(*arguments)
        token = set_current(self._run)
        try:
            chunk = advance(*arguments)
        except BaseException as error:
            reset_current(token)
            self.stop(error)
            raise
        reset_current(token)
        self._stream.add(chunk)
        return chunk

    async def step_later(self, advance: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Return the next chunk, awaited with the run current."""
        if self._over:
            return await advance(*arguments)
        token = set_current(self._run)
        try:
            chunk = await advance(*arguments)
        except BaseException as error:
            reset_current(token)
            self.stop(error)
            raise
        reset_current(token)
        self._stream.add(chunk)
        return chunk

    def leave(self, close: Callable[..., Any], *arguments: Any) -> Any:
        """Return what *close* returns; the stream is over after it, or after what it returns is awaited."""
        token = set_current(self._run)
        try:
            result = close(*arguments)
        except BaseException:
            reset_current(token)
            self.end(closed=True)
            raise
        reset_current(token)
        if inspect.isawaitable(result):
            return self._leave_later(result)
        self.end(closed=True)
        return result

    async def _leave_later(self, result: Awaitable[Any]) -> Any:
        token = set_current(self._run)
        try:
            return await result
        finally:
            reset_current(token)
            self.end(closed=True)

    def source(self, stream: Any) -> None:
        """Know the *stream* of whose chunks only the texts are seen: it may know the rest."""
        self._stream.source = stream

    def stop(self, error: BaseException) -> None:
        """End with what a step has raised."""
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self.end()
        elif isinstance(error, GeneratorExit):
            self.end(closed=True)
        else:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End with the error of the stream's own."""
        if not self._over:
            self._over = True
            if self._ends_run:
                self._stream.fail(error)

    def end(self, *, closed: bool = False) -> None:
        """End; *closed* before the stream itself did."""
        if not self._over:
            self._over = True
            if self._ends_run:
                self._stream.finish(closed=closed)

    def __del__(self) -> None:
        try:
            self.end(closed=True)
        except Exception as error:
            _guard.warn_once(
                "stream", "the end of a stream that nobody read was not recorded", error=type(error).__name__
            )


def _view(source: Any, reading: Reading) -> Any:
    return _view_class(type(source))(source, reading)


class _View(_Proxy):  # type: ignore[misc] # wrapt has no types
    """A stream, followed. Subclasses have the special methods that the stream has, and no others."""

    def __init__(self, source: Any, reading: Reading) -> None:
        super().__init__(source)
        self._self_reading = reading

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__wrapped__, name)
        if (change := _CHANGES.get(name)) is not None:
            return change(self, found)
        return found

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def __str__(self) -> str:
        text: Any = type(self.__wrapped__).__str__
        return str(text(self))  # of some, it is the answer, read to its end

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__wrapped__.__reduce_ex__(protocol)


def _closing(view: _View, close: Any) -> Any:
    return functools.partial(view._self_reading.leave, close)


def _draining(view: _View, drain: Any) -> Any:
    """Return the method with the view as its ``self``, so that what it reads is seen."""
    return types.MethodType(drain.__func__, view) if inspect.ismethod(drain) else drain


def _inner(view: _View, found: Any) -> Any:
    view._self_reading.source(view.__wrapped__)
    if is_stream(type(found)):
        return _view(found, view._self_reading)
    if not inspect.ismethod(found):
        return found
    return lambda *arguments: _seen(view, found(*arguments))


def _stepping(view: _View, step: Any) -> Any:
    return functools.partial(view._self_reading.step, step)


def _stepping_later(view: _View, step: Any) -> Any:
    return functools.partial(view._self_reading.step_later, step)


_CHANGES: dict[str, Callable[[_View, Any], Any]] = {
    **dict.fromkeys(CLOSES, _closing),
    **dict.fromkeys(DRAINS, _draining),
    **dict.fromkeys(INNER, _inner),
    **dict.fromkeys(_STEPS, _stepping),
    **dict.fromkeys(_STEPS_LATER, _stepping_later),
}
"""Attributes of a stream that read or end it, and what the view has in their place."""


def _seen(view: _View, found: Any) -> Any:
    """Return what entering a stream gave: itself is the view, another stream a view of the same reading."""
    if found is view.__wrapped__:
        return view
    return _view(found, view._self_reading) if is_stream(type(found)) else found


class _Next:
    __slots__ = ()  # with a `__dict__` of its own it would hide that of the stream

    def __iter__(self: Any) -> Any:
        return self

    def __next__(self: Any) -> Any:
        return self._self_reading.step(self.__wrapped__.__next__)


class _NextLater:
    __slots__ = ()

    def __aiter__(self: Any) -> Any:
        return self

    async def __anext__(self: Any) -> Any:
        return await self._self_reading.step_later(self.__wrapped__.__anext__)


class _With:
    __slots__ = ()

    def __enter__(self: Any) -> Any:
        try:
            return _seen(self, self.__wrapped__.__enter__())
        except BaseException as error:
            self._self_reading.fail(error)
            raise

    def __exit__(self: Any, *failure: Any) -> Any:
        return self._self_reading.leave(self.__wrapped__.__exit__, *failure)


class _WithLater:
    __slots__ = ()

    async def __aenter__(self: Any) -> Any:
        try:
            return _seen(self, await self.__wrapped__.__aenter__())
        except BaseException as error:
            self._self_reading.fail(error)
            raise

    async def __aexit__(self: Any, *failure: Any) -> Any:
        return await self._self_reading.leave(self.__wrapped__.__aexit__, *failure)


_SPECIAL: dict[str, type] = {
    "__next__": _Next,
    "__anext__": _NextLater,
    "__enter__": _With,
    "__aenter__": _WithLater,
}


def _view_class(kind: type) -> type:
    mro = mro_of(kind)
    return _made(tuple(one for name, one in _SPECIAL.items() if lookup(mro, name)[0] is not None))


@functools.cache
def _made(special: tuple[type, ...]) -> type:
    return type("View", (*special, _View), {"__slots__": ()})
