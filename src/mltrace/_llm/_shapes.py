"""
The forms of responses, one per API: which fields give one away, and where it keeps what.

A response is an object of a provider's package, or JSON of the same form; the paths are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from .._texts import WHOLE_LIMIT
from ._fields import EACH, PROVIDERS, Paths, Reader, count_of, name_of, package_of
from ._response import LlmResponse, Outside, whole_usage


class Usage(NamedTuple):
    """Where a form counts tokens: the *root* of all counts, each count below it, and what it leaves out."""

    root: Paths
    counts: Mapping[str, Paths]
    outside: Outside = MappingProxyType({})

    def read(self, reader: Reader, value: Any) -> dict[str, float]:
        """Return the counts as they stand."""
        if (root := reader.first(value, self.root)) is None:
            return {}
        found = {name: count_of(reader.first(root, paths)) for name, paths in self.counts.items()}
        return {name: count for name, count in found.items() if count is not None}


CHAT_USAGE = Usage(
    root=(("usage",),),
    counts={
        "input_tokens": (("prompt_tokens",),),
        "output_tokens": (("completion_tokens",),),
        "total_tokens": (("total_tokens",),),
        "cache_read_input_tokens": (
            ("prompt_tokens_details", "cached_tokens"),
            ("prompt_token_details", "cached_tokens"),
            ("num_cached_tokens",),  # Mistral
            ("prompt_cache_hit_tokens",),  # DeepSeek
            ("cache_read_input_tokens",),  # LiteLLM
        ),
        "cache_creation_input_tokens": (
            ("prompt_tokens_details", "cache_creation_tokens"),
            ("prompt_tokens_details", "cache_write_tokens"),
            ("cache_creation_input_tokens",),
        ),
        "reasoning_tokens": (("completion_tokens_details", "reasoning_tokens"),),
    },
)
RESPONSES_USAGE = Usage(
    root=(("usage",),),
    counts={
        "input_tokens": (("input_tokens",),),
        "output_tokens": (("output_tokens",),),
        "total_tokens": (("total_tokens",),),
        "cache_read_input_tokens": (("input_tokens_details", "cached_tokens"),),
        "cache_creation_input_tokens": (("input_tokens_details", "cache_write_tokens"),),
        "reasoning_tokens": (("output_tokens_details", "reasoning_tokens"),),
    },
)
ANTHROPIC_USAGE = Usage(
    root=(("usage",), ("message", "usage")),
    counts={
        "input_tokens": (("input_tokens",),),
        "output_tokens": (("output_tokens",),),
        "cache_read_input_tokens": (("cache_read_input_tokens",),),
        "cache_creation_input_tokens": (("cache_creation_input_tokens",),),
    },
    outside={"input_tokens": ("cache_read_input_tokens", "cache_creation_input_tokens")},
)
GENAI_USAGE = Usage(
    root=(("usage_metadata",), ("usageMetadata",)),
    counts={
        "input_tokens": (("prompt_token_count",), ("promptTokenCount",)),
        "output_tokens": (("candidates_token_count",), ("candidatesTokenCount",)),
        "total_tokens": (("total_token_count",), ("totalTokenCount",)),
        "cache_read_input_tokens": (("cached_content_token_count",), ("cachedContentTokenCount",)),
        "reasoning_tokens": (("thoughts_token_count",), ("thoughtsTokenCount",)),
    },
    outside={"output_tokens": ("reasoning_tokens",)},
)
COHERE_USAGE = Usage(
    root=(("usage",), ("delta", "usage"), ("meta",)),
    counts={
        "input_tokens": (("tokens", "input_tokens"), ("billed_units", "input_tokens")),
        "output_tokens": (("tokens", "output_tokens"), ("billed_units", "output_tokens")),
        "cache_read_input_tokens": (("cached_tokens",),),
    },
)
OLLAMA_USAGE = Usage(
    root=((),), counts={"input_tokens": (("prompt_eval_count",),), "output_tokens": (("eval_count",),)}
)
LANGCHAIN_USAGE = Usage(
    root=(("usage_metadata",),),
    counts={
        "input_tokens": (("input_tokens",),),
        "output_tokens": (("output_tokens",),),
        "total_tokens": (("total_tokens",),),
        "cache_read_input_tokens": (("input_token_details", "cache_read"),),
        "cache_creation_input_tokens": (("input_token_details", "cache_creation"),),
        "reasoning_tokens": (("output_token_details", "reasoning"),),
    },
)
ANY_USAGE = Usage(
    root=(("usage",),),
    counts={
        name: (*RESPONSES_USAGE.counts.get(name, ()), *CHAT_USAGE.counts.get(name, ()))
        for name in CHAT_USAGE.counts
    },
)


class Shape(NamedTuple):
    """One form of a whole response, given away by any of its *marks*."""

    marks: Paths
    text: Paths
    finish: Paths
    usage: Usage
    calls: Paths = ()
    model: Paths = (("model",),)
    provider: Paths = ()
    rest: Paths = ()
    """Where the response of another form lies that says the rest."""


LANGCHAIN = Shape(
    marks=(("response_metadata",),),
    text=(("content",),),
    finish=(
        ("response_metadata", "finish_reason"),
        ("response_metadata", "stop_reason"),
        ("response_metadata", "done_reason"),
    ),
    usage=LANGCHAIN_USAGE,
    calls=(("tool_calls",),),
    model=(("response_metadata", "model_name"), ("response_metadata", "model")),
    provider=(("response_metadata", "model_provider"),),
)
RESPONSES = Shape(
    marks=(("output_text",), ("output", 0, "type")),
    text=(("output_text",), ("output", EACH, "content")),
    finish=(("incomplete_details", "reason"), ("status",)),
    usage=RESPONSES_USAGE,
    calls=(("output",),),
)
SHAPES = (
    LANGCHAIN,
    Shape(  # OpenAI chat completions and completions, Mistral, LiteLLM, and whoever is compatible
        marks=(("choices",),),
        text=(("choices", 0, "message", "content"), ("choices", 0, "text")),
        finish=(("choices", 0, "finish_reason"),),
        usage=CHAT_USAGE,
        calls=(("choices", 0, "message", "tool_calls"), ("choices", 0, "message", "function_call")),
        provider=(("_hidden_params", "custom_llm_provider"),),  # LiteLLM
    ),
    RESPONSES,
    Shape(  # Google GenAI
        marks=(("candidates",), ("usage_metadata", "prompt_token_count"), ("usageMetadata",)),
        text=(("candidates", 0, "content", "parts"),),
        finish=(("candidates", 0, "finish_reason"), ("candidates", 0, "finishReason")),
        usage=GENAI_USAGE,
        calls=(
            ("candidates", 0, "content", "parts", EACH, "function_call"),
            ("candidates", 0, "content", "parts", EACH, "functionCall"),
        ),
        model=(("model_version",), ("modelVersion",)),
    ),
    Shape(  # Anthropic messages
        marks=(("content", 0, "type"), ("usage", "cache_read_input_tokens")),
        text=(("content",),),
        finish=(("stop_reason",),),
        usage=ANTHROPIC_USAGE,
        calls=(("content",),),
    ),
    Shape(  # Ollama
        marks=(("done",), ("eval_count",), ("prompt_eval_count",)),
        text=(("message", "content"), ("response",)),
        finish=(("done_reason",),),
        usage=OLLAMA_USAGE,
        calls=(("message", "tool_calls"),),
    ),
    Shape(  # LlamaIndex: an LLM's answer, with the provider's as `raw`; a query engine's or chat engine's
        marks=(("additional_kwargs",), ("source_nodes",)),
        text=(("message", "content"), ("text",), ("response",)),
        finish=(),
        usage=ANY_USAGE,
        calls=(),
        rest=(("raw",),),
    ),
    Shape(  # Cohere, version 2 and 1
        marks=(("message", "content"), ("message", "tool_calls"), ("meta", "billed_units")),
        text=(("message", "content"), ("text",)),
        finish=(("finish_reason",),),
        usage=COHERE_USAGE,
        calls=(("message", "tool_calls"), ("tool_calls",)),
    ),
)
ANYTHING = Shape(  # what a function of one's own may return
    marks=(),
    text=(("content",), ("text",), ("answer",), ("response",)),
    finish=(("stop_reason",), ("finish_reason",), ("done_reason",)),
    usage=ANY_USAGE,
    calls=(("tool_calls",),),
    provider=(("provider",),),
)

_NAME = (("function", "name"), ("name",))
_ID = (("call_id",), ("id",))
_ARGUMENTS = (("function", "arguments"), ("arguments",), ("input",), ("args",))


def read_whole(reader: Reader, response: Any, *, nested: bool = False) -> LlmResponse:
    """Return what *response* says; one of no known form is its own text."""
    shape = next((shape for shape in SHAPES if reader.first(response, shape.marks) is not None), ANYTHING)
    calls = tool_calls(reader, reader.first(response, shape.calls))
    text = reader.text(reader.first(response, shape.text))
    found = LlmResponse(
        text=response if text is None and not calls and not nested else text,
        model=name_of(reader.first(response, shape.model)),
        provider=provider_of(reader, response, shape.provider),
        finish_reason=name_of(reader.first(response, shape.finish)),
        tool_calls=calls,
        usage=whole_usage(shape.usage.read(reader, response), shape.usage.outside),
    )
    rest = reader.first(response, shape.rest)
    return found if rest is None or nested else found.filled(read_whole(reader, rest, nested=True))


def provider_of(reader: Reader, value: Any, paths: Paths = ()) -> str | None:
    """Return the provider that *value* names, or whose package its class is from."""
    named = name_of(reader.first(value, paths)) if paths else None
    return named or PROVIDERS.get(package_of(type(value)) or "")


def tool_calls(reader: Reader, found: Any) -> list[dict[str, Any]]:
    """Return the calls of tools among the items *found*: those that have a name and arguments."""
    calls = []
    for item in reader.items(found):
        name, arguments, number = call_parts(reader, item)
        if name is not None and arguments is not None:
            calls.append({"id": number, "name": name, "arguments": structure(arguments)})
    return calls


def call_parts(reader: Reader, item: Any) -> tuple[str | None, Any, str | None]:
    """Return name, arguments and id of a tool call, or of a piece of one."""
    name, number = name_of(reader.first(item, _NAME)), name_of(reader.first(item, _ID))
    return name, reader.first(item, _ARGUMENTS), number


def structure(arguments: Any) -> Any:
    """
    Return arguments that are the text of a JSON object as that object: secrets in it are found by
    their names.
    """
    if type(arguments) is not str or len(arguments) > WHOLE_LIMIT:
        return arguments
    try:
        return msgspec.json.decode(arguments) if arguments else {}
    except (msgspec.DecodeError, ValueError, RecursionError):
        return arguments
