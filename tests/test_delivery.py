"""
Delivery to a real MLflow server over HTTP: what arrives, through which faults, and what those who wait are
told.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import threading
import time

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import mltrace

from mltrace import _config
from mltrace._clock import new_id
from mltrace._files import read_lines
from mltrace._records import ArtifactLogged, Metric
from mltrace._spool import DestinationDirectory
from mltrace.backends import Backend, FlushReport
from mltrace.backends.journal import Journal
from mltrace.delivery import breaker, connect, courier, outbox, sender, transport
from mltrace.delivery.destination import Failed, Rejected
from tests.harness import (
    CUT,
    HUNG,
    LOST,
    STALLED,
    Answer,
    Proxy,
    ended,
    logged,
    on_disk,
    payloads,
    python,
    run_python,
    silent_listener,
    started,
    until,
)
from tests.server import MlflowServer


HTML = Answer(200, b"<html>Please log in</html>", "text/html; charset=utf-8")


@pytest.fixture(name="proxy")
def _proxy(server: MlflowServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


class Target:
    """The server, and the experiment of one test there."""

    def __init__(self, server: MlflowServer, experiment: str) -> None:
        self.server = server
        self.experiment = experiment
        self.url = server.url

    def log_to(self, uri: str = "", **options: Any) -> Backend:
        """Have this process log to *uri* (default: the server), strictly, in the experiment."""
        settings = {"tracking_uri": uri or self.url, "experiment_name": self.experiment, "strict": True}
        mltrace.configure(**{**settings, **options})
        return _config.active().backend

    def runs(self, view: str = "ACTIVE_ONLY") -> list[dict[str, Any]]:
        """Return the experiment's runs, oldest first."""
        return self.server.runs(self.experiment, view=view)

    def by_name(self) -> dict[str, dict[str, Any]]:
        """Return the experiment's runs by name; fail if two have the same."""
        runs = self.runs()
        found = {run["name"]: run for run in runs}
        assert len(runs) == len(found), sorted(run["name"] for run in runs)
        return found

    def parents(self) -> dict[str, str | None]:
        """Return the name of each run's parent."""
        runs = self.by_name()
        names = {run["id"]: name for name, run in runs.items()}
        ids = {name: run["tags"].get("mlflow.parentRunId") for name, run in runs.items()}
        return {name: names[parent] if parent else None for name, parent in ids.items()}

    def outputs(self, view: str = "ACTIVE_ONLY") -> list[float]:
        """Return what the calls returned that are recorded in the experiment, sorted."""
        return sorted(run["metrics"]["output"] for run in self.runs(view) if "output" in run["metrics"])

    def status(self, name: str) -> str:
        """Return the status of the run *name*, nothing where there is none."""
        return next((str(run["status"]) for run in self.runs() if run["name"] == name), "")


@pytest.fixture(name="target")
def _target(server: MlflowServer, request: pytest.FixtureRequest) -> Target:
    """The server, and an experiment of this test's own."""
    return Target(server, str(request.node.nodeid.rpartition("::")[2]))


