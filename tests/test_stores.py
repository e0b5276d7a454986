"""
Stores in which less can be promised, each a real one: files, behind a server and without one, and a database
whose read replica lags. What is weaker, what `mltrace doctor` says of it, and what delivery does about it.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

import mltrace

from mltrace._config import probe
from mltrace.delivery import breaker, connect, courier, lag
from mltrace.delivery.destination import SLOW_SETTLE, Missing, ServerRun
from tests.harness import LOST, Proxy, run_python
from tests.server import MlflowServer
from tests.test_cli import as_json, mltrace_command
from tests.test_delivery import Target, delivered


SETTLE = 0.1
EXPERIMENT = "seen"


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have unclear creations looked up, and failed requests made again, sooner than a real network would allow."""
    monkeypatch.setattr(courier, "SETTLE_SECONDS", SETTLE)
    monkeypatch.setattr(breaker, "BACKOFF_BASE", 0.02)


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server over a file store."""
    directory = tmp_path_factory.mktemp("files")
    with MlflowServer(directory, workers=1, store_uri=(directory / "store").as_uri()) as server:
        yield server


class Replicated(MlflowServer):
    """A server that reads from a copy of its database; the copy is renewed when a test says so."""

    def __init__(self, directory: Path) -> None:
        self.primary, self.replica = directory / "primary.db", directory / "replica.db"
        uri = f"sqlite:///{self.primary}"
        script = "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Store; Store(*sys.argv[1:])"
        subprocess.run([sys.executable, "-c", script, uri, str(directory)], check=True, capture_output=True)
        self.catch_up()
        super().__init__(directory, workers=1, store_uri=uri, replica_uri=f"sqlite:///{self.replica}")

    def catch_up(self) -> None:
        """Have the replica hold what the database holds."""
        with closing(sqlite3.connect(self.primary)) as here, closing(sqlite3.connect(self.replica)) as there:
            here.backup(there)

    def written(self, name: str) -> list[str]:
        """Return the status of each active run called *name* in the database itself."""
        query = "SELECT status FROM runs WHERE name = ? AND lifecycle_stage = 'active' ORDER BY status"
        with closing(sqlite3.connect(self.primary)) as connection:
            return [status for (status,) in connection.execute(query, (name,))]


@pytest.fixture(name="replicated", scope="module")
def _replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    """A server whose replica lags for ever, save that it knows one experiment."""
    with Replicated(tmp_path_factory.mktemp("replicated")) as server:
        server.rest("experiments/create", {"name": EXPERIMENT})
        server.catch_up()
        yield server


def found(*arguments: str, code: int = 0) -> dict[str, tuple[bool | None, str]]:
    """Return what `mltrace doctor` finds, by what it is about."""
    return {each["what"]: (each["ok"], each["says"]) for each in as_json("doctor", *arguments, code=code)}


def settling(proxy: Proxy) -> float:
    """Return the seconds between the last creation that was not answered and the next look for it."""
    created = proxy.seen("runs/create")[-1].time
    return min(request.time for request in proxy.seen("runs/search") if request.time > created) - created


class TestFiles:
    """A file store behind a server."""

    def test_doctor(self, files: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """`doctor` says in words what is weaker there, which is no failure."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", files.url)
        ok, says = found()["exactly once"]

        assert (None, True) == (ok, "metric point as often as it is sent" in says)
        assert "--  exactly once: weaker here" in mltrace_command("doctor").stdout
        assert "FileStore" == probe(files.url).store

    def test_points_are_repeated(self, files: MlflowServer) -> None:
        """It is as `doctor` says: a batch whose answer was lost is there twice, and the run once."""
        target = Target(files, "points")
        with Proxy(files.port) as proxy:
            proxy.fail("runs/log-batch", LOST, times=1)
            target.log_to(proxy.url)
            with mltrace.track_run("run") as run:
                run.log_metric("m", 1.0)
            delivered()
        (stored,) = target.runs()

        assert 2 == len(files.metric_history(stored["id"], "m"))

    def test_settles_longer(self, files: MlflowServer) -> None:
        """A run whose creation was not answered is looked up later than in a database, and is there once."""
        target = Target(files, "settling")
        with Proxy(files.port) as proxy:
            proxy.fail("runs/create", LOST, times=1)
            target.log_to(proxy.url)
            with mltrace.track_run("run"):
                pass
            delivered()
            waited = settling(proxy)
        (stored,) = target.runs()

        assert (True, "FINISHED") == (waited >= SETTLE * SLOW_SETTLE, stored["status"])

    def test_database(self, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a database a run is looked up sooner, and `doctor` says what is promised and what cannot be seen."""
        target = Target(server, "settling in a database")
        with Proxy(server.port) as proxy:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
            proxy.fail("runs/create", LOST, times=1)
            target.log_to(proxy.url)
            with mltrace.track_run("run"):
                pass
            delivered()
            waited = settling(proxy)
            before = len(proxy.requests)
            findings = found()
            asked = {request.path.rpartition("/")[2] for request in proxy.requests[before:]}

        assert SETTLE <= waited < SETTLE * SLOW_SETTLE
        assert (True, "SqlStore: each run, metric point, param and tag once") == findings["exactly once"]
        assert "cannot be seen from outside" in findings["reads"][1]
        assert {"search", "version", "server-info"} == asked

    def test_without_a_server(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The same holds for a directory as the tracking address."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        settles = run_python("""
            import mltrace
            from mltrace import _config
            with mltrace.track_run("run"):
                pass
            assert 0 == mltrace.flush(60).pending, mltrace.status()
            print(_config.active().backend._delivery._crew.destination.settle_factor)
        """).stdout
        findings = found()

        assert f"{SLOW_SETTLE}\n" == settles
        assert (None, True) == (findings["exactly once"][0], "weaker here" in findings["exactly once"][1])
        assert "reads" not in findings


class TestReplica:
    """A database whose replica lags."""

    def test_doctor(self, replicated: Replicated, monkeypatch: pytest.MonkeyPatch) -> None:
        """`doctor --write-probe` finds the lag and says what is weaker; its run does not stay."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", replicated.url)
        ok, says = found("--write-probe")["reads"]
        replicated.catch_up()

        assert ok is None
        assert "a new run is found not within 2 s, so reads come from a replica that lags" in says
        assert [] == replicated.written("probe")
        assert lag.SCRATCH in replicated.experiments()

    def test_lag_is_measured(self, replicated: Replicated, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run is created and deleted also where the search does not show it; one that is shown later is timed."""
        monkeypatch.setattr(lag, "LONGEST_SECONDS", 0.2)
        with closing(connect(replicated.url)) as destination:
            destination.experiment(lag.SCRATCH)
            replicated.catch_up()
            never = lag.read_lag(destination)
            monkeypatch.setattr(lag, "LONGEST_SECONDS", 30.0)
            find_runs = destination.find_runs

            def find_then_catch_up(ids: Sequence[str], uid: str) -> Sequence[ServerRun]:
                runs = find_runs(ids, uid)
                replicated.catch_up()
                return runs

            monkeypatch.setattr(destination, "find_runs", find_then_catch_up)
            after = lag.read_lag(destination)

        assert (None, []) == (never, replicated.written("probe"))
        assert after is not None
        assert 0.1 <= after < 5

    def test_no_replica(self, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a replica the probe's run is found at once, and deleted."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        ok, says = found("--write-probe")["reads"]

        assert (True, "a new run is found at once; the probe's run is deleted again") == (ok, says)
        assert [] == server.runs(lag.SCRATCH)

    def test_second_run_is_found_later(
        self, replicated: Replicated, monkeypatch: pytest.MonkeyPatch, said: list[str]
    ) -> None:
        """
        A run whose creation was not answered is there twice, which is noticed, makes the next one settle
        longer, and is set right by `mltrace sync` once the replica shows it.
        """
        target = Target(replicated, EXPERIMENT)
        names = ("first", "second")
        with Proxy(replicated.port) as proxy:
            target.log_to(proxy.url)
            for name in names:
                proxy.fail("runs/create", LOST, times=1)
                with mltrace.track_run(name):
                    pass
                delivered()
            creations = [request.time for request in proxy.seen("runs/create")]
            twice = [replicated.written(name) for name in names]
            mltrace.shutdown(5)
            replicated.catch_up()
            monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
            mltrace_command("sync")

        assert [["FINISHED", "RUNNING"]] * 2 == twice
        assert 4 == len(creations)
        assert creations[3] - creations[2] >= SETTLE * SLOW_SETTLE
        assert "its reads lag" in said
        assert [["FINISHED"]] * 2 == [replicated.written(name) for name in names]

    def test_new_experiment(self, replicated: Replicated) -> None:
        """An experiment that the replica does not show yet costs no record: its runs wait for it."""
        name = "not seen yet"
        with closing(connect(replicated.url)) as one, closing(connect(replicated.url)) as other:
            one.experiment(name)
            with pytest.raises(Missing, match="they lag"):
                other.experiment(name)
        Target(replicated, name).log_to()
        for number in range(6):
            with mltrace.track_run(f"run {number}"):
                pass
        waiting = mltrace.flush(1)
        replicated.catch_up()
        report = delivered()

        assert (12, 0) == (waiting.pending, waiting.dead)
        assert (12, 0) == (report.delivered, report.dead)
        assert ["FINISHED"] == replicated.written("run 5")
