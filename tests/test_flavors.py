"""Models of libraries that are large: each is recognised, saved and loaded as what it was; skipped where its library is not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mltrace

from mltrace import _flavors
from mltrace.backends.memory import MemoryBackend


GENERATOR = np.random.default_rng(7)
X = GENERATOR.normal(size=(80, 4)).astype("float32")
Y = (X[:, 0] > 0).astype(int)

Trained = tuple[Any, Callable[[Any], Any]]


def _xgboost() -> Trained:
    library = pytest.importorskip("xgboost")
    model = library.XGBClassifier(n_estimators=5, max_depth=2).fit(X, Y)
    return model, lambda loaded: loaded.predict(X)


def _booster() -> Trained:
    library = pytest.importorskip("xgboost")
    data = library.DMatrix(X, label=Y)
    return library.train({"max_depth": 2}, data, 5), lambda loaded: loaded.predict(data)


def _lightgbm() -> Trained:
    library = pytest.importorskip("lightgbm")
    model = library.LGBMClassifier(n_estimators=5, verbose=-1).fit(X, Y)
    return model, lambda loaded: loaded.predict(X)


def _onnx() -> Trained:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    convert = pytest.importorskip("skl2onnx").to_onnx
    from sklearn.linear_model import LogisticRegression

    def predict(loaded: Any) -> Any:
        session = runtime.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: X})[0]

    return convert(LogisticRegression().fit(X, Y), X[:1]), predict


def _pytorch() -> Trained:
    torch = pytest.importorskip("torch")
    return torch.nn.Linear(4, 1), lambda loaded: loaded(torch.from_numpy(X)).detach().numpy()


MODELS = {
    "xgboost": _xgboost,
    "xgboost booster": _booster,
    "lightgbm": _lightgbm,
    "onnx": _onnx,
    "pytorch": _pytorch,
}


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_as_what_it_was(memory: MemoryBackend, tmp_path: Path, name: str) -> None:
    """`log_model` finds the flavour, and what is loaded predicts the same."""
    model, predict = MODELS[name]()
    with mltrace.track_run("train") as run:
        logged = run.log_model(model, "model")
    assert logged is not None
    assert name.partition(" ")[0] == logged.flavor == _flavors.save(model, tmp_path / "model")
    loaded = _flavors.load(tmp_path / "model")

    assert type(loaded) is type(model)
    assert np.array_equal(predict(model), predict(loaded))
