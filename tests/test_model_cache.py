"""Loading models: the copy on this machine, what it is compared with, and what happens while the registry is away."""

from __future__ import annotations

import shutil

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from sklearn.linear_model import LogisticRegression

import mltrace

from mltrace import _flavors, bundles, registry
from mltrace._clock import new_id
from tests.harness import Proxy, python
from tests.server import MlflowServer


ROWS = np.array([[0.0], [1.0], [2.0], [3.0]])
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mlflow")


@pytest.fixture(name="proxy")
def _proxy(server: MlflowServer) -> Iterator[Proxy]:
    """A registry that can go away."""
    with Proxy(server.port) as proxy:
        mltrace.configure(tracking_uri=proxy.url, experiment_name="cache")
        yield proxy


@pytest.fixture(name="name")
def _name(proxy: Proxy) -> str:
    """A registered model of two versions, the first in production: they predict 0 and 1, whatever they are asked."""
    name = f"cached-{new_id()[:8]}"
    for labels in ([0, 0, 0, 1], [0, 1, 1, 1]):
        log(name, labels)
    registry.promote_to_production(name, 1)
    return name


def log(name: str, labels: list[int]) -> None:
    with mltrace.track_run("train") as run:
        run.log_model(LogisticRegression().fit(ROWS, labels), registered_model_name=name)
    assert run.wait(60)


def only_copy(name: str) -> Path:
    """Return the directory of the only version that is kept."""
    (found,) = (path.parent for path in Path.home().rglob("files.json") if name in str(path))
    return found


# The copy.


def test_a_version_is_downloaded_once(proxy: Proxy, name: str) -> None:
    """The second load asks the registry what is meant, and not the artifact store."""
    first = registry.load_model(name, stage="Production")
    downloads = len(proxy.seen("mlflow-artifacts/artifacts"))
    second = registry.load_model(name, stage="Production")

    assert len(proxy.seen("mlflow-artifacts/artifacts")) == downloads > 0
    assert ("registry", "1", False) == (
        second.mltrace_loaded.origin,
        second.mltrace_loaded.version,
        second.mltrace_loaded.is_stale,
    )
    assert first.mltrace_loaded == second.mltrace_loaded


def test_while_the_registry_is_away_the_copy_is_served_and_says_so(
    proxy: Proxy, name: str, said: list[str]
) -> None:
    """What was loaded before, in the version that was meant then; with a warning, and an attribute that says why."""
    registry.load_model(name, stage="Production")
    proxy.refuse()
    model = registry.load_model(name, stage="Production")

    assert ("cache", "1", True) == (
        model.mltrace_loaded.origin,
        model.mltrace_loaded.version,
        model.mltrace_loaded.is_stale,
    )
    assert "cannot be reached" in model.mltrace_loaded.problem
    assert f"the registry is away; model '{name}' (stage:Production) is version 1" in said
    assert [0, 0, 0] == list(model.predict(ROWS[:3]))
    with pytest.raises(registry.RegistryUnavailable, match=r"no copy of model .* \(stage:Staging\)"):
        registry.load_model(name, stage="Staging")
    proxy.accept()
    registry.promote_to_production(name, 2)
    assert ("registry", "2") == (
        (back := registry.load_model(name, stage="Production").mltrace_loaded).origin,
        back.version,
    )


def test_an_artifact_store_that_is_away_leaves_the_last_version(
    proxy: Proxy, name: str, said: list[str]
) -> None:
    """Production has moved, its files cannot be had: the last version that could is served, with the warning."""
    registry.load_model(name, stage="Production")
    registry.promote_to_production(name, 2)
    proxy.fail("mlflow-artifacts", _gone())
    model = registry.load_model(name, stage="Production")

    assert ("cache", "1") == (model.mltrace_loaded.origin, model.mltrace_loaded.version)
    assert "the registry is away" in said


def _gone() -> Any:
    from tests.harness import Answer

    return Answer(404, b'{"error_code": "INTERNAL_ERROR", "message": "the store is away"}')


# What is damaged.


@pytest.mark.parametrize("damage", ["flip", "cut", "add", "remove", "manifest"])
def test_a_damaged_copy_is_never_loaded(proxy: Proxy, name: str, damage: str, said: list[str]) -> None:
    """With the registry there it is downloaded again; without, the error says so."""
    registry.load_model(name, stage="Production")
    spoil(only_copy(name), damage)
    model = registry.load_model(name, stage="Production")
    assert [0, 0, 0] == list(model.predict(ROWS[:3]))
    assert "is not what was downloaded; it is not loaded" in said
    spoil(only_copy(name), damage)
    proxy.refuse()
    with pytest.raises(registry.CorruptedModel, match="is not what was downloaded; it is not loaded"):
        registry.load_model(name, stage="Production")


