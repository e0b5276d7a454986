"""A real ``mlflow server`` process, and a small reader of what it holds.

Tests and benchmarks share it. The server runs on a free port of 127.0.0.1 with a
SQLite store and a proxied artifact directory below one directory, so two servers
never share anything but a store that both were told to use. The reader speaks MLflow's
REST API through ``http.client``, one connection per request: what it says was read from
the server, by other code than mltrace's.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
DEFAULT_WORKERS = 4  # what `mlflow server` starts when it is not told a number
POLL_SECONDS = 0.05
STOP_SECONDS = 15.0
KILL_SECONDS = 5.0
TAIL_LINES = 30
PAGE = 1000

# Neither telemetry nor the job runner takes part in tracking. Without them a server
# starts in two thirds of the time, runs half the processes and calls nobody.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # what MLflow 3.17 asks of those who still have one
}


class MlflowServer:
    """Run one ``mlflow server`` with the interpreter that runs this code.

    ``directory`` holds the store (``mlflow.db``, unless ``store_uri`` names another
    database or a ``file:`` store), the artifacts and ``server.log``; it is created when missing
    and never removed. ``replica_uri`` is the database that it reads from, where that is another. The port is chosen once, so ``url`` stays the same over ``restart``.
    ``workers=None`` leaves MLflow's default.
    As a context manager it starts on entry and stops on exit.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        workers: int | None = None,
        start_timeout: float = 90.0,
        store_uri: str | None = None,
        replica_uri: str | None = None,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "server.log"
        self.store = self.directory / "mlflow.db"
        self.store_uri = store_uri or f"sqlite:///{self.store}"
        self.replica_uri = replica_uri
        self.artifact_dir = self.directory / "artifacts"
        self.workers = workers
        self.start_timeout = start_timeout
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    # -- the process ------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The process id, which is also the process group's; None when not running."""
        return None if self._process is None else self._process.pid

    def start(self) -> Self:
        """Start the server and return once ``/health`` answers.

        Raises RuntimeError with the end of the log when the process ends or does not
        answer within ``start_timeout`` seconds; nothing is left running then.
        """
        if self._process is not None:
            raise RuntimeError(f"{self.url} is already running, pid {self.pid}")
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._poll("answer /health", self._healthy)
        except BaseException:
            self.kill()
            raise
        return self

    def await_workers(self) -> Self:
        """Return once every worker has started, not only the one that answered first.

        Until then the others are importing MLflow, and take the processors with them:
        a benchmark has to wait for this, a test need not.
        """
        expected = self.workers or DEFAULT_WORKERS
        self._poll(f"start {expected} workers", lambda: self._started() >= expected)
        return self

    def stop(self) -> None:
        """End the server's process group with SIGTERM and wait until it is gone.

        What still lives after 15 seconds is killed. Does nothing when not running.
        """
        self._end(signal.SIGTERM, STOP_SECONDS)

    def kill(self) -> None:
        """End the server's process group with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL, KILL_SECONDS)

    def restart(self) -> Self:
        """Start again on the same port and store, stopping first when running."""
        self.stop()
        return self.start()

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines the server wrote since it was last started."""
        return "\n".join(self._log_text().splitlines()[-lines:])

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "mlflow", "server"]
        command += ["--host", HOST, "--port", str(self.port)]
        command += ["--backend-store-uri", self.store_uri]
        command += ["--artifacts-destination", str(self.artifact_dir)]
        if self.replica_uri is not None:
            command += ["--read-replica-backend-store-uri", self.replica_uri]
        if self.workers is not None:
            command += ["--workers", str(self.workers)]
        return command

    def _healthy(self) -> bool:
        try:
            return self._send("GET", "/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _started(self) -> int:
        return self._log_text().count("Application startup complete")

    def _log_text(self) -> str:
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _poll(self, goal: str, done: Callable[[], bool]) -> None:
        """Return once ``done()`` holds; raise when the process ends or time is up."""
        deadline = time.monotonic() + self.start_timeout
        while not done():
            code = None if self._process is None else self._process.poll()
            if self._process is None or code is not None:
                raise RuntimeError(self._failure(f"ended with {code}"))
            if time.monotonic() > deadline:
                raise RuntimeError(self._failure(f"did not {goal} in {self.start_timeout:g} s"))
            time.sleep(POLL_SECONDS)

    def _failure(self, what: str) -> str:
        return f"mlflow server at {self.url} {what}; its log ends:\n{self.log_tail()}"

    def _end(self, number: signal.Signals, timeout: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process.pid, number)
        if not _group_ends(process, timeout):
            _signal_group(process.pid, signal.SIGKILL)
            _group_ends(process, KILL_SECONDS)

    # -- what it holds ----------------------------------------------------------------

    def rest(
        self, endpoint: str, body: dict[str, Any] | None = None, version: str = "2.0", **query: Any
    ) -> dict[str, Any]:
        """Call ``/api/2.0/mlflow/<endpoint>``: POST with a body, GET without.

        Raises RuntimeError with the server's words for any status but 200.
        """
        path = f"/api/{version}/mlflow/{endpoint}"
        if query:
            path += "?" + urllib.parse.urlencode(query)
        payload = None if body is None else json.dumps(body).encode()
        status, answer = self._send("GET" if body is None else "POST", path, payload)
        if status != 200:
            text = answer.decode(errors="replace")
            raise RuntimeError(f"{endpoint} answered {status}: {text}")
        decoded: dict[str, Any] = json.loads(answer)
        return decoded

    def experiments(self) -> dict[str, str]:
        """Return experiment names and ids, deleted experiments included."""
        request = {"max_results": PAGE, "view_type": "ALL"}
        found = self._pages("experiments/search", request, "experiments")
        return {entry["name"]: entry["experiment_id"] for entry in found}

    def runs(self, experiment_name: str | None = None, *, view: str = "ACTIVE_ONLY") -> list[dict[str, Any]]:
        """Return the runs of one experiment, or of all, oldest first.

        Each is a dict: ``id``, ``name``, ``status``, ``start_time`` and ``end_time``
        (ms; None while open), ``params``, ``metrics`` (key to latest value), ``tags``,
        ``experiment_id``, ``artifact_uri``. An unknown experiment has no runs. ``view``
        is MLflow's: ``ACTIVE_ONLY``, ``DELETED_ONLY`` or ``ALL``.
        """
        known = self.experiments()
        names = list(known) if experiment_name is None else [experiment_name]
        ids = [known[name] for name in names if name in known]
        if not ids:  # the server takes an empty list for "nothing", not for "all"
            return []
        request = {
            "experiment_ids": ids,
            "max_results": PAGE,
            "run_view_type": view,
            "order_by": ["attributes.start_time ASC"],
        }
        return [_run(entry) for entry in self._pages("runs/search", request, "runs")]

    def metric_history(self, run_id: str, key: str) -> list[dict[str, Any]]:
        """Return every stored point of a metric: ``value``, ``timestamp``, ``step``."""
        answer = self.rest("metrics/get-history", run_id=run_id, metric_key=key)
        return [
            {
                "value": float(point["value"]),
                "timestamp": int(point["timestamp"]),
                "step": int(point.get("step", 0)),
            }
            for point in answer.get("metrics", [])
        ]

    def artifacts(self, run_id: str, path: str = "") -> list[str]:
        """Return the paths of a run's artifact files, sorted, through all folders."""
        query: dict[str, Any] = {"path": path} if path else {}
        answer = self.rest("artifacts/list", run_id=run_id, **query)
        found: list[str] = []
        for entry in answer.get("files", []):
            if entry.get("is_dir"):
                found += self.artifacts(run_id, entry["path"])
            else:
                found.append(entry["path"])
        return sorted(found)

    def artifact_text(self, run_id: str, path: str) -> str:
        """Return one artifact as text; raise RuntimeError when there is none."""
        query = urllib.parse.urlencode({"run_uuid": run_id, "path": path})
        status, answer = self._send("GET", f"/get-artifact?{query}")
        if status != 200:
            raise RuntimeError(f"artifact {path!r} of run {run_id}: status {status}")
        return answer.decode()

    def traces(self, experiment_name: str, run_id: str | None = None) -> list[dict[str, Any]]:
        """Return the traces of an experiment, or those of them that belong to a run, oldest first, whole.

        Each is a dict: ``id``, ``state``, ``tags``, ``metadata``, ``request`` and ``response`` (previews),
        ``assessments`` by their id, and ``spans`` by name: ``parent`` (its name), ``type``, ``status``,
        ``message``, ``attributes``, ``events``, ``start_ns``, ``end_ns``. An unknown experiment has none.
        """
        experiment = self.experiments().get(experiment_name)
        if experiment is None:
            return []
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        request: dict[str, Any] = {"locations": [place], "max_results": 500}
        if run_id is not None:
            request["filter"] = f"attributes.run_id = '{run_id}'"
        heads: list[dict[str, Any]] = []
        while True:
            answer = self.rest3("traces/search", request)
            heads += answer.get("traces", [])
            if not answer.get("next_page_token"):
                break
            request["page_token"] = answer["next_page_token"]
        found = [_trace(self.rest3("traces/get", trace_id=head["trace_id"])["trace"]) for head in heads]
        return sorted(found, key=lambda trace: str(trace["time"]))

    def count_traces(self, experiment_name: str) -> int:
        """Return how many traces an experiment has."""
        experiment = self.experiments().get(experiment_name)
        if experiment is None or not self.store.exists():
            return 0
        with sqlite3.connect(f"file:{self.store}?mode=ro", uri=True) as store:
            query = "SELECT count(*) FROM trace_info WHERE experiment_id = ?"
            return int(store.execute(query, (int(experiment),)).fetchone()[0])

    def rest3(self, endpoint: str, body: dict[str, Any] | None = None, **query: Any) -> dict[str, Any]:
        """Call ``/api/3.0/mlflow/<endpoint>`` as `rest` does."""
        return self.rest(endpoint, body, "3.0", **query)

    def _pages(self, endpoint: str, request: dict[str, Any], field: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = {"page_token": token} if token else {}
            answer = self.rest(endpoint, {**request, **page})
            found += answer.get(field, [])
            token = answer.get("next_page_token", "")
            if not token:
                return found

    def _send(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    """The caller's environment without settings that would reach the server."""
    foreign = ("MLFLOW_", "_MLFLOW_", "MLTRACE_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {**kept, **QUIET}


def _run(entry: dict[str, Any]) -> dict[str, Any]:
    info, data = entry["info"], entry.get("data", {})
    return {
        "id": info["run_id"],
        "name": info.get("run_name", ""),
        "status": info["status"],
        "start_time": _milliseconds(info.get("start_time")),
        "end_time": _milliseconds(info.get("end_time")),
        "params": {p["key"]: p.get("value", "") for p in data.get("params", [])},
        "metrics": {m["key"]: float(m["value"]) for m in data.get("metrics", [])},
        "tags": {t["key"]: t.get("value", "") for t in data.get("tags", [])},
        "experiment_id": info["experiment_id"],
        "artifact_uri": info.get("artifact_uri", ""),
    }


def _trace(entry: dict[str, Any]) -> dict[str, Any]:
    info = entry["trace_info"]
    spans = entry.get("spans", [])
    names = {span["span_id"]: span["name"] for span in spans}
    return {
        "id": info["trace_id"],
        "time": info.get("request_time"),
        "state": info.get("state"),
        "tags": info.get("tags", {}),
        "metadata": info.get("trace_metadata", {}),
        "request": info.get("request_preview"),
        "response": info.get("response_preview"),
        "assessments": {said["assessment_id"]: said for said in info.get("assessments", [])},
        "spans": {span["name"]: _span(span, names) for span in spans},
        "count": len(spans),
    }


def _span(entry: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    attributes = _attributes(entry.get("attributes", []))
    return {
        "id": base64.b64decode(entry["span_id"]).hex(),
        "parent": names.get(entry.get("parent_span_id", ""), entry.get("parent_span_id")),
        "type": attributes.get("mlflow.spanType"),
        "status": entry.get("status", {}).get("code"),
        "message": entry.get("status", {}).get("message"),
        "attributes": attributes,
        "events": [
            {"name": event["name"], **_attributes(event.get("attributes", []))}
            for event in entry.get("events", [])
        ],
        "start_ns": int(entry["start_time_unix_nano"]),
        "end_ns": int(entry["end_time_unix_nano"]),
    }


def _attributes(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in pairs}


def _value(value: dict[str, Any]) -> Any:
    [(kind, found)] = value.items() or [("", None)]
    if kind == "kvlist_value":
        return _attributes(found.get("values", []))
    if kind == "array_value":
        return [_value(item) for item in found.get("values", [])]
    return int(found) if kind == "int_value" else found


def _milliseconds(value: int | str | None) -> int | None:
    return None if value is None else int(value)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; False when nobody is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _group_ends(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait until the leader is collected and nobody else runs in its group."""
    deadline = time.monotonic() + timeout
    while process.poll() is None or _group_runs(process.pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS / 5)
    return True


def _group_runs(group: int) -> bool:
    """Whether the group has a member that is not a zombie.

    An orphaned zombie holds neither port nor file, and init may take a second to
    collect it; without /proc it counts as running until then.
    """
    if not _signal_group(group, 0):
        return False
    states = [state for member, state in _group_states() if member == group]
    return not states or any(state not in "ZX" for state in states)


def _group_states() -> Iterator[tuple[int, str]]:
    """Yield process group and state of every process, where there is a /proc."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # it ended while we looked
            continue
        yield int(group), state
