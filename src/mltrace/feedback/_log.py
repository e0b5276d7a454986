"""
`log_feedback`: a word on a call, queued behind it.
"""

from __future__ import annotations

import os
import re
import threading

from typing import Any

import msgspec

from .. import _clock, _guard
from .._calls import Call
from .._config import Active, active, is_enabled
from .._context import RemoteRun
from .._fluent import foreign_run
from .._inert import InertRun
from .._known_types import class_name
from .._numbers import number
from .._records import TRACE_PREFIX, Logged
from .._runs import Run
from .._texts import clean_experiment, clean_text
from ..exceptions import ConfigurationError, SpoolFull
from ._entries import NAME_LIMIT, SOURCE_LIMIT, Entry, as_json, assessment, fitted, metrics, tags
from ._moments import Moment, milliseconds


_HEX32 = re.compile(r"[0-9a-f]{32}")
_TRACE = re.compile(rf"{TRACE_PREFIX}([0-9a-f]{{32}})")
_EXACT = 1 << 53  # integers up to here are floats without loss


def log_feedback(
    run_or_id: Run | Call | str,
    *,
    name: str = "rating",
    value: Any = None,
    text: str | None = None,
    corrected: str | None = None,
    source: str | None = None,
    experiment_name: str | None = None,
    timestamp: Moment | None = None,
) -> bool:
    """
    Record what somebody said of a call, also long after it and in another process; returns at once.

    There is one feedback per call, *name* and *source*: the same again is one, another one replaces
    it whole. On a run it is tags and a metric, on a trace an assessment of MLflow's. Give *timestamp*
    where a client may send the same twice to several processes: the metric's point is then the same
    too.

    Args:
        run_or_id: The `Run` or `Call`, or its `feedback_id`: 32 hex digits for a run, ``tr-…`` for a
            trace. A `Run` that is a span within a trace has feedback of its own.

        name: What is judged; "rating" is what `RetrainingPipeline` reads. MLflow: the tag
            ``feedback.<name>``, with the hash of *source* behind it where there is one, as JSON.

        value: A number, True or False, or a text. MLflow: a number is the metric
            ``feedback.<name>`` too, of which the point with the latest time counts.

        text: What was said in words. MLflow: in the tag; the last one is also the tag
            ``user_feedback``. On a trace: the assessment's rationale.

        corrected: What the answer should have been. On a trace: the assessment's metadata
            ``corrected``.

        source: Who said it: a user, a reviewer, a program. On a trace: the assessment's source, of
            type HUMAN.

        experiment_name: The experiment of the call, where only its id is given and it is not the
            configured one: delivery looks for it there. A trace is found without.

        timestamp: When it was said: ISO 8601, `datetime`, or seconds since the epoch (now).

    Returns:
        Whether it was recorded: not where mltrace is off, nor for what is no call's id.

    Raises:
        ConfigurationError: A *name*, *timestamp* or *experiment_name* that cannot be used, or
            nothing said: neither *value*, *text* nor *corrected*.
    """
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT:
        raise ConfigurationError(f"name: {name!r:.100} is not a text of 1 to {NAME_LIMIT} characters")
    if experiment_name is not None and not isinstance(experiment_name, str):
        raise ConfigurationError(f"experiment_name: {experiment_name!r:.100} is not a text")
    if value is None and text is None and corrected is None:
        raise ConfigurationError("value, text, corrected: one of them is needed, or nothing was said")
    when = None if timestamp is None else milliseconds(timestamp)
    if not is_enabled():
        return False
    run: Run | None = None
    try:
        run, trace = _call(run_or_id, experiment_name)
        if run is None or isinstance(run, InertRun):
            return False
        said = _entry(run, name, value, text, corrected, source)
        said = msgspec.structs.replace(said, time=_memory(run._config).when(run.id, said, when))
        if trace is not None:
            run._backend.emit(
                assessment(said, run.id, trace, run.experiment)
            )  # a span that has ended takes no more
        else:
            _record(run, said)
    except (SpoolFull, ConfigurationError):
        raise
    except Exception as error:
        _guard.internal_error("log_feedback", error, run.hide if run is not None else None)
        return False
    return True


