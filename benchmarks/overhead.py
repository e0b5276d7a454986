"""Part ``overhead``: microseconds per decorated call over the undecorated one, all rows in one process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import time

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.server import MlflowServer

import mltrace

from . import endpoints, peers
from .harness import (
    Part,
    Samples,
    Target,
    differences,
    interleave,
    median,
    number,
    quantile,
    ratios,
    spread,
    table,
    wait_until,
)
from .settings import Settings, recording


ROOT = Path(__file__).resolve().parent.parent
WARM_CALLS = 200
SETTLE_SECONDS = 0.02  # between blocks: what the last one left running on the server is over by then
RECORD_BYTES = 100  # no journalled call is smaller; guards against a row that records nothing
BACKLOG = 500  # runs, several seconds of sending


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int = 15
    cheap: int = 50_000
    dear: int = 4_000
    timed: int = 10_000
    memory_rounds: int = 5


FULL = Size()
QUICK = Size(rounds=5, cheap=10_000, dear=2_000, timed=3_000, memory_rounds=1)


@dataclass(frozen=True)
class Row:
    """One line of the table: what is called, how often, and what is set before and checked after, untimed."""

    function: Callable[..., Any]
    calls: int
    before: Callable[[], None]
    after: Callable[[], None]
    asynchronous: bool = False

    def block(self) -> float:
        """Return microseconds per call of one block."""
        self.before()
        self._time(WARM_CALLS)
        gc.collect()
        elapsed = self._time(self.calls)
        self.after()
        time.sleep(SETTLE_SECONDS)
        return elapsed / self.calls / 1000

    def _time(self, calls: int) -> int:
        if self.asynchronous:
            return asyncio.run(loop_async(self.function, calls))
        return loop(self.function, calls)


def loop(function: Callable[..., Any], calls: int) -> int:
    """Return the nanoseconds of so many calls."""
    rounds = itertools.repeat(None, calls)
    began = time.perf_counter_ns()
    for _ in rounds:
        function(1, "text")
    return time.perf_counter_ns() - began


async def loop_async(function: Callable[..., Any], calls: int) -> int:
    """Return the nanoseconds of so many awaited calls, inside one running event loop."""
    rounds = itertools.repeat(None, calls)
    began = time.perf_counter_ns()
    for _ in rounds:
        await function(1, "text")
    return time.perf_counter_ns() - began


def latencies(function: Callable[..., Any], calls: int) -> list[int]:
    """Return the nanoseconds of each call, about 100 of them the clock's own."""
    clock = time.perf_counter_ns
    taken = []
    for _ in range(calls):
        began = clock()
        function(1, "text")
        taken.append(clock() - began)
    return taken


def run(quick: bool, scratch: Path) -> Part:
    """Measure and return the part."""
    size = QUICK if quick else FULL
    part = Part("overhead")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(MlflowServer(scratch / "server")).await_workers()
        refusing = stack.enter_context(endpoints.refusing())
        silent = stack.enter_context(endpoints.silent())
        settings = Settings(scratch)
        stack.callback(settings.leave)
        floor_line = stack.enter_context(appending(scratch / "floor.log"))
        spans = stack.enter_context(spans_if_installed())
        urls = {"healthy": server.url, "refusing": refusing, "silent": silent}
        rows = make_rows(size, settings, urls, floor_line, spans)
        samples = interleave({name: row.block for name, row in rows.items()}, size.rounds)
        tails = measure_tails(size, settings, server, floor_line)
        growth = measure_memory(size, server.url, scratch)
    part.samples = {"us_per_call": samples, "tails": tails, "mib_per_10000_calls": growth}
    report_rows(part, rows, samples, spans)
    report_ratios(part, samples)
    report_tails(part, tails)
    report_memory(part, growth)
    return part


def make_rows(
    size: Size, settings: Settings, urls: dict[str, str], floor_line: int, spans: peers.Spans | None
) -> dict[str, Row]:
    """Return every row by name."""
    traced, traced_async = mltrace.track_run(peers.work), mltrace.track_run(peers.work_async)
    healthy = {"tracking_uri": urls["healthy"], "backend": "mlflow"}

    def journal(server: str, *, asynchronous: bool = False) -> Row:
        before = partial(
            connected,
            partial(settings.use, tracking_uri=urls[server], backend="mlflow"),
            20 if server == "healthy" else 0.2,
        )
        after = partial(check_spool, settings, size.dear)
        return Row(traced_async if asynchronous else traced, size.dear, before, after, asynchronous)

    def configured(calls: int, records: bool | None, **options: Any) -> Row:
        return Row(
            traced, calls, partial(switched, partial(settings.use, **options), records), settings.leave
        )

    def plain(
        function: Callable[..., Any], calls: int, after: Callable[[], None] = nothing, **kind: bool
    ) -> Row:
        return Row(function, calls, nothing, after, **kind)

    off_by_environment = partial(switched, partial(settings.off_by_environment, **healthy), False)
    rows = {
        "none": plain(peers.work, size.cheap),
        "none, async": plain(peers.work_async, size.cheap, asynchronous=True),
        "wrapt pass-through": plain(peers.pass_through(peers.work), size.cheap),
        "off, configure(enabled=False)": configured(size.cheap, False, enabled=False, **healthy),
        "off, MLTRACE_ENABLED=0": Row(traced, size.cheap, off_by_environment, settings.leave),
        "noop": configured(size.dear, None, backend="noop"),
        "memory": configured(size.dear, True, backend="memory"),
        "floor: capture, encode, append": plain(peers.floor(peers.work, floor_line), size.dear),
        "journal": journal("healthy"),
        "journal again": journal("healthy"),
        "journal, async": journal("healthy", asynchronous=True),
        "journal, server refusing": journal("refusing"),
        "journal, server silent": journal("silent"),
    }
    if spans is not None:
        rows["OpenTelemetry span"] = plain(spans.decorate(peers.work), size.dear, spans.settle)
    return rows


