"""
What LLM calls cost: the prices that the user gives, and no others.
"""

from __future__ import annotations

import fnmatch
import os

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .exceptions import ConfigurationError


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens; None where the tier costs what its whole costs."""

    input: float
    output: float
    cache_read: float | None = None
    cache_creation: float | None = None
    reasoning: float | None = None


_prices: dict[str, Price] = {}


def register_price(
    model: str,
    *,
    input: float,  # noqa: A002 - what price lists call it
    output: float,
    cache_read: float | None = None,
    cache_creation: float | None = None,
    reasoning: float | None = None,
) -> None:
    """
    Say what tokens of *model* cost, so that `log_llm_call` records the metric ``cost_usd``.

    Without a price, or without both token counts, there is no cost. The latest price of a name
    counts, for calls that end after it.

    Args:
        model: The model's name as the response gives it, else as the call names it; or a pattern with ``*``
            and ``?`` (``"gpt-4o-*"``). A name that is there as it stands comes before patterns, a longer
            pattern before a shorter one.

        input, output: USD per million tokens of the input and of the output.

        cache_read, cache_creation: Of input tokens that were read from, or written to, a cache
            (None: as *input*).

        reasoning: Of output tokens that the model spent on reasoning (None: as *output*).

    Raises:
        ConfigurationError: A price that is not a number of at least 0, or a *model* that is no name.
    """
    _register("register_price", {model: {
        "input": input, "output": output, "cache_read": cache_read, "cache_creation": cache_creation,
        "reasoning": reasoning,
    }})  # fmt: skip


def load_prices(path: str | os.PathLike[str]) -> int:
    """
    Register the prices in a file, and return how many: a JSON object, or (Python 3.11 and newer) a
    TOML table, of the arguments of `register_price` by model: ``{"gpt-4o": {"input": 2.5, "output": 10}}``.

    Raises:
        ConfigurationError: The file cannot be read, or does not have that form. Then none of its
            prices counts.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            table = _decoder(name)(file.read())
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"load_prices: {name!r} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise ConfigurationError(f"load_prices: {name!r} is not a table of prices by model")
    return _register(f"load_prices: {name!r}", table)


def _decoder(name: str) -> Any:
    if not name.lower().endswith(".toml"):
        return msgspec.json.decode
    try:
        import tomllib  # type: ignore[import-not-found] # since 3.11
    except ImportError:
        raise ConfigurationError(
            f"load_prices: {name!r}: TOML needs Python 3.11 or newer; JSON does not"
        ) from None
    return lambda content: tomllib.loads(content.decode())


def _register(where: str, table: Mapping[Any, Any]) -> int:
    prices: dict[str, Price] = {}
    for model, given in table.items():
        if type(model) is not str or not model:
            raise ConfigurationError(f"{where}: model {model!r:.100} is not a name")
        try:
            prices[model] = msgspec.convert(given, Price)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{where}: the price of {model!r:.100}: {error}") from None
        for tier in Price.__struct_fields__:
            price = getattr(prices[model], tier)
            if price is not None and not 0 <= price < float("inf"):
                raise ConfigurationError(
                    f"{where}: the price of {model!r:.100}: {tier} is {price!r}, not at least 0"
                )
    _prices.update(prices)
    return len(prices)


def forget_prices() -> None:
    """Forget all prices: for tests."""
    _prices.clear()


def cost(models: Iterable[str | None], usage: Mapping[str, float]) -> float | None:
    """
    Return the USD that *usage* costs at the price of the first of *models* that has one; None
    without a price or without the counts of input and output.
    """
    if not _prices or not {"input_tokens", "output_tokens"} <= usage.keys():
        return None
    price = next((found for model in models if model and (found := _price_of(model)) is not None), None)
    if price is None:
        return None
    tiers = (
        ("input_tokens", price.input, (("cache_read_input_tokens", price.cache_read), ("cache_creation_input_tokens", price.cache_creation))),
        ("output_tokens", price.output, (("reasoning_tokens", price.reasoning),)),
    )  # fmt: skip
    total = 0.0
    for whole, rate, parts in tiers:
        left = usage[whole]
        for name, special in parts:
            count = min(usage.get(name, 0.0), left)
            left -= count
            total += count * (rate if special is None else special)
        total += left * rate
    return total / 1e6


def _price_of(model: str) -> Price | None:
    if (exact := _prices.get(model)) is not None:
        return exact
    patterns = [name for name in list(_prices) if fnmatch.fnmatchcase(model, name)]
    return _prices[max(patterns, key=len)] if patterns else None
