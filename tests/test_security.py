"""
What others can do to the spool and the wire, and what becomes of it: secrets, planted files, forged records,
hostile servers, credentials.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import time

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypothesis import given
from hypothesis import strategies as st

import mltrace

from mltrace import _config
from mltrace._checks import is_artifact_path
from mltrace._clock import new_id
from mltrace._files import frame, read_lines
from mltrace._provenance import git_commit
from mltrace._records import ArtifactLogged, Record
from mltrace._spool import DestinationDirectory
from mltrace._survey import survey
from mltrace._texts import clean_path
from mltrace.backends.journal import Journal
from mltrace.delivery import breaker, connect, courier, transport
from mltrace.delivery.acks import Created
from mltrace.delivery.destination import DeliveryError, Uncertain
from mltrace.exceptions import ConfigurationError
from tests.harness import (
    HOST,
    LOST,
    Answer,
    Proxy,
    Request,
    ended,
    logged,
    on_disk,
    run_python,
    started,
    until,
    whole,
)
from tests.server import MlflowServer
from tests.test_delivery import _self_signed


MARK = "c4n4ry"
"""In every secret of these tests, and in nothing else."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(name="proxy")
def _proxy(server: MlflowServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture(name="experiment")
def _experiment(request: pytest.FixtureRequest) -> str:
    """The name of an experiment of this test's own."""
    return f"{request.node.originalname} {new_id()[:8]}"


@pytest.fixture(name="brisk", autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have failed requests made again soon."""
    monkeypatch.setattr(courier, "SETTLE_SECONDS", 0.02)
    monkeypatch.setattr(breaker, "BACKOFF_BASE", 0.02)


def spool() -> Path:
    """Return the spool directory."""
    return Path(os.environ["MLTRACE_SPOOL_DIR"])


def sent(proxy: Proxy, *, without: str = "") -> str:
    """Return every request as one text, *without* one header."""
    return "\n".join(
        f"{request.method} {request.path} {request.body!r} "
        + repr({name: value for name, value in request.headers.items() if name != without})
        for request in proxy.requests
    )


def log_to(uri: str, experiment: str, **options: Any) -> None:
    """Have this process log to *uri*."""
    mltrace.configure(tracking_uri=uri, experiment_name=experiment, **options)


def delivered(timeout: float = 60.0) -> None:
    """Flush, and fail if something is left."""
    assert 0 == mltrace.flush(timeout).pending, mltrace.status()


@mltrace.track_run
def double(x: int) -> int:
    return 2 * x


def leave(uri: str, *records: Record, experiment: str = "Default") -> Path:
    """Leave *records*, or a whole run, in the spool as a process that is gone; return its directory."""
    journal = Journal(DestinationDirectory(spool(), uri))
    for record in records or whole(experiment=experiment):
        journal.emit(record)
    assert journal.directory is not None
    path = journal.directory.path
    journal.close(0)
    return path


# Secrets.


@pytest.fixture(name="heard")
def _heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Every message of every logger, of any level."""
    caplog.set_level(logging.DEBUG)
    return caplog


def tell_everything(experiment: str) -> None:
    """Record a run that is given secrets in every way there is."""
    password = f"{MARK} pass word"

    @mltrace.track_run("login_{user}_{password}", tags={"auth_token": f"{MARK}-tag"}, params={"dsn": MARK})
    def login(user: str, password: str, config: dict[str, Any]) -> dict[str, Any]:
        run = mltrace.current_run()
        run.log_text(f"the password is {password}", f"notes/{password}.txt")
        run.log_text(f"large {password}" * 5000, "large.txt")
        run.log_dict({"token": f"{MARK}-dict", "nested": [{"api_key": MARK}], "echo": password}, "d.json")
        run.set_tag("connection", f"postgresql://me:{MARK}@db/x password={MARK}")
        run.log_param("header", f"Authorization: Bearer {MARK}.0123456789")
        run.log_metric("weight", password)  # type: ignore[arg-type] # a mistake that warns
        run.log_artifact(f"/nowhere/{password}")
        mltrace.log_llm_call(model="m", prompt=f"use {password}", response=f"sk-{MARK}0123456789abcdef")
        return {"secret": MARK, "fine": 1, "said": f"ok {password}"}

    @mltrace.track_run
    def fails(password: str) -> None:
        raise LookupError(f"no user with {password}")

    login("ada", password, {"deep": {"api_key": f"{MARK}-key"}})
    with pytest.raises(LookupError):
        fails(password)
    assert experiment == _config.active().experiment


@pytest.mark.parametrize("way", ["environment", "address", "file", "token"])
def test_canaries(
    proxy: Proxy,
    experiment: str,
    heard: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """
    No secret that a program handles, and no credential, is in a byte of the spool, a message, an error or a
    `repr`; in requests only the credentials are, in the header that they belong into.
    """
    secret, url = f"{MARK}-0123456789", proxy.url
    if way == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
    elif way == "address":
        url = url.replace("http://", f"http://ada:{secret}@")
    elif way == "file":
        (Path.home() / ".mlflow").mkdir()
        content = f"[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = {secret}\n"
        (Path.home() / ".mlflow/credentials").write_text(content)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", secret)
    basic = base64.b64encode(f"ada:{secret}".encode()).decode()
    header = f"Bearer {secret}" if way == "token" else f"Basic {basic}"
    # A server that repeats the request: in an error's text, its code, a header, a broken answer, an id.
    echo = json.dumps({"error_code": f"SAID {header}", "message": f"{secret} {header}"}).encode()
    proxy.fail("create", Answer(503, echo), times=1)
    proxy.fail("create", Answer(200, b"<html>", f"text/{header}"), times=1)
    proxy.fail("create", Answer(200, json.dumps({secret: header}).encode()), times=1)
    proxy.fail("log-batch", Answer(200, json.dumps({secret: header}).encode()), times=1)
    proxy.fail("log-batch", Answer(400, echo), times=2)
    proxy.fail("mlflow-artifacts", Answer(400, echo), times=1)
    log_to(url, experiment)
    tell_everything(experiment)
    pending = on_disk(spool())
    errors = ""
    while mltrace.flush(5).pending:
        errors += repr(mltrace.status())
    (letters,) = spool().glob("*/dead.log")
    objects = [_config.active(), _config.active().settings, _config.active().backend, connect(url)]

    assert b"[redacted]" in pending
    for secretive in (MARK, basic):
        assert secretive.encode() not in pending + on_disk(spool())
        assert secretive not in heard.text + errors + "".join(map(repr, objects)) + repr(mltrace.status())
        assert secretive not in sent(proxy, without="Authorization")
    assert {header} == {request.headers.get("Authorization") for request in proxy.requests}
    assert mltrace.status().dead > 0
    assert b"SAID" in letters.read_bytes()


@pytest.mark.parametrize(
    "address",
    [
        f"http://ada:{MARK}@",
        f"http://ada:{MARK}@[::1/x",
        f"http://ada:{MARK}@host:notaport/x",
        f"http://ada:12/{MARK}@host/x",
        f"http://ada:x#{MARK}@host/x",
        f"http://ada:x?{MARK}@host/x",
        f"http://ada:{MARK}@ho st/",
        f"http://ada:{MARK}@host/\n",
        f"https://ada:{MARK}@127.0.0.1:9/?token={MARK}",
        f"postgresql://ada:{MARK}@host/db?password={MARK}",
    ],
)
def test_password_in_an_address(address: str, heard: pytest.LogCaptureFixture) -> None:
    """An address with a password in it, however broken, is refused, looked at and spooled without the password."""
    said = ""
    try:
        said += mltrace.init_mlflow(tracking_uri=address).message
        double(1)
        said += repr(mltrace.flush(0.1)) + repr(mltrace.status()) + repr(_config.active().settings)
    except ConfigurationError as error:
        said += f"{error!r} {error}"

    assert MARK not in said + heard.text
    assert MARK.encode() not in (on_disk(spool()) if spool().exists() else b"")


@pytest.mark.parametrize("token", [f"{MARK}\n", f"{MARK}\r\nX-Evil: 1", f"{MARK}€", f"{MARK}\udce9"])
def test_token_that_no_header_takes(
    proxy: Proxy,
    experiment: str,
    heard: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
) -> None:
    """A token with a line feed or a letter beyond ASCII is refused by its variable's name, unseen; nothing is lost."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    log_to(proxy.url, experiment)
    double(1)
    report = mltrace.flush(5)
    status = mltrace.status()

    assert (True, 0, 0) == (report.pending > 0, report.dropped, report.dead)
    assert ("suspended", True) == (status.state, "MLFLOW_TRACKING_TOKEN" in str(status.last_error))
    assert (MARK in heard.text + repr(status), []) == (False, proxy.requests)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "fine")
    delivered()


def test_canaries_of_a_dead_process(server: MlflowServer, experiment: str) -> None:
    """A program that dies in the middle leaves no secret in its spool, and prints none."""
    with Proxy(server.port) as proxy:
        proxy.refuse()
        done = run_python(
            f"""
            import logging, os, mltrace
            logging.basicConfig(level=logging.DEBUG)

            @mltrace.track_run
            def work(password, settings):
                mltrace.log_text("password " + password, "note.txt")
                mltrace.log_param("again", password)
                mltrace.flush(0.3)
                os._exit(0)

            work("{MARK} word", {{"api_key": "{MARK}-key"}})
            """,
            MLFLOW_TRACKING_URI=proxy.url.replace("http://", f"http://ada:{MARK}@"),
            MLFLOW_EXPERIMENT_NAME=experiment,
        )

    assert b"work" in on_disk(spool())
    assert MARK.encode() not in on_disk(spool())
    assert ("", False) == (done.stdout, MARK in done.stderr)


# The spool directory.


class TestDirectory:
    """A spool directory that is not, or not only, ours."""

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("link", "symbolic link"),
            ("dangling link", "symbolic link"),
            ("fifo", "a directory is needed"),
            pytest.param("other's", "belongs to uid 12345", marks=as_root),
            ("destination is a link", "symbolic link"),
        ],
    )
    def test_refused(
        self, server: MlflowServer, experiment: str, said: list[str], tmp_path: Path, fault: str, words: str
    ) -> None:
        """
        What is no directory of ours is not written to, the warning says why and what to do, and the program
        goes on: its records are delivered from memory.
        """
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(mode=0o755)
        place = spool()
        if fault == "destination is a link":
            place = DestinationDirectory(spool(), server.url).path
            place.parent.mkdir(mode=0o700)
        if fault == "fifo":
            os.mkfifo(place)
        elif fault == "other's":
            place.mkdir()
            os.chown(place, 12345, -1)
        else:
            place.symlink_to(elsewhere if fault != "dangling link" else tmp_path / "nothing")
        log_to(server.url, experiment)
        double(1)
        delivered()

        assert [2.0] == [run["metrics"]["output"] for run in server.runs(experiment)]
        assert ([], 0o755) == (list(elsewhere.iterdir()), stat.S_IMODE(elsewhere.stat().st_mode))
        assert [] == (list(place.iterdir()) if fault == "other's" else [])
        assert any(words in message and "MLTRACE_SPOOL_DIR" in message for message in said), said

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o755])
    def test_open_to_others(self, server: MlflowServer, experiment: str, mode: int) -> None:
        """Directories of ours that others could enter are closed to them, whatever the umask."""
        destination = DestinationDirectory(spool(), server.url).path
        destination.mkdir(parents=True)
        spool().chmod(mode)
        destination.chmod(mode)
        before = os.umask(0)
        try:
            log_to(server.url, experiment)
            double(1)
            delivered()
        finally:
            os.umask(before)

        assert {(True, 0o700), (False, 0o600)} == {
            (path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [spool(), *spool().rglob("*")]
        }

    @pytest.mark.parametrize(("mode", "warned"), [(0o777, True), (0o1777, False), (0o755, False)])
    def test_open_parent(
        self, server: MlflowServer, said: list[str], tmp_path: Path, mode: int, warned: bool
    ) -> None:
        """One warning says where everybody could rename the spool: above it, without the sticky bit."""
        parent = tmp_path / "volume"
        parent.mkdir()
        parent.chmod(mode)
        destination = DestinationDirectory(parent / "deep" / "spool", server.url)
        destination.make()
        destination.make()

        assert int(warned) == sum(
            "everybody may rename" in message and str(parent) in message for message in said
        )

    @as_root
    def test_planted_writer(
        self, proxy: Proxy, server: MlflowServer, experiment: str, said: list[str]
    ) -> None:
        """A writer's directory that another user planted is not adopted, changed or sent, and a warning names it."""
        planted = leave(proxy.url, experiment="sown")
        for path in (*planted.rglob("*"), planted):
            os.chown(path, 12345, -1)
        before = sorted((path, path.stat().st_mtime_ns) for path in planted.rglob("*"))
        log_to(proxy.url, experiment)
        double(1)
        delivered()

        assert 1 == len(server.runs(experiment))
        assert "sown" not in sent(proxy)
        assert before == sorted((path, path.stat().st_mtime_ns) for path in planted.rglob("*"))
        assert any(str(planted) in message and "belongs to uid 12345" in message for message in said)

    @pytest.mark.parametrize("kind", ["link", "fifo", "hard link", pytest.param("other's", marks=as_root)])
    @pytest.mark.parametrize(
        "name", ["owner.json", "lock", "acks", "00000001.seg", "blobs", "dead.log", "retired.log"]
    )
    def test_planted_file(
        self, server: MlflowServer, experiment: str, said: list[str], tmp_path: Path, name: str, kind: str
    ) -> None:
        """
        What is in a file's place and not ours is neither followed, waited for nor changed; a warning names it,
        and the program's own records, dead letters among them, arrive.
        """
        dead = leave(server.url, experiment=experiment)
        place = (dead.parent if name.endswith(".log") else dead) / name
        other = tmp_path / "victim"
        other.write_bytes(place.read_bytes() if place.is_file() else b"untouched")
        if name == "blobs":
            other.unlink()
            other.mkdir()
            (other / "precious").write_text("kept")
        place.unlink(missing_ok=True)
        if kind == "link" or name == "blobs":
            place.symlink_to(other)
        elif kind == "fifo":
            os.mkfifo(place)
        elif kind == "hard link":
            os.link(other, place)
        else:
            place.write_bytes(other.read_bytes())
            os.chown(place, 12345, -1)
        content = other.read_bytes() if other.is_file() else (other / "precious").read_text()
        log_to(server.url, experiment)
        with mltrace.track_run("own") as run:
            _config.active().backend.emit(logged(run.id, params={"a//b": "1"}))
            mltrace.flush(2)
        report = mltrace.flush(60)

        assert content == (other.read_bytes() if other.is_file() else (other / "precious").read_text())
        assert ["FINISHED"] == [r["status"] for r in server.runs(experiment) if r["name"] == "own"]
        assert (0, 1) == (report.pending, report.dead)
        assert 1 == sum(line is not None for line in read_lines(dead.parent / "dead.log"))
        assert name == "blobs" or any(
            str(place) in message and "not a file of" in message for message in said
        ), said

    @pytest.mark.parametrize("what", ["writer", "blobs"])
    def test_replaced_while_in_use(
        self, server: MlflowServer, experiment: str, said: list[str], tmp_path: Path, what: str
    ) -> None:
        """A directory that becomes a link under a living program gets nothing more; what has a place arrives."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        log_to(server.url, experiment, spool_limit_bytes=1 << 20)
        with mltrace.track_run("run") as run:
            assert run.wait(10)
            directory = Path(str(mltrace.status().directory))
            place = directory if what == "writer" else directory / "blobs"
            if place.exists():
                place.rename(tmp_path / "moved")
            place.symlink_to(elsewhere)
            run.log_text("x" * 100_000, "large.txt")
            for _ in range(5):
                run.log_text("y" * 50_000, "small.txt")
        report = mltrace.flush(5)
        (found,) = server.runs(experiment)

        assert [] == list(elsewhere.iterdir())
        assert ("FINISHED", ["small.txt"], 0, 1) == (
            found["status"],
            server.artifacts(found["id"]),
            report.pending,
            report.dropped,
        )
        assert len(said) >= 1


def writers_log(uri: str) -> Path:
    """Return the log of finished writers."""
    return DestinationDirectory(spool(), uri).retired


# Names, and forged records.

AWKWARD = [
    "../x.txt",
    "../../../../etc/cron.d/x",
    "/etc/passwd",
    "a\\..\\..\\b",
    "a\0b",
    "a\x1b[2Jb\r\nX-Evil: 1",
    "a/./b",
    "a//b",
    "%2e%2e/%2e%2e/b",
    "a?b#c",
    "..",
    "",
    "日" * 300,
    "x" * 5000,
    "/".join("y" * 99 for _ in range(50)),
]


class TestNames:
    """Names of artifacts, from the program and from a forged record."""

    def test_of_the_program(
        self, proxy: Proxy, server: MlflowServer, experiment: str, said: list[str]
    ) -> None:
        """Every name arrives inside its run, those that no server takes under another one that a warning tells."""
        log_to(proxy.url, experiment)
        with mltrace.track_run("run") as run:
            run.log_text("plain", "plain/name with spaces é.txt")
            for number, name in enumerate(AWKWARD):
                run.log_text(str(number), name)
        delivered()
        (found,) = server.runs(experiment)
        root = f"/api/2.0/mlflow-artifacts/artifacts/{found['experiment_id']}/{found['id']}/artifacts/"
        stored = server.artifacts(found["id"])

        assert (0, 1 + len(AWKWARD)) == (mltrace.status().dead, len(stored))
        assert {"plain", *map(str, range(len(AWKWARD)))} == {
            server.artifact_text(found["id"], path) for path in stored
        }
        assert all(request.path.startswith(root) for request in proxy.seen("mlflow-artifacts"))
        assert len(AWKWARD) == sum("is not a relative path" in message for message in said)
        assert all(message.isprintable() for message in said)

    @given(st.text(max_size=300))
    def test_any_text(self, name: str) -> None:
        """Whatever the name, what becomes of it stays inside the run and is not changed again."""
        assert is_artifact_path(clean_path(name))

    def test_of_a_forged_record(self, proxy: Proxy, server: MlflowServer, experiment: str) -> None:
        """A record with a name that mltrace never makes is counted as damaged; the rest of its run arrives."""
        uid = new_id()
        forged = [ArtifactLogged(run=uid, time=1, path=name, text="evil", size=4) for name in AWKWARD]
        leave(proxy.url, started(uid, experiment=experiment), *forged, *whole(uid, experiment=experiment)[1:])
        log_to(proxy.url, experiment)
        double(1)
        delivered()
        counts = [json.loads(line) for line in read_lines(writers_log(proxy.url)) if line is not None]
        run = next(run for run in server.runs(experiment) if run["tags"]["mltrace.uid"] == uid)

        assert ("FINISHED", ["note.txt"]) == (run["status"], server.artifacts(run["id"]))
        assert [{"damaged": len(AWKWARD)}] == [count["counts"]["dropped"] for count in counts]
        assert "evil" not in sent(proxy)

    def test_blob(self, proxy: Proxy, server: MlflowServer, experiment: str, tmp_path: Path) -> None:
        """A forged record cannot have a file sent that is not among its writer's artifacts; links there are none."""
        (tmp_path / "secret").write_text(f"{MARK} host pid uid")
        uid = new_id()
        forged = [
            ArtifactLogged(run=uid, time=1, path="stolen.txt", blob=blob, size=4)
            for blob in ("../owner.json", "/etc/hostname", "..", "", "a/../../lock", "a\0", "linked", "hard")
        ]
        start, *others = whole(uid, experiment=experiment)
        dead = leave(proxy.url, start, *forged, *others)
        (dead / "blobs").mkdir(mode=0o700)
        (dead / "blobs/linked").symlink_to(tmp_path / "secret")
        os.link(tmp_path / "secret", dead / "blobs/hard")
        log_to(proxy.url, experiment)
        double(1)
        delivered()
        run = next(run for run in server.runs(experiment) if run["tags"]["mltrace.uid"] == uid)

        assert ("FINISHED", ["note.txt"]) == (run["status"], server.artifacts(run["id"]))
        assert (False, True) == (MARK in sent(proxy), (tmp_path / "secret").exists())

    def test_special_file(
        self, server: MlflowServer, experiment: str, said: list[str], tmp_path: Path
    ) -> None:
        """A FIFO in a logged directory is left out, with a warning, and not waited for."""
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "weights").write_text("1")
        os.mkfifo(folder / "pipe")
        log_to(server.url, experiment)
        with mltrace.track_run("run") as run:
            run.log_artifact(folder)
        delivered()
        (found,) = server.runs(experiment)

        assert ["model/weights"] == server.artifacts(found["id"])
        assert any("pipe" in message and "left out" in message for message in said)


@pytest.mark.parametrize("branch", ["../secret", "{secret}", "refs/heads/main"])
def test_branch_of_a_foreign_repository(tmp_path: Path, branch: str) -> None:
    """A repository whose branch is some other file of this machine has nothing of it become a tag."""
    git = tmp_path / "work/.git"
    git.mkdir(parents=True)
    (git.parent / "secret").write_text(MARK)
    (git / "HEAD").write_text(f"ref: {branch.format(secret=git.parent / 'secret')}\n")
    (git / "packed-refs").write_text(f"{MARK} refs/heads/main\n")

    assert git_commit(git.parent) is None


UIDS = ["x' OR '1'='1", "x`", "a\r\nX-Evil: 1", "../../x", "", "é", "a" * 65]


class TestForgedRecords:
    """Lines whose checksum holds and that mltrace did not write."""

    @pytest.mark.parametrize("field", ["run", "parent"])
    def test_uid(self, proxy: Proxy, server: MlflowServer, experiment: str, field: str) -> None:
        """A uid that could leave a filter or a header is in no request, and nobody waits for its run."""
        good = whole(experiment=experiment)
        forged = [
            started(**{"run": new_id(), "experiment": experiment, "name": "forged", field: uid})
            for uid in UIDS
        ]
        leave(proxy.url, *forged, *(ended(start.run) for start in forged), *good)
        log_to(proxy.url, experiment)
        double(1)
        until(
            lambda: (
                {"run", "double"} == {r["name"] for r in server.runs(experiment) if r["status"] == "FINISHED"}
            )
        )

        assert "forged" not in sent(proxy)
        assert not any(word in sent(proxy) for word in ("Evil", "OR '1'", "../.."))

    @pytest.mark.parametrize(
        "payload",
        [
            b"[" * 100_000,
            b'{"type":"log","x":' + b'{"a":' * 100_000,
            b'{"type":"start","run":"\xff","time":1,"name":"n","experiment":"e"}',
            b'{"type":"pickle","run":"a"}',
            b'{"type":"log","run":"a","time":1e999}',
            b"null",
            b"",
        ],
        ids=["brackets", "objects", "utf-8", "kind", "number", "null", "empty"],
    )
    def test_payload(self, server: MlflowServer, experiment: str, payload: bytes) -> None:
        """A line of another form, however deep, in records, acknowledgements or logs, stops nothing."""
        dead = leave(server.url, experiment=experiment)
        for path in (dead / "00000001.seg", dead / "acks", dead.parent / "retired.log"):
            content = path.read_bytes() if path.exists() else b""
            path.write_bytes(frame(payload) + content)
            path.chmod(0o600)
        log_to(server.url, experiment)
        (found,) = survey(_config.resolve())
        double(1)
        delivered()

        # It has taken no record's place.
        assert (4, {}) == (found[1].pending, found[1].dropped)
        assert {"run", "double"} == {r["name"] for r in server.runs(experiment) if r["status"] == "FINISHED"}

    def test_experiment(self, proxy: Proxy, server: MlflowServer, experiment: str) -> None:
        """An experiment's name is data in every request: quotes, line feeds and separators open nothing."""
        name = f"{experiment}' OR 1=1 --&max_results=1#\"\r\nX-Evil: 1"
        leave(proxy.url, experiment=name)
        log_to(proxy.url, experiment)
        double(1)
        delivered()

        assert {"run": 1, "double": 1} == {
            run["name"]: 1 for kind in (name, experiment) for run in server.runs(kind)
        }
        assert not any("X-Evil" in request.headers for request in proxy.requests)

    @pytest.mark.parametrize(
        ("run_id", "artifacts", "experiment_id"),
        [
            ("../../evil", "mlflow-artifacts:/1/x/artifacts", "1"),
            ("a\r\nX-Evil: 1", "mlflow-artifacts:/1/x/artifacts", "1"),
            ("b" * 32, "mlflow-artifacts:/1/x/artifacts", "1' OR '1"),
        ],
    )
    def test_acknowledgement(
        self,
        proxy: Proxy,
        server: MlflowServer,
        experiment: str,
        run_id: str,
        artifacts: str,
        experiment_id: str,
    ) -> None:
        """A forged acknowledgement with ids that no server gives is passed over: the run is made."""
        records = whole(experiment=experiment)
        dead = leave(proxy.url, *records)
        forged = {
            "type": "created",
            **msgspec.to_builtins(Created(records[0].run, run_id, artifacts, experiment_id)),
        }
        (dead / "acks").write_bytes(frame(msgspec.json.encode(forged)))
        (dead / "acks").chmod(0o600)
        log_to(proxy.url, experiment)
        double(1)
        delivered()

        assert {"run", "double"} == {run["name"] for run in server.runs(experiment)}
        assert run_id not in sent(proxy)


# Hostile servers.

Wire = Callable[[Callable[[], bool]], Iterator[bytes]]
"""What a hostile server sends: pieces, until nobody reads them; it is given what waits a moment."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Hostile:
    """A server on a raw socket that answers as it likes, until it is healed: then it is the real one's."""

    def __init__(self, upstream: int, wire: Wire, path: str = "") -> None:
        self._relay = Proxy(upstream)
        self._wire: Wire | None = wire
        self._path = path
        self._over = threading.Event()
        self.times: list[float] = []
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def heal(self) -> None:
        """Be the real server from now on."""
        self._wire = None
        self._over.set()

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *failure: object) -> None:
        self.heal()
        self._listener.close()
        self._relay.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            head = b"".join(iter(stream.readline, b"\r\n"))
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
            body = stream.read(int(fields.get("Content-Length", 0)))
            method, path, _ = head.decode().split(" ", 2)
            if self._wire is not None and self._path in path:
                self.times.append(time.monotonic())
                for piece in self._wire(lambda: self._over.wait(0.02)):
                    connection.sendall(piece)
                return
            port = int(self._relay.url.rpartition(":")[2])
            with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=30)) as relay:
                relay.request(method, path, body or None, {"Content-Type": fields.get("Content-Type", "")})
                with relay.getresponse() as answer:
                    content = answer.read()
                    connection.sendall(b"HTTP/1.1 %d X\r\nConnection: close\r\n" % answer.status)
                    connection.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(content), content))


