"""
Runs as user code holds them: `Run`.

A run is started, logged to and ended by emitting records to the backend that was in force when its
tree began. It keeps what truthful records need: which params it has (MLflow's are write-once),
which metric points (see `_points`), which secrets it has hidden.
"""

from __future__ import annotations

import os
import threading

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, cast

from . import _clock, _emitter, _guard
from ._artifacts import files_of, picture
from ._config import Active
from ._context import RemoteRun, get_ambient, get_current, set_ambient, set_current
from ._emitter import Emitter
from ._errors import error_texts
from ._forms import text_of
from ._known_types import class_name, qualified_name
from ._models import LoggedModel, as_logged, check_options, keep
from ._numbers import INTEGER_LIMIT, integer, number
from ._points import Points
from ._records import (
    DROPPED_TAG,
    FAILED,
    FINISHED,
    KILLED,
    TRACE,
    TRACE_PREFIX,
    Logged,
    Metric,
    RunEnded,
    RunStarted,
    wire_number,
)
from ._sampling import Withheld
from ._spans import Trace
from ._texts import PARAM_LIMIT, TAG_LIMIT, WHOLE_LIMIT, clean_key, clean_text, fit
from ._values import as_json
from .backends import Backend
from .exceptions import ConfigurationError, SpoolFull


_STATUSES = (FINISHED, FAILED, KILLED)
_MAIN = threading.main_thread().ident

# The main thread's latest root: what a bare thread may have meant to nest under.
_root_of_main: Run | None = None


def _forked() -> None:
    global _MAIN
    _MAIN = threading.get_ident()


os.register_at_fork(after_in_child=_forked)


