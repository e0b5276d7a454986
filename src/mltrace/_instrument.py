"""
From a call to a run: bind the arguments, render them, and record what came out.

An `Instrument` holds the options of one decorator or block and makes each call's run. How the call
itself is made, and where the run is current meanwhile, is `_wrappers`' affair.
"""

from __future__ import annotations

import copy
import functools

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import _guard
from ._binding import Binder, Options
from ._config import Active, active, is_enabled
from ._context import enclosing, get_current, set_current
from ._records import FINISHED
from ._runs import SILENT, Run, failure_fields, open_by_hand
from ._values import NAME_LIMIT, PARAM_LIMIT, TAG_LIMIT, as_json, clean_text, fit, number, numbers
from .exceptions import SpoolFull


Metrics = Iterable[tuple[str, float]]
Tags = dict[str, str]
Constants = tuple["Active | None", dict[str, str], Tags, list[str], dict[str, str]]

_LARGE = 1 << 1000  # beyond that an int is no float


class Instrument:
    """
    Options made effective: starts and finishes runs for calls and blocks. Subclasses say what of a
    call is a param, a tag, a metric.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._name = clean_text(options.run_name if options.run_name is not None else options.kind)
        self._function: str | None = None
        self._binder: Binder | None = None
        self._template = options.run_name is not None and "{" in options.run_name
        if not self._template:
            self._name = self._name[:NAME_LIMIT]
        self._constant: Constants = (None, {}, {}, [], {})

    # What subclasses change.

    splits = False
    """Whether `split` has anything to do."""

    def split(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Return what of the *inputs* becomes params, and what becomes tags under their final keys.
        """
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
        """
        Return a run for a call, its inputs rendered and its parent fixed now, before the call can
        change either.
        """
        config = active()
        options = self.options
        inputs: dict[str, Any] = {}
        if self._binder is not None and options.capture_input:
            inputs = self._binder.bind(instance, args, kwargs)
            if options.process_inputs is not None:
                inputs = dict(options.process_inputs(inputs))
        as_params, as_tags = self.split(inputs) if self.splits else (inputs, None)
        parent = enclosing()
        # What a run above has hidden is hidden here from the start.
        secrets: list[str] = [*parent._secrets] if type(parent) is Run and parent._secrets else []
        whole: dict[str, str] = {}
        params = self._fields(config, as_params, PARAM_LIMIT, secrets, whole)
        if self._constant[0] is not config:
            self._constant = self._constants(config)
        _, constant_params, tags, constant_secrets, constant_whole = self._constant
        if as_tags:
            tags = {**tags, **self._fields(config, as_tags, TAG_LIMIT, secrets, whole)}
        if constant_params:
            params.update(constant_params)
        if constant_secrets:
            secrets.extend(constant_secrets)
        if constant_whole:
            whole.update(constant_whole)
        if secrets:
            params, tags, whole = (_hide(config, fields, secrets) for fields in (params, tags, whole))
        run = Run(
            self._run_name(config, inputs, secrets) if self._template else self._name,
            options.kind,
            parent,
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

    def _fields(
        self, config: Active, values: Mapping[str, Any], limit: int, secrets: list[str], whole: dict[str, str]
    ) -> dict[str, str]:
        fields = config.renderer.fields(values, secrets)
        for name, text in fields.items():
            if len(text) > limit:
                whole[name] = text
                fields[name] = fit(text, limit, self.overflow)
        return fields

    def _constants(self, config: Active) -> Constants:
        """
        Return the params, tags, secrets and overflow that every run of this instrument has,
        rendered once per configuration.
        """
        secrets: list[str] = []
        whole: dict[str, str] = {}
        params = self._fields(config, self.options.params, PARAM_LIMIT, secrets, whole)
        tags = self._fields(config, self.options.tags, TAG_LIMIT, secrets, whole)
        if self._function is not None:
            tags = {"mltrace.function": self._function, **tags}
        return config, params, tags, secrets, whole

    def _run_name(self, config: Active, inputs: Mapping[str, Any], secrets: list[str]) -> str:
        """
        Fill the template; one that cannot be filled is used as it stands. Secret arguments are not
        shown in names either.
        """
        redactor = config.renderer.redactor
        template = self._name
        shown = {
            name: "[redacted]" if redactor.is_secret_name(name) else value for name, value in inputs.items()
        }
        try:
            name = template.format(**shown)
        except Exception:
            name = template
        return redactor.text(clean_text(name[:1000]), secrets)[:NAME_LIMIT]

    def launch(self, run: Run, started: tuple[int, int] | None = None, *, call: bool = False) -> Run:
        """Start the prepared run; see `Run.begin`."""
        run.begin(started, call=call)
        if run._whole is not None:
            run._keep_own(self.overflow, as_json(run._whole))
        return run

    def start(
        self, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, call: bool = True
    ) -> Run | None:
        """Start a run for a call or block; None where mltrace itself failed."""
        try:
            return self.launch(self.prepare(instance, args, kwargs), call=call)
        except SpoolFull:
            raise
        except Exception as error:
            _guard.internal_error("the start of a run", error)
            return None

    # Finishing.

    def finish(
        self, run: Run, result: Any, *, first_ms: float | None = None, extra: Tags | None = None
    ) -> None:
        """
        End *run* as FINISHED with what *result* says.

        *first_ms*: milliseconds until a stream's first item.
        """
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

    def bound_to(self, function: Any) -> Instrument:
        """
        Return this instrument for the calls of *function*: it knows its name and its arguments.
        """
        target = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
        clone = copy.copy(self)
        clone._binder = Binder(function, self.options)
        named = target.func if isinstance(target, functools.partial) else target
        qualified = getattr(named, "__qualname__", None) or type(named).__qualname__
        module = getattr(named, "__module__", None) or "builtins"
        clone._function = clean_text(f"{module}.{qualified}")[:TAG_LIMIT]
        clone._constant = (None, {}, {}, [], {})
        if self.options.run_name is None:
            clone._name = qualified[:NAME_LIMIT]
        return clone


def _hide(config: Active, fields: dict[str, str], secrets: list[str]) -> dict[str, str]:
    return {name: config.renderer.redactor.text(text, secrets) for name, text in fields.items()}


def output_metrics(result: Any) -> Metrics:
    """
    Return the metrics of a returned value: a number is ``output``, numbers of a mapping go under
    their keys.
    """
    kind = type(result)
    if kind is float or kind is int:
        return (("output", float(result)),) if -_LARGE < result < _LARGE or kind is float else ()
    if result is None or kind is str:
        return ()
    if (found := number(result)) is not None:
        return (("output", found),)
    if issubclass(kind, Mapping):
        return numbers(result)
    return ()


def output_text(run: Run, result: Any, artifact: str) -> str:
    """Return *result* as the text of a tag; one that does not fit is kept whole as *artifact*."""
    renderer = run._config.renderer
    text = renderer.field("output", result, run._secrets)
    if run._secrets:
        text = renderer.redactor.text(text, run._secrets)
    if len(text) > TAG_LIMIT:
        plain = renderer.plain("output", result, run._secrets)
        run._keep_own(artifact, renderer.redactor.text(as_json(plain), run._secrets))
        text = fit(text, TAG_LIMIT, artifact)
    return text
