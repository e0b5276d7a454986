"""
From a call to a run: bind the arguments, render them, and record what came out.

An `Instrument` holds the options of one decorator or block and makes each call's run. How the call
itself is made, and where the run is current meanwhile, is `_wrappers`' affair.
"""

from __future__ import annotations

import functools

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from . import _guard, _watched
from ._binding import Binder, Named, Options, Unfit
from ._by_hand import open_by_hand
from ._config import Active, active, is_enabled
from ._context import get_current, set_current
from ._inert import SILENT
from ._joint import enclosing
from ._kept import Keeper, Kept, Streamed
from ._known_types import PLAIN, Secret
from ._numbers import number, numbers
from ._records import FINISHED
from ._redaction import MASK
from ._runs import Run
from ._texts import NAME_LIMIT, PARAM_LIMIT, READ_LIMIT, TAG_LIMIT, clean_text, fit
from ._values import as_json, as_text, remember_all
from ._watched import Budget
from .exceptions import SpoolFull


Metrics = Iterable[tuple[str, float]]
Tags = dict[str, str]


_NAME_PART = 2_000  # characters of an argument that a run's name can show
_LARGE = 1 << 1000  # beyond that an int is no float


class Constants:
    """
    What every run of an instrument has under one configuration, rendered; and which arguments are
    secrets.
    """

    def __init__(self, config: Active | None = None, name: str = "") -> None:
        self.config = config
        self.name = name
        self.params: dict[str, str] = {}
        self.tags: Tags = {}
        self.secrets: list[str] = []
        self.whole: dict[str, str] = {}
        self.marked: frozenset[str] = frozenset()
        """Names of arguments, and ``return``, that annotations mark with `Redact`."""

        self.unseen: Binder | None = None
        """Binds all arguments, where some that may be secrets are not captured as they are."""


