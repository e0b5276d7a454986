"""A call costs what the user says its model costs, and nothing is guessed."""

from __future__ import annotations

import json
import sys

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mltrace

from mltrace import ConfigurationError
from mltrace._prices import cost, forget_prices
from mltrace.backends.memory import MemoryBackend


@pytest.fixture(autouse=True)
def _no_prices() -> Iterator[None]:
    forget_prices()
    yield
    forget_prices()


MILLION = {"input_tokens": 1e6, "output_tokens": 1e6}


def test_without_a_price_there_is_no_cost(memory: MemoryBackend) -> None:
    """A model that nobody gave a price for has none, and neither has a call whose tokens are not known."""
    mltrace.register_price("other", input=1, output=1)
    mltrace.log_llm_call(model="m", prompt="p", response="r", input_tokens=1, output_tokens=1)
    mltrace.log_llm_call(model="other", prompt="p", response="r", tokens_used=5)
    assert [] == [run.name for run in memory.roots if "cost_usd" in run.metrics]


def test_the_tiers_have_their_prices() -> None:
    """Cached and reasoning tokens are parts of the whole and cost what they cost; the rest costs the rest."""
    mltrace.register_price("m", input=10, output=100, cache_read=1, cache_creation=12, reasoning=50)
    usage = {
        "input_tokens": 1e6,
        "cache_read_input_tokens": 5e5,
        "cache_creation_input_tokens": 1e5,
        "output_tokens": 1e6,
        "reasoning_tokens": 2e5,
    }
    assert 0.4 * 10 + 0.5 * 1 + 0.1 * 12 + 0.8 * 100 + 0.2 * 50 == pytest.approx(cost(["m"], usage))


def test_a_tier_without_a_price_costs_what_its_whole_costs() -> None:
    """Two prices are enough for any usage."""
    mltrace.register_price("m", input=10, output=100)
    assert 110.0 == cost(["m"], {**MILLION, "cache_read_input_tokens": 5e5, "reasoning_tokens": 1e6})


def test_the_name_itself_comes_before_patterns() -> None:
    """An exact name wins, then the longest pattern; and the model that answered before the one asked for."""
    for model, price in {"*": 1, "gpt-*": 2, "gpt-4o-*": 3, "gpt-4o-mini": 4}.items():
        mltrace.register_price(model, input=price, output=0)
    found = {model: cost([model], MILLION) for model in ("gpt-4o-mini", "gpt-4o-2024", "gpt-5", "claude")}
    assert {"gpt-4o-mini": 4.0, "gpt-4o-2024": 3.0, "gpt-5": 2.0, "claude": 1.0} == found
    assert 4.0 == cost([None, "gpt-4o-mini"], MILLION)
    assert 3.0 == cost(["gpt-4o-2024", "gpt-4o-mini"], MILLION)


RESPONSE = {
    "model": "m-2",
    "choices": [{"message": {"content": "r"}}],
    "usage": {"prompt_tokens": 1_000, "completion_tokens": 100},
}


def test_each_form_of_a_call_has_its_cost(memory: MemoryBackend) -> None:
    """Decorated calls, streams, blocks and direct calls record ``cost_usd`` alike."""
    mltrace.register_price("m", input=1, output=10)
    asked = mltrace.log_llm_call(model="m")
    asked(lambda: RESPONSE)()
    chunks = [{"choices": [{"delta": {"content": "r"}}]}, {"choices": [], "usage": RESPONSE["usage"]}]
    list(asked(lambda: iter(chunks))())
    with mltrace.log_llm_call(model="m", prompt="p") as call:
        call.response = "r"
        call.record_usage(input_tokens=1_000, output_tokens=100)
    mltrace.log_llm_call(model="m", prompt="p", response="r", input_tokens=1_000, output_tokens=100)
    assert [pytest.approx(0.002)] * 4 == [run.metrics["cost_usd"] for run in memory.roots]


def test_a_cost_that_is_given_is_kept(memory: MemoryBackend) -> None:
    """Who knows what a call cost says so."""
    mltrace.register_price("m", input=1, output=10)
    with mltrace.log_llm_call(model="m") as call:
        call.response = "r"
        call.record_usage(input_tokens=1, output_tokens=1, cost_usd=7.0)
    assert [7.0] == [run.metrics["cost_usd"] for run in memory.roots]


def test_predictions_have_no_cost(memory: MemoryBackend) -> None:
    """A price is a model's whose calls are LLM calls."""
    mltrace.register_price("*", input=1, output=10)
    mltrace.log_prediction(question="q", output={"input_tokens": 5, "output_tokens": 6})
    assert "cost_usd" not in memory.roots[0].metrics


def test_prices_are_loaded_from_json(tmp_path: Path) -> None:
    """A file has a table of prices by model."""
    file = tmp_path / "prices.json"
    file.write_text(
        json.dumps({"a": {"input": 1, "output": 2}, "b": {"input": 3, "output": 4, "cache_read": 0}})
    )
    assert 2 == mltrace.load_prices(file)
    assert (3.0, 7.0) == (cost(["a"], MILLION), cost(["b"], MILLION))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in 3.11")
def test_prices_are_loaded_from_toml(tmp_path: Path) -> None:
    """TOML does too."""
    file = tmp_path / "prices.toml"
    file.write_text('["gpt-4o-*"]\ninput = 2.5\noutput = 10\n')
    assert 1 == mltrace.load_prices(str(file))
    assert 12.5 == cost(["gpt-4o-2024"], MILLION)


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="tomllib is there")
def test_toml_needs_a_newer_python(tmp_path: Path) -> None:
    """On 3.10 the error says what would do."""
    file = tmp_path / "prices.toml"
    file.write_text("")
    with pytest.raises(ConfigurationError, match=r"TOML needs Python 3\.11"):
        mltrace.load_prices(file)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "cannot be read"),
        ("[1]", "not a table"),
        ('{"a": 5}', "'a'"),
        ('{"a": {"input": 1}}', "output"),
        ('{"a": {"input": 1, "output": -1}}', "output is -1"),
        ('{"a": {"input": 1, "output": "2"}}', "output"),
        ('{"a": {"input": 1, "output": 2, "cached": 3}}', "cached"),
        ('{"good": {"input": 1, "output": 2}, "": {"input": 1, "output": 2}}', "''"),
    ],
)
def test_a_wrong_file_is_refused_whole(tmp_path: Path, content: str, named: str) -> None:
    """The error names the file and what is wrong in it, and none of its prices counts."""
    file = tmp_path / "prices.json"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=named) as caught:
        mltrace.load_prices(file)
    assert "prices.json" in str(caught.value)
    assert cost(["good"], MILLION) is None


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere raises, too."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        mltrace.load_prices(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "wrong", [{"input": -1}, {"output": float("nan")}, {"reasoning": "1"}, {"input": None}]
)
def test_a_wrong_price_raises_where_it_is_given(wrong: dict[str, Any]) -> None:
    """The error names the model and the argument."""
    prices: dict[str, Any] = {"input": 1, "output": 1, **wrong}
    with pytest.raises(ConfigurationError, match=rf"'m'.*{next(iter(wrong))}"):
        mltrace.register_price("m", **prices)
    with pytest.raises(ConfigurationError, match="model"):
        mltrace.register_price("", input=1, output=1)
