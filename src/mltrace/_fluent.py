"""
The current run, and the functions that act on it: what a program calls without holding a run.
"""

from __future__ import annotations

import os

from collections.abc import Mapping
from typing import Any

from . import _clock, _guard
from ._config import active, is_enabled
from ._context import RemoteRun
from ._inert import AFAR, LOUD, SILENT
from ._joint import enclosing
from ._models import LoggedModel
from ._records import FINISHED
from ._runs import Run
from .exceptions import ConfigurationError


def current_run() -> Run:
    """
    Return the current run; an inert one, which records nothing, where there is none. Always safe to
    call.
    """
    run = enclosing()
    if isinstance(run, Run):
        return run
    if not is_enabled():
        return SILENT
    if isinstance(run, RemoteRun):
        try:
            return foreign_run(run)
        except ConfigurationError as error:
            _guard.internal_error("the configuration", error)
            return SILENT
    return LOUD


def foreign_run(remote: RemoteRun) -> Run:
    """
    Return a handle on a run of another process: logging to it goes through this process's backend,
    its end is not ours.
    """
    if not remote.sampled:
        return SILENT
    if remote.is_span or remote.traceparent is not None:
        return AFAR
    run = Run(
        "remote",
        "remote",
        None,
        active(),
        params={},
        tags={},
        secrets=[],
        experiment=remote.experiment,
        sample_rate=1.0,
    )
    run.id, run._root_id, run._foreign = remote.id, remote.trace_id, True
    run._start_ms, run._start_ns = _clock.moment()
    return run


def log_param(key: str, value: Any) -> None:
    """Log one param to the current run; see `Run.log_params`."""
    current_run().log_params({key: value})


def log_params(params: Mapping[str, Any]) -> None:
    """Log params to the current run; see `Run.log_params`."""
    current_run().log_params(params)


def log_metric(key: str, value: float, step: int | None = None, timestamp: int | None = None) -> None:
    """Log one metric point to the current run; see `Run.log_metrics`."""
    current_run().log_metrics({key: value}, step, timestamp)


def log_metrics(metrics: Mapping[str, float], step: int | None = None, timestamp: int | None = None) -> None:
    """Log metric points to the current run; see `Run.log_metrics`."""
    current_run().log_metrics(metrics, step, timestamp)


def set_tag(key: str, value: Any) -> None:
    """Set one tag of the current run; see `Run.set_tags`."""
    current_run().set_tags({key: value})


def set_tags(tags: Mapping[str, Any]) -> None:
    """Set tags of the current run; see `Run.set_tags`."""
    current_run().set_tags(tags)


def log_text(text: str, artifact_file: str) -> None:
    """Log a text artifact to the current run; see `Run.log_text`."""
    current_run().log_text(text, artifact_file)


def log_dict(dictionary: Any, artifact_file: str) -> None:
    """Log a JSON artifact to the current run; see `Run.log_dict`."""
    current_run().log_dict(dictionary, artifact_file)


def log_figure(figure: Any, artifact_file: str) -> None:
    """Log a figure to the current run; see `Run.log_figure`."""
    current_run().log_figure(figure, artifact_file)


def log_artifact(local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
    """Log a file or directory to the current run; see `Run.log_artifact`."""
    current_run().log_artifact(local_path, artifact_path)


def log_model(
    model: Any,
    name: str = "model",
    flavor: str = "auto",
    *,
    registered_model_name: str | None = None,
    tags: Mapping[str, str] | None = None,
    step: int = 0,
    **options: Any,
) -> LoggedModel | None:
    """Log a model to the current run; see `Run.log_model`."""
    return current_run().log_model(
        model,
        name,
        flavor,
        registered_model_name=registered_model_name,
        tags=tags,
        step=step,
        **options,
    )


def end_run(status: str = FINISHED) -> None:
    """End the current run; see `Run.end`."""
    current_run().end(status)
