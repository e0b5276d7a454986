"""
What the contracts share: how a law is stated, and how a call is made and left.
"""

from __future__ import annotations

import asyncio
import contextlib

from collections.abc import Callable, Iterator
from typing import Any

from .strategies import Call


Decorate = Callable[[Callable[..., Any]], Any]


def expect(holds: object, sentence: str) -> None:
    """Raise `AssertionError` with *sentence* where *holds* is false; also under ``python -O``."""
    if not holds:
        raise AssertionError(sentence)


@contextlib.contextmanager
def law(sentence: str) -> Iterator[None]:
    """
    Have what breaks in the block begin with *sentence*. Any exception breaks a law: a record that
    MLflow would refuse, a decorator that raises on its own.
    """
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{sentence}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{sentence}: {type(error).__name__}: {error}") from error


def no_loop(name: str) -> None:
    """Raise `RuntimeError` where an event loop is running: the contracts run loops of their own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"{name} runs event loops of its own; call it from a test that is no coroutine")


def make(call: Call, function: Callable[..., Any] | None = None) -> Any:
    """
    Make *call*, of *function* in the place of its own, to its end; return what it returns, for
    streams the list of what it yields.
    """
    result = (call.function if function is None else function)(*call.args, **call.kwargs)
    if call.kind == "function":
        return result
    if call.kind == "coroutine":
        return asyncio.run(_awaited(result))
    if call.kind == "generator":
        return list(result)
    return asyncio.run(_collected(result))


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _collected(stream: Any) -> list[Any]:
    return [item async for item in stream]


def outcome(do: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Return what *do* returns, and what it raises."""
    try:
        return do(), None
    except BaseException as error:
        return None, error


def depth_of(error: BaseException) -> int:
    """Return the number of frames of the error's traceback."""
    depth, traceback = 0, error.__traceback__
    while traceback is not None:
        depth, traceback = depth + 1, traceback.tb_next
    return depth
