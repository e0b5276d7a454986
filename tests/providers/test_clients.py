"""What the real clients return, whole and as streams, is recorded as what the provider said."""

from __future__ import annotations

import asyncio
import inspect
import json

from typing import Any

import pytest

import mltrace

from mltrace import LlmResponse
from mltrace._llm import Assembly, read
from mltrace.backends.memory import MemoryBackend, RecordedRun

from .clients import CLIENTS, Client
from .replies import TEXT, TOOL_CALL
from .server import ProviderServer


pytestmark = pytest.mark.filterwarnings("ignore")  # clients warn of their own affairs


@pytest.fixture(name="client", params=CLIENTS.values(), ids=CLIENTS)
def _client(request: pytest.FixtureRequest) -> Client:
    client: Client = request.param
    pytest.importorskip(client.package)
    return client


def only(memory: MemoryBackend) -> RecordedRun:
    [run] = memory.roots
    return run


def recorded(run: RecordedRun, client: Client) -> LlmResponse:
    """Return what the run holds of the response."""
    metrics = {name: value for name, value in run.metrics.items() if name.endswith("_tokens")}
    return LlmResponse(
        text=run.tags.get("mltrace.response"),
        model=run.tags.get("mltrace.response_model"),
        provider=run.params.get("provider"),
        finish_reason=run.tags.get("mltrace.finish_reason"),
        tool_calls=json.loads(run.tags.get("mltrace.tool_calls", "[]")),
        usage=metrics,
    )


def test_a_whole_response_is_read(client: Client, provider: ProviderServer) -> None:
    """Text, model, provider, finish reason, tool calls and every tier of tokens are found in the client's object."""
    assert client.says == read(client.whole(client.make(provider.url)))


def test_a_whole_response_is_read_as_json_too(client: Client, provider: ProviderServer) -> None:
    """The same is found in what the object looks like as JSON; only the package is not known then."""
    response = client.whole(client.make(provider.url))
    dump = getattr(response, "model_dump", None) or response.dict
    as_json = read(json.loads(json.dumps(dump(), default=str)))
    assert (client.says.text, client.says.usage) == (as_json.text, as_json.usage)
    assert client.says.tool_calls == as_json.tool_calls


def test_a_stream_says_what_the_whole_response_says(client: Client, provider: ProviderServer) -> None:
    """Assembled from its chunks, a stream has the same text, model, finish reason, tool calls and tokens."""
    assembly = Assembly(lambda chunk: pytest.fail(f"{chunk!r} is not known"), None, keep=True)
    made = client.make(provider.url)
    for chunk in client.stream(made):
        assembly.add(chunk)
    said = assembly.said
    said.text = assembly.result()
    assert client.says == said


def test_a_whole_call_is_recorded(client: Client, provider: ProviderServer, memory: MemoryBackend) -> None:
    """The object that the client returned comes back itself, and the run has all that it says."""
    made = []

    @mltrace.log_llm_call(model=client.model)
    def ask(question: str) -> Any:
        made.append(client.whole(client.make(provider.url)))
        return made[0]

    assert ask("How?") is made[0]
    assert client.says == recorded(only(memory), client)


def test_a_stream_that_is_returned_is_recorded(
    client: Client, provider: ProviderServer, memory: MemoryBackend
) -> None:
    """The chunks are the client's own, one for one, and the run ends with the last and has all they say."""
    made = client.make(provider.url)
    plain = [type(chunk) for chunk in client.stream(made)]

    @mltrace.log_llm_call(model=client.model)
    def ask(question: str) -> Any:
        return client.stream(made)

    stream = ask("How?")
    assert isinstance(stream, type(client.stream(made)))
    assert plain == [type(chunk) for chunk in stream]
    run = only(memory)
    assert client.says == recorded(run, client)
    assert ("FINISHED", client.model) == (run.status, run.params["model"])
    assert 0 < run.metrics["time_to_first_token_ms"] <= run.metrics["latency_ms"]
    assert 0 < run.metrics["output_tokens_per_second"]
    assert "mltrace.stream" not in run.tags


