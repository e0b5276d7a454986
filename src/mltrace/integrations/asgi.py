"""
Every request of an ASGI application (FastAPI, Starlette, Django, Quart, …) as a run.

::

    app = FastAPI()
    app.add_middleware(TracingMiddleware, exclude=("/health", "/internal/*"))

The middleware counts what passes and changes nothing but the response's headers: messages go on as
they come, one by one, and what is logged in the handler, and runs that begin there, nest under the
request's run. No framework is imported; what a router says is read from the ASGI scope.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from .. import _clock, _guard
from .._binding import Options
from .._config import is_enabled
from .._context import carrier, get_current, reset_current, set_current
from .._instrument import Tags, output_text
from .._records import FAILED, FINISHED
from .._runs import Run
from .._values import as_json
from ._requests import (
    HeaderChoice,
    LateStart,
    Naming,
    RequestInstrument,
    Scope,
    arguments_of,
    caller_of,
    checked_template,
    header_name,
    texts,
)


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

EXCLUDED = ("/health", "/healthz", "/livez", "/ready", "/readyz", "/metrics", "/favicon.ico")
"""Paths that probes and scrapers ask for, again and again."""

_FROM_FILES = {"http.response.pathsend", "http.response.zerocopysend"}
_CLOSED: Tags = {"mltrace.stream": "closed"}
_INCOMPLETE: Tags = {"mltrace.error.message": "the application returned before its response was complete"}


class TracingMiddleware:
    """
    Make each HTTP request a run of kind ``request``; websockets and the lifespan pass untouched.

    MLflow holds the params ``method``, ``route`` (the router's template, as ``/items/{item_id}``),
    ``path``, ``query`` and ``client`` (its address), redacted as arguments are; the metrics
    ``latency_ms``, ``status_code``, ``request_bytes``, ``response_bytes`` and
    ``time_to_first_byte_ms`` (of the body, where it has one). The status is FAILED after an
    exception of the application or an answer of 500 and above. One that raised before it answered
    has no ``status_code``: what the client got was decided elsewhere.

    The run ends when the last byte has been handed to the server, before background tasks. One
    whose client left early is FINISHED with the tag ``mltrace.stream=closed``. A request that dies
    with its process before it began its answer, and before anything was logged, leaves no run: its
    name is not known until then.

    A request nests under the run that its headers name (those of `mltrace.carrier`), else under
    the run that is current where the application is called.

    Args:
        app: The ASGI application.

        run_name: Name of the run: a `str.format` template over ``method``, ``route`` and ``path``.
            Where no route matched, ``route`` is empty.

        exclude: Paths without a run; one that ends in ``*`` stands for all that begin with it.

        capture_headers: Headers to keep, all or those of these names, secrets hidden: MLflow's tags
            ``mltrace.request_headers`` and ``mltrace.response_headers``.

        propagate: Whether the caller's headers are taken up, and ``traceparent`` is added to the
            response. False for a service that strangers call: with such headers they choose the
            parent and experiment of its runs, and whether they are sampled.

        run_header: Name of the response header with the run's id, for feedback on it; None for none. A
            request that is not sampled has none.

        experiment_name, tags, sample_rate: As for `mltrace.track_run`.

        record_as: Passed on to the run's options.

    Raises:
        ConfigurationError: An option that cannot be used.
    """

    def __init__(
        self,
        app: App,
        *,
        run_name: str = "{method} {route}",
        exclude: Iterable[str] = EXCLUDED,
        capture_headers: bool | Iterable[str] = False,
        propagate: bool = True,
        run_header: str | None = "x-mltrace-run",
        experiment_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        sample_rate: float | None = None,
        record_as: Any = None,
    ) -> None:
        more = {} if record_as is None else {"record_as": record_as}
        options = Options(
            kind="request", experiment_name=experiment_name, tags=tags, sample_rate=sample_rate, **more
        )
        self._app = app
        self._instrument = RequestInstrument(options)
        self._name = checked_template(run_name)
        excluded = texts("exclude", exclude)
        self._excluded = {path for path in excluded if not path.endswith("*")}
        self._excluded_below = tuple(path[:-1] for path in excluded if path.endswith("*"))
        self._headers = HeaderChoice(capture_headers)
        self._propagates = propagate
        self._run_header = None if run_header is None else header_name("run_header", run_header)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and record it."""
        exchange = self._begin(scope, receive, send) if self._is_recorded(scope, send) else None
        if exchange is None:
            await self._app(scope, receive, send)
            return
        token = set_current(exchange.run)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.fail(error)
            raise
        else:
            exchange.leave()
        finally:
            reset_current(token)

    def _is_recorded(self, scope: Scope, send: Send) -> bool:
        if scope["type"] != "http" or not is_enabled():
            return False
        if isinstance(getattr(send, "__self__", None), Exchange):  # the middleware was applied twice
            return False
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        return path not in self._excluded and not path.startswith(self._excluded_below)

    def _begin(self, scope: Scope, receive: Receive, send: Send) -> Exchange | None:
        """Return the request with its run begun; None where mltrace itself failed."""
        outside = get_current()
        caller = caller_of(scope) if self._propagates else None
        token = set_current(outside if caller is None else caller)
        try:
            run = self._instrument.prepare(None, (), arguments_of(scope, self._headers))
            late = LateStart(run._backend, Naming(self._name, scope, run))
            run._backend = late
            run.begin(call=True)
            added = self._added_headers(run)
        except Exception as error:
            _guard.internal_error("the start of a request", error)
            return None
        finally:
            reset_current(token)
        return Exchange(run, late, receive, send, outside, added, self._headers)

    def _added_headers(self, run: Run) -> list[tuple[bytes, bytes]]:
        added = []
        if self._propagates:
            token = set_current(run)
            try:
                added.append((b"traceparent", carrier()["traceparent"].encode()))
            finally:
                reset_current(token)
        if self._run_header is not None and run.sampled:
            added.append((self._run_header, run.id.encode()))
        return added


class Exchange:
    """
    One request and its response as they pass; `receive` and `send` are what the application gets.

    The server's own code runs under what was current outside: callbacks that it makes on the way
    (to read on, to serve what is next on the connection) would else carry this run to the requests
    of others.
    """

    def __init__(
        self,
        run: Run,
        late: LateStart,
        receive: Receive,
        send: Send,
        outside: Any,
        added: list[tuple[bytes, bytes]],
        headers: HeaderChoice,
    ) -> None:
        self.run = run
        self._late = late
        self._receive = receive
        self._send = send
        self._outside = outside
        self._added = added
        self._headers = headers
        self._tags: Tags = {}
        self._status: int | None = None
        self._request_bytes = 0
        self._response_bytes: int | None = 0
        """None where the server reads them from a file."""
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._trailers = False
        self._left = False
        """Whether the server said that the client had left before it had the last byte."""
        self._gone: BaseException | None = None
        """What the server raised as the client had left."""

    async def receive(self) -> Message:
        """Return the server's next message."""
        token = set_current(self._outside)
        try:
            message = await self._receive()
        finally:
            reset_current(token)
        try:
            self._received(message)
        except Exception as error:
            _guard.internal_error("counting a request", error)
        return message

    async def send(self, message: Message) -> None:
        """Hand a message to the server."""
        passed = self._completed(message)
        token = set_current(self._outside)
        try:
            await self._send(passed)
        except OSError as error:
            self._gone = error
            raise
        finally:
            reset_current(token)
        try:
            self._sent(message)
        except Exception as error:
            _guard.internal_error("counting a response", error)

    def _received(self, message: Message) -> None:
        if message["type"] == "http.request":
            self._request_bytes += len(message.get("body", b""))
        elif self._last_ns is None:
            self._left = message["type"] == "http.disconnect"

    def _completed(self, message: Message) -> Message:
        """Return *message*; the response's start with the headers that are added, unless it has them."""
        try:
            if message["type"] != "http.response.start" or self._last_ns is not None:
                return message  # what starts after the last byte is no response to this request
            self._status = message["status"]
            self._trailers = message.get("trailers", False)
            self._late.release()
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            if self._headers:
                kept = self._headers.of(headers)
                self._tags["mltrace.response_headers"] = output_text(self.run, kept, "response_headers.json")
            present = {name.lower() for name, _ in headers}
            added = [header for header in self._added if header[0] not in present]
            return {**message, "headers": [*headers, *added]} if added else message
        except Exception as error:
            _guard.internal_error("the start of a response", error, self.run.hide)
            return message

    def _sent(self, message: Message) -> None:
        """Count what was sent; end the run with the last of it."""
        kind = message["type"]
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if kind == "http.response.body":
            self._count(len(body))
        elif kind in _FROM_FILES:
            self._response_bytes = None
        elif kind == "http.response.trailers":
            self._trailers = more = message.get("more_trailers", False)
        else:
            return
        if self._first_ns is None and (body or not more):
            self._first_ns = _clock.elapsed_ns()
        if not more and not self._trailers and self._last_ns is None:
            self._last_ns = _clock.elapsed_ns()
            if not self._is_failure:  # else the exception is still to come
                self._finish(FINISHED, {})

    def _count(self, size: int) -> None:
        if self._response_bytes is not None:
            self._response_bytes += size

    @property
    def _is_failure(self) -> bool:
        return self._status is not None and self._status >= 500

    def leave(self) -> None:
        """End the run, if it has not ended: the application has returned."""
        if self._is_failure:
            self._finish(FAILED, {})
        elif self._last_ns is None:
            self._finish(*((FINISHED, _CLOSED) if self._left or self._gone else (FAILED, _INCOMPLETE)))

    def fail(self, error: BaseException) -> None:
        """End the run, if it has not ended: the application has raised, maybe only as the client had left."""
        if self._gone is not None and not self._is_failure and _came_from(error, self._gone):
            self._finish(FINISHED, _CLOSED)
        elif self.run.is_open:
            status, _, tags = self.run.failure(error)
            self._finish(status, tags)

    def _finish(self, status: str, tags: Tags) -> None:
        run = self.run
        began, first, last = run._start_ns, self._first_ns, self._last_ns
        metrics = {
            "status_code": self._status,
            "request_bytes": self._request_bytes,
            "response_bytes": self._response_bytes,
            "time_to_first_byte_ms": None if first is None else (first - began) / 1e6,
        }
        if run._whole is not None:
            self._keep(run._whole)
            run._whole = None
        run.finish(
            status,
            [(name, value) for name, value in metrics.items() if value is not None],
            {**self._tags, **tags},
            latency_ms=None if last is None else (last - began) / 1e6,
        )

    def _keep(self, whole: Tags) -> None:
        """Keep whole what did not fit its field: now, for the start would have gone out before it had its name."""
        try:
            self.run._keep_own(RequestInstrument.overflow, as_json(whole))
        except Exception as error:
            _guard.internal_error("keeping a request", error, self.run.hide)


def _came_from(error: BaseException, cause: BaseException) -> bool:
    """Say whether *error* is *cause*, or was raised while that was handled."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        if found is cause:
            return True
        seen.add(id(found))
        found = found.__cause__ or found.__context__
    return False
