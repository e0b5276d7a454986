"""
Which run is current: the only owner of the context variable, and how it travels.

Tasks, `asyncio.to_thread` and copied contexts inherit the current run, as contextvars do. A bare
thread or an executor does not: `wrap` carries it there. Other processes and hosts take it up from a
`carrier`, a small dict of strings.

contextvars-extras holds the variable; its upstream is frozen, so nothing outside this module knows
of it.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import json
import os
import re
import threading

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar, Union, cast

import msgspec

from contextvars_extras import ContextVarsRegistry

from . import _guard
from ._checks import is_span_id, is_trace_id
from ._records import TRACE


P = ParamSpec("P")
T = TypeVar("T")

ENVIRONMENT = "MLTRACE_CARRIER"
_HEX32 = re.compile(r"[0-9a-f]{32}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


_TRACEPARENT_LENGTH = 55


class RemoteRun(msgspec.Struct, frozen=True):
    """
    A run of another process or host that new runs nest under: its uid, experiment and trace, and
    whether its tree is recorded.

    *is_span*: it is a span of that trace. One with a *traceparent* is another tracer's, *id* its span's
    16 digits.
    """

    id: str
    experiment: str
    trace_id: str
    sampled: bool = True
    is_span: bool = False
    traceparent: Union[str, None] = None


class _Current(ContextVarsRegistry):  # type: ignore[misc] # contextvars-extras has no types
    run: Any = None


_variable: contextvars.ContextVar[Any] = _Current.run.context_var
get_current: Callable[[], Any] = _variable.get
"""Return the current run of this context: a `Run`, a `RemoteRun`, or None."""
set_current: Callable[[Any], Any] = _variable.set
restore_current: Callable[[Any], None] = _variable.reset
"""Make the run before `set_current` current again, in the same context."""

_environ: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
_ENVIRONMENT_KEY: Any = os.environ.encodekey(ENVIRONMENT) if _environ is not os.environ else ENVIRONMENT
_from_environment: tuple[Any, RemoteRun | None] = (None, None)


def reset_current(token: Any) -> None:
    """
    Make the run before `set_current` current again; a coroutine resumed in another context has
    nothing to restore there.
    """
    try:
        restore_current(token)
    except ValueError:
        return


_ambient: Any = None
_MAIN = threading.main_thread().ident


def get_ambient() -> Any:
    """
    Return the run opened by hand at module level: notebooks may give each cell a context of its
    own.
    """
    return _ambient


def set_ambient(run: Any) -> None:
    """Set or forget the run opened by hand at module level."""
    global _ambient
    _ambient = run


def enclosing() -> Any:
    """Return the run that a new one nests under, a `Run` or a `RemoteRun`, or None."""
    run = get_current()
    if run is None:
        run = _ambient if _ambient is not None and threading.get_ident() == _MAIN else inherited()
    return run or None  # an inert run is false


def _after_fork_in_child() -> None:
    global _MAIN
    _MAIN = threading.get_ident()


os.register_at_fork(after_in_child=_after_fork_in_child)


def inherited() -> RemoteRun | None:
    """
    Return the run that the environment variable ``MLTRACE_CARRIER`` names: the parent of this
    process's root runs.
    """
    global _from_environment
    raw = _environ.get(_ENVIRONMENT_KEY)
    if not raw:
        return None
    if _from_environment[0] != raw:
        _from_environment = (raw, _parse_environment(os.environ.get(ENVIRONMENT, "")))
    return _from_environment[1]


def _parse_environment(text: str) -> RemoteRun | None:
    try:
        return parse_carrier(json.loads(text))
    except ValueError as error:
        _guard.misuse(
            "carrier",
            f"{ENVIRONMENT} is not a carrier as mltrace.carrier() makes it ({error}); runs of this process have no parent",
        )
        return None


def carrier() -> dict[str, str]:
    """
    Return the current run as a small dict of strings for another process or host; empty where there
    is none.

    Keys: ``mltrace-run`` (the uid), ``mltrace-experiment``, ``mltrace-record-as`` for a span, and
    ``traceparent`` as of W3C Trace Context, which other tracers understand. Take it up with `attach`, or put it as JSON into the environment variable
    ``MLTRACE_CARRIER`` of a subprocess.
    """
    run = enclosing()
    if run is None:
        return {}
    if type(run) is RemoteRun and run.traceparent is not None:
        return {"traceparent": run.traceparent}
    return {
        "mltrace-run": run.id,
        "mltrace-experiment": run.experiment,
        **({"mltrace-record-as": TRACE} if run.is_span else {}),
        "traceparent": f"00-{run.trace_id}-{run.id[:16]}-{'01' if run.sampled else '00'}",
    }


def parse_carrier(found: Any) -> RemoteRun | None:
    """
    Return the run, or another tracer's span, that a carrier names; None for an empty one,
    `ValueError` for anything that is not a carrier.
    """
    if not isinstance(found, Mapping):
        raise ValueError("a mapping of strings is needed")
    if not found:
        return None
    header = str(found.get("traceparent", ""))
    trace_id, span_id, sampled = _parse_traceparent(header)
    if not any(str(key).startswith("mltrace-") for key in found):
        return RemoteRun(span_id, "", trace_id, sampled, traceparent=header)
    uid, experiment = found.get("mltrace-run"), found.get("mltrace-experiment")
    if not isinstance(uid, str) or not _HEX32.fullmatch(uid) or not isinstance(experiment, str):
        raise ValueError("mltrace-run, mltrace-experiment and traceparent are needed")
    is_span = found.get("mltrace-record-as") == TRACE
    return RemoteRun(uid, experiment, trace_id, sampled, is_span)


def _parse_traceparent(header: str) -> tuple[str, str, bool]:
    """
    Return trace, span, and whether it is sampled, as W3C Trace Context has them; of a version that is
    not known yet what version 00 has too.
    """
    found = _TRACEPARENT.fullmatch(header)
    if found is None or found[1] == "ff" or (found[1] == "00" and len(header) > _TRACEPARENT_LENGTH):
        raise ValueError("traceparent, and mltrace-run and mltrace-experiment beside it, are needed")
    if not is_trace_id(found[2]) or not is_span_id(found[3]):
        raise ValueError("the ids of a traceparent are not all zeros")
    return found[2], found[3], bool(int(found[4], 16) & 1)


@contextlib.contextmanager
def attach(carrier: Mapping[str, str]) -> Iterator[None]:
    """
    Make the run that *carrier* names current in this block: new runs nest under it, and logging
    goes to it.

    A carrier that has a W3C ``traceparent`` alone is another tracer's: a new trace continues it, and
    a new run is a root with the tag ``mltrace.traceparent``.

    An empty carrier attaches nothing. One that is malformed is warned about once, and attaches
    nothing either.
    """
    try:
        remote = parse_carrier(carrier)
    except ValueError as error:
        _guard.misuse(
            "carrier", f"attach: not a carrier as mltrace.carrier() makes it ({error}); nothing is attached"
        )
        remote = None
    if remote is None:
        yield
        return
    token = set_current(remote)
    try:
        yield
    finally:
        reset_current(token)


def wrap(function: Callable[P, T]) -> Callable[P, T]:
    """
    Return *function* so that it runs under the run that is current now, in whatever thread it is
    called.

    For threads and executors, which do not inherit context: ``pool.map(mltrace.wrap(work),
    items)``. Only the run travels, not the whole context: one context cannot be entered by two
    threads at once. Coroutine functions stay coroutine functions.
    """
    run = enclosing()

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def carried_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            token = set_current(run)
            try:
                return await function(*args, **kwargs)
            finally:
                reset_current(token)

        return cast("Callable[P, T]", carried_async)

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def carried_steps(*args: P.args, **kwargs: P.kwargs) -> Any:
            steps = function(*args, **kwargs)
            step, sent = steps.send, None
            while True:
                token = set_current(run)
                try:
                    item = step(sent)
                except StopIteration as stop:
                    return stop.value
                finally:
                    reset_current(token)
                try:
                    step, sent = steps.send, (yield item)
                except BaseException as error:
                    step, sent = steps.throw, error

        return cast("Callable[P, T]", carried_steps)

    @functools.wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> T:
        token = set_current(run)
        try:
            return function(*args, **kwargs)
        finally:
            reset_current(token)

    return carried
