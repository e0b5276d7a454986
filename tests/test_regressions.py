"""Delivery where several things go wrong at once: what was found once and is not to come back."""

from __future__ import annotations

import errno
import os
import threading

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mltrace

from mltrace import _config
from mltrace._clock import new_id
from mltrace._spool import DestinationDirectory
from mltrace._survey import report
from mltrace.backends.journal import Journal
from mltrace.delivery import acks, breaker, courier, sender, source
from mltrace.delivery.acks import AckLog, Creating, Done
from mltrace.delivery.letters import discard, read_office
from mltrace.delivery.outbox import Box
from mltrace.delivery.source import Source
from tests.harness import CUT, HUNG, Answer, Proxy, ended, logged, python, run_python, started, until
from tests.server import MlflowServer


@pytest.fixture(name="experiment")
def _experiment(request: pytest.FixtureRequest) -> str:
    """An experiment of this test's own."""
    return str(request.node.name)


def log_to(url: str, experiment: str) -> Journal:
    """Log to *url*; return the journal."""
    mltrace.configure(tracking_uri=url, experiment_name=experiment, strict=True)
    backend = _config.active().backend
    assert isinstance(backend, Journal)
    return backend


def test_logging_after_a_shutdown_in_an_open_run(server: MlflowServer, experiment: str) -> None:
    """What is logged after a shutdown to a run that is open on the server is delivered as what came before."""
    log_to(server.url, experiment)
    with mltrace.track_run("open") as run:
        run.log_metric("m", 1.0, step=1)
        assert run.wait(15)
        run.log_metric("m", 2.0, step=2)
        mltrace.shutdown(0)
        run.log_metric("m", 3.0, step=3)
    assert 0 == mltrace.flush(60).pending
    (found,) = server.runs(experiment)

    assert [1.0, 2.0, 3.0] == sorted(point["value"] for point in server.metric_history(found["id"], "m"))
    assert "FINISHED" == found["status"]


def test_counts_after_a_shutdown(server: MlflowServer, experiment: str) -> None:
    """The next directory of a process counts from one: nothing of the first is missed in it."""
    script = """
        import os, sys
        import mltrace

        mltrace.configure(tracking_uri=sys.argv[1], experiment_name=sys.argv[2])
        for step in range(5):
            mltrace.log_prediction(question="q", answer="a")
        mltrace.shutdown(30)
        mltrace.configure(tracking_uri=sys.argv[1], experiment_name=sys.argv[2])
        with mltrace.track_run("last") as run:
            run.log_metric("m", 1.0)
            os._exit(0)
    """
    run_python(script, server.url, experiment)
    directory = DestinationDirectory(Path(os.environ["MLTRACE_SPOOL_DIR"]), server.url)
    before = report(directory)
    log_to(server.url, experiment)
    with mltrace.track_run("adopts"):
        pass
    mltrace.flush(60)
    mltrace.shutdown(5)
    after = report(directory)

    assert ({}, {}) == (before.dropped, after.dropped)
    assert (after.accepted, 0) == (after.delivered, after.pending)


def test_creating_on_a_full_disk_after_a_failed_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A creation that a full disk does not take note of leaves a file that is seen to lack it."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    log = AckLog(tmp_path / "acks")
    log.write(Done("a" * 32, [1]))
    with monkeypatch.context() as patch:
        patch.setattr(acks, "os", SimpleNamespace(**{**vars(os), "write": full}))
        log.write(Done("a" * 32, [2]))
        log.write(Creating("b" * 32))
    log.close()
    again = AckLog()
    again.replay_file(tmp_path / "acks")

    assert again.damaged


def test_late_worker_leaves_the_next_owners_acknowledgements_alone(tmp_path: Path) -> None:
    """What a closed source's worker still settles is the next owner's to settle."""
    destination = DestinationDirectory(tmp_path, "http://127.0.0.1:9")
    journal = Journal(destination)
    uid = new_id()
    journal.emit(started(uid))
    source = Source(None, journal)
    records = source.read()
    source.close()
    assert source.directory is not None
    before = (source.directory.path / "acks").read_bytes()
    source.done(uid, records)

    assert before == (source.directory.path / "acks").read_bytes()


