"""
The options that every decorator shares, and how a call's arguments are bound to names.
"""

from __future__ import annotations

import functools
import inspect
import re
import types

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ._records import RUN, TRACE
from ._redaction import marked_names
from ._texts import clean_experiment
from .exceptions import ConfigurationError


_SPAN_TYPE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class Options:
    """
    The options that every decorator shares, checked; a wrong one raises `ConfigurationError` that
    names it.
    """

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
        record_as: str | None = None,
        span_type: str | None = None,
    ) -> None:
        self.run_name = _optional("run_name", run_name, str)
        self.kind = kind
        self.experiment_name = _optional("experiment_name", experiment_name, str)
        if self.experiment_name is not None:
            self.experiment_name = clean_experiment(self.experiment_name)
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
        self.record_as = record_as
        if record_as not in (None, RUN, TRACE):
            raise ConfigurationError(
                f"record_as: {record_as!r:.100} is neither {RUN!r} nor {TRACE!r}; leave it out to have what is configured"
            )
        self.span_type = _optional("span_type", span_type, str)
        if span_type is not None and not _SPAN_TYPE.fullmatch(span_type):
            raise ConfigurationError(
                f"span_type: {span_type!r:.100} is not a name in capitals; MLflow knows LLM, CHAT_MODEL, RETRIEVER, CHAIN, TOOL, AGENT, EMBEDDING, RERANKER, PARSER"
            )
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


class Unfit(dict[str, Any]):
    """Arguments of a call that may be refused: what could be made of them."""


class Binder:
    """
    Binds a call's arguments to the function's parameter names.

    Python itself binds: a function with the same parameters is compiled once, which returns them as
    a dict. `inspect.Signature.bind` costs five times as much.
    """

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        target = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
        try:
            parameters = list(inspect.signature(target).parameters.values())
        except (TypeError, ValueError):  # some builtins have none
            parameters = [
                inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
                inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
            ]
        is_function = isinstance(target, types.FunctionType)
        has_self = (
            is_function
            and bool(parameters)
            and parameters[0].name in ("self", "cls")
            and parameters[0].kind in _POSITIONAL
        )
        _check_names(target, parameters, options)
        self.is_exact = (
            is_function and not hasattr(target, "__wrapped__") and not hasattr(target, "__signature__")
        )
        """Whether arguments that bind here are arguments that the function takes."""
        self.function = function
        self._target = target
        self.names = frozenset(p.name for p in parameters)
        self.takes_any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._only = options.only
        self._names = [p.name for p in parameters if p.kind in _POSITIONAL]
        self._has_self = int(is_function)
        self._hidden = options.ignore | ({parameters[0].name} if has_self else set())
        self._unbound = _compile(parameters, options, {parameters[0].name} if has_self else frozenset())
        # wrapt hands over the instance of a method and the arguments after it.
        self._bound = (
            _compile(parameters[1:], options, frozenset()) if is_function and parameters else self._unbound
        )

    def marked(self) -> frozenset[str]:
        """
        Return the arguments that the function's annotations mark with `Redact`, and ``return``.
        Asked at a call: at decoration, names that stand further down are not known yet.
        """
        function = self._target
        while isinstance(function, functools.partial):
            function = function.func
        if not isinstance(function, (types.FunctionType, types.MethodType)):
            function = getattr(type(function), "__call__", function)  # noqa: B004 # it is what is called
        return marked_names([inspect.unwrap(function)])

    def bind(self, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return the arguments by name, defaults applied, *self* left out, ``**kwargs`` flattened;
        nothing for arguments that the call itself will refuse.
        """
        try:
            found: dict[str, Any] = (self._unbound if instance is None else self._bound)(*args, **kwargs)
        except TypeError:
            # The call will be refused; or the function takes more than its signature says, as one
            # under `functools.wraps` may.
            names = self._names if instance is None else self._names[self._has_self :]
            found = dict(zip(names, args, strict=False)) | {
                str(name): value for name, value in kwargs.items()
            }
            found = {name: value for name, value in found.items() if name not in self._hidden}
            return Unfit(self._chosen(found))
        return found if self._only is None else self._chosen(found)

    def _chosen(self, found: dict[str, Any]) -> dict[str, Any]:
        only = self._only
        return found if only is None else {name: value for name, value in found.items() if name in only}


class Named:
    """In the place of a `Binder` where the arguments come by name, and there is no function to take them."""

    is_exact = False

    def marked(self) -> frozenset[str]:
        """Return no names: there are no annotations."""
        return frozenset()

    def bind(self, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments."""
        return dict(kwargs)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _compile(
    parameters: Sequence[inspect.Parameter], options: Options, hidden: Iterable[str]
) -> Callable[..., dict[str, Any]]:
    """
    Return a function with *parameters* that returns them as a dict, without the *hidden* and
    ignored ones.
    """
    signature = inspect.Signature(
        [
            p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else _Default(p.name))
            for p in parameters
        ]
    )
    shown = [p for p in parameters if p.name not in options.ignore and p.name not in hidden]
    named = [f"{p.name!r}: {p.name}" for p in shown if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    body = "{" + ", ".join(named) + "}"
    flatten = "_" * (1 + max((len(p.name) for p in parameters), default=0))  # no parameter's name
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL and p in shown:
            body += f" | ({{{p.name!r}: {p.name}}} if {p.name} else {{}})"
        if p.kind is p.VAR_KEYWORD and p in shown:
            body = f"{flatten}({body}, {p.name!r}, {p.name})"
    scope = {f"_default_{p.name}": p.default for p in parameters if p.default is not p.empty}
    scope |= {"__builtins__": {}, flatten: functools.partial(_flatten, ignore=options.ignore)}
    bind: Callable[..., dict[str, Any]] = eval(f"lambda {str(signature)[1:-1]}: {body}", scope)  # noqa: S307 # of identifiers alone
    return bind


def _flatten(
    found: dict[str, Any], name: str, more: Mapping[str, Any], *, ignore: frozenset[str]
) -> dict[str, Any]:
    """
    Add the arguments of ``**name`` to *found*; one called like a positional-only parameter gets a
    key of its own.
    """
    for key, value in more.items():
        if key not in ignore:
            found[f"{name}.{key}" if key in found else key] = value
    return found


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
            raise ConfigurationError(
                f"{option}: {getattr(target, '__qualname__', target)} has no argument {', '.join(sorted(unknown))}"
            )
