"""Models: saved into the spool at once, delivered each once, registered, and loaded back as they were."""

from __future__ import annotations

import os
import re

from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest

from mlflow import MlflowClient
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import mltrace

from mltrace import _flavors, bundles, registry
from mltrace._clock import new_id
from mltrace._digests import tree_digest, tree_sums
from mltrace.backends.memory import MemoryBackend
from mltrace.cli import _description
from mltrace.delivery import meter
from tests.harness import CUT, HUNG, LOST, Answer, Proxy, run_python, silent_listener, until
from tests.server import MlflowServer


# MLflow warns of its own class when it is imported, and of types that it infers.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mlflow")

ROWS = np.array([[0.0], [1.0], [2.0], [3.0]])


def classifier() -> Any:
    return LogisticRegression().fit(ROWS, [0, 0, 1, 1])


@pytest.fixture(name="client")
def _client(server: MlflowServer) -> MlflowClient:
    """Point mltrace at the shared server and an experiment of the test's own; return MLflow's client there."""
    mltrace.configure(tracking_uri=server.url, experiment_name=f"models-{new_id()[:8]}")
    return MlflowClient(server.url, server.url)


def logged_models(client: MlflowClient, run: mltrace.Run) -> list[Any]:
    """Return the LoggedModels of the run's experiment."""
    experiment = client.get_experiment_by_name(run.experiment)
    assert experiment is not None
    return list(client.search_logged_models([experiment.experiment_id]))


# What arrives.


def test_a_model_becomes_a_logged_model_and_a_version(client: MlflowClient) -> None:
    """The files are those that were saved, the run names it as an output, and the ids in MLmodel are the server's."""
    name = f"clf-{new_id()[:8]}"
    with mltrace.track_run("train") as run:
        logged = run.log_model(
            classifier(), "model", registered_model_name=name, input_example=ROWS, tags={"team": "a"}
        )
    assert logged is not None
    assert run.wait(60)
    (model,) = logged_models(client, run)
    version = registry.get_latest_model(name)

    assert ("model", "READY", run.mlflow_run_id) == (model.name, str(model.status), model.source_run_id)
    assert (logged.uid, logged.sha256, "sklearn", "a") == tuple(
        model.tags[key] for key in ("mltrace.uid", "mltrace.sha256", "mltrace.flavor", "team")
    )
    assert [model.model_id] == [
        output.model_id for output in client.get_run(run.mlflow_run_id).outputs.model_outputs
    ]
    assert (model.model_id, run.mlflow_run_id, logged.uid) == (
        version.model_id,
        version.run_id,
        version.tags["mltrace.uid"],
    )
    loaded = registry.load_model(name)
    assert [0, 0, 1, 1] == list(loaded.predict(ROWS))
    written = Path(loaded.mltrace_loaded.path, "MLmodel").read_text()
    assert [model.model_id] == re.findall(r"^model_id: (.*)$", written, re.MULTILINE)
    assert [run.mlflow_run_id] == re.findall(r"^run_id: (.*)$", written, re.MULTILINE)
    assert logged.sha256 == loaded.mltrace_loaded.sha256


def test_mlflow_itself_loads_what_arrived(client: MlflowClient, server: MlflowServer) -> None:
    """By the model's id, by the run and name, and by the registered name, in a program without mltrace."""
    name = f"clf-{new_id()[:8]}"
    with mltrace.track_run("train") as run:
        run.log_model(classifier(), "model", registered_model_name=name)
    assert run.wait(60)
    (model,) = logged_models(client, run)
    done = run_python(
        """
        import sys
        import mlflow
        for uri in sys.argv[1:]:
            print(mlflow.sklearn.load_model(uri).predict([[0.0], [3.0]]), mlflow.pyfunc.load_model(uri).metadata.model_id)
        """,
        f"models:/{model.model_id}",
        f"runs:/{run.mlflow_run_id}/model",
        f"models:/{name}/1",
        MLFLOW_TRACKING_URI=server.url,
    )

    assert [f"[0 1] {model.model_id}"] * 3 == done.stdout.splitlines()


