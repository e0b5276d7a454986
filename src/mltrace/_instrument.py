"""
From a call to a run: bind the arguments, render them, run the function as it is, record what came out.

An `Instrument` holds the options of one decorator or block. `Instrument.decorate` chooses once, by the kind of callable, which of four thin wrappers runs: plain,
coroutine, generator, async generator. In streams the run is current during each step of the body and never in the consumer; a run that is current across a
``yield`` would be the consumer's too, and two interleaved streams would leave the wrong one behind.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import types

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from typing import Any

import wrapt

from . import _clock, _guard
from ._config import Active, active, is_enabled
from ._context import get_current, reset_current, restore_current, set_current
from ._records import FINISHED
from ._runs import SILENT, Run, enclosing, failure_fields, open_by_hand
from ._values import PARAM_LIMIT, TAG_LIMIT, WHOLE_LIMIT, as_json, clean_text, fit, number, numbers
from .exceptions import ConfigurationError, SpoolFull


Metrics = Iterable[tuple[str, float]]
Tags = dict[str, str]
Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]

_STREAM_ITEMS = 10_000
_OUTPUT_METRICS = 1_000
_LARGE = 1 << 1000  # beyond that an int is no float


class Options:
    """The options that every decorator shares, checked; a wrong one raises `ConfigurationError` that names it."""

    def __init__(
        self,
        *,
        run_name: str | None = None,
        kind: str = "run",
        experiment_name: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        description: str | None = None,
        capture_input: bool | Iterable[str] = True,
        ignore_arguments: Iterable[str] = (),
        capture_output: bool = True,
        process_inputs: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        process_outputs: Callable[[Any], Any] | None = None,
        output_reducer: Callable[[list[Any]], Any] | None = None,
        sample_rate: float | None = None,
    ) -> None:
        self.run_name = _optional("run_name", run_name, str)
        self.kind = kind
        self.experiment_name = _optional("experiment_name", experiment_name, str)
        self.params = dict(_optional("params", params, Mapping) or {})
        self.tags = dict(_optional("tags", tags, Mapping) or {})
        if description is not None:
            self.tags["mlflow.note.content"] = _optional("description", description, str)
        self.only = None if isinstance(capture_input, bool) else _names("capture_input", capture_input)
        self.capture_input = capture_input is not False
        self.ignore = _names("ignore_arguments", ignore_arguments)
        self.capture_output = bool(_optional("capture_output", capture_output, bool))
        self.process_inputs = _optional("process_inputs", process_inputs, Callable)
        self.process_outputs = _optional("process_outputs", process_outputs, Callable)
        self.output_reducer = _optional("output_reducer", output_reducer, Callable)
        self.sample_rate = sample_rate
        if sample_rate is not None and not (isinstance(sample_rate, (int, float)) and 0 <= sample_rate <= 1):
            raise ConfigurationError(f"sample_rate: {sample_rate!r} is not a number from 0 to 1")


def _optional(name: str, value: Any, kind: Any) -> Any:
    if value is None or isinstance(value, kind):
        return value
    wanted = {str: "a text", Mapping: "a mapping", bool: "True or False"}.get(kind, "a function")
    raise ConfigurationError(f"{name}: {value!r:.100} is not {wanted}")


def _names(name: str, value: Any) -> frozenset[str]:
    names = None if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    if names is None or not all(isinstance(item, str) for item in names):
        raise ConfigurationError(f"{name}: {value!r:.100} is not a collection of argument names")
    return frozenset(names)


class Binder:
    """
    Binds a call's arguments to the function's parameter names.

    Python itself binds: a function with the same parameters is compiled once, which returns them as a dict. `inspect.Signature.bind` costs five times as much.
    """

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        target = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
        try:
            parameters = list(inspect.signature(target).parameters.values())
        except (TypeError, ValueError):  # some builtins have none
            parameters = [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL), inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]
        is_function = isinstance(target, types.FunctionType)
        has_self = is_function and bool(parameters) and parameters[0].name in ("self", "cls") and parameters[0].kind in _POSITIONAL
        _check_names(target, parameters, options)
        self._only = options.only
        self._unbound = _compile(parameters, options, {parameters[0].name} if has_self else frozenset())
        # wrapt hands over the instance of a method and the arguments after it.
        self._bound = _compile(parameters[1:], options, frozenset()) if is_function and parameters else self._unbound

    def bind(self, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, defaults applied, *self* left out, ``**kwargs`` flattened; nothing for arguments that the call itself will refuse."""
        try:
            found: dict[str, Any] = (self._unbound if instance is None else self._bound)(*args, **kwargs)
        except TypeError:
            return {}
        return found if self._only is None else {name: value for name, value in found.items() if name in self._only}


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _compile(parameters: Sequence[inspect.Parameter], options: Options, hidden: Iterable[str]) -> Callable[..., dict[str, Any]]:
    """Return a function with *parameters* that returns them as a dict, without the *hidden* and ignored ones."""
    signature = inspect.Signature([p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else _Default(p.name)) for p in parameters])
    shown = [p for p in parameters if p.name not in options.ignore and p.name not in hidden]
    items = [f"**{p.name}" if p.kind is p.VAR_KEYWORD else f"{p.name!r}: {p.name}" for p in shown if p.kind is not p.VAR_POSITIONAL]
    rest = next((p.name for p in shown if p.kind is p.VAR_POSITIONAL), None)
    body = "{" + ", ".join(items) + "}" + (f" | ({{{rest!r}: {rest}}} if {rest} else {{}})" if rest else "")
    defaults = {f"_default_{p.name}": p.default for p in parameters if p.default is not p.empty}
    bind: Callable[..., dict[str, Any]] = eval(f"lambda {str(signature)[1:-1]}: {body}", {"__builtins__": {}, **defaults})  # noqa: S307 # of identifiers alone
    if not options.ignore or not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return bind
    return lambda *args, **kwargs: {name: value for name, value in bind(*args, **kwargs).items() if name not in options.ignore}


