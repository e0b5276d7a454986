"""
What an HTTP request says of itself, and its run until the router has chosen a handler.
"""

from __future__ import annotations

import threading

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from .. import _guard
from .._binding import Named, Options
from .._context import RemoteRun, parse_carrier
from .._instrument import Instrument
from .._records import Record, RunStarted
from .._runs import Run
from .._texts import NAME_LIMIT, PARAM_LIMIT, clean_text, fit
from ..backends import Backend
from ..exceptions import ConfigurationError


Scope = MutableMapping[str, Any]
Headers = Iterable[tuple[bytes, bytes]]

_QUERY_FIELDS = 100
_CARRIER = {b"mltrace-run", b"mltrace-experiment", b"mltrace-record-as", b"traceparent"}


# Options.


def texts(option: str, values: Any) -> list[str]:
    """Return *values* as a list; `ConfigurationError` where they are not several texts."""
    found = None if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if found is None or not all(isinstance(value, str) for value in found):
        raise ConfigurationError(f"{option}: {values!r:.100} is not a collection of texts")
    return found


def checked_template(template: Any) -> str:
    """Return *template*; `ConfigurationError` where a request could not fill it."""
    try:
        if isinstance(template, str):
            template.format(method="GET", route="/", path="/")
            return template
    except (LookupError, ValueError, AttributeError):
        pass
    wanted = "a template of {method}, {route}, {path}"
    raise ConfigurationError(f"run_name: {template!r:.100} is not {wanted}")


def header_name(option: str, name: Any) -> bytes:
    """Return *name* as ASGI writes it; `ConfigurationError` where no header is called so."""
    if isinstance(name, str) and name.isascii() and name.replace("-", "").replace("_", "").isalnum():
        return name.lower().encode()
    raise ConfigurationError(f"{option}: {name!r:.100} is not the name of a header")


class HeaderChoice:
    """Which headers are kept: all, none, or those of some *names*."""

    def __init__(self, names: bool | Iterable[str]) -> None:
        self._all = names is True
        chosen = () if isinstance(names, bool) else texts("capture_headers", names)
        self._names = frozenset(name.lower() for name in chosen)

    def __bool__(self) -> bool:
        return self._all or bool(self._names)

    def of(self, headers: Headers) -> dict[str, str]:
        """Return the chosen *headers* by name; one that is there several times is joined by commas."""
        found: dict[str, str] = {}
        for raw_name, raw_value in headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            if self._all or name in self._names:
                found[name] = f"{found[name]}, {value}" if name in found else value
        return found


# What a request says.


def caller_of(scope: Scope) -> RemoteRun | None:
    """
    Return the run that the request's headers name; None where they name none, or nonsense, as
    anybody may send it.
    """
    try:
        headers = scope.get("headers", ())
        found = {name.decode(): value.decode("latin-1") for name, value in headers if name in _CARRIER}
        return parse_carrier(found)
    except Exception:
        return None


def arguments_of(scope: Scope, headers: HeaderChoice) -> dict[str, Any]:
    """Return what `RequestInstrument` takes for the arguments of a request; None for what it lacks."""
    query = scope.get("query_string", b"")
    client = scope.get("client")
    return {
        "method": scope.get("method"),
        "path": scope.get("path"),
        "query": _query(query.decode("latin-1")) if query else None,
        "client": client[0] if client else None,
        "headers": headers.of(scope.get("headers", ())) if headers else None,
    }


def _query(text: str) -> Any:
    """Return the fields of a query by name, for each is redacted by its name; several of one as a list."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_QUERY_FIELDS)
    except ValueError:
        return f"more than {_QUERY_FIELDS} fields"
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def route_of(scope: Scope, root_path: str) -> str:
    """
    Return the template of the route that the router chose, behind the mounts that lead there from
    *root_path*; empty where there is none.

    Starlette and FastAPI put the route into the scope. Recent FastAPI keeps the prefix of included
    routers beside it, in a scope of its own.
    """
    route = scope.get("route")
    beside = scope.get("fastapi")
    effective = beside.get("effective_route_context") if isinstance(beside, Mapping) else None
    path = getattr(effective, "path", None) or getattr(route, "path", None)
    mounts = str(scope.get("root_path", "")).removeprefix(root_path)
    if not isinstance(path, str) or hasattr(
        route, "routes"
    ):  # the latter is a mount, which is among the mounts
        path = "/{path}" if mounts else ""
    if mounts:  # with the values of this request in the place of names
        names = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
        mounts = "/".join(names.get(part, part) for part in mounts.split("/"))
    return mounts + path


# The run.


class RequestInstrument(Instrument):
    """A request: its parts are params, its headers a tag."""

    splits = True

    def __init__(self, options: Options) -> None:
        super().__init__(options, Named())

    def split(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Leave out what the request does not have."""
        headers = inputs.pop("headers")
        tags = {} if headers is None else {"mltrace.request_headers": headers}
        return {name: value for name, value in inputs.items() if value is not None}, tags


class Naming:
    """Gives a start its name and route, which the router knows some time after the request began."""

    def __init__(self, template: str, scope: Scope, run: Run) -> None:
        self._template = template
        self._scope = scope
        self._root_path = scope.get("root_path", "")
        self._run = run

    def __call__(self, start: RunStarted) -> RunStarted:
        """Return *start* completed; as it is where that fails."""
        run, params = self._run, start.params
        try:
            route = route_of(self._scope, self._root_path)
            if route:
                params = {**params, "route": fit(run.hide(clean_text(route)), PARAM_LIMIT, None)}
            method, path = params.get("method", ""), params.get("path", "")
            name = self._template.format(method=method, route=route, path=path).strip() or method
            run.name = run.hide(clean_text(name))[:NAME_LIMIT]
            run._params = params
        except Exception as error:
            _guard.internal_error("the name of a request", error, run.hide)
        return msgspec.structs.replace(start, name=run.name, params=params)


class LateStart:
    """
    The backend of a request's tree: holds the request's start back until the first record behind
    it, or `release`; by then the handler is known.
    """

    def __init__(self, backend: Backend, complete: Callable[[RunStarted], RunStarted]) -> None:
        self._backend = backend
        self._complete = complete
        self._start: RunStarted | None = None
        self._lock = threading.Lock()  # a handler's threads: none may overtake the start
        self._released = False

    def begin(self, start: RunStarted) -> None:
        """Hold the request's own start back; pass on those below it."""
        if self._start is None:
            self._start = start
            return
        self.release()
        self._backend.begin(start)

    def emit(self, record: Record) -> None:
        """Pass on *record*, behind the start."""
        self.release()
        self._backend.emit(record)

    def release(self) -> None:
        """Let the start go, once."""
        if self._released:
            return
        with self._lock:
            if not self._released and self._start is not None:
                self._backend.begin(self._complete(self._start))
                self._released = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)