def test_a_bundle_comes_back_as_the_dict_that_it_was(client: MlflowClient) -> None:
    """Model, scalers and metadata, one model in MLflow; as pyfunc it scales and predicts."""
    name = f"bundle-{new_id()[:8]}"
    frame = pd.DataFrame({"hp": [0.0, 1.0, 2.0, 3.0], "attack": [5.0, 6.0, 7.0, 8.0]})
    scalers = {column: StandardScaler().fit(frame[[column]]) for column in frame}
    model = LogisticRegression().fit(bundles.scale({"scalers": scalers}, frame), [0, 0, 1, 1])
    metadata = {"features": ["hp", "attack"], "threshold": 0.5}
    with mltrace.track_run("train") as run:
        run.log_model({"model": model, "scalers": scalers, "metadata": metadata}, registered_model_name=name)
    assert run.wait(60)
    bundle = registry.load_model(name)
    same = registry.load_model_from_registry(name)

    assert {"model", "scalers", "metadata"} == set(bundle) == set(same)
    assert metadata == bundle["metadata"]
    assert "1" == bundle.mltrace_loaded.version
    assert [0, 0, 1, 1] == list(bundles.Predictor(bundle).predict(frame))
    import mlflow

    predicted = mlflow.pyfunc.load_model(bundle.mltrace_loaded.path).predict(frame)
    assert [0, 0, 1, 1] == list(predicted)


def test_a_pyfunc_and_a_saved_directory_can_be_logged(client: MlflowClient, tmp_path: Path) -> None:
    """MLflow's own wrapper, and what MLflow has saved before; loading gives the wrapper and the library's model."""
    done = run_python(
        """
        import sys
        import mlflow, mltrace
        from mltrace import registry
        from sklearn.dummy import DummyClassifier

        class Doubler(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return [2 * value for value in model_input]

        uri, name, path = sys.argv[1:]
        mltrace.configure(tracking_uri=uri, experiment_name=name)
        model = DummyClassifier().fit([[0]], [7])
        mlflow.sklearn.save_model(model, path, pip_requirements=["scikit-learn"])  # else MLflow looks for them, for a minute
        with mltrace.track_run("train") as run:
            mltrace.log_model(Doubler(), "doubler", registered_model_name=name + "-doubler")
            mltrace.log_model(path, "saved", registered_model_name=name + "-saved")
        assert run.wait(60)
        print(registry.load_model(name + "-doubler").predict([1, 2]))
        print(registry.load_model(name + "-saved").predict([[1]]))
        """,
        _uri(client),
        f"pyfunc-{new_id()[:8]}",
        tmp_path / "saved",
    )
    assert ["[2, 4]", "[7]"] == done.stdout.splitlines()


def _uri(client: MlflowClient) -> str:
    return str(client.tracking_uri)


# Offline, and exactly once.


def test_a_model_waits_for_its_server(server: MlflowServer, tmp_path: Path) -> None:
    """Logged while nobody answers, by a process that then ends; `mltrace sync` delivers and registers it, once."""
    name = f"late-{new_id()[:8]}"
    with Proxy(server.port) as proxy:
        proxy.refuse()
        run_python(
            """
            import sys
            from sklearn.linear_model import LogisticRegression
            import mltrace
            with mltrace.track_run("train"):
                model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
                assert mltrace.log_model(model, registered_model_name=sys.argv[1]) is not None
            """,
            name,
            MLFLOW_TRACKING_URI=proxy.url,
            MLFLOW_EXPERIMENT_NAME=name,
            MLTRACE_EXIT_TIMEOUT="0",
        )
        proxy.accept()
        for _ in range(2):
            done = run_python(
                "import sys; from mltrace.cli import main; sys.argv = ['mltrace', 'sync']; main()",
                MLFLOW_TRACKING_URI=proxy.url,
            )
            assert "refused" not in done.stdout
    mltrace.configure(tracking_uri=server.url, experiment_name=name)

    assert ["1"] == [version.version for version in versions(name)]
    assert [0, 1] == list(registry.load_model(name).predict([[0.0], [1.0]]))


def versions(name: str) -> list[registry.ModelVersion]:
    """Return all versions of a registered model."""
    from mltrace.registry._client import connect
    from mltrace.registry._versions import read

    return list(read(connect(writes=False), name).versions)


