"""Part ``soak``: resident memory of a process that serves 200,000 requests, the server healthy or refusing."""

from __future__ import annotations

import json
import subprocess
import sys

from pathlib import Path

from tests.server import MlflowServer

from . import endpoints
from .harness import Part, Target, number, table


ROOT = Path(__file__).resolve().parent.parent
CALLS, QUICK_CALLS = 200_000, 20_000
WARM_SHARE = 0.1
TIMEOUT = 1800


def run(quick: bool, scratch: Path) -> Part:
    """Measure and return the part."""
    calls = QUICK_CALLS if quick else CALLS
    part = Part("soak")
    with MlflowServer(scratch / "server") as server, endpoints.refusing() as refusing:
        server.await_workers()
        found = {
            name: soak(calls, url, scratch / name)
            for name, url in (("healthy", server.url), ("refusing", refusing))
        }
    part.samples = {"mib": found}
    warm = {name: values[int(len(values) * WARM_SHARE) :] for name, values in found.items()}
    moved = {name: max(abs(value - values[0]) for value in values) for name, values in warm.items()}
    part.say(
        f"{calls:,} requests through the ASGI middleware, one LLM call in each, in one process that does nothing else: resident memory in MiB, read "
        f"{len(next(iter(found.values())))} times. *Moved* is the farthest from the reading after the first {WARM_SHARE:.0%} of the requests.",
        table(
            ("server", "at the start", "warm", "at the end", "highest", "moved"),
            [
                (name, *map(number, (found[name][0], values[0], values[-1], max(values), moved[name])))
                for name, values in warm.items()
            ],
        ),
    )
    part.targets = [Target(f"memory moved, server {name}", value, 10, "MiB") for name, value in moved.items()]
    return part


def soak(calls: int, url: str, spool: Path) -> list[float]:
    """Run the probe in a process of its own; return its readings."""
    arguments = ["--calls", str(calls), "--url", url, "--spool", str(spool)]
    command = [sys.executable, "-m", "benchmarks.soaker", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, check=True, timeout=TIMEOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    found: list[float] = json.loads(done.stdout)
    return found
