"""
Programs that log: each runs in a process of its own, forked from a server that has mltrace imported,
and tells the oracle what it was promised.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import resource
import sys
import threading
import time

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mltrace

from mltrace import _config
from mltrace._spool import DestinationDirectory
from mltrace._survey import report
from mltrace.delivery import rest  # noqa: F401 # imported before the fork, once for all
from tests.faults import crashpoints, mutants
from tests.faults.oracle import Ledger, Plan, point, text


@dataclass
class Task:
    """
    What a client process is to do: *program* is a function of this module.

    *tune* are constants of mltrace to set, by dotted name; *crash*: the crash point to die at;
    *clock*: seconds that the wall clock is off.
    """

    program: str
    pipe: str
    uri: str
    spool: str
    experiment: str
    name: str
    seed: int = 0
    runs: int = 3
    settings: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    tune: dict[str, float] = field(default_factory=dict)
    mutant: str = ""
    crash: int = -1
    clock: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)


def main(task: Task) -> None:
    """Set up mltrace as *task* says and run its program; the process ends as `os._exit` would end it."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "MLTRACE_")):
            del os.environ[name]
    os.environ.update(task.environ)
    sys.stderr = open(os.environ.get("MLTRACE_FAULTS_STDERR", os.devnull), "a")  # noqa: SIM115
    prepare(task)
    mltrace.configure(
        tracking_uri=task.uri, experiment_name=task.experiment, spool_dir=task.spool, **task.settings
    )
    program: Callable[[Task, Ledger], None] = globals()[task.program]
    program(task, Ledger(task.pipe))


def prepare(task: Task) -> None:
    """Set constants, clock, mutant and crash point."""
    tune(task.tune)
    if task.clock:
        turn_clock(task.clock)
    if task.mutant:
        mutants.switch_on(task.mutant)
    if task.crash >= 0 or task.extra.get("count"):
        crashpoints.install(task.crash, task.extra.get("count", ""))


def tune(constants: dict[str, float]) -> None:
    """Set constants by dotted name."""
    for dotted, value in constants.items():
        module, _, name = dotted.rpartition(".")
        setattr(importlib.import_module(module), name, value)


def turn_clock(seconds: float) -> None:
    """Have the whole process see a wall clock that is off by *seconds*."""
    true_ns, true = time.time_ns, time.time
    offset = int(seconds * 1e9)
    time.time_ns = lambda: true_ns() + offset
    time.time = lambda: true() + seconds
    mltrace._clock.wall_ns = time.time_ns


def now_ms() -> int:
    """Return the wall clock as the client sees it."""
    return time.time_ns() // 1_000_000


# What is logged.


def plan_of(name: str, rng: random.Random, parent: str = "", *, plain: bool = False) -> Plan:
    """Return a plan for a run of moderate size; a *plain* one does not fail, which logs a traceback too."""
    return Plan(
        name,
        parent,
        params=rng.randint(0, 3),
        points=rng.randint(0, 12),
        tags=rng.randint(0, 3),
        texts=int(rng.random() < 0.15),
        status="FINISHED" if plain else rng.choice(["FINISHED", "FINISHED", "FAILED"]),
    )


@contextlib.contextmanager
def running(ledger: Ledger, plan: Plan) -> Iterator[mltrace.Run]:
    """Begin and end a run as planned."""
    ledger.intend(plan)
    began = now_ms()
    block = mltrace.track_run(plan.name)
    run = block.__enter__()
    ledger.owe(plan.name, "start", began, run.id)
    yield run
    began = now_ms()
    error = RuntimeError("planned") if plan.status == "FAILED" else None
    block.__exit__(type(error) if error else None, error, None)
    ledger.owe(plan.name, "end", began)


def log_items(ledger: Ledger, plan: Plan, run: Any) -> None:
    """Log what *plan* says to *run* (or the current run), and say so after each call."""
    for item in plan.items:
        kind, number = item[0], item[1:]
        if not number.isdigit():
            continue
        began = now_ms()
        if kind == "p":
            run.log_param(item, text(plan.name, item))
        elif kind == "m":
            run.log_metric("m", point(int(number)), step=int(number))
        elif kind == "t":
            run.set_tags({item: text(plan.name, item), "latest": number})
        else:
            run.log_text(text(plan.name, item), f"{item}.txt")
        ledger.owe(plan.name, item, began)


