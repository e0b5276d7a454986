"""
What a provider's response says, read from the returned object alone: text, model, tokens, finish
reason.

No provider's package is imported; a response is recognised by the fields that it has. Shapes read:
OpenAI chat completions and responses, Anthropic messages, mappings of the same form, objects with
``content`` or ``text``, plain texts. Anything else is a response whose text is its rendering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from . import _watched
from ._numbers import number


class Response(msgspec.Struct):
    """
    What was found; None or empty where the object does not say. *usage* has MLflow's names:
    ``input_tokens``, ``output_tokens``, ``total_tokens``, …
    """

    text: Any = None
    model: str | None = None
    finish_reason: str | None = None
    usage: dict[str, float] = {}


_TEXT = (
    ("choices", 0, "message", "content"),  # OpenAI chat completions
    ("choices", 0, "text"),  # OpenAI completions
    ("output_text",),  # OpenAI responses
    ("message", "content"),  # Cohere, Ollama
    ("content",),  # Anthropic: blocks
    ("text",),
    ("answer",),
    ("response",),
)
_FINISH = (("choices", 0, "finish_reason"), ("stop_reason",), ("finish_reason",), ("done_reason",))
_USAGE = {
    "input_tokens": (("usage", "input_tokens"), ("usage", "prompt_tokens"), ("prompt_eval_count",)),
    "output_tokens": (("usage", "output_tokens"), ("usage", "completion_tokens"), ("eval_count",)),
    "total_tokens": (("usage", "total_tokens"),),
    "cache_read_input_tokens": (
        ("usage", "cache_read_input_tokens"),
        ("usage", "prompt_tokens_details", "cached_tokens"),
        ("usage", "input_tokens_details", "cached_tokens"),
    ),
    "cache_creation_input_tokens": (("usage", "cache_creation_input_tokens"),),
}


def read(response: Any) -> Response:
    """
    Return what *response* says; never raises. An object that does not say it in time is the text.
    """
    kind = type(response)
    if response is None or issubclass(kind, str):
        return Response(text=response)
    if kind is dict:
        return _read(response)
    outcome = _watched.ask(lambda: _read(response), (kind,))
    found = outcome.result if outcome is not None else None
    return found if isinstance(found, Response) else Response(text=response)


def _read(response: Any) -> Response:
    found = {name: _count(_first(response, paths)) for name, paths in _USAGE.items()}
    usage = {name: count for name, count in found.items() if count is not None}
    if "total_tokens" not in usage and {"input_tokens", "output_tokens"} <= usage.keys():
        usage["total_tokens"] = usage["input_tokens"] + usage["output_tokens"]
    text = _joined(_first(response, _TEXT))
    model, reason = _get(response, "model"), _first(response, _FINISH)
    return Response(
        text=response if text is None else text,
        model=model if type(model) is str else None,
        finish_reason=reason if type(reason) is str else None,
        usage=usage,
    )


def _count(value: Any) -> float | None:
    found = number(value)
    return found if found is not None and 0 <= found < float("inf") else None


def _joined(content: Any) -> Any:
    """Return the text of a message's content, which may come in blocks of several types."""
    if type(content) not in (list, tuple):
        return content
    texts = [part if type(part) is str else _get(part, "text") for part in content]
    texts = [text for text in texts if type(text) is str]
    return "".join(texts) if texts else content


def _first(value: Any, paths: Sequence[tuple[str | int, ...]]) -> Any:
    for path in paths:
        found = value
        for step in path:
            found = _get(found, step)
        if found is not None:
            return found
    return None


def _get(value: Any, step: str | int) -> Any:
    try:
        if isinstance(step, int):
            return value[step] if issubclass(type(value), Sequence) and type(value) is not str else None
        if issubclass(type(value), Mapping):
            return value.get(step)
        found = getattr(value, step, None)
        return None if callable(found) else found
    except Exception:  # a field that raises says nothing
        return None
