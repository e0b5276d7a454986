"""
The forms of a stream's chunks: what each adds to the text, to a tool call, to the counts.

Chunks that name their kind (OpenAI responses, Anthropic, Cohere) are told apart by that name, the
others by a field that gives them away.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ._fields import EACH, Path, Paths, Reader, name_of, package_of
from ._response import LlmResponse, Outside
from ._shapes import (
    ANTHROPIC_USAGE,
    CHAT_USAGE,
    COHERE_USAGE,
    GENAI_USAGE,
    LANGCHAIN,
    LANGCHAIN_USAGE,
    OLLAMA_USAGE,
    Usage,
    call_parts,
    provider_of,
    read_whole,
)


class CallPart(NamedTuple):
    """A piece of a tool call. Pieces with one *place* are of one call; without, it is a whole call."""

    place: Any
    id: str | None
    name: str | None
    arguments: Any


class Part(NamedTuple):
    """What a chunk adds."""

    text: str | None = None
    model: str | None = None
    provider: str | None = None
    finish_reason: str | None = None
    calls: tuple[CallPart, ...] = ()
    counts: Mapping[str, float] = {}
    outside: Outside = MappingProxyType({})
    adds_counts: bool = False
    """Whether the counts are to be added to those before; else they take their place."""

    whole: LlmResponse | None = None
    """The whole response, where the last chunk brings it."""


class Chunk(NamedTuple):
    """One form of a chunk."""

    marks: Paths = ()
    at: Path = ()
    """The part of the chunk where text, finish reason and tool calls are looked for."""

    text: Paths = ()
    model: Paths = ()
    finish: Paths = ()
    usage: Usage | None = None
    calls: Paths = ()
    arguments: Paths = ()
    """Where a piece of a tool call's arguments is, of a chunk that brings nothing else of it."""

    place: Paths = ()
    provider: Paths = ()
    adds_counts: bool = False
    other_than_first: Paths = ()
    """What is not zero in chunks of a second answer to the same prompt."""

    rest: Paths = ()
    """Where the chunk of another form lies that says the rest."""

    whole: Paths = ()
    """Where the whole response is, in the chunk that ends a stream."""


NOTHING = Chunk()
_PLACE = (("index",),)
_ENDS = Chunk(whole=(("response",),))

EVENTS: dict[str, Chunk] = {
    # OpenAI responses
    "response.created": Chunk(model=(("response", "model"),)),
    "response.output_text.delta": Chunk(text=(("delta",),)),
    "response.output_item.done": Chunk(calls=(("item",),), place=(("output_index",),)),
    "response.completed": _ENDS,
    "response.incomplete": _ENDS,
    "response.failed": _ENDS,
    # OpenAI's and Anthropic's helpers repeat what the chunks between their events say
    "chunk": Chunk(rest=(("chunk",),)),
    # Anthropic
    "message_start": Chunk(model=(("message", "model"),), usage=ANTHROPIC_USAGE),
    "content_block_start": Chunk(
        text=(("content_block", "text"),), calls=(("content_block",),), place=_PLACE
    ),
    "content_block_delta": Chunk(text=(("delta", "text"),), arguments=(("delta", "partial_json"),), place=_PLACE),
    "message_delta": Chunk(finish=(("delta", "stop_reason"),), usage=ANTHROPIC_USAGE),
    # Cohere
    "content-delta": Chunk(text=(("delta", "message", "content", "text"),)),
    "tool-call-start": Chunk(calls=(("delta", "message", "tool_calls"),), place=_PLACE),
    "tool-call-delta": Chunk(calls=(("delta", "message", "tool_calls"),), place=_PLACE),
    "message-end": Chunk(finish=(("delta", "finish_reason"),), usage=COHERE_USAGE),
}  # fmt: skip
_SILENT = frozenset(
    {"ping", "error", "message_stop", "content_block_stop", "message-start", "content-start", "content-end"}
    | {"tool-plan-delta", "tool-call-end", "citation-start", "citation-end"}
)