def test_a_stream_that_is_yielded_is_recorded(
    client: Client, provider: ProviderServer, memory: MemoryBackend
) -> None:
    """A decorated generator that hands a provider's chunks on is recorded as the stream is."""
    made = client.make(provider.url)

    @mltrace.log_llm_call(model=client.model)
    def ask(question: str) -> Any:
        yield from client.stream(made)

    assert len(list(client.stream(made))) == len(list(ask("How?")))
    assert client.says == recorded(only(memory), client)


def test_coroutines_are_recorded(client: Client, provider: ProviderServer, memory: MemoryBackend) -> None:
    """An asynchronous client's response and stream are recorded as the other's are."""

    async def main() -> None:
        made = client.make_later(provider.url)

        @mltrace.log_llm_call(model=client.model)
        async def ask(question: str) -> Any:
            return await client.whole(made)

        @mltrace.log_llm_call(model=client.model)
        async def stream(question: str) -> Any:
            found = client.stream(made)
            return await found if inspect.isawaitable(found) else found

        await ask("How?")
        chunks = [chunk async for chunk in await stream("How?")]
        assert chunks

    asyncio.run(main())
    whole, streamed = memory.roots
    assert client.says == recorded(whole, client)
    assert client.says == recorded(streamed, client)
    assert 0 < streamed.metrics["time_to_first_token_ms"] <= streamed.metrics["latency_ms"]


def test_chunks_are_not_held_back(client: Client, provider: ProviderServer, memory: MemoryBackend) -> None:
    """The consumer has the first text while the server has not sent the rest."""
    made = client.make(provider.url)

    @mltrace.log_llm_call
    def ask() -> Any:
        return client.stream(made)

    with provider.held() as gate:
        gate.release(5)  # some begin with events that have no text
        stream = ask()
        next(iter(stream))
        assert [] == [run for run in memory.roots if run.status is not None]
    list(stream)
    assert TEXT == only(memory).tags["mltrace.response"]


def test_a_connection_that_breaks_off_fails_the_run(
    client: Client, provider: ProviderServer, memory: MemoryBackend
) -> None:
    """The client's error comes out as it is, and is the run's."""
    made = client.make(provider.url)
    provider.cut_after = 2

    @mltrace.log_llm_call
    def ask() -> Any:
        return client.stream(made)

    with pytest.raises(Exception) as caught:  # noqa: PT011 - each client has its own
        list(ask())
    assert ("FAILED", type(caught.value).__qualname__) == (
        only(memory).status,
        only(memory).tags["mltrace.error.type"],
    )


def test_what_is_left_early_is_closed(
    client: Client, provider: ProviderServer, memory: MemoryBackend
) -> None:
    """A consumer that leaves after the first chunk ends the run as it was: finished, and closed."""
    made = client.make(provider.url)

    @mltrace.log_llm_call
    def ask() -> Any:
        return client.stream(made)

    stream = ask()
    next(iter(stream))
    stream.close()
    stream.close()
    run = only(memory)
    assert ("FINISHED", "closed") == (run.status, run.tags["mltrace.stream"])


# Helpers of OpenAI and Anthropic.


def test_anthropics_message_stream_is_followed(provider: ProviderServer, memory: MemoryBackend) -> None:
    """Entering the manager gives a stream that is followed, by events, by text, or read to its end by a method."""
    anthropic = pytest.importorskip("anthropic")
    client, known = CLIENTS["anthropic"].make(provider.url), CLIENTS["anthropic"]
    from .clients import CLAUDE

    @mltrace.log_llm_call(model=known.model)
    def ask() -> Any:
        return client.messages.stream(**CLAUDE)

    with ask() as stream:
        assert isinstance(stream, anthropic.MessageStream)
        assert len(list(stream)) > len(TEXT.split())
    with ask() as stream:
        assert TEXT == "".join(stream.text_stream)
    with ask() as stream:
        message = stream.get_final_message()
    assert [TOOL_CALL["name"]] == [block.name for block in message.content if block.type == "tool_use"]
    assert [known.says] * 3 == [recorded(run, known) for run in memory.roots]
    assert ["FINISHED"] * 3 == [run.status for run in memory.roots]