def nothing() -> None:
    """Prepare or check nothing."""


def switched(switch: Callable[[], None], records: bool | None) -> None:
    """Switch mltrace over, and make sure that calls are recorded, or are not; None leaves that open."""
    switch()
    if records is not None and recording() is not records:
        raise RuntimeError(f"{switch} should {'' if records else 'not '}record, and does the opposite")


def connected(switch: Callable[[], None], timeout: float) -> None:
    """Switch mltrace over, and have the sender started and, where there is a server, connected: a block measures calls, not a start."""
    switched(switch, True)
    mltrace.flush(timeout)


def check_spool(settings: Settings, calls: int) -> None:
    """Make sure that the block reached the disk, then leave it."""
    size = settings.spooled_bytes()
    if size < calls * RECORD_BYTES:
        raise RuntimeError(f"{calls} journalled calls left {size} bytes in {settings.spool}")
    settings.leave()


@contextlib.contextmanager
def appending(path: Path) -> Iterator[int]:
    """Yield a descriptor that appends to a new file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def spans_if_installed() -> Iterator[peers.Spans | None]:
    """Yield OpenTelemetry's side of the comparison, None when the SDK is not installed."""
    try:
        spans = peers.Spans()
    except ImportError:
        yield None
        return
    try:
        yield spans
    finally:
        spans.close()


# -- the tail, with the sender at work ----------------------------------------------------


def measure_tails(size: Size, settings: Settings, server: MlflowServer, floor_line: int) -> dict[str, Any]:
    """Time single calls while the sender works off a backlog on the real server.

    The floor is timed in the same rounds: its tail is the share of the machine and the interpreter's lock in ours.
    """
    settings.use(tracking_uri=server.url, backend="mlflow")
    rows = {"journal": mltrace.track_run(peers.work), "floor": peers.floor(peers.work, floor_line)}
    before = stored_runs(server)
    loop(rows["journal"], BACKLOG)
    if not wait_until(lambda: stored_runs(server) > before, 30):
        raise RuntimeError(f"the sender delivered nothing to {server.url} in 30 s")
    found: dict[str, dict[str, list[float]]] = {name: {"median": [], "p99": [], "max": []} for name in rows}
    delivered = stored_runs(server)
    began = time.monotonic()
    for _ in range(size.rounds):
        for name, function in rows.items():
            gc.collect()
            taken = [value / 1000 for value in latencies(function, size.timed)]
            summary = {"median": median(taken), "p99": quantile(taken, 0.99), "max": max(taken)}
            for key, value in summary.items():
                found[name][key].append(value)
    seconds = time.monotonic() - began
    delivered = stored_runs(server) - delivered
    settings.leave()
    if not delivered:
        raise RuntimeError("the sender delivered nothing while the calls were timed")
    return {**found, "delivered": delivered, "seconds": seconds, "calls": size.timed}


def stored_runs(server: MlflowServer) -> int:
    """Count the runs in the server's store, past the server: asking it would slow it down."""
    with contextlib.closing(sqlite3.connect(f"file:{server.store}?mode=ro", uri=True, timeout=30)) as store:
        return int(store.execute("SELECT count(*) FROM runs").fetchone()[0])


# -- memory -------------------------------------------------------------------------------


def measure_memory(size: Size, url: str, scratch: Path) -> dict[str, list[list[float]]]:
    """Return, per kind of function, the growth of each lot of 10,000 calls in each of several processes."""
    growth: dict[str, list[list[float]]] = {"none": [], "journal": []}
    for number_of_round in range(size.memory_rounds):
        spool = scratch / f"memory-{number_of_round}"
        growth["none"].append(memory_process())
        growth["journal"].append(memory_process("--url", url, "--spool", str(spool)))
    return growth


