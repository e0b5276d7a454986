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


# Ways to leave a stream of `echo`, each with the status that its run has then.


def _close(stream: Any) -> None:
    next(stream)
    stream.close()


def _throw(error: BaseException) -> Callable[[Any], None]:
    def leave(stream: Any) -> None:
        next(stream)
        outcome(lambda: stream.throw(error))

    return leave


def _fail(stream: Any) -> None:
    next(stream)
    outcome(lambda: stream.send("raise"))
    stream.close()


LEFT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "is exhausted": (list, "FINISHED"),
    "is closed": (_close, "FINISHED"),
    "is dropped": (next, "FINISHED"),
    "is thrown an error": (_throw(ValueError("no")), "FAILED"),
    "is interrupted": (_throw(KeyboardInterrupt()), "KILLED"),
    "raises": (_fail, "FAILED"),
}


async def _exhaust_later(stream: Any) -> None:
    async for _ in stream:
        pass


async def _close_later(stream: Any) -> None:
    await stream.__anext__()
    await stream.aclose()


async def _close_in_another_task(stream: Any) -> None:
    async def close() -> None:
        await stream.aclose()

    await stream.__anext__()
    await asyncio.ensure_future(close())


async def _drop_later(stream: Any) -> None:
    await stream.__anext__()


async def _fail_later(stream: Any) -> None:
    await stream.__anext__()
    try:
        await stream.asend("raise")
    except ValueError:
        await stream.aclose()


async def _interrupt_later(stream: Any) -> None:
    await stream.__anext__()
    try:
        await stream.athrow(KeyboardInterrupt())
    except KeyboardInterrupt:
        return


LEFT_LATER: dict[str, tuple[Callable[[Any], Any], str]] = {
    "is exhausted": (_exhaust_later, "FINISHED"),
    "is closed": (_close_later, "FINISHED"),
    "is closed by another task": (_close_in_another_task, "FINISHED"),
    "is left to the loop": (_drop_later, "FINISHED"),
    "is interrupted": (_interrupt_later, "KILLED"),
    "raises": (_fail_later, "FAILED"),
}