class Lying(Proxy):
    """A server that says of each new run that its artifacts lie at *place*."""

    place = ""

    def handle(self, request: Request) -> Answer | None:
        answer = super().handle(request)
        if answer is None or "runs/create" not in request.path:
            return answer
        said = json.loads(answer.body)
        info = said["run"]["info"]
        info["artifact_uri"] = self.place.replace("{run_id}", info["run_id"])
        return answer._replace(body=json.dumps(said).encode())


def whole_answer(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> Wire:
    """Send one answer."""
    return lambda _: iter(
        [
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (status, more, len(body), body)
        ]
    )


def again_and_again(first: bytes, piece: bytes, *, slowly: bool = False) -> Wire:
    """Send *piece* after piece, without end; *slowly* a few in a second."""

    def wire(wait: Callable[[], bool]) -> Iterator[bytes]:
        yield first
        while not (slowly and wait()):
            yield piece

    return wire


def then_silence(content: bytes) -> Wire:
    """Send *content* and keep the connection open."""

    def wire(wait: Callable[[], bool]) -> Iterator[bytes]:
        yield content
        while not wait():
            pass

    return wire


ONE = b'{"info":{"run_id":"%b","experiment_id":"1"}}' % (b"a" * 32)
WIRES: dict[str, Wire] = {
    "endless header": again_and_again(HEAD, b"X-More: " + b"x" * 1000 + b"\r\n"),
    "endless header line": again_and_again(HEAD + b"X-More: ", b"x" * 1000),
    "endless status line": again_and_again(b"HTTP/1.1 200 ", b"x" * 1000),
    "endless body": again_and_again(HEAD + b"\r\n", b" " * 65536),
    "endless chunks": again_and_again(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"8\r\n        \r\n" * 4096
    ),
    "endless trailer": again_and_again(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 4096),
    "flood of 100": again_and_again(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1024),
    "drip of 100": again_and_again(b"", b"HTTP/1.1 100 Continue\r\n\r\n", slowly=True),
    "dripping status": again_and_again(b"HTTP/1.1 200 ", b"O", slowly=True),
    "dripping header": again_and_again(HEAD + b"X-More: ", b"x", slowly=True),
    "dripping body": again_and_again(HEAD + b"Content-Length: 100000\r\n\r\n", b" ", slowly=True),
    "dripping chunks": again_and_again(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", slowly=True
    ),
    "huge length": then_silence(HEAD + b"Content-Length: 1000000000000000\r\n\r\n{}"),
    "huge length, cut": lambda _: iter([HEAD + b"Content-Length: 1000000000000000\r\n\r\n{}"]),
    "negative length": then_silence(HEAD + b"Content-Length: -1\r\n\r\n{}"),
    "chunked garbage": lambda _: iter([HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n-5\r\n"]),
    "negative chunk": then_silence(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n"),
    "no HTTP": lambda _: iter([b"\x16\x03\x01\x1b[2J" + bytes(range(256)) * 8 + b"\r\n\r\n"]),
    "HTTP/0.9": lambda _: iter([b"<html>hello</html>"]),
    "nothing": lambda _: iter(()),
    "deep lists": whole_answer(b"[" * 100_000),
    "deep objects": whole_answer(b'{"run":' + b'{"a":' * 100_000),
    "deep in what nobody reads": whole_answer(b'{"x":' * 100_000),
    "deep error": whole_answer(b'{"x":' * 100_000, b"500 Oops"),
    "deep refusal": whole_answer(b'{"x":' * 100_000, b"400 No"),
    "invalid UTF-8": whole_answer(
        b'{"experiment":{"experiment_id":"\xff\xfe"},"run":{"info":{"run_id":"\xff"}}}'
    ),
    "invalid UTF-8 in an error": whole_answer(b'{"error_code":"\xff","message":"\xff"}', b"400 No"),
    "nan pause": whole_answer(b"", b"429 Slow", b"Retry-After: nan\r\n"),
    "huge list": whole_answer(b'{"runs":[' + b",".join([ONE] * 20_000) + b"]}"),
    "huge number": whole_answer(b'{"run":{"info":{"run_id":' + b"9" * 100_000 + b"}}}"),
}

WHEN_CREATING = (
    "flood of 100",
    "dripping body",
    "huge length, cut",
    "deep objects",
    "invalid UTF-8",
    "huge list",
)
"""What is also tried as the answer to the one request that must not be repeated blindly."""


class TestHostileServer:
    """Servers that mean ill."""

    @pytest.mark.parametrize(
        ("kind", "path"),
        [*((kind, "") for kind in WIRES), *((kind, "runs/create") for kind in WHEN_CREATING)],
    )
    def test_answers(
        self,
        server: MlflowServer,
        experiment: str,
        said: list[str],
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        path: str,
    ) -> None:
        """
        Whatever comes in whatever time, the worker goes on within the answer's time, nothing is acknowledged
        or given up, messages are printable, and once the server is itself again all is there once.
        """
        with monkeypatch.context() as patch, Hostile(server.port, WIRES[kind], path) as hostile:
            patch.setattr(transport, "_READ_SECONDS", 0.3)
            patch.setattr(transport, "_ANSWER_LIMIT", 1 << 20)
            patch.setattr(breaker, "BACKOFF_CAP", 0.1)
            log_to(hostile.url, experiment)
            double(1)
            until(lambda: (hostile.times and mltrace.status().last_error) or len(hostile.times) > 1)
            report = mltrace.flush(0)
            patch.undo()
            hostile.heal()
            # An answer that was on its way when it healed may still end a flush as in vain.
            until(lambda: not mltrace.flush().pending)

        assert (0, 0, 0) == (report.delivered, report.dropped, report.dead)
        assert 0 < report.pending
        assert [("double", "FINISHED", 2.0)] == [
            (run["name"], run["status"], run["metrics"]["output"])
            for run in server.runs(experiment, view="ALL")
        ]
        assert all(message.isprintable() for message in said)
        assert not any("mltrace failed" in message for message in said), said

    @pytest.mark.parametrize("status", [b"400 No", b"500 Oops", b"200 OK"])
    def test_words(self, server: MlflowServer, experiment: str, said: list[str], status: bytes) -> None:
        """What a server says reaches logs and status on one short line, control characters escaped."""
        evil = "\x1b[2J\x1b]0;owned\x07\r\nERROR root: forged\u202e" + "x" * 100_000
        body = json.dumps({"error_code": evil, "message": evil}).encode()
        wire = whole_answer(body, status, b"Server: \x1b[2J\r\n")
        with Hostile(server.port, wire) as hostile:
            log_to(hostile.url, experiment)
            double(1)
            until(lambda: len(said))
            words = [
                str(mltrace.status().last_error),
                *said,
                mltrace.init_mlflow(tracking_uri=hostile.url).message,
            ]
            _config.reset()

        assert [] == [text for text in words if not text.isprintable() or len(text) > 1500]

    @pytest.mark.parametrize(
        ("run_id", "experiment_id", "artifacts"),
        [
            ("../../../evil", "1", "mlflow-artifacts:/1/x/artifacts"),
            ("a\r\nX-Evil: 1", "1", "mlflow-artifacts:/1/x/artifacts"),
            ("a' OR '1'='1", "1", "mlflow-artifacts:/1/x/artifacts"),
            ("", "1", "mlflow-artifacts:/1/x/artifacts"),
            ("a" * 100_000, "1", "mlflow-artifacts:/1/x/artifacts"),
            ("a" * 32, "../1", "mlflow-artifacts:/1/x/artifacts"),
            ("a" * 32, "1", "mlflow-artifacts:/1/\r\nX-Evil: 1"),
            ("a" * 32, "1", "mlflow-artifacts://[half/x"),
        ],
        ids=["way up", "line feed", "filter", "empty", "long", "experiment", "place", "address"],
    )
    def test_ids(
        self,
        proxy: Proxy,
        server: MlflowServer,
        experiment: str,
        run_id: str,
        experiment_id: str,
        artifacts: str,
    ) -> None:
        """An id or artifact address that MLflow never gives is neither used nor written; the run is made anew."""
        info = {"run_id": run_id, "experiment_id": experiment_id, "artifact_uri": artifacts}
        proxy.fail("runs/create", Answer(200, json.dumps({"run": {"info": info}}).encode()), times=1)
        log_to(proxy.url, experiment)
        with mltrace.track_run("run") as run:
            run.log_text("text", "note.txt")
        until(lambda: len(proxy.seen("runs/create")) > 1)
        written = on_disk(spool())
        delivered()
        (found,) = server.runs(experiment, view="ALL")

        assert ("FINISHED", ["note.txt"]) == (found["status"], server.artifacts(found["id"]))
        assert b"X-Evil" not in written
        assert f'"run_id":{json.dumps(run_id)}'.encode() not in written
        assert "Evil" not in sent(proxy)

    @pytest.mark.parametrize(
        "place",
        [
            "mlflow-artifacts:/../../../other/artifacts",
            "mlflow-artifacts:/%2e%2e/%2e%2e/other/artifacts",
            "MLFLOW-ARTIFACTS://{other}/1/x/artifacts/..",
            "http://{other}/artifacts",
            "file://{local}",
            "{local}",
            "file://{local}/{run_id}/artifacts/..",
        ],
    )
    def test_artifact_address(
        self,
        server: MlflowServer,
        experiment: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        place: str,
    ) -> None:
        """
        A server cannot have an artifact written to this machine's files, to another run, or, with the
        credentials, to another server: the artifact is a dead letter, its run arrives.
        """
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", MARK)
        local = tmp_path / "victim"
        local.mkdir()
        with Proxy(server.port) as other, Lying(server.port) as proxy:
            proxy.place = place.replace("{other}", other.url[7:]).replace("{local}", str(local))
            log_to(proxy.url, experiment)
            with mltrace.track_run("run") as run:
                run.log_text("text", "note.txt")
            report = mltrace.flush(60)

        assert (0, 1, "FINISHED") == (report.pending, report.dead, server.runs(experiment)[0]["status"])
        assert ([], [], []) == (other.requests, list(local.rglob("*")), proxy.seen("mlflow-artifacts/"))

    def test_filter_ignored(self, proxy: Proxy, server: MlflowServer, experiment: str) -> None:
        """A server that ignores the search's filter has no other run adopted, and none deleted."""
        log_to(proxy.url, experiment)
        with mltrace.track_run("bystander"):
            pass
        delivered()
        (bystander,) = server.runs(experiment)
        everything = server.rest(
            "runs/search", {"experiment_ids": [bystander["experiment_id"]], "run_view_type": "ALL"}
        )
        proxy.fail("runs/search", Answer(200, json.dumps(everything).encode()))
        proxy.fail("runs/create", LOST, times=1)
        double(1)
        delivered()

        assert [] == proxy.seen("runs/delete")
        assert {"bystander": {"latency_ms"}, "double": {"latency_ms", "output"}} == {
            run["name"]: run["metrics"].keys() for run in server.runs(experiment) if run["metrics"]
        }

    def test_too_many_found(self, proxy: Proxy, experiment: str) -> None:
        """A search that is answered with more runs than were asked for is not believed."""
        uid = new_id()
        run = {
            "info": {"run_id": "a" * 32, "experiment_id": "1"},
            "data": {"tags": [{"key": "mltrace.uid", "value": uid}]},
        }
        proxy.fail("runs/search", Answer(200, json.dumps({"runs": [run] * 101}).encode()))
        destination = connect(proxy.url)
        with pytest.raises(Uncertain, match="101 runs"):
            destination.find_runs("1", uid)
        destination.close()


# Where credentials go.


def certificate_of(tmp_path: Path) -> Path:
    """Make a certificate for 127.0.0.1 that nobody vouches for."""
    return _self_signed(tmp_path / "server.pem")


class TestOrigin:
    """Credentials go to the configured server, over what was configured, and nowhere else."""

    @pytest.mark.parametrize(
        ("status", "secure"),
        [(301, False), (302, False), (303, False), (307, False), (308, False), (302, True), (307, True)],
    )
    def test_redirects(
        self,
        server: MlflowServer,
        experiment: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        status: int,
        secure: bool,
    ) -> None:
        """No redirect is followed, to another server or from https to http: it gets no request at all."""
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", MARK)
        certificate = certificate_of(tmp_path) if secure else None
        if certificate is not None:
            monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        with Proxy(server.port) as other, Proxy(server.port, certificate=certificate) as proxy:
            proxy.fail("", Answer(status, b"", "text/html", (("Location", f"{other.url}/"),)))
            log_to(proxy.url, experiment)
            double(1)
            report = mltrace.flush(5)
            said = str(mltrace.status().last_error)
            seen = len(proxy.requests)
            proxy.heal()
            delivered()

        assert (True, 0, []) == (report.pending > 0, report.dead, other.requests)
        assert (True, True) == (seen > 0, "redirects" in said and "MLFLOW_TRACKING_URI" in said)

    def test_https_is_not_downgraded(
        self, server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that speaks http where https was configured gets a greeting and no word of the request."""
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", MARK)
        heard: list[bytes] = []
        with socket.create_server((HOST, 0)) as listener:

            def speak_http() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        with connection:
                            heard.append(connection.recv(65536))
                            connection.sendall(b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:9/\r\n\r\n")
                            heard.append(connection.recv(65536))

            threading.Thread(target=speak_http, daemon=True).start()
            log_to(f"https://{HOST}:{listener.getsockname()[1]}", experiment)
            double(1)
            until(lambda: mltrace.status().state == "unreachable")
            report = mltrace.flush(0)
            status = mltrace.status()
            _config.reset()

        assert (True, True) == (report.pending > 0, "SSL" in str(status.last_error))
        assert (False, False) == (MARK.encode() in b"".join(heard), b"mlflow" in b"".join(heard))

    @pytest.mark.parametrize("value", ["true", "1", "false", ""])
    def test_insecure_tls(
        self,
        server: MlflowServer,
        experiment: str,
        said: list[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        value: str,
    ) -> None:
        """Certificates are verified unless MLflow's variable waives it, and one warning says that it does."""
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", value)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", MARK)
        waived = value in ("true", "1")
        with Proxy(server.port, certificate=certificate_of(tmp_path)) as proxy:
            log_to(proxy.url, experiment)
            for number in range(3):
                double(number)
                mltrace.flush(10 if waived else 0.1)
            requests = len(proxy.requests)

        assert waived == (requests > 0)
        assert int(waived) == sum("MLFLOW_TRACKING_INSECURE_TLS" in message for message in said)
        assert waived or "CERTIFICATE_VERIFY_FAILED" in str(mltrace.status().last_error)

    @pytest.mark.parametrize(
        "variable", ["MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"]
    )
    @pytest.mark.parametrize("content", [None, b"no certificate"])
    def test_missing_certificate(
        self,
        server: MlflowServer,
        experiment: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        variable: str,
        content: bytes | None,
    ) -> None:
        """A certificate file that cannot be used suspends delivery by its variable's name; nothing is given up."""
        if content is not None:
            (tmp_path / "cert.pem").write_bytes(content)
        monkeypatch.setenv(variable, str(tmp_path / "cert.pem"))
        with Proxy(server.port, certificate=certificate_of(tmp_path)) as proxy:
            log_to(proxy.url, experiment)
            with mltrace.track_run("run") as run:
                run.log_text("text", "note.txt")
            report = mltrace.flush(5)

        assert (True, 0, []) == (report.pending > 0, report.dead, proxy.requests)
        assert ("suspended", True) == (mltrace.status().state, variable in str(mltrace.status().last_error))

    def test_sync_of_another_server(
        self, proxy: Proxy, server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        `mltrace sync` brings what waits for another server there, without the credentials that are meant for
        the configured one; where that wants some it says what to set.
        """
        leave(proxy.url, experiment=experiment)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", MARK)
        proxy.fail("", Answer(401, b"", "text/plain"))
        command = [sys.executable, "-m", "mltrace", "sync"]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        proxy.heal()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url + "/")
        asked = len(proxy.requests)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

        assert (1, True) == (refused.returncode, "set MLFLOW_TRACKING_URI to this address" in refused.stdout)
        assert {None} == {request.headers.get("Authorization") for request in proxy.requests[:asked]}
        assert (0, ["FINISHED"]) == (done.returncode, [run["status"] for run in server.runs(experiment)])
        assert {f"Bearer {MARK}"} == {
            request.headers.get("Authorization") for request in proxy.requests[asked:]
        }

    def test_terminal(self, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The command line shows what the spool holds with control characters escaped."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        evil = "\x1b[2J\x1b]0;owned\x07"
        uid = new_id()
        leave("http://127.0.0.1:9", started(uid, name=evil, params={"p": evil}, tags={evil: "\r\nforged"}))
        command = [sys.executable, "-m", "mltrace"]
        for arguments in (["list"], ["show", uid], ["status"]):
            done = subprocess.run(
                [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
            )
            assert (0, False, False) == (done.returncode, "\x1b" in done.stdout, "\nforged" in done.stdout)

    def test_read_again(self, proxy: Proxy, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The credentials file is read at each connection, and kept nowhere but there."""
        place = Path.home() / ".mlflow/credentials"
        place.parent.mkdir()
        form = "[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = {}\n"
        place.write_text(form.format(f"{MARK}-old"))
        log_to(proxy.url, experiment)
        proxy.fail("", Answer(401, b"", "text/plain"), times=1)
        double(1)
        mltrace.flush(5)
        place.write_text(form.format(f"{MARK}-new"))
        delivered()
        headers = list(dict.fromkeys(request.headers["Authorization"] for request in proxy.requests))

        assert [f"ada:{MARK}-old", f"ada:{MARK}-new"] == [
            base64.b64decode(header.removeprefix("Basic ")).decode() for header in headers
        ]
        assert not any(text.encode() in on_disk(spool()) for text in (MARK, *headers))

    def test_other_artifact_store(self, proxy: Proxy) -> None:
        """Without credentials of its own a server's http artifact store is not visited with those of another."""
        destination = connect(proxy.url, credentials=False)
        (run,) = [destination.create_run("0", "r", 1, {})]
        with pytest.raises(DeliveryError, match="MLFLOW_TRACKING_URI"):
            destination.upload(msgspec.structs.replace(run, artifact_uri=f"{proxy.url}/x"), "a.txt", b"x")
        destination.close()
