"""
A bundle: a model with what it needs beside it, as one MLflow model.

    {"model": classifier, "scalers": scaler, "metadata": {"threshold": 0.5}}

Each value is a file of its own below ``data/bundle``: ``metadata.json`` where JSON can say it,
else ``<key>.pkl`` by cloudpickle. MLflow loads it by this module's name, so that name and format
are for good; `mltrace.registry.load_model` gives the dict back, `mlflow.pyfunc.load_model`
something that predicts. Unpickling runs code: load only what you would run.
"""

from __future__ import annotations

import json

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .exceptions import ConfigurationError


MODEL, SCALERS, METADATA = "model", "scalers", "metadata"


class Bundle(dict[str, Any]):
    """
    A dict with at least the key ``model``.

    Attributes:
        mltrace_loaded: Where it was loaded from, a `mltrace.registry.Loaded`; None for one that was not.
    """

    mltrace_loaded: Any = None


def is_bundle(value: object) -> bool:
    """Say whether *value* is a mapping with a model in it."""
    return isinstance(value, Mapping) and MODEL in value


def write(bundle: Mapping[str, Any], directory: Path) -> None:
    """Write each value of *bundle* into *directory*, which is made."""
    import cloudpickle

    directory.mkdir(parents=True)
    for key, value in bundle.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise ConfigurationError(f"model: the key {key!r} of the bundle is not a name, such as 'scalers'")
        text = _as_json(value) if isinstance(value, (Mapping, list, str)) else None
        if text is not None:
            (directory / f"{key}.json").write_text(text, encoding="utf-8")
        else:
            (directory / f"{key}.pkl").write_bytes(cloudpickle.dumps(value))


def read(directory: Path) -> Bundle:
    """
    Read what `write` wrote, or a directory made by hand: ``model.pkl`` or ``model.joblib``, and the
    other keys beside it.
    """
    found = Bundle()
    for path in sorted(directory.iterdir()):
        if path.suffix == ".json":
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".pkl", ".pickle", ".joblib"):
            found[path.stem] = unpickle(path)
    if MODEL not in found:
        raise ConfigurationError(f"{directory} holds no model.pkl or model.joblib: it is not a bundle")
    return found


def unpickle(path: Path) -> Any:
    """Return the object in *path*, by joblib where that is installed: it reads plain pickles too."""
    try:
        import joblib
    except ImportError:
        import pickle

        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301 # a model is code; whoever loads it was told so
    return joblib.load(path)


def _as_json(value: Any) -> str | None:
    """Return *value* as JSON, if reading that gives it back as it is."""
    try:
        text = json.dumps(value)
        return text if json.loads(text) == value else None
    except (TypeError, ValueError, RecursionError):
        return None


class Predictor:
    """What `mlflow.pyfunc` makes of a bundle: scales the input, asks the model."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """Return the model's predictions for *model_input*, scaled first."""
        return self.bundle[MODEL].predict(scale(self.bundle, model_input))


def scale(bundle: Mapping[str, Any], rows: Any) -> Any:
    """
    Return *rows* as the scalers of *bundle* transform them: one transformer for all columns, or a
    mapping of columns of a frame to one each. Without scalers they stay as they are.
    """
    scalers = bundle.get(SCALERS)
    if not scalers:
        return rows
    if not isinstance(scalers, Mapping):
        return scalers.transform(rows)
    scaled = rows.copy()
    for column, scaler in scalers.items():
        scaled[column] = scaler.transform(rows[[column]]).ravel()
    return scaled


def _load_pyfunc(path: str) -> Predictor:
    """Load the bundle in the directory *path*; MLflow's name for that."""
    return Predictor(read(Path(path)))
