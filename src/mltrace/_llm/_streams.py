"""
Which objects are a model's stream, and what their methods and attributes do to it.
"""

from __future__ import annotations

import io

from .._known_types import class_name, lookup, mro_of


_HOLDERS = frozenset(
    {
        *(f"{a}MessageStreamManager" for a in ("", "Async", "Beta", "BetaAsync")),
        *(f"{a}ChatCompletionStreamManager" for a in ("", "Async")),
        *(f"{a}ResponseStreamManager" for a in ("", "Async")),
        *("StreamingResponse", "AsyncStreamingResponse", "StreamingAgentChatResponse"),
    }
)
"""Classes of providers that are no iterators, and give one when they are entered or asked."""

_HOMES = ("openai.", "anthropic.", "llama_index.")

CLOSES = frozenset({"close", "aclose"})
"""Methods that end a stream."""

DRAINS = frozenset(
    {
        "until_done",
        "get_final_message",
        "get_final_text",
        "get_final_completion",
        "get_final_response",
        "get_response",
        "print_response_stream",
    }
)
"""Methods that read a stream to its end."""

INNER = frozenset({"text_stream", "response_gen", "async_response_gen"})
"""Attributes, and methods, that give another iterator over the same stream."""


_FILE = io.IOBase.__base__

_known: dict[int, tuple[type, bool]] = {}


def is_stream(kind: type) -> bool:
    """
    Say whether objects of *kind*, returned by an LLM call, are its stream: iterators and
    asynchronous iterators, but for files, and what holds one (`_HOLDERS`).
    """
    if (found := _known.get(id(kind))) is not None:
        return found[1]
    if len(_known) >= 4_096:
        _known.clear()
    mro = mro_of(kind)
    iterates = any(_has(kind, name) for name in ("__next__", "__anext__"))
    holds = any(_is_holder(base) for base in mro)
    answer = (iterates and _FILE not in mro) or holds
    _known[id(kind)] = (kind, answer)
    return answer


def _has(kind: type, name: str) -> bool:
    return lookup(mro_of(kind), name)[0] is not None


def _is_holder(base: type) -> bool:
    name = class_name(base)
    return name.startswith(_HOMES) and name.rpartition(".")[2] in _HOLDERS
