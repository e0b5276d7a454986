"""Answers that frameworks hand on (LangChain, LlamaIndex, LiteLLM) are read from their real classes."""

from __future__ import annotations

import asyncio

from typing import Any

import pytest

import mltrace

from mltrace import LlmResponse
from mltrace._llm import Assembly, read
from mltrace.backends.memory import MemoryBackend

from .clients import MESSAGES, OPENAI_USAGE
from .replies import ANSWER, ARGUMENTS, OPENAI, TEXT, TOOL_CALL
from .server import ProviderServer


pytestmark = pytest.mark.filterwarnings("ignore")  # packages warn of their own affairs


def assembled(chunks: Any) -> LlmResponse:
    """Return what a stream of *chunks* said."""
    assembly = Assembly(lambda chunk: pytest.fail(f"{chunk!r} is not known"), None, keep=True)
    for chunk in chunks:
        assembly.add(chunk)
    return LlmResponse(text=assembly.result()).filled(assembly.said)


LANGCHAIN_USAGE = {
    "input_tokens": 20,
    "output_tokens": 12,
    "total_tokens": 32,
    "input_token_details": {"cache_read": 8},
    "output_token_details": {"reasoning": 5},
}


def test_langchains_message_is_read() -> None:
    """An `AIMessage` says text, model, provider, finish reason, tool calls and tokens."""
    messages = pytest.importorskip("langchain_core.messages")
    message = messages.AIMessage(
        content=[{"type": "reasoning", "reasoning": "…"}, {"type": "text", "text": TEXT}],
        response_metadata={"model_name": "gpt-4o", "model_provider": "openai", "finish_reason": "tool_calls"},
        usage_metadata=LANGCHAIN_USAGE,
        tool_calls=[{"id": "call_1", "name": "weather", "args": ARGUMENTS}],
    )
    says = LlmResponse(TEXT, "gpt-4o", "openai", "tool_calls", [TOOL_CALL], OPENAI_USAGE)
    assert says == read(message)


def test_langchains_chunks_are_assembled() -> None:
    """Counts of `AIMessageChunk`s are added up, as LangChain adds them, and pieces of tool calls joined."""
    chunk = pytest.importorskip("langchain_core.messages").AIMessageChunk
    first = {"input_tokens": 20, "output_tokens": 0, "total_tokens": 20}
    last = {"input_tokens": 0, "output_tokens": 12, "total_tokens": 12}
    pieces = [{"index": 0, "id": "call_1", "name": "weather", "args": '{"city": '}]
    pieces += [{"index": 0, "id": None, "name": None, "args": '"Göttingen", "days": 2}'}]
    chunks = [
        chunk(content="", usage_metadata=first, response_metadata={"model_name": "m"}),
        *(chunk(content=text) for text in ANSWER),
        *(chunk(content="", tool_call_chunks=[piece]) for piece in pieces),
        chunk(content="", usage_metadata=last, response_metadata={"stop_reason": "end_turn"}),
    ]
    usage = {"input_tokens": 20.0, "output_tokens": 12.0, "total_tokens": 32.0}
    assert LlmResponse(TEXT, "m", None, "end_turn", [TOOL_CALL], usage) == assembled(chunks)


def test_a_langchain_model_is_followed(memory: MemoryBackend) -> None:
    """The iterators that a chat model's `stream` and `astream` return are followed, and chunks stay its own."""
    fakes = pytest.importorskip("langchain_core.language_models.fake_chat_models")
    messages = pytest.importorskip("langchain_core.messages")
    model = fakes.GenericFakeChatModel(messages=iter([messages.AIMessage(content=TEXT)] * 2))

    @mltrace.log_llm_call
    def ask(prompt: str) -> Any:
        return model.stream(prompt)

    @mltrace.log_llm_call
    def ask_later(prompt: str) -> Any:
        return model.astream(prompt)

    async def main() -> list[Any]:
        return [chunk async for chunk in ask_later("How?")]

    for chunks in (list(ask("How?")), asyncio.run(main())):
        assert {messages.AIMessageChunk} == {type(chunk) for chunk in chunks}
    assert [TEXT] * 2 == [run.tags["mltrace.response"] for run in memory.roots]


def test_llamaindexs_answers_are_read() -> None:
    """An LLM's answer says its text and what the provider's raw one says; a query engine's its text."""
    llms = pytest.importorskip("llama_index.core.llms")
    schema = pytest.importorskip("llama_index.core.base.response.schema")
    chat = llms.ChatResponse(message=llms.ChatMessage(role="assistant", content=TEXT), raw=OPENAI.whole)
    completion = llms.CompletionResponse(text=TEXT, raw=OPENAI.whole)
    says = LlmResponse(TEXT, "gpt-4o-2024-08-06", None, "tool_calls", [TOOL_CALL], OPENAI_USAGE)
    assert [says, says] == [read(chat), read(completion)]
    assert LlmResponse(text=TEXT) == read(schema.Response(response=TEXT, source_nodes=[]))


def test_llamaindexs_streams_are_assembled() -> None:
    """Its chunks hold the text so far too; what each adds is what counts, with the provider's usage."""
    llms = pytest.importorskip("llama_index.core.llms")
    sofar, chunks = "", []
    for text in ANSWER:
        sofar += text
        message = llms.ChatMessage(role="assistant", content=sofar)
        chunks.append(llms.ChatResponse(message=message, delta=text, raw=None))
    raw = {"choices": [], "usage": OPENAI.whole["usage"]}
    chunks.append(llms.ChatResponse(message=message, delta="", raw=raw))
    found = assembled(chunks)
    assert (TEXT, OPENAI_USAGE) == (found.text, found.usage)


@pytest.mark.parametrize(
    "read_it",
    [lambda answer: "".join(answer.response_gen), str, lambda answer: str(answer.get_response())],
    ids=["iterated", "as text", "by its method"],
)
def test_llamaindexs_streaming_response_is_followed(memory: MemoryBackend, read_it: Any) -> None:
    """A query engine's streaming answer is no iterator but holds one, and is followed however it is read."""
    schema = pytest.importorskip("llama_index.core.base.response.schema")

    @mltrace.log_llm_call
    def ask(question: str) -> Any:
        return schema.StreamingResponse(response_gen=(text for text in ANSWER), source_nodes=[])

    answer = ask("How?")
    assert isinstance(answer, schema.StreamingResponse)
    assert TEXT == read_it(answer)
    [run] = memory.roots
    assert (TEXT, "FINISHED") == (run.tags["mltrace.response"], run.status)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_litellms_answers_are_read(provider: ProviderServer, memory: MemoryBackend, stream: bool) -> None:
    """LiteLLM's objects, whole and streamed, say what OpenAI's say, and which provider answered."""
    litellm = pytest.importorskip("litellm")

    @mltrace.log_llm_call(model="gpt-4o")
    def ask(question: str) -> Any:
        return litellm.completion(
            model="openai/gpt-4o",
            messages=MESSAGES,
            stream=stream,
            stream_options={"include_usage": True} if stream else None,
            api_key="test",
            api_base=f"{provider.url}/openai/v1",
        )

    answer = ask("How?")
    if stream:
        assert isinstance(answer, litellm.CustomStreamWrapper)
        list(answer)
    [run] = memory.roots
    assert (TEXT, "openai") == (run.tags["mltrace.response"], run.params["provider"])
    assert {"weather"} == {call["name"] for call in __import__("json").loads(run.tags["mltrace.tool_calls"])}
    assert OPENAI_USAGE == {name: value for name, value in run.metrics.items() if name in OPENAI_USAGE}