class Instrument:
    """
    Options made effective: starts and finishes runs for calls and blocks. Subclasses say what of a
    call is a param, a tag, a metric.
    """

    def __init__(self, options: Options, binder: Binder | Named | None = None) -> None:
        self.options = options
        self._name = clean_text(options.run_name if options.run_name is not None else options.kind)
        self._function: str | None = None
        self.called = ("", "")
        """Name and qualified name of the function."""
        self._binder = binder
        self._template = options.run_name is not None and "{" in options.run_name
        if not self._template:
            self._name = self._name[:NAME_LIMIT]
        self._constant = Constants()

    def __reduce__(self) -> Any:
        """Return the options: what else there is belongs to this process and its configuration."""
        return type(self), (self.options,)

    # What subclasses change.

    splits = False
    """Whether `split` has anything to do."""

    observes = False
    """Whether a stream that a function returns is followed while the caller reads it."""

    def split(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Return what of the *inputs* becomes params, and what becomes tags under their final keys.
        """
        return inputs, {}

    def keeper(self, run: Run) -> Keeper:
        """Return what keeps a stream's items for its output."""
        return Kept(rendering(run), self.options.output_reducer, keep=self.options.capture_output)

    def describe(self, run: Run, result: Any, streamed: Streamed | None = None) -> tuple[Metrics, Tags]:
        """Return the metrics and tags that the *result* makes; keep whole what does not fit."""
        options = self.options
        if not options.capture_output:
            return (), {}
        if self._constant.marked and self.hides_output:
            return (), {"mltrace.output": MASK}
        if options.process_outputs is not None:
            result = options.process_outputs(result)
        text = output_text(run, result, "outputs.json")
        metrics = output_metrics(result, run)
        return (_without(metrics, run._secrets) if run._secrets else metrics), {"mltrace.output": text}

    @property
    def hides_output(self) -> bool:
        """Whether the return annotation is marked with `Redact`."""
        return "return" in self._constant.marked

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
        if self._constant.config is not config:
            self._constant = self._constants(config)
        constant = self._constant
        parent = enclosing()
        # What a run above has hidden is hidden here from the start.
        secrets: list[str] = [*parent._secrets] if type(parent) is Run and parent._secrets else []
        if constant.unseen is not None:
            self._learn(config, constant.unseen.bind(instance, args, kwargs), secrets)
        inputs: dict[str, Any] = {}
        unfit = False
        if self._binder is not None and options.capture_input:
            inputs = self._binder.bind(instance, args, kwargs)
            unfit = type(inputs) is Unfit
            if options.process_inputs is not None:
                inputs = self._processed(config, inputs, secrets)
            if constant.marked:
                inputs = {
                    name: Secret(value) if name in constant.marked else value
                    for name, value in inputs.items()
                }
        as_params, as_tags = self.split(inputs) if self.splits else (inputs, None)
        whole: dict[str, str] = {}
        params = self._fields(config, as_params, PARAM_LIMIT, secrets, whole) if as_params else {}
        tags = constant.tags
        if as_tags:
            tags = {**tags, **self._fields(config, as_tags, TAG_LIMIT, secrets, whole)}
        if constant.params:
            params.update(constant.params)
        if constant.secrets:
            secrets.extend(constant.secrets)
        if constant.whole:
            whole.update(constant.whole)
        name = self._run_name(config, inputs, secrets) if self._template else constant.name
        if secrets:
            name = config.renderer.redactor.text(name, secrets)
            params, tags, whole = (_hide(config, fields, secrets) for fields in (params, tags, whole))
        run = Run(
            name,
            options.kind,
            parent,
            config,
            params,
            tags,
            secrets,
            options.experiment_name,
            options.sample_rate,
            options.record_as,
            options.span_type,
        )
        if whole:
            run._whole = whole
        if unfit:
            run._unfit = True
        return run

    def _processed(self, config: Active, inputs: dict[str, Any], secrets: list[str]) -> dict[str, Any]:
        """Return what the user's function makes of the inputs; nothing where it fails."""
        try:
            return dict(cast("Any", self.options.process_inputs)(inputs))
        except Exception as error:
            redactor = config.renderer.redactor
            _guard.internal_error("process_inputs", error, lambda text: redactor.text(text, secrets))
            return {}

    def _learn(self, config: Active, arguments: Mapping[str, Any], secrets: list[str]) -> None:
        """Know the secrets among *arguments* that are not recorded, or not as they are: they may turn up in texts."""
        is_secret = config.renderer.redactor.is_secret_name
        budget = Budget()
        for name, value in arguments.items():
            if name in self._constant.marked or is_secret(name):
                remember_all(value, secrets, budget)

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
        Return what every run of this instrument has, rendered once per configuration.
        """
        found = Constants(config, config.renderer.redactor.text(self._name))
        options = self.options
        found.params = self._fields(config, options.params, PARAM_LIMIT, found.secrets, found.whole)
        tags = self._fields(config, options.tags, TAG_LIMIT, found.secrets, found.whole)
        found.tags = tags if self._function is None else {"mltrace.function": self._function, **tags}
        if self._binder is not None:
            found.marked = self._binder.marked()
            found.unseen = self._unseen(config, found.marked)
        return found

    def _unseen(self, config: Active, marked: frozenset[str]) -> Binder | None:
        """Return what binds all arguments, where the options keep secrets among them from being seen."""
        options, binder = self.options, self._binder
        as_they_are = (
            options.capture_input
            and options.only is None
            and not options.ignore
            and options.process_inputs is None
        )
        if not isinstance(binder, Binder) or as_they_are:
            return None
        is_secret = config.renderer.redactor.is_secret_name
        some = binder.takes_any_name or marked or any(map(is_secret, binder.names))
        return Binder(binder.function, Options()) if some else None

    def _run_name(self, config: Active, inputs: Mapping[str, Any], secrets: list[str]) -> str:
        """
        Fill the template; one that cannot be filled is used as it stands. Secret arguments are not
        shown in names either.
        """
        redactor = config.renderer.redactor
        template = self._name
        shown = {
            name: MASK if redactor.is_secret_name(name) or type(value) is Secret else _beginning(value)
            for name, value in inputs.items()
        }
        kinds = [type(value) for value in shown.values() if type(value) not in PLAIN]
        if not kinds:
            name = _filled(template, shown)
        else:
            outcome = _watched.ask(lambda: _filled(template, shown), kinds)
            name = (outcome.result if outcome is not None else None) or template
        return redactor.text(clean_text(name[:READ_LIMIT]), secrets)[:NAME_LIMIT]

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
        self, run: Run, result: Any, *, streamed: Streamed | None = None, extra: Tags | None = None
    ) -> None:
        """End *run* as FINISHED with what *result* says, and what is known of a stream beside it."""
        metrics: Metrics = ()
        tags: Tags = {}
        try:
            metrics, tags = self.describe(run, result, streamed)
            metrics = tuple(metrics)  # a mapping is read here, where a failure is ours
        except Exception as error:
            _guard.internal_error("recording an output", error, run.hide)
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
            run.finish(*run.failure(error))

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
        clone = type(self)(self.options)
        clone._binder = Binder(function, self.options)
        named = target.func if isinstance(target, functools.partial) else target
        qualified = getattr(named, "__qualname__", None) or type(named).__qualname__
        module = getattr(named, "__module__", None) or "builtins"
        clone._function = clean_text(f"{module}.{qualified}")[:TAG_LIMIT]
        clone.called = (str(getattr(named, "__name__", qualified)), qualified)
        clone._constant = Constants()
        if self.options.run_name is None:
            clone._name = qualified[:NAME_LIMIT]
        return clone

    @property
    def checks_arguments(self) -> bool:
        """Whether `prepare` finds out if a call's arguments fit."""
        return self._binder is not None and self._binder.is_exact and self.options.capture_input


def rendering(run: Run) -> Callable[[Any], Any]:
    """Return how items of a stream are rendered under the secrets of its *run*."""
    return lambda item: run._renderer.plain("", item, run._secrets)


def _hide(config: Active, fields: dict[str, str], secrets: list[str]) -> dict[str, str]:
    return {name: config.renderer.redactor.text(text, secrets) for name, text in fields.items()}


def _beginning(value: Any) -> Any:
    """Return the part of a text that a name may show."""
    return value[:_NAME_PART] if type(value) is str else value


def _filled(template: str, shown: Mapping[str, Any]) -> str:
    try:
        return template.format(**shown)
    except Exception:
        return template


def output_metrics(result: Any, run: Run) -> Metrics:
    """
    Return the metrics of a returned value: a number is ``output``, numbers of a mapping go under
    their keys, but for those under a secret's name.
    """
    kind = type(result)
    if kind is float or kind is int:
        return (("output", float(result)),) if -_LARGE < result < _LARGE or kind is float else ()
    if result is None or kind is str:
        return ()
    if (found := number(result)) is not None:
        return (("output", found),)
    if issubclass(kind, Mapping):
        return numbers(result, run._renderer.redactor.is_secret_name)
    return ()


def _without(metrics: Metrics, secrets: Sequence[str]) -> Metrics:
    """Return the metrics that are no secret's number: a metric cannot be masked, so it is left out."""
    return [(key, value) for key, value in metrics if not (value.is_integer() and f"{value:.0f}" in secrets)]


def output_text(run: Run, result: Any, artifact: str) -> str:
    """Return *result* as the text of a tag; one that does not fit is kept whole as *artifact*."""
    renderer = run._config.renderer
    if type(result) in PLAIN and type(result) is not str:
        return renderer.field("output", result, run._secrets)
    plain = renderer.plain("output", result, run._secrets)
    text = as_text(plain)
    if run._secrets:  # the output may have named them last
        text = run.hide(text)
    if len(text) > TAG_LIMIT:
        run._keep_own(artifact, run.hide(as_json(plain)))
        text = fit(text, TAG_LIMIT, artifact)
    return text
