"""
Delivery to a local store through MLflow's client; each in a process of its own, since importing mlflow is
what is tested too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mltrace

from mltrace import _config
from tests.harness import payloads, python, run_python


TREE = """
import os, sys
import mltrace

mltrace.configure(tracking_uri="sqlite:///data.db", experiment_name="tree")
mltrace.status()  # the address is resolved here at the latest
os.chdir(sys.argv[1])

@mltrace.track_run("inner {x}")
def inner(x):
    if x:
        raise ValueError("no")
    return x

with mltrace.track_run("outer", params={"k": 5}, tags={"env": "test"}) as run:
    run.log_metric("loss", 2.0, step=0)
    run.log_metric("loss", 1.0, step=1)
    run.log_metrics({"nan": float("nan"), "inf": float("inf")})
    run.log_text("a note", "notes/first.txt")
    run.log_text("x" * 100_000, "large.txt")
    inner(0)
    try:
        inner(1)
    except ValueError:
        pass

mltrace.log_prediction(question="why?", answer="so", model_version="v1")
report = mltrace.flush(60)
assert report.pending == report.dead == report.dropped == 0, mltrace.status()
assert run.mlflow_run_id is not None

import mlflow
assert mlflow.active_run() is None
assert not mlflow.is_tracking_uri_set()
"""


class Stored:
    """What one program left: its words, and the store read with nothing but SQL."""

    def __init__(self, directory: Path, done: subprocess.CompletedProcess[str]) -> None:
        self.directory = directory
        self.done = done

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what *query* selects."""
        with closing(sqlite3.connect(self.directory / "data.db")) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(name="stored", scope="module")
def _stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """The store after `TREE` was run once, configured in one directory and at work in another."""
    directory = tmp_path_factory.mktemp("stored")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    script = f"import os\nos.chdir({str(directory)!r})\n{TREE}"
    done = run_python(script, elsewhere, MLTRACE_SPOOL_DIR=str(directory / "spool"))
    yield Stored(directory, done)
    assert not any(elsewhere.iterdir()), list(elsewhere.iterdir())


class TestTree:
    """A tree of runs in a sqlite store."""

    def test_runs(self, stored: Stored) -> None:
        """Runs are in the store with their names, statuses and original times, once each."""
        found = stored.rows("SELECT name, status, end_time >= start_time FROM runs ORDER BY name")

        assert [("inner 0", "FINISHED", 1), ("inner 1", "FAILED", 1), ("outer", "FINISHED", 1)] == [
            row for row in found if row[0] != "prediction"
        ][:3]
        assert 4 == len(found)

    def test_parents(self, stored: Stored) -> None:
        """Runs nest in the store as the calls nested."""
        found = stored.rows(
            "SELECT child.name, parent.name FROM runs child"
            " JOIN tags ON tags.run_uuid = child.run_uuid AND tags.key = 'mlflow.parentRunId'"
            " JOIN runs parent ON parent.run_uuid = tags.value ORDER BY child.name"
        )

        assert [("inner 0", "outer"), ("inner 1", "outer")] == found

    def test_fields(self, stored: Stored) -> None:
        """Params, tags and every metric point, those without a JSON number included, are in the store."""
        of_outer = "JOIN runs USING (run_uuid) WHERE name = 'outer'"
        points = stored.rows(
            f"SELECT key, step, value, is_nan FROM metrics {of_outer}"
            " AND key != 'latency_ms' ORDER BY key, step"
        )

        assert [("inf", 0), ("loss", 0), ("loss", 1), ("nan", 0)] == [
            (key, step) for key, step, _, _ in points
        ]
        assert [2.0, 1.0] == [value for key, _, value, _ in points if key == "loss"]
        assert ([1], True) == ([nan for key, _, _, nan in points if key == "nan"], points[0][2] > 1e308)
        assert [("k", "5")] == stored.rows(f"SELECT key, value FROM params {of_outer}")
        assert [("test",)] == stored.rows(f"SELECT value FROM tags {of_outer} AND key = 'env'")

    def test_artifacts(self, stored: Stored) -> None:
        """
        Artifacts lie in `mlruns` beside the database, wherever the program worked, and the store says so.
        """
        ((uri,),) = stored.rows("SELECT artifact_uri FROM runs WHERE name = 'outer'")
        files = {
            path.name: path.read_text()
            for path in (stored.directory / "mlruns").rglob("*.txt")
            if path.name != "traceback.txt"
        }

        assert str(stored.directory / "mlruns") in uri
        assert {"first.txt": "a note", "large.txt": "x" * 100_000} == files
        assert 1 == len(list((stored.directory / "mlruns").rglob("notes/first.txt")))

    def test_says_nothing(self, stored: Stored) -> None:
        """Nothing is written to stdout, and mltrace has nothing to say on stderr."""
        assert "" == stored.done.stdout
        assert "mltrace" not in stored.done.stderr

    def test_spool_is_empty(self, stored: Stored) -> None:
        """What is delivered is not in the spool any more."""
        assert [] == list((stored.directory / "spool").glob("*/*/*.seg"))


