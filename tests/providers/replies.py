"""
What the providers' servers answer, in the shape in which they do: one question, one tool call, and the same
answer whole and in pieces.
"""

from __future__ import annotations

import json

from typing import Any, NamedTuple


class Reply(NamedTuple):
    """A reply: the *path* it is asked at, as JSON, and as the lines of a stream of *content_type*."""

    path: str
    whole: dict[str, Any]
    pieces: list[bytes]
    content_type: str = "text/event-stream"


def _sse(*events: Any, named: bool = False, done: bool = False) -> list[bytes]:
    """Return server-sent events; *named* by their type, and with OpenAI's last line."""
    lines = [
        (f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n" for event in events
    ]
    return [line.encode() for line in [*lines, *(["data: [DONE]\n\n"] if done else [])]]


ANSWER = ("Light ", "passes ", "the hole.")
TEXT = "".join(ANSWER)
ARGUMENTS = {"city": "Göttingen", "days": 2}
_PARTS = ('{"city": "Gött', 'ingen", "days": 2}')
TOOL_CALL = {"id": "call_1", "name": "weather", "arguments": ARGUMENTS}


def _chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}] if delta is not None else []
    fixed = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
    return {**fixed, "choices": choices, **more}


_CHAT_USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 12,
    "total_tokens": 32,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def _tool(**function: Any) -> dict[str, Any]:
    named = {"id": "call_1", "type": "function"} if "name" in function else {}
    return {"tool_calls": [{"index": 0, **named, "function": {"arguments": "", **function}}]}


OPENAI = Reply(
    "/openai/v1/chat/completions",
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": TEXT,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": "".join(_PARTS)},
                        }
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": _CHAT_USAGE,
    },
    _sse(
        _chunk({"role": "assistant", "content": ""}),
        *(_chunk({"content": text}) for text in ANSWER),
        _chunk(_tool(name="weather")),
        *(_chunk(_tool(arguments=part)) for part in _PARTS),
        _chunk({}, "tool_calls"),
        _chunk(usage=_CHAT_USAGE),
        done=True,
    ),
)

