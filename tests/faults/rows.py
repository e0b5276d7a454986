"""
The rows of faults F1 to F10: clients, servers and networks that fail. `disk` has F11 to F18.

Each takes a bench, a number of repetitions and *step*, called after each, and returns its row.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import time

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.faults.clients import Task
from tests.faults.harness import AWAY, BRISK, Bench, Progress, Row, faulty, in_parallel, kill, readdress
from tests.faults.proxy import LATE, LOST, chaos
from tests.harness import until
from tests.server import MlflowServer


PATIENT = {**BRISK, "mltrace.delivery.transport._READ_SECONDS": 1.0}


def f1_client_killed(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F1: `kill -9` of a client at a random moment; the next client finds what it left."""
    row = Row("F1", "client `kill -9` at a random moment", repetitions)
    rng = random.Random(bench.seed)
    spools = [bench.spool() for _ in range(3)]

    def series(lane: int) -> None:
        for number in range(lane, repetitions, 3):
            task = bench.task(
                "work",
                bench.server.url,
                spools[lane],
                f"k{number}",
                seed=number,
                runs=2,
                extra={"leave": "stay"},
            )
            process = bench.start(task)
            process.join(rng.uniform(0.02, 0.35))
            kill(process)
            process.join()
            step()

    in_parallel(series, 3)
    bench.drain()
    bench.finish(row)
    return row


_LANES = 30
SETTLED = {**BRISK, "mltrace.delivery.courier.SETTLE_SECONDS": 0.2}
"""For where no request is on its way any more: whoever made it is dead, and the server is at hand."""


