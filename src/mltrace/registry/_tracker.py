"""The registry of one experiment's models, under the names that scripts of their own have for it."""

from __future__ import annotations

import os

from typing import Any

from .._decorators import track_run
from .._runs import Run
from ..bundles import Bundle
from ._comparison import compare_models
from ._loading import load_model_from_registry
from ._promotion import Promotion, promote_best_model, promote_to_production
from ._registering import register_existing_model, register_model
from ._versions import ModelVersion


class MLflowTracker:
    """
    Runs in *experiment* (default: the configured one), and the registry's functions beside them; for
    code that has a tracker object. Each method is the function of that name in `mltrace.registry`.
    """

    def __init__(self, experiment: str | None = None) -> None:
        self.experiment = experiment

    def start_run(self, run_name: str | None = None, **options: Any) -> Any:
        """Return a run of this experiment as a context manager; see `mltrace.track_run`."""
        return track_run(run_name, experiment_name=self.experiment, **options)

    def log_model(self, run: Run, model: Any, model_name: str, **options: Any) -> Any:
        """Log *model* to *run*, and register it as *model_name*."""
        return run.log_model(model, registered_model_name=model_name, **options)

    def register_model(self, model_uri: str, name: str, **options: Any) -> ModelVersion | None:
        """See `register_model`."""
        return register_model(model_uri, name, **options)

    def register_existing_model(
        self, path: str | os.PathLike[str], name: str, **options: Any
    ) -> ModelVersion | None:
        """See `register_existing_model`; its run is in this experiment."""
        return register_existing_model(path, name, **{"experiment_name": self.experiment, **options})

    def compare_models(self, model_name: str, metric: str, **options: Any) -> Any:
        """See `compare_models`."""
        return compare_models(model_name, metric, **options)

    def promote_to_production(self, name: str, version: str | int, **options: Any) -> ModelVersion | None:
        """See `promote_to_production`."""
        return promote_to_production(name, version, **options)

    def promote_best_model(self, model_name: str, metric: str, **options: Any) -> Promotion | None:
        """See `promote_best_model`."""
        return promote_best_model(model_name, metric, **options)

    def load_model_from_registry(self, model_name: str, stage: str = "Production") -> Bundle:
        """See `load_model_from_registry`."""
        return load_model_from_registry(model_name, stage)