def test_deleted_experiment_of_a_parent_stops_nobody(
    server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Children of a run whose experiment is deleted, more than are read ahead, and all others are delivered."""
    monkeypatch.setattr(sender, "READ_AHEAD", 40)
    gone = f"{experiment}-gone"
    identity = server.rest("experiments/create", {"name": gone})["experiment_id"]
    server.rest("experiments/delete", {"experiment_id": identity})
    log_to(server.url, experiment)
    with mltrace.track_run("parent", experiment_name=gone):
        for _ in range(60):
            with mltrace.track_run("child", experiment_name=experiment):
                pass
    with mltrace.track_run("other"):
        pass

    def all_there() -> bool:
        names = [run["name"] for run in server.runs(experiment) if run["status"] == "FINISHED"]
        return names.count("child") == 60 and "other" in names

    until(all_there)
    server.rest("experiments/restore", {"experiment_id": identity})
    assert 0 == mltrace.flush(60).pending
    (parent,) = server.runs(gone)

    assert {parent["id"], None} == {run["tags"].get("mlflow.parentRunId") for run in server.runs(experiment)}


def test_absent_parent_of_another_process_stops_nobody(
    server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs below a parent that does not come are delivered once each, and do not hold up the others."""
    monkeypatch.setattr(sender, "READ_AHEAD", 40)
    with Proxy(server.port) as proxy:
        log_to(proxy.url, experiment)
        carrier = {"mltrace-run": new_id(), "mltrace-experiment": experiment}
        with mltrace.track_run("lender"):
            carrier = {
                key: value.replace(mltrace.current_run().id, new_id())
                for key, value in mltrace.carrier().items()
            }
        with mltrace.attach(carrier):
            for _ in range(60):
                with mltrace.track_run("child"):
                    pass
        with mltrace.track_run("other"):
            pass
        until(lambda: 62 == sum(run["status"] == "FINISHED" for run in server.runs(experiment)))

        assert 62 == len(proxy.seen("runs/update"))


def test_records_that_were_set_aside_come_first(
    server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run logged while it could not be created is sent before what it logs as soon as it can."""
    identity = server.rest("experiments/create", {"name": experiment})["experiment_id"]
    server.rest("experiments/delete", {"experiment_id": identity})
    journal = log_to(server.url, experiment)
    delivery, uid = journal._delivery, new_id()
    assert isinstance(delivery, sender.Sender)
    recall = delivery._recall

    def log_more(box: Box) -> None:
        recall(box)
        journal.emit(logged(uid, params={"p": "second"}, tags={"latest": "2"}))
        journal.emit(ended(uid))

    monkeypatch.setattr(delivery, "_recall", log_more)
    journal.emit(started(uid, experiment=experiment))
    journal.emit(logged(uid, params={"p": "first"}, tags={"latest": "1"}))
    until(lambda: "deleted" in str(mltrace.status().last_error))
    server.rest("experiments/restore", {"experiment_id": identity})
    until(lambda: mltrace.flush(1).pending == 0 and mltrace.status().accepted >= 4)
    (run,) = server.runs(experiment)

    assert ("2", {"p": "first"}) == (run["tags"]["latest"], run["params"])


def test_late_tag_after_a_shutdown_in_between(
    server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag whose request was under way at a shutdown, and lands after a later value, is set right again."""
    with Proxy(server.port) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        journal = log_to(proxy.url, experiment)
        run = mltrace.start_run("open")
        assert run.wait(15)
        proxy.fail("log-batch", HUNG, times=1)
        run.set_tag("latest", "1")
        until(lambda: proxy.seen("log-batch"))
        mltrace.shutdown(0)
        run.set_tag("latest", "2")
        run.end()
        assert 0 == mltrace.flush(60).pending
        (found,) = server.runs(experiment)
        server.rest("runs/set-tag", {"run_id": found["id"], "key": "latest", "value": "1"})
        delivery = journal._delivery
        assert isinstance(delivery, sender.Sender)
        assert delivery.reconcile(15)
        (found,) = server.runs(experiment)

        assert "2" == found["tags"]["latest"]


def test_rest_of_a_run_that_was_refused(
    server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What a run logged after its creation was refused for good is refused too by the next process: no run is
    made up for it.
    """
    monkeypatch.setattr(breaker, "_LOST_SECONDS", 0.2)
    script = """
        import os, sys
        import mltrace

        mltrace.configure(tracking_uri=sys.argv[1], experiment_name=sys.argv[2])
        run = mltrace.start_run("refused")
        mltrace.flush(60)
        assert mltrace.status().dead == 1, mltrace.status()
        print(flush=True)
        sys.stdin.readline()
        run.log_metric("m", 1.0)
        os._exit(0)
    """
    with Proxy(server.port) as proxy:
        proxy.fail("runs/create", Answer(400, b'{"error_code":"INVALID_PARAMETER_VALUE","message":"no"}'))
        with python(script, proxy.url, experiment) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert "\n" == process.stdout.readline()
            proxy.refuse()
            process.stdin.write("\n")
            process.stdin.flush()
            assert 0 == process.wait(30)
        proxy.heal()
        proxy.accept()
        log_to(proxy.url, experiment)
        with mltrace.track_run("other"):
            pass
        mltrace.flush(60)
        directory = DestinationDirectory(Path(os.environ["MLTRACE_SPOOL_DIR"]), proxy.url)

        letters = list(read_office(directory).waiting.values())
        assert ["other"] == [run["name"] for run in server.runs(experiment)]
        assert ["RunStarted", "Logged", "RunEnded"] == [letter.what for letter in letters]

        discard(directory, letters)
        mltrace.shutdown(5)
        found = report(directory)
        # The end is not one that the process recorded.
        assert ({"discarded": 2}, 0, 0) == (found.dropped, found.dead, found.pending)
        assert found.accepted == found.delivered + 2


def test_duplicate_with_data_is_kept(
    server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run under one uid that somebody has logged to is not deleted: only what is bare is."""
    monkeypatch.setattr(courier, "SETTLE_SECONDS", 0.05)
    with Proxy(server.port) as proxy:
        proxy.fail("runs/create", CUT, times=1)
        log_to(proxy.url, experiment)
        run = mltrace.start_run("run")
        assert run.wait(15)
        (mine,) = server.runs(experiment)
        for param in ({"key": "of_a_child", "value": "1"}, None):
            twin = server.rest(
                "runs/create",
                {"experiment_id": mine["experiment_id"], "tags": [{"key": "mltrace.uid", "value": run.id}]},
            )["run"]["info"]["run_id"]
            if param:
                server.rest("runs/log-parameter", {"run_id": twin, **param})
        run.end()
        assert 0 == mltrace.flush(60).pending
        params = [found["params"] for found in server.runs(experiment)]

        assert [{}, {"of_a_child": "1"}] == sorted(params, key=len)


def test_late_duplicate_behind_open_runs(
    server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that are open and in use do not hide a late duplicate: they are no candidates."""
    monkeypatch.setattr(courier, "_MOST_LOOKUPS", 1)
    journal = log_to(server.url, experiment)
    with mltrace.track_run("ended") as run:
        pass
    assert 0 == mltrace.flush(60).pending
    (ended_run,) = server.runs(experiment)
    tags = [{"key": "mltrace.uid", "value": run.id}]
    late = {"experiment_id": ended_run["experiment_id"], "start_time": ended_run["start_time"], "tags": tags}
    server.rest("runs/create", late)
    busy = [mltrace.start_run(f"busy {number}", params={"p": 1}) for number in range(3)]
    assert busy[-1].wait(15)
    delivery = journal._delivery
    assert isinstance(delivery, sender.Sender)
    assert delivery.reconcile(15)

    assert 1 == sum(found["tags"]["mltrace.uid"] == run.id for found in server.runs(experiment))
    for each in busy:
        each.end()


def test_logging_while_the_journal_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread logs while a journal is closed goes to a directory that the journal knows."""
    destination = DestinationDirectory(tmp_path, "http://127.0.0.1:9")
    journal = Journal(destination)
    journal.emit(started())
    begun = threading.Event()

    def log() -> None:
        begun.set()
        journal.emit(started())

    other = threading.Thread(target=log)
    leave = journal._leave

    def leave_slowly(*arguments: Any) -> None:
        other.start()
        begun.wait(10)
        other.join(0.1)  # it is to wait until the journal is closed
        leave(*arguments)

    monkeypatch.setattr(journal, "_leave", leave_slowly)
    journal.close(0)
    other.join(10)

    assert journal.directory is not None
    assert 2 == len(destination.writers())
    assert 1 == journal.status().pending


@pytest.mark.parametrize("left", [False, True], ids=["own", "adopted"])
def test_no_descriptor_to_read_a_segment_with(
    server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    """A segment that cannot be opened for want of descriptors is not lost: it is read when there are some."""
    monkeypatch.setattr(sender, "_UNREADABLE_SECONDS", 0.02)
    if left:
        run_python(
            """
            import os, sys
            import mltrace

            mltrace.configure(tracking_uri=sys.argv[1], experiment_name=sys.argv[2], exit_timeout=0)
            mltrace.log_prediction(question="q", answer="a")
            os._exit(0)
            """,
            server.url,
            experiment,
        )
    opened = source.open_private
    refused: list[Path] = []

    def scarce(path: Path, flags: int) -> int:
        if path.suffix == ".seg" and len(refused) < 3:
            refused.append(path)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return opened(path, flags)

    monkeypatch.setattr(source, "open_private", scarce)
    log_to(server.url, experiment)
    with mltrace.track_run("own"):
        pass
    flushed = mltrace.flush(60)

    assert (3, 0, 0) == (len(refused), flushed.pending, flushed.dropped)
    assert ["own", "prediction"][: 1 + left] == sorted(run["name"] for run in server.runs(experiment))