class _Default:
    """A default in the compiled signature: the name of the variable that holds the real one."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"_default_{self._name}"


def _check_names(target: Any, parameters: Sequence[inspect.Parameter], options: Options) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    for option, names in (("capture_input", options.only), ("ignore_arguments", options.ignore)):
        if unknown := (names or frozenset()) - {p.name for p in parameters}:
            raise ConfigurationError(f"{option}: {getattr(target, '__qualname__', target)} has no argument {', '.join(sorted(unknown))}")


class Instrument:
    """Options made effective: starts and finishes runs for calls and blocks. Subclasses say what of a call is a param, a tag, a metric."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._name = options.run_name if options.run_name is not None else options.kind
        self._function: str | None = None
        self._binder: Binder | None = None
        self._template = options.run_name is not None and "{" in options.run_name
        self._constant: tuple[Active | None, dict[str, str], Tags] = (None, {}, {})

    # What subclasses change.

    splits = False
    """Whether `split` has anything to do."""

    def split(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what of the *inputs* becomes params, and what becomes tags under their final keys."""
        return inputs, {}

    def describe(self, run: Run, result: Any, first_ms: float | None) -> tuple[Metrics, Tags]:
        """Return the metrics and tags that the *result* makes; keep whole what does not fit."""
        options = self.options
        if not options.capture_output:
            return (), {}
        if options.process_outputs is not None:
            result = options.process_outputs(result)
        return output_metrics(result), {"mltrace.output": output_text(run, result, "outputs.json")}

    overflow = "inputs.json"
    """The artifact that keeps inputs whole where a field is too small."""

    # Starting.

    def prepare(self, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """Return a run for a call, its inputs rendered and its parent fixed now, before the call can change either."""
        config = active()
        options = self.options
        inputs: dict[str, Any] = {}
        if self._binder is not None and options.capture_input:
            inputs = self._binder.bind(instance, args, kwargs)
            if options.process_inputs is not None:
                inputs = dict(options.process_inputs(inputs))
        as_params, as_tags = self.split(inputs) if self.splits else (inputs, None)
        secrets: list[str] = []
        whole: dict[str, str] = {}
        params = self._fields(config, as_params, PARAM_LIMIT, secrets, whole)
        known, constant_params, tags = self._constant
        if known is not config:
            _, constant_params, tags = self._constants(config)
        if as_tags:
            tags = {**tags, **self._fields(config, as_tags, TAG_LIMIT, secrets, whole)}
        if constant_params:
            params.update(constant_params)
        run = Run(
            self._run_name(config, inputs, secrets) if self._template else self._name,
            options.kind,
            enclosing(),
            config,
            params,
            tags,
            secrets,
            options.experiment_name,
            options.sample_rate,
        )
        if whole:
            run._whole = whole
        return run

    def _fields(self, config: Active, values: Mapping[str, Any], limit: int, secrets: list[str], whole: dict[str, str]) -> dict[str, str]:
        fields = config.renderer.fields(values, secrets)
        for name, text in fields.items():
            if len(text) > limit:
                whole[name] = text
                fields[name] = fit(text, limit, self.overflow)
        return fields

    def _constants(self, config: Active) -> tuple[Active | None, dict[str, str], Tags]:
        """Return the params and tags that every run of this instrument has, rendered once per configuration."""
        if self._constant[0] is not config:
            secrets: list[str] = []
            tags = self._fields(config, self.options.tags, TAG_LIMIT, secrets, {})
            if self._function is not None:
                tags = {"mltrace.function": self._function, **tags}
            self._constant = (config, self._fields(config, self.options.params, PARAM_LIMIT, secrets, {}), tags)
        return self._constant

    def _run_name(self, config: Active, inputs: Mapping[str, Any], secrets: list[str]) -> str:
        """Fill the template; one that cannot be filled is used as it stands. Secret arguments are not shown in names either."""
        redactor = config.renderer.redactor
        template = self._name
        shown = {name: "[redacted]" if redactor.is_secret_name(name) else value for name, value in inputs.items()}
        try:
            name = template.format(**shown)
        except Exception:
            name = template
        return redactor.text(clean_text(name[:1000]), secrets)[:250]

    def launch(self, run: Run, started: tuple[int, int] | None = None, *, call: bool = False) -> Run:
        """Start the prepared run; see `Run.begin`."""
        run.begin(started, call=call)
        if run._whole is not None:
            run._keep(self.overflow, as_json(run._whole))
        return run

    def start(self, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, call: bool = True) -> Run | None:
        """Start a run for a call or block; None where mltrace itself failed."""
        try:
            return self.launch(self.prepare(instance, args, kwargs), call=call)
        except SpoolFull:
            raise
        except Exception as error:
            _guard.internal_error("the start of a run", error)
            return None

    # Finishing.

    def finish(self, run: Run, result: Any, *, first_ms: float | None = None, extra: Tags | None = None) -> None:
        """End *run* as FINISHED with what *result* says. *first_ms*: milliseconds until a stream's first item."""
        metrics: Metrics = ()
        tags: Tags = {}
        try:
            metrics, tags = self.describe(run, result, first_ms)
            metrics = tuple(metrics)  # a mapping is read here, where a failure is ours
        except Exception as error:
            _guard.internal_error("recording an output", error)
        run.finish(FINISHED, metrics, {**tags, **extra} if extra else tags)

    # Blocks.

    def open_block(self) -> Run:
        """Start a run for a block and make it current; an inert one where mltrace is off."""
        if not is_enabled():
            return SILENT
        run = self.start(None, (), {}, call=False)
        if run is None:
            return SILENT
        run._outer = get_current()
        set_current(run)
        return run

    def close_block(self, run: Run, error: BaseException | None) -> None:
        """End a block's run."""
        run._leave()
        if error is None:
            run.finish(FINISHED)
        else:
            run.finish(*failure_fields(run, error))

    def open_by_hand(self, depth: int) -> Run:
        """Start a run that is current until its `Run.end`."""
        if not is_enabled():
            return SILENT
        return open_by_hand(lambda: self.start(None, (), {}, call=False) or SILENT, depth + 1)

    # Functions.

    def decorate(self, function: Any) -> Any:
        """Return *function* instrumented, with its kind, signature and identity kept. Applied twice with the same kind, it records once."""
        if not callable(function) and not isinstance(function, (classmethod, staticmethod)):
            raise ConfigurationError(f"{self.options.kind}: {function!r:.100} is not a function")
        if isinstance(function, Traced) and function._self_kind == self.options.kind:
            function = function.__wrapped__
        clone = self.__class__.__new__(self.__class__)
        clone.__dict__.update(self.__dict__)
        target = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
        clone._binder = Binder(function, self.options)
        qualified = getattr(target, "__qualname__", None) or type(getattr(target, "func", target)).__qualname__
        clone._function = clean_text(f"{getattr(target, '__module__', None) or 'builtins'}.{qualified}")[:TAG_LIMIT]
        if self.options.run_name is None:
            clone._name = qualified[:250]
        return Traced(function, _wrapper(target)(clone), self.options.kind)


class Traced(wrapt.FunctionWrapper):  # type: ignore[type-arg] # its parameters are wrapt's own, and newer than our oldest wrapt
    """A decorated callable. Pickled by reference, as a function is."""

    def __init__(self, wrapped: Any, wrapper: Wrapper, kind: str) -> None:
        super().__init__(wrapped, wrapper)
        self._self_kind = kind

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__wrapped__.__qualname__

    def __reduce__(self) -> Any:
        return self.__wrapped__.__qualname__


def _wrapper(target: Any) -> Callable[[Instrument], Wrapper]:
    while isinstance(target, functools.partial):
        target = target.func
    for candidate in (target, getattr(type(target), "__call__", None)):  # noqa: B004 # a callable instance's kind is its method's
        if inspect.iscoroutinefunction(candidate):
            return _coroutine
        if inspect.isgeneratorfunction(candidate):
            return _generator
        if inspect.isasyncgenfunction(candidate):
            return _async_generator
    return _plain


def _plain(instrument: Instrument) -> Wrapper:
    def call(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not is_enabled() or (run := instrument.start(instance, args, kwargs)) is None:
            return wrapped(*args, **kwargs)
        token = set_current(run)
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            restore_current(token)
            run.finish(*failure_fields(run, error))
            raise
        restore_current(token)
        instrument.finish(run, result)
        return result

    return call


def _coroutine(instrument: Instrument) -> Wrapper:
    async def call(coroutine: Coroutine[Any, Any, Any], prepared: Run) -> Any:
        run = _launch(instrument, prepared)
        token = set_current(run)
        try:
            result = await coroutine
        except BaseException as error:
            reset_current(token)
            run.finish(*failure_fields(run, error))
            raise
        reset_current(token)
        instrument.finish(run, result)
        return result

    return _later(instrument, call)


def _generator(instrument: Instrument) -> Wrapper:
    def drive(generator: Generator[Any, Any, Any], prepared: Run) -> Generator[Any, Any, Any]:
        run = _launch(instrument, prepared)
        stream = Stream(instrument, run)
        step: Callable[[Any], Any] = generator.send
        sent: Any = None
        try:
            while True:
                token = set_current(run)
                try:
                    item = step(sent)
                finally:
                    reset_current(token)
                stream.add(item)
                try:
                    sent = yield item
                    step = generator.send
                except GeneratorExit:
                    token = set_current(run)
                    try:
                        generator.close()
                    finally:
                        reset_current(token)
                    stream.finish(closed=True)
                    raise
                except BaseException as error:
                    step, sent = generator.throw, error
        except StopIteration as stop:
            stream.finish()
            return stop.value
        except BaseException as error:
            if run.is_open:
                run.finish(*failure_fields(run, error))
            raise

    return _later(instrument, drive)


def _async_generator(instrument: Instrument) -> Wrapper:
    async def drive(generator: AsyncGenerator[Any, Any], prepared: Run) -> AsyncGenerator[Any, Any]:
        run = _launch(instrument, prepared)
        stream = Stream(instrument, run)
        step: Callable[[Any], Any] = generator.asend
        sent: Any = None
        thrown: BaseException | None = None
        try:
            while True:
                token = set_current(run)
                try:
                    item = await step(sent)
                finally:
                    reset_current(token)
                stream.add(item)
                try:
                    sent = yield item
                    step = generator.asend
                except GeneratorExit:
                    token = set_current(run)
                    try:
                        await generator.aclose()
                    finally:
                        reset_current(token)
                    stream.finish(closed=True)
                    raise
                except BaseException as error:
                    thrown = error
                    step, sent = generator.athrow, error
        except StopAsyncIteration:
            stream.finish()
        except BaseException as error:
            if error is thrown and isinstance(error, asyncio.CancelledError):
                # Not a cancelled step, but a cancelled `aclose`: what a loop that shuts down does to streams that were left early.
                stream.finish(closed=True)
            elif run.is_open:
                run.finish(*failure_fields(run, error))
            raise

    return _later(instrument, drive)


def _later(instrument: Instrument, drive: Callable[[Any, Run], Any]) -> Wrapper:
    """Return a wrapper for what only begins when it is awaited or iterated: arguments are checked and rendered at the call, the run starts with the first step."""

    def call(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not is_enabled():
            return wrapped(*args, **kwargs)
        try:
            prepared = instrument.prepare(instance, args, kwargs)
        except Exception as error:
            _guard.internal_error("the start of a run", error)
            return wrapped(*args, **kwargs)
        return drive(wrapped(*args, **kwargs), prepared)

    return call


def _launch(instrument: Instrument, prepared: Run) -> Run:
    try:
        return instrument.launch(prepared, call=True)
    except SpoolFull:
        raise
    except Exception as error:
        _guard.internal_error("the start of a run", error)
        return SILENT


class Stream:
    """What a stream has yielded so far, bounded, and the end of its run."""

    def __init__(self, instrument: Instrument, run: Run) -> None:
        self._instrument = instrument
        self._run = run
        self._items: list[Any] = []
        self._keep = instrument.options.capture_output
        self._room = WHOLE_LIMIT
        self.first_ns: int | None = None

    def add(self, item: Any) -> None:
        """Take the next item; the first 10,000 items, or about 1 MiB of text, are kept for the output."""
        if self.first_ns is None:
            self.first_ns = _clock.elapsed_ns()
        if not self._keep:
            return
        try:
            if self._instrument.options.output_reducer is None and type(item) is not str:
                item = self._run._renderer.plain("", item, self._run._secrets)
            self._items.append(item)
            self._room -= len(item) if type(item) is str else 100
            self._keep = self._room > 0 and len(self._items) < _STREAM_ITEMS
        except Exception as error:
            _guard.internal_error("recording a stream", error)

    def finish(self, *, closed: bool = False) -> None:
        """End the run with the reduced output."""
        run = self._run
        try:
            result = reduce(self._items, self._instrument.options.output_reducer)
        except Exception as error:
            _guard.internal_error("output_reducer", error)
            result = self._items
        first_ms = None if self.first_ns is None else (self.first_ns - run._start_ns) / 1e6
        self._instrument.finish(run, result, first_ms=first_ms, extra={"mltrace.stream": "closed"} if closed else None)


def reduce(items: list[Any], reducer: Callable[[list[Any]], Any] | None) -> Any:
    """Return a stream's output: what *reducer* makes of the items; else texts joined, anything else as a list."""
    if reducer is not None:
        return reducer(items)
    return "".join(items) if items and all(type(item) is str for item in items) else items


def output_metrics(result: Any) -> Metrics:
    """Return the metrics of a returned value: a number is ``output``, numbers of a mapping go under their keys."""
    kind = type(result)
    if kind is float or kind is int:
        return (("output", float(result)),) if -_LARGE < result < _LARGE or kind is float else ()
    if result is None or kind is str:
        return ()
    if (found := number(result)) is not None:
        return (("output", found),)
    if isinstance(result, Mapping):
        return itertools.islice(numbers(result), _OUTPUT_METRICS)
    return ()


def output_text(run: Run, result: Any, artifact: str) -> str:
    """Return *result* as the text of a tag; one that does not fit is kept whole as *artifact*."""
    renderer = run._config.renderer
    text = renderer.field("output", result, run._secrets)
    if run._secrets:
        text = renderer.redactor.text(text, run._secrets)
    if len(text) > TAG_LIMIT:
        plain = renderer.plain("output", result, run._secrets)
        run._keep(artifact, renderer.redactor.text(as_json(plain), run._secrets))
        text = fit(text, TAG_LIMIT, artifact)
    return text
