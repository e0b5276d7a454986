"""
The model registry that MLflow opens for an address ``mltrace+…``: the server's, asked with its own ids.

MLflow takes the tracking address for the registry's unless it is told another one. What a version is made
from is delivered first. While that has to wait, a version of what this process has made is a record of the
journal (`mltrace._records.ModelRegistered`), behind the model's own, and the registered model is made
with it. Its number is the server's to give: the program gets a text in its place, which can be used as a
number once it is delivered. Nothing else of a registry is recorded: it needs the server.
"""

from __future__ import annotations

import functools

from typing import Any

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.tracking._model_registry import utils as registry_service
from mlflow.tracking._tracking_service import utils as tracking_service
from mlflow.utils import validation

from .. import _clock, _guard
from .._addresses import BRIDGE, destination_id, without_bridge
from .._checks import is_registered_name
from .._config import normal_uri
from ..delivery.destination import UID
from .passing import passing
from .store import MltraceStore
from .upstream import Away
from .versions import Pending, Queued


_Passing: Any = passing(AbstractStore)
_validation: Any = validation
_version: Any = ModelVersion
_tag: Any = ModelVersionTag
_registered: Any = RegisteredModel


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

    @property
    def _is_delivered_to(self) -> bool:
        """Whether it is the registry of the server that models are delivered to."""
        return destination_id(normal_uri(self._uri)) == self._tracking.destination

    def create_registered_model(
        self,
        name: str,
        tags: Any = None,
        description: str | None = None,
        deployment_job_id: str | None = None,
    ) -> Any:
        """Make a registered model; while the server is away, with its first version."""
        try:
            return self._pass("create_registered_model", name, tags, description, deployment_job_id)
        except Away:
            if not self._is_delivered_to or any(tag.key == IS_PROMPT_TAG_KEY for tag in tags or ()):
                raise
            _check_name(name)
            _warn(name)
            if tags or description or deployment_job_id:
                _guard.warn_once(
                    f"registered:{name}",
                    "a registered model is made while the server is away: its description and tags are not recorded",
                    model=name,
                )
            now = _clock.now_ms()
            return _registered(name, now, now, description, tags=tags)

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Any = None,
        run_link: str | None = None,
        description: str | None = None,
        model_id: str | None = None,
    ) -> Any:
        """
        Register a model: one of this process is delivered first, and where that has to wait, so does the
        version. It has a uid, which delivery finds it by if this request is not answered.
        """
        tracking = self._tracking
        made_here = tracking.made_here(source) if self._is_delivered_to else None
        uid = _clock.new_id()
        marked = tags if made_here is None else [*(tags or ()), _tag(UID, uid)]
        try:
            tracking.upstream.reach()
            there = tracking.server_source(source)
            return self._pass(
                "create_model_version", name, there, run_id, marked, run_link, description, model_id=model_id
            )
        except Away:
            if made_here is None:
                raise
            _check_name(name)
            for tag in tags or ():
                _validation._validate_model_version_tag(tag.key, tag.value)
            _warn(name)
        queued = Queued(uid, name, *made_here)
        tracking.queue(queued, {tag.key: tag.value for tag in tags or ()}, description or "")
        now = _clock.now_ms()
        return _version(
            name,
            Pending(queued.version, functools.partial(self._numbered, queued.version)),
            now,
            now,
            description,
            source=source,
            run_id=queued.run.uid,
            status="PENDING_REGISTRATION",
            status_message="it is registered, and gets its number, when mltrace delivers it",
            tags=tags,
            model_id=model_id,
        )

    def _await_model_version_creation(self, mv: Any, await_creation_for: Any) -> None:
        """Wait until a version is ready; not for one that waits for its delivery."""
        if mv.version not in self._tracking.queued:
            self._pass("_await_model_version_creation", mv, await_creation_for)

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Return where a version's files are, as MLflow finds them from here."""
        found = self._pass("get_model_version_download_uri", name, version)
        return self._tracking.upstream.resolved(found)

    def _pass(self, method: str, *arguments: Any, **options: Any) -> Any:
        tracking = self._tracking
        numbered = [self._numbered(value) for value in arguments]
        named = {name: self._numbered(value) for name, value in options.items()}
        tracking.upstream.reach()
        there = [tracking.server_form(value) for value in numbered]
        named = {name: tracking.server_form(value) for name, value in named.items()}
        return tracking.upstream.answer(getattr(self._real, method), *there, **named)

    def _numbered(self, value: Any) -> Any:
        """Return *value*, an argument; the number of a version in the place of what stood for it."""
        tracking = self._tracking
        queued = tracking.queued.get(value) if isinstance(value, str) else None
        if queued is None:
            return value
        try:
            tracking.upstream.reach()
            run_id = tracking.delivered_id(queued.run.uid)
        except Away as away:
            why = f"the version of {queued.name!r} that this is about gets its number when it is delivered"
            raise Away(tracking.uri, why) from away
        found = tracking.upstream.answer(self._real.search_model_versions, f"run_id='{run_id}'")
        for version in found:
            if version.name == queued.name and version.tags.get(UID) == queued.uid:
                return str(version.version)
        raise MlflowException(
            f"The version of {queued.name!r} that this is about was not registered; see `mltrace dead list`",
            RESOURCE_DOES_NOT_EXIST,
        )


def _check_name(name: str) -> None:
    """Raise what MLflow's server would answer, later and to nobody."""
    _validation._validate_model_name(name)
    if not is_registered_name(name):
        raise MlflowException(
            f"Invalid model name {name!r}: 1 to 250 characters, none of / : \" '", INVALID_PARAMETER_VALUE
        )


def _warn(name: str) -> None:
    _guard.warn_once(
        f"register:{name}",
        "the registry cannot be asked now: the registered model is made with its first version, and the version"
        " gets its number, when mltrace delivers it",
        model=name,
    )
