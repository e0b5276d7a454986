"""Loading models: from the registry, from the copy on this machine while it is away, or from a path."""

from __future__ import annotations

import contextlib
import os

from pathlib import Path
from typing import Any, Union

import msgspec

from .. import _flavors, _guard, bundles
from ..exceptions import ConfigurationError, ModelNotFound, RegistryUnavailable
from ._cache import ModelCache
from ._client import connect
from ._stages import stage_word
from ._versions import ModelVersion, check_name, read, version_text


_FALSE = ("0", "false", "no", "off")


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where a model came from: the attribute ``mltrace_loaded`` of what `load_model` returns, where that
    takes one.

    *origin* is ``registry``, ``cache`` (the registry was away; *problem* says why) or ``path``;
    *sha256* is of the model's files, empty for one from a path.
    """

    origin: str
    path: str
    name: str = ""
    version: Union[str, None] = None
    selector: str = ""
    sha256: str = ""
    problem: str = ""

    @property
    def is_stale(self) -> bool:
        """Whether the registry was away, and may mean another version by now."""
        return self.origin == "cache"


def load_model(
    name: str | None = None,
    *,
    stage: str | None = None,
    alias: str | None = None,
    version: str | int | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """
    Return the model *name* in *stage*, under *alias*, or of one *version*; without any of them the
    one in ``MLFLOW_MODEL_STAGE``, else the newest. A bundle comes back as the dict that it was.

    The version that is meant and its files are kept on this machine. While the registry is away they
    are used again, with a warning; ``mltrace_loaded`` of the model says so too (`Loaded`). The
    files are compared with their checksums before each load.

    With ``USE_MLFLOW_REGISTRY=false`` or *path* the registry is not asked: the model is read from
    *path* or ``MLFLOW_MODEL_PATH``, a directory of MLflow's, a bundle's directory, or a file of
    pickle or joblib.

    Args:
        name: Of the registered model (``MLFLOW_MODEL_NAME``).

    Raises: ModelNotFound: No such name, stage, alias or version; the message lists what there is.
        RegistryUnavailable: The registry is away and there is no copy. CorruptedModel: The files
        are not those that were registered.
    """
    if path is not None or not _uses_registry():
        return _load_path(path or os.environ.get("MLFLOW_MODEL_PATH"))
    name = name or os.environ.get("MLFLOW_MODEL_NAME")
    if not name:
        raise ConfigurationError("name: which model? Give name=, or set MLFLOW_MODEL_NAME")
    check_name(name)
    selector = _selector(stage, alias, version)
    cache = ModelCache(name)
    problem = ""
    try:
        found, files = _ask(cache, name, selector)
    except RegistryUnavailable as error:
        found, files = _fall_back(cache, name, selector, error)
        problem = str(error)
    loaded = Loaded(
        origin="cache" if problem else "registry",
        path=str(files),
        name=name,
        version=found.version,
        selector=selector,
        sha256=cache.digest(found),
        problem=problem,
    )
    return _marked(_flavors.load(files), loaded)


def load_model_from_registry(model_name: str | None = None, stage: str | None = None) -> bundles.Bundle:
    """
    Return the model *model_name* in *stage* as a bundle, ``{"model", "scalers", "metadata"}``: as it
    was logged, or made of a model that was logged alone. See `load_model`.
    """
    model = load_model(model_name, stage=stage)
    loaded: Loaded | None = getattr(model, "mltrace_loaded", None)
    bundle = model if isinstance(model, bundles.Bundle) else bundles.Bundle(model=model)
    bundle.setdefault(bundles.SCALERS, None)
    if bundles.METADATA not in bundle:
        bundle[bundles.METADATA] = {} if loaded is None else {"name": loaded.name, "version": loaded.version}
    bundle.mltrace_loaded = loaded
    return bundle


def _uses_registry() -> bool:
    return os.environ.get("USE_MLFLOW_REGISTRY", "true").strip().lower() not in _FALSE


def _selector(stage: str | None, alias: str | None, version: str | int | None) -> str:
    """Return which version is asked for, as ``stage:Production``, ``alias:champion``, ``version:3`` or ``latest``."""
    given = [option for option in (stage, alias, version) if option is not None]
    if len(given) > 1:
        raise ConfigurationError("stage, alias, version: give one of them, not several")
    if not given:
        stage = os.environ.get("MLFLOW_MODEL_STAGE") or None
    if stage is not None:
        return f"stage:{stage_word(stage)}"
    if alias is not None:
        return f"alias:{alias}"
    return "latest" if version is None else f"version:{version_text(version)}"


def _ask(cache: ModelCache, name: str, selector: str) -> tuple[ModelVersion, Path]:
    """Return what the registry means by *selector*, and its files."""
    client = connect(writes=False)
    shelf = read(client, name)
    kind, _, wanted = selector.partition(":")
    if not shelf.versions:
        raise ModelNotFound(f"model {name!r}: {shelf.inventory()}")
    found: ModelVersion | None
    if kind == "stage":
        found = shelf.in_stage(wanted)
        if found is None:
            raise ModelNotFound(
                f"no version of model {name!r} is in {wanted}; {shelf.inventory()}."
                f" transition_model_to_stage({name!r}, version, {wanted!r}) brings one there"
            )
    elif kind == "alias":
        found = shelf.aliased(wanted)
    else:
        found = shelf.version(wanted) if kind == "version" else shelf.versions[-1]
    files = cache.fetch(client, found)
    cache.pin(selector, found)
    return found, files


def _fall_back(
    cache: ModelCache, name: str, selector: str, error: RegistryUnavailable
) -> tuple[ModelVersion, Path]:
    """Return what *selector* meant last, and its files, in place of a registry that is away."""
    pin = cache.pinned(selector)
    files = cache.get(pin.version) if pin is not None else None
    if pin is None or files is None:
        raise RegistryUnavailable(
            f"{error}; and there is no copy of model {name!r} ({selector}) in {cache.directory}"
        ) from None
    _guard.logger().warning(
        f"the registry is away; model {name!r} ({selector}) is version {pin.version.version}, as when it was last asked",
        problem=str(error),
    )
    return pin.version, files


def _load_path(path: str | os.PathLike[str] | None) -> Any:
    if not path:
        raise ConfigurationError(
            "path: USE_MLFLOW_REGISTRY is off, so the model is read from a path; give path=, or set MLFLOW_MODEL_PATH"
        )
    place = Path(path)
    if not place.exists():
        raise ModelNotFound(f"there is no model at {place.absolute()}; check path= or MLFLOW_MODEL_PATH")
    return _marked(read_path(place), Loaded(origin="path", path=str(place.absolute())))


def read_path(place: Path) -> Any:
    """Return the model at *place*: MLflow's directory, a bundle's directory, or a file of pickle or joblib."""
    if (place / "MLmodel").is_file():
        return _flavors.load(place)
    if place.is_dir():
        return bundles.read(place)
    found = bundles.unpickle(place)
    return bundles.Bundle(found) if bundles.is_bundle(found) else found


def _marked(model: Any, loaded: Loaded) -> Any:
    with contextlib.suppress(Exception):  # one with slots, or of an extension, takes no attribute
        model.mltrace_loaded = loaded
    return model
