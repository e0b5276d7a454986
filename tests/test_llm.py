"""What a provider's response says is read from its fields, whatever object it is; an odd one never raises."""

from __future__ import annotations

import json
import math

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

import mltrace

from mltrace import LlmResponse
from mltrace._llm import forget_extractors, read
from mltrace.backends.memory import MemoryBackend
from tests.harness import shown


def as_object(value: Any) -> Any:
    """Return nested mappings as objects with attributes, as providers' packages make them."""
    if type(value) is dict:
        return SimpleNamespace(**{key: as_object(item) for key, item in value.items()})
    return [as_object(item) for item in value] if type(value) is list else value


CHAT = {
    "model": "gpt-4-0613",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "It is …"}, "finish_reason": "stop"}
    ],
    "usage": {
        "prompt_tokens": 12,
        "completion_tokens": 80,
        "total_tokens": 92,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}
CHAT_SAYS = LlmResponse(
    text="It is …",
    model="gpt-4-0613",
    finish_reason="stop",
    usage={"input_tokens": 12.0, "output_tokens": 80.0, "total_tokens": 92.0, "cache_read_input_tokens": 4.0},
)
SHAPES: dict[str, tuple[dict[str, Any], LlmResponse]] = {
    "openai chat": (CHAT, CHAT_SAYS),
    "openai completion": (
        {"model": "m", "choices": [{"text": "It is …", "finish_reason": "length"}]},
        LlmResponse(text="It is …", model="m", finish_reason="length"),
    ),
    "openai responses": (
        {
            "model": "m",
            "output_text": "It is …",
            "usage": {"input_tokens": 3, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 1}},
        },
        LlmResponse(
            text="It is …",
            model="m",
            usage={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "cache_read_input_tokens": 1},
        ),
    ),
    "anthropic": (
        {
            "model": "m",
            "content": [{"type": "text", "text": "It is …"}],
            "stop_reason": "end_turn",
            "usage": {
                "input_tokens": 3,
                "output_tokens": 4,
                "cache_read_input_tokens": 2,
                "cache_creation_input_tokens": 1,
            },
        },
        LlmResponse(
            text="It is …",
            model="m",
            finish_reason="end_turn",
            usage={
                "input_tokens": 6,  # Anthropic's own count leaves out what the cache took
                "output_tokens": 4,
                "total_tokens": 10,
                "cache_read_input_tokens": 2,
                "cache_creation_input_tokens": 1,
            },
        ),
    ),
    "ollama chat": (
        {
            "model": "llama3",
            "message": {"role": "assistant", "content": "It is …"},
            "done_reason": "stop",
            "prompt_eval_count": 5,
            "eval_count": 6,
        },
        LlmResponse(
            text="It is …",
            model="llama3",
            finish_reason="stop",
            usage={"input_tokens": 5, "output_tokens": 6, "total_tokens": 11},
        ),
    ),
    "ollama generate": (
        {"model": "llama3", "response": "It is …", "eval_count": 6},
        LlmResponse(text="It is …", model="llama3", usage={"output_tokens": 6}),
    ),
    "langchain message": ({"content": "It is …"}, LlmResponse(text="It is …")),
    "rag answer": ({"answer": "It is …", "sources": [1]}, LlmResponse(text="It is …")),
    "empty text": ({"text": ""}, LlmResponse(text="")),
}


@pytest.mark.parametrize("as_what", [lambda value: value, as_object], ids=["mapping", "object"])
@pytest.mark.parametrize(("shape", "says"), SHAPES.values(), ids=SHAPES)
def test_a_known_shape_is_read(shape: dict[str, Any], says: LlmResponse, as_what: Any) -> None:
    """Text, model, finish reason and tokens are found in mappings and in objects with the same fields."""
    assert says == read(as_what(shape))


@pytest.mark.parametrize("response", ["It is …", "", None])
def test_a_plain_text_is_the_text(response: Any) -> None:
    """A function that returns a text, or nothing, says just that."""
    assert LlmResponse(text=response) == read(response)


def test_text_in_several_blocks_is_read_whole() -> None:
    """An answer that comes in blocks, with others between them, has the text of all."""
    blocks = [
        {"type": "thinking", "thinking": "…"},
        {"type": "text", "text": "It "},
        {"type": "tool_use", "name": "t"},
        {"type": "text", "text": "is …"},
    ]
    assert "It is …" == read({"content": blocks}).text
    assert "It is …" == read(as_object({"content": blocks})).text


@pytest.mark.parametrize(
    "response",
    [5, [1, 2], {"unknown": 1}, object(), {"choices": []}, SimpleNamespace(choices=None)],
    ids=shown,
)
def test_an_unknown_shape_is_its_own_text(response: Any) -> None:
    """What is not recognised is passed on whole, for the rendering to show."""
    found = read(response)
    assert response is found.text
    assert (None, None, {}) == (found.model, found.finish_reason, found.usage)


