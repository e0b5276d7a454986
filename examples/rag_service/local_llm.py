"""
A model that needs no key and no network: it answers with the sentences of the context that share most words
with the question, behind the part of the OpenAI protocol that the service uses.
"""

import json
import re
import time
import uuid

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


MODEL = "extractive-1"

app = FastAPI(title="A local model")


class Request(BaseModel):
    """What of a request is looked at."""

    messages: list[dict[str, str]]
    model: str = MODEL
    stream: bool = False


@app.post("/v1/chat/completions", response_model=None)
def complete(request: Request) -> dict[str, Any] | StreamingResponse:
    """Answer, whole or word by word."""
    prompt = request.messages[-1]["content"]
    words = answer(prompt).split(" ")
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model}
    tokens = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(words)}
    usage = {**tokens, "total_tokens": sum(tokens.values())}
    if request.stream:
        return StreamingResponse(events(head, words, usage), media_type="text/event-stream")
    message = {"role": "assistant", "content": " ".join(words)}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}


def answer(prompt: str) -> str:
    """Return the one or two sentences of the prompt's context nearest to its question."""
    context, _, question = prompt.rpartition("\n\nQuestion: ")
    asked = stems(question)
    sentences = re.split(r"(?<=[.?!])\s+|\n\n", context.removeprefix("Context:\n").strip())
    ranked = sorted(sentences, key=lambda sentence: -len(asked & stems(sentence)))
    best = [sentence for sentence in ranked[:2] if len(asked & stems(sentence)) > 1]
    return " ".join(sorted(best, key=sentences.index)) or "The documents do not say."


def stems(text: str) -> set[str]:
    """Return the words of a text, short of their endings."""
    return {word[:6] for word in re.findall(r"\w{3,}", text.lower())}


def events(head: dict[str, Any], words: list[str], usage: dict[str, int]) -> Iterator[str]:
    """Yield the events of a streamed answer."""
    for number, word in enumerate(words):
        delta = {"role": "assistant", "content": f" {word}" if number else word}
        yield event(head, [{"index": 0, "delta": delta, "finish_reason": None}])
    yield event(head, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
    yield event(head, [], usage)
    yield "data: [DONE]\n\n"


def event(head: dict[str, Any], choices: list[Any], usage: dict[str, int] | None = None) -> str:
    """Return one event."""
    return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': choices, 'usage': usage})}\n\n"