def test_openais_completion_stream_is_followed(provider: ProviderServer, memory: MemoryBackend) -> None:
    """The helper's events are followed once, although several of them repeat the same text."""
    openai = pytest.importorskip("openai")
    client, known = CLIENTS["openai chat"].make(provider.url), CLIENTS["openai chat"]
    from .clients import MESSAGES

    @mltrace.log_llm_call(model=known.model)
    def ask() -> Any:
        return client.chat.completions.stream(
            model=known.model, messages=MESSAGES, stream_options={"include_usage": True}
        )

    with ask() as stream:
        assert isinstance(stream, openai.lib.streaming.chat.ChatCompletionStream)
        list(stream)
    with ask() as stream:
        assert TEXT == stream.get_final_completion().choices[0].message.content
    assert [known.says] * 2 == [recorded(run, known) for run in memory.roots]


def test_asynchronous_helpers_are_followed(provider: ProviderServer, memory: MemoryBackend) -> None:
    """The same holds of the helpers of asynchronous clients."""
    pytest.importorskip("anthropic")
    pytest.importorskip("openai")
    from .clients import CLAUDE, MESSAGES

    async def main() -> None:
        claude = CLIENTS["anthropic"].make_later(provider.url)
        gpt = CLIENTS["openai chat"].make_later(provider.url)

        @mltrace.log_llm_call(model="claude-sonnet-4-5")
        def ask_claude() -> Any:
            return claude.messages.stream(**CLAUDE)

        @mltrace.log_llm_call(model="gpt-4o")
        def ask_gpt() -> Any:
            return gpt.chat.completions.stream(
                model="gpt-4o", messages=MESSAGES, stream_options={"include_usage": True}
            )

        async with ask_claude() as stream:
            assert TEXT == "".join([text async for text in stream.text_stream])
        async with ask_claude() as stream:
            await stream.until_done()
        async with ask_gpt() as stream:
            await stream.get_final_completion()

    asyncio.run(main())
    known = [CLIENTS["anthropic"], CLIENTS["anthropic"], CLIENTS["openai chat"]]
    assert [client.says for client in known] == [
        recorded(run, client) for run, client in zip(memory.roots, known, strict=True)
    ]


def test_a_stream_that_is_entered_is_itself(provider: ProviderServer, memory: MemoryBackend) -> None:
    """In ``with`` the stream is the view that was returned, its response is the client's, and leaving closes it."""
    openai = pytest.importorskip("openai")
    known = CLIENTS["openai chat"]
    made = []

    @mltrace.log_llm_call(model=known.model)
    def ask() -> Any:
        made.append(known.stream(known.make(provider.url)))
        return made[0]

    view = ask()
    with view as stream:
        assert stream is view
        assert isinstance(stream, openai.Stream)
        assert stream.response is made[0].response
        next(stream)
    assert made[0].response.is_closed
    assert "closed" == only(memory).tags["mltrace.stream"]


def test_a_manager_that_cannot_be_entered_fails_the_run(memory: MemoryBackend) -> None:
    """The request is made when the manager is entered; that it fails is the run's failure."""
    anthropic = pytest.importorskip("anthropic")
    from .clients import CLAUDE

    client = CLIENTS["anthropic"].make("http://127.0.0.1:9")

    @mltrace.log_llm_call
    def ask() -> Any:
        return client.messages.stream(**CLAUDE)

    with pytest.raises(anthropic.APIConnectionError), ask():
        pytest.fail("there is nobody to connect to")
    assert ("FAILED", "APIConnectionError") == (only(memory).status, only(memory).tags["mltrace.error.type"])


@pytest.mark.parametrize("package", sorted({client.package for client in CLIENTS.values()}))
def test_no_package_is_imported(package: str) -> None:
    """mltrace recognises providers' objects without importing anything of theirs."""
    from tests.harness import run_python

    script = f"""
        import sys, mltrace
        mltrace.configure(backend="memory")
        mltrace.log_llm_call(model="m", prompt="p", response={{"choices": [{{"message": {{"content": "t"}}}}]}})
        assert {package!r} not in sys.modules
    """
    run_python(script)
