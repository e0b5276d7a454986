"""
The kit catches what it is for: each mutant is the real decorator, or a real backend, with one mistake.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import time

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import wrapt

from hypothesis import Phase, settings

import mltrace

from mltrace import _config
from mltrace._binding import Options
from mltrace._calls import LlmInstrument
from mltrace._context import get_current, reset_current, set_current
from mltrace._instrument import Instrument
from mltrace._records import ArtifactLogged, Logged, Record
from mltrace._runs import Run
from mltrace._wrappers import decorate
from mltrace.backends import Blob, FlushReport, SpoolStatus
from mltrace.backends.memory import MemoryBackend
from mltrace.testing.contracts import check_backend, check_logged, check_transparent
from mltrace.testing.strategies import Call


Decorate = Callable[[Callable[..., Any]], Any]

# Some mutants leave coroutines behind.
pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True, scope="module")
def _unshrunk() -> Iterator[None]:
    """Any example that breaks a law will do: looking for the smallest takes ten times as long."""
    before = settings.default
    settings.register_profile("unshrunk", phases=[Phase.generate])
    settings.load_profile("unshrunk")
    yield
    settings.register_profile("before", before)
    settings.load_profile("before")


def around(change: Callable[..., Any], function: Any) -> Any:
    """Return the real decorator's function with *change* around each call, and nothing else changed."""

    def call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return change(wrapped, args, kwargs)

    return wrapt.FunctionWrapper(mltrace.track_run(function), call)


def only(question: Callable[[Any], bool], change: Callable[..., Any], function: Any) -> Any:
    """Return the same for functions of one kind, and the real one for others."""
    return around(change, function) if question(function) else mltrace.track_run(function)


# Towards the caller.