REQUESTS = [
    ("POST", r"logged-models$"),
    ("POST", r"logged-models/search"),
    ("PUT", r"mlflow-artifacts/.*MLmodel"),
    ("PUT", r"mlflow-artifacts/.*requirements"),
    ("PATCH", r"logged-models/m-[0-9a-f]+$"),
    ("POST", r"runs/outputs"),
    ("POST", r"registered-models/create"),
    ("POST", r"model-versions/create"),
    ("PATCH", r"logged-models/.*/tags"),
]


class _Once(Proxy):
    """A proxy that meets the first request of one kind with a fault."""

    def __init__(self, port: int, method: str, pattern: str, fault: Any) -> None:
        self.method, self.pattern, self.fault = method, re.compile(pattern), fault
        self.met = 0
        super().__init__(port)

    def handle(self, request: Any) -> Any:
        if not self.met and request.method == self.method and self.pattern.search(request.path):
            self.met += 1
            self.requests.append(request)
            if self.fault == LOST:
                self.forward(request)
            return self.fault if isinstance(self.fault, Answer) else None
        return super().handle(request)


@pytest.mark.parametrize("fault", [LOST, CUT, Answer(503, b"")], ids=["lost", "cut", "503"])
@pytest.mark.parametrize(("method", "pattern"), REQUESTS, ids=[f"{m} {p}" for m, p in REQUESTS])
def test_each_once_after_a_fault_at_each_request(
    server: MlflowServer, method: str, pattern: str, fault: Any
) -> None:
    """Applied and unanswered, cut, or refused with 503: in the end there is one model, one version, one output, whole."""
    name = f"once-{new_id()[:8]}"
    with _Once(server.port, method, pattern, fault) as proxy:
        mltrace.configure(tracking_uri=proxy.url, experiment_name=name)
        with mltrace.track_run("train") as run:
            logged = run.log_model(classifier(), registered_model_name=name)
        assert run.wait(60)
        assert 1 == proxy.met
    mltrace.configure(tracking_uri=server.url, experiment_name=name)
    client = MlflowClient(server.url, server.url)
    (model,) = logged_models(client, run)

    assert "READY" == str(model.status)
    assert [model.model_id] == [
        output.model_id for output in client.get_run(run.mlflow_run_id).outputs.model_outputs
    ]
    assert [model.model_id] == [version.model_id for version in versions(name)]
    assert logged is not None
    assert logged.sha256 == registry.load_model(name).mltrace_loaded.sha256


def test_an_interrupted_upload_goes_on_where_it_was(server: MlflowServer, tmp_path: Path) -> None:
    """Files that are there in full length are not sent again; what was cut is, and MLmodel goes last."""
    name = f"resume-{new_id()[:8]}"
    directory = tmp_path / "saved"
    (directory / "data").mkdir(parents=True)
    (directory / "MLmodel").write_text("flavors: {}\n")
    (directory / "data" / "a.bin").write_bytes(os.urandom(3 << 20))
    (directory / "data" / "b.bin").write_bytes(os.urandom(1 << 10))
    with _Once(server.port, "PUT", r"b\.bin", CUT) as proxy:
        mltrace.configure(tracking_uri=proxy.url, experiment_name=name)
        with mltrace.track_run("train") as run:
            run.log_model(directory)
        assert run.wait(60)
        puts = [
            request.path.rpartition("/")[2] for request in proxy.seen("artifacts/") if request.method == "PUT"
        ]

    assert ["a.bin", "b.bin", "b.bin", "MLmodel"] == puts
    (model,) = logged_models(MlflowClient(server.url, server.url), run)
    assert "READY" == str(model.status)


def test_a_server_that_takes_no_models_refuses_the_model_alone(server: MlflowServer) -> None:
    """One before MLflow 3: the model is a dead letter that says so, everything else of the run arrives."""
    name = f"old-{new_id()[:8]}"
    with Proxy(server.port) as proxy:
        proxy.fail("logged-models", Answer(404, b"<html>Not Found</html>", "text/html"))
        mltrace.configure(tracking_uri=proxy.url, experiment_name=name)
        with mltrace.track_run("train") as run:
            run.log_model(classifier())
            run.log_metric("accuracy", 0.9)
        assert run.wait(60)
    client = MlflowClient(server.url, server.url)

    assert (1, 0) == (mltrace.status().dead, mltrace.status().pending)
    assert 0.9 == client.get_run(run.mlflow_run_id).data.metrics["accuracy"]
    assert "FINISHED" == client.get_run(run.mlflow_run_id).info.status