def spoil(copy: Path, damage: str) -> None:
    """Damage a copy in one way."""
    target = max(
        (path for path in (copy / "model").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    content = target.read_bytes()
    if damage == "flip":
        target.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "cut":
        target.write_bytes(content[:-1])
    elif damage == "add":
        (copy / "model" / "sitecustomize.py").write_text("raise SystemExit")
    elif damage == "remove":
        target.unlink()
    else:
        (copy / "files.json").write_text("{}")


def test_files_that_are_not_those_that_were_registered_are_refused(
    proxy: Proxy, name: str, server: MlflowServer
) -> None:
    """The artifact store's bytes were changed after the registration: the checksum on the version says so."""
    stored = next(
        path
        for path in server.artifact_dir.rglob("requirements.txt")
        if registry.get_latest_model(name).model_id in str(path)
    )
    stored.write_text("evil\n")
    with pytest.raises(registry.CorruptedModel, match="are not those that were registered"):
        registry.load_model(name)


# Several at once.


LOAD = """
    import sys
    from mltrace import registry
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(3):
        print(registry.load_model(sys.argv[1], version=1).mltrace_loaded.version)
"""


def test_processes_that_load_at_once_share_one_copy(proxy: Proxy, name: str) -> None:
    """Four of them, with an empty cache: each loads a whole model, and one copy is left, nothing half."""
    started = [python(LOAD, name, MLFLOW_TRACKING_URI=proxy.url) for _ in range(4)]
    processes = [context.__enter__() for context in started]
    try:
        for process in processes:
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
        outcomes = [process.communicate("\n", timeout=120) for process in processes]
    finally:
        for context in started:
            context.__exit__(None, None, None)

    assert [("1\n" * 3)] * 4 == [output for output, _ in outcomes], outcomes
    copy = only_copy(name)
    assert [copy.name, "pins"] == sorted(path.name for path in copy.parent.iterdir())


def test_old_copies_are_deleted_and_pinned_ones_kept(proxy: Proxy) -> None:
    """Beside what an alias or number means, three versions stay."""
    name = f"pruned-{new_id()[:8]}"
    for _ in range(6):
        log(name, [0, 0, 1, 1])
    registry.promote_to_production(name, 1)
    registry.load_model(name, stage="Production")
    for number in range(2, 7):
        registry.load_model(name, version=number)
        pin = next(path for path in Path.home().rglob(f"version%3A{number}.json") if name in str(path))
        pin.unlink()
    kept = sorted(
        path.parent.name.partition("-")[0] for path in Path.home().rglob("files.json") if name in str(path)
    )

    assert ["1", "3", "4", "5", "6"] == kept


# Without a registry.


def test_switched_off_the_registry_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`USE_MLFLOW_REGISTRY=false` loads MLflow's directory, a bundle's directory or a file; nobody is at the address."""
    mltrace.configure(tracking_uri="http://127.0.0.1:9")
    monkeypatch.setenv("USE_MLFLOW_REGISTRY", "false")
    model = LogisticRegression().fit(ROWS, [0, 0, 1, 1])
    joblib.dump(model, tmp_path / "model.joblib")
    bundles.write({"model": model, "scalers": None, "metadata": {"a": 1}}, tmp_path / "bundle")
    _flavors.save(model, tmp_path / "saved")
    monkeypatch.setenv("MLFLOW_MODEL_PATH", str(tmp_path / "model.joblib"))
    assert [0, 0, 1, 1] == list(registry.load_model().predict(ROWS))
    assert {"a": 1} == registry.load_model(path=tmp_path / "bundle")["metadata"]
    assert [0, 0, 1, 1] == list(registry.load_model(path=tmp_path / "saved").predict(ROWS))
    bundle = registry.load_model_from_registry("any", "Production")
    assert ["metadata", "model", "scalers"] == sorted(bundle)
    assert "path" == bundle.mltrace_loaded.origin
    with pytest.raises(
        registry.ModelNotFound, match=r"no model at .*nowhere; check path= or MLFLOW_MODEL_PATH"
    ):
        registry.load_model(path="nowhere")
    monkeypatch.delenv("MLFLOW_MODEL_PATH")
    with pytest.raises(mltrace.ConfigurationError, match="set MLFLOW_MODEL_PATH"):
        registry.load_model()


def test_name_and_stage_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`MLFLOW_MODEL_NAME` and `MLFLOW_MODEL_STAGE`; what is given counts more."""
    monkeypatch.setenv("MLFLOW_MODEL_NAME", name)
    assert "2" == registry.load_model().mltrace_loaded.version
    monkeypatch.setenv("MLFLOW_MODEL_STAGE", "Production")
    assert "1" == registry.load_model().mltrace_loaded.version
    assert "2" == registry.load_model(version=2).mltrace_loaded.version
    with pytest.raises(mltrace.ConfigurationError, match="give one of them"):
        registry.load_model(stage="Production", version=2)


def test_the_cache_can_be_put_elsewhere_and_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """`MLTRACE_MODEL_CACHE` says where; deleting it costs a download."""
    monkeypatch.setenv("MLTRACE_MODEL_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        assert str(tmp_path / "cache") in registry.load_model(name).mltrace_loaded.path
        shutil.rmtree(tmp_path / "cache")