def call(ledger: Ledger, name: str, parent: str = "") -> None:
    """Make one decorated call, which is a run of its own."""
    ledger.intend(Plan(name, parent, call=True))
    seen = []

    @mltrace.track_run(name)
    def measure(word: str) -> int:
        seen.append(mltrace.current_run().id)
        return len(word)

    began = now_ms()
    measure(name)
    ledger.owe(name, "call", began, seen[0])


def log_one(task: Task, ledger: Ledger, rng: random.Random, number: int) -> None:
    """
    Log one run with a child and a call; *plain*: only what is one record for one obligation, so that
    dropped records can be compared with missing obligations.
    """
    plain = task.extra.get("plain", False)
    outer = plan_of(f"{task.name}-{number}", rng, plain=plain)
    if task.extra.get("small"):
        outer = outer._replace(params=1, points=1, tags=1, texts=1)
    with running(ledger, outer) as run:
        log_items(ledger, outer, run)
        if task.extra.get("paced"):
            run.wait(0.5)  # so that it is sent while it is open
        inner = plan_of(f"{task.name}-{number}-inner", rng, outer.name, plain=plain)
        if task.extra.get("small"):
            inner = inner._replace(params=0, points=1, tags=0, texts=0)
        with running(ledger, inner) as child:
            log_items(ledger, inner, child)
        if not plain:
            call(ledger, f"{task.name}-{number}-call", outer.name)


# Programs.


def work(task: Task, ledger: Ledger) -> None:
    """Log *runs* trees, and leave as told: *leave* is ``close`` (deliver), ``exit`` (at once) or ``stay``."""
    rng = random.Random(task.seed)
    for number in range(task.runs):
        log_one(task, ledger, rng, number)
        check_counts(ledger)
        if jump := task.extra.get("jump"):
            turn_clock(jump)
    leave(task, ledger)


def leave(task: Task, ledger: Ledger) -> None:
    """End as the task says."""
    how = task.extra.get("leave", "close")
    if how == "close":
        mltrace.flush(task.extra.get("flush", 60))
        check_counts(ledger)
        mltrace.shutdown(5)
    elif how == "stay":
        ledger.note("ready")
        threading.Event().wait(60)
    os._exit(0)


def check_counts(ledger: Ledger) -> None:
    """Say so where the counts of this process do not add up."""
    found = mltrace.status()
    settled = found.delivered + sum(found.dropped.values()) + found.dead
    if found.accepted != settled + found.pending or found.pending < 0:
        ledger.note("law", str(found))


def backlog(task: Task, ledger: Ledger) -> None:
    """Log one run with *points* points beside small ones, and die without a word."""
    plan = Plan(task.name, params=2, points=task.extra["points"], tags=2)
    with running(ledger, plan) as run:
        log_items(ledger, plan, run)
    check_counts(ledger)
    rng = random.Random(task.seed)
    for number in range(task.runs):
        log_one(task, ledger, rng, number)
    leave(task, ledger)


