"""
Models to and from directories, through MLflow's flavours.

Which flavour a model has follows from the package that its class, or a base of it, comes from.
Saving writes the requirements that the flavour has by default: MLflow would find more by loading
the model in another interpreter, which takes it ten seconds.
"""

from __future__ import annotations

import contextlib
import importlib

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _guard, bundles
from .exceptions import ConfigurationError, MissingExtra


PYFUNC, BUNDLE = "pyfunc", "bundle"
_FLAVORS = {  # by package; the flavour's module is mlflow.<flavour>, its first argument the model
    "sklearn": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "torch": "pytorch",
    "onnx": "onnx",
    "keras": "tensorflow",
    "tensorflow": "tensorflow",
    "statsmodels": "statsmodels",
    "mlflow": PYFUNC,
}
NAMES = (*dict.fromkeys(_FLAVORS.values()), BUNDLE)
_MARK = "mltrace_bundle"
_GENERIC = "python_function"


def flavor_of(model: Any) -> str:
    """Return the flavour of *model*; raise `ConfigurationError` where none fits."""
    if bundles.is_bundle(model):
        return BUNDLE
    for kind in type(model).__mro__:
        if (found := _FLAVORS.get(kind.__module__.partition(".")[0])) is not None:
            return found
    if callable(model):
        return PYFUNC
    raise ConfigurationError(
        f"model: a {type(model).__qualname__} is of none of MLflow's flavours; wrap it in a"
        " mlflow.pyfunc.PythonModel, or give flavor="
    )


def check(flavor: str) -> None:
    """Raise `ConfigurationError` for what is no flavour."""
    if flavor != "auto" and flavor not in NAMES:
        raise ConfigurationError(f"flavor: {flavor!r} is not 'auto' or one of {', '.join(NAMES)}")


def save(model: Any, path: Path, flavor: str = "auto", **options: Any) -> str:
    """
    Save *model* at *path*, which must not be there yet; return its flavour. *options* go to the
    flavour's `save_model`; those that are None are left out.

    Raises: MissingExtra: mlflow, or the library of the flavour, is not installed.
    """
    flavor = flavor_of(model) if flavor == "auto" else flavor
    options = {name: value for name, value in options.items() if value is not None}
    if flavor == BUNDLE:
        _save_bundle(model, path, options)
    elif flavor == PYFUNC:
        options.setdefault("pip_requirements", _requirements("pyfunc"))
        _module("pyfunc").save_model(path=str(path), python_model=model, **options)
    else:
        _save_native(model, path, flavor, options)
    return flavor


def _save_native(model: Any, path: Path, flavor: str, options: dict[str, Any]) -> None:
    options.setdefault("pip_requirements", _requirements(flavor))
    module = _module(flavor)
    try:
        module.save_model(model, str(path), **options)
    except Exception:
        if flavor not in ("sklearn", "lightgbm") or "serialization_format" in options:
            raise
        # MLflow's default there, skops, refuses types that it does not know.
        with contextlib.suppress(FileNotFoundError):
            _remove(path)
        module.save_model(model, str(path), serialization_format="cloudpickle", **options)


def _save_bundle(bundle: Mapping[str, Any], path: Path, options: dict[str, Any]) -> None:
    data = path.with_name(f"{path.name}-data") / BUNDLE
    try:
        bundles.write(bundle, data)
        options.setdefault("pip_requirements", _bundle_requirements(bundle))
        options["metadata"] = {**options.get("metadata", {}), _MARK: "1"}
        _module("pyfunc").save_model(
            path=str(path), loader_module=bundles.__name__, data_path=str(data), **options
        )
    finally:
        _remove(data.parent)


def _bundle_requirements(bundle: Mapping[str, Any]) -> list[str]:
    found = [*_requirements("pyfunc"), "mltrace-mlflow"]
    with contextlib.suppress(ConfigurationError):
        flavor = flavor_of(bundle[bundles.MODEL])
        if flavor not in (PYFUNC, BUNDLE):
            found += _requirements(flavor)
    return list(dict.fromkeys(found))


def _requirements(flavor: str) -> list[str]:
    return list(_module(flavor).get_default_pip_requirements())


def load(path: Path) -> Any:
    """
    Load the MLflow model in the directory *path* as what it was before it was saved: a bundle as
    `bundles.Bundle`, a model of a library as that library's, else MLflow's pyfunc wrapper.
    """
    models = _module("models")
    described = models.Model.load(str(path))
    flavors: Mapping[str, Any] = described.flavors
    if (described.metadata or {}).get(_MARK):
        return bundles.read(path / flavors[_GENERIC]["data"])
    native = next((name for name in flavors if name != _GENERIC), None)
    return _module(native or "pyfunc").load_model(str(path))


def _module(name: str) -> Any:
    try:
        with _guard.importing:
            return importlib.import_module(f"mlflow.{name}")
    except ImportError as error:
        raise MissingExtra(
            f"models of MLflow's flavour {name} need mlflow and the model's library ({error});"
            " install mltrace-mlflow[mlflow] and that library"
        ) from None


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
