"""
Reading a response or a chunk: by the function that a user has registered for its type, else by the
forms that are known; and never at the caller's cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from .. import _guard, _watched
from .._known_types import class_name
from .._registered import Registry
from ._chunks import Part, read_part
from ._fields import Reader, Unsure, count_of, name_of
from ._response import LlmResponse
from ._shapes import read_whole


T = TypeVar("T")
V = TypeVar("V", bound="LlmResponse | Mapping[str, Any]")

_HERE, _ASKING = Reader(asks=False), Reader(asks=True)
_extractors = Registry("register_extractor", "function")
_FIELDS = LlmResponse.__struct_fields__


@overload
def register_extractor(kind: type[T], function: Callable[[T], V], /) -> Callable[[T], V]: ...


@overload
def register_extractor(kind: str, function: Callable[[Any], V], /) -> Callable[[Any], V]: ...


@overload
def register_extractor(kind: type[T], /) -> Callable[[Callable[[T], V]], Callable[[T], V]]: ...


@overload
def register_extractor(kind: str, /) -> Callable[[Callable[[Any], V]], Callable[[Any], V]]: ...


def register_extractor(kind: Any, function: Any = None, /) -> Any:
    """
    Say what responses of a type mean to `log_llm_call`: ``register_extractor(Answer, lambda a:
    {"text": a.said, "usage": {"input_tokens": a.tokens}})``, or ``@register_extractor(Answer)``
    above the function.

    What it returns is what is recorded of the response: an `LlmResponse`, or a mapping with some of
    its fields. Of a stream it is asked for each chunk: the text is what the chunk adds, and of the
    rest the latest counts. It counts for subclasses too; the nearest base has it, and the latest
    function for a type wins. It is called in the calling thread and takes the time it takes. Where
    it raises, or returns something else, the response is read as if nothing were registered, and
    that is said once.

    Args:
        kind: The type; or its name, ``"package.module.Type"``, which need not be imported yet and
            never is by this.

        function: ``function(response) -> LlmResponse | mapping``.

    Returns:
        The function; without one, a decorator for it.

    Raises:
        ConfigurationError: *kind* is neither a type nor a dotted name, is a plain type (`str`,
            `int`, `float`, `bool`, `None`), or *function* cannot be called.
    """
    return _extractors.register(kind, function)


def forget_extractors() -> None:
    """Forget what was registered: for tests."""
    _extractors.forget()


def read(response: Any) -> LlmResponse:
    """
    Return what *response* says; never raises. An object that does not say it in time is the text.
    """
    kind = type(response)
    if response is None or issubclass(kind, str):
        return LlmResponse(text=response)
    if type(response) is LlmResponse:
        return response
    found = _extracted(response) or _carefully(read_whole, response)
    return found if found is not None else LlmResponse(text=response)


def read_chunk(chunk: Any) -> Part | None:
    """Return what a stream's *chunk* adds; None where it has no known form, or does not say it in time."""
    if (found := _extracted(chunk)) is not None:
        return _part(found)
    return _carefully(read_part, chunk)


_SNAPSHOTS = (("current_message_snapshot",), ("current_completion_snapshot",))


def snapshot(stream: Any, said: LlmResponse) -> LlmResponse:
    """Return what was *said*, with what a provider's *stream* says of its answer so far."""
    whole = _carefully(lambda reader, value: reader.first(value, _SNAPSHOTS), stream)
    return said if whole is None else said.filled(read(whole))


def _carefully(read: Callable[[Reader, Any], T], value: Any) -> T | None:
    """Read *value* here as far as that runs no code of a user's, else in another thread."""
    try:
        return read(_HERE, value)
    except Unsure as unsure:
        outcome = _watched.ask(lambda: read(_ASKING, value), {type(value), unsure.kind} - {dict, list, tuple})
    except RecursionError:
        return None
    return outcome.result if outcome is not None else None


def _extracted(response: Any) -> LlmResponse | None:
    """Return what the registered function makes of *response*; None without one, or where it fails."""
    if (function := _extractors.find(type(response))) is None:
        return None
    try:
        return _checked(function(response))
    except Exception as error:
        name = class_name(type(response))
        _guard.warn_once(
            f"extractor:{name}",
            f"the function registered for responses of {name} failed; they are read without it",
            error=class_name(type(error)),
        )
        return None


def _checked(found: Any) -> LlmResponse:
    """Return what a user's function found, with what is no text or count left out."""
    given = (
        {name: getattr(found, name) for name in _FIELDS} if isinstance(found, LlmResponse) else dict(found)
    )
    if unknown := given.keys() - set(_FIELDS):
        raise TypeError(f"an LlmResponse has no field {', '.join(map(str, unknown))}")
    usage = {str(name): count_of(value) for name, value in dict(given.get("usage") or {}).items()}
    return LlmResponse(
        text=given.get("text"),
        model=name_of(given.get("model")),
        provider=name_of(given.get("provider")),
        finish_reason=name_of(given.get("finish_reason")),
        tool_calls=list(given.get("tool_calls") or ()),
        usage={name: count for name, count in usage.items() if count is not None},
    )


def _part(found: LlmResponse) -> Part:
    """Return a chunk's part from what a user's function found in it."""
    text = found.text if type(found.text) is str else None
    return Part(
        text=text, whole=LlmResponse(**{name: getattr(found, name) for name in _FIELDS if name != "text"})
    )
