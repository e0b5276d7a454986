"""
Runs as user code holds them: `Run`, the current run, runs by hand, and the module functions that
act on the current run.

A run is started, logged to and ended by emitting records to the backend that was in force when its
tree began. It keeps what truthful records need: which params it has (MLflow's are write-once),
which metric points it had in this millisecond (MLflow drops equal ones), which secrets it has
hidden.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, cast

from msgspec import structs

from . import _clock, _guard
from ._config import Active, before_exit
from ._context import RemoteRun, get_ambient, get_current, set_ambient, set_current
from ._errors import error_texts
from ._forms import text_of
from ._known_types import class_name, qualified_name
from ._models import LoggedModel, as_logged, check_options, keep
from ._numbers import number
from ._records import (
    DROPPED_TAG,
    FAILED,
    FINISHED,
    KILLED,
    TRACE,
    TRACE_PREFIX,
    ArtifactLogged,
    Logged,
    Metric,
    Record,
    RunEnded,
    RunStarted,
    wire_number,
)
from ._sampling import Withheld
from ._texts import PARAM_LIMIT, TAG_LIMIT, WHOLE_LIMIT, clean_key, clean_path, clean_text, fit
from ._values import Renderer, as_json
from .backends import Backend
from .exceptions import ConfigurationError, SpoolFull


INLINE_BYTES = 64 << 10
"""Texts up to this size travel in the record; larger ones and files become blobs."""

SPAN_INLINE_BYTES = 256 << 10
"""The same of a span, which has no files: long prompts are to be whole in it."""

_STATUSES = (FINISHED, FAILED, KILLED)
_STEP_LIMIT = 1 << 63
_POINTS = 2048  # latest points of a metric that are remembered
_MAIN = threading.main_thread().ident

_generation = 0  # counts forks: a child must not end its parent's runs
_root_of_main: Run | None = (
    None  # the main thread's latest root: what a bare thread may have meant to nest under
)


def _forked() -> None:
    global _generation, _MAIN
    _generation += 1
    _MAIN = threading.get_ident()


os.register_at_fork(after_in_child=_forked)


class _Moment:
    """The latest time of a metric's points, and what was logged then: the value of each step."""

    __slots__ = ("time", "values")

    def __init__(self) -> None:
        self.time = -1
        self.values: dict[int, float | str] = {}


