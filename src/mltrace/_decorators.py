"""
The decorators, as users name them.

Each is a decorator, a block, or (LLM calls and predictions) one direct call; all the work is in
`_instrument`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, cast, overload

from . import _clock, _guard
from ._binding import Named, Options
from ._calls import MISSING, Call, LlmInstrument, PredictionInstrument, cost_of, token_counts
from ._config import is_enabled
from ._context import get_current
from ._fluent import current_run
from ._inert import SILENT
from ._instrument import Instrument, Tags
from ._numbers import number
from ._records import FINISHED
from ._runs import Run
from ._wrappers import decorate
from .exceptions import ConfigurationError, SpoolFull


if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` since 3.11

# What can be decorated; it keeps its own type, whatever that says: signature, overloads, type variables.
F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, Any, Any] | staticmethod[Any, Any]")
R = TypeVar("R", bound="Run | Call")

Reducer = Callable[[list[Any]], Any]

_LONGEST_MS = 1e12  # thirty years; a direct call's latency above that is a mistake


class Tracker(Generic[R]):
    """
    A decorator that is also a context manager, sync and async; each call and each block is a run of
    its own.
    """

    def __init__(self, instrument: Instrument, view: Callable[[Run], R]) -> None:
        self._instrument = instrument
        self._view = view
        self._blocks: list[tuple[Run, R]] = []

    def __call__(self, function: F) -> F:
        """Return *function* instrumented; signature, kind and type are kept."""
        return cast("F", decorate(self._instrument, function))

    def __enter__(self) -> R:
        run = self._instrument.open_block()
        view = self._view(run)
        self._blocks.append((run, view))
        return view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run, view = self._take()
        if error is None and isinstance(view, Call):
            view.conclude()
        self._instrument.close_block(run, error)

    async def __aenter__(self) -> R:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _take(self) -> tuple[Run, R]:
        """
        Return the block that ends here: the latest one that is current in this context, as other
        threads and tasks may hold blocks of the same object.
        """
        current = get_current()
        for index in range(len(self._blocks) - 1, -1, -1):
            if self._blocks[index][0] is current:
                return self._blocks.pop(index)
        return self._blocks.pop()


def _itself(run: Run) -> Run:
    return run


class RunOptions(TypedDict, total=False):
    """The options that every decorator takes; `track_run` says what they mean."""

    experiment_name: str | None
    params: Mapping[str, Any] | None
    tags: Mapping[str, Any] | None
    description: str | None
    capture_input: bool | Iterable[str]
    ignore_arguments: Iterable[str]
    capture_output: bool
    process_inputs: Callable[[dict[str, Any]], Mapping[str, Any]] | None
    process_outputs: Callable[[Any], Any] | None
    output_reducer: Reducer | None
    sample_rate: float | None
    record_as: Literal["run", "trace"] | None
    span_type: str | None


@overload
def track_run(run_name: F, /) -> F: ...


@overload
def track_run(run_name: str | None = None, **options: Unpack[RunOptions]) -> Tracker[Run]: ...


def track_run(run_name: Any = None, **options: Any) -> Any:
    """
    Make every call of a function an MLflow run, or a block one: ``@track_run``,
    ``@track_run("name")``, ``with track_run("name") as run:``.

    Args:
        run_name: Name of the run; a `str.format` template over the captured arguments
            (``"ingest_{filename}"``), used as it stands where it cannot be filled. Default: the
            function's qualified name.

        experiment_name: Experiment of the run (default: the parent's, else the configured one);
            created where needed.

        params: More params, beside one per captured argument. MLflow: params.

        tags: More tags. MLflow: tags.

        description: MLflow: the tag ``mlflow.note.content``.

        capture_input: True: every argument becomes a param; False: none; names: only those.

        ignore_arguments: Names of arguments that are not captured.

        capture_output: Whether the output is recorded: the tag ``mltrace.output``; a number is the
            metric ``output``, numbers of a mapping are metrics.

        process_inputs: ``function(dict) -> dict``, applied to the captured arguments.

        process_outputs: ``function(result) -> result``, applied to what is recorded; the caller
            gets the original.

        output_reducer: ``function(items) -> output`` for streams (default: texts joined, else the
            list). It gets the first 10,000 items or 1 MiB of text.

        sample_rate: Share of root runs that are recorded, 0 to 1 (default: the configured one).

        record_as: "run" or "trace" (default: as configured). As a trace, the call and everything below
            it are spans of one MLflow trace, which belongs to the run that is current around it.

        span_type: MLflow's type of the span: ``CHAIN`` (default), ``LLM``, ``CHAT_MODEL``,
            ``RETRIEVER``, ``TOOL``, ``AGENT``, ….

    Raises:
        ConfigurationError: An option that cannot be used, at decoration.

        TypeError: An option that does not exist, at decoration.
    """
    if _is_function(run_name):
        _no_options("track_run", options)
        return decorate(Instrument(Options()), run_name)
    return Tracker(Instrument(Options(run_name=run_name, **_known("track_run", options))), _itself)


@overload
def log_training_run(run_name: F, /) -> F: ...


@overload
def log_training_run(run_name: str | None = None, **options: Unpack[RunOptions]) -> Tracker[Run]: ...


def log_training_run(run_name: Any = None, *, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """
    `track_run` with the kind ``training``: for functions that train and log to the current run.
    """
    if _is_function(run_name):
        _no_options("log_training_run", options)
        return decorate(Instrument(Options(kind="training", params=params)), run_name)
    return Tracker(
        Instrument(
            Options(run_name=run_name, kind="training", params=params, **_known("log_training_run", options))
        ),
        _itself,
    )


def start_run(run_name: str | None = None, **options: Unpack[RunOptions]) -> Run:
    """
    Open a run by hand and make it current until its `Run.end`: for notebooks. Options are those of
    `track_run`.

    At module level, running the same line again (a notebook cell) closes the run that it opened
    before. A run still open at exit ends as FINISHED.
    """
    return Instrument(Options(run_name=run_name, **_known("start_run", dict(options)))).open_by_hand(2)


_SHARED = frozenset(RunOptions.__annotations__)


def _known(name: str, options: dict[str, Any]) -> dict[str, Any]:
    if unknown := options.keys() - _SHARED:
        raise TypeError(
            f"{name}() has no option {', '.join(sorted(unknown))}; it takes run_name, {', '.join(sorted(_SHARED))}"
        )
    return options


def _is_function(first: Any) -> bool:
    """Say whether a decorator was used bare: its first argument is the function."""
    return not isinstance(first, str) and (callable(first) or isinstance(first, (classmethod, staticmethod)))


def _no_options(name: str, options: dict[str, Any]) -> None:
    if options:
        raise ConfigurationError(
            f"{name}: give the options in the decorator's parentheses, @{name}({', '.join(sorted(options))}=…), not beside the function"
        )


# LLM calls.


class LlmOptions(RunOptions, total=False):
    """More options of `log_llm_call`."""

    run_name: str | None
    provider: str | None
    messages: Any
    max_tokens: int | None
    top_p: float | None


class LlmResult(LlmOptions, total=False):
    """What `log_llm_call` is told of a call that is over."""

    input_tokens: float | None
    output_tokens: float | None
    latency_ms: float | None
    finish_reason: str | None


@overload
def log_llm_call(model: F, /) -> F: ...


@overload
def log_llm_call(
    model: str | None = None,
    prompt: Any = None,
    *,
    response: Any,
    tokens_used: float | None = None,
    temperature: float | None = None,
    **options: Unpack[LlmResult],
) -> Run: ...


@overload
def log_llm_call(
    model: str | None,
    prompt: Any,
    response: Any,
    tokens_used: float | None = None,
    temperature: float | None = None,
    **options: Unpack[LlmResult],
) -> Run: ...


@overload
def log_llm_call(
    model: str | None = None,
    prompt: Any = None,
    *,
    temperature: float | None = None,
    **options: Unpack[LlmOptions],
) -> Tracker[Call]: ...


def log_llm_call(
    model: Any = None,
    prompt: Any = None,
    response: Any = MISSING,
    tokens_used: float | None = None,
    temperature: float | None = None,
    *,
    run_name: str | None = None,
    provider: str | None = None,
    messages: Any = None,
    max_tokens: int | None = None,
    top_p: float | None = None,
    input_tokens: float | None = None,
    output_tokens: float | None = None,
    latency_ms: float | None = None,
    finish_reason: str | None = None,
    **options: Any,
) -> Any:
    """
    Record LLM calls: a decorator, a block, or, with *response*, one call that is over.

    ::

        @log_llm_call(model="gpt-4")
        def generate_answer(question, context): ...

        with log_llm_call(model="gpt-4", prompt=p) as call:
            call.response = complete(p)
            call.record_usage(input_tokens=12, output_tokens=80)

        log_llm_call(model="gpt-4", prompt="What is RAG?", response="…", tokens_used=256, temperature=0.7)

    As a decorator, the prompt is the argument called ``prompt``, ``messages``, ``question``,
    ``query``, ``input`` or ``contents``; the other arguments are params. Text, model, provider,
    tokens, tool calls and finish reason come from the returned object (`LlmResponse`), the metric
    ``cost_usd`` from `register_price`.

    A function that returns a stream of chunks (a provider's, or any iterator or asynchronous iterator
    but a file) gives its caller that stream in a transparent proxy, which is not the same object but
    behaves as it does: `isinstance`, attributes, ``with``, ``close``. Chunks pass as they come; the run ends when
    the stream is exhausted, raises, is closed or left, or when nobody holds it any more (MLflow: the
    tag ``mltrace.stream=closed``). In a block, read it through `Call.stream`.

    Args:
        model, provider, temperature, max_tokens, top_p: MLflow: params of these names.

        prompt, messages: Text or messages; MLflow: the tag ``mltrace.prompt``, whole in
            ``llm_call.json`` where it does not fit.

        response: Text, or a provider's response object; MLflow: the tag ``mltrace.response``.

        tokens_used: MLflow: the metric ``total_tokens``.

        input_tokens, output_tokens: MLflow: metrics of these names.

        latency_ms: Milliseconds that a direct call took (0): its run begins that long ago. MLflow:
            the metric ``latency_ms``.

        finish_reason: MLflow: the tag ``mltrace.finish_reason``.

        run_name, options: As for `track_run`. Default name: the function's, else ``llm_call``.

    Returns: A decorator that is also a context manager yielding a `Call`; in the direct form the
        recorded `Run`.
    """
    if response is MISSING and _is_function(model):
        return decorate(LlmInstrument(Options(kind="llm_call")), model)
    settings = {
        "model": model, "provider": provider, "temperature": temperature, "max_tokens": max_tokens, "top_p": top_p,
    }  # fmt: skip
    given = {name: value for name, value in settings.items() if value is not None}
    said = prompt if prompt is not None else messages
    usage = {"total_tokens": tokens_used, "input_tokens": input_tokens, "output_tokens": output_tokens}
    extra = {"mltrace.finish_reason": finish_reason} if finish_reason else {}
    if response is not MISSING and run_name is None and not options:
        if said is not None:
            given["prompt"] = said
        return _record(_LLM_CALL, given, response, token_counts(usage), extra, latency_ms)
    instrument = LlmInstrument(
        _options("log_llm_call", "llm_call", run_name, options, given, {"mltrace.prompt": said})
    )
    if response is MISSING:
        over: dict[str, Any] = {
            "tokens_used": tokens_used,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
        }
        over |= {"latency_ms": latency_ms, "finish_reason": finish_reason}
        _only_direct("log_llm_call", "response", over)
        return Tracker(instrument, lambda run: Call(run, instrument))
    return _record(instrument, {}, response, token_counts(usage), extra, latency_ms)


class PredictionOptions(RunOptions, total=False):
    """More options of `log_prediction`."""

    inputs: Any
    run_name: str | None


@overload
def log_prediction(question: F, /) -> F: ...


@overload
def log_prediction(
    question: Any,
    answer: Any,
    context: Any = None,
    latency_ms: float | None = None,
    model_version: str | None = None,
    user_feedback: Any = None,
    **options: Unpack[PredictionOptions],
) -> Run: ...


@overload
def log_prediction(
    question: Any = None,
    *,
    answer: Any,
    context: Any = None,
    latency_ms: float | None = None,
    model_version: str | None = None,
    user_feedback: Any = None,
    **options: Unpack[PredictionOptions],
) -> Run: ...


@overload
def log_prediction(
    question: Any = None,
    *,
    output: Any,
    context: Any = None,
    latency_ms: float | None = None,
    model_version: str | None = None,
    user_feedback: Any = None,
    **options: Unpack[PredictionOptions],
) -> Run: ...


@overload
def log_prediction(
    question: Any = None,
    *,
    context: Any = None,
    model_version: str | None = None,
    user_feedback: Any = None,
    **options: Unpack[PredictionOptions],
) -> Tracker[Call]: ...


def log_prediction(
    question: Any = None,
    answer: Any = MISSING,
    context: Any = None,
    latency_ms: float | None = None,
    model_version: str | None = None,
    user_feedback: Any = None,
    *,
    output: Any = MISSING,
    inputs: Any = None,
    run_name: str | None = None,
    **options: Any,
) -> Any:
    """
    Record predictions: a decorator, a block, or, with *answer* or *output*, one prediction that is
    made.

    ::

        @log_prediction(model_version="3")
        def predict(features): ...

        with log_prediction(model_version="3", inputs=row) as call:
            call.output = model.predict(row)

        log_prediction(question="…", answer="…", context="…", latency_ms=125.5, model_version="gpt-4-turbo", user_feedback="helpful")

    Args:
        question, context, inputs: What the prediction was made from. MLflow: params of these names.

        answer, output: What was predicted. MLflow: the tag ``mltrace.output``; a number is the
            metric ``output``, numbers of a mapping are metrics.

        latency_ms: Milliseconds that a direct prediction took (0). MLflow: the metric
            ``latency_ms``.

        model_version: MLflow: the param ``model_version``.

        user_feedback: MLflow: the tag ``user_feedback``.

        run_name, options: As for `track_run`. Default name: the function's, else ``prediction``.

    Returns: A decorator that is also a context manager yielding a `Call`; in the direct form the
        recorded `Run`.
    """
    predicted = output if answer is MISSING else answer
    if predicted is MISSING and _is_function(question):
        return decorate(PredictionInstrument(Options(kind="prediction")), question)
    given = {"question": question, "context": context, "inputs": inputs, "model_version": model_version}
    given = {name: value for name, value in given.items() if value is not None}
    if predicted is not MISSING and run_name is None and user_feedback is None and not options:
        return _record(_PREDICTION, given, predicted, {}, {}, latency_ms)
    instrument = PredictionInstrument(
        _options("log_prediction", "prediction", run_name, options, given, {"user_feedback": user_feedback})
    )
    if predicted is MISSING:
        _only_direct("log_prediction", "answer", {"latency_ms": latency_ms})
        return Tracker(instrument, lambda run: Call(run, instrument))
    return _record(instrument, {}, predicted, {}, {}, latency_ms)


def _options(
    name: str,
    kind: str,
    run_name: str | None,
    options: dict[str, Any],
    params: dict[str, Any],
    tags: dict[str, Any],
) -> Options:
    """
    Return the options with what the caller said as params and tags; explicit ``params=`` and
    ``tags=`` come on top.
    """
    options = _known(name, options)
    said = {key: value for key, value in tags.items() if value is not None}
    options["params"] = {**params, **(options.get("params") or {})}
    options["tags"] = {**said, **(options.get("tags") or {})}
    return Options(run_name=run_name, kind=kind, **options)


def _only_direct(name: str, decisive: str, given: dict[str, Any]) -> None:
    if unused := sorted(key for key, value in given.items() if value is not None):
        raise ConfigurationError(
            f"{name}: {', '.join(unused)} describe a call that is over, and {decisive}= is missing"
        )


# What direct calls without options of their own share.
_LLM_CALL = LlmInstrument(Options(kind="llm_call"), Named())
_PREDICTION = PredictionInstrument(Options(kind="prediction"), Named())


def _record(
    instrument: Instrument,
    given: dict[str, Any],
    result: Any,
    metrics: dict[str, float],
    tags: Tags,
    latency_ms: float | None,
) -> Run:
    """Record a call that is over, and was *given* that, as a run that began *latency_ms* ago and ends now."""
    if not is_enabled():
        return SILENT
    try:
        took = number(latency_ms) or 0.0
        took = took if 0 <= took < _LONGEST_MS else 0.0
        wall_ms, elapsed_ns = _clock.moment()
        started = (wall_ms - int(took), elapsed_ns - int(took * 1e6))
        run = instrument.launch(instrument.prepare(None, (), given), started, call=True)
    except SpoolFull:
        raise
    except Exception as error:
        _guard.internal_error("a direct call", error)
        return SILENT
    counted, said = metrics, Tags()
    try:
        found, described = instrument.describe(run, result)
        counted = {**dict(found), **metrics}
        if metrics:
            counted = {**counted, **cost_of(run, counted, described)}
        said = described
    except SpoolFull:
        raise
    except Exception as error:
        _guard.internal_error("recording an output", error, run.hide)
    finally:
        more = {name: run._renderer.field(name, value, run._secrets) for name, value in tags.items()}
        run.finish(FINISHED, counted.items(), {**said, **more}, latency_ms=took, raises=True)
    return run


def log_evaluation_metrics(metrics: Mapping[str, float], *, step: int | None = None) -> Run:
    """
    Log *metrics* to the current run, or, where there is none, to a run of kind ``evaluation`` of
    their own.

    Returns:
        The run that has them.
    """
    run = current_run()
    if run or not is_enabled():
        run.log_metrics(metrics, step)
        return run
    with Tracker(Instrument(Options(run_name="evaluation", kind="evaluation")), _itself) as own:
        own.log_metrics(metrics, step)
    return own