CHUNKS = (
    Chunk(  # OpenAI chat completions and completions, LiteLLM, and whoever is compatible
        marks=(("choices",),),
        at=("choices", 0),
        text=(("delta", "content"), ("text",), ("message", "content")),
        model=(("model",),),
        finish=(("finish_reason",),),
        usage=CHAT_USAGE,
        calls=(("delta", "tool_calls"),),
        provider=(("_hidden_params", "custom_llm_provider"),),
        other_than_first=(("index",),),
    ),
    Chunk(  # LangChain
        marks=LANGCHAIN.marks,
        text=LANGCHAIN.text,
        model=LANGCHAIN.model,
        finish=LANGCHAIN.finish,
        usage=LANGCHAIN_USAGE,
        calls=(("tool_call_chunks",), ("tool_calls",)),
        provider=LANGCHAIN.provider,
        adds_counts=True,
    ),
    Chunk(  # Google GenAI
        marks=(("candidates",), ("usage_metadata",), ("usageMetadata",)),
        at=("candidates", 0),
        text=(("content", "parts"),),
        model=(("model_version",), ("modelVersion",)),
        finish=(("finish_reason",), ("finishReason",)),
        usage=GENAI_USAGE,
        calls=(("content", "parts", EACH, "function_call"), ("content", "parts", EACH, "functionCall")),
    ),
    Chunk(marks=(("data", "choices"),), rest=(("data",),)),  # Mistral
    Chunk(  # Ollama
        marks=(("done",),),
        text=(("message", "content"), ("response",)),
        model=(("model",),),
        finish=(("done_reason",),),
        usage=OLLAMA_USAGE,
        calls=(("message", "tool_calls"),),
    ),
    Chunk(marks=(("additional_kwargs",),), text=(("delta",),), rest=(("raw",),)),  # LlamaIndex
)


def read_part(reader: Reader, chunk: Any) -> Part | None:
    """Return what *chunk* adds; None where it has no known form."""
    form = _form_of(reader, chunk)
    return None if form is None else _read(reader, chunk, form)


def _form_of(reader: Reader, chunk: Any) -> Chunk | None:
    kind = reader.get(chunk, "type")
    if type(kind) is str:
        if (named := EVENTS.get(kind)) is not None:
            return named
        if kind in _SILENT or kind.startswith("response."):
            return NOTHING
    for form in CHUNKS:
        if reader.first(chunk, form.marks) is not None:
            return form
    return None if package_of(type(chunk)) is None else NOTHING


def _read(reader: Reader, chunk: Any, form: Chunk) -> Part:
    place = reader.walk(chunk, form.at) if form.at else chunk
    if form.other_than_first and reader.first(place, form.other_than_first):
        place = None
    text = reader.text(reader.first(place, form.text)) if form.text else None
    part = Part(
        text=text if type(text) is str else None,
        model=name_of(reader.first(chunk, form.model)) if form.model else None,
        provider=provider_of(reader, chunk, form.provider),
        finish_reason=name_of(reader.first(place, form.finish)) if form.finish else None,
        calls=_calls(reader, place, form) if form.calls or form.arguments else (),
        counts=form.usage.read(reader, chunk) if form.usage is not None else {},
        outside=form.usage.outside if form.usage is not None else {},
        adds_counts=form.adds_counts,
        whole=_whole(reader, chunk, form) if form.whole else None,
    )
    if not form.rest or (inner := reader.first(chunk, form.rest)) is None:
        return part
    rest = read_part(reader, inner) or Part()
    return rest if not form.text else rest._replace(text=part.text)


def _whole(reader: Reader, chunk: Any, form: Chunk) -> LlmResponse:
    return read_whole(reader, reader.first(chunk, form.whole), nested=True)


def _calls(reader: Reader, chunk: Any, form: Chunk) -> tuple[CallPart, ...]:
    found = reader.first(chunk, form.calls)
    if found is None and not form.arguments:
        return ()
    place = reader.first(chunk, form.place)
    pieces = []
    for item in reader.items(found):
        name, arguments, number = call_parts(reader, item)
        if name is not None or arguments is not None:
            at = place if place is not None else reader.get(item, "index")
            pieces.append(CallPart(at if type(at) is int else None, number, name, arguments))
    if (more := reader.first(chunk, form.arguments)) is not None:
        pieces.append(CallPart(place if type(place) is int else None, None, None, more))
    return tuple(pieces)
