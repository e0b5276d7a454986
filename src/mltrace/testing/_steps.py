"""
Streams that show whatever is done to them, and everything that a consumer can do to a stream.
"""

from __future__ import annotations

import asyncio

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, NamedTuple

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


async def _cancel(stream: Any) -> Any:
    """Cancel a task that waits for the next item while the body waits in turn."""
    task = asyncio.ensure_future(_awaited(stream.__anext__()))
    await asyncio.sleep(0)
    task.cancel()
    return await task


STEPS_LATER: dict[str, Callable[[Any], Any]] = {
    **{name: later for name, (_, later) in STEPS.items()},
    "cancel": _cancel,
}
"""The same for an async generator alone, and what is done to no other."""


class Raised(NamedTuple):
    """What a step made that raised."""

    kind: type[BaseException]
    args: tuple[Any, ...]


def played(stream: Any, steps: list[str], between: Callable[[], None] = lambda: None) -> list[Any]:
    """Return what each step made: a value, or `Raised`; call *between* after each."""
    found: list[Any] = []
    for step in steps:
        value, error = outcome(lambda step=step: STEPS[step][0](stream))  # type: ignore[misc]
        found.append(value if error is None else Raised(type(error), error.args))
        between()
    return found


async def played_later(
    stream: Any, steps: list[str], between: Callable[[], None] = lambda: None, *, task_each: bool = False
) -> list[Any]:
    """
    Return what each step of an async generator made, and its `aclose`; with *task_each*, each is
    made by a task of its own.
    """
    found: list[Any] = []
    for step in [*steps, "close"]:
        try:
            awaitable = STEPS_LATER[step](stream)
            found.append(await (asyncio.ensure_future(_awaited(awaitable)) if task_each else awaitable))
        except BaseException as error:
            found.append(Raised(type(error), error.args))
        between()
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


async def _cancel_step(stream: Any) -> None:
    await stream.__anext__()
    try:
        await _cancel(stream)
    except asyncio.CancelledError:
        return


async def _cancel_consumer(stream: Any) -> None:
    """Cancel a task that holds an item: the body has nothing to do with it."""
    holds = asyncio.Event()

    async def consume() -> None:
        async for _ in stream:
            holds.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(consume())
    await holds.wait()
    task.cancel()
    await asyncio.wait([task])


LEFT_LATER: dict[str, tuple[Callable[[Any], Any], str]] = {
    "is exhausted": (_exhaust_later, "FINISHED"),
    "is closed": (_close_later, "FINISHED"),
    "is closed by another task": (_close_in_another_task, "FINISHED"),
    "is left to the loop": (_drop_later, "FINISHED"),
    "is interrupted": (_interrupt_later, "KILLED"),
    "is cancelled in a step": (_cancel_step, "KILLED"),
    "loses its consumer between two steps": (_cancel_consumer, "FINISHED"),
    "raises": (_fail_later, "FAILED"),
}
