"""
The current run as MLflow's active run: what `mlflow.log_metric`, autologging and `log_model` write to.

MLflow keeps its active runs in a stack per thread. When the program has imported MLflow, `JointStack`
stands in its place: inside a run of the kinds run and training that goes to MLflow's tracking address it
shows that run, and what MLflow nests in it; anywhere else, MLflow's own stack. So the active run follows
tasks and threads as the current run does, and MLflow knows nothing of it afterwards. Nothing else of
MLflow's is changed, and this is not while ``bridge`` is off.

With an address ``mltrace+…`` what MLflow writes goes through the journal, under the run's uid. With the plain
address MLflow writes to the server itself: the run is brought there first, when MLflow asks for it, and
where that takes longer than `JOIN_SECONDS` MLflow goes its own way.

In the other direction a decorated call inside MLflow's active run nests in that one (`enclosing`).
"""

from __future__ import annotations

import sys
import threading

from typing import Any

from . import _context, _guard
from ._config import active, is_enabled, normal_uri
from ._context import RemoteRun
from ._runs import Run


KINDS = ("run", "training")
JOIN_SECONDS = 5.0

_FLUENT = "mlflow.tracking.fluent"

_stack: JointStack | None = None
_opening = threading.local()  # .parent: MLflow's id of the run in which `mlflow.start_run` is starting one


class JointStack:
    """What stands for ``mlflow.tracking.fluent._active_run_stack``, an *own* of MLflow's behind it."""

    def __init__(self, fluent: Any, own: Any) -> None:
        self._fluent = fluent
        self._own = own
        self._normal: tuple[str, str] = ("", "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def get(self) -> list[Any]:
        """Return the active runs of this context, the innermost last."""
        _opening.parent = None
        stack: list[Any] | None = self._joint(_context.enclosing())
        if stack is None:
            own: list[Any] = self._own.get()
            return own
        # A program that opens a run in a decorated function did so before it was decorated: it gets one
        # within the current run, where MLflow would refuse it. MLflow's question cannot be told from
        # others but by who asks.
        asking = sys._getframe(1)
        opens = asking.f_code is self._fluent.start_run.__code__ and not asking.f_locals.get("nested")
        if opens and len(stack) == 1 and _is_mltrace(stack[0]):
            _opening.parent = stack[0].info.run_id
            return _Within(stack)
        return stack

    def get_all_thread_values(self) -> dict[int, Any]:
        """Return the stacks of all threads, this one's as it is in this context."""
        found: dict[int, Any] = self._own.get_all_thread_values()
        return {**found, threading.get_ident(): self.get()}

    def innermost(self, run: Any) -> Any:
        """Return what a new run nests under, where *run* is the current one: it, or MLflow's active run in it."""
        # The stack first: whoever asks which run is current is not to be told that a setting is wrong.
        stack = self._own.get() if run is None else run._joint if isinstance(run, Run) else None
        if not stack or _is_mltrace(stack[-1]):
            return run
        try:
            return (self._remote(stack[-1].info.run_id) if self._is_ours() else None) or run
        except Exception as error:
            _guard.internal_error("looking at MLflow's active run", error)
            return run

    def _remote(self, run_id: str) -> RemoteRun | None:
        store = self._fluent._get_store()
        experiment = store.experiment_of(run_id) if hasattr(store, "experiment_of") else None
        return None if experiment is None else RemoteRun(run_id, experiment, run_id)

    def _is_ours(self) -> bool:
        """Say whether MLflow writes where mltrace does, and the two are to know of each other."""
        settings = active().settings
        if not settings.bridge or settings.backend != "mlflow":
            return False
        address = self._fluent._resolve_tracking_uri()
        if self._normal[0] != address:
            self._normal = address, normal_uri(address)
        return self._normal[1] == settings.tracking_uri

    def _joint(self, run: Any) -> list[Any] | None:
        """Return the stack of the run that is MLflow's active one when *run* is current; None: there is none."""
        while isinstance(run, Run) and (run.kind not in KINDS or run.is_span):
            run = run._above
        if not isinstance(run, Run) or not run or not run.sampled or not is_enabled():
            return None
        if run._joint is not None:
            return run._joint or None
        try:
            run._joint = self._join(run) if self._is_ours() else []
        except Exception as error:
            _guard.internal_error("joining MLflow's active run", error, run.hide)
            run._joint = []
        return run._joint or None

    def _join(self, run: Run) -> list[Any]:
        """Return the stack of *run*: itself, as MLflow's; empty where MLflow cannot reach it."""
        store = self._fluent._get_store()
        if hasattr(store, "join"):
            found = store.join(run)
        elif run.wait(JOIN_SECONDS) and (run_id := run.mlflow_run_id) is not None:
            found = store.get_run(run_id)
        else:
            _guard.warn_once(
                "not joined",
                "MLflow cannot write to a run that is not on the server yet, and goes its own way; with mltrace+"
                " before its tracking address it can",
            )
            return []
        mine = self._fluent.ActiveRun(found)
        mine.mltrace = True
        return [mine]


class _Within(list[Any]):
    """An empty stack for `mlflow.start_run`; what it pushes goes on the real one."""

    def __init__(self, stack: list[Any]) -> None:
        super().__init__()
        self._stack = stack

    def append(self, run: Any) -> None:
        """Push *run*."""
        _opening.parent = None
        super().append(run)
        self._stack.append(run)


def _is_mltrace(active_run: Any) -> bool:
    return getattr(active_run, "mltrace", False)


def enclosing() -> Any:
    """Return the run that a new one nests under, a `Run` or a `RemoteRun`, or None; MLflow's active run counts."""
    run = _context.enclosing()
    return run if _stack is None else _stack.innermost(run)


def opening_parent() -> str | None:
    """Return MLflow's id of the run in which `mlflow.start_run` is starting one without being told so."""
    return getattr(_opening, "parent", None)


def install(fluent: Any) -> None:
    """Take the place of MLflow's stack of active runs, once."""
    global _stack
    if _stack is None or fluent._active_run_stack is not _stack:
        _stack = JointStack(fluent, fluent._active_run_stack)
        fluent._active_run_stack = _stack


if hasattr(sys.modules.get(_FLUENT), "active_run"):  # else `mlflow_mltrace` does it when MLflow is imported
    install(sys.modules[_FLUENT])
