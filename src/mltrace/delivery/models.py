"""
Models on their way: MLflow's LoggedModel, its files, and its version in the registry.

`logged-models/create` and `model-versions/create` are not idempotent, and the server chooses the
ids; so each model has its own ``mltrace.uid``, on both, and a version that is registered later one of
its own. All are searched before they are created,
at each attempt: there are few models, and a search is cheap beside their files. A LoggedModel that
a late request has made as well has no files and is not ready: it is deleted when it is seen.

Files go one by one. What the server lists already, in full length, is not sent again: an interrupted
upload goes on where it was. ``MLmodel`` goes last, with the ids that only the server could give: a
model that has one is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Union

import msgspec

from .._files import read_private
from .._records import ModelLogged, ModelRegistered
from .destination import (
    UID,
    DeliveryError,
    Destination,
    Missing,
    ModelStore,
    NewVersion,
    Rejected,
    ServerModel,
    ServerRun,
    Suspended,
)


MLMODEL = "MLmodel"
DIGEST = "mltrace.sha256"
VERSIONS = "mlflow.modelVersions"
"""MLflow's tag of a LoggedModel: the versions that were made of it, as JSON."""


def deliver_model(
    destination: Destination, run: ServerRun, record: ModelLogged, blob: Callable[[str], str]
) -> None:
    """
    Bring the model of *record* to the server, as far as it is not there; *blob* says where a blob
    lies. Can be repeated after any failure.
    """
    store = destination.models
    model = _find(destination, store, run, record)
    if model is None:
        tags = {UID: record.uid, DIGEST: record.digest, "mltrace.flavor": record.flavor, **record.model_tags}
        model = store.create(
            run.experiment_id, run.run_id, record.name, tags, record.model_params, record.model_type
        )
        present: Mapping[str, int] = {}
    else:
        present = {} if model.ready else store.files(model)
    if not model.ready:
        _upload(destination, run, model, record, blob, present)
        store.finish(model.model_id)
    if model.model_id not in store.outputs(run.run_id):
        store.add_output(run.run_id, model.model_id, record.step)
    if record.registered is not None:
        made_of = NewVersion(f"models:/{model.model_id}", model.model_id, {DIGEST: record.digest})
        _register(store, run, model, record.registered, record.uid, made_of)


def deliver_version(destination: Destination, run: ServerRun, record: ModelRegistered) -> None:
    """
    Make the version of *record*, unless it is there. Can be repeated after any failure; its model's
    files were delivered before.
    """
    store = destination.models
    model = None if record.model is None else _arrived(store, run, record, record.model)
    if model is None:
        source = "/".join(part for part in (run.artifact_uri.rstrip("/"), record.path) if part)
    else:
        source = f"models:/{model.model_id}"
    made_of = NewVersion(
        source, None if model is None else model.model_id, record.version_tags, record.description
    )
    _register(store, run, model, record.name, record.uid, made_of)


def _arrived(store: ModelStore, run: ServerRun, record: ModelRegistered, uid: str) -> ServerModel:
    ready = [model for model in store.find(run.experiment_id, uid) if model.ready]
    if not ready:
        raise (Missing if record.foreign else Rejected)(f"model {uid} has not arrived")
    return min(ready, key=lambda model: model.model_id)


def _find(
    destination: Destination, store: ModelStore, run: ServerRun, record: ModelLogged
) -> Union[ServerModel, None]:
    try:
        found = store.find(run.experiment_id, record.uid)
    except Suspended as refusal:
        # A server before MLflow 3 answers as one that is none; that must not stop everything else.
        try:
            alive = destination.probe().ok
        except DeliveryError:
            alive = False
        if not alive:
            raise
        raise Rejected(f"this server takes no LoggedModels, which came with MLflow 3 ({refusal})") from None
    ordered = sorted(found, key=lambda model: (not model.ready, model.model_id))
    for late in ordered[1:]:
        if not late.ready and not store.files(late):
            store.delete(late.model_id)
    return ordered[0] if ordered else None


def _upload(
    destination: Destination,
    run: ServerRun,
    model: ServerModel,
    record: ModelLogged,
    blob: Callable[[str], str],
    present: Mapping[str, int],
) -> None:
    place = ServerRun(model.model_id, model.artifact_uri, run.experiment_id)
    described: Union[bytes, None] = None
    for file in record.files:
        if file.path == MLMODEL:
            described = read_private(Path(blob(file.blob)))
        elif present.get(file.path) != file.size:
            destination.upload(place, file.path, blob(file.blob))
    if described is not None:
        destination.upload(place, MLMODEL, _with_ids(described, run, model))


def _with_ids(described: bytes, run: ServerRun, model: ServerModel) -> bytes:
    """Return the YAML of an ``MLmodel`` with the server's ids in the place of those it has, or has not."""
    ids = {"artifact_path": model.artifact_uri, "model_id": model.model_id, "run_id": run.run_id}
    kept = [line for line in described.decode().splitlines() if line.partition(":")[0] not in ids]
    return "".join(
        f"{line}\n" for line in [*kept, *(f"{key}: {value}" for key, value in ids.items())]
    ).encode()


def _register(
    store: ModelStore,
    run: ServerRun,
    model: Union[ServerModel, None],
    name: str,
    uid: str,
    made_of: NewVersion,
) -> None:
    number = store.version(name, run.run_id, uid)
    if number is None:
        tags = {**made_of.tags, UID: uid}
        number = store.register(name, run.run_id, msgspec.structs.replace(made_of, tags=tags))
    if model is None:
        return
    known = _versions(model.tags.get(VERSIONS, "[]"))
    if {"name": name, "version": number} not in known:
        text = msgspec.json.encode([*known, {"name": name, "version": number}]).decode()
        store.set_tags(model.model_id, {VERSIONS: text})


def _versions(text: str) -> list[dict[str, str]]:
    """Return the versions in MLflow's tag, where a number can be one or a text."""
    try:
        known = msgspec.json.decode(text, type=list[dict[str, Union[str, int]]])
    except msgspec.DecodeError:
        return []
    return [{key: str(value) for key, value in version.items()} for version in known]