MISTRAL = Reply(
    "/mistral/v1/chat/completions",
    {**OPENAI.whole, "model": "mistral-small-2506", "usage": {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}},
    _sse(
        *(
            _chunk({"role": "assistant", "content": text}, model="mistral-small-2506")
            for text in ANSWER
        ),
        _chunk(
            {"content": "", "tool_calls": [{"id": "call_1", "index": 0, "function": {"name": "weather", "arguments": "".join(_PARTS)}}]},
            "tool_calls",
            model="mistral-small-2506",
            usage={"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32},
        ),
        done=True,
    ),
)  # fmt: skip

_MESSAGE = {
    "type": "message",
    "id": "m1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
}
_FUNCTION = {
    "type": "function_call",
    "id": "f1",
    "call_id": "call_1",
    "name": "weather",
    "arguments": "".join(_PARTS),
    "status": "completed",
}
_RESPONSE: dict[str, Any] = {
    "id": "r1",
    "object": "response",
    "created_at": 1,
    "model": "gpt-4o-2024-08-06",
    "status": "completed",
    "output": [_MESSAGE, _FUNCTION],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "temperature": 1.0,
    "top_p": 1.0,
    "usage": {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 8},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 32,
    },
}
_STARTED = {**_RESPONSE, "status": "in_progress", "output": [], "usage": None}
_AT = {"item_id": "m1", "output_index": 0, "content_index": 0}
RESPONSES = Reply(
    "/openai/v1/responses",
    _RESPONSE,
    _sse(
        {"type": "response.created", "sequence_number": 0, "response": _STARTED},
        {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": {**_MESSAGE, "content": []}},
        {"type": "response.content_part.added", "sequence_number": 2, **_AT, "part": {"type": "output_text", "text": "", "annotations": []}},
        *({"type": "response.output_text.delta", "sequence_number": 3, **_AT, "delta": text, "logprobs": []} for text in ANSWER),
        {"type": "response.output_text.done", "sequence_number": 6, **_AT, "text": TEXT, "logprobs": []},
        {"type": "response.output_item.done", "sequence_number": 7, "output_index": 0, "item": _MESSAGE},
        {"type": "response.output_item.added", "sequence_number": 8, "output_index": 1, "item": {**_FUNCTION, "arguments": ""}},
        {"type": "response.output_item.done", "sequence_number": 9, "output_index": 1, "item": _FUNCTION},
        {"type": "response.completed", "sequence_number": 10, "response": _RESPONSE},
        named=True,
    ),
)  # fmt: skip

_CLAUDE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [
        {"type": "text", "text": TEXT},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": ARGUMENTS},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 9,
        "output_tokens": 12,
        "cache_read_input_tokens": 8,
        "cache_creation_input_tokens": 3,
    },
}
ANTHROPIC = Reply(
    "/anthropic/v1/messages",
    _CLAUDE,
    _sse(
        {"type": "message_start", "message": {**_CLAUDE, "content": [], "stop_reason": None, "usage": {**_CLAUDE["usage"], "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in ANSWER),
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}},
        *({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": part}} for part in ("", *_PARTS)),
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
        named=True,
    ),
)  # fmt: skip


def _gemini(text: str | None, finish: str | None = None, **usage: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": text}] if text is not None else []
    if finish:
        parts.append({"functionCall": {"id": "call_1", "name": "weather", "args": ARGUMENTS}})
    candidate = {
        "content": {"role": "model", "parts": parts},
        "index": 0,
        **({"finishReason": finish} if finish else {}),
    }
    counts = {"promptTokenCount": 20, "totalTokenCount": 32, **usage}
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "gemini-2.5-flash-001"}


_GEMINI_USAGE = {"candidatesTokenCount": 7, "thoughtsTokenCount": 5, "cachedContentTokenCount": 8}
GENAI = Reply(
    "/google/v1beta/models/gemini-2.5-flash:",
    _gemini(TEXT, "STOP", **_GEMINI_USAGE),
    [
        *_sse(
            {"candidates": [{"content": {"role": "model", "parts": [{"text": "I wonder", "thought": True}]}}]}
        ),
        *_sse(*(_gemini(text) for text in ANSWER)),
        *_sse(_gemini(None, "STOP", **_GEMINI_USAGE)),
    ],
)


def _llama(text: str, *, done: bool = False) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    reply = {"model": "llama3.2:3b", "created_at": "2025-01-01T00:00:00Z", "done": done, "message": message}
    if done:
        message["tool_calls"] = [{"function": {"name": "weather", "arguments": ARGUMENTS}}]
        reply |= {"done_reason": "stop", "prompt_eval_count": 20, "eval_count": 12, "total_duration": 5}
    return reply


OLLAMA = Reply(
    "/ollama/api/chat",
    _llama(TEXT, done=True),
    [json.dumps(piece).encode() + b"\n" for piece in (*map(_llama, ANSWER), _llama("", done=True))],
    "application/x-ndjson",
)

_COHERE_USAGE = {
    "billed_units": {"input_tokens": 5, "output_tokens": 12},
    "tokens": {"input_tokens": 20, "output_tokens": 12},
    "cached_tokens": 8,
}
_COHERE_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": "".join(_PARTS)},
}
COHERE = Reply(
    "/cohere/v2/chat",
    {
        "id": "co1",
        "finish_reason": "TOOL_CALL",
        "message": {
            "role": "assistant",
            "content": [{"type": "text", "text": TEXT}],
            "tool_calls": [_COHERE_CALL],
        },
        "usage": _COHERE_USAGE,
    },
    _sse(
        {"type": "message-start", "id": "co1", "delta": {"message": {"role": "assistant", "content": [], "tool_calls": [], "citations": []}}},
        {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
        *({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}} for text in ANSWER),
        {"type": "content-end", "index": 0},
        {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": {**_COHERE_CALL, "function": {"name": "weather", "arguments": ""}}}}},
        *({"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": {"function": {"arguments": part}}}}} for part in _PARTS),
        {"type": "tool-call-end", "index": 0},
        {"type": "message-end", "id": "co1", "delta": {"finish_reason": "TOOL_CALL", "usage": _COHERE_USAGE}},
        named=True,
    ),
)  # fmt: skip

ALL = (OPENAI, RESPONSES, ANTHROPIC, MISTRAL, GENAI, OLLAMA, COHERE)
