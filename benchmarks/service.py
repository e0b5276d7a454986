"""Part ``service``: what mltrace adds to the latency of the example service, and takes of its throughput, under load."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import subprocess
import sys

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.server import MlflowServer, free_port

from . import endpoints
from .harness import (
    Part,
    Samples,
    Target,
    differences,
    interleave,
    median,
    number,
    progress,
    quantile,
    ratios,
    spread,
    table,
    wait_until,
)
from .settings import OFF


ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "rag_service"
RUNS_PER_REQUEST = 4
CONNECTIONS = 4
START_SECONDS, DRAIN_SECONDS = 120, 600
WARM_SECONDS = 3
REFERENCE = "off"
DELIVERED = ("runs", "traces")
QUANTILES = {"p50": 0.5, "p99": 0.99}
LIMITS = {"p50": 0.2, "p99": 2.0}


@dataclass(frozen=True)
class Size:
    """How much is measured: seconds of each block, and requests a second where their rate is fixed."""

    rounds: int = 8
    paced_seconds: float = 15
    rate: float = 6
    alone_rounds: int = 12
    alone_seconds: float = 3
    alone_rate: float = 100
    full_seconds: float = 2
    full_rounds: int = 3


FULL = Size()
QUICK = Size(rounds=3, paced_seconds=6, alone_rounds=3, full_seconds=1, full_rounds=2)


class Service:
    """The example service in a process of its own, with every document of the corpus."""

    def __init__(self, scratch: Path, llm_port: int, **environment: str) -> None:
        scratch.mkdir()
        self.port = free_port()
        foreign = ("MLTRACE_", "MLFLOW_", "OPENAI_", "RAG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        told = {
            "RAG_PORT": str(self.port),
            "OPENAI_BASE_URL": f"http://{endpoints.HOST}:{llm_port}/v1",
            "RAG_DOCUMENTS": str(ROOT / "examples" / "corpus"),
            "MLTRACE_SPOOL_DIR": str(scratch / "spool"),
        }
        self._process = subprocess.Popen(
            [sys.executable, *(("-m", "benchmarks.byhand") if "BY_HAND" in environment else (str(EXAMPLE),))],
            cwd=ROOT,
            env={**kept, **told, **environment},
            stdout=subprocess.DEVNULL,
        )

    def health(self) -> dict[str, Any] | None:
        """Return what the health route says; None where nobody answers."""
        connection = http.client.HTTPConnection(endpoints.HOST, self.port, timeout=10)
        try:
            connection.request("GET", "/health")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return found

    def is_drained(self) -> bool:
        """Say whether everything is delivered."""
        found = self.health()
        return found is not None and found["tracking"]["pending"] == 0

    def kill(self) -> None:
        """End it at once: what it has not sent is thrown away."""
        self._process.kill()
        self._process.wait()


def load(services: Sequence[Service], seconds: float, rate: float = 0.0) -> list[list[float]]:
    """Put load on the services; return the latencies of each in milliseconds."""
    options = {
        "ports": ",".join(str(service.port) for service in services),
        "seconds": seconds,
        "connections": CONNECTIONS,
        "rate": rate,
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.loader", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=seconds + 120)
    found = json.loads(done.stdout)
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} requests failed")
    return [found["ms"][str(service.port)] for service in services]


@contextlib.contextmanager
def local_llm() -> Iterator[int]:
    """Serve the example's model in a process of its own; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLE), "local_llm:app"]
    with subprocess.Popen([*command, "--port", str(port), "--log-level", "warning"]) as process:
        try:
            yield port
        finally:
            process.kill()


def run(quick: bool, scratch: Path) -> Part:
    """Measure and return the part."""
    size = QUICK if quick else FULL
    part = Part("service")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(MlflowServer(scratch / "server", start_timeout=300)).await_workers()
        refusing = stack.enter_context(endpoints.refusing())
        llm_port = stack.enter_context(local_llm())
        told = {
            "off": {"MLFLOW_TRACKING_URI": server.url, OFF: "0"},
            "off again": {"MLFLOW_TRACKING_URI": server.url, OFF: "0"},
            "by hand": {
                "MLFLOW_TRACKING_URI": server.url,
                OFF: "0",
                "BY_HAND": str(scratch / "by-hand.lines"),
            },
            "capture alone": {"MLFLOW_TRACKING_URI": refusing, "MLTRACE_BACKEND": "noop"},
            "runs": {"MLFLOW_TRACKING_URI": server.url},
            "traces": {"MLFLOW_TRACKING_URI": server.url, "MLTRACE_RECORD_AS": "trace"},
            "runs, server down": {"MLFLOW_TRACKING_URI": refusing},
        }
        services: dict[str, Service] = {}
        for name, environment in told.items():
            services[name] = Service(
                scratch / name.replace(" ", "-").replace(",", ""), llm_port, **environment
            )
            stack.callback(services[name].kill)
        for name, service in services.items():
            if not wait_until(lambda service=service: service.health() is not None, START_SECONDS):
                raise RuntimeError(f"the service {name!r} does not answer")
        draining = [services[name] for name in DELIVERED]
        load(list(services.values()), WARM_SECONDS, size.rate)
        paced = measure_latency(services, size.rounds, partial(in_turn, services, size))
        at_rest = {name: service for name, service in services.items() if name != "runs"}
        alone = measure_latency(at_rest, size.alone_rounds, partial(one_by_one, at_rest, size))
        rates = measure_rates(size, services, draining)
        check_held(server, paced[1])
    part.samples = {"ms": paced[1], "ms_alone": alone[1], "requests_per_second": rates}
    part.say(
        f"`POST /ask` of examples/rag_service, {RUNS_PER_REQUEST} runs each or one trace of as many spans, at {size.rate:g} a second over {CONNECTIONS} connections, each sent to every row's "
        f"process in turn; {size.rounds} rounds of {size.paced_seconds:g} s, medians over the rounds, in ms. Services, language model, load and MLflow are "
        "processes of one machine. *Off again* against *off* is the error of the method; *by hand* is mltrace off and four lines as long as its runs encoded and appended, with "
        "nothing bound, bounded, hidden or nested; *capture alone* is the noop backend.",
        latency_table(*paced),
    )
    part.say(
        f"The same at {size.alone_rate:g} a second, one service at a time for {size.alone_seconds:g} s; {size.alone_rounds} rounds. As runs the server would not keep up.",
        latency_table(*alone),
    )
    for name in (*DELIVERED, "runs, server down"):
        for label, limit in LIMITS.items():
            added = median(differences(paced[0][label][name], paced[0][label][REFERENCE]))
            part.targets.append(Target(f"{name}: added to the {label}", added, limit, "ms"))
    for name in ("traces", "runs, server down"):
        for label, limit in LIMITS.items():
            added = median(differences(alone[0][label][name], alone[0][label][REFERENCE]))
            what = f"{name}, {size.alone_rate:g} a second: added to the {label}"
            part.targets.append(Target(what, added, limit, "ms"))
    report_rates(part, rates)
    return part


