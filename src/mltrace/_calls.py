"""
LLM calls and predictions: what of a call is a prompt, a response, a token count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _guard, _llm
from ._instrument import Instrument, Metrics, Tags, output_text
from ._numbers import number
from ._records import FINISHED
from ._redaction import MASK
from ._runs import InertRun, Run


class _Missing:
    """Marks an argument that was not given: None is an answer that a model can give."""

    def __repr__(self) -> str:
        return "<not given>"


MISSING: Any = _Missing()


_PROMPTS = ("prompt", "messages", "question", "query", "input", "contents")


class Call:
    """
    A run of an LLM call or prediction as its block sees it: set what comes out, and it is recorded
    when the block ends.
    """

    def __init__(self, run: Run, instrument: Instrument) -> None:
        self.run = run
        self._instrument = instrument
        self._result: Any = MISSING
        self.usage: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self.run)

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.id

    @property
    def feedback_id(self) -> str:
        """What feedback is given to; see `Run.feedback_id`."""
        return self.run.feedback_id

    @property
    def response(self) -> Any:
        """What came out: a text, or the provider's response as it is. None until it is set."""
        return None if self._result is MISSING else self._result

    @response.setter
    def response(self, response: Any) -> None:
        self._result = response

    output = answer = response

    def record_usage(self, **tokens: float) -> None:
        """
        Record token counts as metrics: ``input_tokens``, ``output_tokens``, ``total_tokens``, …;
        the total is their sum where it is not given.
        """
        self.usage.update(token_counts(tokens))

    def conclude(self) -> None:
        """Record what was set."""
        run = self.run
        if isinstance(run, InertRun):
            return
        try:
            metrics: dict[str, float] = {}
            tags: Tags = {}
            if self._result is not MISSING:
                found, tags = self._instrument.describe(run, self._result, None)
                metrics.update(found)
            metrics.update(_with_total(self.usage))
            run.finish(FINISHED, metrics.items(), tags)
        except Exception as error:
            _guard.internal_error("recording a response", error, run.hide)


def token_counts(tokens: Mapping[str, Any]) -> dict[str, float]:
    """Return the counts among *tokens*; what is none is left out, with a warning."""
    counts: dict[str, float] = {}
    for name, value in tokens.items():
        if (found := number(value)) is not None and 0 <= found < float("inf"):
            counts[name] = found
        elif value is not None:
            cause = f"{name} is not a count of tokens; it is not recorded"
            _guard.warn_once(f"tokens:{name}", cause, type=type(value).__name__)
    return counts


def _with_total(usage: Mapping[str, float]) -> dict[str, float]:
    if "total_tokens" not in usage and {"input_tokens", "output_tokens"} <= usage.keys():
        return {**usage, "total_tokens": usage["input_tokens"] + usage["output_tokens"]}
    return dict(usage)


class LlmInstrument(Instrument):
    """
    What of a call is an LLM's: the prompt is the tag ``mltrace.prompt``, settings are params, the
    response is the tag ``mltrace.response``.
    """

    splits = True
    overflow = "llm_call.json"

    def split(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Take the prompt out of the inputs."""
        prompt = next((name for name in _PROMPTS if inputs.get(name) is not None), None)
        if prompt is None:
            return inputs, {}
        return {name: value for name, value in inputs.items() if name != prompt}, {
            "mltrace.prompt": inputs[prompt]
        }

    def describe(self, run: Run, result: Any, first_ms: float | None) -> tuple[Metrics, Tags]:
        """Read text, model, tokens and finish reason from what the provider returned."""
        if self.hides_output:
            return (), {"mltrace.response": MASK}
        if self.options.process_outputs is not None:
            result = self.options.process_outputs(result)
        found = _llm.read(result)
        metrics = dict(found.usage)
        if first_ms is not None:
            metrics["time_to_first_token_ms"] = first_ms
        tags: Tags = {}
        if self.options.capture_output:
            tags["mltrace.response"] = output_text(run, found.text, "llm_response.json")
        if found.finish_reason:
            tags["mltrace.finish_reason"] = run._renderer.field(
                "finish_reason", found.finish_reason[:250], run._secrets
            )
        if found.model and "model" not in run._params:
            run.log_params({"model": found.model})
        return metrics.items(), tags


class PredictionInstrument(Instrument):
    """A prediction: inputs are params, what was predicted is the tag ``mltrace.output``."""

    def describe(self, run: Run, result: Any, first_ms: float | None) -> tuple[Metrics, Tags]:
        """Record the output."""
        metrics, tags = super().describe(run, result, first_ms)
        return (metrics if first_ms is None else [*metrics, ("time_to_first_token_ms", first_ms)]), tags
