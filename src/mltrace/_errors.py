"""
An exception as texts: its message, and its traceback.

Both ask the exception, and those it came from, for their texts, which somebody may have written:
unless builtin code makes them from plain values, they are made under watch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import _watched
from ._known_types import class_name, home, is_plain_error, mro_of
from ._texts import READ_LIMIT


_CHAIN = 200  # exceptions that are looked at; a longer chain is read under watch
_FULL_SECONDS = 1.0  # for a traceback of a thousand frames, of builtin texts
_cause, _context, _frames, _arguments = (
    BaseException.__dict__[name].__get__ for name in ("__cause__", "__context__", "__traceback__", "args")
)


def error_texts(error: BaseException) -> tuple[str, str]:
    """
    Return the message of *error*, its beginning where it is longer than `READ_LIMIT`, and its
    traceback, of which the end counts.
    """
    chain = list(_chain(error))
    if any(isinstance(one, RecursionError) for one in chain):
        # Where the stack is full there is no room to say so; another thread has a stack of its own.
        return _elsewhere(error, _FULL_SECONDS) or ("<the stack is full>", "<the stack is full>")
    if not all(map(is_plain_error, chain)) or len(chain) >= _CHAIN:
        late = f"<its text took longer than {_watched.BUDGET_SECONDS * 1000:.0f} ms>"
        return _elsewhere(error, _watched.BUDGET_SECONDS) or _frames_alone(error, late)
    if any(len(part) > READ_LIMIT for one in chain for part in _arguments(one) if type(part) in (str, bytes)):
        first = next(iter(_arguments(error)), "")  # formatting would copy the text several times
        return _frames_alone(error, first[:READ_LIMIT] if type(first) is str else "…")
    return _texts(error)


def _elsewhere(error: BaseException, seconds: float) -> tuple[str, str] | None:
    """Return the texts as another thread makes them; None where it does not in time."""
    outcome = _watched.ask(lambda: _texts(error), {type(error)}, seconds)
    if outcome is None:
        return None
    if outcome.error is not None:
        return _frames_alone(error, f"<its text raised {class_name(type(outcome.error)).rpartition('.')[2]}>")
    found: tuple[str, str] = outcome.result
    return found


def _texts(error: BaseException) -> tuple[str, str]:
    import traceback

    lines = "".join(traceback.format_exception(type(error), error, _frames(error)))
    return str(error)[:READ_LIMIT], lines[-READ_LIMIT:]


def _frames_alone(error: BaseException, message: str) -> tuple[str, str]:
    """Return *message*, and where *error* was raised, without asking it or those it came from."""
    import traceback

    frames = "".join(traceback.format_tb(_frames(error)))
    last = f"{class_name(type(error))}: {message}\n"
    return message, f"Traceback (most recent call last):\n{frames[-READ_LIMIT:]}{last}"[-READ_LIMIT:]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Return *error* and those that its traceback shows too, at most `_CHAIN`."""
    seen: set[int] = set()
    left: list[Any] = [error]
    while left and len(seen) < _CHAIN:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += (_cause(one), _context(one), *_group(one))


def _group(error: BaseException) -> tuple[Any, ...]:
    group = next(
        (base for base in mro_of(type(error)) if base.__name__ == "BaseExceptionGroup" and home(base)), None
    )
    return tuple(group.__dict__["exceptions"].__get__(error)) if group is not None else ()
