"""
Streams that show whatever is done to them, and everything that a consumer can do to a stream.
"""

from __future__ import annotations

import asyncio

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from ._laws import outcome


class Signal(Exception):
    """What is thrown into a body that knows it."""


class Unknown(Exception):
    """What is thrown into a body that does not know it."""


def echo(limit: int) -> Generator[Any, Any, Any]:
    """Yield what was sent or thrown, and return how it ended."""
    found: Any = "first"
    for step in range(limit):
        try:
            found = yield (step, found)
        except Signal as error:
            found = f"caught {error}"
        except GeneratorExit:
            return "closed"
        if found == "raise":
            raise ValueError(step)
        if found == "stop":
            return "stopped"
    return "done"


async def echo_later(limit: int) -> AsyncGenerator[Any, Any]:
    """Do the same between awaits."""
    found: Any = "first"
    for step in range(limit):
        await asyncio.sleep(0)
        try:
            found = yield (step, found)
        except Signal as error:
            found = f"caught {error}"
        except GeneratorExit:
            return
        if found == "raise":
            raise ValueError(step)
        if found == "stop":
            return


STEPS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "next": (lambda stream: next(stream), lambda stream: stream.__anext__()),
    "send": (lambda stream: stream.send("text"), lambda stream: stream.asend("text")),
    "send raise": (lambda stream: stream.send("raise"), lambda stream: stream.asend("raise")),
    "send stop": (lambda stream: stream.send("stop"), lambda stream: stream.asend("stop")),
    "throw signal": (lambda stream: stream.throw(Signal("s")), lambda stream: stream.athrow(Signal("s"))),
    "throw unknown": (lambda stream: stream.throw(Unknown("u")), lambda stream: stream.athrow(Unknown("u"))),
    "throw stop": (lambda stream: stream.throw(StopIteration("x")), lambda stream: stream.athrow(StopAsyncIteration("x"))),
    "throw exit": (lambda stream: stream.throw(GeneratorExit()), lambda stream: stream.athrow(GeneratorExit())),
    "close": (lambda stream: stream.close(), lambda stream: stream.aclose()),
}  # fmt: skip
"""Each thing that a consumer can do to a generator, and to an async one."""


def played(stream: Any, steps: list[str]) -> list[Any]:
    """Return what each step made: a value, or an exception's type and arguments."""
    found = []
    for step in steps:
        value, error = outcome(lambda step=step: STEPS[step][0](stream))  # type: ignore[misc]
        found.append(value if error is None else (type(error), error.args))
    return found


async def played_later(stream: Any, steps: list[str], *, task_each: bool = False) -> list[Any]:
    """
    Return what each step of an async generator made; with *task_each*, each is made by a task of
    its own.
    """
    found = []
    for step in [*steps, "close"]:
        try:
            awaitable = STEPS[step][1](stream)
            found.append(await (asyncio.ensure_future(_awaited(awaitable)) if task_each else awaitable))
        except BaseException as error:
            found.append((type(error), error.args))
    return found


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
