"""
MLflow's own API through the journal. Programs that know nothing of mltrace run in processes of their own,
against a real server, with the server away, and against MLflow's own store to compare with.
"""

from __future__ import annotations

import json
import socket

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mltrace.bridge.upstream import Away, Upstream
from tests.harness import CUT, HUNG, LOST, PATIENCE, Answer, Fault, Proxy, python, run_python, spoken
from tests.server import MlflowServer
from tests.test_cli import as_json, mltrace_command


TRAINING = """
import json, os, sys
from pathlib import Path

import mlflow
import pandas

mlflow.set_experiment(sys.argv[1])
with mlflow.start_run(run_name="training", tags={"team": "a"}, description="what for") as run:
    mlflow.log_params({"rate": 0.1, "layers": 3})
    for step in range(250):
        mlflow.log_metric("loss", 1 / (step + 1), step=step, timestamp=1_700_000_000_000 + step)
    mlflow.log_metrics({"nan": float("nan"), "inf": float("inf"), "accuracy": 0.5}, step=7)
    mlflow.set_tag("note", "early")
    mlflow.set_tag("note", "late")
    mlflow.log_text("a note", "notes/first.txt")
    Path("model").mkdir()
    Path("model/weights.bin").write_bytes(bytes(range(256)) * 1000)
    mlflow.log_artifacts("model", "files")
    data = mlflow.data.from_pandas(pandas.DataFrame({"x": [1, 2]}), name="rows")
    mlflow.log_input(data, context="training")
    with mlflow.start_run(run_name="fold", nested=True) as child:
        mlflow.log_metric("accuracy", 0.4)
with mlflow.start_run(run_id=run.info.run_id):
    mlflow.log_metric("late", 1.0)

client = mlflow.MlflowClient()
found = client.get_run(run.info.run_id)
uid = run.info.run_id
print(json.dumps({
    "run": uid,
    "child": child.info.run_id,
    "status": found.info.status,
    "params": found.data.params,
    "metrics": {key: repr(value) for key, value in sorted(found.data.metrics.items())},
    "tags": {key: found.data.tags[key] for key in ("note", "team", "mlflow.runName", "mlflow.note.content")},
    "history": [[point.value, point.timestamp, point.step] for point in client.get_metric_history(uid, "loss")],
    "inputs": [[item.dataset.name, item.tags[0].value] for item in found.inputs.dataset_inputs],
    "artifacts": sorted(file.path for file in client.list_artifacts(uid)),
    "files": [[file.path, file.file_size] for file in client.list_artifacts(uid, "files")],
    "text": mlflow.artifacts.load_text(f"runs:/{uid}/notes/first.txt"),
    "bytes": len(Path(client.download_artifacts(uid, "files/weights.bin")).read_bytes()),
    "best": [run.info.run_name for run in client.search_runs(
        [found.info.experiment_id], "metrics.accuracy > 0.3", order_by=["metrics.accuracy DESC"])],
    "children": [run.info.run_name for run in client.search_runs(
        [found.info.experiment_id], f"tags.mlflow.parentRunId = '{uid}'")],
}))
"""

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}


