"""
The providers' real clients, pointed at the local server, and what `read` finds in what they return.
"""

from __future__ import annotations

import importlib

from collections.abc import Callable
from typing import Any, NamedTuple

from mltrace import LlmResponse

from .replies import TEXT, TOOL_CALL


MESSAGES: Any = [{"role": "user", "content": "How does a pinhole camera work?"}]
USAGE = {"input_tokens": 20.0, "output_tokens": 12.0, "total_tokens": 32.0}
CACHED = {**USAGE, "cache_read_input_tokens": 8.0}
OPENAI_USAGE = {**CACHED, "reasoning_tokens": 5.0}


class Client(NamedTuple):
    """
    One API of one package: how its client is made, and called. *whole* and *stream* are called with
    the client, synchronous or not.
    """

    package: str
    sync: Callable[[Any, str], Any]
    later: Callable[[Any, str], Any]
    whole: Callable[[Any], Any]
    stream: Callable[[Any], Any]
    model: str
    says: LlmResponse

    def make(self, url: str) -> Any:
        """Return a client, with the package that it needs imported."""
        return self.sync(importlib.import_module(self.package), url)

    def make_later(self, url: str) -> Any:
        """Return an asynchronous client."""
        return self.later(importlib.import_module(self.package), url)


def _says(model: str | None, provider: str, finish: str, usage: dict[str, float], **call: Any) -> LlmResponse:
    return LlmResponse(TEXT, model, provider, finish, [{**TOOL_CALL, **call}], usage)


def _openai(url: str) -> dict[str, Any]:
    return {"api_key": "test", "base_url": f"{url}/openai/v1", "max_retries": 0}


def _anthropic(url: str) -> dict[str, Any]:
    return {"api_key": "test", "base_url": f"{url}/anthropic", "max_retries": 0}


def _google(package: Any, url: str) -> Any:
    return package.Client(api_key="test", http_options={"base_url": f"{url}/google", "api_version": "v1beta"})


def _google_later(package: Any, url: str) -> Any:
    client = _google(package, url)
    client.aio.owner = client  # which would close it when it goes
    return client.aio


CLAUDE: Any = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": MESSAGES}

CLIENTS = {
    "openai chat": Client(
        "openai",
        lambda package, url: package.OpenAI(**_openai(url)),
        lambda package, url: package.AsyncOpenAI(**_openai(url)),
        lambda client: client.chat.completions.create(model="gpt-4o", messages=MESSAGES),
        lambda client: client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        ),
        "gpt-4o",
        _says("gpt-4o-2024-08-06", "openai", "tool_calls", OPENAI_USAGE),
    ),
    "openai responses": Client(
        "openai",
        lambda package, url: package.OpenAI(**_openai(url)),
        lambda package, url: package.AsyncOpenAI(**_openai(url)),
        lambda client: client.responses.create(model="gpt-4o", input="How?"),
        lambda client: client.responses.create(model="gpt-4o", input="How?", stream=True),
        "gpt-4o",
        _says("gpt-4o-2024-08-06", "openai", "completed", OPENAI_USAGE),
    ),
    "anthropic": Client(
        "anthropic",
        lambda package, url: package.Anthropic(**_anthropic(url)),
        lambda package, url: package.AsyncAnthropic(**_anthropic(url)),
        lambda client: client.messages.create(**CLAUDE),
        lambda client: client.messages.create(**CLAUDE, stream=True),
        "claude-sonnet-4-5",
        _says(
            "claude-sonnet-4-5-20250929",
            "anthropic",
            "tool_use",
            {**CACHED, "cache_creation_input_tokens": 3.0},
        ),
    ),
    "mistral": Client(
        "mistralai.client",
        lambda package, url: package.Mistral(api_key="test", server_url=f"{url}/mistral"),
        lambda package, url: _Later(
            package.Mistral(api_key="test", server_url=f"{url}/mistral").chat, "_async"
        ),
        lambda client: getattr(client, "chat", client).complete(model="mistral-small", messages=MESSAGES),
        lambda client: getattr(client, "chat", client).stream(model="mistral-small", messages=MESSAGES),
        "mistral-small",
        _says("mistral-small-2506", "mistral", "tool_calls", USAGE),
    ),
    "google genai": Client(
        "google.genai",
        _google,
        _google_later,
        lambda client: client.models.generate_content(model="gemini-2.5-flash", contents="How?"),
        lambda client: client.models.generate_content_stream(model="gemini-2.5-flash", contents="How?"),
        "gemini-2.5-flash",
        _says("gemini-2.5-flash-001", "google", "STOP", OPENAI_USAGE),
    ),
    "ollama": Client(
        "ollama",
        lambda package, url: package.Client(host=f"{url}/ollama"),
        lambda package, url: package.AsyncClient(host=f"{url}/ollama"),
        lambda client: client.chat(model="llama3.2", messages=MESSAGES),
        lambda client: client.chat(model="llama3.2", messages=MESSAGES, stream=True),
        "llama3.2",
        _says("llama3.2:3b", "ollama", "stop", USAGE, id=None),
    ),
    "cohere": Client(
        "cohere",
        lambda package, url: package.ClientV2(api_key="test", base_url=f"{url}/cohere"),
        lambda package, url: package.AsyncClientV2(api_key="test", base_url=f"{url}/cohere"),
        lambda client: client.chat(model="command-a", messages=MESSAGES),
        lambda client: client.chat_stream(model="command-a", messages=MESSAGES),
        "command-a",
        _says(None, "cohere", "TOOL_CALL", CACHED),
    ),
}


class _Later:
    """Mistral's methods for coroutines, by the names of the others."""

    def __init__(self, chat: Any, suffix: str) -> None:
        self._chat = chat
        self._suffix = suffix

    def __getattr__(self, name: str) -> Any:
        if name == "chat":
            raise AttributeError(name)
        return getattr(self._chat, name + self._suffix)
