"""
LLM calls and predictions: what of a call is a prompt, a response, a token count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from . import _guard, _llm, _prices
from ._inert import InertRun
from ._instrument import Instrument, Metrics, Tags, output_text, rendering
from ._kept import Keeper, Streamed
from ._numbers import number
from ._observed import observe_in_block
from ._records import FINISHED
from ._redaction import MASK
from ._runs import Run
from ._streams import Stream
from ._texts import NAME_LIMIT


T = TypeVar("T")


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
        self._stream: Stream | None = None
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
        if self._instrument.observes and _llm.is_stream(type(response)):
            _guard.misuse(
                "stream as response", "response: a stream is not read here; read it through call.stream(…)"
            )
        self._result = response

    output = answer = response

    def stream(self, source: T) -> T:
        """
        Return a view of a provider's stream, to be read in its place: ``for chunk in
        call.stream(client.chat.completions.create(…, stream=True)):``. The block records what was
        read of it when it ends. A *response* that is set counts instead.
        """
        run = self.run
        if isinstance(run, InertRun):
            return source
        try:
            stream = Stream(self._instrument, run)
            viewed = observe_in_block(stream, run, source)
        except Exception as error:
            _guard.internal_error("following a stream", error, run.hide)
            return source
        self._stream = stream
        return viewed

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
            if self._result is not MISSING or self._stream is not None:
                result, streamed = (self._result, None) if self._stream is None else self._stream.outcome()
                found, tags = self._instrument.describe(
                    run, result if self._result is MISSING else self._result, streamed
                )
                metrics.update(found)
            if self.usage:
                metrics.update(cost_of(run, {**metrics, **_with_total(self.usage)}, tags))
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
    observes = True
    overflow = "llm_call.json"

    def split(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Take the prompt out of the inputs."""
        prompt = next((name for name in _PROMPTS if inputs.get(name) is not None), None)
        if prompt is None:
            return inputs, {}
        return {name: value for name, value in inputs.items() if name != prompt}, {
            "mltrace.prompt": inputs[prompt]
        }

    def keeper(self, run: Run) -> Keeper:
        """Return what assembles a stream's chunks."""
        return _llm.Assembly(
            rendering(run),
            self.options.output_reducer,
            keep=self.options.capture_output and not self.hides_output,
        )

    def describe(self, run: Run, result: Any, streamed: Streamed | None = None) -> tuple[Metrics, Tags]:
        """Read text, model, tokens, tool calls and finish reason from what the provider returned."""
        if self.hides_output:
            return (), {"mltrace.response": MASK}
        if self.options.process_outputs is not None:
            result = self.options.process_outputs(result)
        found = _llm.read(result)
        if streamed is not None and streamed.said is not None:
            found = found.filled(streamed.said)
        tags = self._said(run, found) if self.options.capture_output else {}
        if found.finish_reason:
            tags["mltrace.finish_reason"] = _short(run, "finish_reason", found.finish_reason)
        tags.update(_named(run, found))
        metrics = {**found.usage, **_timed(found.usage, streamed)}
        return {**metrics, **cost_of(run, metrics, tags)}.items(), tags

    def _said(self, run: Run, found: _llm.LlmResponse) -> Tags:
        """Return the tags of the text and of the tool calls; an answer of tool calls alone has no text."""
        tags: Tags = {}
        if found.tool_calls:
            tags["mltrace.tool_calls"] = output_text(run, found.tool_calls, "llm_tool_calls.json")
        if not found.tool_calls or found.text:
            tags["mltrace.response"] = output_text(run, found.text, "llm_response.json")
        return tags


def _short(run: Run, name: str, text: str) -> str:
    """Return a name that somebody else gave, as a field."""
    return run._renderer.field(name, text[:NAME_LIMIT], run._secrets)


def _named(run: Run, found: _llm.LlmResponse) -> Tags:
    """Log who answered where the call does not say; return the tag of a model that was not the one asked for."""
    told = {"model": found.model, "provider": found.provider}
    missing = {name: value[:NAME_LIMIT] for name, value in told.items() if value and name not in run._params}
    if missing:
        run.log_params(missing)
    if not found.model or (model := _short(run, "model", found.model)) == run._params.get("model"):
        return {}
    return {"mltrace.response_model": model}


def _timed(usage: Mapping[str, float], streamed: Streamed | None) -> dict[str, float]:
    """
    Return the metrics of a stream's times. Tokens of reasoning came before the first text, and are
    not counted into the rate.
    """
    if streamed is None or streamed.first_ms is None:
        return {}
    metrics = {"time_to_first_token_ms": streamed.first_ms}
    if streamed.seconds > 0 and "output_tokens" in usage:
        shown = usage["output_tokens"] - usage.get("reasoning_tokens", 0.0)
        metrics["output_tokens_per_second"] = max(shown, 0.0) / streamed.seconds
    return metrics


def cost_of(run: Run, metrics: Mapping[str, float], tags: Tags) -> dict[str, float]:
    """Return the metric ``cost_usd`` of an LLM call, where the user gave a price of its model."""
    models = (tags.get("mltrace.response_model"), run._params.get("model"))
    cost = _prices.cost(models, metrics) if run.kind == "llm_call" else None
    return {} if cost is None else {"cost_usd": cost}


class PredictionInstrument(Instrument):
    """A prediction: inputs are params, what was predicted is the tag ``mltrace.output``."""

    def describe(self, run: Run, result: Any, streamed: Streamed | None = None) -> tuple[Metrics, Tags]:
        """Record the output."""
        metrics, tags = super().describe(run, result)
        first_ms = streamed.first_ms if streamed is not None else None
        return (metrics if first_ms is None else [*metrics, ("time_to_first_token_ms", first_ms)]), tags
