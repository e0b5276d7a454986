"""The current run is MLflow's active run, and the other way round; each program in a process of its own."""

from __future__ import annotations

import json

from typing import Any

import pytest

from tests.harness import PATIENCE, run_python
from tests.server import MlflowServer


QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}

TASKS = """
import asyncio, sys

if sys.argv[2] == "before":
    import mlflow
import mltrace

@mltrace.track_run("outer {n}", experiment_name=sys.argv[1])
async def outer(n):
    import mlflow
    mlflow.log_metric("m", n)
    await asyncio.sleep(0.01)
    mlflow.log_param("p", n)
    with mlflow.start_run(run_name=f"opened {n}"):
        mlflow.log_metric("in opened", n)
    with mlflow.start_run(run_name=f"nested {n}", nested=True):
        inner(n)
    mlflow.set_tag("t", n)
    mltrace.log_metric("own", n)

@mltrace.track_run("inner {n}", experiment_name=sys.argv[1])
def inner(n):
    import mlflow
    mlflow.log_text("a note", "note.txt")

async def main():
    await asyncio.gather(*(outer(n) for n in range(3)))

import os
os.environ["MLFLOW_EXPERIMENT_NAME"] = sys.argv[1]
asyncio.run(main())
import mlflow
assert mlflow.active_run() is None
assert mltrace.flush(60).pending == 0
"""


def tree(server: MlflowServer, experiment: str) -> dict[str, dict[str, Any]]:
    """Return the runs of an experiment by name, with the name of each one's parent."""
    runs = server.runs(experiment)
    names = {run["id"]: run["name"] for run in runs}
    return {
        run["name"]: {**run, "parent": names.get(run["tags"].get("mlflow.parentRunId", ""))} for run in runs
    }


class TestActiveRun:
    """MLflow's own functions inside decorated calls."""

    @pytest.mark.parametrize("imported", ["before", "inside"])
    @pytest.mark.parametrize("prefix", ["mltrace+", ""])
    def test_each_task_has_its_own(self, server: MlflowServer, prefix: str, imported: str) -> None:
        """What MLflow logs in a task lands in the run of that task, whenever it was imported, with both addresses."""
        experiment = f"tasks {prefix} {imported}"
        run_python(
            TASKS,
            experiment,
            imported,
            MLFLOW_TRACKING_URI=f"{prefix}{server.url}",
            seconds=PATIENCE,
            **QUIET,
        )
        found = tree(server, experiment)
        assert 12 == len(found)
        for n in range(3):
            outer, opened, nested = (found[f"{name} {n}"] for name in ("outer", "opened", "nested"))
            assert ({"n": str(n), "p": str(n)}, str(n)) == (outer["params"], outer["tags"]["t"])
            assert (float(n), float(n)) == (outer["metrics"]["m"], outer["metrics"]["own"])
            assert {"in opened": float(n)} == opened["metrics"]
            assert [f"outer {n}"] * 2 == [opened["parent"], nested["parent"]]
            assert {"FINISHED"} == {run["status"] for run in (outer, opened, nested)}
            inner = found[f"inner {n}"]
            assert "a note" == server.artifact_text(inner["id"], "note.txt")
            if prefix:
                assert f"nested {n}" == inner["parent"]

    def test_mltrace_in_a_run_of_mlflow(self, server: MlflowServer) -> None:
        """A decorated call inside `mlflow.start_run` nests in that run, and mltrace's own functions log to it."""
        script = """
        import mlflow, mltrace
        mlflow.set_experiment("around")

        @mltrace.track_run("step", experiment_name="around")
        def step(): ...

        with mlflow.start_run(run_name="around"):
            step()
            mltrace.log_metric("m", 1.0)
        assert mltrace.flush(60).pending == 0
        """
        run_python(script, MLFLOW_TRACKING_URI=f"mltrace+{server.url}", seconds=PATIENCE, **QUIET)
        found = tree(server, "around")
        assert ("around", {"m": 1.0}) == (found["step"]["parent"], found["around"]["metrics"])

    def test_reads_and_ends(self, server: MlflowServer) -> None:
        """MLflow reads what mltrace has logged to the run, and `mlflow.end_run` ends it."""
        script = """
        import json, mlflow, mltrace

        with mltrace.track_run("read", experiment_name="read", params={"k": 5}) as run:
            active = mlflow.active_run()
            mltrace.log_metric("own", 2.0)
            mlflow.log_metric("theirs", 3.0)
            read = mlflow.get_run(active.info.run_id)
            mlflow.end_run("FAILED")
            after = mlflow.active_run()
        print(json.dumps([active.info.run_id == run.id, read.data.params, read.data.metrics, after is None]))
        assert mltrace.flush(60).pending == 0
        """
        done = run_python(script, MLFLOW_TRACKING_URI=f"mltrace+{server.url}", seconds=PATIENCE, **QUIET)
        expected = [True, {"k": "5"}, {"own": 2.0, "theirs": 3.0}, True]
        assert expected == json.loads(done.stdout.splitlines()[-1])
        assert "FAILED" == tree(server, "read")["read"]["status"]

    @pytest.mark.parametrize("off", ["configure", "environment", "elsewhere"])
    def test_off(self, server: MlflowServer, off: str) -> None:
        """With the bridge off, or MLflow pointed elsewhere, MLflow's active run is its own affair."""
        script = """
        import os, sys, mlflow, mltrace
        mltrace.configure(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
        if sys.argv[1] == "configure":
            mltrace.configure(bridge=False)
        if sys.argv[1] == "elsewhere":
            mlflow.set_tracking_uri("sqlite:///elsewhere.db")
        with mltrace.track_run("alone"):
            assert mlflow.active_run() is None
        """
        environment = {"MLTRACE_BRIDGE": "0"} if off == "environment" else {}
        run_python(script, off, MLFLOW_TRACKING_URI=server.url, seconds=PATIENCE, **QUIET, **environment)

    def test_kinds(self, server: MlflowServer) -> None:
        """In a recorded LLM call MLflow's active run is the run around it, as that is where it belongs."""
        script = """
        import mlflow, mltrace

        @mltrace.log_llm_call(model="m")
        def ask(prompt):
            return mlflow.active_run()

        assert ask("alone?") is None
        with mltrace.log_training_run(run_name="around") as run:
            assert ask("alone?").info.run_id == run.id
        """
        run_python(script, MLFLOW_TRACKING_URI=f"mltrace+{server.url}", seconds=PATIENCE, **QUIET)

    def test_importing_mlflow_imports_nothing_of_mltrace(self) -> None:
        """MLflow's plugins cost a program that does not use them next to nothing."""
        script = (
            "import sys, mlflow; assert 'mlflow_mltrace' in sys.modules; assert 'mltrace' not in sys.modules"
        )
        run_python(script, seconds=PATIENCE)
