"""Load an MLflow server with finished runs by hand, as fast as a few connections can: the yardstick for the sender.

``python -m benchmarks.rawload --url URL --experiment NAME --runs N --connections C --payload FILE`` prints JSON. Three
requests a run on keep-alive connections of ``http.client``, one thread each, ``TCP_QUICKACK`` set again before each
response is read; where the system has no such option, a new connection per request. Nothing is journalled, retried or
remembered, and the bodies are text with two holes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import threading
import time
import urllib.parse
import uuid

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


RUN, UID, EXPERIMENT = "@run@", "@uid@", "@experiment@"
UID_TAG = "mltrace.uid"
LATE_TAGS = {"mltrace.output"}  # known only when the call has returned, so they travel with the metrics
OWN_TAGS = {"mlflow.runName"}  # the server writes them itself
QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
TIMEOUT = 60


@dataclass(frozen=True)
class Payload:
    """The three bodies of a run as JSON text, with ``@run@``, ``@uid@`` and ``@experiment@`` where those go."""

    create: str
    log_batch: str
    update: str

    @classmethod
    def like(cls, run: dict[str, Any]) -> Payload:
        """Return bodies that make the server hold what it holds of ``run``, a dict of ``MlflowServer.runs``."""
        tags = {key: value for key, value in run["tags"].items() if key not in OWN_TAGS}
        early = {key: UID if key == UID_TAG else value for key, value in tags.items() if key not in LATE_TAGS}
        late = {key: value for key, value in tags.items() if key in LATE_TAGS}
        create = {
            "experiment_id": EXPERIMENT,
            "run_name": run["name"],
            "start_time": run["start_time"],
            "tags": pairs(early),
        }
        metrics = [
            {"key": key, "value": value, "timestamp": run["end_time"], "step": 0}
            for key, value in run["metrics"].items()
        ]
        batch = {"run_id": RUN, "metrics": metrics, "params": pairs(run["params"]), "tags": pairs(late)}
        update = {"run_id": RUN, "status": run["status"], "end_time": run["end_time"]}
        return cls(
            *(json.dumps(body, separators=(",", ":"), allow_nan=False) for body in (create, batch, update))
        )

    def describe(self) -> str:
        """Say what a run consists of."""
        create, batch = json.loads(self.create), json.loads(self.log_batch)
        counts = f"{len(create['tags']) + len(batch['tags'])} tags, {len(batch['params'])} params"
        sizes = " + ".join(str(len(body)) for body in (self.create, self.log_batch, self.update))
        return f"{counts}, {len(batch['metrics'])} metrics; bodies of {sizes} bytes"

    def write(self, path: Path) -> None:
        """Store for another process."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Payload:
        """Load what ``write`` stored."""
        return cls(**json.loads(path.read_text()))


def pairs(values: dict[str, str]) -> list[dict[str, str]]:
    """Return a mapping as MLflow's requests spell it."""
    return [{"key": key, "value": value} for key, value in values.items()]


class Connection:
    """One keep-alive connection that does not wait for the delayed acknowledgement."""

    def __init__(self, url: str) -> None:
        address = urllib.parse.urlsplit(url)
        assert address.hostname is not None
        self._http = http.client.HTTPConnection(address.hostname, address.port, timeout=TIMEOUT)

    def post(self, endpoint: str, body: str) -> dict[str, Any]:
        """Send one request and return its answer; raise RuntimeError for any status but 200."""
        headers = {"Content-Type": "application/json"}
        self._http.request("POST", f"/api/2.0/mlflow/{endpoint}", body.encode(), headers)
        if QUICKACK is not None:
            self._http.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        response = self._http.getresponse()
        answer = response.read()
        if QUICKACK is None:
            self._http.close()
        if response.status != 200:
            raise RuntimeError(f"{endpoint} answered {response.status}: {answer[:500]!r}")
        decoded: dict[str, Any] = json.loads(answer)
        return decoded

    def close(self) -> None:
        """Close the socket."""
        self._http.close()


class Loader(threading.Thread):
    """One thread with one connection: a warm-up run, then runs until the shared numbers are used up."""

    def __init__(
        self, url: str, payload: Payload, experiment: str, numbers: Iterator[int], ready: Any
    ) -> None:
        super().__init__(daemon=True)
        self._connection = Connection(url)
        self._payload, self._experiment = payload, experiment
        self._numbers, self._ready = numbers, ready
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work; an error is kept for the main thread and breaks the barrier."""
        try:
            self._one()
            self._ready.wait(TIMEOUT)
            for _ in self._numbers:
                self._one()
        except BaseException as error:
            self.error = error
            self._ready.abort()
        finally:
            self._connection.close()

    def _one(self) -> None:
        payload, post = self._payload, self._connection.post
        create = payload.create.replace(UID, uuid.uuid4().hex).replace(EXPERIMENT, self._experiment)
        run_id = post("runs/create", create)["run"]["info"]["run_id"]
        post("runs/log-batch", payload.log_batch.replace(RUN, run_id))
        post("runs/update", payload.update.replace(RUN, run_id))


def load(url: str, payload: Payload, experiment: str, runs: int, connections: int) -> dict[str, float]:
    """Send so many runs and return seconds, CPU seconds and runs; warm-up runs, one a connection, come on top."""
    numbers = iter(range(runs))  # next() of a range iterator is atomic, so the threads can share it
    ready = threading.Barrier(connections + 1)
    loaders = [Loader(url, payload, experiment, numbers, ready) for _ in range(connections)]
    for loader in loaders:
        loader.start()
    try:
        ready.wait(TIMEOUT)
    except threading.BrokenBarrierError:
        raise_first(loaders)
        raise
    cpu, began = time.process_time(), time.perf_counter()
    for loader in loaders:
        loader.join()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    raise_first(loaders)
    return {"seconds": seconds, "cpu_seconds": cpu, "runs": runs, "warm": connections}


def raise_first(loaders: list[Loader]) -> None:
    """Raise what stopped a thread."""
    for loader in loaders:
        if loader.error is not None and not isinstance(loader.error, threading.BrokenBarrierError):
            raise loader.error


def create_experiment(url: str, name: str) -> str:
    """Create an experiment and return its id."""
    connection = Connection(url)
    try:
        experiment: str = connection.post("experiments/create", json.dumps({"name": name}))["experiment_id"]
        return experiment
    finally:
        connection.close()


def main() -> None:
    """Read the options, load, print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--payload", type=Path, required=True)
    options = parser.parse_args()
    experiment = create_experiment(options.url, options.experiment)
    found = load(options.url, Payload.read(options.payload), experiment, options.runs, options.connections)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
