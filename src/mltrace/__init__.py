"""
Decorate a function and every call becomes an MLflow run: nested, durable, and out of your program's
way.

    >>> import mltrace
    >>> mltrace.configure(backend="memory")
    >>> @mltrace.track_run("greet_{name}")
    ... def greet(name):
    ...     return f"Hello, {name}!"
    >>> greet("Ada")
    'Hello, Ada!'
"""

from ._calls import Call
from ._config import configure, flush, init_mlflow, shutdown, status
from ._context import attach, carrier, wrap
from ._decorators import (
    log_evaluation_metrics,
    log_llm_call,
    log_prediction,
    log_training_run,
    start_run,
    track_run,
)
from ._fluent import (
    current_run,
    end_run,
    log_artifact,
    log_dict,
    log_figure,
    log_metric,
    log_metrics,
    log_model,
    log_param,
    log_params,
    log_text,
    set_tag,
    set_tags,
)
from ._forms import register_renderer
from ._models import LoggedModel
from ._redaction import Redact
from ._runs import Run
from ._version import __version__
from .backends import FlushReport, SpoolStatus
from .exceptions import ConfigurationError, LoggingError, MissingExtra, MltraceError, SpoolFull


__all__ = [
    "Call",
    "ConfigurationError",
    "FlushReport",
    "LoggedModel",
    "LoggingError",
    "MissingExtra",
    "MltraceError",
    "Redact",
    "Run",
    "SpoolFull",
    "SpoolStatus",
    "__version__",
    "attach",
    "carrier",
    "configure",
    "current_run",
    "end_run",
    "flush",
    "init_mlflow",
    "log_artifact",
    "log_dict",
    "log_evaluation_metrics",
    "log_figure",
    "log_llm_call",
    "log_metric",
    "log_metrics",
    "log_model",
    "log_param",
    "log_params",
    "log_prediction",
    "log_text",
    "log_training_run",
    "register_renderer",
    "set_tag",
    "set_tags",
    "shutdown",
    "start_run",
    "status",
    "track_run",
    "wrap",
]
