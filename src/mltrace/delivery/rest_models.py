"""Models over MLflow's REST API; see `mltrace.delivery.models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union
from urllib.parse import quote, urlencode

import msgspec

from .._checks import is_registered_name, is_server_id
from .destination import UID, Doubtful, NewVersion, Rejected, ServerModel, Uncertain, check_uid


_API = "/api/2.0/mlflow/"
_READY = "LOGGED_MODEL_READY"
_MOST = 100  # models under one uid, versions of one run
_DEEP = 8  # folders of a model


class _Tag(msgspec.Struct, frozen=True):
    key: str
    value: str = ""


class _Info(msgspec.Struct):
    model_id: str
    artifact_uri: str = ""
    status: Union[str, int] = ""
    tags: list[_Tag] = []


class _Model(msgspec.Struct):
    info: _Info


class _ModelAnswer(msgspec.Struct):
    model: _Model


class _ModelsAnswer(msgspec.Struct):
    models: list[_Model] = []


class _File(msgspec.Struct):
    path: str
    is_dir: bool = False
    file_size: Union[int, str] = 0


class _FilesAnswer(msgspec.Struct):
    files: list[_File] = []


class _Output(msgspec.Struct):
    model_id: str


class _Outputs(msgspec.Struct):
    model_outputs: list[_Output] = []


class _OutputRun(msgspec.Struct):
    outputs: _Outputs = msgspec.field(default_factory=_Outputs)


class _OutputsAnswer(msgspec.Struct):
    run: _OutputRun


class _Version(msgspec.Struct):
    name: str
    version: Union[str, int]
    tags: list[_Tag] = []


class _VersionAnswer(msgspec.Struct):
    model_version: _Version


class _VersionsAnswer(msgspec.Struct):
    model_versions: list[_Version] = []


class _Any(msgspec.Struct):
    """An answer of which only that it is JSON matters."""


class RestModels:
    """The models of the server that *call* (method, path, body, answer's type) asks."""

    def __init__(self, call: Callable[[str, str, Any, type[Any]], Any]) -> None:
        self._call = call

    def find(self, experiment_id: str, uid: str) -> Sequence[ServerModel]:
        """POST logged-models/search; others are passed over, should the server have ignored the filter."""
        check_uid(uid)
        body = {"experiment_ids": [experiment_id], "filter": f"tags.`{UID}` = '{uid}'", "max_results": _MOST}
        found = self._call("POST", f"{_API}logged-models/search", body, _ModelsAnswer).models
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
        """POST logged-models."""
        body: dict[str, Any] = {
            "experiment_id": experiment_id,
            "source_run_id": run_id,
            "name": name,
            "tags": _tags(tags),
            "params": _tags(params),
        }
        if model_type is not None:
            body["model_type"] = model_type
        return _server_model(self._call("POST", f"{_API}logged-models", body, _ModelAnswer).model)

    def files(self, model: ServerModel) -> Mapping[str, int]:
        """GET logged-models/<id>/artifacts/directories, folder by folder."""
        return dict(self._files(model.model_id, "", _DEEP))

    def _files(self, model_id: str, folder: str, depth: int) -> Sequence[tuple[str, int]]:
        query = f"?{urlencode({'artifact_directory_path': folder})}" if folder else ""
        path = f"{_API}logged-models/{quote(model_id)}/artifacts/directories{query}"
        found: list[tuple[str, int]] = []
        for file in self._call("GET", path, None, _FilesAnswer).files:
            if not file.is_dir:
                found.append((file.path, int(file.file_size)))
            elif depth and file.path != folder:
                found += self._files(model_id, file.path, depth - 1)
        return found

    def finish(self, model_id: str) -> None:
        """PATCH logged-models/<id>."""
        body = {"model_id": model_id, "status": _READY}
        self._call("PATCH", f"{_API}logged-models/{quote(model_id)}", body, _ModelAnswer)

    def delete(self, model_id: str) -> None:
        """DELETE logged-models/<id>."""
        self._call("DELETE", f"{_API}logged-models/{quote(model_id)}", {"model_id": model_id}, _Any)

    def set_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        """PATCH logged-models/<id>/tags."""
        body = {"model_id": model_id, "tags": _tags(tags)}
        self._call("PATCH", f"{_API}logged-models/{quote(model_id)}/tags", body, _Any)

    def outputs(self, run_id: str) -> Sequence[str]:
        """GET runs/get."""
        found = self._call("GET", f"{_API}runs/get?{urlencode({'run_id': run_id})}", None, _OutputsAnswer)
        return [output.model_id for output in found.run.outputs.model_outputs]

    def add_output(self, run_id: str, model_id: str, step: int) -> None:
        """POST runs/outputs."""
        body = {"run_id": run_id, "models": [{"model_id": model_id, "step": step}]}
        self._call("POST", f"{_API}runs/outputs", body, _Any)

    def version(self, name: str, run_id: str, uid: str) -> str | None:
        """GET model-versions/search by the run."""
        query = urlencode({"filter": f"run_id='{run_id}'", "max_results": _MOST})
        found = self._call(
            "GET", f"{_API}model-versions/search?{query}", None, _VersionsAnswer
        ).model_versions
        mine = (entry for entry in found if entry.name == name and _Tag(UID, uid) in entry.tags)
        return next((str(entry.version) for entry in mine), None)

    def register(self, name: str, run_id: str, version: NewVersion) -> str:
        """POST registered-models/create and model-versions/create."""
        if not is_registered_name(name):
            raise Rejected(f"{name!r} is not the name of a registered model")
        try:
            self._call("POST", f"{_API}registered-models/create", {"name": name}, _Any)
        except (Rejected, Doubtful) as refusal:
            if "ALREADY_EXISTS" not in str(refusal):
                raise
        body: dict[str, Any] = {
            "name": name,
            "source": version.source,
            "run_id": run_id,
            "tags": _tags(version.tags),
        }
        if version.model_id is not None:
            body["model_id"] = version.model_id
        if version.description:
            body["description"] = version.description
        made = self._call("POST", f"{_API}model-versions/create", body, _VersionAnswer).model_version
        return str(made.version)


def _server_model(model: _Model) -> ServerModel:
    info = model.info
    if not is_server_id(info.model_id) or not info.artifact_uri.isprintable():
        raise Uncertain("the server sent an id or an artifact address of a model that is none")
    tags = {tag.key: tag.value for tag in info.tags}
    return ServerModel(info.model_id, info.artifact_uri, info.status in (_READY, 2), tags)


def _tags(tags: Mapping[str, str]) -> list[_Tag]:
    return [_Tag(key, value) for key, value in tags.items()]