def memory_process(*arguments: str) -> list[float]:
    """Run the probe in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, check=True, timeout=120, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    decoded: list[float] = json.loads(done.stdout)
    return decoded


# -- the report ---------------------------------------------------------------------------


def base(name: str) -> str:
    """Return the undecorated row that belongs to a row."""
    return "none, async" if name.endswith("async") else "none"


def added(samples: Samples, name: str) -> list[float]:
    """Return what a row adds to the undecorated call, by round."""
    return differences(samples[name], samples[base(name)])


def compared(samples: Samples, name: str, reference: str) -> list[float]:
    """Return, by round, what a row adds as a multiple of what another adds; empty when one was not measured."""
    if name not in samples or reference not in samples:
        return []
    return ratios(added(samples, name), added(samples, reference))


def report_rows(part: Part, rows: dict[str, Row], samples: Samples, spans: peers.Spans | None) -> None:
    """Say what each row costs."""
    part.say(
        f"`f(x: int, y: str) -> int`, {len(samples['none'])} rounds, medians. *Added* is the time over the undecorated "
        "call, and the ratios are ratios of it. The sender is alive in every journal row, and each block has a spool of "
        "its own. *Silent* is a server that accepts and never answers.",
        table(
            ("row", "calls a block", "µs/call", "min–max", "added µs", "× wrapt", "× floor"),
            [line(samples, name, row.calls) for name, row in rows.items()],
        ),
    )
    if spans is None:
        part.say("No row for OpenTelemetry: `opentelemetry-sdk` is not installed.")


def line(samples: Samples, name: str, calls: int) -> tuple[str, ...]:
    """Return the table line of a row."""
    values = samples[name]
    figures = (f"{calls:,}", number(median(values)), spread(values))
    if name == base(name):
        return (name, *figures, "", "", "")
    to_wrapt = median(compared(samples, name, "wrapt pass-through"))
    to_floor = median(compared(samples, name, "floor: capture, encode, append"))
    return (name, *figures, number(median(added(samples, name))), number(to_wrapt), number(to_floor))


RATIOS = (
    ("off by configure / wrapt pass-through", "off, configure(enabled=False)", "wrapt pass-through", 1.5),
    ("off by environment / wrapt pass-through", "off, MLTRACE_ENABLED=0", "wrapt pass-through", 1.5),
    ("journal / floor", "journal", "floor: capture, encode, append", 3.0),
    ("journal / OpenTelemetry span", "journal", "OpenTelemetry span", 1.0),
    ("journal async / sync", "journal, async", "journal", 1.15),
    ("journal, server refusing / healthy", "journal, server refusing", "journal", 1.1),
    ("journal, server silent / healthy", "journal, server silent", "journal", 1.1),
)


def report_ratios(part: Part, samples: Samples) -> None:
    """Say how the rows relate, how well that is known, and judge the targets."""
    lines = [("journal again / journal (error of the method)", compared(samples, "journal again", "journal"))]
    for figure, name, reference, limit in RATIOS:
        found = compared(samples, name, reference)
        lines.append((figure, found))
        part.targets.append(Target(figure, median(found), limit, "×"))
    part.say(
        "Ratios within each round. Where the first line's range is wide, the machine was busy and the others mean less.",
        table(
            ("ratio", "median", "min–max"), [(figure, number(median(r)), spread(r)) for figure, r in lines]
        ),
    )


def report_tails(part: Part, tails: dict[str, Any]) -> None:
    """Say how long single calls take while the sender works."""

    def tail_line(name: str, key: str) -> tuple[str, ...]:
        own = tails[key]
        by_round = ratios(own["p99"], own["median"])
        figures = [number(median(own[figure])) for figure in ("median", "p99", "max")]
        return (name, *figures, number(median(by_round)), spread(by_round))

    part.say(
        f"Calls timed one by one, {tails['calls']:,} a round, while the sender delivered {tails['delivered']} runs in "
        f"{tails['seconds']:.1f} s to the real server on the same machine.",
        table(
            ("row", "median µs", "p99 µs", "max µs", "p99 / median", "min–max"),
            [tail_line("journal", "journal"), tail_line("floor, same process and time", "floor")],
        ),
    )
    of_medians = median(ratios(tails["journal"]["median"], tails["floor"]["median"]))
    part.targets.append(Target("journal / floor, single calls while sending", of_medians, 3.0, "×"))
    measured = median(ratios(tails["journal"]["p99"], tails["journal"]["median"]))
    part.targets.append(Target("journal p99 / median while sending", measured, 4.0, "×"))
    floors = median(ratios(tails["floor"]["p99"], tails["floor"]["median"]))
    part.say(
        f"The hand-written floor, which has no sender, has {number(floors)} × between median and p99 in the same seconds."
    )


def report_memory(part: Part, growth: dict[str, list[list[float]]]) -> None:
    """Say how much the peak of memory rises."""

    def memory_line(name: str, key: str) -> tuple[str, ...]:
        lots = list(zip(*growth[key], strict=True))
        first, last = lots[0], lots[-1]
        return name, number(median(first)), spread(first), number(median(last)), spread(last)

    part.say(
        f"Peak of resident memory, each time in a process of its own ({len(growth['journal'])} a row), sender alive: what the first and "
        "the third 10,000 calls add, in MiB.",
        table(
            ("row", "first 10,000", "min–max", "third 10,000", "min–max"),
            [memory_line("none", "none"), memory_line("journal", "journal")],
        ),
    )
