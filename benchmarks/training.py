"""Part ``training``: a loop that logs metrics, through MLflow, its queue, the bridge and `Run.log_metric`; with the
server up, slow and down; how long until all is there, and how much memory it takes."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import subprocess
import sys
import time

from pathlib import Path
from typing import Any

from tests.harness import Answer, Proxy, Request
from tests.server import HOST, MlflowServer

from .endpoints import refusing
from .harness import Part, Samples, Target, interleave, median, number, spread, table


ROOT = Path(__file__).resolve().parent.parent
METRICS, QUICK_METRICS = 100_000, 5_000
ROUNDS, QUICK_ROUNDS = 3, 2
PLAIN_METRICS, SLOW_METRICS = 300, 15  # of MLflow's own store, a request each
ASYNC_METRICS = 2_000  # of its queue: 100,000 take more than five minutes to arrive, and 0.8 GB
SLOW_SECONDS = 0.2
BATCH = 1000
WAYS = {
    "plain": "`mlflow.log_metric`, MLflow's own store",
    "async": "`mlflow.log_metric(synchronous=False)`",
    "bridge": "`mlflow.log_metric`, `mltrace+` address",
    "run": "`Run.log_metric`",
}
TIMEOUT = 3600


class Slow(Proxy):
    """A proxy that holds every request for 200 ms."""

    def forward(self, request: Request) -> Answer:
        """Wait, then forward."""
        time.sleep(SLOW_SECONDS)
        return super().forward(request)


class Yard:
    """Where processes train: each has a spool of its own."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._numbers = itertools.count()

    def train(self, way: str, url: str, metrics: int, *, drain: bool = False) -> dict[str, Any]:
        """Run the loop in a process and return what it says."""
        command = [sys.executable, "-m", "benchmarks.trainer", "--way", way, "--url", url]
        command += ["--metrics", str(metrics), "--spool", str(self._scratch / f"spool{next(self._numbers)}")]
        command += ["--drain"] if drain else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if done.returncode:
            raise RuntimeError(f"{way} failed: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def run(quick: bool, scratch: Path) -> Part:
    """Measure everything."""
    part = Part("Training: 100,000 metrics" if not quick else f"Training: {QUICK_METRICS:,} metrics")
    rounds, metrics = (QUICK_ROUNDS, QUICK_METRICS) if quick else (ROUNDS, METRICS)
    yard = Yard(scratch)
    with MlflowServer(scratch / "server", workers=1) as server, Slow(server.port) as slow, refusing() as down:
        calls = per_call(yard, {"up": server.url, "slow": slow.url, "down": down}, metrics, rounds)
        drains = draining(yard, server, metrics, max(rounds // 2, 1))
    part.samples = {"microseconds per call": calls, "draining": drains}
    describe_calls(part, calls)
    describe_draining(part, drains, metrics)
    return part


def per_call(yard: Yard, urls: dict[str, str], metrics: int, rounds: int) -> Samples:
    """Return microseconds per call by way and state of the server."""
    counts = {("plain", "up"): PLAIN_METRICS, ("plain", "slow"): SLOW_METRICS}
    counts |= {("async", state): ASYNC_METRICS for state in urls}
    rows = {
        f"{way} {state}": lambda way=way, url=url, state=state: float(  # type: ignore[misc]
            yard.train(way, url, counts.get((way, state), metrics))["microseconds"]
        )
        for way in WAYS
        for state, url in urls.items()
        if state != "down" or way in ("bridge", "run")  # MLflow cannot begin a run there
    }
    return interleave(rows, rounds, warm_rounds=0)


def describe_calls(part: Part, calls: Samples) -> None:
    """Add the table of calls, and its targets."""

    def cell(way: str, state: str) -> str:
        found = calls.get(f"{way} {state}")
        return "raises" if found is None else f"{number(median(found))} ({spread(found)})"

    part.say(
        "Microseconds that one call takes, median of the rounds (range):",
        table(
            ("", "server up", "slow (200 ms)", "down"),
            [(name, *(cell(way, state) for state in ("up", "slow", "down"))) for way, name in WAYS.items()],
        ),
    )
    up, slow, down = (median(calls[f"bridge {state}"]) for state in ("up", "slow", "down"))
    part.targets += [
        Target("`Run.log_metric`, server up", median(calls["run up"]), 5, "µs"),
        Target(
            "MLflow's own store ÷ bridge, server up", median(calls["plain up"]) / up, 20, "×", at_least=True
        ),
        Target("bridge, server slow ÷ up", slow / up, 1.2, "×"),
        Target("bridge, server down ÷ up", down / up, 1.2, "×"),
    ]


def draining(
    yard: Yard, server: MlflowServer, metrics: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Return, by way, metrics per second until all is on the server, and megabytes."""
    found: dict[str, list[dict[str, float]]] = {"raw": []}
    for _ in range(rounds):
        found["raw"].append({"rate": raw(server, metrics), "megabytes": math.nan})
        for way, count in (
            ("async", ASYNC_METRICS),
            ("bridge", metrics),
            ("run", metrics),
            ("plain", PLAIN_METRICS),
        ):
            result = yard.train(way, server.url, count, drain=True)
            found.setdefault(way, []).append(
                {"rate": count / result["seconds"], "megabytes": result["megabytes"]}
            )
    return found


def raw(server: MlflowServer, metrics: int) -> float:
    """Send as many metrics by hand, `BATCH` per request over one connection; return them per second."""
    experiment = server.rest("experiments/create", {"name": f"raw {time.time_ns()}"})["experiment_id"]
    run_id = server.rest("runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"][
        "run_id"
    ]
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    began = time.perf_counter()
    for first in range(0, metrics, BATCH):
        points = [
            {"key": "loss", "value": 1.0 / (step + 1), "timestamp": 1_700_000_000_000 + step, "step": step}
            for step in range(first, min(first + BATCH, metrics))
        ]
        body = json.dumps({"run_id": run_id, "metrics": points}).encode()
        connection.request(
            "POST", "/api/2.0/mlflow/runs/log-batch", body, {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        if response.read() and response.status != 200:
            raise RuntimeError(f"log-batch answered {response.status}")
    seconds = time.perf_counter() - began
    connection.close()
    return metrics / seconds


def describe_draining(part: Part, drains: dict[str, list[dict[str, float]]], metrics: int) -> None:
    """Add the table of draining, and its targets."""
    names = {"raw": f"`log-batch` by hand, {BATCH:,} metrics per request", **WAYS}

    def rates(way: str) -> list[float]:
        return [sample["rate"] for sample in drains[way]]

    def grown(way: str) -> float:
        return median([sample["megabytes"] for sample in drains[way]])

    part.say(
        f"From the first of {metrics:,} calls until all is on the server ({PLAIN_METRICS} for MLflow's own store, {ASYNC_METRICS:,} for its queue), and how"
        " much the process has grown meanwhile:",
        table(
            ("", "metrics/s (range)", "MB"),
            [
                (name, f"{number(median(rates(way)))} ({spread(rates(way))})", number(grown(way)))
                for way, name in names.items()
            ],
        ),
    )
    raw_rate, plain_rate, own = median(rates("raw")), median(rates("plain")), median(rates("run"))
    part.targets += [
        Target("`Run.log_metric` until delivered ÷ by hand", own / raw_rate, 0.9, "×", at_least=True),
        Target("`Run.log_metric` until delivered ÷ one by one", own / plain_rate, 40, "×", at_least=True),
    ]
