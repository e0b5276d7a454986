"""Load an MLflow server with spans by hand, by OTLP, as fast as a few connections can: the yardstick for traces.

``python -m benchmarks.rawspans --url URL --experiment NAME --runs N --connections C --payload FILE --batch B`` prints
JSON. The payload is a request that mltrace has sent; its first span is copied with new ids, B to a request. All
requests are made before the clock starts, and nothing is journalled, retried or remembered.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import threading
import time
import urllib.parse

from collections.abc import Iterator
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .rawload import QUICKACK, TIMEOUT, create_experiment


def requests(payload: bytes, spans: int, batch: int) -> list[bytes]:
    """Return so many spans, each a trace of its own, in requests of at most *batch*."""
    like = ExportTraceServiceRequest.FromString(payload)
    scope = like.resource_spans[0].scope_spans[0]
    model = scope.spans[0]
    found = []
    for first in range(0, spans, batch):
        del scope.spans[:]
        for _ in range(min(batch, spans - first)):
            span = scope.spans.add()
            span.CopyFrom(model)
            span.trace_id, span.span_id = os.urandom(16), os.urandom(8)
        found.append(bytes(like.SerializeToString()))
    return found


class Loader(threading.Thread):
    """One thread with one keep-alive connection, which sends what is left of the shared requests."""

    def __init__(self, url: str, experiment: str, bodies: Iterator[bytes], ready: threading.Barrier) -> None:
        super().__init__(daemon=True)
        address = urllib.parse.urlsplit(url)
        assert address.hostname is not None
        self._http = http.client.HTTPConnection(address.hostname, address.port, timeout=TIMEOUT)
        self._headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": experiment}
        self._bodies, self._ready = bodies, ready
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work; an error is kept for the main thread."""
        try:
            self._http.connect()
            self._ready.wait(TIMEOUT)
            for body in self._bodies:
                self._post(body)
        except BaseException as error:
            self.error = error
            self._ready.abort()
        finally:
            self._http.close()

    def _post(self, body: bytes) -> None:
        while not self._is_taken(body):  # SQLite was locked for too long
            time.sleep(0.05)

    def _is_taken(self, body: bytes) -> bool:
        self._http.request("POST", "/v1/traces", body, self._headers)
        if QUICKACK is not None:
            self._http.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        response = self._http.getresponse()
        answer = response.read()
        if response.status not in (200, 503):
            raise RuntimeError(f"/v1/traces answered {response.status}: {answer[:500]!r}")
        return response.status == 200


def load(url: str, experiment: str, bodies: list[bytes], connections: int) -> tuple[float, float]:
    """Send *bodies*; return seconds and CPU seconds."""
    shared = iter(bodies)  # next() of a list iterator is atomic, so the threads can share it
    ready = threading.Barrier(connections + 1)
    loaders = [Loader(url, experiment, shared, ready) for _ in range(connections)]
    for loader in loaders:
        loader.start()
    ready.wait(TIMEOUT)
    cpu, began = time.process_time(), time.perf_counter()
    for loader in loaders:
        loader.join()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    for loader in loaders:
        if loader.error is not None:
            raise loader.error
    return seconds, cpu


def main() -> None:
    """Read the options, load, print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--payload", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    options = parser.parse_args()
    experiment = create_experiment(options.url, options.experiment)
    bodies = requests(options.payload.read_bytes(), options.runs, options.batch)
    seconds, cpu = load(options.url, experiment, bodies, options.connections)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "runs": options.runs, "warm": 0}))


if __name__ == "__main__":
    main()