class TestMissingExtra:
    """A store that needs MLflow's client, where that is not installed."""

    def test_kept_and_delivered_later(self, tmp_path: Path) -> None:
        """
        One warning says what to install, everything stays in the spool, and a later process that has MLflow
        delivers it to the same file, the run that was open when the first one died included.
        """
        program = """
import os, sys
import mltrace
mltrace.configure(tracking_uri="sqlite:///mlflow.db", experiment_name="e")
for number in range(3):
    with mltrace.track_run(f"{sys.argv[1]} {number}") as run:
        run.log_metric("m", number)
        mltrace.flush(5)
left = mltrace.flush(60).pending
"""
        without = "import sys\nsys.modules['mlflow'] = None\n"
        dies = "mltrace.start_run('open').log_metric('m', 9)\nos._exit(left != 9)\n"
        first = run_python(without + program + dies, "first")
        (directory,) = Path(os.environ["MLTRACE_SPOOL_DIR"]).glob("*/*-*")
        records = [json.loads(payload) for payload in payloads(directory)]
        second = run_python(program + "sys.exit(left)", "second")
        query = (
            "SELECT name, status, value FROM runs JOIN metrics USING (run_uuid) WHERE key = 'm' ORDER BY name"
        )
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
            found = connection.execute(query).fetchall()
            ((end,),) = connection.execute("SELECT end_time FROM runs WHERE name = 'open'").fetchall()
        finished = [
            (f"{which} {number}", "FINISHED", float(number))
            for which in ("first", "second")
            for number in range(3)
        ]

        assert 1 == first.stderr.count("install mltrace-mlflow[mlflow]")
        assert (11, ["", ""]) == (len(records), [first.stdout, second.stdout])
        assert sorted([*finished, ("open", "KILLED", 9.0)]) == sorted(found)
        assert max(record["time"] for record in records) == end
        assert not directory.exists()

    def test_probe(self) -> None:
        """`init_mlflow` says what to install, in words and without an exception."""
        done = run_python(
            """
            import sys
            sys.modules["mlflow"] = None
            import mltrace
            found = mltrace.init_mlflow()
            assert not found.ok
            print(found.message)
            """
        )

        assert "install mltrace-mlflow[mlflow], or use an http(s) address" in done.stdout


class TestRelative:
    """Addresses that are paths."""

    @pytest.mark.parametrize("uri", ["sqlite:///data.db", "runs", "./runs"])
    def test_where_it_was_configured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
        """
        A relative path means the directory in which `configure` was called, not where the first record is
        made or delivered.
        """
        mltrace.configure(tracking_uri=uri)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")

        assert f"{tmp_path}/{uri.rpartition('/')[2]}" == mltrace.status().destination.partition("://")[
            2
        ].replace("//", "/")


class TestUnusable:
    """Addresses that lead nowhere."""

    @pytest.mark.parametrize(
        ("uri", "words"),
        [
            ("http://", "has no host"),
            ("http:// host", "is not an address"),
            ("a\nb", "is not an address"),
            ("https:///x", "has no host"),
        ],
    )
    def test_refused_at_once(self, uri: str, words: str) -> None:
        """
        An address that cannot be one is refused by `configure`, which names the option and the remedy and
        changes nothing.
        """
        mltrace.configure(backend="memory")
        before = _config.active()
        with pytest.raises(
            mltrace.ConfigurationError, match=rf"^tracking_uri: .*{re.escape(words)}.*MLFLOW_TRACKING_URI"
        ):
            mltrace.configure(tracking_uri=uri)

        assert before is _config.active()

    def test_unknown_scheme(self) -> None:
        """
        A scheme that MLflow does not know: one warning that names the address, nothing lost, nothing
        raised, also with a password in it.
        """
        done = run_python(
            """
            import mltrace
            mltrace.configure(tracking_uri="nonsense://ada:canary@host/path")
            for number in range(3):
                with mltrace.track_run("run"):
                    pass
                mltrace.flush(5)
            status = mltrace.status()
            assert status.state == "suspended" and status.pending > 0 and status.dead == 0, status
            mltrace.shutdown(1)
            """
        )

        assert 1 == done.stderr.count("nonsense://host/path cannot be opened")
        assert "canary" not in done.stderr
        assert "" == done.stdout

    def test_comes_later(self, stored: Stored, tmp_path: Path) -> None:
        """A database that cannot be opened now is tried again, and has everything once it can."""
        (tmp_path / "place").write_text("in the way")
        shutil.copytree(stored.directory, tmp_path / "there")
        done = run_python(
            """
            import os, sys
            import mltrace
            mltrace.configure(tracking_uri="sqlite:///place/data.db")
            with mltrace.track_run("late"):
                pass
            while mltrace.status().last_error is None:
                mltrace.flush(0.1)
            assert "cannot be opened" in mltrace.status().last_error, mltrace.status()
            os.unlink("place")
            os.rename("there", "place")
            report = mltrace.flush(60)
            assert (report.pending, report.dead) == (0, 0), mltrace.status()
            """
        )

        assert 1 == done.stderr.count("records stay in the spool and are sent later")
        with closing(sqlite3.connect(tmp_path / "place/data.db")) as connection:
            assert [("FINISHED",)] == connection.execute(
                "SELECT status FROM runs WHERE name = 'late'"
            ).fetchall()