class Run:
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
    is_span = False
    _trace: str | None = None  # of a span: its trace
    _span_type: str | None = None
    _linked: str | None = None  # of a span: the run that its trace belongs to, and where that is
    _linked_experiment = ""
    _anchor: tuple[int, int] | None = None  # of a span: wall and elapsed nanoseconds of the top's start
    _points: dict[str, dict[tuple[int, float | str, int | None], int]] | None = None
    _latest: dict[str, _Moment] = {}  # noqa: RUF012 # of a run without points, and never changed
    _whole: dict[str, str] | None = None
    _outer: Any = None
    _above: Any = None  # the run around, where MLflow's active run may be that one: see `_joint`
    _joint: list[Any] | None = None  # MLflow's active runs in here
    _foreign = False
    _unfit = False  # the call's arguments are not those of its function
    _dropped = 0  # artifacts that the backend did not keep
    _start_ms = 0
    _start_ns = 0

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
        self._generation = _generation
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
        if type(parent) is RemoteRun and parent.traceparent is not None:
            self._trace, self.parent_id = parent.trace_id, parent.id
            return
        if parent is None or not parent.is_span:
            self._trace = self.id
            if parent is not None:
                self._linked, self._linked_experiment = parent.id, parent.experiment
            return
        self._trace = parent.trace_id
        if parent.experiment and parent.experiment != self.experiment:
            _guard.warn_once(
                f"experiment of span:{self.experiment}",
                f"experiment_name={self.experiment!r} of a span below another is not heeded: a trace is in one experiment",
            )
            self.experiment = parent.experiment
        if type(parent) is not RemoteRun:
            self._linked, self._linked_experiment = parent._linked, parent._linked_experiment
            self._anchor = parent._anchor

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
        if self.is_span:
            start = self._as_span(start)
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

    def _as_span(self, start: RunStarted) -> RunStarted:
        is_top = self._trace == self.id
        if self._anchor is None:
            self._anchor = (self._start_ms * 1_000_000, self._start_ns)
        found: RunStarted = structs.replace(
            start,
            trace=self._trace,
            span_type=self._span_type,
            started_ns=self._anchor[0] + self._start_ns - self._anchor[1],
            parent=None if is_top else self.parent_id,
            parent_experiment=None,
            linked=self._linked if is_top else None,
            linked_experiment=self._linked_experiment or None if is_top else None,
        )
        return found

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
        return self._trace or self._root_id or self.id

    @property
    def feedback_id(self) -> str:
        """What feedback is given to: a run's `id`; for a span MLflow's id of its trace, ``tr-`` and 32 hex digits."""
        return f"{TRACE_PREFIX}{self._trace}" if self.is_span else self.id

    @property
    def _renderer(self) -> Renderer:
        return self._config.renderer

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
        if type(value) is float and type(step) is int and timestamp is None and self._is_plain(key, step):
            self._log_now(key, value, step)
        else:
            self.log_metrics({key: value}, step, timestamp)

    def _is_plain(self, key: str, step: int) -> bool:
        """Say whether *key* was logged before, and nothing is special about this run or step."""
        return key in self._latest and 0 <= step < _STEP_LIMIT and self._elsewhere() is None

    def _log_now(self, key: str, value: float, step: int) -> None:
        """
        Log a point as of now: the short way of `log_metrics`, for a training loop, where no point of the
        same moment has its step.
        """
        now = self._start_ms + (_clock.elapsed_ns() - self._start_ns) // 1_000_000
        wire = value if value - value == 0.0 else wire_number(value)
        latest = self._latest[key]
        if now > latest.time:
            latest.time, latest.values = now, {step: wire}
        elif now < latest.time or step in latest.values:
            self.log_metrics({key: value}, step)
            return
        else:
            latest.values[step] = wire
        try:
            self._backend.emit(Logged(run=self.id, time=now, metrics=(Metric(key, wire, now, step),)))
        except Exception as error:
            _escalate("log_metric", error, self.hide)

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
            when = self._now() if timestamp is None else _integer("timestamp", timestamp, 0)
            at = 0 if step is None else _integer("step", step, -_STEP_LIMIT)
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
                    points.append(self._point(self._key(key), found, at, when, exact=timestamp is not None))
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
            self._attach(artifact_file, _picture(figure, artifact_file))
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
                base = os.path.basename(os.path.normpath(source))
                for folder, _, names in os.walk(source):
                    for name in sorted(names):
                        file = os.path.join(folder, name)
                        if not os.path.isfile(file):  # a FIFO would be waited for
                            _guard.warn_once(
                                f"artifact:{file}", f"log_artifact: {file!r} is not a file; it is left out"
                            )
                            continue
                        self._attach(f"{prefix}{base}/{os.path.relpath(file, source)}", file)
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
    ) -> None:
        """
        End the run with last *metrics* and rendered *tags* beside its latency (default: as
        measured), for those who wrap a call. Only the first end counts.
        """
        try:
            self._open.pop()
        except IndexError:
            return
        if self._foreign or self._generation != _generation:
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
                    else self._point(name, value, 0, now)
                )
            if self._dropped:
                tags = {**(tags or {}), DROPPED_TAG: str(self._dropped)}
            self._backend.emit(
                RunEnded(run=self.id, time=now, status=status, metrics=tuple(points), tags=tags or {})
            )
        except SpoolFull:
            return  # counted; an exception here would take the place of the call's own result
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
        self.finish(*failure_fields(self, error)) if error is not None else self.finish(FINISHED)

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

    # Inside.

    def _now(self) -> int:
        """
        Return the wall clock as of the run's start plus what has passed since: it never runs
        backwards within a run.
        """
        return self._start_ms + (_clock.elapsed_ns() - self._start_ns) // 1_000_000

    def _field(self, key: str, value: Any, limit: int, folder: str) -> tuple[str, str]:
        """
        Return key and text of a param or tag; a text that does not fit is kept whole as an
        artifact.
        """
        text = self._renderer.field(key if type(key) is str else text_of(key), value, self._secrets)
        name = self._key(key)
        if len(text) > limit:
            whole = self._place(f"{folder}/{name}.txt")
            self._keep(whole, text)
            text = fit(text, limit, whole)
        return name, text

    def hide(self, text: str) -> str:
        """Return *text* without what the run knows to be secrets."""
        return self._renderer.redactor.text(text, self._secrets)

    def _key(self, key: Any) -> str:
        return self._config.renderer.key(key if type(key) is str else text_of(key), self._secrets)

    def _point(self, key: str, value: float, step: int, when: int, *, exact: bool = False) -> Metric:
        """
        Return a metric point that no earlier one equals: MLflow stores equal points (key, step,
        time, value) once. A time that the user gave (*exact*) moves only if the very point was
        logged before.
        """
        wire = wire_number(value)
        if self._points is None:
            self._points, self._latest = {}, {}
        # The latest points of each key: time by (step, value) and time. Older ones are long past.
        times = self._points.setdefault(key, {})
        moment = self._latest.setdefault(key, _Moment())
        if moment.time == when and moment.values.get(step) == wire:  # logged the short way
            times[step, wire, None] = times[step, wire, when] = when
        latest = times.get((step, wire, None), -1)
        if when <= latest and (not exact or (step, wire, when) in times):
            when = latest + 1
        times[step, wire, None] = max(when, latest)
        times[step, wire, when] = when
        while len(times) > _POINTS:
            del times[next(iter(times))]
        if when > moment.time:
            moment.time, moment.values = when, {step: wire}
        elif when == moment.time:
            moment.values[step] = wire
        return Metric(key, wire, when, step)

    def _log(
        self,
        params: dict[str, str] | None = None,
        metrics: tuple[Metric, ...] = (),
        tags: dict[str, str] | None = None,
    ) -> None:
        if params or metrics or tags:
            self.emit(
                Logged(
                    run=self.id,
                    time=self._now(),
                    params=params or {},
                    metrics=metrics,
                    tags=tags or {},
                    experiment=self._elsewhere(),
                )
            )

    def _keep(self, path: str, text: str) -> None:
        """Log *text* as an artifact, in the record where it is small."""
        limit = SPAN_INLINE_BYTES if self.is_span else INLINE_BYTES
        is_large = len(text) * 4 > limit and len(content := text.encode()) > limit
        if is_large and self.is_span and self._linked is None:
            text, is_large = fit(text, limit // 4, None), False  # there is nowhere else to keep it
        if is_large:
            self._attach(path, content)
        else:
            record = ArtifactLogged(
                run=self.id,
                time=self._now(),
                path=self._place(path),
                text=text,
                size=len(text),
                experiment=self._elsewhere(),
            )
            self.emit(record)

    def _keep_own(self, path: str, text: str) -> None:
        """
        Log *text*, which mltrace adds to what the user logs: that it does not fit a full spool is
        counted, and nothing for the caller to see.
        """
        with contextlib.suppress(SpoolFull):
            self._keep(path, text)

    def _place(self, path: str) -> str:
        """Return *path* as the artifact is called in the run, without secrets; a new name is warned of."""
        wanted = self.hide(path)
        name = clean_path(wanted)
        if name != wanted:
            _guard.warn_once(
                f"path:{wanted}",
                f"artifact name {wanted!r:.200} is not a relative path that every server takes; it becomes {name!r}",
            )
        return name

    def _attach(self, path: str, source: bytes | str) -> None:
        """Log bytes, or the file at a path, as an artifact; a span has none, and its run gets it."""
        blob = None
        uid, experiment = self._holder()
        if uid is None:
            return
        try:
            blob = self._backend.store(source)
        finally:
            self._dropped += blob is None
        if blob is not None:
            place = self._place(f"spans/{self.id[:16]}/{path}" if self.is_span else path)
            self._backend.emit(
                ArtifactLogged(
                    run=uid, time=self._now(), path=place, blob=blob.name, size=blob.size, experiment=experiment
                )
            )  # fmt: skip

    def _holder(self) -> tuple[str | None, str | None]:
        """
        Return the uid of the run that gets files and models, and where delivery has to look for it; a
        span has none, and the run that its trace belongs to gets them. None: they are dropped.
        """
        if not self.is_span:
            return self.id, self._elsewhere()
        if self._linked is None:
            self._dropped += 1
            _guard.warn_once(
                "artifact of span",
                "a trace keeps no files, and this one belongs to no run: they are dropped, and counted in its tag"
                f" {DROPPED_TAG}. Open a run around it, or log a text of at most {SPAN_INLINE_BYTES} bytes",
            )
        return self._linked, self._linked_experiment or self._elsewhere()

    def _elsewhere(self) -> str | None:
        """
        Return the experiment where delivery has to look this run up: it was started by another
        process, or its end may be delivered already.
        """
        return self.experiment if self._foreign or not self._open or self._generation != _generation else None

    def emit(self, record: Record) -> None:
        """Hand *record* to the backend; a span takes nothing more when it is over."""
        if self.is_span and self._elsewhere() is not None:
            _guard.misuse(
                "span is over",
                f"{self.name!r} is a span and has ended, or is another process's: what is logged to it now is not"
                " recorded. Log before it ends, or use record_as='run'",
            )
            return
        self._backend.emit(record)


class InertRun(Run):
    """
    The run where there is none: takes everything, records nothing. One that is *loud* warns once,
    as nothing was switched off.
    """

    def __init__(self, *, loud: bool, where: str = "outside any run") -> None:
        self.id = "0" * 32
        self.name = self.kind = "none"
        self.experiment = ""
        self._open = []
        self._secrets = []
        self._loud = loud
        self._where = where

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<InertRun>"

    def hide(self, text: str) -> str:
        """Return nothing: what is a secret is not known here."""
        return ""

    @property
    def mlflow_run_id(self) -> str | None:
        """None: there is no run."""
        return None

    def wait(self, timeout: float = 30.0) -> bool:
        """Return True: there is nothing to wait for."""
        return True

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record nothing."""
        self._say()

    def log_metrics(
        self, metrics: Mapping[str, float], step: int | None = None, timestamp: int | None = None
    ) -> None:
        """Record nothing."""
        self._say()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Record nothing."""
        self._say()

    def log_text(self, text: str, artifact_file: str) -> None:
        """Record nothing."""
        self._say()

    def log_dict(self, dictionary: Any, artifact_file: str) -> None:
        """Record nothing."""
        self._say()

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        """Record nothing."""
        self._say()

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """Record nothing."""
        self._say()

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
        """Record nothing."""
        check_options(name, flavor, registered_model_name)
        self._say()
        return None

    def finish(
        self,
        status: str,
        metrics: Iterable[tuple[str, float]] = (),
        tags: dict[str, str] | None = None,
        *,
        latency_ms: float | None = None,
    ) -> None:
        """Record nothing."""

    def _say(self) -> None:
        if self._loud:
            remedy = "open one with track_run or start_run"
            if threading.get_ident() != _MAIN:
                name = threading.current_thread().name
                remedy = f"a bare thread ({name!r}) inherits no run: use mltrace.wrap(fn), or {remedy}"
            _guard.misuse(self._where, f"mltrace: logged {self._where}, nothing is recorded; {remedy}")


SILENT = InertRun(loud=False)
"""The run of a call that is switched off."""

LOUD = InertRun(loud=True)
"""The run where there is none."""

AFAR = InertRun(loud=True, where="to a span of another process")
"""The run where the current span is another process's, which alone can add to it."""


# Starting.


def _warn_of_bare_thread(name: str) -> None:
    _guard.warn_once(
        "bare thread",
        "a run began in a thread that carries no run while one is open in the main thread; it has no parent. Use mltrace.wrap(fn) to carry the run there",
        run=name,
    )


# Runs by hand.

_by_hand: weakref.WeakSet[Run] = weakref.WeakSet()
_sites: weakref.WeakValueDictionary[tuple[str, int], Run] = weakref.WeakValueDictionary()


def open_by_hand(make: Callable[[], Run], depth: int) -> Run:
    """
    Start the run that *make* returns and make it current until its `Run.end`.

    At module level (a notebook cell, a script) a run started again at the same line closes the one
    before, and the run is current in other cells too, whose contexts notebooks may keep apart.
    *depth* is the number of frames up to the caller.
    """
    frame = sys._getframe(depth)
    top_level = frame.f_code.co_name == "<module>"
    site = (frame.f_code.co_filename, frame.f_lineno)
    if top_level and (before := _sites.get(site)) is not None and before.is_open:
        before.end()
    outer = get_current()
    run = make()
    run._outer = outer
    set_current(run)
    if top_level:
        set_ambient(run)
        _sites[site] = run
    _by_hand.add(run)
    return run


def _end_by_hand() -> None:
    """End what was opened by hand and never ended, as MLflow does at exit."""
    for run in list(_by_hand):
        run.end()


before_exit(_end_by_hand)


# Failure.


def failure_fields(
    run: Run, error: BaseException
) -> tuple[str, tuple[tuple[str, float], ...], dict[str, str]]:
    """
    Return status, metrics and tags of a run that ended with *error*, and log its traceback as the
    artifact ``traceback.txt``.
    """
    status = FAILED if isinstance(error, Exception) else KILLED
    tags: dict[str, str] = {}
    try:
        redact = run._renderer.text
        tags["mltrace.error.type"] = clean_text(qualified_name(type(error)))
        message, lines = error_texts(error)
        message = redact("mltrace.error.message", message, run._secrets)
        tags["mltrace.error.message"] = fit(message, TAG_LIMIT, "traceback.txt")
        run._keep_own("traceback.txt", redact("traceback.txt", lines, run._secrets)[-WHOLE_LIMIT:])
    except Exception as problem:
        _guard.internal_error("recording a failure", problem, run.hide)
    return status, (), tags


def _escalate(where: str, error: Exception, hide: Callable[[str], str]) -> None:
    """
    Pass on what the user asked to be told (strict mode's errors, a full spool); account for the
    rest.
    """
    if isinstance(error, SpoolFull):
        raise error
    _guard.internal_error(where, error, hide)


def _integer(name: str, value: Any, least: int) -> int:
    """Return *value* as an integer of MLflow's range; 0, with a warning, where it is none."""
    try:
        found = int(value)
        if found == value and least <= found < _STEP_LIMIT:
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    kind = class_name(type(value))
    _guard.misuse(
        f"whole:{name}", f"{name} (of type {kind}) is not an integer that MLflow takes; 0 is recorded"
    )
    return 0


def _picture(figure: Any, path: str) -> bytes:
    import io

    suffix = path.rpartition(".")[2].lower()
    if hasattr(figure, "savefig"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix)
        return buffer.getvalue()
    if suffix == "html":
        return str(figure.to_html(include_plotlyjs="cdn")).encode()
    return bytes(figure.to_image(format=suffix))