def f2_crash_points(bench: Bench, repetitions: int, step: Progress) -> Row:
    """
    F2: the process dies at each crash point, of a client that logs and delivers, and of a drain; where
    *repetitions* are fewer than there are points, at some of all.
    """
    row = Row("F2", "process dies at each crash point")
    for round_ in itertools.count():
        counts = [(dying, _count(bench, dying, round_)) for dying in (_dying_clients, _dying_drains)]
        stride = max(sum(count for _, count in counts) // (repetitions - row.repetitions), 1)
        tasks = [task for dying, count in counts for task in dying(bench, round_, range(0, count, stride))]
        for start in range(0, len(tasks), 12):
            bench.run(tasks[start : start + 12], concurrent=6)
            for _ in tasks[start : start + 12]:
                step()
        bench.drain(spools=[task.spool for task in tasks], tune=SETTLED, extra={"parallel": 12})
        row.repetitions += len(tasks)
        if row.repetitions >= repetitions:
            break
    bench.finish(row, experiments=[f"{bench.experiment}-{lane}" for lane in range(_LANES)])
    return row


def _dying_clients(bench: Bench, round_: int, numbers: Sequence[int], report: str = "") -> list[Task]:
    """Return clients of which each dies at one of these crash points; their names go into the file *report*."""
    tasks = []
    for number in numbers:
        task = bench.task(
            "work", bench.server.url, bench.spool(), f"cw{round_}-{number}", seed=round_, runs=1
        )
        # Not all in one: whoever reconciles looks at every run of the experiment that another has left open.
        experiment = f"{bench.experiment}-{len(bench.spools) % _LANES}"
        extra = {"count": report, "small": True}
        tasks.append(replace(task, experiment=experiment, crash=number, extra=extra))
    return tasks


def _dying_drains(bench: Bench, round_: int, numbers: Sequence[int], report: str = "") -> list[Task]:
    """Return drains of what a client has left, of which each dies at one of these crash points."""
    clients = [
        replace(task, name=f"cd{round_}-{number}", uri=AWAY, crash=-1, extra={"leave": "exit", "small": True})
        for number, task in zip(numbers, _dying_clients(bench, round_, numbers), strict=True)
    ]
    codes = bench.run(clients, concurrent=6)
    assert not any(codes), bench.stderr()
    for client in clients:
        readdress(Path(client.spool), bench.server.url)
    return [
        bench.task(
            "drain",
            bench.server.url,
            client.spool,
            "drain",
            crash=number,
            extra={"spools": [client.spool], "count": report},
        )
        for number, client in zip(numbers, clients, strict=True)
    ]


def _count(bench: Bench, dying: Callable[..., list[Task]], round_: int) -> int:
    """Return how many crash points a client, or a drain, of this round has."""
    report = bench.directory / f"points-{dying.__name__}-{round_}"
    (code,) = bench.run(dying(bench, round_, [-1], str(report)))
    assert code == 0, bench.stderr()
    return len(report.read_text().splitlines())


def f3_server_killed(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F3: `kill -9` and restart of the real server in the middle of a drain."""
    row = Row("F3", "real server `kill -9` and restart in mid-drain", repetitions)
    shared = bench.server
    postgres = shared.store_uri if shared.store_uri.startswith("postgresql") else None
    server = MlflowServer(bench.directory / "server", workers=1, store_uri=postgres)
    with server:
        bench.server = server
        spool = bench.spool()
        for number in range(repetitions):
            logging = bench.task(
                "work",
                server.url,
                spool,
                f"s{number}",
                seed=number,
                runs=12,
                extra={"leave": "exit"},
                settings={"exit_timeout": 0},
            )
            bench.run([replace(logging, tune={**BRISK, "mltrace.delivery.sender.COALESCE_SECONDS": 60.0})])
            drain = bench.start(bench.task("drain", server.url, spool, "drain", extra={"spools": [spool]}))
            with contextlib.suppress(AssertionError):
                before = len(server.runs(bench.experiment))
                until(lambda before=before: len(server.runs(bench.experiment)) > before + 4, 20)  # type: ignore[misc]
            server.kill()
            server.start()
            drain.join(90)
            step()
        bench.drain()
        bench.finish(row)
        bench.server = shared
    return row


def f4_reply_lost(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F4: a request is applied and its reply lost, in four ways."""
    row = through_chaos(
        bench, Row("F4", "applied, reply lost (FIN, RST, half, hang)"), LOST, repetitions, step
    )
    # Found by looking: nothing had to be deleted again.
    again = bench.server.runs(bench.experiment, view="DELETED_ONLY")
    row.trouble += [f"run {run['name']!r} was created again although it was there" for run in again]
    return row


def f5_late(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F5: a request lands after the client has given it up, or twice."""
    row = Row("F5", "late landing, replayed request")
    return through_chaos(bench, row, LATE, repetitions, step)


def f6_errors(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F6: 408, 429, 5xx, before and after the request was applied; a reply that drips."""
    row = Row("F6", "408, 429, 5xx, slow drip")
    kinds = ["408", "429", "500", "502", "503", "504", "drip", "cut"]
    kinds += [f"applied-{kind}" for kind in ("408", "500", "502", "503", "504")]
    return through_chaos(bench, row, kinds, repetitions, step)


def through_chaos(
    bench: Bench, row: Row, kinds: tuple[str, ...] | list[str], repetitions: int, step: Progress
) -> Row:
    """Have clients log through a proxy until it has failed *repetitions* requests; heal; drain; compare."""
    with faulty(bench, chaos(kinds, bench.seed, budget=repetitions)) as proxy:
        clients = 0
        done = 0
        while sum(proxy.injected.values()) < repetitions:
            tasks = [
                bench.task(
                    "work",
                    proxy.url,
                    bench.spool(),
                    f"x{clients + lane}",
                    seed=clients + lane,
                    runs=5,
                    tune=PATIENT,
                    extra={"flush": 20},
                )
                for lane in range(3)
            ]
            clients += 3
            bench.run(tasks)
            now = sum(proxy.injected.values())
            for _ in range(now - done):
                step()
            done = now
        proxy.heal()
        bench.drain(proxy.url)
        proxy.land()
        bench.drain(proxy.url)  # the reconciliation that comes after the last landing
        row.repetitions = sum(proxy.injected.values())
    bench.finish(row)
    return row


def f7_not_mlflow(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F7: 401, 403, a page of HTML with 200 or 404, a redirect: nothing is acknowledged, nothing lost."""
    kinds = ("401", "403", "html200", "302", "html404")
    row = Row("F7", "401, 403, HTML 200, 302, HTML 404")
    injected = []

    def one(lane: int) -> None:
        with faulty(bench, chaos([kinds[lane]], bench.seed, budget=repetitions, share=0.8)) as proxy:
            number = 0
            while sum(proxy.injected.values()) < repetitions:
                before = sum(proxy.injected.values())
                task = bench.task(
                    "work",
                    proxy.url,
                    bench.spool(),
                    f"a{kinds[lane]}-{number}",
                    seed=lane * 100 + number,
                    runs=2,
                    extra={"flush": 30, "paced": True},
                )
                bench.run([task])
                number += 1
                for _ in range(sum(proxy.injected.values()) - before):
                    step()
            proxy.heal()
            injected.append(sum(proxy.injected.values()))

    in_parallel(one, len(kinds))
    # Whatever the proxies' addresses were: the records are this server's.
    for spool in bench.spools:
        readdress(Path(spool), bench.server.url)
    bench.drain()
    row.repetitions = sum(injected)
    bench.finish(row)
    return row


def f8_outage(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F8: an outage through 10 restarts of the client and 20,000 records, then a drain."""
    row = Row("F8", "outage: 10 client restarts, 20,000 records, then drain", repetitions)
    with faulty(bench) as proxy:
        for round_ in range(repetitions):
            proxy.refuse()
            spool = bench.spool()
            for restart in range(10):
                task = bench.task(
                    "backlog",
                    proxy.url,
                    spool,
                    f"o{round_}-{restart}",
                    seed=restart,
                    runs=5,
                    extra={"points": 1950, "leave": "exit" if restart % 2 else "close", "flush": 0},
                    settings={"exit_timeout": 0},
                )
                bench.run([task])
            proxy.accept()
            began = time.monotonic()
            bench.drain(proxy.url, spools=[spool])
            row.trouble += [] if time.monotonic() - began < 240 else ["the drain took over four minutes"]
            step()
    bench.finish(row)
    return row


def f9_processes(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F9: four processes with four threads each, below one run by its carrier."""
    row = Row("F9", "4 processes × 4 threads, nested across processes", repetitions)
    for number in range(repetitions):
        spool = bench.spool()
        outer = bench.start(bench.task("lender", bench.server.url, spool, f"p{number}"))
        carrier = until(lambda number=number: _carrier(bench, number), 30)  # type: ignore[misc]
        tasks = [
            bench.task(
                "threads",
                bench.server.url,
                spool,
                f"p{number}-{child}",
                seed=number * 10 + child,
                runs=3,
                extra={"carrier": carrier, "parent": f"p{number}"},
            )
            for child in range(4)
        ]
        bench.run(tasks, concurrent=4)
        (bench.directory / f"p{number}.done").touch()
        outer.join(60)
        step()
    bench.drain()
    bench.finish(row)
    return row


def _carrier(bench: Bench, number: int) -> dict[str, str] | None:
    file = bench.directory / f"p{number}.carrier"
    return json.loads(file.read_text()) if file.exists() and file.read_text() else None


FORKS = ["exit", "sys.exit", "flush", "fork", "spawn", "prefork"]


def f10_forks(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F10: every usual way to fork, while a run is open and delivery under way."""
    row = Row("F10", "os.fork, multiprocessing, prefork, fork in a flush, sys.exit in the child")
    spool = bench.spool()
    tasks = []
    while row.repetitions < repetitions:
        ways = FORKS if not tasks or len(tasks) % 4 == 0 else [way for way in FORKS if way != "spawn"]
        tasks.append(
            bench.task(
                "forks", bench.server.url, spool, f"f{len(tasks)}", seed=len(tasks), extra={"ways": ways}
            )
        )
        row.repetitions += len(ways)
    codes = bench.run(tasks, concurrent=2)
    for _ in range(row.repetitions):
        step()
    row.trouble += [f"client {number} ended with {code}" for number, code in enumerate(codes) if code]
    bench.drain()
    bench.finish(row)
    return row


ROWS = {
    "F1": (f1_client_killed, 50, 1000),
    "F2": (f2_crash_points, 100, 4000),
    "F3": (f3_server_killed, 2, 20),
    "F4": (f4_reply_lost, 100, 2000),
    "F5": (f5_late, 50, 1000),
    "F6": (f6_errors, 100, 1000),
    "F7": (f7_not_mlflow, 20, 200),
    "F8": (f8_outage, 1, 5),
    "F9": (f9_processes, 2, 20),
    "F10": (f10_forks, 20, 200),
}
"""Each row with its repetitions in the suite and for a release."""
