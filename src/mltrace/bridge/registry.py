"""
The model registry that MLflow opens for an address ``mltrace+…``: the server's, asked with its own ids.

MLflow takes the tracking address for the registry's unless it is told another one. Nothing of a registry
is recorded in the journal: a version number is the server's to give. What a version is made from is
delivered first.
"""

from __future__ import annotations

from typing import Any

from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.tracking._model_registry import utils as registry_service
from mlflow.tracking._tracking_service import utils as tracking_service

from .._addresses import BRIDGE, without_bridge
from .passing import passing
from .store import MltraceStore


_Passing: Any = passing(AbstractStore)


class RegistryStore(_Passing):  # type: ignore[misc]
    """The registry at *store_uri*, of models tracked at *tracking_uri*."""

    def __init__(self, store_uri: str, tracking_uri: str | None = None) -> None:
        super().__init__(store_uri, tracking_uri)
        self._uri = without_bridge(store_uri)
        self._tracking_uri = tracking_uri if tracking_uri and tracking_uri.startswith(BRIDGE) else store_uri

    @property
    def _real(self) -> Any:
        open_store: Any = registry_service._get_store
        return open_store(self._uri, without_bridge(self._tracking_uri))

    @property
    def _tracking(self) -> MltraceStore:
        open_store: Any = tracking_service._get_store
        found: MltraceStore = open_store(self._tracking_uri)
        return found

    def create_model_version(self, name: str, source: str, *arguments: Any, **options: Any) -> Any:
        """Register a model, delivered first where it is one of this process."""
        return self._pass(
            "create_model_version", name, self._tracking.server_source(source), *arguments, **options
        )

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Return where a version's files are, as MLflow finds them from here."""
        found = self._pass("get_model_version_download_uri", name, version)
        return self._tracking.upstream.resolved(found)

    def _pass(self, method: str, *arguments: Any, **options: Any) -> Any:
        tracking = self._tracking
        tracking.upstream.reach()
        there = [tracking.server_form(value) for value in arguments]
        named = {name: tracking.server_form(value) for name, value in options.items()}
        return getattr(self._real, method)(*there, **named)
