"""
A model's answer in one form, whoever provides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class LlmResponse(msgspec.Struct):
    """
    What a response says; None or empty where it does not.

    Attributes:
        text: The answer; any value, rendered where it is no text. MLflow: the tag
            ``mltrace.response``.

        model: The model that answered. MLflow: the tag ``mltrace.response_model`` where it is not
            the one that was asked for, the param ``model`` where none was named.

        provider: MLflow: the param ``provider``, unless the caller gave one.

        finish_reason: In the provider's words. MLflow: the tag ``mltrace.finish_reason``.

        tool_calls: Mappings with ``id``, ``name`` and ``arguments``. MLflow: the tag
            ``mltrace.tool_calls``.

        usage: Counts of tokens. MLflow: metrics of these names. As in MLflow's and OpenTelemetry's
            own fields, ``input_tokens`` includes ``cache_read_input_tokens`` and
            ``cache_creation_input_tokens``, and ``output_tokens`` includes ``reasoning_tokens``,
            also where the provider counts them apart. ``total_tokens`` is the provider's, else the
            sum of the two.
    """

    text: Any = None
    model: str | None = None
    provider: str | None = None
    finish_reason: str | None = None
    tool_calls: list[dict[str, Any]] = []
    usage: dict[str, float] = {}

    def filled(self, other: LlmResponse) -> LlmResponse:
        """Return this response with what *other* says beside it."""
        fields = {name: getattr(self, name) or getattr(other, name) for name in self.__struct_fields__}
        fields["text"] = other.text if self.text is None else self.text
        return LlmResponse(**{**fields, "usage": {**other.usage, **self.usage}})


Outside = Mapping[str, Sequence[str]]
"""The counts that a provider leaves out of another one, by the name of that."""


def whole_usage(counts: Mapping[str, float], outside: Outside) -> dict[str, float]:
    """Return the usage that *counts* make: with what was left out, and with a total."""
    usage = dict(counts)
    for name, parts in outside.items():
        if name in usage:
            usage[name] += sum(usage.get(part, 0.0) for part in parts)
    if "total_tokens" not in usage and {"input_tokens", "output_tokens"} <= usage.keys():
        usage["total_tokens"] = usage["input_tokens"] + usage["output_tokens"]
    return usage