@pytest.fixture(name="brisk")
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Have failed requests made again, and unclear creations looked up, sooner than a real network would
    allow.
    """
    monkeypatch.setattr(courier, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(breaker, "BACKOFF_BASE", 0.02)


def delivered(timeout: float = 60.0) -> FlushReport:
    """Flush, and fail if something is left."""
    report = mltrace.flush(timeout)
    assert report.pending == 0, mltrace.status()
    return report


def spool() -> Path:
    """Return the spool directory."""
    return Path(os.environ["MLTRACE_SPOOL_DIR"])


def writers() -> list[Path]:
    """Return the writer directories in the spool."""
    return sorted(path.parent for path in spool().glob("*/*/owner.json"))


def dead_letters() -> list[dict[str, Any]]:
    """Return what is in the log of dead letters."""
    return [
        json.loads(line)
        for path in spool().glob("*/dead.log")
        for line in read_lines(path)
        if line is not None
    ]


@mltrace.track_run
def double(x: int) -> int:
    return 2 * x


class TestTree:
    """What the server holds when all is well."""

    def test_nested(self, target: Target, tmp_path: Path) -> None:
        """
        Names, kinds, params, metrics, tags, parents, statuses and artifacts of a tree are on the server as
        they happened.
        """
        target.log_to()
        (tmp_path / "weights.bin").write_bytes(bytes(range(256)) * 1000)

        @mltrace.log_llm_call(model="small-1")
        def generate(prompt: str, temperature: float = 0.5) -> str:
            return "an answer"

        @mltrace.track_run("retrieve_{k}")
        def retrieve(question: str, k: int = 3) -> list[str]:
            raise LookupError("no index")

        @mltrace.track_run("answer", params={"top": 1}, tags={"env": "test"})
        def answer(question: str) -> dict[str, float]:
            run = mltrace.current_run()
            for step in range(3):
                run.log_metric("loss", 1 / (step + 1), step=step)
            run.log_text("a note", "notes/first.txt")
            run.log_artifact(tmp_path / "weights.bin", "model")
            generate(question)
            with pytest.raises(LookupError):
                retrieve(question)
            mltrace.log_prediction(question=question, answer="yes", model_version="v1", latency_ms=12.5)
            return {"score": 0.75}

        answer("why?")
        delivered()
        runs = target.by_name()
        prediction = next(
            name
            for name in runs
            if name not in ("answer", "retrieve_3") and runs[name]["tags"]["mltrace.kind"] == "prediction"
        )
        llm = next(name for name in runs if runs[name]["tags"]["mltrace.kind"] == "llm_call")
        root = runs["answer"]

        assert {
            "answer": None,
            "retrieve_3": "answer",
            prediction: "answer",
            llm: "answer",
        } == target.parents()
        assert {"answer": "FINISHED", "retrieve_3": "FAILED", prediction: "FINISHED", llm: "FINISHED"} == {
            name: run["status"] for name, run in runs.items()
        }
        assert {"answer": "run", "retrieve_3": "run", prediction: "prediction", llm: "llm_call"} == {
            name: run["tags"]["mltrace.kind"] for name, run in runs.items()
        }
        assert {"question": "why?", "top": "1"} == root["params"]
        assert {"question": "why?", "k": "3"} == runs["retrieve_3"]["params"]
        assert ("small-1", "0.5") == (runs[llm]["params"]["model"], runs[llm]["params"]["temperature"])
        assert {"loss", "score", "latency_ms"} == root["metrics"].keys()
        assert (0.75, 12.5) == (root["metrics"]["score"], runs[prediction]["metrics"]["latency_ms"])
        assert [(0, 1.0), (1, 0.5), (2, 1 / 3)] == [
            (point["step"], point["value"]) for point in target.server.metric_history(root["id"], "loss")
        ]
        assert ("test", mltrace.__version__) == (root["tags"]["env"], root["tags"]["mltrace.version"])
        assert ("LookupError", "no index") == tuple(
            runs["retrieve_3"]["tags"][f"mltrace.error.{field}"] for field in ("type", "message")
        )
        assert ["model/weights.bin", "notes/first.txt"] == target.server.artifacts(root["id"])
        assert "a note" == target.server.artifact_text(root["id"], "notes/first.txt")
        assert "LookupError: no index" in target.server.artifact_text(
            runs["retrieve_3"]["id"], "traceback.txt"
        )
        stored = (
            target.server.artifact_dir / root["experiment_id"] / root["id"] / "artifacts/model/weights.bin"
        )
        assert (tmp_path / "weights.bin").read_bytes() == stored.read_bytes()

    def test_original_times(self, target: Target) -> None:
        """Starts, ends and metric points have the times at which they happened, to the millisecond."""
        backend = target.log_to()
        uid = new_id()
        backend.emit(started(uid, experiment=target.experiment, time=1_600_000_000_123))
        backend.emit(logged(uid, metrics=(Metric("m", 1.0, 1_600_000_001_234, 5),)))
        backend.emit(ended(uid, time=1_600_000_002_345))
        delivered()
        (run,) = target.runs()

        assert (1_600_000_000_123, 1_600_000_002_345) == (run["start_time"], run["end_time"])
        assert [{"value": 1.0, "timestamp": 1_600_000_001_234, "step": 5}] == target.server.metric_history(
            run["id"], "m"
        )

    def test_numbers_that_json_has_not(self, target: Target) -> None:
        """NaN and the infinities arrive as such, and what was logged with them arrives too."""
        target.log_to()
        with mltrace.track_run("numbers") as run:
            run.log_metrics({"nan": float("nan"), "inf": float("inf"), "minus": float("-inf"), "fine": 1.5})
            run.set_tag("after", "there")
        delivered()
        (found,) = target.runs()

        assert found["metrics"]["nan"] != found["metrics"]["nan"]
        assert found["metrics"]["inf"] > 1e308
        assert found["metrics"]["minus"] < -1e308
        assert (1.5, "there") == (found["metrics"]["fine"], found["tags"]["after"])

    def test_awkward_text(self, target: Target) -> None:
        """
        Texts and names in any script, with quotes, line feeds, control characters and slashes, arrive;
        nothing is refused.
        """
        target.log_to()
        text = "日本語 \U0001f600 \"quoted\" 'so' \\ back\nline\ttab\x00nul\x7f </html> % {brace}"
        with mltrace.track_run("naïve/run % 名") as run:
            run.log_param("clé naïve", text)
            run.set_tag("a/b c.d:e", text)
            run.log_text(text, "dossier/un fichier #1 ?%.txt")
        report = delivered()
        (found,) = target.runs()

        assert 0 == report.dead
        assert "naïve/run % 名" == found["name"]
        assert "日本語 \U0001f600" in found["params"]["clé naïve"]
        assert any(
            "日本語 \U0001f600" in value for key, value in found["tags"].items() if key.startswith("a/b c.d")
        )
        (path,) = target.server.artifacts(found["id"])
        assert "日本語 \U0001f600" in target.server.artifact_text(found["id"], path)

    def test_limits(self, target: Target) -> None:
        """
        What exceeds MLflow's limits for names, values and keys arrives in a form that it takes; long values
        are kept whole as artifacts.
        """
        target.log_to()
        with mltrace.track_run("n" * 5000) as run:
            run.log_param("p", "v" * 6000)
            run.log_param("q", "v" * 6001)
            run.set_tag("t", "w" * 8000)
            run.set_tag("u", "w" * 8001)
            run.log_metric("m" * 300, 1.0)
            for key in (
                "..",
                "/absolute",
                "a//b",
                "a/../b",
                "",
                "tab\there",
                "trailing/",
                "*?<>|",
                "k" * 251,
            ):
                run.log_param(key, key)
        report = delivered()
        (found,) = target.runs()

        assert 0 == report.dead
        assert ("v" * 6000, "w" * 8000) == (found["params"]["p"], found["tags"]["t"])
        assert len(found["params"]["q"]) <= 6000
        assert len(found["tags"]["u"]) <= 8000
        assert {"params/q.txt": "v" * 6001, "tags/u.txt": "w" * 8001} == {
            path: target.server.artifact_text(found["id"], path)
            for path in target.server.artifacts(found["id"])
            if path in ("params/q.txt", "tags/u.txt")
        }
        assert 2 + 9 == len(found["params"])

    def test_three_requests(self, proxy: Proxy, target: Target) -> None:
        """
        A short call takes three requests, whatever it logs but artifacts: one creates, one logs, one ends.
        """
        target.log_to(proxy.url)
        double(0)
        delivered()
        before = len(proxy.requests)
        with mltrace.track_run("short") as run:
            run.log_metrics({"a": 1.0, "b": 2.0})
            run.log_param("p", 1)
            run.set_tag("t", "u")
        delivered()

        assert ["runs/create", "runs/log-batch", "runs/update"] == [
            request.path.partition("mlflow/")[2] for request in proxy.requests[before:]
        ]


class TestOutage:
    """A server that is away."""

    def test_before_the_program_starts(self, proxy: Proxy, target: Target) -> None:
        """
        What was logged while the server was away arrives once it is there, once each, with the times at
        which it happened.
        """
        proxy.refuse()
        target.log_to(proxy.url)
        before = int(time.time() * 1000)
        assert [0, 2, 4] == [double(x) for x in range(3)]
        after = int(time.time() * 1000) + 1
        assert mltrace.flush(0.2).pending > 0
        until(lambda: int(time.time() * 1000) > after)
        proxy.accept()
        delivered()
        runs = target.runs()

        assert [0.0, 2.0, 4.0] == sorted(run["metrics"]["output"] for run in runs)
        assert all(before <= run["start_time"] <= run["end_time"] <= after for run in runs)

    def test_says_so(self, proxy: Proxy, target: Target, said: list[str]) -> None:
        """
        While the server is away the status says unreachable and why, one warning says that nothing is lost,
        and both pass.
        """
        proxy.refuse()
        target.log_to(proxy.url)
        double(1)
        mltrace.flush(0.3)
        status = mltrace.status()

        assert ("unreachable", True) == (status.state, status.pending > 0)
        assert "refused" in str(status.last_error)
        assert 1 == sum("records stay in the spool and are sent later" in message for message in said)
        proxy.accept()
        delivered()
        assert "healthy" == mltrace.status().state

    def test_in_the_middle(self, proxy: Proxy, target: Target) -> None:
        """
        A server that goes away in the middle of a tree and comes back holds the same runs as if nothing had
        happened.
        """
        target.log_to(proxy.url)
        with mltrace.track_run("outer") as outer:
            outer.log_metric("m", 1.0, step=0)
            assert outer.wait(10)
            proxy.refuse()
            outer.log_metric("m", 2.0, step=1)
            with mltrace.track_run("inner") as inner:
                inner.log_param("p", 1)
            assert not inner.wait(0.2)
            proxy.accept()
            outer.log_metric("m", 3.0, step=2)
        delivered()
        runs = target.by_name()

        assert {"outer": None, "inner": "outer"} == target.parents()
        assert [1.0, 2.0, 3.0] == [
            point["value"] for point in target.server.metric_history(runs["outer"]["id"], "m")
        ]
        assert ({"p": "1"}, "FINISHED", "FINISHED") == (
            runs["inner"]["params"],
            runs["inner"]["status"],
            runs["outer"]["status"],
        )

    def test_comes_back_by_itself(self, proxy: Proxy, target: Target) -> None:
        """Nobody has to flush: a server that comes back gets what waited for it."""
        proxy.refuse()
        target.log_to(proxy.url)
        double(1)
        until(lambda: mltrace.status().state == "unreachable")
        proxy.accept()
        until(lambda: mltrace.status().pending == 0)

        assert 1 == len(target.runs())

    @pytest.mark.usefixtures("brisk")
    def test_comes_and_goes(self, proxy: Proxy, target: Target) -> None:
        """Through ten interruptions at any moment each run and each metric point arrives once."""
        target.log_to(proxy.url)
        expected: dict[str, list[float]] = {}
        for number in range(10):
            for part in range(3):
                with mltrace.track_run(f"run {number}.{part}") as run:
                    run.log_metric("m", number)
                    run.log_metric("m", part, step=1)
                    expected[run.id] = [float(number), float(part)]
            mltrace.flush(0.02 * (number % 4))
            proxy.refuse()
            proxy.accept()
        delivered()
        runs = target.runs()
        points = {
            run["tags"]["mltrace.uid"]: [
                point["value"] for point in target.server.metric_history(run["id"], "m")
            ]
            for run in runs
        }

        assert len(expected) == len(runs)
        assert {uid: sorted(values) for uid, values in expected.items()} == {
            uid: sorted(values) for uid, values in points.items()
        }
        assert {"FINISHED"} == {run["status"] for run in runs}


PROGRAM = """
import os, sys
import mltrace
mltrace.configure(tracking_uri=sys.argv[1], experiment_name=sys.argv[2])
def say(*words):
    print(*words, flush=True)
@mltrace.track_run
def double(x):
    mltrace.log_metric("x", x)
    return 2 * x
"""


class TestDeath:
    """A program that is killed."""

    def test_pending_and_open(self, proxy: Proxy, target: Target) -> None:
        """
        After SIGKILL another process delivers everything that was logged; the run that was open is KILLED
        at the last time known of it.
        """
        proxy.refuse()
        script = (
            PROGRAM
            + """
for x in range(3):
    double(x)
run = mltrace.start_run("open")
run.log_metric("m", 1.0)
say(run.id)
sys.stdin.readline()
"""
        )
        with python(script, proxy.url, target.experiment) as process:
            assert process.stdout is not None
            uid = process.stdout.readline().strip()
            process.kill()
            process.wait(10)
        (directory,) = writers()
        last = max(
            json.loads(payload)["time"]
            for payload in payloads(directory)
            if json.loads(payload)["run"] == uid
        )
        proxy.accept()
        target.log_to(proxy.url)
        double(10)
        delivered()
        runs = target.runs()
        found = next(run for run in runs if run["tags"]["mltrace.uid"] == uid)

        assert [0.0, 2.0, 4.0, 20.0] == sorted(run["metrics"]["output"] for run in runs if run is not found)
        assert ("open", "KILLED", last, {"m": 1.0}) == (
            found["name"],
            found["status"],
            found["end_time"],
            found["metrics"],
        )
        assert directory not in writers()

    def test_open_on_the_server(self, target: Target) -> None:
        """
        A run that was delivered as far as it went when its program was killed is ended by another process,
        and not created anew.
        """
        script = """
