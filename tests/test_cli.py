"""The command line: what it says, what it exits with, and that looking changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from pathlib import Path
from typing import Any

import pytest

from tests.harness import Answer, Proxy, run_python
from tests.server import MlflowServer


LEAVE = """
import os, sys
import mltrace

@mltrace.track_run
def inner(x):
    return x

@mltrace.track_run("outer_{n}")
def outer(n):
    return [inner(i) for i in range(n)]

outer(3)
if "open" in sys.argv:
    run = mltrace.start_run("left open", params={"p": 1})
    run.log_metric("loss", 0.5)
    os._exit(0)
"""


def mltrace_command(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; fail where it exits with another code."""
    command = [sys.executable, "-m", "mltrace", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert code == done.returncode, done.stdout + done.stderr
    return done


def as_json(*arguments: str, code: int = 0) -> Any:
    """Return what a command prints with ``--json``."""
    return json.loads(mltrace_command(*arguments, "--json", code=code).stdout)


@pytest.fixture(name="away")
def _away(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where nobody answers, as the configured one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLTRACE_EXIT_TIMEOUT", "0")
    return "http://127.0.0.1:9"


class TestStatus:
    """`mltrace status`."""

    def test_nothing(self, away: str) -> None:
        """Without a spool everything is zero, and looking makes no spool."""
        (report,) = as_json("status")

        assert (away, 0, 0, None) == (
            report["destination"],
            report["pending"],
            report["accepted"],
            report["oldest_ms"],
        )
        assert not Path(os.environ["MLTRACE_SPOOL_DIR"]).exists()

    def test_pending(self, away: str) -> None:
        """What dead processes left is counted, and the counts add up."""
        run_python(LEAVE, "open")
        (report,) = as_json("status")

        # A call that is over at once is one record, else two: three inner ones, one outer, and the open run's two.
        assert report["pending"] in range(6, 11)
        assert (report["pending"], 1) == (report["accepted"], report["writers"])
        assert report["bytes"] > 0
        words = mltrace_command("status").stdout
        assert away in words
        assert "s ago" in words

    def test_looking_changes_nothing(self, away: str) -> None:
        """status, list, show and sync --dry-run leave every file as it is."""
        run_python(LEAVE, "open")
        spool = Path(os.environ["MLTRACE_SPOOL_DIR"])
        before = {path: path.read_bytes() for path in spool.rglob("*") if path.is_file()}
        for arguments in (["status"], ["list"], ["show", as_json("list")[0]["id"]]):
            mltrace_command(*arguments)
        mltrace_command("sync", "--dry-run", code=1)

        assert before == {path: path.read_bytes() for path in spool.rglob("*") if path.is_file()}


def test_an_address_is_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow the terminal, an address can be copied from `status`."""
    address = f"http://127.0.0.1:9/{'long/' * 30}end"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("COLUMNS", "80")

    assert address in mltrace_command("status").stdout


class TestLastError:
    """What the last process met that could not deliver, as another one is told."""

    PROGRAM = """
    import mltrace
    with mltrace.track_run("one"):
        pass
    mltrace.shutdown(5)
    """

    def test_away_and_back(self, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that refuses is in `status` and `doctor`, with the age, and no more once it has taken a run."""
        with Proxy(server.port) as proxy:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cli last error")
            proxy.refuse()
            run_python(self.PROGRAM)
            (report,) = as_json("status")
            words = mltrace_command("status").stdout
            says = {finding["what"]: finding["says"] for finding in as_json("doctor", code=1)}
            proxy.accept()
            mltrace_command("sync")
            (after,) = as_json("status")

            assert "unreachable" == report["last_error"]["state"]
            assert "cannot be reached" in report["last_error"]["error"]
            assert f"{proxy.url}: unreachable " in words
            assert "s ago: " in words
            assert "cannot be reached" in says["last error"]
            assert (None, 0) == (after["last_error"], after["pending"])

    def test_credentials(self, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Refused credentials are said with the remedy, and without the credentials."""
        with Proxy(server.port) as proxy:
            proxy.fail("", Answer(401, b"hunter22hunter22 is wrong", "text/plain"))
            monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter22hunter22")
            run_python(self.PROGRAM)
            error = as_json("status")[0]["last_error"]

            assert "suspended" == error["state"]
            assert "set MLFLOW_TRACKING_USERNAME" in error["error"]
            assert "hunter22" not in error["error"]

    def test_written_once(self, away: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is written when the state changes, not at every attempt."""
        monkeypatch.setenv("MLTRACE_EXIT_TIMEOUT", "5")
        run_python(
            """
            import mltrace
            from mltrace import _spool
            written = []
            keep = _spool.write_whole
            _spool.write_whole = lambda path, content: (written.append(path.name), keep(path, content))
            with mltrace.track_run("one"):
                pass
            mltrace.flush(1.5)
            mltrace.shutdown(0)
            assert 1 == written.count("last_error.json"), written
            """
        )

    def test_damaged(self, away: str) -> None:
        """A file that is not ours to read is as good as none."""
        run_python(LEAVE)
        note = Path(as_json("status")[0]["directory"]) / "last_error.json"
        note.write_text('{"state": 5}')

        assert as_json("status")[0]["last_error"] is None


class TestList:
    """`mltrace list` and `mltrace show`."""

    def test_tree(self, away: str) -> None:
        """Pending runs are a tree with names, status and number of records."""
        run_python(LEAVE, "open")
        lines = mltrace_command("list").stdout.splitlines()

        assert ["outer_3", "inner", "inner", "inner", "left open"] == [
            line.lstrip("├└─ ").split("  ")[0] for line in lines
        ]
        assert ["FINISHED"] * 4 == [line.split("  ")[2] for line in lines[:4]]
        assert "  open  " in lines[4]

    def test_nothing(self, away: str) -> None:
        """With nothing pending it says so."""
        assert "Nothing is pending.\n" == mltrace_command("list").stdout

    def test_show(self, away: str) -> None:
        """One run is shown with what is undelivered of it, found by the beginning of its id."""
        run_python(LEAVE, "open")
        run = next(run for run in as_json("list") if run["name"] == "left open")
        shown = as_json("show", run["id"][:8])

        assert ({"p": "1"}, {"loss": 0.5}, None) == (shown["params"], shown["metrics"], shown["status"])
        assert "params.p: 1" in mltrace_command("show", run["id"]).stdout

    def test_show_unknown(self, away: str) -> None:
        """An id that no pending run has gives an error that names it and the remedy."""
        assert "'abc'; `mltrace list` shows them" in mltrace_command("show", "abc", code=1).stderr


class TestSync:
    """`mltrace sync`."""

    def test_delivers(self, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Everything arrives with a progress bar on stderr, open runs as KILLED; it exits 0, and again
        with nothing to do.
        """
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cli sync")
        monkeypatch.setenv("MLTRACE_EXIT_TIMEOUT", "0")
        run_python(LEAVE, "open")
        pending = as_json("status")[0]["pending"]
        done = mltrace_command("sync")
        runs = server.runs("cli sync")

        assert {"outer_3": "FINISHED", "inner": "FINISHED", "left open": "KILLED"} == {
            run["name"]: run["status"] for run in runs
        }
        assert 5 == len(runs)
        assert f"{pending} records delivered to {server.url}" in done.stdout
        assert f"{pending}/{pending} records" in done.stderr
        (again,) = as_json("sync")
        assert (0, 0) == (again["delivered"], again["pending"])
        assert 5 == len(server.runs("cli sync"))

    def test_server_away(self, away: str) -> None:
        """With the server away it exits 1 within its time, says why, and everything stays."""
        run_python(LEAVE)
        done = mltrace_command("sync", "--timeout", "1", code=1)

        assert "4 left" in done.stdout or "5 left" in done.stdout
        assert "cannot be reached" in done.stdout
        assert as_json("status")[0]["pending"] > 0

    def test_dry_run(self, away: str) -> None:
        """
        --dry-run says what would be sent, sends nothing, and exits 1 while there is something.
        """
        mltrace_command("sync", "--dry-run")
        run_python(LEAVE)

        assert f"would be sent to {away}" in mltrace_command("sync", "--dry-run", code=1).stdout

    def test_watch(self, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """With --watch and --json each delivery is a line, as it happens, until it is interrupted."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cli watch")
        monkeypatch.setenv("MLTRACE_EXIT_TIMEOUT", "0")
        run_python(LEAVE)
        command = [sys.executable, "-m", "mltrace", "sync", "--watch", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            run_python(LEAVE)
            lines.append(process.stdout.readline())
            process.kill()

        assert [(True, 0)] * 2 == [
            (result["delivered"] > 0, result["pending"]) for line in lines for result in json.loads(line)
        ]

    def test_a_living_process_is_left_alone(
        self, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What a living process has in its journal is its own to deliver: sync reports it and touches
        nothing.
        """
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cli alive")
        program = "import mltrace, sys\nrun = mltrace.start_run('alive')\nmltrace.flush(60)\nrun.log_metric('m', 1)\nprint('ready', flush=True)\nsys.stdin.read()\nrun.end()\n"
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
            mltrace_command(
                "sync", "--timeout", "5", code=as_json("sync", "--timeout", "3", code=0)[0]["pending"] and 1
            )
            process.stdin.close()
            process.stdout.read()
        (run,) = server.runs("cli alive")

        assert ("alive", "FINISHED", 1.0) == (run["name"], run["status"], run["metrics"]["m"])


class TestDoctor:
    """`mltrace doctor`."""

    def test_well(self, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a server that answers everything is ok, and it exits 0."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        findings = as_json("doctor")

        assert [] == [finding for finding in findings if not finding["ok"]]
        assert {"enabled", "tracking address", "destination", "spool"} <= {
            finding["what"] for finding in findings
        }

    def test_away(self, away: str) -> None:
        """A server that is away is said to be, with its address; it exits 1."""
        (finding,) = [finding for finding in as_json("doctor", code=1) if not finding["ok"]]

        assert "destination" == finding["what"]
        assert f"{away} cannot be reached" in finding["says"]
        assert "set MLFLOW_TRACKING_URI to where it is" in finding["says"]

    def test_off_and_spool(self, away: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """That mltrace is off, and that the spool is a file, is said with the remedy."""
        (tmp_path / "in the way").write_text("")
        monkeypatch.setenv("MLTRACE_SPOOL_DIR", str(tmp_path / "in the way"))
        monkeypatch.setenv("MLTRACE_ENABLED", "0")
        words = mltrace_command("doctor", code=1).stdout

        assert "MLTRACE_ENABLED" in words
        assert "set MLTRACE_SPOOL_DIR" in words

    def test_pending(self, away: str) -> None:
        """Pending records are mentioned with the command that sends them."""
        run_python(LEAVE)

        assert "`mltrace sync` sends them" in mltrace_command("doctor", code=1).stdout


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot be used ends every command with exit code 2 and its name."""
    monkeypatch.setenv("MLTRACE_ON_FULL", "explode")

    assert "on_full" in mltrace_command("status", code=2).stderr


def test_version() -> None:
    """--version prints the version alone."""
    assert mltrace_command("--version").stdout.count(".") == 2


def test_sync_gives_up_on_the_silent(away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers for long enough sync ends with exit code 1, and says how much is left and why."""
    run_python(LEAVE)
    script = """
        import sys
        from mltrace import cli
        cli._SILENT_SECONDS = 0.5
        sys.argv = ["mltrace", "sync"]
        try:
            cli.main()
        except SystemExit as end:
            print("exit", end.code)
    """
    said = run_python(script).stdout

    assert "exit 1\n" == said.splitlines(keepends=True)[-1]
    assert "left:" in said
    assert "cannot be reached" in said


def test_negative_timeout() -> None:
    """A timeout below zero is a mistake in the command line."""
    assert "timeout" in mltrace_command("sync", "--timeout", "-1", code=2).stderr