def trained(uri: str, experiment: str, **environment: str) -> dict[str, Any]:
    """Run the training at a tracking address and return what the program has read of itself."""
    done = run_python(TRAINING, experiment, MLFLOW_TRACKING_URI=uri, seconds=PATIENCE, **QUIET, **environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(name="proxy")
def _proxy(server: MlflowServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def on_server(server: MlflowServer, experiment: str, name: str) -> dict[str, Any]:
    """Return the one run called *name* as the server has it, artifacts and dataset inputs too."""
    [run] = [run for run in server.runs(experiment) if run["name"] == name]
    whole = server.rest("runs/get", run_id=run["id"])["run"]
    inputs = whole.get("inputs", {}).get("dataset_inputs", [])
    return {
        **run,
        "metrics": {key: repr(value) for key, value in run["metrics"].items()},
        "artifacts": server.artifacts(run["id"]),
        "inputs": [[item["dataset"]["name"], item["tags"][0]["value"]] for item in inputs],
    }


OURS = ("mltrace.uid", "mltrace.kind")
IDS = "mlflow.parentRunId"
OF_THE_PROCESS = ("id", "start_time", "end_time", "experiment_id", "artifact_uri")


def comparable(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run without what differs between two of the same program."""
    tags = {key: value for key, value in run["tags"].items() if key not in (*OURS, IDS)}
    return {key: value for key, value in {**run, "tags": tags}.items() if key not in OF_THE_PROCESS}


@pytest.fixture(name="plain", scope="module")
def _plain(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program reads of itself with MLflow's own store, in experiment ``plain``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plain"))
        return trained(server.url, "plain")


class TestUnmodifiedPrograms:
    """A program that knows MLflow alone, with ``mltrace+`` before its tracking address."""

    def test_reads_itself_as_with_mlflow(self, server: MlflowServer, plain: dict[str, Any]) -> None:
        """Online, the program is told what MLflow's own store tells it, and the server holds the same."""
        found = trained(f"mltrace+{server.url}", "online")
        ids = ("run", "child")
        assert {key: value for key, value in plain.items() if key not in ids} == {
            key: value for key, value in found.items() if key not in ids
        }
        for name in ("training", "fold"):
            assert comparable(on_server(server, "plain", name)) == comparable(
                on_server(server, "online", name)
            )
        run, child = on_server(server, "online", "training"), on_server(server, "online", "fold")
        assert (found["run"], run["id"]) == (run["tags"]["mltrace.uid"], child["tags"]["mlflow.parentRunId"])

    def test_offline_and_sync(self, server: MlflowServer, proxy: Proxy, plain: dict[str, Any]) -> None:
        """With the server away the program runs as with it; `mltrace sync` brings the same to the server."""
        proxy.refuse()
        found = trained(f"mltrace+{proxy.url}", "offline", MLTRACE_EXIT_TIMEOUT="0")
        not_of_mlflow = ("run", "child", "best")
        assert {key: value for key, value in plain.items() if key not in not_of_mlflow} == {
            key: value for key, value in found.items() if key not in not_of_mlflow
        }
        assert ["training", "fold"] == found["best"]
        proxy.accept()
        [result] = [line for line in as_json("sync") if line["destination"] == proxy.url]
        for name in ("training", "fold"):
            assert comparable(on_server(server, "plain", name)) == comparable(
                on_server(server, "offline", name)
            )
        run, child = on_server(server, "offline", "training"), on_server(server, "offline", "fold")
        assert {found["run"]: run["id"], found["child"]: child["id"]} == result["run_ids"]
        assert plain["history"] == [
            [point["value"], point["timestamp"], point["step"]]
            for point in server.metric_history(run["id"], "loss")
        ]

    def test_sync_prints_the_ids(self, server: MlflowServer, proxy: Proxy) -> None:
        """`mltrace sync` says which id the server has given to each run."""
        proxy.refuse()
        script = "import mlflow\nwith mlflow.start_run() as run: print(run.info.run_id)"
        address = f"mltrace+{proxy.url}"
        done = run_python(
            script, MLFLOW_TRACKING_URI=address, MLTRACE_EXIT_TIMEOUT="0", seconds=PATIENCE, **QUIET
        )
        uid = done.stdout.split()[-1]
        proxy.accept()
        said = mltrace_command("sync").stdout
        [run] = [run for run in server.runs() if run["tags"].get("mltrace.uid") == uid]
        assert f"run {uid} is {run['id']} on the server" in said

    def test_a_program_that_is_killed(self, server: MlflowServer, proxy: Proxy) -> None:
        """What was logged when the process was killed arrives, artifacts too, and the run has ended as KILLED."""
        proxy.refuse()
        script = """
        import os, signal, mlflow
        mlflow.set_experiment("killed")
        mlflow.start_run(run_name="cut short")
        mlflow.log_metric("m", 1.0)
        mlflow.log_text("safe", "note.txt")
        mlflow.log_param("p", "v")
        os.kill(os.getpid(), signal.SIGKILL)
        """
        with pytest.raises(AssertionError):
            run_python(script, MLFLOW_TRACKING_URI=f"mltrace+{proxy.url}", seconds=PATIENCE, **QUIET)
        proxy.accept()
        mltrace_command("sync")
        run = on_server(server, "killed", "cut short")
        assert ("KILLED", {"m": "1.0"}, {"p": "v"}) == (run["status"], run["metrics"], run["params"])
        assert "safe" == server.artifact_text(run["id"], "note.txt")

    def test_a_server_that_hangs_is_not_waited_for(self, server: MlflowServer, proxy: Proxy) -> None:
        """Logging takes no time while the server takes requests and never answers."""
        script = """
        import sys, time, mlflow
        with mlflow.start_run():
            started = time.monotonic()
            for step in range(500):
                mlflow.log_metric("m", step, step=step)
            print(time.monotonic() - started)
        """
        proxy.fail("/", HUNG)
        address = f"mltrace+{proxy.url}"
        done = run_python(
            script, MLFLOW_TRACKING_URI=address, MLTRACE_EXIT_TIMEOUT="0", seconds=PATIENCE, **QUIET
        )
        assert float(done.stdout.split()[-1]) < 5.0


LOCAL = """
import sys, mlflow, mltrace
from mlflow.tracking._tracking_service.utils import _use_tracking_uri

mlflow.set_experiment("local")
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1.0)
    mlflow.log_text("a note", "note.txt")
assert mltrace.flush(60).pending == 0, mltrace.status()
assert "a note" == mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/note.txt")
with _use_tracking_uri(sys.argv[1]):
    [found] = mlflow.search_runs(experiment_names=["local"], output_format="list")
    assert (run.info.run_id, {"m": 1.0}) == (found.data.tags["mltrace.uid"], found.data.metrics)
    assert "a note" == mlflow.artifacts.load_text(f"runs:/{found.info.run_id}/note.txt")
"""


@pytest.mark.parametrize("scheme", ["sqlite", "file"])
def test_local_stores(scheme: str, tmp_path: Path) -> None:
    """A database or directory of this machine has the journal before it too."""
    uri = f"sqlite:///{tmp_path}/mlflow.db" if scheme == "sqlite" else (tmp_path / "mlruns").as_uri()
    environment = {"MLFLOW_TRACKING_URI": f"mltrace+{uri}", "MLFLOW_ALLOW_FILE_STORE": "true"}
    run_python(LOCAL, uri, seconds=PATIENCE, **environment, **QUIET)


LEARNING = """
import json, sys

import mlflow
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

mlflow.set_experiment(sys.argv[1])
mlflow.sklearn.autolog(log_models=False, log_post_training_metrics=False)
X, y = make_classification(200, 5, random_state=0)
with mlflow.start_run(run_name="learning") as run:
    model = LogisticRegression().fit(X, y)
    mlflow.log_metric("before", 1.0)
    mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"], serialization_format="cloudpickle")
    mlflow.log_metric("after", 1.0, model_id=mlflow.last_logged_model().model_id)
logged = mlflow.last_logged_model()
client = mlflow.MlflowClient()

def same(uri):
    return bool((mlflow.sklearn.load_model(uri).predict(X) == model.predict(X)).all())

def facts():
    found = client.get_logged_model(logged.model_id)
    return {
        "status": str(found.status), "run": found.source_run_id == run.info.run_id,
        "metrics": sorted(metric.key for metric in found.metrics), "params": found.params,
        "loads": [same(logged.model_uri), same(f"runs:/{run.info.run_id}/model")],
        "files": sorted(file.path for file in client.list_logged_model_artifacts(logged.model_id)),
        "outputs": [output.model_id == logged.model_id for output in client.get_run(run.info.run_id).outputs.model_outputs],
        "found": [model.model_id == logged.model_id for model in mlflow.search_logged_models(
            experiment_ids=[found.experiment_id], filter_string="name = 'model'", output_format="list")],
    }

said = {"uid": logged.model_id, "before": facts()}
if len(sys.argv) > 2:
    import mltrace
    assert mltrace.flush(60).pending == 0
    said["after"] = facts()
    version = mlflow.register_model(logged.model_uri, sys.argv[1])
    said["registered"] = same(f"models:/{sys.argv[1]}/{version.version}")
print(json.dumps(said))
"""


class TestModels:
    """scikit-learn autologging, with its logged model."""

    def test_through_the_bridge(self, server: MlflowServer) -> None:
        """A model can be read, loaded and searched before it is delivered, after it, and registered."""
        address = f"mltrace+{server.url}"
        done = run_python(
            LEARNING, "learned", "flush", MLFLOW_TRACKING_URI=address, seconds=PATIENCE, **QUIET
        )
        found = json.loads(done.stdout.splitlines()[-1])
        assert ([True, True], [True], [True]) == tuple(
            found["before"][name] for name in ("loads", "outputs", "found")
        )
        assert (found["before"], True) == (found["after"], found["registered"])

    def test_offline(self, server: MlflowServer, proxy: Proxy) -> None:
        """With the server away the model is logged all the same, and `mltrace sync` brings it, its metrics and its ids."""
        plain = run_python(
            LEARNING, "learned plainly", MLFLOW_TRACKING_URI=server.url, seconds=PATIENCE, **QUIET
        )
        expected = json.loads(plain.stdout.splitlines()[-1])["before"]
        proxy.refuse()
        environment = {"MLFLOW_TRACKING_URI": f"mltrace+{proxy.url}", "MLTRACE_EXIT_TIMEOUT": "0"}
        done = run_python(LEARNING, "learned offline", **environment, seconds=PATIENCE, **QUIET)
        found = json.loads(done.stdout.splitlines()[-1])
        assert expected == found["before"]
        proxy.accept()
        mltrace_command("sync")
        run = on_server(server, "learned offline", "learning")
        query = {"experiment_ids": [run["experiment_id"]]}
        [model] = server.rest("logged-models/search", query)["models"]
        tags = {tag["key"]: tag["value"] for tag in model["info"]["tags"]}
        assert found["uid"] == f"m-{tags['mltrace.uid']}"
        assert run["id"] == model["info"]["source_run_id"]
        assert expected["metrics"] == sorted({metric["key"] for metric in model["data"]["metrics"]})
        assert expected["params"] == {param["key"]: param["value"] for param in model["data"]["params"]}
        script = """
        import sys, mlflow
        path = mlflow.artifacts.download_artifacts(sys.argv[1])
        described = mlflow.models.Model.load(path)
        print(described.run_id, described.model_id, mlflow.sklearn.load_model(path).coef_.shape)
        """
        uri = f"models:/{model['info']['model_id']}"
        done = run_python(script, uri, MLFLOW_TRACKING_URI=server.url, seconds=PATIENCE, **QUIET)
        assert f"{run['id']} {model['info']['model_id']} (1, 5)" == done.stdout.splitlines()[-1]


REGISTERING = """
import os, signal, sys

import mlflow
from sklearn.linear_model import LogisticRegression

name, way = sys.argv[1:]
mlflow.set_experiment(name)
if way == "autolog":
    mlflow.sklearn.autolog(
        registered_model_name=name, log_post_training_metrics=False, serialization_format="cloudpickle")
with mlflow.start_run(run_name="training"):
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    if way != "autolog":
        info = mlflow.sklearn.log_model(
            model, name="model", registered_model_name=None if way == "forked" else name, tags={"team": "a"},
            pip_requirements=["scikit-learn"], serialization_format="cloudpickle")
    if way == "forked" and (child := os.fork()):
        assert os.waitpid(child, 0)[1] == 0
    elif way == "forked":
        mlflow.register_model(info.model_uri, name, tags={"team": "a"})
        os._exit(0)
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""

QUEUED = """
import json, sys

import mlflow
import mltrace
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LogisticRegression

name, other = sys.argv[1:]
mlflow.set_experiment(name)
client = mlflow.MlflowClient()
saved = {"pip_requirements": ["scikit-learn"], "serialization_format": "cloudpickle"}
model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
mlflow.sklearn.save_model(model, "saved", **saved)
client.create_registered_model(name, description="what for")
with mlflow.start_run(run_name="training") as run:
    info = mlflow.sklearn.log_model(model, name="model", **saved)
    mlflow.log_artifacts("saved", "kept")
first = mlflow.register_model(info.model_uri, name, tags={"order": "first"})
second = mlflow.register_model(f"runs:/{run.info.run_id}/model", name, tags={"order": "second"})
others = mlflow.register_model(info.model_uri, other)
kept = client.create_model_version(other, f"runs:/{run.info.run_id}/kept", description="as it lay there")

def refusal(request, *arguments):
    try:
        return str(request(*arguments))
    except MlflowException as error:
        return f"{type(error).__name__}: {error}"

print(json.dumps({
    "versions": [version.version for version in (first, second, others, kept)],
    "status": first.status,
    "refused": [
        refusal(client.set_registered_model_alias, name, "best", first.version),
        refusal(client.get_model_version, name, first.version),
        refusal(mlflow.register_model, "s3://bucket/model", name),
        refusal(mlflow.register_model, "models:/m-" + "0" * 32, name),
    ],
    "bad name": refusal(mlflow.register_model, info.model_uri, "a/b"),
}), flush=True)
sys.stdin.readline()
while mltrace.flush(60).pending:  # one that finds nobody gives up at once
    pass
client.set_registered_model_alias(name, "best", second.version)
third = mlflow.register_model(info.model_uri, name, tags={"order": "third"})
print(json.dumps({
    "numbers": [int(first.version), int(second.version), client.get_model_version(name, first.version).version],
    "third": third.version,
    "loads": mlflow.sklearn.load_model(f"models:/{other}/{int(kept.version)}").predict([[1.0]]).tolist(),
}), flush=True)
"""


def registered(server: MlflowServer, name: str) -> list[dict[str, Any]]:
    """Return the versions of a registered model, oldest first, with their tags as a dict."""
    found = server.rest("model-versions/search", filter=f"name='{name}'").get("model_versions", [])
    return [
        {**version, "tags": {tag["key"]: tag["value"] for tag in version.get("tags", [])}}
        for version in sorted(found, key=lambda version: int(version["version"]))
    ]


def model_of(server: MlflowServer, run: Mapping[str, Any]) -> tuple[str, list[dict[str, str]]]:
    """Return the id of the one logged model of a run's experiment, and its versions by MLflow's tag."""
    query = {"experiment_ids": [run["experiment_id"]]}
    [model] = server.rest("logged-models/search", query)["models"]
    [versions] = [tag["value"] for tag in model["info"]["tags"] if tag["key"] == "mlflow.modelVersions"]
    return model["info"]["model_id"], [
        {key: str(value) for key, value in version.items()} for version in json.loads(versions)
    ]


class TestRegistering:
    """Registering models of this process's own."""

    @pytest.mark.parametrize(
        ("way", "fault"),
        [("log_model", None), ("autolog", CUT), ("killed", LOST), ("forked", None)],
        ids=str,
    )
    def test_offline(self, server: MlflowServer, proxy: Proxy, way: str, fault: Fault | None) -> None:
        """
        A model that is registered while the server is away, perhaps by a process that is killed then, or by
        a child, is uploaded once and becomes one version, also where the answer to that is lost.
        """
        name = f"registered-{way}"
        proxy.refuse()
        environment = {"MLFLOW_TRACKING_URI": f"mltrace+{proxy.url}", "MLTRACE_EXIT_TIMEOUT": "0"}
        if way == "killed":
            with pytest.raises(AssertionError):
                run_python(REGISTERING, name, way, **environment, seconds=PATIENCE, **QUIET)
        else:
            said = run_python(REGISTERING, name, way, **environment, seconds=PATIENCE, **QUIET).stderr
            assert 1 == said.count("the version gets its number, when mltrace delivers it")
        proxy.accept()
        if fault is not None:
            proxy.fail("model-versions/create", fault, 1)
        mltrace_command("sync")

        run = on_server(server, name, "training")
        model_id, versions = model_of(server, run)
        [version] = registered(server, name)
        assert (f"models:/{model_id}", run["id"], "1") == (
            version["source"],
            version["run_id"],
            version["version"],
        )
        assert [{"name": name, "version": "1"}] == versions
        assert way == "autolog" or "a" == version["tags"]["team"]
        assert 1 == len([request for request in proxy.seen("MLmodel") if request.method == "PUT"])
        assert (1 if fault in (None, LOST) else 2) == len(proxy.seen("model-versions/create"))

    def test_a_model_that_is_refused(self, server: MlflowServer, proxy: Proxy) -> None:
        """Its version is given up with it, and nothing else; both arrive when they are sent again."""
        name = "registered-later"
        proxy.refuse()
        environment = {"MLFLOW_TRACKING_URI": f"mltrace+{proxy.url}", "MLTRACE_EXIT_TIMEOUT": "0"}
        run_python(REGISTERING, name, "log_model", **environment, seconds=PATIENCE, **QUIET)
        proxy.accept()
        proxy.fail("/MLmodel", Answer(400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}'))
        mltrace_command("sync")
        letters = as_json("dead", "list")
        assert ["model 'model'", f"version of {name!r}"] == [letter["what"] for letter in letters]
        run = on_server(server, name, "training")
        assert ("FINISHED", []) == (run["status"], registered(server, name))

        proxy.heal()
        mltrace_command("dead", "requeue", "--all")
        mltrace_command("sync")
        [version] = registered(server, name)
        assert f"models:/{model_of(server, run)[0]}" == version["source"]

    def test_several(self, server: MlflowServer, proxy: Proxy, tmp_path: Path) -> None:
        """
        Each registration is a version of its own, in order, with its tags. Until the server is back what
        needs a number is refused; then what the program was given is one, and registering is done at once.
        """
        name, other = "several", "several-others"
        proxy.refuse()
        address = f"mltrace+{proxy.url}"
        script = f"import os; os.chdir({str(tmp_path)!r})\n{QUEUED}"
        with python(script, name, other, MLFLOW_TRACKING_URI=address, **QUIET) as process:
            assert process.stdin is not None
            away = spoken(process)
            proxy.accept()
            process.stdin.write("\n")
            process.stdin.flush()
            back = spoken(process)
            _, said = process.communicate(timeout=PATIENCE)

        assert [True] * 4 == [version.startswith("pending-") for version in away["versions"]]
        assert "PENDING_REGISTRATION" == away["status"]
        assert ["Away"] * 4 == [refusal.partition(":")[0] for refusal in away["refused"]]
        assert [True, True] == ["its number when it is delivered" in words for words in away["refused"][:2]]
        assert "Invalid model name" in away["bad name"]
        assert "its description and tags are not recorded" in said

        run = on_server(server, name, "training")
        model_id, noted = model_of(server, run)
        versions = registered(server, name)
        assert [("first", "1"), ("second", "2"), ("third", "3")] == [
            (version["tags"]["order"], version["version"]) for version in versions
        ]
        assert {f"models:/{model_id}"} == {version["source"] for version in versions}
        of_model, of_files = registered(server, other)
        assert (f"models:/{model_id}", f"{run['artifact_uri']}/kept", "as it lay there") == (
            of_model["source"],
            of_files["source"],
            of_files["description"],
        )
        assert [(name, "1"), (name, "2"), (other, "1"), (name, "3")] == list(
            dict.fromkeys((version["name"], version["version"]) for version in noted)
        )
        assert {"numbers": [1, 2, "1"], "third": "3", "loads": [1]} == back
        best = server.rest("registered-models/alias", name=name, alias="best")["model_version"]
        assert "2" == best["version"]


def test_a_server_that_is_back_is_asked_at_once(proxy: Proxy) -> None:
    """What a server refused a moment ago says nothing of now: a program that saw its records delivered is not told that nobody is there."""
    upstream = Upstream(proxy.url)
    proxy.refuse()
    with pytest.raises(Away):
        upstream.reach()
    proxy.accept()
    upstream.reach()


@pytest.mark.parametrize("error", [TimeoutError(), socket.gaierror(), OSError("no route")], ids=repr)
def test_a_host_that_keeps_one_waiting_is_not_tried_by_each_request(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """Where nothing answers at all, not even the name's server, a program that asks ten times waits once."""
    tried: list[Any] = []

    def silent(address: Any, timeout: float) -> Any:
        tried.append((address, timeout))
        raise error

    upstream = Upstream("http://127.0.0.1:9")
    monkeypatch.setattr(socket, "create_connection", silent)
    monkeypatch.setattr("mltrace.bridge.upstream._AGAIN_SECONDS", 60.0)
    for _ in range(10):
        with pytest.raises(Away):
            upstream.reach()
    assert 1 == len(tried)