def threads(task: Task, ledger: Ledger) -> None:
    """Log from four threads at once, below a run that another process has open, if one is given."""
    carrier = task.extra.get("carrier")
    parent = task.extra.get("parent", "")

    def one(thread: int) -> None:
        rng = random.Random(task.seed * 10 + thread)
        for number in range(task.runs):
            plan = plan_of(f"{task.name}-t{thread}-{number}", rng, parent)
            with running(ledger, plan) as run:
                log_items(ledger, plan, run)
                call(ledger, f"{plan.name}-call", plan.name)

    with mltrace.attach(carrier) if carrier else contextlib.nullcontext():
        workers = [threading.Thread(target=mltrace.wrap(one), args=(thread,)) for thread in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    leave(task, ledger)


def lender(task: Task, ledger: Ledger) -> None:
    """Have a run open below which other processes log, and end it when they are done."""
    directory = Path(task.environ["HOME"])
    plan = Plan(task.name, params=1, points=3)
    with running(ledger, plan) as run:
        log_items(ledger, plan, run)
        (directory / f"{task.name}.carrier").write_text(json.dumps(mltrace.carrier()))
        while not (directory / f"{task.name}.done").exists():
            threading.Event().wait(0.02)
    leave(task, ledger)


def drain(task: Task, ledger: Ledger) -> None:
    """Deliver what is in each of the spools *spools* as `mltrace sync` does, several at a time."""
    from mltrace import cli

    def one(spool: str) -> None:
        directory = DestinationDirectory(Path(spool), _config.normal_uri(task.uri))
        began = time.monotonic()
        deadline = time.monotonic() + task.extra.get("timeout", 120)
        result = cli._drain(directory, report(directory), deadline, quiet=True)
        after = report(directory)
        settled = after.delivered + after.dead + sum(after.dropped.values())
        if after.accepted != settled + after.pending:
            ledger.note("law", spool, str(after))
        ledger.note(
            "drained",
            spool,
            result["pending"],
            result["dead"],
            after.dropped,
            after.accepted,
            str(result["last_error"]),
            round(time.monotonic() - began, 1),
        )

    with ThreadPoolExecutor(task.extra.get("parallel", 4)) as pool:
        list(pool.map(one, task.extra["spools"]))


def wait_for(task: Task, name: str) -> None:
    """Wait until the harness has made the file *name* beside the spools."""
    while not (Path(task.environ["HOME"]) / name).exists():
        threading.Event().wait(0.01)


def tell(task: Task, name: str) -> None:
    """Make the file *name*, for which the harness waits."""
    (Path(task.environ["HOME"]) / name).touch()


def rough(task: Task, ledger: Ledger) -> None:
    """Log while something is done to the spool, and when it is over: one run, and others beside it."""
    rng = random.Random(task.seed)
    points = task.extra["points"]
    plan = Plan(task.name, params=1, points=3 * points)
    items = [item for item in plan.items if item[0] in "pm"]
    with running(ledger, plan) as run:
        for part in range(3):
            share = items[part * len(items) // 3 : (part + 1) * len(items) // 3]
            log_some(ledger, plan, run, share)
            other = plan_of(f"{task.name}-other{part}", rng, plan.name, plain=True)
            with running(ledger, other) as inner:
                log_items(ledger, other, inner)
            check_counts(ledger)
            if part < 2:
                incident(task, ledger, part)
    found = mltrace.status()
    ledger.note("dropped", task.name, found.dropped)
    leave(task, ledger)


def incident(task: Task, ledger: Ledger, part: int) -> None:
    """Have the harness, or this process itself, make (0) and end (1) the trouble."""
    if task.extra["incident"] == "descriptors":
        least = max(int(name) for name in os.listdir("/proc/self/fd")) + 1 if part == 0 else 1024
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return
    tell(task, f"{task.name}.ready{part}")
    wait_for(task, f"{task.name}.go{part}")
    if part == 1 and task.extra.get("killed"):
        os._exit(0)


def log_some(ledger: Ledger, plan: Plan, run: Any, items: list[str]) -> None:
    """Log some of the items of *plan*."""
    for item in items:
        began = now_ms()
        if item[0] == "p":
            run.log_param(item, text(plan.name, item))
        else:
            run.log_metric("m", point(int(item[1:])), step=int(item[1:]))
        ledger.owe(plan.name, item, began)


def poison(task: Task, ledger: Ledger) -> None:
    """Log one raw record that nobody can take among good ones."""
    from mltrace._records import Logged, Metric

    plan = Plan(task.name, params=2, points=8, tags=2, texts=1)
    fields = task.extra["poison"]
    if "metric" in fields:
        fields = {"metrics": (Metric(*fields["metric"]),)}
    with running(ledger, plan) as run:
        half = plan._replace(points=4, tags=0, texts=0)
        log_items(ledger, half, run)
        with contextlib.suppress(UnicodeEncodeError):  # half a character cannot be written at all
            run.emit(Logged(run=run.id, time=now_ms(), **fields))
        log_some(ledger, plan, run, [f"m{number}" for number in range(4, 8)])
        log_items(ledger, plan._replace(params=0, points=0), run)
    mltrace.flush(60)
    found = mltrace.status()
    ledger.note("settled", task.name, found.dead, sum(found.dropped.values()), found.pending)
    check_counts(ledger)
    mltrace.shutdown(5)
    os._exit(0)


def slow(task: Task, ledger: Ledger) -> None:
    """Log a run in two halves, with a pause between them that the harness ends."""
    plan = Plan(task.name, params=1, points=10, tags=1)
    with running(ledger, plan) as run:
        log_some(ledger, plan, run, ["p0", *(f"m{number}" for number in range(5))])
        if task.extra.get("delivered"):
            run.wait(30)
            (Path(task.environ["HOME"]) / f"{task.name}.id").write_text(run.mlflow_run_id or "")
        tell(task, f"{task.name}.ready0")
        wait_for(task, f"{task.name}.go0")
        log_some(ledger, plan, run, [f"m{number}" for number in range(5, 10)])
        log_items(ledger, plan._replace(params=0, points=0), run)
    leave(task, ledger)


def requeue(task: Task, ledger: Ledger) -> None:
    """Requeue every dead letter of the spool, and note the reasons."""
    from mltrace._spool import destinations
    from mltrace.delivery import letters

    for directory in destinations(Path(task.spool)):
        waiting = list(letters.read_office(directory).waiting.values())
        ledger.note("letters", task.name, len(waiting), sorted({letter.reason for letter in waiting}))
        letters.requeue(directory, waiting)


def forks(task: Task, ledger: Ledger) -> None:
    """
    Fork in every usual way while a run is open and delivery is under way: each child logs runs of its
    own below it, and ends by `os._exit`, `sys.exit` or a return.
    """
    rng = random.Random(task.seed)
    outer = Plan(task.name, params=1, points=20)
    with running(ledger, outer) as run:
        log_items(ledger, outer, run)
        for number, way in enumerate(task.extra["ways"]):
            name = f"{task.name}-{way}-{number}"
            if way == "flush":  # a fork in the middle of a flush
                flusher = threading.Thread(target=mltrace.flush, args=(10,))
                flusher.start()
            if way in ("exit", "sys.exit", "flush"):
                if (pid := os.fork()) == 0:
                    child(task, ledger, name, outer.name, rng.random())
                    sys.exit(0) if way == "sys.exit" else os._exit(0)
                os.waitpid(pid, 0)
            elif way == "prefork":
                prefork(task, ledger, name, outer.name, rng)
            else:
                context = multiprocessing.get_context(way)
                carrier = mltrace.carrier()
                process = context.Process(
                    target=child_of_multiprocessing,
                    args=(task, name, outer.name, rng.random(), carrier),
                )
                process.start()
                process.join(60)
                if process.exitcode != 0:
                    ledger.note("trouble", name, f"exit code {process.exitcode}")
            if way == "flush":
                flusher.join()
    leave(task, ledger)


def prefork(task: Task, ledger: Ledger, name: str, parent: str, rng: random.Random) -> None:
    """Have several children at once, as a server with workers has, and wait for them."""
    pids = []
    for worker in range(3):
        if (pid := os.fork()) == 0:
            child(task, ledger, f"{name}-w{worker}", parent, rng.random())
            mltrace.flush(5)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)


def child(task: Task, ledger: Ledger, name: str, parent: str, seed: float) -> None:
    """Log in a child."""
    rng = random.Random(seed)
    plan = plan_of(name, rng, parent)
    with running(ledger, plan) as run:
        log_items(ledger, plan, run)
    call(ledger, f"{name}-call", parent)


def child_of_multiprocessing(task: Task, name: str, parent: str, seed: float, carrier: Any) -> None:
    """Log in a child of `multiprocessing`; a spawned one has to be told everything."""
    if mltrace.current_run():
        child(task, Ledger(task.pipe), name, parent, seed)
        return
    tune(task.tune)
    mltrace.configure(
        tracking_uri=task.uri, experiment_name=task.experiment, spool_dir=task.spool, **task.settings
    )
    with mltrace.attach(carrier):
        child(task, Ledger(task.pipe), name, parent, seed)
    mltrace.shutdown(5)