def swallows_exceptions(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        try:
            return wrapped(*args, **kwargs)
        except ValueError:
            return None

    return around(change, function)


def raises_another(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        try:
            return wrapped(*args, **kwargs)
        except Exception as error:
            raise copy.copy(error) from None

    return around(change, function)


def chains_exceptions(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        try:
            return wrapped(*args, **kwargs)
        except Exception as error:
            error.__cause__ = RuntimeError("while it was recorded")
            raise

    return around(change, function)


def lengthens_tracebacks(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    return around(change, function)


def returns_a_copy(function: Any) -> Any:
    return around(lambda wrapped, args, kwargs: copy.copy(wrapped(*args, **kwargs)), function)


def calls_twice(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        wrapped(*args, **kwargs)
        return wrapped(*args, **kwargs)

    return only(inspect.isfunction, change, function)


def takes_options_from_the_call(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        kwargs.pop("tags", None)
        return wrapped(*args, **kwargs)

    return around(change, function)


def copies_arguments(function: Any) -> Any:
    return around(lambda wrapped, args, kwargs: wrapped(*map(copy.copy, args), **kwargs), function)


def says_less_of_wrong_arguments(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        try:
            return wrapped(*args, **kwargs)
        except TypeError:
            raise TypeError("wrong arguments") from None

    return around(change, function)


def checks_arguments_late(function: Any) -> Any:
    async def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        return await wrapped(*args, **kwargs)

    return only(inspect.iscoroutinefunction, change, function)


def breaks_the_signature(function: Any) -> Any:
    traced = mltrace.track_run(function)

    @functools.wraps(function)
    def mutant(*args: Any, **kwargs: Any) -> Any:
        return traced(*args, **kwargs)

    mutant.__signature__ = inspect.signature(lambda *args, **kwargs: None)  # type: ignore[attr-defined]
    return mutant


def hides_the_kind(function: Any) -> Any:
    traced = mltrace.track_run(function)
    return functools.wraps(function)(lambda *args, **kwargs: traced(*args, **kwargs))


def loses_the_name(function: Any) -> Any:
    traced = mltrace.track_run(function)

    class Nameless(wrapt.ObjectProxy):
        __name__ = "wrapper"

        def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
            return traced(*args, **kwargs)

    return Nameless(function)


def forgets_the_instance(function: Any) -> Any:
    def call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    class Unbound(wrapt.FunctionWrapper):
        def __get__(self, instance: Any, owner: Any) -> Any:
            return self

    return Unbound(mltrace.track_run(function), call)


def swallows_what_is_sent(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        stream = wrapped(*args, **kwargs)

        def steps() -> Any:
            yield from iter(lambda: next(stream), object())

        return steps()

    return only(inspect.isgeneratorfunction, change, function)


def loses_what_a_stream_returns(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        stream = wrapped(*args, **kwargs)

        def steps() -> Any:
            yield from stream

        return steps()

    return only(inspect.isgeneratorfunction, change, function)


def does_not_close_the_body(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        stream = wrapped(*args, **kwargs)

        async def steps() -> Any:
            async for item in stream:
                yield item

        return steps()

    return only(inspect.isasyncgenfunction, change, function)


def runs_in_a_copied_context(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        return contextvars.copy_context().run(functools.partial(wrapped, *args, **kwargs))

    plain = not any(
        (inspect.isgeneratorfunction(function), inspect.iscoroutinefunction(function), inspect.isasyncgenfunction(function))
    )  # fmt: skip
    return only(lambda _: plain, change, function)


def runs_as_a_task(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        pending = wrapped(*args, **kwargs)

        async def wait() -> Any:
            return await asyncio.ensure_future(pending)

        return wait()

    return only(inspect.iscoroutinefunction, change, function)


def cannot_be_pickled(function: Any) -> Any:
    return around(lambda wrapped, args, kwargs: wrapped(*args, **kwargs), function)


UNTRANSPARENT: list[tuple[Decorate, str]] = [
    (swallows_exceptions, "raised nothing"),
    (raises_another, "other text, cause or context|another object"),
    (chains_exceptions, "cause or context"),
    (lengthens_tracebacks, "frames longer"),
    (returns_a_copy, "another object"),
    (calls_twice, "called the function 2 times"),
    (takes_options_from_the_call, "other arguments|missing|tags= reached"),
    (copies_arguments, "as the same objects"),
    (says_less_of_wrong_arguments, "wrong arguments raise"),
    (checks_arguments_late, "wrong arguments raise"),
    (breaks_the_signature, "another signature"),
    (hides_the_kind, "inspection"),
    (loses_the_name, "__name__ of"),
    (forgets_the_instance, "methods are bound"),
    (swallows_what_is_sent, "generators give"),
    (loses_what_a_stream_returns, "a generator of"),
    (does_not_close_the_body, "an async generator of"),
    (runs_in_a_copied_context, "not visible"),
    (runs_as_a_task, "not visible"),
    (cannot_be_pickled, "pickling"),
]


@pytest.mark.parametrize(("mutant", "words"), UNTRANSPARENT, ids=lambda value: getattr(value, "__name__", ""))
def test_a_decorator_that_can_be_noticed_is_caught(mutant: Decorate, words: str) -> None:
    """`check_transparent` fails for each mutant, and says what is wrong."""
    frames = 1 if mutant is lengthens_tracebacks else 5  # the mutants have frames of their own
    with pytest.raises(AssertionError, match=words):
        check_transparent(mutant, frames=frames, examples=10)


# Towards MLflow.


def instrumented(mutant: type[Instrument]) -> Decorate:
    """Return a decorator with *mutant* in the place of the real instrument."""
    return functools.partial(decorate, mutant(Options()))


class LosesTheParent(Instrument):
    def prepare(self, *call: Any) -> Run:
        token = set_current(None)
        try:
            return super().prepare(*call)
        finally:
            reset_current(token)


_stack: list[Any] = []


class KeepsTheCurrentRunInAGlobal(Instrument):
    def prepare(self, *call: Any) -> Run:
        token = set_current(_stack[-1] if _stack else None)
        try:
            _stack.append(super().prepare(*call))
            return _stack[-1]  # type: ignore[no-any-return]
        finally:
            reset_current(token)

    def finish(self, run: Run, result: Any, **more: Any) -> None:
        _stack.remove(run)
        super().finish(run, result, **more)


class CapturesAfterTheCall(Instrument):
    def prepare(self, *call: Any) -> Run:
        run = super().prepare(*call)
        run._params.clear()
        run._outer = call
        return run

    def finish(self, run: Run, result: Any, **more: Any) -> None:
        run.log_params(self._binder.bind(*run._outer))  # type: ignore[union-attr]
        super().finish(run, result, **more)


class EndsTwice(Instrument):
    def finish(self, run: Run, result: Any, **more: Any) -> None:
        super().finish(run, result, **more)
        run._open.append(None)
        run.finish("FINISHED")


class ForgetsTheEndOfAStream(Instrument):
    def finish(self, run: Run, result: Any, *, extra: Any = None, **more: Any) -> None:
        if not extra:
            super().finish(run, result, **more)


class ForgetsTheEnd(Instrument):
    def finish(self, run: Run, result: Any, **more: Any) -> None:
        return


class LosesDefaults(Instrument):
    def prepare(self, instance: Any, args: Any, kwargs: Any) -> Run:
        run = super().prepare(instance, args, kwargs)
        for name in list(run._params):
            if name not in kwargs and len(run._params) > len(args):
                del run._params[name]
        return run


class RecordsAnotherOutput(Instrument):
    def finish(self, run: Run, result: Any, **more: Any) -> None:
        super().finish(run, None, **more)


class LosesTheOutput(Instrument):
    def describe(self, *call: Any) -> tuple[Any, Any]:
        return super().describe(*call)[0], {}


class RecordsAnotherResponse(LlmInstrument):
    def describe(self, run: Run, result: Any, *more: Any) -> tuple[Any, Any]:
        return super().describe(run, "another", *more)


def says_failed_for_all(function: Any) -> Any:
    class Failed(Instrument):
        def launch(self, run: Run, *more: Any, **options: Any) -> Run:
            finish = run.finish
            run.finish = lambda status, *rest, **last: finish(
                "FAILED" if status == "KILLED" else status, *rest, **last
            )  # type: ignore[method-assign]
            return super().launch(run, *more, **options)

    return decorate(Failed(Options()), function)


def records_twice(function: Any) -> Any:
    return mltrace.log_training_run(mltrace.track_run(function))


def records_each_decoration(function: Any) -> Any:
    return decorate(Instrument(Options(kind=f"kind{id(function)}")), function)


def records_while_off(function: Any) -> Any:
    def change(wrapped: Any, args: Any, kwargs: Any) -> Any:
        before, _config._enabled = _config._enabled, True
        try:
            return wrapped(*args, **kwargs)
        finally:
            _config._enabled = before

    return function if isinstance(function, wrapt.FunctionWrapper) else around(change, function)


def leaks_into_the_consumer(function: Any) -> Any:
    if not inspect.isgeneratorfunction(function):
        return mltrace.track_run(function)
    function = inspect.unwrap(function)  # decorated twice, it leaks once

    @functools.wraps(function)
    def steps(*args: Any, **kwargs: Any) -> Any:
        params = Call(function, args, kwargs, "generator").arguments
        with mltrace.track_run(function.__qualname__, params=params):
            return (yield from function(*args, **kwargs))

    return steps


def stays_current_after_a_failure(function: Any) -> Any:
    class Stays(Instrument):
        def launch(self, run: Run, *more: Any, **options: Any) -> Run:
            finish = run.finish

            def end(status: str, *rest: Any, **last: Any) -> None:
                finish(status, *rest, **last)
                if status == "FAILED" and get_current() is not run:
                    set_current(run)

            run.finish = end  # type: ignore[method-assign]
            return super().launch(run, *more, **options)

    return decorate(Stays(Options()), function)


def async_streams(change: Callable[[Run, str, dict[str, str]], str], function: Any) -> Any:
    """Return the real decorator but for async generators, the end of whose runs *change* is told and may change."""

    class Changed(Instrument):
        def launch(self, run: Run, *more: Any, **options: Any) -> Run:
            finish = run.finish

            def end(status: str, metrics: Any = (), tags: Any = None) -> None:
                finish(change(run, status, tags or {}), metrics, tags)

            run.finish = end  # type: ignore[method-assign]
            return super().launch(run, *more, **options)

    if not inspect.isasyncgenfunction(function):
        return mltrace.track_run(function)
    return decorate(Changed(Options()), function)


def takes_a_cancelled_step_for_a_close(function: Any) -> Any:
    def change(run: Run, status: str, tags: dict[str, str]) -> str:
        cancelled = tags.get("mltrace.error.type") == "CancelledError" and not tags["mltrace.error.message"]
        return "FINISHED" if cancelled else status

    return async_streams(change, function)


def stays_current_after_an_interrupted_step(function: Any) -> Any:
    def change(run: Run, status: str, tags: dict[str, str]) -> str:
        if status == "KILLED":
            set_current(run)
        return status

    return async_streams(change, function)


def logs_what_mlflow_refuses(function: Any) -> Any:
    class Refused(Instrument):
        def prepare(self, *call: Any) -> Run:
            run = super().prepare(*call)
            run._tags = {**run._tags, "a@b": "x"}
            return run

    return decorate(Refused(Options()), function)


UNTRUTHFUL: list[tuple[Decorate, str]] = [
    (instrumented(LosesTheParent), "runs nest as calls do"),
    (instrumented(KeepsTheCurrentRunInAGlobal), "runs nest|tasks and threads|left|list.remove|made"),
    (instrumented(CapturesAfterTheCall), "with the arguments that the caller gave"),
    (instrumented(EndsTwice), "ended before"),
    (instrumented(ForgetsTheEndOfAStream), "ends once, however it is left"),
    (instrumented(ForgetsTheEnd), "'RUNNING'"),
    (instrumented(LosesDefaults), "is missing"),
    (instrumented(RecordsAnotherOutput), "gave .1,2., recorded as"),
    (instrumented(LosesTheOutput), "recorded as None in mltrace.output"),
    (says_failed_for_all, "expected .KILLED."),
    (records_twice, "children are"),
    (records_each_decoration, "recorded once"),
    (records_while_off, "switched off"),
    (leaks_into_the_consumer, "consumer's current one"),
    (stays_current_after_a_failure, "current"),
    (takes_a_cancelled_step_for_a_close, r"cancelled in a step made\n.*\n.*'FINISHED', expected 'KILLED'"),
    (stays_current_after_an_interrupted_step, "consumer's current one"),
    (logs_what_mlflow_refuses, "MLflow would refuse"),
]


@pytest.mark.parametrize(
    ("mutant", "words"),
    UNTRUTHFUL,
    ids=[getattr(mutant, "__name__", None) or type(mutant.args[0]).__name__ for mutant, _ in UNTRUTHFUL],  # type: ignore[attr-defined]
)
def test_a_decorator_that_does_not_tell_the_truth_is_caught(mutant: Decorate, words: str) -> None:
    """`check_logged` fails for each mutant, and says what is wrong."""
    _stack.clear()
    output = None if mutant is leaks_into_the_consumer else "mltrace.output"  # of which it keeps no item
    with pytest.raises(AssertionError, match=words):
        check_logged(mutant, output=output, examples=10)


def test_a_wrong_response_of_an_llm_call_is_caught() -> None:
    """`check_logged` compares the response where it is told the tag that holds it."""
    with pytest.raises(AssertionError, match=r"recorded as another in mltrace\.response"):
        check_logged(instrumented(RecordsAnotherResponse), output="mltrace.response", examples=10)


# Backends.


class LosesArtifacts(MemoryBackend):
    def emit(self, record: Record) -> None:
        if not isinstance(record, ArtifactLogged):
            super().emit(record)


class CountsTwice(MemoryBackend):
    def status(self) -> SpoolStatus:
        return SpoolStatus(destination="m", accepted=self._accepted, delivered=2 * self._accepted)


class RefusesMetrics(MemoryBackend):
    def emit(self, record: Record) -> None:
        if isinstance(record, Logged):
            raise AssertionError("no metrics here")
        super().emit(record)


class LosesWhatIsBegun(MemoryBackend):
    def begin(self, start: Any) -> None:
        self._start(start)
        self._accepted += 3


class HasOneBlob(MemoryBackend):
    def store(self, source: bytes | str) -> Blob | None:
        blob = super().store(source)
        return blob and Blob("0" * 32, blob.size)


class ReadsFilesLater(MemoryBackend):
    def store(self, source: bytes | str) -> Blob | None:
        return super().store(source) if isinstance(source, bytes) else Blob(source, 0)


class KnowsEveryRun(MemoryBackend):
    def run_id(self, uid: str) -> str | None:
        return uid


class WaitsTooLong(MemoryBackend):
    def wait(self, uid: str, timeout: float) -> bool:
        time.sleep(timeout * 11)
        return False


class ReportsNothing(MemoryBackend):
    def close(self, timeout: float) -> FlushReport:
        return FlushReport(0, 0, 0, 0)


class HasNoWait(MemoryBackend):
    wait = None  # type: ignore[assignment]


class AsksANetwork(MemoryBackend):
    def emit(self, record: Record) -> None:
        time.sleep(0.001 if isinstance(record, Logged) else 0)
        super().emit(record)


class MixesThreadsUp(MemoryBackend):
    def emit(self, record: Record) -> None:
        accepted = self._accepted
        super().emit(record)
        time.sleep(0.001)  # long enough for the other thread to come between
        self._accepted = accepted + 1


BROKEN: list[tuple[Callable[[], Any], str]] = [
    (LosesArtifacts, "counts each once"),
    (CountsTwice, "add up|accepted is not"),
    (RefusesMetrics, "takes every kind"),
    (LosesWhatIsBegun, "begun is counted"),
    (HasOneBlob, "two artifacts two names"),
    (ReadsFilesLater, "copy of a file"),
    (KnowsEveryRun, "never came"),
    (WaitsTooLong, "ends in time"),
    (ReportsNothing, "close"),
    (HasNoWait, "has no wait"),
    (AsksANetwork, "network"),
    (MixesThreadsUp, "threads"),
]


@pytest.mark.parametrize(("mutant", "words"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_backend_that_runs_cannot_rely_on_is_caught(mutant: Callable[[], Any], words: str) -> None:
    """`check_backend` fails for each mutant, and says what is wrong."""
    with pytest.raises(AssertionError, match=words):
        check_backend(mutant, examples=5)
