"""
Logged models of runs that are in the journal.

A model is made in steps: MLflow creates it, logs its files, its params and the metrics of its run, and says
that it is ready. Here these are kept until the last, and become one record then: the model arrives
whole, or not at all. From its creation on it has an id of ours, ``m-`` and a uid, which MLflow writes
into its files; delivery puts the server's in its place.
"""

from __future__ import annotations

import os
import re

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.search_utils import SearchLoggedModelsUtils

from .. import _clock
from .._digests import FileSum, tree_digest
from .._records import ModelFile, ModelLogged
from ..backends import Backend
from .views import RunView, Stored


DESCRIPTION = "MLmodel"
"""The file of a model that describes it."""

_PREFIX = "m-"
_PER_SERVER = re.compile(rb"^(?:artifact_path|model_id|model_uuid|run_id):.*\n", re.MULTILINE)
_search: Any = SearchLoggedModelsUtils


class ModelView:
    """One model as MLflow shows it."""

    def __init__(
        self,
        run: RunView,
        name: str,
        artifact_uri: str,
        uid: str,
        *,
        model_type: str | None,
        tags: dict[str, str],
        params: dict[str, str],
    ) -> None:
        self.uid = uid
        self.run = run
        self.name = name
        self.artifact_uri = artifact_uri
        self.model_type = model_type
        self.tags = tags
        self.params = params
        self.step = 0
        self.status = LoggedModelStatus.PENDING
        self.created = self.updated = _clock.now_ms()
        self.metrics: list[Metric] = []
        self.artifacts: dict[str, Stored] = {}
        self.blobs: dict[str, ModelFile] = {}
        self._process = os.getpid()

    @property
    def is_foreign(self) -> bool:
        """Whether it was made in another process, of which this is a fork."""
        return self._process != os.getpid()

    @property
    def model_id(self) -> str:
        """The id that the program was given."""
        return _PREFIX + self.uid

    @property
    def is_open(self) -> bool:
        """Whether MLflow has not said yet that it is complete."""
        return bool(self.status == LoggedModelStatus.PENDING)

    def keep(self, path: str, stored: Stored, file: ModelFile) -> None:
        """Take note of a file."""
        self.artifacts[path] = stored
        self.blobs[path] = file

    def entity(self) -> LoggedModel:
        """Return the model as `mlflow.entities.LoggedModel`."""
        return LoggedModel(
            experiment_id=self.run.experiment_id,
            model_id=self.model_id,
            name=self.name,
            artifact_location=self.artifact_uri,
            creation_timestamp=self.created,
            last_updated_timestamp=self.updated,
            model_type=self.model_type,
            source_run_id=self.run.uid,
            status=self.status,
            tags=dict(self.tags),
            params=dict(self.params),
            metrics=list(self.metrics),
        )

    def record(self, backend: Backend, registered: str | None = None) -> ModelLogged:
        """Return the record of the model, complete."""
        files = dict(self.blobs)
        stored = self.artifacts.get(DESCRIPTION)
        if stored is not None and stored.file is not None:
            content = _PER_SERVER.sub(b"", Path(stored.file).read_bytes())
            if (blob := backend.store(content)) is not None:
                files[DESCRIPTION] = ModelFile(DESCRIPTION, blob.name, blob.size, sum_of(blob.name))
        return ModelLogged(
            run=self.run.uid,
            time=_clock.now_ms(),
            uid=self.uid,
            name=self.name,
            flavor=FOREIGN_FLAVOR,
            digest=tree_digest({path: FileSum(file.size, file.sha256) for path, file in files.items()}),
            files=tuple(files[path] for path in sorted(files)),
            registered=registered,
            model_tags=dict(self.tags),
            model_params=dict(self.params),
            model_type=self.model_type,
            step=self.step,
            experiment=self.run.elsewhere,
        )


FOREIGN_FLAVOR = "mlflow"
"""What stands for the flavour of a model that MLflow's own API has saved: its files say which it is."""


def sum_of(blob: str) -> str:
    """Return the SHA-256 of a blob's content: the blob is called after it."""
    return blob.partition(".")[0]


def uid_of(model_id: str) -> str:
    """Return the uid in a model's id."""
    return model_id.removeprefix(_PREFIX)


class Models:
    """The models of this process's runs, by id."""

    def __init__(self) -> None:
        self._models: dict[str, ModelView] = {}

    def __iter__(self) -> Iterator[ModelView]:
        return iter(list(self._models.values()))

    def get(self, model_id: str) -> ModelView | None:
        """Return the model, None where it is not one of ours."""
        return self._models.get(model_id)

    def put(self, model: ModelView) -> ModelView:
        """Keep a model."""
        self._models[model.model_id] = model
        return model

    def pop(self, model_id: str) -> None:
        """Forget a model."""
        self._models.pop(model_id, None)

    def search(
        self,
        there: Sequence[LoggedModel],
        experiments: set[str],
        filter_string: str | None,
        datasets: Any,
        max_results: int | None,
        order_by: Any,
        page_token: str | None,
    ) -> Any:
        """Return the models of ours in *experiments* (names) that a search finds, and those that are *there*."""
        here = [model.entity() for model in self if model.run.experiment in experiments]
        matching = _search.filter_logged_models(here, filter_string, datasets)
        found = _search.sort([*matching, *there], order_by)
        page, token = _search.paginate(found, page_token, max_results or 100)
        return PagedList(page, token)