def check_held(server: MlflowServer, samples: Samples) -> None:
    """Raise RuntimeError where the server holds fewer runs or traces than the requests made."""
    for kind, expected, held in (
        ("runs", RUNS_PER_REQUEST * len(samples["runs"]), len(server.runs("rag_experiments"))),
        ("traces", len(samples["traces"]), server.count_traces("rag_experiments")),
    ):
        if held < expected:
            raise RuntimeError(f"{expected} {kind} at least were made, the server holds {held}")


def in_turn(services: dict[str, Service], size: Size) -> dict[str, list[float]]:
    """Return the latencies of requests at a fixed rate, each sent to every service."""
    taken = load(list(services.values()), size.paced_seconds, size.rate)
    return dict(zip(services, taken, strict=True))


def one_by_one(services: dict[str, Service], size: Size) -> dict[str, list[float]]:
    """Return the latencies of requests at a fixed rate to one service after the other, in another order each time."""
    names = random.sample(list(services), len(services))
    return {name: load([services[name]], size.alone_seconds, size.alone_rate)[0] for name in names}


def measure_latency(
    services: dict[str, Service], rounds: int, measure: Callable[[], dict[str, list[float]]]
) -> tuple[dict[str, Samples], Samples]:
    """Return p50 and p99 of each round, and all latencies."""
    every: Samples = {name: [] for name in services}
    quantiles: dict[str, Samples] = {label: {name: [] for name in services} for label in QUANTILES}
    for number_of_round in range(rounds):
        progress(f"round {number_of_round + 1} of {rounds}")
        for name, taken in measure().items():
            every[name] += taken
            for label, share in QUANTILES.items():
                quantiles[label][name].append(quantile(taken, share))
    progress("")
    return quantiles, every


def measure_rates(size: Size, services: dict[str, Service], draining: Sequence[Service]) -> Samples:
    """Return requests a second where each follows the one before."""

    def block(name: str) -> float:
        settle(draining)
        (taken,) = load([services[name]], size.full_seconds)
        return len(taken) / size.full_seconds

    rates = interleave({name: partial(block, name) for name in services}, size.full_rounds, warm_rounds=0)
    settle(draining)
    return rates


def settle(draining: Sequence[Service]) -> None:
    """Wait until the server is idle: what is still on its way would be paid for by the next block."""
    if not wait_until(lambda: all(service.is_drained() for service in draining), DRAIN_SECONDS, every=0.2):
        raise RuntimeError("the server did not take what was recorded")


def latency_table(quantiles: dict[str, Samples], samples: Samples) -> str:
    """Return how long requests take, and what is added to the reference of the same round."""

    def line(name: str) -> tuple[str, ...]:
        figures = [name, f"{len(samples[name]):,}"]
        for label in QUANTILES:
            added = differences(quantiles[label][name], quantiles[label][REFERENCE])
            figures += [number(median(quantiles[label][name])), number(median(added)), spread(added)]
        pooled = quantile(samples[name], 0.99) - quantile(samples[REFERENCE], 0.99)
        return (*figures, number(pooled))

    titles = ("row", "requests", "p50", "added", "min–max", "p99", "added", "min–max", "p99 of all, added")
    return table(titles, [line(name) for name in samples])


def report_rates(part: Part, rates: Samples) -> None:
    """Say how many requests a second there are."""
    lines = [
        (name, number(median(values)), spread(values), number(median(ratios(values, rates[REFERENCE]))))
        for name, values in rates.items()
    ]
    part.say(
        f"The same over {CONNECTIONS} connections, each request behind the one before: the service is saturated.",
        table(("row", "requests/s", "min–max", "× off"), lines),
    )
