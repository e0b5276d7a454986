"""Putting models into the registry."""

from __future__ import annotations

import os

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import _guard
from .._config import is_enabled
from .._decorators import track_run
from ..exceptions import ConfigurationError, ModelNotFound
from ._client import addresses, connect, needed, speaking
from ._loading import read_path
from ._versions import ModelVersion, check_name, read


def register_model(
    model_uri: str, name: str, *, description: str = "", tags: Mapping[str, str] | None = None
) -> ModelVersion | None:
    """
    Register the model at *model_uri* as a new version of *name*, which is made where needed; return
    it, or None while mltrace is disabled.

    Args:
        model_uri: ``runs:/<run id>/<name>``, ``models:/<model id>``, or an address of an artifact
            store.

        description: Of the version.

        tags: Of the version.

    Raises: ModelNotFound: There is no such model.
    """
    check_name(name)
    if not isinstance(model_uri, str) or ":" not in model_uri:
        raise ConfigurationError(f"model_uri: {model_uri!r} is not an address, such as runs:/<run id>/model")
    if not is_enabled():
        return None
    client = connect(writes=True)
    source, run_id, model_id = _resolve(client, model_uri)
    ensure_name(client, name)
    with speaking(f"registering {model_uri} as {name!r}"):
        made = client.create_model_version(
            name, source, run_id, tags=dict(tags or {}), description=description or None, model_id=model_id
        )
    return read(client, name).version(made.version)


def register_existing_model(
    path: str | os.PathLike[str],
    name: str,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, Any] | None = None,
    run_name: str | None = None,
    experiment_name: str | None = None,
    flavor: str = "auto",
    timeout: float = 60.0,
    **options: Any,
) -> ModelVersion | None:
    """
    Register a model that lies on disk: a run is made that logs *params*, *metrics* and the model, as
    `Run.log_model` does, and the version is returned once the registry has it.

    Args:
        path: A directory of MLflow's, a bundle's directory (``model.pkl``, ``scalers.pkl``,
            ``metadata.json``), or a file of pickle or joblib. Unpickling runs code.

        metrics: What promotion and comparison will go by.

        run_name: Default: ``register_<name>``.

        timeout: Seconds to wait for the delivery. What is not there by then is in the spool and
            comes later; a warning says so.

        options: Of `Run.log_model`.

    Returns: None while mltrace is disabled, and where the registry did not have it in time.

    Raises: ModelNotFound: There is nothing at *path*.
    """
    check_name(name)
    place = Path(path)
    if not place.exists():
        raise ModelNotFound(f"there is no model at {place.absolute()}; check path=")
    if not is_enabled():
        return None
    model = place if (place / "MLmodel").is_file() else read_path(place)
    with track_run(run_name or f"register_{name}", experiment_name=experiment_name, tags=tags) as run:
        run.log_params(params or {})
        run.log_metrics(metrics or {})
        logged = run.log_model(model, flavor=flavor, registered_model_name=name, **options)
    if logged is None:
        return None
    if run.wait(timeout):
        found = [
            version for version in read(connect(writes=False), name).versions if _is(version, logged.uid)
        ]
        if found:
            return found[-1]
    _guard.logger().warning(
        f"model {name!r} is in the spool and not in the registry yet; it is registered when it is delivered",
        path=str(place),
    )
    return None


def _is(version: ModelVersion, uid: str) -> bool:
    return version.tags.get("mltrace.uid") == uid


def ensure_name(client: Any, name: str) -> None:
    """Make the registered model *name*, unless it is there."""
    exceptions = needed("mlflow.exceptions", "the model registry")
    try:
        client.create_registered_model(name)
    except exceptions.MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            with speaking(f"making the registered model {name!r}"):
                raise


def _resolve(client: Any, uri: str) -> tuple[str, str | None, str | None]:
    """Return source, run id and model id of what *uri* names."""
    scheme, _, rest = uri.partition(":/")
    if scheme == "models" and rest.startswith("m-"):
        with speaking(f"the model {uri}"):
            model = client.get_logged_model(rest)
        return f"models:/{rest}", model.source_run_id, rest
    if scheme != "runs":
        return uri, None, None
    run_id, _, name = rest.strip("/").partition("/")
    with speaking(f"the run {run_id}"):
        run = client.get_run(run_id)
        logged = [
            model
            for model in client.search_logged_models([run.info.experiment_id], f"name = '{name}'")
            if model.source_run_id == run_id
        ]
        if logged:  # of several of one name the latest
            model = max(logged, key=lambda found: found.creation_timestamp)
            return f"models:/{model.model_id}", run_id, str(model.model_id)
        if any(file.path.endswith("/MLmodel") for file in client.list_artifacts(run_id, name)):
            runs = needed("mlflow.store.artifact.runs_artifact_repo", "the model registry")
            found = runs.RunsArtifactRepository.get_underlying_uri(uri, tracking_uri=addresses()[0])
            return found, run_id, None
    raise ModelNotFound(f"run {run_id} has no model {name!r}; was it logged, under this name?")