def test_a_model_that_was_refused_can_be_sent_again(server: MlflowServer) -> None:
    """`mltrace dead requeue` brings it, with its files, once the server takes models."""
    name = f"again-{new_id()[:8]}"
    with Proxy(server.port) as proxy:
        proxy.fail("logged-models", Answer(404, b"<html>Not Found</html>", "text/html"))
        mltrace.configure(tracking_uri=proxy.url, experiment_name=name)
        with mltrace.track_run("train") as run:
            run.log_model(classifier(), registered_model_name=name)
        assert run.wait(60)
        mltrace.shutdown(5)
        proxy.heal()
        command = "import sys; from mltrace.cli import main; sys.argv = ['mltrace', *sys.argv[1:]]; main()"
        run_python(command, "dead", "requeue", "--all", MLFLOW_TRACKING_URI=proxy.url)
        run_python(command, "sync", MLFLOW_TRACKING_URI=proxy.url)
    mltrace.configure(tracking_uri=server.url)

    assert [0, 0, 1, 1] == list(registry.load_model(name).predict(ROWS))


def test_a_local_store_takes_models_too(tmp_path: Path) -> None:
    """Over sqlite, without a server: logged, registered, promoted, compared, rolled back, loaded."""
    done = run_python(
        """
        from sklearn.linear_model import LogisticRegression
        import mltrace
        from mltrace import registry
        for accuracy in (0.90, 0.96):
            with mltrace.track_run("train") as run:
                run.log_metric("accuracy", accuracy)
                run.log_model(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), registered_model_name="clf")
            assert run.wait(60)
            print(registry.promote_best_model("clf", "accuracy", min_value=0.85).promoted)
        print(list(registry.compare_models("clf", "accuracy")["version"]))
        print(registry.rollback("clf").version)
        model = registry.load_model("clf", stage="Production")
        print(model.mltrace_loaded.version, model.predict([[1.0]]))
        print(mltrace.status().dead, mltrace.status().pending)
        """,
        MLFLOW_TRACKING_URI="sqlite:///mlflow.db",
        PYTHONWARNINGS="ignore",
    )
    assert ["1", "2", "['2', '1']", "1", "1 [1]", "0 0"] == done.stdout.splitlines()


# What the caller sees.


def test_the_memory_backend_keeps_the_files_of_a_model(memory: MemoryBackend) -> None:
    """For tests: under the model's name, by path."""
    with mltrace.track_run("train"):
        logged = mltrace.log_model(IsolationForest(n_estimators=2).fit(ROWS), "forest")
    (run,) = memory.roots

    assert logged is not None
    assert ("sklearn", True) == (logged.flavor, logged.size > 100)
    assert {"MLmodel", "requirements.txt"} <= set(run.models["forest"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"flavor": "sklaern"}, "flavor"),
        ({"registered_model_name": "a/b"}, "registered_model_name"),
        ({"model": object()}, "model"),
        ({"model": "/nowhere"}, "model"),
        ({"model": {"model": 1, "not a name": 2}}, "model"),
    ],
)
def test_wrong_options_name_themselves(memory: MemoryBackend, options: dict[str, Any], named: str) -> None:
    """They raise at the call, whatever backend there is."""
    with mltrace.track_run("train"), pytest.raises(mltrace.ConfigurationError, match=f"^{named}: "):
        mltrace.log_model(**{"model": classifier(), **options})


def test_outside_any_run_nothing_is_logged(said: list[str]) -> None:
    """As with everything else that is logged: one warning."""
    assert mltrace.log_model(classifier()) is None
    assert "logged outside any run" in said


def test_without_mlflow_a_warning_says_what_to_install() -> None:
    """The training goes on; the model is not logged."""
    done = run_python(
        """
        import sys
        sys.modules["mlflow"] = None
        sys.modules["mlflow.sklearn"] = None
        from sklearn.dummy import DummyClassifier
        import mltrace
        mltrace.configure(backend="memory")
        with mltrace.track_run("train"):
            print(mltrace.log_model(DummyClassifier()))
        """
    )
    assert "None" == done.stdout.strip()
    assert "install mltrace-mlflow[mlflow] and that library" in done.stderr


