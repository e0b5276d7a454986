"""
The real tracking store behind the bridge: what is not answered locally passes through to it.

MLflow's client tries a server that is away for minutes. Here it is asked whether somebody listens
before each request, and a program that only reads is told at once (`Away`).
"""

from __future__ import annotations

import socket
import time
import urllib.request

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.tracking._tracking_service import utils as tracking_service

from .._addresses import safe_uri
from ..delivery.sdk import artifact_root


_CONNECT_SECONDS = 1.5
_AGAIN_SECONDS = 1.0  # for which a server that may keep the caller waiting is not asked again
_UNANSWERED = "API request to "  # how MLflow's client begins when it has given up
_MISSING = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
_PORTS = {"http": 80, "https": 443}


class Away(MlflowException):
    """The tracking server cannot be reached now; raised to the program by what needs it."""

    def __init__(self, uri: str, why: object) -> None:
        super().__init__(
            f"{safe_uri(uri)} cannot be reached ({why}); what is logged waits in mltrace's spool",
            error_code=TEMPORARILY_UNAVAILABLE,
        )


def is_missing(error: MlflowException) -> bool:
    """Say whether the server answered that there is no such thing."""
    return bool(error.error_code == _MISSING)


class Upstream:
    """The store at *uri*, opened at the first request."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._away: tuple[float, object] = (0.0, "")

    @property
    def store(self) -> Any:
        """MLflow's own store for the address."""
        open_store: Any = tracking_service._get_store
        return open_store(self.uri, artifact_root(self.uri))

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call *method* of the store; raise `Away` where the server is not there."""
        self.reach()
        return self.answer(getattr(self.store, method), *arguments, **options)

    def answer(self, request: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call *request* of one of MLflow's stores; raise `Away` where that has given up."""
        try:
            return request(*arguments, **options)
        except MlflowException as error:
            if str(error).startswith(_UNANSWERED):
                raise Away(self.uri, "no answer") from error
            raise

    def reach(self) -> None:
        """Raise `Away` where nobody listens at the address."""
        parts = urlsplit(self.uri)
        if parts.scheme not in _PORTS or not parts.hostname or _is_proxied(parts.scheme, parts.hostname):
            return
        until, why = self._away
        if time.monotonic() < until:
            raise Away(self.uri, why)
        try:
            address = parts.hostname, parts.port or _PORTS[parts.scheme]
            socket.create_connection(address, _CONNECT_SECONDS).close()
        except OSError as error:
            # A refusal is heard at once, and may be over the next moment; all else may take its time again.
            if not isinstance(error, ConnectionRefusedError):
                self._away = time.monotonic() + _AGAIN_SECONDS, error
            raise Away(self.uri, error) from None

    def resolved(self, artifact_uri: str) -> str:
        """
        Return an artifact address of the server so that MLflow finds it whatever its tracking address is
        called: ``mlflow-artifacts:/…`` is relative to that.
        """
        if artifact_uri and artifact_uri.startswith("mlflow-artifacts:") and self.uri.startswith("http"):
            resolve: Any = MlflowArtifactsRepository.resolve_uri
            return str(resolve(artifact_uri, self.uri))
        return artifact_uri


def _is_proxied(scheme: str, host: str) -> bool:
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)
