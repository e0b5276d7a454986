"""
Logging a model: saved at once, through MLflow's flavours, and put into the spool whole; delivery
makes it MLflow's LoggedModel, and a version in the registry.

Saving is done by the caller, as it takes what the model is now; the network is not.
"""

from __future__ import annotations

import os

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Union

import msgspec

from . import _clock, _flavors, _guard
from ._checks import is_artifact_path, is_model_name, is_registered_name
from ._digests import files_below, tree_digest, tree_sums
from ._records import ModelFile, ModelLogged
from .backends import Blob
from .exceptions import ConfigurationError, MissingExtra


class LoggedModel(msgspec.Struct, frozen=True):
    """
    A model that was logged: *uid* is its tag ``mltrace.uid`` in MLflow, also on the version that it
    becomes of *registered_model_name*; *sha256* is of its files.
    """

    uid: str
    name: str
    flavor: str
    sha256: str
    size: int
    registered_model_name: Union[str, None] = None


def check_options(name: str, flavor: str, registered_model_name: str | None) -> None:
    """Raise `ConfigurationError` for what neither MLflow nor mltrace takes."""
    if not isinstance(name, str) or not is_model_name(name):
        raise ConfigurationError(
            f"name: {name!r} is not the name of a model: 1 to 250 characters, none of / : . % \" '"
        )
    if registered_model_name is not None and not (
        isinstance(registered_model_name, str) and is_registered_name(registered_model_name)
    ):
        raise ConfigurationError(
            f"registered_model_name: {registered_model_name!r} is not the name of a registered model:"
            " 1 to 250 characters, none of / : \" '"
        )
    _flavors.check(flavor)


def keep(
    model: Any,
    name: str,
    flavor: str,
    store: Callable[[str], Blob | None],
    *,
    run: str,
    time: int,
    registered: str | None,
    tags: Mapping[str, str],
    step: int,
    experiment: str | None,
    options: Mapping[str, Any],
) -> ModelLogged | None:
    """
    Save *model* and hand its files to *store*; return the record of it, or None, with a warning,
    where MLflow or the model's library is missing or the spool does not take it.

    *model* can be the path of a directory that MLflow has saved a model in.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mltrace-") as scratch:
        path = Path(scratch) / "model"
        if isinstance(model, (str, os.PathLike)):
            path, flavor = _saved(Path(model)), "saved"
        else:
            try:
                flavor = _flavors.save(model, path, flavor, **options)
            except MissingExtra as error:
                _guard.misuse(f"log_model:{flavor}", f"log_model: {error}; the model is not logged")
                return None
        files = _store(path, store)
        if files is None:
            return None
        sums = tree_sums(path)
    return ModelLogged(
        run=run,
        time=time,
        uid=_clock.new_id(),
        name=name,
        flavor=flavor,
        digest=tree_digest(sums),
        files=tuple(
            ModelFile(file, blob.name, sums[file].size, sums[file].sha256) for file, blob in files.items()
        ),
        registered=registered,
        model_tags=dict(tags),
        step=step,
        experiment=experiment,
    )


def _saved(path: Path) -> Path:
    if not (path / "MLmodel").is_file():
        raise ConfigurationError(f"model: {str(path)!r} is not a directory that MLflow has saved a model in")
    return path


def _store(path: Path, store: Callable[[str], Blob | None]) -> dict[str, Blob] | None:
    found: dict[str, Blob] = {}
    for name, file in files_below(path):
        if not is_artifact_path(name):
            _guard.misuse(
                f"log_model:{name}",
                f"log_model: {name!r} in the model is not a name that every server takes; the model is not logged",
            )
            return None
        blob = store(str(file))
        if blob is None:
            return None
        found[name] = blob
    return found


def as_logged(record: ModelLogged) -> LoggedModel:
    """Return what the user sees of *record*."""
    size = sum(file.size for file in record.files)
    return LoggedModel(record.uid, record.name, record.flavor, record.digest, size, record.registered)