run = mltrace.start_run("open")
run.log_metric("m", 1.0)
say(run.wait(10))
sys.stdin.readline()
"""
        with python(PROGRAM + script, target.url, target.experiment) as process:
            assert process.stdout is not None
            assert "True\n" == process.stdout.readline()
            process.kill()
            process.wait(10)
        (before,) = target.runs()
        target.log_to()
        double(1)
        delivered()
        runs = target.by_name()

        assert (before["id"], "RUNNING", "KILLED") == (
            runs["open"]["id"],
            before["status"],
            runs["open"]["status"],
        )
        assert 1 == len(target.server.metric_history(before["id"], "m"))

    @pytest.mark.usefixtures("brisk")
    def test_while_it_delivers(self, proxy: Proxy, target: Target) -> None:
        """
        Of programs killed in the middle of their requests every call that had returned arrives, once, with
        its metric points.
        """
        script = (
            PROGRAM
            + """
for x in range(15):
    with mltrace.track_run("r") as run:
        run.log_metric("x", x)
    say(run.id)
sys.stdin.readline()
"""
        )
        promised: list[str] = []
        for stop in (1, 5, 15):
            seen = len(proxy.requests)
            with python(script, proxy.url, target.experiment) as process:
                assert process.stdout is not None
                promised += [process.stdout.readline().strip() for _ in range(15)]
                until(lambda seen=seen + stop: len(proxy.requests) > seen)
                process.kill()
                process.wait(10)
        target.log_to(proxy.url)
        double(1)
        delivered(40)
        runs = [run for run in target.runs() if run["name"] == "r"]

        assert sorted(promised) == sorted(run["tags"]["mltrace.uid"] for run in runs)
        assert [float(x) for x in range(15) for _ in range(3)] == sorted(run["metrics"]["x"] for run in runs)
        assert {1} == {len(target.server.metric_history(run["id"], "x")) for run in runs}

    def test_between_creation_and_answer(self, proxy: Proxy, target: Target) -> None:
        """A program that is killed while the server creates its run leaves one run on the server, not two."""
        proxy.fail("runs/create", STALLED, times=1)
        with python(PROGRAM + "double(1)\nsys.stdin.readline()\n", proxy.url, target.experiment) as process:
            until(lambda: target.runs())
            process.kill()
            process.wait(10)
        target.log_to(proxy.url)
        double(2)
        delivered()

        assert [2.0, 4.0] == target.outputs("ALL")

    def test_exit_delivers(self, target: Target) -> None:
        """A program that ends takes the time to deliver what it logged last, and leaves nothing behind."""
        done = run_python(PROGRAM + "double(21)\n", target.url, target.experiment)

        assert [42.0] == target.outputs()
        assert ("", "", []) == (done.stdout, done.stderr, writers())

    def test_exit_is_bounded(self, target: Target) -> None:
        """
        Where the server does not answer the exit takes no longer than exit_timeout, and one warning says
        how much is left and what becomes of it.
        """
        with silent_listener() as url:
            begun = time.monotonic()
            done = run_python(PROGRAM + "double(1)\n", url, target.experiment, MLTRACE_EXIT_TIMEOUT="0.5")
            elapsed = time.monotonic() - begun

        assert elapsed < 20.0
        assert 1 == done.stderr.count("mltrace leaves records in its spool")
        assert re.search("pending=[1-9]", done.stderr)
        assert "" == done.stdout

    def test_exit_while_refused(self, proxy: Proxy, target: Target) -> None:
        """Where there is no server the exit does not wait for one."""
        proxy.refuse()
        begun = time.monotonic()
        done = run_python(PROGRAM + "double(1)\n", proxy.url, target.experiment, MLTRACE_EXIT_TIMEOUT="90")

        assert time.monotonic() - begun < 60.0
        assert re.search("pending=[1-9]", done.stderr)


class TestProcesses:
    """Several threads and processes."""

    def test_threads_with_wrap(self, target: Target) -> None:
        """
        Calls in four threads nest under the run that `wrap` carried there, each thread's among themselves.
        """
        target.log_to()

        @mltrace.track_run("inner {x}")
        def inner(x: int) -> None:
            mltrace.log_metric("x", x)

        @mltrace.track_run("outer {x}")
        def outer(x: int) -> None:
            inner(x)

        with mltrace.track_run("root"), ThreadPoolExecutor(4) as pool:
            list(pool.map(mltrace.wrap(outer), range(8)))
        delivered()

        assert {
            "root": None,
            **{f"outer {x}": "root" for x in range(8)},
            **{f"inner {x}": f"outer {x}" for x in range(8)},
        } == target.parents()

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_process_pool(self, target: Target, tmp_path: Path, method: str) -> None:
        """
        Runs and logs of a pool's workers are under the parent run that a carrier took there, and no run of
        theirs is lost with the workers.
        """
        program = tmp_path / "program.py"
        program.write_text(
            PROGRAM
            + """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def work(carrier, x):
    with mltrace.attach(carrier):
        mltrace.log_metric(f"from {x}", x)
        with mltrace.track_run(f"work {x}"):
            return double(x)

if __name__ == "__main__":
    with mltrace.track_run("root"):
        carrier = mltrace.carrier()
        with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context(sys.argv[3])) as pool:
            assert [0, 2, 4, 6, 8, 10] == list(pool.map(work, [carrier] * 6, range(6)))
    report = mltrace.flush(60)
    assert report.pending == 0, mltrace.status()
"""
        )
        run_python(
            "import runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')",
            program,
            target.url,
            target.experiment,
            method,
        )
        runs = target.runs()
        names = {run["id"]: run["name"] for run in runs}
        nested = sorted((run["name"], names.get(run["tags"].get("mlflow.parentRunId"), "")) for run in runs)
        (root,) = [run for run in runs if run["name"] == "root"]

        assert (
            sorted(
                [
                    ("root", ""),
                    *(("double", f"work {x}") for x in range(6)),
                    *((f"work {x}", "root") for x in range(6)),
                ]
            )
            == nested
        )
        assert {f"from {x}": float(x) for x in range(6)} == {
            key: value for key, value in root["metrics"].items() if key.startswith("from")
        }
        assert {"FINISHED"} == {run["status"] for run in runs}

    def test_fork(self, target: Target) -> None:
        """
        Forked children inherit the current run as parent, deliver their own runs, and none of their
        parent's a second time.
        """
        run_python(
            PROGRAM
            + """
import multiprocessing
def work(x):
    double(x)
    sys.exit(mltrace.flush(60).pending)
