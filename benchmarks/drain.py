"""Part ``drain``: runs per second through mltrace against what the same server takes from requests by hand."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
import time

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.server import MlflowServer

from .harness import Part, Samples, Target, interleave, median, number, ratios, spread, table
from .rawload import Payload


ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = (1, 2, 4)
OWN = "mltrace"
ROUNDS, RUNS = 5, 300
QUICK_ROUNDS, QUICK_RUNS = 2, 80
TIMEOUT = 600
SAMPLE_SECONDS = 0.05
ESTABLISHED = "01"  # /proc/net/tcp


@dataclass
class Yard:
    """The server, and a fresh process, experiment and spool for each repetition."""

    server: MlflowServer
    scratch: Path
    runs: int
    details: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    @property
    def payload(self) -> Path:
        """The file with the bodies of the raw requests."""
        return self.scratch / "payload.json"

    def learn_payload(self) -> Payload:
        """Let mltrace deliver one run and return bodies that make the server hold the same."""
        experiment = self.drain(1)["experiment"]
        payload = Payload.like(self.server.runs(experiment)[0])
        payload.write(self.payload)
        return payload

    def raw(self, connections: int, runs: int) -> dict[str, Any]:
        """Load by hand."""
        arguments = ("--connections", str(connections), "--payload", str(self.payload))
        return self._process("benchmarks.rawload", runs, *arguments)

    def drain(self, runs: int) -> dict[str, Any]:
        """Load through mltrace."""
        return self._process(
            "benchmarks.drainer", runs, "--spool", str(self.scratch / f"spool-{next(self._numbers)}")
        )

    def rate(self, name: str, connections: int | None) -> float:
        """Run one repetition, keep its details, and return runs per second."""
        found = self.drain(self.runs) if connections is None else self.raw(connections, self.runs)
        self.details.setdefault(name, []).append(found)
        return float(found["runs"] / found["seconds"])

    def _process(self, module: str, runs: int, *arguments: str) -> dict[str, Any]:
        """Run one process to its end; add what the server says of it: runs held, requests, connections."""
        experiment = f"{module}-{next(self._numbers)}"
        command = [sys.executable, "-m", module, "--url", self.server.url, "--experiment", experiment]
        command += ["--runs", str(runs), *arguments]
        log_start = self.server.log.stat().st_size
        output, connections = watched(command, self.server.port)
        found: dict[str, Any] = json.loads(output)
        requests = requests_since(self.server, log_start)
        expected = int(found["runs"] + found["warm"])
        held = self.server.runs(experiment)
        if len(held) != expected or any(run["status"] != "FINISHED" for run in held):
            raise RuntimeError(
                f"{module} sent {expected} runs, the server holds {len(held)}, or not all FINISHED"
            )
        return {
            **found,
            "experiment": experiment,
            "connections": connections,
            "requests_per_run": requests / expected,
        }


def watched(command: list[str], port: int) -> tuple[bytes, float]:
    """Run a command; return its output and the most connections to the port seen at once, NaN without /proc."""
    most = math.nan
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + TIMEOUT
            while process.poll() is None:
                most = connections_to(port) if math.isnan(most) else max(most, connections_to(port))
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{command} took more than {TIMEOUT} s")
                time.sleep(SAMPLE_SECONDS)
        except BaseException:
            process.kill()
            raise
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return output, most


def connections_to(port: int) -> float:
    """Count this machine's established connections to a local port, from the client's side."""
    listing = Path("/proc/net/tcp")
    if not listing.exists():
        return math.nan
    rows = [line.split() for line in listing.read_text().splitlines()[1:]]
    return sum(row[3] == ESTABLISHED and row[2].endswith(f":{port:04X}") for row in rows)


def requests_since(server: MlflowServer, start: int) -> int:
    """Count the requests in the server's access log behind an offset."""
    with server.log.open("rb") as log:
        log.seek(start)
        return len(re.findall(rb'"(?:GET|POST|PUT|PATCH|DELETE) /[^"]* HTTP', log.read()))


def run(quick: bool, scratch: Path) -> Part:
    """Measure and return the part."""
    part = Part("drain")
    with MlflowServer(scratch / "server") as server:
        server.await_workers()
        yard = Yard(server, scratch, QUICK_RUNS if quick else RUNS)
        payload = yard.learn_payload()
        yard.raw(max(CONNECTIONS), 40)  # every worker has seen every request once
        ways = {f"raw, {count} connection{'s' * (count > 1)}": count for count in CONNECTIONS} | {OWN: None}
        rows = {name: partial(yard.rate, name, count) for name, count in ways.items()}
        samples = interleave(rows, QUICK_ROUNDS if quick else ROUNDS, warm_rounds=0)
    part.samples = {"runs_per_second": samples, "details": yard.details}
    report(part, samples, yard, payload)
    return part


def report(part: Part, samples: Samples, yard: Yard, payload: Payload) -> None:
    """Say how fast each way is and judge the targets."""
    best = max((name for name in samples if name != OWN), key=lambda name: median(samples[name]))
    share = ratios(samples[OWN], samples[best])
    part.say(
        f"{yard.runs} finished runs a repetition, {len(share)} interleaved repetitions, each in a process and experiment "
        f"of its own, on one server with SQLite and its default workers. A run is {payload.describe()}, the same for "
        "all rows: the raw bodies were read back from a run that mltrace had delivered. After each repetition the "
        "server held every run once, FINISHED. Requests and connections are what the server's log and the kernel saw.",
        table(
            ("row", "runs/s", "min–max", "× raw best", "CPU ms/run", "requests/run", "connections"),
            [drain_line(name, values, samples[best], yard.details[name]) for name, values in samples.items()],
        ),
        f"The best raw row is *{best}*; mltrace reaches {number(100 * median(share))} % of it "
        f"({spread([100 * value for value in share])} % in the single rounds).",
    )
    own = yard.details[OWN]
    part.targets = [
        Target("drain / raw best", 100 * median(share), 90, "%", at_least=True),
        Target("CPU of the user's process per run", median(cpu_ms(own)), 1.5, "ms"),
        Target("connections", max(found["connections"] for found in own), 4),
    ]


def drain_line(
    name: str, values: list[float], best: list[float], details: list[dict[str, float]]
) -> tuple[str, ...]:
    """Return the table line of a row."""
    requests = median([found["requests_per_run"] for found in details])
    connections = max(found["connections"] for found in details)
    return (
        name,
        number(median(values)),
        spread(values),
        number(median(ratios(values, best))),
        number(median(cpu_ms(details))),
        number(requests),
        "–" if math.isnan(connections) else str(int(connections)),
    )


def cpu_ms(details: list[dict[str, float]]) -> list[float]:
    """Return the CPU milliseconds per run of each repetition."""
    return [1000 * found["cpu_seconds"] / found["runs"] for found in details]
