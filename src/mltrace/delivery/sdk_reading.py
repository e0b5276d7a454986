"""
Reading runs through MLflow's own client code. Needs ``mltrace-mlflow[mlflow]``.
"""

from __future__ import annotations

import tempfile

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import LifecycleStage, ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from .reading import PAGE, FoundRun
from .sdk import SdkDestination, sqlite_file


class SdkReader(SdkDestination):
    """The store at *uri*, read."""

    def experiment_id(self, name: str) -> str | None:
        """Ask the store; a sqlite file that is not there yet is not made for that."""
        if (path := sqlite_file(self.uri)) is not None and not path.exists():
            return None
        with self._meaning() as store:
            found = store.get_experiment_by_name(name)
        active = found is not None and found.lifecycle_stage == LifecycleStage.ACTIVE
        return str(found.experiment_id) if active else None

    def read_runs(self, experiment_id: str, condition: str, most: int | None = None) -> Iterator[FoundRun]:
        """Search, page by page."""
        token, left = None, most
        while left is None or left > 0:
            with self._meaning() as store:
                page = store.search_runs(
                    [experiment_id],
                    condition,
                    ViewType.ACTIVE_ONLY,
                    max_results=PAGE if left is None else min(left, PAGE),
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
            yield from map(_found, page)
            left = None if left is None else left - len(page)
            if not (token := page.token):
                return

    def read_artifact(self, run: FoundRun, path: str) -> bytes:
        """Copy the artifact out of the run's artifact repository."""
        with self._meaning(), tempfile.TemporaryDirectory(prefix="mltrace-") as scratch:
            repository: Any = get_artifact_repository(run.artifact_uri, tracking_uri=self.uri)
            return Path(repository.download_artifacts(path, scratch)).read_bytes()


def _found(run: Any) -> FoundRun:
    info, data = run.info, run.data
    return FoundRun(
        info.run_id, info.run_name or "", info.status, info.start_time, info.artifact_uri, info.end_time,
        dict(data.params), dict(data.metrics), dict(data.tags),
    )  # fmt: skip
