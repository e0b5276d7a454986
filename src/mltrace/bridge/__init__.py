"""
MLflow's own API through the journal: the plugins that MLflow finds for addresses ``mltrace+…``.

``MLFLOW_TRACKING_URI=mltrace+http://host:5000 python train.py`` gives code that knows nothing of mltrace
what decorated calls have: every write is one local append, and is delivered in the background.

MLflow loads these functions whenever it is imported; what they need is imported when they are called.
"""

from __future__ import annotations

from typing import Any


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """Return the tracking store for *store_uri* (entry point group ``mlflow.tracking_store``)."""
    from .store import MltraceStore

    return MltraceStore(store_uri, artifact_uri)


def registry_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    """Return the model registry for *store_uri* (entry point group ``mlflow.model_registry_store``)."""
    from .registry import RegistryStore

    return RegistryStore(store_uri, tracking_uri)


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> Any:
    """Return the artifacts at *artifact_uri* (entry point group ``mlflow.artifact_repository``)."""
    from .artifacts import SpoolArtifactRepository

    return SpoolArtifactRepository(artifact_uri, tracking_uri, registry_uri)
