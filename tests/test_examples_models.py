"""The examples with models, run as their READMEs say, against a real server: what MLflow holds afterwards, and what they print."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import urllib.request

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import HOST, run_python, until
from tests.server import MlflowServer, free_port


EXAMPLES = Path(__file__).parents[1] / "examples"
MEASURED = {"latency_ms"}  # by mltrace, of every run
HYPERPARAMETERS = {
    *("n_estimators", "max_depth", "learning_rate", "subsample", "colsample_bytree", "tree_method"),
    *("min_child_weight", "objective", "random_state"),
}
METRICS = {
    *("train_accuracy", "accuracy", "train_roc_auc", "roc_auc", "precision", "recall", "f1_score"),
    *("n_train_samples", "n_test_samples", "n_features"),
}


@pytest.fixture(name="own", scope="module")
def _own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server of this module's own: the examples' models have names that other tests could have taken."""
    with MlflowServer(tmp_path_factory.mktemp("examples"), workers=1) as server:
        yield server


def example(name: str, *, uri: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an example's command; fail with what it wrote where it fails."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name / "main.py")],
        cwd=cwd,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


# Anomaly detection.


def test_anomaly_detection(own: MlflowServer, tmp_path: Path) -> None:
    """Each detector's run has exactly the params and metrics that its users know, and its model is in Production."""
    done = example("anomaly_detection", uri=own.url, cwd=tmp_path)
    assert 0 == done.returncode, done.stderr
    runs = {run["name"]: run for run in own.runs("anomaly-detection")}
    scored = {"n_anomalies_detected", "anomaly_rate", "mean_score", "std_score"}
    forest, svm = runs["isolation_forest_1000_samples"], runs["one_class_svm_1000_samples"]

    assert {
        "contamination": "0.05",
        "n_estimators": "100",
        "max_samples": "256",
        "n_samples": "1000",
        "n_features": "4",
    } == forest["params"]
    assert {"nu": "0.05", "kernel": "rbf", "gamma": "scale"} == svm["params"]
    assert [scored | MEASURED] * 2 == [set(run["metrics"]) for run in (forest, svm)]
    assert (50, 0.05) == (forest["metrics"]["n_anomalies_detected"], forest["metrics"]["anomaly_rate"])
    assert ["FINISHED"] * 2 == [run["status"] for run in (forest, svm)]
    assert "isolation_forest: version 1 is in Production" in done.stdout
    assert "anomalies in 1000 new readings" in done.stdout
    if importlib.util.find_spec("torch") is None:
        assert "lstm_autoencoder is left out: it needs PyTorch" in done.stdout
    else:
        check_lstm(own, runs["lstm_autoencoder_1000_samples"])


def check_lstm(own: MlflowServer, run: dict[str, Any]) -> None:
    """Fail unless the autoencoder's run is as its users know it, and its model loads."""
    assert {
        "encoder_layers": "1",
        "decoder_layers": "1",
        "sequence_length": "20",
        "batch_size": "64",
        "epochs": "5",
        "learning_rate": "0.01",
    } == run["params"]
    assert {"train_loss", "final_loss", "mean_reconstruction_error", "threshold"} | MEASURED == set(
        run["metrics"]
    )
    losses = own.metric_history(run["id"], "train_loss")
    assert [0, 1, 2, 3, 4] == [point["step"] for point in losses]
    assert losses[-1]["value"] < losses[0]["value"]
    assert run["metrics"]["final_loss"] == losses[-1]["value"]
    done = run_python(
        """
        import torch
        from mltrace import registry
        model = registry.load_model("lstm_autoencoder", stage="Production")
        print(tuple(model(torch.zeros(2, 20, 4)).shape))
        """,
        MLFLOW_TRACKING_URI=own.url,
    )
    assert "(2, 20, 4)" == done.stdout.strip()


def test_anomaly_detection_without_a_registry_leaves_everything_in_the_spool(tmp_path: Path) -> None:
    """The trainings go through; the program says what is pending, and exits 1."""
    code = (EXAMPLES / "anomaly_detection" / "main.py").read_text()
    assert "flush(timeout=120)" in code
    directory = tmp_path / "example"
    directory.mkdir()
    for path in (EXAMPLES / "anomaly_detection").glob("*.py"):
        (directory / path.name).write_text(path.read_text().replace("timeout=120", "timeout=1"))
    done = subprocess.run(
        [sys.executable, str(directory / "main.py")],
        env={**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLTRACE_EXIT_TIMEOUT": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (1, True) == (done.returncode, "`mltrace sync` sends the rest" in done.stdout), done.stderr


# Battle winner.


@pytest.fixture(name="trained", scope="module")
def _trained(own: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the example has printed, run once."""
    home = tmp_path_factory.mktemp("home")
    done = example("battle_winner", uri=own.url, cwd=home, HOME=str(home), MLTRACE_SPOOL_DIR=str(home / "s"))
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_battle_winner_trains_with_nine_hyperparameters_and_ten_metrics(
    own: MlflowServer, trained: str
) -> None:
    """Four variations, each a run of that name, with a bundle that is registered."""
    runs = [run for run in own.runs("battle-winner") if run["name"] == "battle_winner_3000_samples"]

    assert [HYPERPARAMETERS] * 4 == [set(run["params"]) for run in runs]
    assert [METRICS | MEASURED] * 4 == [set(run["metrics"]) for run in runs]
    assert (2250, 750, 15) == tuple(
        runs[0]["metrics"][key] for key in ("n_train_samples", "n_test_samples", "n_features")
    )
    assert ["5", "30", "80", "10"] == [run["params"]["n_estimators"] for run in runs]


def test_battle_winner_promotes_only_what_is_good_enough(own: MlflowServer, trained: str) -> None:
    """The first is below 0.95, the last worse than the one before it: both stay out, with an alert; then a rollback."""
    history = [json.loads(value) for value in changes(own)]
    done = [(change["action"], change.get("from"), change["to"]) for change in sorted(history, key=when)]

    assert [
        ("refuse", None, "1"),
        ("promote", None, "2"),
        ("promote", "2", "3"),
        ("refuse", "3", "4"),
        ("rollback", "3", "2"),
    ] == done
    accuracies = {
        run["params"]["n_estimators"]: run["metrics"]["accuracy"]
        for run in own.runs("battle-winner")
        if "n_estimators" in run["params"]
    }
    assert accuracies["5"] < 0.95 <= accuracies["30"] < accuracies["80"]
    assert 2 == trained.count("ALERT: ")
    assert "Rolled back to version 2" in trained
    comparison = next(run for run in own.runs("battle-winner") if run["name"] == "comparison")
    assert ["comparison.png"] == own.artifacts(comparison["id"])


def when(change: dict[str, Any]) -> int:
    """Return the time of a change."""
    return int(change["when"])


def changes(own: MlflowServer) -> list[str]:
    """Return the entries of the history as the server has them."""
    model = own.rest("registered-models/get", name="battle_winner")["registered_model"]
    return [tag["value"] for tag in model["tags"] if tag["key"].startswith("mltrace.change.")]


@contextlib.contextmanager
def api(**environment: str) -> Iterator[str]:
    """Serve the example's API with uvicorn, as its README says; yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES / "battle_winner"), "api:app"]
    with subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            url = f"http://{HOST}:{port}"

            def answers() -> bool:
                assert process.poll() is None, process.communicate()[0]
                with contextlib.suppress(OSError):
                    return bool(ask(f"{url}/health"))
                return False

            until(answers, 60)
            yield url
        finally:
            process.terminate()


def ask(url: str, body: Any = None) -> dict[str, Any]:
    """GET, or POST a JSON body; return the JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


BATTLE = {
    f"{side}_{stat}": 90.0 if side == "first" else 10.0
    for side in ("first", "second")
    for stat in ("hp", "attack", "defense", "speed", "level")
} | {f"difference_{stat}": 80.0 for stat in ("hp", "attack", "defense", "speed", "level")}


def test_the_api_predicts_with_what_is_in_production(own: MlflowServer, trained: str) -> None:
    """After the rollback that is version 2; with the registry away, a restart serves the copy and says so."""
    with api(MLFLOW_TRACKING_URI=own.url, MLFLOW_EXPERIMENT_NAME="battle-api") as url:
        assert {"version": "2", "origin": "registry", "problem": ""} == ask(f"{url}/health")
        answer = ask(f"{url}/predict", BATTLE)
        assert ("first", "2", True) == (answer["winner"], answer["version"], answer["chance"] > 0.9)
        (run,) = until(lambda: [run for run in own.runs("battle-api") if run["status"] == "FINISHED"])
    assert ("2", "first") == (run["params"]["model_version"], run["tags"]["mltrace.output"])
    own.stop()
    try:
        with api(MLFLOW_TRACKING_URI=own.url, MLTRACE_EXIT_TIMEOUT="0") as url:
            health = ask(f"{url}/health")
            assert ("2", "cache") == (health["version"], health["origin"])
            assert "cannot be reached" in health["problem"]
            assert "first" == ask(f"{url}/predict", BATTLE)["winner"]
    finally:
        own.start()


def test_the_switches_of_the_training(own: MlflowServer, trained: str, tmp_path: Path) -> None:
    """`ML_SKIP_IF_EXISTS` trains nothing where a model is; `DISABLE_MLFLOW_TRACKING` logs and registers nothing."""
    before = len(own.runs("battle-winner"))
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from train import train; print(train(n_estimators=2))"
    )
    skipped = run_python(
        script,
        EXAMPLES / "battle_winner",
        MLFLOW_TRACKING_URI=own.url,
        MLFLOW_EXPERIMENT_NAME="battle-winner",
        ML_SKIP_IF_EXISTS="true",
    )
    assert "None" == skipped.stdout.strip()
    off = example("battle_winner", uri=own.url, cwd=tmp_path, DISABLE_MLFLOW_TRACKING="true")

    assert (0, True) == (off.returncode, "Tracking is off: nothing was registered." in off.stdout), off.stderr
    assert before == len(own.runs("battle-winner"))