context = multiprocessing.get_context("fork")
with mltrace.track_run("root"):
    double(100)
    children = [context.Process(target=work, args=(x,)) for x in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [0] * 4 == [child.exitcode for child in children]
assert mltrace.flush(60).pending == 0
""",
            target.url,
            target.experiment,
        )
        runs = target.runs()
        (root,) = [run for run in runs if run["name"] == "root"]

        assert [0.0, 2.0, 4.0, 6.0, 200.0] == sorted(
            run["metrics"]["output"] for run in runs if run is not root
        )
        assert {root["id"]} == {run["tags"]["mlflow.parentRunId"] for run in runs if run is not root}
        assert "FINISHED" == root["status"]

    @pytest.mark.parametrize("module", ["mltrace.delivery.rest", "structlog"])
    def test_fork_during_an_import(self, module: str) -> None:
        """
        A child forked while a thread of the sender was importing something can import the same: no lock of an
        import is left behind that nobody will release.
        """
        done = run_python(
            PROGRAM
            + """
import importlib, logging, signal, threading

logging.disable()
begun, go = threading.Event(), threading.Event()

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[3] and threading.current_thread() is not threading.main_thread():
            begun.set()
            go.wait(0.5)

sys.meta_path.insert(0, Slow())
double(1)
assert begun.wait(10)
if (pid := os.fork()) == 0:
    signal.alarm(3)
    importlib.import_module(sys.argv[3])
    os._exit(0)
go.set()
say("hangs" if os.waitpid(pid, 0)[1] else "imports")
os._exit(0)
""",
            "http://127.0.0.1:9",
            "none",
            module,
        )

        assert "imports\n" == done.stdout

    def test_imports_hold_forks_off(self, proxy: Proxy, target: Target) -> None:
        """
        The sender's threads import nothing while a fork could happen: neither on the way to the server nor
        when it fails.
        """
        proxy.fail("runs/log-batch", Answer(500, b"<html>oops</html>", "text/html"), times=1)
        done = run_python(
            PROGRAM
            + """
import threading
from mltrace import _guard

class Watch:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread().name.startswith("mltrace") and not _guard.importing._is_owned():
            say(name)

sys.meta_path.insert(0, Watch())
with mltrace.track_run("run") as run:
    run.log_text("x" * 100_000, "large.txt")
    double(1)
assert mltrace.flush(60).pending == 0
os._exit(0)
""",
            proxy.url,
            target.experiment,
        )

        assert "" == done.stdout

    def test_child_exits_at_once(self, target: Target) -> None:
        """
        What a forked child logged before it left by os._exit, or raised out of its end, is delivered by its
        parent.
        """
        run_python(
            PROGRAM
            + """
with mltrace.track_run("root"):
    for x, leave in enumerate((lambda: os._exit(0), sys.exit, lambda: os.kill(os.getpid(), 9))):
        if (pid := os.fork()) == 0:
            double(x)
            leave()
        os.waitpid(pid, 0)
assert mltrace.flush(60).pending == 0
""",
            target.url,
            target.experiment,
        )

        assert ["double", "double", "double", "root"] == sorted(run["name"] for run in target.runs())

    def test_parent_in_another_process(self, target: Target) -> None:
        """A subprocess that finds MLTRACE_CARRIER in its environment nests under the run that it names."""
        target.log_to()
        with mltrace.track_run("root"):
            run_python(
                PROGRAM + "double(1)\n",
                target.url,
                target.experiment,
                MLTRACE_CARRIER=json.dumps(mltrace.carrier()),
            )
        delivered()

        assert {"root": None, "double": "root"} == target.parents()

    def test_experiment_by_several(self, target: Target) -> None:
        """
        An experiment that several processes want at the same moment is created once, and all their runs are
        in it.
        """
        run_python(
            PROGRAM
            + """
ready, go = os.pipe()
children = []
for x in range(4):
    if (pid := os.fork()) == 0:
        os.close(go)
        os.read(ready, 1)
        double(x)
        os._exit(0 if mltrace.flush(60).pending == 0 else 1)
    children.append(pid)
os.close(go)
assert [0] * 4 == [os.waitpid(pid, 0)[1] for pid in children]
""",
            target.url,
            target.experiment,
        )

        assert [0.0, 2.0, 4.0, 6.0] == target.outputs()

    def test_child_before_its_parent(self, target: Target, tmp_path: Path) -> None:
        """A run whose parent's process delivers later gets its parent's id then."""
        backend = target.log_to()
        root, child = new_id(), new_id()
        backend.emit(started(child, name="child", experiment=target.experiment, parent=root))
        backend.emit(ended(child))
        until(lambda: target.runs())
        assert mltrace.flush(0.2).pending > 0
        directory = DestinationDirectory(spool(), target.url)
        other = Journal(directory, delivery=sender.Sender(directory, lambda: connect(target.url)))
        other.emit(started(root, name="root", experiment=target.experiment))
        other.emit(ended(root))
        assert 0 == other.flush(60).pending
        other.close(5)
        delivered()

        assert {"root": None, "child": "root"} == target.parents()

    @pytest.mark.usefixtures("brisk")
    def test_parent_whose_start_was_damaged(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run made up for records whose start is lost gets its children, however long that took."""
        monkeypatch.setattr(breaker, "_LOST_SECONDS", 1.0)
        directory = DestinationDirectory(tmp_path / "spool", target.url)
        journal = Journal(
            directory, delivery=sender.Sender(directory, lambda: connect(target.url), link_seconds=0.05)
        )
        child, lost = new_id(), new_id()
        journal.emit(started(child, name="child", experiment=target.experiment, parent=lost))
        journal.emit(ended(child))
        for _ in range(2):
            journal.emit(logged(lost))
        report = journal.flush(60)
        journal.close(0)

        assert FlushReport(delivered=4, pending=0, dropped=0, dead=0) == report
        runs = {run["tags"].get("mltrace.uid"): run for run in target.server.runs()}
        assert runs[lost]["id"] == runs[child]["tags"]["mlflow.parentRunId"]

    @pytest.mark.usefixtures("brisk")
    def test_parent_that_never_comes(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
    ) -> None:
        """
        A run whose parent never arrives is whole on the server, stands alone after a while, and counts as
        delivered, not as dead.
        """
        # The real figures, 600 and 3600 seconds, in the same proportion.
        monkeypatch.setattr(breaker, "_MISSING_SECONDS", 0.2)
        directory = DestinationDirectory(tmp_path / "spool", target.url)
        journal = Journal(
            directory, delivery=sender.Sender(directory, lambda: connect(target.url), link_seconds=1.2)
        )
        uid = new_id()
        journal.emit(started(uid, experiment=target.experiment, parent=new_id()))
        journal.emit(logged(uid))
        journal.emit(ended(uid))
        report = journal.flush(60)
        journal.close(0)
        (run,) = target.runs()

        assert ("FINISHED", {"k": 1.0}) == (run["status"], run["metrics"])
        assert FlushReport(delivered=3, pending=0, dropped=0, dead=0) == report
        assert 1 == sum("the run stands alone" in message for message in said)


class TestRefusals:
    """Answers that are not the server's, or not a yes."""

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (Answer(401, b"", "text/plain"), "refuses these credentials"),
            (Answer(403, b'{"error_code":"PERMISSION_DENIED"}'), "refuses these credentials"),
            (Answer(302, b"", "text/html", (("Location", "http://127.0.0.1:9/login"),)), "redirects"),
            (Answer(308, b"", "text/html", (("Location", "http://127.0.0.1:9/"),)), "redirects"),
            (HTML, "login page"),
            (Answer(404, b"<html>no such page</html>", "text/html"), "not an MLflow server"),
            (Answer(404, b'{"detail":"Not Found"}'), "not an MLflow server"),
        ],
        ids=["401", "403", "302", "308", "200-html", "404-html", "404-json"],
    )
    def test_suspends(
        self, proxy: Proxy, target: Target, said: list[str], answer: Answer, words: str
    ) -> None:
        """
        Where only a person can help nothing is acknowledged, the status says suspended and why, one warning
        says it; once healed, everything arrives.
        """
        proxy.fail("", answer)
        target.log_to(proxy.url)
        double(1)
        report = mltrace.flush(60)
        status = mltrace.status()
        mltrace.flush(60)

        assert (0, True, 0, 0) == (report.delivered, report.pending > 0, report.dropped, report.dead)
        assert ("suspended", True) == (status.state, words in str(status.last_error))
        assert 1 == sum(words in message for message in said)
        proxy.heal()
        delivered()
        assert 1 == len(target.runs(view="ALL"))

    @pytest.mark.usefixtures("brisk")
    @pytest.mark.parametrize(
        "answer",
        [
            HTML,
            Answer(200, b"", "text/html"),
            Answer(200, b""),
            Answer(200, b'{"status":"please log in"}'),
            Answer(200, b"null"),
            Answer(200, b'{"run'),
            Answer(204, b""),
            Answer(400, b"<html>The plain HTTP request was sent to HTTPS port</html>", "text/html"),
            Answer(401, b"", "text/plain"),
            Answer(405, b"<html>Not Allowed</html>", "text/html"),
            Answer(407, b"", "text/plain"),
            Answer(500, b"<html>oops</html>", "text/html"),
            Answer(522, b"<html>origin timed out</html>", "text/html"),
        ],
        ids=[
            "html",
            "empty html",
            "empty json",
            "foreign json",
            "null",
            "cut json",
            "204",
            "400",
            "401",
            "405",
            "407",
            "500",
            "522",
        ],
    )
    def test_acknowledges_nothing(self, proxy: Proxy, target: Target, answer: Answer) -> None:
        """
        An answer to a running run's logs that is not MLflow's yes acknowledges nothing, refuses nothing,
        and the logs arrive when it is over.
        """
        target.log_to(proxy.url)
        with mltrace.track_run("open") as run:
            run.log_metric("before", 1.0)
            assert run.wait(10)
            proxy.fail("", answer)
            run.log_metric("during", 2.0)
            run.log_text("text", "note.txt")
            seen = len(proxy.requests)
            until(lambda: len(proxy.requests) > seen)
            report = mltrace.flush(0.2)
            proxy.heal()
        delivered()
        (found,) = target.runs()

        assert (2, 0, 0) == (report.pending, report.dropped, report.dead)
        assert {"before": 1.0, "during": 2.0}.items() <= found["metrics"].items()
        assert ["note.txt"] == target.server.artifacts(found["id"])

    def test_throttled(self, proxy: Proxy, target: Target) -> None:
        """After a 429 with Retry-After nothing is asked before that time is over; then everything arrives."""
        proxy.fail("", Answer(429, b"", "text/plain", (("Retry-After", "1"),)), times=1)
        target.log_to(proxy.url)
        double(1)
        until(lambda: mltrace.status().state == "throttled")
        until(lambda: mltrace.status().pending == 0)
        first, second = proxy.requests[:2]

        assert second.time - first.time >= 1.0
        assert 1 == len(target.runs())

    @pytest.mark.usefixtures("brisk")
    @pytest.mark.parametrize("status", [408, 500, 502, 503])
    def test_passing_failure(self, proxy: Proxy, target: Target, status: int) -> None:
        """A server that fails now and then, at any request, has everything once in the end."""
        for path in (
            "get-by-name",
            "experiments/create",
            "runs/create",
            "runs/log-batch",
            "mlflow-artifacts",
            "runs/update",
        ):
            proxy.fail(path, Answer(status, b"<html>try later</html>", "text/html"), times=1)
        target.log_to(proxy.url)
        with mltrace.track_run("run") as run:
            run.log_metric("m", 1.0)
            run.log_text("text", "note.txt")
        report = delivered()
        (found,) = target.runs(view="ALL")

        assert 0 == report.dead
        assert ("FINISHED", 1.0, ["note.txt"]) == (
            found["status"],
            found["metrics"]["m"],
            target.server.artifacts(found["id"]),
        )
        assert 1 == len(target.server.metric_history(found["id"], "m"))

    @pytest.mark.usefixtures("brisk")
    @pytest.mark.parametrize("fault", [LOST, CUT])
    def test_lost_answers(self, proxy: Proxy, target: Target, fault: str) -> None:
        """
        Where the answer to each kind of request is lost once, applied or not, the server has one run with
        everything in it once.
        """
        for path in (
            "get-by-name",
            "experiments/create",
            "runs/create",
            "runs/log-batch",
            "mlflow-artifacts",
            "runs/update",
        ):
            proxy.fail(path, fault, times=1)
        target.log_to(proxy.url)
        with mltrace.track_run("run") as run:
            run.log_metric("m", 1.0)
            run.log_metric("m", 1.0)
            run.log_metric("m", 2.0, step=1)
            run.log_param("p", 1)
            run.log_text("text", "note.txt")
        report = delivered()
        (found,) = target.runs(view="ALL")

        assert 0 == report.dead
        assert [1.0, 1.0, 2.0] == sorted(
            point["value"] for point in target.server.metric_history(found["id"], "m")
        )
        assert ("FINISHED", {"p": "1"}, ["note.txt"]) == (
            found["status"],
            found["params"],
            target.server.artifacts(found["id"]),
        )

    @pytest.mark.usefixtures("brisk")
    def test_connection_after_a_failure(self, proxy: Proxy, target: Target) -> None:
        """A connection on which the server failed is not used again: servers close those a moment later."""
        proxy.fail("runs/log-batch", Answer(500, b"<html>oops</html>", "text/html"), times=1)
        target.log_to(proxy.url)
        double(1)
        delivered()
        failed, again = proxy.seen("runs/log-batch")

        assert failed.port != again.port

    def test_other_runs_go_on(self, proxy: Proxy, target: Target) -> None:
        """While one run's artifact fails on the server, other runs are delivered."""
        proxy.fail("stubborn", Answer(500, b"<html>oops</html>", "text/html"))
        target.log_to(proxy.url)
        with mltrace.track_run("stuck") as run:
            run.log_text("text", "stubborn.txt")
        for x in range(5):
            double(x)
        until(lambda: len(target.runs()) == 6)

        assert {"RUNNING": 1, "FINISHED": 5} == until(
            lambda: (
                (found := dict(Counter(run["status"] for run in target.runs()))).get("FINISHED") == 5
                and found
            )
        )
        assert 0 == mltrace.status().dead


