"""
The plugins that MLflow finds: stores for tracking addresses ``mltrace+…``, their artifacts, and the parent of
a run that is opened in a decorated call.

It is a module of its own, beside the package, because MLflow imports every plugin when it is imported:
nothing of mltrace is imported before an address asks for it.
"""

from __future__ import annotations

import sys

from typing import Any

from wrapt import register_post_import_hook


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """Return the tracking store for *store_uri*."""
    from mltrace.bridge.store import MltraceStore

    return MltraceStore(store_uri, artifact_uri)


def registry_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    """Return the model registry for *store_uri*."""
    from mltrace.bridge.registry import RegistryStore

    return RegistryStore(store_uri, tracking_uri)


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> Any:
    """Return the artifacts at *artifact_uri*."""
    from mltrace.bridge.artifacts import SpoolArtifactRepository

    return SpoolArtifactRepository(artifact_uri, tracking_uri, registry_uri)


class JointContext:
    """A provider of tags: the parent of a run that MLflow starts inside a run of mltrace."""

    def in_context(self) -> bool:
        """Say whether there is one."""
        return bool(self.tags())

    def tags(self) -> dict[str, str]:
        """Return the tag."""
        joint = sys.modules.get("mltrace._joint")
        parent = joint.opening_parent() if joint is not None else None
        return {} if parent is None else {"mlflow.parentRunId": parent}


def _install(fluent: Any) -> None:
    joint = sys.modules.get("mltrace._joint")
    if joint is not None:  # else it does so itself, when it is imported
        joint.install(fluent)


register_post_import_hook(_install, "mlflow.tracking.fluent")