class Run(Emitter):
    """
    One run: a call, a block, or a notebook cell. Made by `track_run` and its kin, `start_run`, or
    `current_run`.

    Every method may be called from any thread, returns at once, and never raises outside strict
    mode; save where ``on_full`` says to wait for a full spool, or to raise `SpoolFull`.

    Attributes:
        id: 32 hex digits, usable at once; on the server it is the tag ``mltrace.uid``.

        parent_id: The enclosing run's `id`, or None.

        name: The run's name in MLflow.

        kind: ``run``, ``training``, ``llm_call``, ``prediction``, ``evaluation``; the tag
            ``mltrace.kind``.

        experiment: Name of the experiment.

        sampled: Whether the tree is recorded.

        is_span: Whether it is recorded as a span of a trace.
    """

    # What most runs have in common stays on the class: setting an attribute costs the caller.
    parent_id: str | None = None
    sampled = True
    _root_id: str | None = None
    _parent_experiment: str | None = None
    _span_type: str | None = None
    _points: Points | None = None
    _whole: dict[str, str] | None = None
    _outer: Any = None
    _above: Any = None  # the run around, where MLflow's active run may be that one: see `_joint`
    _joint: list[Any] | None = None  # MLflow's active runs in here
    _unfit = False  # the call's arguments are not those of its function

    def __init__(
        self,
        name: str,
        kind: str,
        parent: Any,
        config: Active,
        params: dict[str, str],
        tags: dict[str, str],
        secrets: list[str],
        experiment: str | None = None,
        sample_rate: float | None = None,
        record_as: str | None = None,
        span_type: str | None = None,
    ) -> None:
        """
        Prepare a run under *parent* (see `enclosing`) from rendered *params* and *tags*; `begin`
        starts it.
        """
        self.id = _clock.run_id()
        self.name = name
        self.kind = kind
        self._params = params
        self._tags = tags
        self._secrets = secrets
        self._config = config
        self._generation = _emitter.generation
        # Emptied by whoever ends the run: popping is atomic, so that the consumer, the garbage
        # collector and another thread end it once.
        self._open = [None]
        if parent is None:
            self.experiment = experiment or config.experiment
            self._backend = config.backend
            rate = config.sample_rate if sample_rate is None else sample_rate
            if rate < 1.0 and _clock.chance() >= rate:
                self._withhold()
        else:
            self._nest(parent, config, experiment)
        if (parent is not None and parent.is_span) or (
            record_as == TRACE if record_as is not None else config.traced and kind in config.traced
        ):
            self._become_span(parent, span_type)

    def _nest(self, parent: Any, config: Active, experiment: str | None) -> None:
        self.parent_id = parent.id
        self._above = parent
        self._root_id = parent.trace_id
        self.experiment = experiment or parent.experiment or config.experiment
        if type(parent) is RemoteRun:
            self._backend = config.backend
            if parent.traceparent is not None:
                self.parent_id = None  # no run, so it is no run's parent
                self._tags = {**self._tags, "mltrace.traceparent": parent.traceparent}
            elif parent.experiment != self.experiment:
                self._parent_experiment = parent.experiment
            if not parent.sampled:
                self._withhold()
            return
        self._backend = parent._backend
        if not parent.sampled:
            self.sampled = False

    def _become_span(self, parent: Any, span_type: str | None) -> None:
        """Be a span: of the trace of *parent*, if that is a span, or of a trace that belongs to it."""
        self.is_span, self._span_type = True, span_type
        if parent is None:
            self._trace = Trace(self.id)
        elif parent.is_span:
            self._trace = Trace(parent.trace_id) if type(parent) is RemoteRun else parent._trace
            if parent.experiment and parent.experiment != self.experiment:
                _guard.warn_once(
                    f"experiment of span:{self.experiment}",
                    f"experiment_name={self.experiment!r} of a span below another is not heeded: a trace is in one experiment",
                )
                self.experiment = parent.experiment
        elif type(parent) is RemoteRun and parent.traceparent is not None:
            self._trace, self.parent_id = Trace(parent.trace_id), parent.id
        else:
            self._trace = Trace(self.id, parent.id, parent.experiment)

    def _withhold(self) -> None:
        self.sampled = False
        self._backend = cast("Backend", Withheld(self._backend))

    def begin(self, started: tuple[int, int] | None = None, *, call: bool = False) -> Run:
        """
        Start the prepared run, now or at *started*, (wall milliseconds, elapsed nanoseconds);
        return it.

        The start of a *call* may be held back until the call logs something or ends; any other
        start is safe when this returns.
        """
        self._start_ms, self._start_ns = started or _clock.moment()
        start = self.started()
        if self._trace is not None:
            start = self._trace.place(start, self._span_type, self._start_ns)
        if call:
            self._backend.begin(start)
        else:
            self._backend.emit(start)
        global _root_of_main
        if self.parent_id is None:
            if threading.get_ident() == _MAIN:
                _root_of_main = self
            elif _root_of_main is not None and _root_of_main.is_open:
                _warn_of_bare_thread(self.name)
        return self

    def started(self) -> RunStarted:
        """Return the record of the run's start, params that were logged since included."""
        return RunStarted(
            run=self.id,
            time=self._start_ms,
            name=self.name,
            kind=self.kind,
            experiment=self.experiment,
            parent=self.parent_id,
            parent_experiment=self._parent_experiment,
            params=self._params,
            tags=self._tags,
        )

    def observe(self, observe: Callable[[Backend], Backend]) -> None:
        """Have the run, and those that begin in it from now on, write through what *observe* makes of its backend."""
        self._backend = observe(self._backend)

    @property
    def trace_id(self) -> str:
        """32 hex digits shared by the tree: of a span its trace's id, of a run the `id` of its root."""
        return (self._trace.id if self._trace is not None else self._root_id) or self.id

    @property
    def feedback_id(self) -> str:
        """What feedback is given to: a run's `id`; for a span MLflow's id of its trace, ``tr-`` and 32 hex digits."""
        return f"{TRACE_PREFIX}{self._trace.id}" if self._trace is not None else self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.id}>"

    # What it is on the server.

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's id of the run, or of a span's trace; None until it is delivered."""
        return self._backend.run_id(self.id)

    def wait(self, timeout: float = 30.0) -> bool:
        """
        Wait at most *timeout* seconds until everything logged to this run so far is delivered;
        return whether it is.
        """
        return self._backend.wait(self.id, timeout)

    # Logging.

    def log_param(self, key: str, value: Any) -> None:
        """Log one param; see `log_params`."""
        self.log_params({key: value})

    def log_params(self, params: Mapping[str, Any]) -> None:
        """
        Log params (MLflow: params, at most 6,000 characters each; longer ones are kept whole in
        ``params/<key>.txt``).

        MLflow's params are write-once. The same value again is nothing; a changed one is kept as
        the tag ``mltrace.changed.<key>``, with a warning.
        """
        try:
            fresh: dict[str, str] = {}
            changed: dict[str, str] = {}
            for key, value in params.items():
                name, text = self._field(key, value, PARAM_LIMIT, "params")
                if self._params.setdefault(name, text) != text:
                    _guard.misuse(
                        f"param:{name}",
                        f"param {name!r} was logged before with another value; MLflow keeps the first, the new one becomes a tag",
                    )
                    changed[clean_key(f"mltrace.changed.{name}")] = text
                else:
                    fresh[name] = text
            self._log(params=fresh, tags=changed)
        except Exception as error:
            _escalate("log_params", error, self.hide)

    def log_metric(
        self, key: str, value: float, step: int | None = None, timestamp: int | None = None
    ) -> None:
        """Log one metric point; see `log_metrics`."""
        if (
            type(value) is not float
            or type(step) is not int
            or timestamp is not None
            or not self._log_now(key, value, step)
        ):
            self.log_metrics({key: value}, step, timestamp)

    def _log_now(self, key: str, value: float, step: int) -> bool:
        """
        Log a point as of now, the short way of `log_metrics`, for a training loop; say whether it was
        one for that.
        """
        if self._points is None or self._elsewhere() is not None:
            return False
        now = self._start_ms + (_clock.elapsed_ns() - self._start_ns) // 1_000_000
        point = self._points.add_now(key, value, step, now)
        if point is None:
            return False
        try:
            self._backend.emit(Logged(run=self.id, time=now, metrics=(point,)))
        except Exception as error:
            _escalate("log_metric", error, self.hide)
        return True

    def log_metrics(
        self, metrics: Mapping[str, float], step: int | None = None, timestamp: int | None = None
    ) -> None:
        """
        Log metric points (MLflow: metrics).

        Args:
            metrics: Numbers, NaN and infinities included. What is no number is kept as a tag of
                that key, with a warning.

            step: 64-bit integer (0).

            timestamp: Wall-clock milliseconds since the epoch (now). MLflow stores equal points
                (key, step, time, value) once; a point equal to an earlier one of the same
                millisecond gets the next one.
        """
        try:
            when = self._now() if timestamp is None else integer("timestamp", timestamp, 0)
            at = 0 if step is None else integer("step", step, -INTEGER_LIMIT)
            if self._points is None:
                self._points = Points()
            points: list[Metric] = []
            tags: dict[str, str] = {}
            for key, value in metrics.items():
                found = float(value) if isinstance(value, bool) else number(value)
                if found is None:
                    name = self._key(key)
                    _guard.misuse(
                        f"metric:{name}",
                        f"metric {name!r} is a {class_name(type(value))}, not a number; it becomes a tag",
                    )
                    name, tags[name] = self._field(key, value, TAG_LIMIT, "tags")
                else:
                    points.append(
                        self._points.add(self._key(key), found, at, when, exact=timestamp is not None)
                    )
            self._log(metrics=tuple(points), tags=tags)
        except Exception as error:
            _escalate("log_metrics", error, self.hide)

    def set_tag(self, key: str, value: Any) -> None:
        """Set one tag; see `set_tags`."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """
        Set tags (MLflow: tags, at most 8,000 characters each; longer ones are kept whole in
        ``tags/<key>.txt``). The last value of a key counts.
        """
        try:
            self._log(tags=dict(self._field(key, value, TAG_LIMIT, "tags") for key, value in tags.items()))
        except Exception as error:
            _escalate("set_tags", error, self.hide)

    def log_text(self, text: str, artifact_file: str) -> None:
        """
        Log *text* as the artifact *artifact_file*, a relative path with ``/``; secrets are hidden
        in it.
        """
        try:
            self._keep(artifact_file, self._renderer.text(artifact_file, text_of(text), self._secrets))
        except Exception as error:
            _escalate("log_text", error, self.hide)

    def log_dict(self, dictionary: Any, artifact_file: str) -> None:
        """
        Log a mapping or list as the artifact *artifact_file*, as JSON (which YAML readers take
        too).
        """
        try:
            found = as_json(self._renderer.plain("", dictionary, self._secrets))
            # Once more: what stands before a secret's name is known to be one only now.
            self._keep(artifact_file, self.hide(found))
        except Exception as error:
            _escalate("log_dict", error, self.hide)

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        """
        Log a matplotlib or plotly figure as the artifact *artifact_file*; the suffix chooses the
        format (plotly: ``.html`` or an image).
        """
        try:
            self._attach(artifact_file, picture(figure, artifact_file))
        except Exception as error:
            _escalate("log_figure", error, self.hide)

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """
        Log a file, or every file below a directory, as it is now: a copy is taken before the call
        returns. Its content is not redacted.

        Args:
            local_path: The file or directory.

            artifact_path: The artifact's directory in the run (default: its root).
        """
        try:
            source = os.fspath(local_path)
            prefix = f"{artifact_path.strip('/')}/" if artifact_path else ""
            if os.path.isdir(source):
                for place, file in files_of(source):
                    self._attach(prefix + place, file)
            elif os.path.isfile(source):
                self._attach(f"{prefix}{os.path.basename(source)}", source)
            else:
                _guard.misuse(
                    f"artifact:{source}",
                    self.hide(f"log_artifact: there is no file {source!r}; nothing is logged"),
                )
        except Exception as error:
            _escalate("log_artifact", error, self.hide)

    def log_model(
        self,
        model: Any,
        name: str = "model",
        flavor: str = "auto",
        *,
        registered_model_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
        **options: Any,
    ) -> LoggedModel | None:
        """
        Log a model as it is now (MLflow: a LoggedModel of the run); return what was logged, None where
        nothing was. It is saved through MLflow's flavour, into the spool, before the call returns:
        the server need not be there. Its content is not redacted.

        Args:
            model: A model of a library that MLflow has a flavour for; a bundle, ``{"model": …,
                "scalers": …, "metadata": …}`` (see `mltrace.bundles`); a `mlflow.pyfunc.PythonModel`; or
                the path of a directory that MLflow has saved a model in.

            name: In MLflow, without any of ``/ : . % " '``.

            flavor: ``sklearn``, ``xgboost``, ``lightgbm``, ``catboost``, ``pytorch``, ``onnx``,
                ``tensorflow``, ``statsmodels``, ``pyfunc``, ``bundle``; "auto" looks at the model's class.

            registered_model_name: Also make it the next version of this registered model.

            tags: Of the LoggedModel.

            step: Of the training, at which the model was made.

            options: For the flavour's `save_model`: ``input_example``, ``signature``,
                ``pip_requirements``, ``metadata``, …

        Raises: ConfigurationError: A name or flavour that cannot be used, or a model of no flavour.
        """
        check_options(name, flavor, registered_model_name)
        try:
            uid, experiment = self._holder()
            if uid is None:
                return None
            record = keep(
                model,
                name,
                flavor,
                self._backend.store,
                run=uid,
                time=self._now(),
                registered=registered_model_name,
                tags=dict(self._field(key, value, TAG_LIMIT, "tags") for key, value in (tags or {}).items()),
                step=step,
                experiment=experiment,
                options=options,
            )
            if record is None:
                self._dropped += 1
                return None
            self._backend.emit(record)
            return as_logged(record)
        except ConfigurationError:
            raise
        except Exception as error:
            _escalate("log_model", error, self.hide)
            return None

    # The end.

    def end(self, status: str = FINISHED) -> None:
        """
        End the run with MLflow's *status*: FINISHED, FAILED or KILLED. Only the first end counts.
        """
        if type(status) is not str or status not in _STATUSES:
            given = self.hide(text_of(status))[:40]
            _guard.misuse(
                "status", f"status {given!r} is not one of {', '.join(_STATUSES)}; the run ends as FAILED"
            )
            status = FAILED
        self._leave()
        self.finish(status)

    def finish(
        self,
        status: str,
        metrics: Iterable[tuple[str, float]] = (),
        tags: dict[str, str] | None = None,
        *,
        latency_ms: float | None = None,
        raises: bool = False,
    ) -> None:
        """
        End the run with last *metrics* and rendered *tags* beside its latency (default: as
        measured), for those who wrap a call. Only the first end counts. It *raises* `SpoolFull` where
        there is no call whose result an exception would take the place of.
        """
        try:
            self._open.pop()
        except IndexError:
            return
        if self._foreign or self._generation != _emitter.generation:
            return  # whoever started it ends it
        elapsed = _clock.elapsed_ns() - self._start_ns
        now = self._start_ms + elapsed // 1_000_000
        points = [Metric("latency_ms", elapsed / 1e6 if latency_ms is None else latency_ms, now)]
        try:
            for key, value in metrics:
                name = "output.latency_ms" if key == "latency_ms" else self._key(key)
                # The last metrics have keys of their own: only earlier points can be equal to one.
                points.append(
                    Metric(name, wire_number(value), now)
                    if self._points is None
                    else self._points.add(name, value, 0, now)
                )
            if self._dropped:
                tags = {**(tags or {}), DROPPED_TAG: str(self._dropped)}
            self._backend.emit(
                RunEnded(run=self.id, time=now, status=status, metrics=tuple(points), tags=tags or {})
            )
        except SpoolFull:  # counted
            if raises:
                raise
        except Exception as error:
            _guard.internal_error("the end of a run", error, self.hide)

    @property
    def is_open(self) -> bool:
        """Whether the run has not ended."""
        return bool(self._open)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()
        self.finish(*self.failure(error)) if error is not None else self.finish(FINISHED)

    def failure(self, error: BaseException) -> tuple[str, tuple[tuple[str, float], ...], dict[str, str]]:
        """
        Return status, metrics and tags for the `finish` of a run that ended with *error*, and log its
        traceback as the artifact ``traceback.txt``.
        """
        status = FAILED if isinstance(error, Exception) else KILLED
        tags: dict[str, str] = {}
        try:
            redact = self._renderer.text
            tags["mltrace.error.type"] = clean_text(qualified_name(type(error)))
            message, lines = error_texts(error)
            message = redact("mltrace.error.message", message, self._secrets)
            tags["mltrace.error.message"] = fit(message, TAG_LIMIT, "traceback.txt")
            self._keep_own("traceback.txt", redact("traceback.txt", lines, self._secrets)[-WHOLE_LIMIT:])
        except Exception as problem:
            _guard.internal_error("recording a failure", problem, self.hide)
        return status, (), tags

    def _leave(self) -> None:
        """
        Make the run that was current before this one, and has not ended, current again, if this one
        still is: runs by hand need not end in the order of their beginning.
        """
        if get_current() is self:
            outer = self._outer
            while isinstance(outer, Run) and not outer.is_open:
                outer = outer._outer
            set_current(outer)
        if get_ambient() is self:
            set_ambient(None)


def _warn_of_bare_thread(name: str) -> None:
    _guard.warn_once(
        "bare thread",
        "a run began in a thread that carries no run while one is open in the main thread; it has no parent. Use mltrace.wrap(fn) to carry the run there",
        run=name,
    )


def _escalate(where: str, error: Exception, hide: Callable[[str], str]) -> None:
    """
    Pass on what the user asked to be told (strict mode's errors, a full spool); account for the
    rest.
    """
    if isinstance(error, SpoolFull):
        raise error
    _guard.internal_error(where, error, hide)