@pytest.mark.usefixtures("brisk")
class TestCreation:
    """The one request that must not be repeated blindly."""

    def test_answer_lost(self, proxy: Proxy, target: Target) -> None:
        """
        Runs whose creations were applied while the answers were lost are found by their uid and used: one
        run per uid, deleted ones included.
        """
        proxy.fail("runs/create", LOST, times=8)
        target.log_to(proxy.url)
        for x in range(8):
            double(x)
        delivered()

        assert [2.0 * x for x in range(8)] == target.outputs("ALL")

    def test_request_lost(self, proxy: Proxy, target: Target) -> None:
        """A run whose creation never reached the server is created again."""
        proxy.fail("runs/create", CUT, times=3)
        target.log_to(proxy.url)
        double(1)
        delivered()

        assert [2.0] == target.outputs("ALL")

    def test_waits_before_it_looks(
        self, proxy: Proxy, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        After an unclear creation the run is not looked for at once: a request on its way must have time to
        land, also when somebody waits.
        """
        monkeypatch.setattr(courier, "SETTLE_SECONDS", 0.7)
        proxy.fail("runs/create", LOST, times=1)
        target.log_to(proxy.url)
        double(1)
        delivered()

        assert proxy.seen("runs/search")[0].time - proxy.seen("runs/create")[0].time >= 0.7

    def test_late_duplicate(self, proxy: Proxy, target: Target) -> None:
        """
        A creation that the network delivers a second time, late, makes a run that is deleted before the
        end: one active run, with all the data.
        """
        proxy.fail("runs/create", LOST, times=1)
        target.log_to(proxy.url)
        with mltrace.track_run("run") as run:
            run.log_metric("m", 1.0)
            assert run.wait(10)
            (creation,) = proxy.seen("runs/create")
            assert 200 == proxy.forward(creation).status
            assert 2 == len(target.runs())
        delivered()
        (active,) = target.runs()
        (deleted,) = target.runs(view="DELETED_ONLY")

        assert ("FINISHED", 1.0, run.mlflow_run_id) == (
            active["status"],
            active["metrics"]["m"],
            active["id"],
        )
        assert {} == deleted["metrics"]

    def test_duplicate_in_time(self, proxy: Proxy, target: Target) -> None:
        """Where two runs of one uid are found, one is used and the other deleted."""
        proxy.fail("runs/create", LOST, times=1)
        proxy.fail("runs/search", Answer(503, b"{}"))
        target.log_to(proxy.url)
        double(1)
        until(lambda: proxy.seen("runs/search"))
        proxy.forward(proxy.seen("runs/create")[0])
        proxy.heal()
        delivered()

        assert [2.0] == target.outputs()

    def test_deleted_by_a_user(self, proxy: Proxy, target: Target) -> None:
        """
        A run that somebody deleted on the server before it was complete is not created again: its records
        are dead letters that say so.
        """
        proxy.fail("runs/create", LOST, times=1)
        proxy.fail("runs/search", Answer(503, b"{}"))
        target.log_to(proxy.url)
        double(1)
        until(lambda: proxy.seen("runs/search"))
        (run,) = target.runs()
        target.server.rest("runs/delete", {"run_id": run["id"]})
        proxy.heal()
        report = mltrace.flush(60)

        assert (0, 0) == (report.delivered, report.pending)
        assert report.dead > 0
        assert [] == target.runs()
        assert "deleted on the server" in dead_letters()[0]["reason"]

    def test_uids_are_tags_of_the_creation(self, proxy: Proxy, target: Target) -> None:
        """The uid by which a run is found travels with its creation, not after it."""
        target.log_to(proxy.url)
        with mltrace.track_run("run") as run:
            pass
        delivered()
        (creation,) = proxy.seen("runs/create")

        assert {"key": "mltrace.uid", "value": run.id} in json.loads(creation.body)["tags"]


class TestBatches:
    """Params, metrics and tags on their way."""

    def test_split(self, proxy: Proxy, target: Target) -> None:
        """
        More than MLflow takes at once goes in several requests, none beyond its limits, and all of it
        arrives.
        """
        target.log_to(proxy.url)
        with mltrace.track_run("run") as run:
            run.log_metrics({f"m{number}": float(number) for number in range(2500)})
            run.log_params({f"p{number}": number for number in range(250)})
            run.set_tags({f"t{number}": number for number in range(250)})
        delivered()
        (found,) = target.runs()
        bodies = [json.loads(request.body) for request in proxy.seen("log-batch")]
        sizes = [
            (len(body.get("metrics", ())), len(body.get("params", ())), len(body.get("tags", ())))
            for body in bodies
        ]

        assert all(
            metrics <= 1000 and params <= 100 and tags <= 100 and metrics + params + tags <= 1000
            for metrics, params, tags in sizes
        )
        assert {f"m{number}": float(number) for number in range(2500)}.items() <= found["metrics"].items()
        assert {f"p{number}": str(number) for number in range(250)} == found["params"]
        assert {f"t{number}": str(number) for number in range(250)}.items() <= found["tags"].items()

    def test_bytes(self, proxy: Proxy, target: Target) -> None:
        """No request is larger than the megabyte that MLflow documents, in whatever script its values are."""
        target.log_to(proxy.url)
        with mltrace.track_run("run") as run:
            run.set_tags({f"t{number}": "\U0001f600" * 4000 for number in range(90)})
            run.log_params({f"p{number}": "x" * 6000 for number in range(90)})
        delivered()
        (found,) = target.runs()

        assert max(len(request.body) for request in proxy.requests) <= 1_000_000
        assert 90 + 90 == len(found["params"]) + sum(
            key.startswith("t") and key[1:].isdigit() for key in found["tags"]
        )

    def test_many_points(self, target: Target) -> None:
        """A long series arrives point by point: none is lost, none twice, equal ones included."""
        target.log_to()
        with mltrace.track_run("training") as run:
            for step in range(1500):
                run.log_metric("loss", 1.0, step=step % 500)
        delivered()
        (found,) = target.runs()
        steps = Counter(point["step"] for point in target.server.metric_history(found["id"], "loss"))

        assert dict.fromkeys(range(500), 3) == steps

    def test_last_tag(self, target: Target) -> None:
        """Of a tag that is set many times the last value stays."""
        target.log_to()
        with mltrace.track_run("run") as run:
            for number in range(300):
                run.set_tag("t", number)
        delivered()

        assert ["299"] == [found["tags"]["t"] for found in target.runs()]

    @pytest.mark.parametrize(
        "poison",
        [
            {"params": {"a//b": "1"}},
            {"tags": {"t" * 251: "1"}},
            {"metrics": (Metric("m//n", 1.0, 1),)},
            {"metrics": (Metric("m", 1.0, -1),)},
        ],
        ids=["key", "long key", "metric key", "time"],
    )
    def test_poison(self, target: Target, said: list[str], poison: dict[str, Any]) -> None:
        """
        A record that the server refuses for good goes to the dead letters, with the reason, and is counted;
        all the rest of its run arrives.
        """
        backend = target.log_to()
        uid = new_id()
        backend.emit(started(uid, experiment=target.experiment, params={"first": "1"}))
        for number in range(20):
            backend.emit(logged(uid, f"m{number}", float(number)))
        backend.emit(logged(uid, **{"metrics": (), **poison}))
        backend.emit(logged(uid, "last", tags={"after": "1"}))
        backend.emit(ended(uid))
        report = delivered()
        (found,) = target.runs()
        (letter,) = dead_letters()

        assert FlushReport(delivered=23, pending=0, dropped=0, dead=1) == report
        assert ({"first": "1"}, "1", "FINISHED") == (found["params"], found["tags"]["after"], found["status"])
        assert {**{f"m{number}": float(number) for number in range(20)}, "last": 1.0} == found["metrics"]
        assert (found["id"], uid) == (letter["run_id"], letter["run"])
        assert next(iter(poison)) == letter["what"].split()[0] + "s"
        assert "INVALID_PARAMETER_VALUE" in letter["reason"]
        assert 1 == sum("refused a record for good" in message for message in said)

    def test_run_that_is_refused(self, proxy: Proxy, target: Target) -> None:
        """
        A run that the server will not create is dead with all its records; its child stands on the server,
        and other runs are delivered.
        """
        backend = target.log_to(proxy.url)
        bad, child = new_id(), new_id()
        proxy.fail(
            "runs/create", Answer(400, b'{"error_code":"INVALID_PARAMETER_VALUE","message":"no"}'), times=1
        )
        backend.emit(started(bad, name="bad", experiment=target.experiment))
        backend.emit(logged(bad))
        backend.emit(ended(bad))
        until(lambda: mltrace.status().dead)
        backend.emit(started(child, name="child", experiment=target.experiment))
        backend.emit(ended(child))
        report = delivered()

        assert FlushReport(delivered=2, pending=0, dropped=0, dead=3) == report
        assert ["child"] == [run["name"] for run in target.runs()]

    @pytest.mark.usefixtures("brisk")
    def test_artifact_that_the_server_cannot_take(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        An artifact on which the server fails again and again, while other runs succeed, goes to the dead
        letters; its run ends all the same.
        """
        monkeypatch.setitem(outbox._PATIENCE, Failed, 2)
        backend = target.log_to()
        uid = new_id()
        backend.emit(started(uid, name="conflict", experiment=target.experiment))
        for path in ("data", "data/part.txt"):  # MLflow answers 500 to a file below a file
            backend.emit(ArtifactLogged(run=uid, time=1, path=path, text=path, size=4))
        backend.emit(ended(uid))

        def ends() -> bool:
            double(1)
            mltrace.flush(0.3)
            return target.status("conflict") == "FINISHED"

        until(ends)
        (conflict,) = [run for run in target.runs() if run["name"] == "conflict"]
        assert ["data"] == target.server.artifacts(conflict["id"])
        assert 1 == mltrace.status().dead

    @pytest.mark.usefixtures("brisk")
    def test_one_letter_per_refusal(self, proxy: Proxy, target: Target) -> None:
        """What was refused is one dead letter, also where the job that it belongs to has to be repeated."""
        proxy.fail("bad.txt", Answer(400, b'{"error_code":"INVALID_PARAMETER_VALUE","message":"no"}'))
        proxy.fail("runs/update", Answer(500, b"<html>oops</html>", "text/html"), times=2)
        backend = target.log_to(proxy.url)
        uid = new_id()
        backend.emit(started(uid, experiment=target.experiment))
        backend.emit(ArtifactLogged(run=uid, time=1, path="bad.txt", text="text", size=4))
        backend.emit(ended(uid))
        report = delivered()

        assert FlushReport(delivered=2, pending=0, dropped=0, dead=1) == report
        assert ["artifact 'bad.txt'"] == [letter["what"] for letter in dead_letters()]

    def test_deleted_run(self, target: Target) -> None:
        """
        What is logged to a run after somebody deleted it on the server goes to the dead letters; the run is
        not created anew.
        """
        target.log_to()
        with mltrace.track_run("run") as run:
            assert run.wait(10)
            target.server.rest("runs/delete", {"run_id": run.mlflow_run_id})
            run.log_metric("m", 1.0)
        report = delivered()

        assert report.dead >= 1
        assert [] == target.runs()
        assert {run.mlflow_run_id} == {letter["run_id"] for letter in dead_letters()}


class TestExperiments:
    """Where runs go."""

    def test_made_on_demand(self, target: Target) -> None:
        """
        Experiments that do not exist are created, one per name, and children are in their parent's unless
        they name one.
        """
        target.log_to()
        with mltrace.track_run("a"):
            with mltrace.track_run("b"):
                pass
            with mltrace.track_run("c", experiment_name=f"{target.experiment}, other"):
                pass
        delivered()
        here, there = target.runs(), target.server.runs(f"{target.experiment}, other")

        (root,) = [run for run in here if run["name"] == "a"]
        assert (["a", "b"], ["c"]) == (sorted(run["name"] for run in here), [run["name"] for run in there])
        assert root["id"] == there[0]["tags"]["mlflow.parentRunId"]

    def test_awkward_name(self, target: Target) -> None:
        """An experiment's name may hold what an address or a filter could misread."""
        name = "naïve / 'quoted' & \"so\"? #1 100% `a=b` +c"
        target.log_to(experiment_name=name)
        double(1)
        delivered()

        assert 1 == len(target.server.runs(name))

    def test_refused_name(self, target: Target) -> None:
        """
        A name that the server refuses for an experiment is said to be the reason, nothing is silently lost,
        and other experiments go on.
        """
        backend = target.log_to()
        backend.emit(started(uid := new_id(), experiment="e" * 600))  # the options' are shortened
        backend.emit(ended(uid))
        double(1)
        until(lambda: target.runs())
        report = mltrace.flush(0.5)
        reasons = [str(mltrace.status().last_error), *(letter["reason"] for letter in dead_letters())]

        assert 0 < report.pending + report.dead
        assert any("INVALID_PARAMETER_VALUE" in reason for reason in reasons), reasons

    def test_large_backlog_of_a_deleted_one(self, target: Target) -> None:
        """However much waits for a deleted target.experiment, runs of other experiments are delivered."""
        target.log_to()
        target.server.rest("experiments/create", {"name": target.experiment})
        target.server.rest(
            "experiments/delete", {"experiment_id": target.server.experiments()[target.experiment]}
        )
        with mltrace.track_run("parked") as run:
            for step in range(sender.READ_AHEAD + 500):
                run.log_metric("loss", 1.0, step=step)
        until(lambda: "restore it" in str(mltrace.status().last_error))
        with mltrace.track_run("elsewhere", experiment_name=f"{target.experiment}, other") as other:
            pass

        assert other.wait(3)

    @pytest.mark.parametrize("known", [False, True], ids=["before the program", "while it runs"])
    def test_deleted(self, target: Target, said: list[str], known: bool) -> None:
        """
        Runs for an experiment that was deleted wait, with a warning that says what to do, until it is
        restored; other experiments go on meanwhile.
        """
        target.log_to()
        if known:
            double(0)
            delivered()
        else:
            target.server.rest("experiments/create", {"name": target.experiment})
        identity = target.server.experiments()[target.experiment]
        target.server.rest("experiments/delete", {"experiment_id": identity})
        double(1)
        with mltrace.track_run("elsewhere", experiment_name=f"{target.experiment}, other"):
            pass
        report = mltrace.flush(0.3)
        until(lambda: target.server.runs(f"{target.experiment}, other"))
        status = mltrace.status()

        assert (True, 0) == (report.pending > 0, report.dead)
        assert "is deleted on the server; restore it" in str(status.last_error)
        assert 1 == sum("is deleted on the server; restore it" in message for message in said)
        target.server.rest("experiments/restore", {"experiment_id": identity})
        delivered()
        assert 2.0 in target.outputs()


class TestWaiting:
    """What those who wait are told, and for how long they wait."""

    def test_metric_of_a_running_run(self, target: Target) -> None:
        """A metric logged in a run that goes on is on the server without a flush, and before the next one."""
        target.log_to()
        with mltrace.track_run("training") as run:
            for step in range(3):
                run.log_metric("loss", 1.0 / (step + 1), step=step)
                expected = 1.0 / (step + 1)
                until(
                    lambda expected=expected: (
                        [expected] == [found["metrics"].get("loss") for found in target.runs()]
                    )
                )

        delivered()

    def test_run_wait(self, proxy: Proxy, target: Target) -> None:
        """
        `Run.wait` says whether what was logged so far is on the server, and `mlflow_run_id` is the run's id
        there, None before.
        """
        proxy.refuse()
        target.log_to(proxy.url)
        with mltrace.track_run("run") as run:
            run.log_metric("m", 1.0)
            assert (None, False) == (run.mlflow_run_id, run.wait(0.1))
            proxy.accept()
            assert run.wait(10)
            (found,) = target.runs()
            assert (found["id"], {"m": 1.0}, "RUNNING") == (
                run.mlflow_run_id,
                found["metrics"],
                found["status"],
            )
        assert run.wait(10)

        assert [(run.mlflow_run_id, "FINISHED")] == [
            (found["id"], found["status"]) for found in target.runs()
        ]

    def test_wait_for_one_of_many(self, proxy: Proxy, target: Target) -> None:
        """Waiting for one run does not wait for another that cannot be delivered."""
        proxy.fail("stubborn", Answer(500, b"<html>oops</html>", "text/html"))
        target.log_to(proxy.url)
        with mltrace.track_run("stuck") as stuck:
            stuck.log_text("text", "stubborn.txt")
        with mltrace.track_run("fine") as fine:
            pass

        assert (True, False) == (fine.wait(10), stuck.wait(0.1))

    def test_flush_counts(self, proxy: Proxy, target: Target) -> None:
        """A flush returns what became of the records of this process."""
        backend = target.log_to(proxy.url)
        assert FlushReport(0, 0, 0, 0) == mltrace.flush(1)
        backend.emit(started(first := new_id()))
        assert FlushReport(1, 0, 0, 0) == mltrace.flush(60)
        proxy.refuse()
        backend.emit(ended(first))
        assert FlushReport(1, 1, 0, 0) == mltrace.flush(0.1)
        proxy.accept()
        assert FlushReport(2, 0, 0, 0) == mltrace.flush(60)

    @pytest.mark.parametrize("hangs", ["at once", "in the middle"])
    def test_hanging_server(self, proxy: Proxy, target: Target, hangs: str) -> None:
        """
        While the server does not answer, calls, flush, wait, status and shutdown keep their time, and
        nothing is lost or sent twice.
        """
        target.log_to(proxy.url)
        if hangs == "in the middle":
            double(0)
            delivered()
        proxy.fail("runs/create" if hangs == "in the middle" else "", HUNG)
        begun = time.monotonic()
        assert [0, 2, 4, 6, 8] == [double(x) for x in range(5)]
        assert time.monotonic() - begun < 10.0
        assert mltrace.flush(0.3).pending >= 5
        assert mltrace.status().pending >= 5
        assert mltrace.shutdown(0.3).pending >= 5
        assert time.monotonic() - begun < 20.0
        proxy.heal()
        target.log_to(proxy.url)
        double(5)
        delivered()

        expected = [0.0, 2.0, 4.0, 6.0, 8.0, 10.0] + ([0.0] if hangs == "in the middle" else [])
        assert sorted(expected) == target.outputs("ALL")

    def test_answer_timeout(self, proxy: Proxy, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A request that is never answered is given up and made again, also where the answer begins and does
        not end.
        """
        monkeypatch.setattr(transport, "_READ_SECONDS", 0.3)
        target.log_to(proxy.url)
        proxy.fail("get-by-name", HUNG, times=1)
        proxy.fail("runs/log-batch", STALLED, times=1)
        double(1)
        delivered()

        assert [2.0] == target.outputs("ALL")

    def test_shutdown_with_nothing_to_do(self, target: Target) -> None:
        """A shutdown with nothing pending takes no time, leaves no directory and no thread."""
        target.log_to()
        double(1)
        delivered()
        begun = time.monotonic()
        report = mltrace.shutdown(120)

        assert time.monotonic() - begun < 60.0
        assert (0, []) == (report.pending, writers())
        until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("mltrace")])

    def test_after_shutdown(self, target: Target) -> None:
        """The next record after a shutdown starts anew."""
        target.log_to()
        double(1)
        mltrace.shutdown(10)
        double(2)
        delivered()

        assert [2.0, 4.0] == target.outputs()

    def test_shutdown_in_a_run(self, target: Target) -> None:
        """A run that goes on over a shutdown ends as it ended, with what was logged to it afterwards."""
        target.log_to()
        with mltrace.track_run("run") as run:
            run.log_metric("before", 1.0)
            mltrace.shutdown(10)
            double(1)
            run.log_metric("after", 2.0)
        mltrace.shutdown(10)
        double(2)
        mltrace.flush(3)
        found = (
            target.status("run"),
            next(found["metrics"] for found in target.runs() if found["name"] == "run"),
        )

        assert "FINISHED" == found[0]
        assert {"before": 1.0, "after": 2.0}.items() <= found[1].items()

    def test_reconfigured(self, proxy: Proxy, target: Target) -> None:
        """A run that began before `configure` chose another address goes on at the one where it began."""
        target.log_to(proxy.url)
        with mltrace.track_run("run") as run:
            target.log_to(experiment_name=f"{target.experiment}, second")
            double(1)
            run.log_metric("m", 1.0)
        delivered()

        assert [("run", 1.0)] == [
            (found["name"], found["metrics"]["m"]) for found in target.runs() if found["name"] == "run"
        ]
        assert proxy.seen("runs/update")


class TestAddresses:
    """How the server is reached."""

    def test_prefix(self, target: Target) -> None:
        """A server below a path is reached below that path, artifacts included."""
        with Proxy(target.server.port, prefix="/team/mlflow") as proxy:
            target.log_to(proxy.url + "/")
            with mltrace.track_run("run") as run:
                run.log_text("text", "note.txt")
            delivered()

        (found,) = target.runs()
        assert ["note.txt"] == target.server.artifacts(found["id"])
        assert all(request.path.startswith("/team/mlflow/api/") for request in proxy.requests)

    @pytest.mark.parametrize("bypassed", [False, True])
    def test_forward_proxy(self, target: Target, monkeypatch: pytest.MonkeyPatch, bypassed: bool) -> None:
        """A proxy that the environment names is used, except for hosts that it exempts."""
        address = target.url if bypassed else "http://mlflow.invalid:5000"
        with Proxy(target.server.port, prefix="http://mlflow.invalid:5000") as proxy:
            monkeypatch.setenv("http_proxy", proxy.url.removesuffix("http://mlflow.invalid:5000"))
            monkeypatch.setenv("no_proxy", "127.0.0.1" if bypassed else "")
            target.log_to(address)
            double(1)
            delivered()

        assert 1 == len(target.runs())
        assert bypassed == (not proxy.requests)

    @pytest.mark.parametrize("trust", ["none", "certificate", "insecure"])
    def test_https(self, target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trust: str) -> None:
        """
        A server whose certificate nobody vouches for gets nothing, unless MLflow's variables name the
        certificate or waive the check.
        """
        certificate = _self_signed(tmp_path / "server.pem")
        if trust == "certificate":
            monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        elif trust == "insecure":
            monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        with Proxy(target.server.port, certificate=certificate) as proxy:
            target.log_to(proxy.url)
            double(1)
            if trust == "none":
                until(lambda: "CERTIFICATE_VERIFY_FAILED" in str(mltrace.status().last_error))
                assert mltrace.flush(0.3).pending > 0
            else:
                delivered()

        assert (0 if trust == "none" else 1) == len(target.runs())

    def test_idle_connection(self, proxy: Proxy, target: Target, said: list[str]) -> None:
        """
        A connection that the server closed while it was idle is replaced without ado: nothing is looked up,
        warned of or sent twice.
        """
        target.log_to(proxy.url)
        double(1)
        delivered()
        proxy.refuse()
        proxy.accept()
        double(2)
        delivered()

        assert ([], []) == (proxy.seen("runs/search"), list(said))
        assert 2 == len(proxy.seen("runs/create"))

    @pytest.mark.parametrize("way", ["environment", "address", "file", "token"])
    def test_credentials(
        self,
        proxy: Proxy,
        target: Target,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        way: str,
    ) -> None:
        """
        Credentials reach the server with every request, wherever MLflow would find them, and are in no file
        of the spool and in no message.
        """
        caplog.set_level(logging.DEBUG)
        url = proxy.url
        if way == "environment":
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-7f3a")
        elif way == "address":
            url = url.replace("http://", "http://ada:canary-7f3a@")
        elif way == "file":
            (Path.home() / ".mlflow").mkdir()
            (Path.home() / ".mlflow/credentials").write_text(
                "[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = canary-7f3a\n"
            )
        else:
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary-7f3a")
        proxy.fail("runs/create", Answer(401, b"no canary-7f3a here", "text/plain"), times=1)
        target.log_to(url)
        double(1)
        report = mltrace.flush(5)
        files = on_disk(spool())
        delivered()
        expected = (
            "Bearer canary-7f3a"
            if way == "token"
            else "Basic " + base64.b64encode(b"ada:canary-7f3a").decode()
        )

        assert {expected} == {request.headers.get("Authorization") for request in proxy.requests}
        assert report.pending > 0
        assert b"double" in files
        assert b"canary" not in files
        assert "canary" not in caplog.text + repr(mltrace.status()) + "".join(map(str, spool().rglob("*")))

    def test_credentials_that_change(
        self, proxy: Proxy, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Credentials are read again for each new connection: a new password needs no new program."""
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "old")
        target.log_to(proxy.url)
        proxy.fail("", Answer(401, b"", "text/plain"), times=1)
        double(1)
        assert mltrace.flush(5).pending > 0
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "new")
        delivered()

        assert ["Bearer old", "Bearer new"] == list(
            dict.fromkeys(request.headers["Authorization"] for request in proxy.requests)
        )

    def test_adopted_with_own_credentials(
        self, proxy: Proxy, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What a program with a password in its address left is delivered by one that has it from the
        environment: the spool is the same.
        """
        proxy.refuse()
        run_python(
            PROGRAM + "double(1)\n",
            proxy.url.replace("http://", "http://ada:canary-7f3a@"),
            target.experiment,
            MLTRACE_EXIT_TIMEOUT="0",
        )
        proxy.accept()
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "mine")
        target.log_to(proxy.url)
        double(2)
        delivered()

        assert [2.0, 4.0] == target.outputs()
        assert {"Bearer mine"} == {request.headers.get("Authorization") for request in proxy.requests}

    def test_redirects_are_not_followed(
        self, proxy: Proxy, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A redirect takes neither records nor credentials to another address."""
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
        with Proxy(target.server.port) as other:
            proxy.fail(
                "", Answer(307, b"", "text/html", (("Location", f"{other.url}/api/2.0/mlflow/runs/create"),))
            )
            target.log_to(proxy.url)
            double(1)
            report = mltrace.flush(5)

        assert (True, []) == (report.pending > 0, other.requests)

    def test_probe(self, proxy: Proxy, target: Target) -> None:
        """`init_mlflow` says in words whether the server can be used, with the remedy where it cannot."""
        found = mltrace.init_mlflow(tracking_uri=proxy.url)
        assert (True, "SqlStore") == (found.ok, found.store)
        assert f"MLflow {found.server_version} at {proxy.url} answers" in found.message
        proxy.fail("", Answer(401, b"", "text/plain"))
        refused = mltrace.init_mlflow(tracking_uri=proxy.url)
        assert (False, True) == (refused.ok, "MLFLOW_TRACKING_USERNAME" in refused.message)
        proxy.refuse()
        away = mltrace.init_mlflow(tracking_uri=proxy.url)

        assert (False, True) == (away.ok, "cannot be reached" in away.message)


class TestSpool:
    """What others left in the spool."""

    @pytest.mark.parametrize(
        "damage",
        [
            "segment is a directory",
            "segment is a link",
            "acks is a directory",
            "owner is damaged",
            "blob is missing",
        ],
    )
    def test_damaged_directory_stops_nobody(
        self, proxy: Proxy, target: Target, tmp_path: Path, damage: str
    ) -> None:
        """
        A dead writer's directory that cannot be read does not keep this process's own records from being
        delivered.
        """
        proxy.refuse()
        script = (
            PROGRAM + "with mltrace.track_run('left') as run:\n    run.log_text('x' * 100_000, 'large.txt')\n"
        )
        run_python(script, proxy.url, target.experiment, MLTRACE_EXIT_TIMEOUT="0")
        (directory,) = writers()
        (segment,) = directory.glob("*.seg")
        if damage == "blob is missing":
            next(directory.glob("blobs/*")).unlink()
        elif damage == "owner is damaged":
            (directory / "owner.json").write_text("{")
        else:
            victim = directory / "acks" if damage == "acks is a directory" else segment
            victim.unlink(missing_ok=True)
            victim.symlink_to(tmp_path / "elsewhere") if damage == "segment is a link" else victim.mkdir()
        proxy.accept()
        target.log_to(proxy.url)
        double(1)
        mltrace.flush(2)

        assert "FINISHED" == target.status("double")

    def test_missing_blob_is_a_dead_letter(self, proxy: Proxy, target: Target) -> None:
        """An artifact whose bytes are gone from the spool is a dead letter; the rest of its run arrives."""
        proxy.refuse()
        target.log_to(proxy.url)
        with mltrace.track_run("run") as run:
            run.log_text("x" * 100_000, "large.txt")
            run.log_text("small", "small.txt")
        (blob,) = spool().glob("*/*/blobs/*")
        blob.unlink()
        proxy.accept()
        report = delivered()
        (found,) = target.runs()

        assert (1, "FINISHED", ["small.txt"]) == (
            report.dead,
            found["status"],
            target.server.artifacts(found["id"]),
        )

    def test_unwritable_spool_delivers_from_memory(self, target: Target, said: list[str]) -> None:
        """Where the spool cannot be written, all records are delivered from memory, with one warning."""
        spool().write_text("in the way")
        target.log_to()
        for x in range(5):
            double(x)
        delivered()

        assert [0.0, 2.0, 4.0, 6.0, 8.0] == target.outputs()
        assert mltrace.status().degraded
        assert [True] == ["cannot write its spool" in message for message in said], said

    def test_spool_is_emptied(self, target: Target) -> None:
        """Bytes of records and artifacts that are delivered are free again while the process goes on."""
        backend = target.log_to(spool_limit_bytes=192 << 10)
        for number in range(45):
            with mltrace.track_run("run") as run:
                run.log_param("p", "x" * 6000)
                if number % 15 == 0:
                    run.log_text("y" * 70_000, "large.txt")
                    delivered()
        delivered()
        status = backend.status()

        assert ({}, 0) == (status.dropped, status.dead)
        assert status.bytes < 48 << 10
        assert [] == list(spool().glob("*/*/blobs/*"))

    def test_artifact_beyond_the_limit(self, target: Target) -> None:
        """
        An artifact that is larger than the whole spool may be is dropped and counted, and everything else
        goes on.
        """
        backend = target.log_to(spool_limit_bytes=64 << 10)
        with mltrace.track_run("run") as run:
            run.log_text("y" * 100_000, "large.txt")
            run.log_metric("m", 1.0)
        double(1)
        delivered()

        assert 1 == sum(backend.status().dropped.values())
        assert {"run", "double"} == target.by_name().keys()
        assert 1.0 == target.by_name()["run"]["metrics"]["m"]

    def test_deleted_under_a_running_program(self, target: Target) -> None:
        """
        A spool that is deleted while a program logs costs it neither an exception nor what it logs from
        then on.
        """
        target.log_to(spool_limit_bytes=64 << 10)
        double(0)
        delivered()
        shutil.rmtree(spool())
        for x in range(1, 30):
            double(x)
        delivered()

        assert [2.0 * x for x in range(30)] == target.outputs()

    def test_read_ahead_is_bounded(self, proxy: Proxy, target: Target) -> None:
        """While the server is away the backlog stays on disk: only a bounded part of it is held in memory."""
        proxy.refuse()
        backend = target.log_to(proxy.url)
        for _ in range(5):
            backend.emit(started(uid := new_id()))
            for step in range(2000):
                backend.emit(logged(uid, str(step % 10)))
        until(lambda: mltrace.status().state == "unreachable")
        mltrace.flush(0.5)
        assert isinstance(backend, Journal)
        assert isinstance(backend._delivery, sender.Sender)
        held = sum(len(source.outstanding) for source in backend._delivery._sources)

        assert 5 * 2001 == mltrace.status().pending
        assert held < sender.READ_AHEAD + 500

    def test_two_processes_at_once(self, target: Target) -> None:
        """A process leaves the directory of one that lives alone, and each delivers its own."""
        target.log_to()
        script = PROGRAM + "double(1)\nmltrace.flush(60)\nsay('ready')\nsys.stdin.readline()\ndouble(2)\n"
        with python(script, target.url, target.experiment) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert "ready\n" == process.stdout.readline()
            double(10)
            delivered()
            assert 2 == len(writers())
            process.stdin.write("\n")
            process.stdin.flush()
            process.wait(15)
        delivered()

        assert [2.0, 4.0, 20.0] == target.outputs("ALL")


def test_pause_ends_with_the_back_off(tmp_path: Path) -> None:
    """The sender does not sleep on where a run may be sent now, also when that became so a moment ago."""
    waiting = sender.Sender(
        DestinationDirectory(tmp_path / "spool", "http://nowhere.invalid"), lambda: connect("")
    )
    now = time.monotonic()
    waiting._next_adoption = now + 5.0
    waiting._ready.append(outbox.Box(new_id()))
    waiting._breaker.not_before = now - 0.001

    assert waiting._doze(now) < 0.1


def test_rejection_of_a_uid_that_is_none(target: Target) -> None:
    """A uid that could escape from a search's filter is never put into one."""
    destination = connect(target.url)
    with pytest.raises(Rejected):
        destination.find_runs("0", "x' OR '1'='1")
    destination.close()


def _self_signed(path: Path) -> Path:
    """Make a certificate for 127.0.0.1 that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(encoding))
    return path
