"""Part ``traces``: calls per second drained as traces, against a raw OTLP generator and against runs."""

from __future__ import annotations

import http.server
import itertools
import json
import sys
import threading

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.server import MlflowServer

import mltrace

from mltrace.delivery.bundles import MAX_SPANS

from .drain import watched
from .harness import Part, Samples, Target, interleave, median, number, ratios, spread, table
from .peers import work


BATCH = MAX_SPANS
CONNECTIONS = (1, 2, 4)
OWN, RUNS_ROW = "mltrace, traces", "mltrace, runs"
ROUNDS, TRACES, RUNS = 3, 4000, 300
QUICK_ROUNDS, QUICK_TRACES, QUICK_RUNS = 2, 2000, 80


@dataclass
class Yard:
    """The server, and a fresh process, experiment and spool for each repetition."""

    server: MlflowServer
    scratch: Path
    traces: int
    runs: int
    details: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    @property
    def payload(self) -> Path:
        """The file with a request of mltrace's."""
        return self.scratch / "payload.bin"

    def raw(self, connections: int) -> float:
        """Return traces per second by hand."""
        options = ("--connections", str(connections), "--payload", str(self.payload), "--batch", str(BATCH))
        return self._rate(f"raw, {connections}", "benchmarks.rawspans", self.traces, *options)

    def drain(self, record_as: str) -> float:
        """Return calls per second through mltrace, recorded as runs or as traces."""
        count = self.traces if record_as == "trace" else self.runs
        options = ("--spool", str(self.scratch / f"spool-{next(self._numbers)}"), "--record-as", record_as)
        name = OWN if record_as == "trace" else RUNS_ROW
        return self._rate(name, "benchmarks.drainer", count, *options)

    def _rate(self, row: str, module: str, count: int, *options: str) -> float:
        experiment = f"{module}-{next(self._numbers)}"
        command = [sys.executable, "-m", module, "--url", self.server.url, "--experiment", experiment]
        output, connections = watched([*command, "--runs", str(count), *options], self.server.port)
        found: dict[str, Any] = json.loads(output)
        expected = found["runs"] + found["warm"]
        held = self.server.count_traces(experiment) or len(self.server.runs(experiment))
        if held != expected:
            raise RuntimeError(f"{module} sent {expected}, the server holds {held}")
        self.details.setdefault(row, []).append({**found, "connections": connections})
        return float(found["runs"] / found["seconds"])


@contextmanager
def listener(seen: list[bytes]) -> Iterator[str]:
    """Take OTLP requests on a free port, and keep their bodies in *seen*; yield the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class names it
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def learn_payload(path: Path, spool: Path) -> None:
    """Let mltrace send one span to a listener, and keep the request."""
    seen: list[bytes] = []
    with listener(seen) as url:
        mltrace.configure(tracking_uri=f"otlp+{url}", spool_dir=spool)
        mltrace.track_run(work)(1, "text")
        mltrace.shutdown(10)
    path.write_bytes(seen[0])


def run(quick: bool, scratch: Path) -> Part:
    """Measure and return the part."""
    part = Part("traces")
    counts = (QUICK_TRACES, QUICK_RUNS) if quick else (TRACES, RUNS)
    with MlflowServer(scratch / "server") as server:
        server.await_workers()
        yard = Yard(server, scratch, *counts)
        learn_payload(yard.payload, scratch / "first-spool")
        rows = {f"raw, {count}": partial(yard.raw, count) for count in CONNECTIONS}
        rows |= {OWN: partial(yard.drain, "trace"), RUNS_ROW: partial(yard.drain, "run")}
        samples = interleave(rows, QUICK_ROUNDS if quick else ROUNDS)
    part.samples = {"calls_per_second": samples, "details": yard.details}
    report(part, samples, yard)
    return part


def report(part: Part, samples: Samples, yard: Yard) -> None:
    """Say how fast each way is and judge the targets."""
    raw = [name for name in samples if name not in (OWN, RUNS_ROW)]
    best = max(raw, key=lambda name: median(samples[name]))
    share, times = ratios(samples[OWN], samples[best]), ratios(samples[OWN], samples[RUNS_ROW])
    part.say(
        f"{yard.traces} one-span traces a repetition ({yard.runs} runs in the row of runs), {len(share)} interleaved"
        f" repetitions, each in a process and experiment of its own, on one server with SQLite and its default workers."
        f" Raw rows send copies of a span that mltrace has sent, {BATCH} to a request, made before the clock starts, over"
        " 1, 2 or 4 connections. After each repetition the server held every call once.",
        table(
            ("row", "calls/s", "min–max", "× raw best", "CPU ms/call"),
            [
                (
                    name,
                    number(median(values)),
                    spread(values),
                    number(median(ratios(values, samples[best]))),
                    number(
                        median([1000 * found["cpu_seconds"] / found["runs"] for found in yard.details[name]])
                    ),
                )
                for name, values in samples.items()
            ],
        ),
    )
    part.targets = [
        Target("traces drained / raw best", 100 * median(share), 90, "%", at_least=True),
        Target("traces / runs", median(times), 8, "×", at_least=True),
    ]