def test_a_full_spool_drops_the_model_whole_and_says_so(tmp_path: Path) -> None:
    """No half of a model is delivered; the run has the tag that counts it."""
    with silent_listener() as url:
        mltrace.configure(tracking_uri=url, spool_limit_bytes=64 << 10, exit_timeout=0)
        directory = tmp_path / "saved"
        directory.mkdir()
        (directory / "MLmodel").write_text("flavors: {}\n")
        (directory / "weights.bin").write_bytes(bytes(200 << 10))
        with mltrace.track_run("train") as run:
            assert run.log_model(directory) is None
        assert 1 <= sum(mltrace.status().dropped.values())
        mltrace.shutdown(0)


def test_the_digest_of_files_does_not_depend_on_ids(tmp_path: Path) -> None:
    """MLmodel is rewritten on delivery, so it does not count; every other byte and name does."""
    (tmp_path / "MLmodel").write_text("a")
    (tmp_path / "x").write_text("1")
    before = tree_digest(tree_sums(tmp_path))
    (tmp_path / "MLmodel").write_text("b")
    assert before == tree_digest(tree_sums(tmp_path))
    (tmp_path / "x").write_text("2")
    assert before != tree_digest(tree_sums(tmp_path))


# What lies on disk already.


@pytest.mark.parametrize("form", ["bundle", "file", "mlflow"])
def test_an_existing_model_is_registered_with_params_and_metrics(
    client: MlflowClient, tmp_path: Path, form: str
) -> None:
    """From a bundle's directory, a file, or MLflow's directory; what it was measured at counts for promotion."""
    name = f"existing-{new_id()[:8]}"
    path = tmp_path / "model"
    if form == "bundle":
        bundles.write({"model": classifier(), "scalers": None, "metadata": {"trained": 2024}}, path)
    elif form == "file":
        path = tmp_path / "model.pkl"
        path.write_bytes(cloudpickle.dumps(classifier()))
    else:
        _flavors.save(classifier(), path)
    version = registry.register_existing_model(
        path, name, params={"n_estimators": 100}, metrics={"accuracy": 0.96}
    )
    assert version is not None
    assert "1" == version.version
    run = client.get_run(version.run_id)

    assert ({"n_estimators": "100"}, 0.96, f"register_{name}") == (
        run.data.params,
        run.data.metrics["accuracy"],
        run.info.run_name,
    )
    tracker = registry.MLflowTracker("any")
    outcome = tracker.promote_best_model(name, "accuracy", min_value=0.95)
    assert outcome is not None
    assert "1" == outcome.promoted
    bundle = tracker.load_model_from_registry(name)
    assert [0, 0, 1, 1] == list(bundle["model"].predict(ROWS))
    if form == "bundle":
        assert {"trained": 2024} == bundle["metadata"]


def test_an_existing_model_waits_in_the_spool_for_its_registry(tmp_path: Path, said: list[str]) -> None:
    """Where the registry is away the call says so and returns None; nothing is lost."""
    mltrace.configure(tracking_uri="http://127.0.0.1:9", exit_timeout=0)
    path = tmp_path / "model.pkl"
    path.write_bytes(cloudpickle.dumps(classifier()))

    assert registry.register_existing_model(path, "late", timeout=0.2) is None
    assert "model 'late' is in the spool and not in the registry yet" in said
    assert mltrace.status().pending > 0


def test_a_large_upload_shows_how_far_it_is(server: MlflowServer, tmp_path: Path) -> None:
    """While a file is on its way, the meter that `mltrace sync` shows names it, and how many bytes of how many are sent."""
    name = f"large-{new_id()[:8]}"
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(12 << 20))
    seen: list[Any] = []
    with Proxy(server.port) as proxy:
        proxy.fail("weights.bin", HUNG, 1)
        mltrace.configure(tracking_uri=proxy.url, experiment_name=name)
        with mltrace.track_run("train") as run:
            run.log_artifact(path)
        seen += until(meter.under_way)
        assert "weights.bin" in until(lambda: _description("there") if meter.under_way() else "")
        proxy.heal()
        assert run.wait(60)

    assert ("weights.bin", 12 << 20) == (seen[0].path, seen[0].total)
    assert [] == meter.under_way()