class TestStore:
    """One store, several users."""

    def test_deleted_experiment(self, stored: Stored) -> None:
        """
        Runs of a deleted experiment wait, and arrive when it is restored; those of others go on meanwhile.
        """
        done = run_python(
            """
            import sys
            import mltrace
            from mlflow import MlflowClient
            client = MlflowClient(sys.argv[1])
            identity = client.create_experiment("deleted")
            client.delete_experiment(identity)
            mltrace.configure(tracking_uri=sys.argv[1], experiment_name="deleted")
            with mltrace.track_run("parked"):
                pass
            with mltrace.track_run("going on", experiment_name="other") as other:
                pass
            assert other.wait(10)
            report = mltrace.flush(0.5)
            assert report.pending > 0 and report.dead == 0
            assert "restore it" in mltrace.status().last_error
            client.restore_experiment(identity)
            assert mltrace.flush(60).pending == 0
            """,
            f"sqlite:///{stored.directory}/data.db",
        )

        assert 1 == done.stderr.count("is deleted; restore it")
        assert [("going on",), ("parked",)] == stored.rows(
            "SELECT name FROM runs WHERE name IN ('parked', 'going on') ORDER BY name"
        )

    def test_several_processes(self, stored: Stored) -> None:
        """
        Processes that use one database at the same time get all their runs into it, once each, in one
        experiment.
        """
        script = """
            import sys
            import mltrace
            mltrace.configure(tracking_uri=sys.argv[1], experiment_name="shared")
            for number in range(20):
                with mltrace.track_run(f"{sys.argv[2]}.{number}") as run:
                    run.log_metric("m", number)
            report = mltrace.flush(40)
            assert (report.pending, report.dead) == (0, 0), mltrace.status()
            print("done")
        """
        uri = f"sqlite:///{stored.directory}/data.db"
        with python(script, uri, "a") as first, python(script, uri, "b") as second:
            said = [process.communicate(timeout=60) for process in (first, second)]
        found = stored.rows(
            "SELECT runs.name, runs.status, value FROM runs"
            " JOIN metrics USING (run_uuid) JOIN experiments USING (experiment_id)"
            " WHERE key = 'm' AND experiments.name = 'shared'"
        )

        assert ["done\n"] * 2 == [out for out, _ in said], said
        assert sorted(
            (f"{which}.{number}", "FINISHED", float(number)) for which in "ab" for number in range(20)
        ) == sorted(found)

    @pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to find the connections")
    def test_fork(self, stored: Stored) -> None:
        """A forked child opens the store anew and uses no connection that its parent had opened."""
        run_python(
            """
            import os, sys
            import mltrace
            mltrace.configure(tracking_uri=sys.argv[1], experiment_name="forked")
            with mltrace.track_run("parent"):
                pass
            assert mltrace.flush(60).pending == 0
            links = {number: f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")}
            opened = [int(number) for number, link in links.items() if "data.db" in os.path.realpath(link)]
            if (pid := os.fork()) == 0:
                nothing = os.open(os.devnull, os.O_RDWR)
                for descriptor in opened:
                    os.dup2(nothing, descriptor)
                with mltrace.track_run("child"):
                    pass
                os._exit(mltrace.flush(5).pending)
            assert os.waitpid(pid, 0)[1] == 0
            with mltrace.track_run("parent again"):
                pass
            assert mltrace.flush(60).pending == 0
            """,
            f"sqlite:///{stored.directory}/data.db",
        )
        found = stored.rows(
            "SELECT runs.name FROM runs JOIN experiments USING (experiment_id)"
            " WHERE experiments.name = 'forked'"
        )

        assert [("child",), ("parent",), ("parent again",)] == sorted(found)