@pytest.mark.parametrize(
    "count",
    [None, "12", True, -1, math.nan, [], 10**400, object()],
    ids=["none", "text", "bool", "negative", "nan", "list", "huge", "object"],
)
def test_what_is_no_count_is_left_out(count: Any) -> None:
    """Only numbers that can be counts of tokens become usage."""
    assert {"output_tokens": 5.0} == read({"usage": {"input_tokens": count, "output_tokens": 5}}).usage


def test_a_total_that_is_given_is_kept() -> None:
    """The sum is made only where the provider gives none."""
    assert (
        100.0
        == read({"usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 100}}).usage["total_tokens"]
    )
    assert "total_tokens" not in read({"usage": {"input_tokens": 1}}).usage


@pytest.mark.parametrize("field", ["model", "stop_reason"])
@pytest.mark.parametrize("value", [5, None, ["m"], object()], ids=shown)
def test_a_name_that_is_no_text_is_left_out(field: str, value: Any) -> None:
    """Model and finish reason are texts or not known."""
    found = read({"text": "t", field: value})
    assert (None, None) == (found.model, found.finish_reason)


class Raising:
    """An object whose every attribute raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class RaisingMapping(dict[str, Any]):
    def get(self, key: str, default: Any = None) -> Any:
        raise RuntimeError(key)

    __getitem__ = __contains__ = __iter__ = get  # type: ignore[assignment]


class RaisingProperty:
    model = "m"

    @property
    def text(self) -> str:
        raise RuntimeError("text")

    answer = "found after all"


class RaisingNumber(int):
    def __ge__(self, other: object) -> bool:
        raise RuntimeError("ge")

    def __float__(self) -> float:
        raise RuntimeError("float")


ODD: list[Callable[[], Any]] = [
    Raising,
    lambda: RaisingMapping(text="t"),
    lambda: {"usage": Raising(), "choices": Raising(), "content": Raising()},
    lambda: {"usage": {"total_tokens": Raising()}},
    lambda: {"model": Raising(), "stop_reason": Raising()},
    lambda: {"choices": RaisingMapping()},
]


@pytest.mark.parametrize("make", ODD, ids=range(len(ODD)))
def test_an_odd_object_never_raises(make: Callable[[], Any]) -> None:
    """A response that refuses every question is still a response."""
    found = read(make())
    assert ({}, None, None) == (found.usage, found.model, found.finish_reason)


def test_a_count_that_refuses_to_be_converted_is_one() -> None:
    """A number counts for what it is, whatever its type makes of a conversion."""
    assert {"total_tokens": 5.0} == read({"usage": {"total_tokens": RaisingNumber(5)}}).usage


def test_a_field_that_raises_says_nothing() -> None:
    """The other fields of such an object are read."""
    found = read(RaisingProperty())
    assert ("found after all", "m") == (found.text, found.model)


fields = ["choices", "message", "content", "text", "usage", "input_tokens", "total_tokens", "model"]
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["text", "raising"])
responses = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(fields), inner, max_size=4),
    max_leaves=15,
)


def made(value: Any) -> Any:
    """Return *value* with odd objects in it, which Hypothesis itself could not look at."""
    if isinstance(value, dict):
        return {key: made(item) for key, item in value.items()}
    if isinstance(value, list):
        return [made(item) for item in value]
    return Raising() if value == "raising" else value


@given(responses)
@settings(deadline=None, max_examples=200)
def test_reading_is_total(response: Any) -> None:
    """Whatever nesting of the known fields comes back, names are texts and counts are floats."""
    for found in (read(made(response)), read(as_object(made(response)))):
        assert {type(count) for count in found.usage.values()} <= {float}
        assert {type(found.model), type(found.finish_reason)} <= {str, type(None)}


# What users register.


class Answer:
    """A response that only its user can read."""

    def __init__(self, said: str, tokens: int = 5) -> None:
        self.said = said
        self.tokens = tokens


class Elaborate(Answer):
    """A kind of it."""


@pytest.fixture(name="registered")
def _registered() -> Iterator[None]:
    yield
    forget_extractors()


def extract(answer: Answer) -> dict[str, Any]:
    return {"text": answer.said, "model": "own-1", "usage": {"output_tokens": answer.tokens}}


EXTRACTED = LlmResponse(text="It is …", model="own-1", usage={"output_tokens": 5.0})


@pytest.mark.parametrize("kind", [Answer, f"{__name__}.Answer"], ids=["type", "name"])
def test_a_registered_function_reads_its_responses(registered: None, kind: Any) -> None:
    """It counts for the type and its subclasses, given as a type or by name, and for nothing else."""
    assert mltrace.register_extractor(kind, extract) is extract
    assert [EXTRACTED, EXTRACTED] == [read(Answer("It is …")), read(Elaborate("It is …"))]
    assert CHAT_SAYS == read(CHAT)


def test_the_nearest_base_reads(registered: None) -> None:
    """A function for a subclass comes before that of its base, and the latest one for a type before others."""
    mltrace.register_extractor(Answer, extract)
    mltrace.register_extractor(Elaborate, lambda answer: {"text": "first"})

    @mltrace.register_extractor(Elaborate)
    def elaborate(answer: Elaborate) -> LlmResponse:
        return LlmResponse(text="second", finish_reason="stop")

    assert LlmResponse(text="second", finish_reason="stop") == read(elaborate and Elaborate("x"))
    assert EXTRACTED == read(Answer("It is …"))


def test_a_registered_function_reads_chunks(registered: None, memory: MemoryBackend) -> None:
    """Of a stream it is asked for each chunk: texts are joined, the latest counts stay."""
    mltrace.register_extractor(Answer, extract)
    list(mltrace.log_llm_call(lambda: iter([Answer("It ", 1), Answer("is …", 5)]))())
    [run] = memory.roots
    assert ("It is …", 5.0) == (run.tags["mltrace.response"], run.metrics["output_tokens"])
    assert "own-1" == run.params["model"]


@pytest.mark.parametrize(
    "function",
    [lambda answer: 1 / 0, lambda answer: 5, lambda answer: {"texts": "t"}, lambda answer: {"usage": 5}],
    ids=["raises", "a number", "an unknown field", "a wrong field"],
)
def test_a_registered_function_that_fails_is_done_without(
    registered: None, said: list[str], function: Any
) -> None:
    """The response is read as if nothing were registered, and that is said once."""
    mltrace.register_extractor(Answer, function)
    answer = Answer("It is …")
    assert [LlmResponse(text=answer)] * 2 == [read(answer), read(answer)]
    assert 1 == len(said)
    assert "Answer failed" in said


def test_what_a_registered_function_finds_is_checked(registered: None) -> None:
    """What is no name or no count is left out."""
    mltrace.register_extractor(
        Answer, lambda answer: {"model": 5, "usage": {"input_tokens": "12", "output_tokens": 2}}
    )
    assert LlmResponse(usage={"output_tokens": 2.0}) == read(Answer("x"))


@pytest.mark.parametrize("kind", [str, int, type(None), "Answer", 5, None], ids=shown)
def test_what_cannot_be_registered_raises(kind: Any) -> None:
    """A plain type, a name without a module, or what is neither, is a mistake that is named."""
    with pytest.raises(mltrace.ConfigurationError, match="register_extractor: kind"):
        mltrace.register_extractor(kind, extract)
    with pytest.raises(mltrace.ConfigurationError, match="function 5"):
        mltrace.register_extractor(Answer, 5)  # type: ignore[arg-type]


# What becomes of it in MLflow.


def recorded(response: Any, memory: MemoryBackend, **options: Any) -> Any:
    mltrace.log_llm_call(**options)(lambda: response)()
    [run] = memory.roots
    return run


def test_another_model_than_the_one_asked_for_is_told(memory: MemoryBackend) -> None:
    """The param is the model that was asked for; the one that answered is a tag where it differs."""
    run = recorded(CHAT, memory, model="gpt-4")
    assert ("gpt-4", "gpt-4-0613") == (run.params["model"], run.tags["mltrace.response_model"])


def test_the_same_model_is_told_once(memory: MemoryBackend) -> None:
    """A model that is the one asked for, or the only one known, is the param alone."""
    run = recorded(CHAT, memory)
    assert ("gpt-4-0613", False) == (run.params["model"], "mltrace.response_model" in run.tags)


def test_a_provider_that_is_given_is_kept(memory: MemoryBackend) -> None:
    """What the caller says of the provider stands; what a response says fills the gap."""
    response = {"content": "t", "response_metadata": {"model_provider": "anthropic"}}
    assert "mine" == recorded(response, memory, provider="mine").params["provider"]


def tool_call(arguments: str) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "login", "arguments": arguments}}
    return {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}


def test_tool_calls_are_a_tag(memory: MemoryBackend) -> None:
    """An answer of tool calls alone has them, and no text; their arguments are a structure."""
    run = recorded(tool_call('{"user": "ada"}'), memory)
    assert [{"id": "1", "name": "login", "arguments": {"user": "ada"}}] == json.loads(
        run.tags["mltrace.tool_calls"]
    )
    assert "mltrace.response" not in run.tags


def test_secrets_in_arguments_of_tools_are_hidden(memory: MemoryBackend) -> None:
    """An argument under a secret's name is hidden, although it comes as a text of JSON."""
    run = recorded(tool_call('{"user": "ada", "password": "hunter2hunter2"}'), memory)
    assert "hunter2" not in repr(run)
    assert "ada" in run.tags["mltrace.tool_calls"]


def test_long_tool_calls_are_whole_in_an_artifact(memory: MemoryBackend) -> None:
    """What does not fit the tag is kept whole, and the tag says where."""
    run = recorded(tool_call(json.dumps({"text": "x" * 20_000})), memory)
    assert "llm_tool_calls.json" in run.tags["mltrace.tool_calls"]
    assert "x" * 20_000 in str(run.artifacts["llm_tool_calls.json"])


def test_arguments_that_are_no_json_are_kept_as_text(memory: MemoryBackend) -> None:
    """A model's broken JSON is what it said."""
    run = recorded(tool_call('{"user": '), memory)
    assert '{"user": ' == json.loads(run.tags["mltrace.tool_calls"])[0]["arguments"]
