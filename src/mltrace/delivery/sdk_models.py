"""Models through MLflow's own stores; see `mltrace.delivery.models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from .destination import UID, Doubtful, NewVersion, Rejected, ServerModel, check_uid


_MOST = 100
_DEEP = 8


class SdkModels:
    """The models of the store at *uri* that *meaning* opens, and whose errors it translates."""

    def __init__(self, uri: str, meaning: Callable[[], AbstractContextManager[Any]]) -> None:
        self._uri = uri
        self._meaning = meaning

    def find(self, experiment_id: str, uid: str) -> Sequence[ServerModel]:
        """Search by the tag."""
        check_uid(uid)
        with self._meaning() as store:
            found = store.search_logged_models([experiment_id], f"tags.`{UID}` = '{uid}'", max_results=_MOST)
        return [model for model in map(_server_model, found) if model.tags.get(UID) == uid]

    def create(
        self,
        experiment_id: str,
        run_id: str,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        model_type: str | None,
    ) -> ServerModel:
        """Create a LoggedModel."""
        from mlflow.entities import LoggedModelParameter, LoggedModelTag

        with self._meaning() as store:
            made = store.create_logged_model(
                experiment_id=experiment_id,
                name=name,
                source_run_id=run_id,
                tags=[LoggedModelTag(key, value) for key, value in tags.items()],
                params=[LoggedModelParameter(key, value) for key, value in params.items()],
                model_type=model_type,
            )
        return _server_model(made)

    def files(self, model: ServerModel) -> Mapping[str, int]:
        """List the artifact repository."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self._meaning():
            repository: Any = get_artifact_repository(model.artifact_uri, tracking_uri=self._uri)
            return dict(_files(repository, None, _DEEP))

    def finish(self, model_id: str) -> None:
        """Set the status."""
        from mlflow.entities import LoggedModelStatus

        with self._meaning() as store:
            store.finalize_logged_model(model_id, LoggedModelStatus.READY)

    def delete(self, model_id: str) -> None:
        """Delete a duplicate."""
        with self._meaning() as store:
            store.delete_logged_model(model_id)

    def set_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import LoggedModelTag

        with self._meaning() as store:
            store.set_logged_model_tags(model_id, [LoggedModelTag(key, value) for key, value in tags.items()])

    def outputs(self, run_id: str) -> Sequence[str]:
        """Get the run."""
        with self._meaning() as store:
            outputs = store.get_run(run_id).outputs
        return [output.model_id for output in outputs.model_outputs] if outputs else []

    def add_output(self, run_id: str, model_id: str, step: int) -> None:
        """Log the output."""
        from mlflow.entities import LoggedModelOutput

        with self._meaning() as store:
            store.log_outputs(run_id, [LoggedModelOutput(model_id=model_id, step=step)])

    def version(self, name: str, run_id: str, uid: str) -> str | None:
        """Search the versions by the run."""
        with self._meaning():
            found = self._registry().search_model_versions(f"run_id='{run_id}'", max_results=_MOST)
        mine = (entry for entry in found if entry.name == name and dict(entry.tags or {}).get(UID) == uid)
        return next((str(entry.version) for entry in mine), None)

    def register(self, name: str, run_id: str, version: NewVersion) -> str:
        """Create the registered model where needed, and a version."""
        from mlflow.entities import model_registry

        tag: Any = model_registry.ModelVersionTag
        try:
            with self._meaning():
                self._registry().create_registered_model(name)
        except (Rejected, Doubtful) as refusal:
            if "ALREADY_EXISTS" not in str(refusal):
                raise
        with self._meaning():
            made = self._registry().create_model_version(
                name,
                version.source,
                run_id,
                tags=[tag(key, value) for key, value in version.tags.items()],
                description=version.description or None,
                model_id=version.model_id,
            )
        return str(made.version)

    def _registry(self) -> Any:
        from mlflow.tracking._model_registry import utils

        open_registry: Any = utils._get_store
        return open_registry(self._uri, self._uri)


def _files(repository: Any, folder: str | None, depth: int) -> Sequence[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for file in repository.list_artifacts(folder):
        if not file.is_dir:
            found.append((file.path, int(file.file_size or 0)))
        elif depth:
            found += _files(repository, file.path, depth - 1)
    return found


def _server_model(model: Any) -> ServerModel:
    ready = str(model.status).upper().endswith("READY")
    return ServerModel(model.model_id, model.artifact_location, ready, dict(model.tags or {}))
