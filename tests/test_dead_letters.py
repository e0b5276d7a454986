"""Dead letters: kept once, shown, sent again, given up; and the counts add up all the while."""

from __future__ import annotations

import json

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mltrace

from mltrace import _config
from mltrace._clock import new_id
from mltrace._records import ArtifactLogged, RunStarted
from mltrace._spool import DestinationDirectory
from mltrace.backends.journal import Journal
from mltrace.delivery.letters import post, read_office, write_letter
from tests.harness import Answer, Proxy, ended, logged, started
from tests.server import MlflowServer
from tests.test_cli import as_json, mltrace_command


REFUSED = Answer(400, b'{"error_code":"INVALID_PARAMETER_VALUE","message":"not today"}')


@pytest.fixture(name="proxy")
def _proxy(server: MlflowServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture(name="experiment")
def _experiment(request: pytest.FixtureRequest) -> str:
    """An experiment of this test's own."""
    return str(request.node.nodeid.rpartition("::")[2])


@pytest.fixture(name="journal")
def _journal(proxy: Proxy, experiment: str, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """Log to the server through the proxy, in this process and in the command line's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    mltrace.configure(experiment_name=experiment, strict=True)
    backend = _config.active().backend
    assert isinstance(backend, Journal)
    return backend


def is_balanced(report: dict[str, Any]) -> bool:
    """Say whether the counts of a destination add up."""
    settled = report["delivered"] + report["dead"] + sum(report["dropped"].values())
    return bool(report["accepted"] == settled + report["pending"])


def refuse_one(journal: Journal, proxy: Proxy, experiment: str, path: str, content: bytes = b"") -> str:
    """Log a run whose one artifact is refused; return the run's uid."""
    proxy.fail(path, REFUSED)
    uid = new_id()
    journal.emit(started(uid, experiment=experiment))
    journal.emit(logged(uid, "m", 1.0))
    if content:
        blob = journal.store(content)
        assert blob is not None
        journal.emit(ArtifactLogged(run=uid, time=1, path=path, blob=blob.name, size=blob.size))
    else:
        journal.emit(ArtifactLogged(run=uid, time=1, path=path, text="small", size=5))
    journal.emit(ended(uid))
    assert 0 == mltrace.flush(60).pending
    mltrace.shutdown(5)
    return uid


class TestCommands:
    """`mltrace dead`."""

    def test_nothing(self, journal: Journal) -> None:
        """Without dead letters it says so."""
        assert "There are no dead letters.\n" == mltrace_command("dead", "list").stdout
        assert [] == as_json("dead", "list")

    @pytest.mark.parametrize("content", [b"", bytes(100_000)], ids=["text", "blob"])
    def test_requeue(
        self, journal: Journal, proxy: Proxy, experiment: str, server: MlflowServer, content: bytes
    ) -> None:
        """What was refused is listed with the reason; requeued it is delivered, once, and counted once."""
        uid = refuse_one(journal, proxy, experiment, "report.bin", content)
        (letter,) = as_json("dead", "list")
        assert (uid, "artifact 'report.bin'") == (letter["run"], letter["what"])
        assert "not today" in mltrace_command("dead", "show", letter["id"][:6]).stdout
        (before,) = as_json("status")
        assert (1, 3, True) == (before["dead"], before["delivered"], is_balanced(before))

        mltrace_command("dead", "requeue", letter["id"])
        (queued,) = as_json("status")
        assert (0, 1, True) == (queued["dead"], queued["pending"], is_balanced(queued))
        proxy.heal()
        mltrace_command("sync")
        (after,) = as_json("status")
        (run,) = server.runs(experiment)

        assert (0, 0, 4, 4, True) == (
            after["dead"],
            after["pending"],
            after["delivered"],
            after["accepted"],
            is_balanced(after),
        )
        assert ["report.bin"] == server.artifacts(run["id"])
        assert [] == as_json("dead", "list")
        assert [] == list(Path(before["directory"]).glob("dead/*"))

    def test_requeue_a_whole_run(
        self, journal: Journal, proxy: Proxy, experiment: str, server: MlflowServer
    ) -> None:
        """A run whose creation was refused is several letters; requeued together they are the run."""
        proxy.fail("runs/create", REFUSED)
        with mltrace.track_run("refused", params={"p": 1}) as run:
            run.log_metric("m", 2.0)
        mltrace.flush(60)
        mltrace.shutdown(5)
        assert [] == server.runs(experiment)
        proxy.heal()
        mltrace_command("dead", "requeue", "--all")
        mltrace_command("sync")
        (found,) = server.runs(experiment)

        assert ("refused", "FINISHED", {"p": "1"}, 2.0) == (
            found["name"],
            found["status"],
            found["params"],
            found["metrics"]["m"],
        )

    def test_refused_again(self, journal: Journal, proxy: Proxy, experiment: str) -> None:
        """What is refused again after it was requeued is a dead letter again, and only one."""
        refuse_one(journal, proxy, experiment, "no.txt")
        mltrace_command("dead", "requeue", "--all")
        mltrace_command("sync")
        (report,) = as_json("status")

        assert 1 == len(as_json("dead", "list"))
        assert (1, 4, True) == (report["dead"], report["accepted"], is_balanced(report))

    def test_discard(self, journal: Journal, proxy: Proxy, experiment: str, tmp_path: Path) -> None:
        """A discarded letter is counted as dropped; an export made before keeps what it said."""
        refuse_one(journal, proxy, experiment, "no.txt")
        mltrace_command("dead", "export", "--output", str(tmp_path / "letters.jsonl"))
        assert (
            "cannot be written"
            in mltrace_command("dead", "export", "--output", str(tmp_path / "letters.jsonl"), code=1).stderr
        )
        assert {"discarded": 1} == as_json("dead", "discard", "--all")
        (report,) = as_json("status")
        (exported,) = (tmp_path / "letters.jsonl").read_text().splitlines()

        assert "small" == json.loads(exported)["record"]["text"]
        assert ({"discarded": 1}, 0, True) == (report["dropped"], report["dead"], is_balanced(report))

    def test_unknown_id(self, journal: Journal) -> None:
        """An id that nobody has is refused by name; no id at all is a mistake in the command line."""
        assert "'beef'" in mltrace_command("dead", "requeue", "beef", code=1).stderr
        assert "--all" in mltrace_command("dead", "discard", code=2).stderr


class TestLog:
    """The file."""

    def test_written_twice_is_one(self, tmp_path: Path) -> None:
        """The same refusal written by two processes, one of which died before it acknowledged, is one."""
        directory = DestinationDirectory(tmp_path, "http://127.0.0.1:9")
        directory.make()
        record = RunStarted(run="a" * 32, time=1, name="run", experiment="Default")
        for _ in range(2):
            post(directory, [write_letter("start", "no", record, writer="w", seq=7)], None)

        assert 1 == len(read_office(directory).waiting)

    def test_torn_line(self, tmp_path: Path) -> None:
        """A letter that a full disk cut off does not take the next one with it."""
        directory = DestinationDirectory(tmp_path, "http://127.0.0.1:9")
        directory.make()
        record = RunStarted(run="a" * 32, time=1, name="run", experiment="Default")
        post(directory, [write_letter("first", "no", record, writer="w", seq=1)], None)
        log = directory.dead_letters
        log.write_bytes(log.read_bytes()[:-20])
        post(directory, [write_letter("second", "no", record, writer="w", seq=2)], None)

        assert ["second"] == [letter.what for letter in read_office(directory).waiting.values()]
