"""What type checkers see of decorated callables: exactly what they see of the undecorated ones. Checked, never run."""

from __future__ import annotations

import functools

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Generic, Protocol, TypeVar, overload

from typing_extensions import assert_type

import mltrace


T = TypeVar("T")
Unary = Callable[[int], str]


# Functions of each kind, bare and with options, by each decorator.


@mltrace.track_run
def bare(x: int, /, y: str = "", *rest: int, key: bool, **more: float) -> str:
    return y


@mltrace.track_run("name_{x}", experiment_name="e", params={"k": 5}, tags={"env": "prod"}, sample_rate=0.5)
def called(x: int, y: str = "") -> str:
    return y


@mltrace.track_run("traced", record_as="trace", span_type="TOOL")
def traced(x: int) -> str:
    return str(x)


@mltrace.track_run()
async def coroutine(x: int) -> str:
    return str(x)


@mltrace.track_run(output_reducer=len)
def generator(x: int) -> Iterator[str]:
    yield str(x)


@mltrace.track_run
async def async_generator(x: int) -> AsyncIterator[str]:
    yield str(x)


@mltrace.log_training_run
def train(x: int) -> str:
    return str(x)


@mltrace.log_training_run("train", params={"epochs": 3})
async def train_later(x: int) -> str:
    return str(x)


@mltrace.log_llm_call
def ask(question: str) -> str:
    return question


@mltrace.log_llm_call(
    model="m", provider="p", temperature=0.7, max_tokens=5, top_p=1, run_name="ask", capture_output=False
)
async def ask_later(question: str) -> str:
    return question


@mltrace.log_prediction
def predict(x: int) -> str:
    return str(x)


@mltrace.log_prediction(model_version="3", tags={"a": 1})
def predict_stream(x: int) -> Iterator[str]:
    yield str(x)


assert_type(bare(1, "y", 2, key=True, other=1.0), str)
assert_type(called(1, y="y"), str)
assert_type(traced(1), str)
assert_type(generator(1), "Iterator[str]")
assert_type(async_generator(1), "AsyncIterator[str]")
assert_type(train(1), str)
assert_type(ask("q"), str)
assert_type(predict(1), str)
assert_type(predict_stream(1), "Iterator[str]")

bare("x", key=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bare(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
called(1, "y", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ask(question=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Methods, and what is behind a descriptor.


class Service:
    @mltrace.track_run
    def method(self, x: int) -> str:
        return str(x)

    @mltrace.track_run("named")
    async def later(self, x: int) -> str:
        return str(x)

    @classmethod
    @mltrace.track_run
    def class_method(cls, x: int) -> Service:
        return cls()

    @mltrace.track_run("named")
    @classmethod
    def class_method_outside(cls, x: int) -> Service:
        return cls()

    @staticmethod
    @mltrace.track_run("named")
    def static_method(x: int) -> str:
        return str(x)

    @mltrace.log_prediction
    @staticmethod
    def static_method_outside(x: int) -> str:
        return str(x)

    @property
    @mltrace.track_run
    def value(self) -> str:
        return ""

    @functools.cached_property
    @mltrace.track_run
    def cached(self) -> str:
        return ""

    def __call__(self, x: int) -> str:
        return str(x)


assert_type(Service().method(1), str)
assert_type(Service.method(Service(), 1), str)
assert_type(Service.class_method(1), Service)
assert_type(Service.class_method_outside(1), Service)
assert_type(Service.static_method(1), str)
assert_type(Service().static_method_outside(1), str)
assert_type(Service().value, str)
assert_type(Service().cached, str)
Service().method("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Service.class_method_outside("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

assert_type(mltrace.track_run(Service())(1), str)
assert_type(mltrace.track_run(Service()), Service)
assert_type(mltrace.track_run("named")(functools.partial(called, 1)), "functools.partial[str]")
assert_type(mltrace.track_run(lambda: [""])(), "list[str]")


# What a signature alone does not say.


@overload
def either(x: int) -> int: ...


@overload
def either(x: str) -> str: ...


@mltrace.track_run("either")
def either(x: int | str) -> int | str:
    return x


@mltrace.track_run
def same(x: T) -> T:
    return x


class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    @mltrace.track_run
    def get(self, default: T | None = None) -> T:
        return self.value


class Getter(Protocol):
    def get(self, default: int | None = None) -> int: ...


def takes(getter: Getter) -> int:
    return getter.get()


assert_type(either(1), int)
assert_type(either("x"), str)
assert_type(same([1]), "list[int]")
assert_type(Box(1).get(), int)
takes(Box(1))
takes(Box("x"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

unary: Unary = mltrace.track_run("named")(lambda x: str(x))


# Coroutines.


async def coroutines() -> None:
    assert_type(await coroutine(1), str)
    assert_type(await train_later(1), str)
    assert_type(await ask_later("q"), str)
    assert_type(await Service().later(1), str)
    await coroutine("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Blocks and direct calls.

with mltrace.track_run("block") as run:
    assert_type(run, mltrace.Run)

with mltrace.log_llm_call(model="m", prompt=["p"]) as call:
    assert_type(call, mltrace.Call)
    call.record_usage(input_tokens=1)

with mltrace.log_prediction(inputs=[1]) as prediction:
    assert_type(prediction, mltrace.Call)


async def block() -> None:
    async with mltrace.track_run("block") as run:
        assert_type(run, mltrace.Run)
    async with mltrace.log_llm_call(model="m") as call:
        assert_type(call, mltrace.Call)


assert_type(mltrace.log_llm_call("m", "p", "r", 5, 0.5), mltrace.Run)
assert_type(
    mltrace.log_llm_call(model="m", prompt="p", response="r", tokens_used=5, latency_ms=1.5), mltrace.Run
)
assert_type(mltrace.log_prediction("q", "a", "c", 1.5, "v", "helpful"), mltrace.Run)
assert_type(mltrace.log_prediction(question="q", answer="a", latency_ms=1.5), mltrace.Run)
assert_type(mltrace.log_prediction(inputs={}, output=0.5), mltrace.Run)
assert_type(mltrace.start_run("cell", tags={"a": 1}), mltrace.Run)
assert_type(mltrace.log_evaluation_metrics({"f1": 0.5}), mltrace.Run)
assert_type(mltrace.current_run(), mltrace.Run)


# Renderers and marks.


class Molecule:
    formula = ""


@mltrace.register_renderer(Molecule)
def formula(molecule: Molecule) -> str:
    return molecule.formula


assert_type(formula(Molecule()), str)
mltrace.register_renderer(Molecule, lambda molecule: molecule.formula)
mltrace.register_renderer("package.module.Type", lambda value: value.anything)


@mltrace.register_extractor(Molecule)
def extract(molecule: Molecule) -> mltrace.LlmResponse:
    return mltrace.LlmResponse(text=molecule.formula, usage={"output_tokens": 1.0})


assert_type(extract(Molecule()), mltrace.LlmResponse)
mltrace.register_extractor(Molecule, lambda molecule: {"text": molecule.formula})
mltrace.register_extractor("package.module.Type", lambda value: {"text": value.anything})
mltrace.register_price("m", input=1, output=2.5, cache_read=0.1)
assert_type(mltrace.load_prices("prices.json"), int)

with mltrace.log_llm_call(model="m") as streaming:
    for item in streaming.stream([1, 2]):
        assert_type(item, int)


@mltrace.track_run
def login(user: str, pin: Annotated[str, mltrace.Redact]) -> Annotated[str, mltrace.Redact]:
    return pin


assert_type(login("ada", "pin"), str)
