"""
MLflow's client at the configured addresses, and what its errors mean.

The client's own retries go on for minutes; so the address is asked first whether anybody is there,
within seconds. MLflow's global state (tracking address, active run) is neither read nor changed.
"""

from __future__ import annotations

import contextlib
import os

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import _guard
from .._addresses import destination_id, safe_uri
from .._config import probe, resolve
from .._redaction import Redactor, shown
from ..exceptions import (
    MissingExtra,
    ModelNotFound,
    RegistryError,
    RegistryUnavailable,
)


_REDACTOR = Redactor()
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


def addresses() -> tuple[str, str]:
    """Return the addresses of tracking server and registry (``MLFLOW_REGISTRY_URI``; else the same)."""
    tracking = resolve().tracking_uri
    return tracking, os.environ.get("MLFLOW_REGISTRY_URI") or tracking


def registry_id() -> str:
    """Return 16 hex digits that name the registry on this machine."""
    return destination_id(addresses()[1])


def needed(module: str, what: str, extra: str = "mlflow") -> Any:
    """Import and return *module*; raise `MissingExtra` where it is not installed."""
    import importlib

    try:
        with _guard.importing:
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{what} needs {module.partition('.')[0]} ({error}); install mltrace-mlflow[{extra}]"
        ) from None


def connect(*, writes: bool) -> Any:
    """
    Return an `mlflow.MlflowClient` whose registry answers.

    Raises: MissingExtra: mlflow is not installed. RegistryUnavailable: Nobody answers, or, for one
        that only reads, the sqlite file is not there: MLflow would make an empty one.
    """
    mlflow = needed("mlflow", "the model registry")
    tracking, registry = addresses()
    if not writes and registry.startswith("sqlite:////") and not Path(registry[len("sqlite:///") :]).exists():
        raise RegistryUnavailable(f"{registry} is not there")
    for uri in dict.fromkeys((tracking, registry)):
        if uri.partition(":")[0] in ("http", "https", "sqlite", "postgresql", "mysql", "mssql"):
            found = probe(uri)
            if not found.ok:
                raise RegistryUnavailable(found.message)
    return mlflow.MlflowClient(tracking_uri=tracking, registry_uri=registry)


@contextlib.contextmanager
def speaking(what: str) -> Iterator[None]:
    """Translate what MLflow raises in the block, which does *what*, into errors of the registry."""
    exceptions = needed("mlflow.exceptions", "the model registry")
    try:
        yield
    except exceptions.MlflowException as error:
        kind = ModelNotFound if error.error_code in _ABSENT else RegistryError
        if error.error_code in _AWAY:
            kind = RegistryUnavailable
        raise kind(f"{what}: {_words(error)}") from None
    except OSError as error:  # the artifact store's, or of the network below it
        raise RegistryUnavailable(f"{what}: {_words(error)}") from None


def _words(error: Exception) -> str:
    return shown(_REDACTOR.text(str(error) or type(error).__name__))[:500]


def where() -> str:
    """Return the registry's address as it may be shown."""
    return safe_uri(addresses()[1])