def _call(run_or_id: Any, experiment_name: str | None) -> tuple[Run | None, str | None]:
    """Return a handle on the call, and its trace where it is a span; None, with a warning, for what is no call."""
    if isinstance(run_or_id, Call):
        run_or_id = run_or_id.run
    if isinstance(run_or_id, Run):
        return run_or_id, run_or_id.trace_id if run_or_id.is_span else None
    uid = run_or_id if isinstance(run_or_id, str) else ""
    if (trace := _TRACE.fullmatch(uid)) is not None:
        # A trace has the id of its top span; what is said of it is delivered wherever it is.
        return foreign_run(RemoteRun(trace[1], active().experiment, trace[1])), trace[1]
    if _HEX32.fullmatch(uid):
        experiment = clean_experiment(experiment_name) if experiment_name else active().experiment
        return foreign_run(RemoteRun(uid, experiment, uid)), None
    _guard.misuse(
        "feedback:id",
        f"log_feedback: a {class_name(type(run_or_id))} was given that is no call's id (32 hex digits, or tr- and"
        " 32 hex digits, as Run.feedback_id); the feedback is not recorded",
    )
    return None, None


def _entry(run: Run, name: str, value: Any, text: Any, corrected: Any, source: Any) -> Entry:
    """Return what was said, without secrets, at no time yet."""
    secrets = run._secrets
    field = run._renderer.field

    def rendered(key: str, said: Any) -> str | None:
        return None if said is None else field(key, said, secrets)

    found: Any = value if isinstance(value, bool) else number(value)
    if found is None or run._renderer.redactor.is_secret_name(name):
        found = rendered(name, value)
    elif isinstance(found, float) and found - found != 0.0:
        found = str(found)  # JSON has no such number, and no mean is made of it
    elif isinstance(found, float) and found.is_integer() and abs(found) < _EXACT:
        found = int(found)
    said = rendered("source", source)
    return Entry(
        name=clean_text(run.hide(name)),
        time=0,
        value=found,
        text=rendered("feedback_text", text),
        corrected=rendered("corrected_answer", corrected),
        source=said if said is None else said[:SOURCE_LIMIT],
    )


def _record(run: Run, entry: Entry) -> None:
    fits = fitted(entry)
    if fits.whole is not None:
        run._keep(fits.whole, as_json(entry))
    # With its experiment always: who reads the spool has to know where a run is that started earlier.
    run.emit(
        Logged(run=run.id, time=run._now(), metrics=metrics(fits), tags=tags(fits), experiment=run.experiment)
    )


class _Said:
    """
    What this process has recorded lately: the same again has the same time, so that it is the same
    record, and another one a later time, so that its metric's point is the last.
    """

    LIMIT = 10_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], Entry] = {}
        self._times: dict[tuple[str, str], int] = {}

    def when(self, uid: str, said: Entry, given: int | None) -> int:
        """Return the time of what was *said* of the call *uid*: the *given* one, if any."""
        key, point = (uid, said.key), (uid, said.metric)
        with self._lock:
            last = self._last.pop(key, None)
            latest = self._times.pop(point, -1)
            if given is not None:
                when = given
            elif last is not None and msgspec.structs.replace(last, time=0) == said:
                when = last.time
            else:
                when = max(_clock.moment()[0], latest + 1)
            self._last[key] = msgspec.structs.replace(said, time=when)
            self._times[point] = max(when, latest)
            for memory in (self._last, self._times):
                while len(memory) > self.LIMIT:
                    del memory[next(iter(memory))]
        return when


_said: tuple[Active | None, _Said] = (None, _Said())


def _memory(config: Active) -> _Said:
    """Return what was said under *config*: another one may lead elsewhere, and tests count their ids anew."""
    global _said
    if _said[0] is not config:
        _said = (config, _Said())
    return _said[1]


def _after_fork_in_child() -> None:
    """Forget what the parent has said: another thread may have been in the middle of it."""
    global _said
    _said = (None, _Said())


os.register_at_fork(after_in_child=_after_fork_in_child)
