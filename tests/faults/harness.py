"""What all rows share: the server, clients and drains as processes of their own, and the result of a row."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec

from mltrace._addresses import destination_id
from mltrace._clock import new_id
from tests.faults import clients
from tests.faults.clients import Task
from tests.faults.oracle import Book, Oracle, Verdict, compare
from tests.faults.proxy import FaultProxy, Plan
from tests.server import MlflowServer


AWAY = "http://127.0.0.1:9"
"""Where nobody answers."""

Progress = Callable[[], None]

CLIENT_SECONDS = 150.0
DRAIN_SECONDS = 3600.0
MUTANT_SECONDS = 12.0
"""How long a process, a spool's drain, and anything of a mutant may take."""

CONCURRENT = 3

BRISK = {"mltrace.delivery.breaker._WAITED_FOR_CAP": 0.2, "mltrace.delivery.breaker.BACKOFF_BASE": 0.05}
"""Failed requests are made again sooner than a real network would allow."""


@dataclass
class Row:
    """One row of the table: how many faults were met, and what came of it."""

    name: str
    fault: str
    repetitions: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    law_broken: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    dropped: int = 0
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether all is as it must be."""
        return self.verdict.is_clean and not self.law_broken and not self.trouble and self.repetitions > 0

    def explain(self) -> str:
        """Return what is wrong in words."""
        return "\n".join([str(self), *self.verdict.words, *self.law_broken[:5], *self.trouble[:10]])


class Bench:
    """
    A place for one row: a directory, an experiment on *server*, an oracle, and processes.

    *mutant* is switched on in every client and drain.
    """

    def __init__(self, directory: Path, server: MlflowServer, *, seed: int = 0, mutant: str = "") -> None:
        self.directory = directory
        self.server = server
        self.seed = seed
        self.mutant = mutant
        self.experiment = f"faults-{new_id()[:12]}"
        self.seconds = MUTANT_SECONDS if mutant else CLIENT_SECONDS
        self.trouble: list[str] = []
        self.spools: list[str] = []
        self.oracle = Oracle(directory / "oracle")
        self._context = _context()

    def spool(self) -> str:
        """Return a fresh spool directory."""
        path = str(self.directory / f"spool{len(self.spools)}")
        self.spools.append(path)
        return path

    def task(self, program: str, uri: str, spool: str, name: str, **options: Any) -> Task:
        """Return a task in this row's experiment."""
        options.setdefault("tune", dict(BRISK))
        options.setdefault("mutant", self.mutant)
        environ = {"MLTRACE_FAULTS_STDERR": str(self.directory / "stderr"), "HOME": str(self.directory)}
        return Task(program, self.oracle.pipe, uri, spool, self.experiment, name, environ=environ, **options)

    def start(self, task: Task) -> BaseProcess:
        """Start a client."""
        process = self._context.Process(target=clients.main, args=(task,))
        process.start()
        return process

    def run(
        self, tasks: Iterable[Task], *, concurrent: int = CONCURRENT, seconds: float | None = None
    ) -> list[int]:
        """
        Run clients to their ends, several at a time and each for at most *seconds*; return their exit
        codes in the order of *tasks*.
        """
        seconds = self.seconds if seconds is None else seconds
        waiting, running, codes = list(enumerate(tasks)), dict[int, BaseProcess](), dict[int, int]()
        waiting.reverse()
        deadline = time.monotonic() + seconds * max(len(waiting), 1)
        while waiting or running:
            while waiting and len(running) < concurrent:
                number, task = waiting.pop()
                running[number] = self.start(task)
            number, process = next(iter(running.items()))
            process.join(min(seconds, max(deadline - time.monotonic(), 1)))
            if process.is_alive():
                process.kill()
                process.join()
            codes[number] = process.exitcode if process.exitcode is not None else -99
            del running[number]
        return [codes[number] for number in sorted(codes)]

    def drain(self, uri: str = "", *, spools: list[str] | None = None, **options: Any) -> None:
        """Deliver what is in the spools, in a fresh process."""
        spools = self.spools if spools is None else spools
        seconds = MUTANT_SECONDS if self.mutant else DRAIN_SECONDS
        extra = {"spools": spools, "timeout": seconds, **options.pop("extra", {})}
        task = self.task("drain", uri or self.server.url, spools[0], "drain", extra=extra, **options)
        (code,) = self.run([task], seconds=2 * seconds)
        if code:
            self.trouble.append(f"a drain ended with {code}")

    def stderr(self) -> str:
        """Return what clients have said there."""
        file = self.directory / "stderr"
        return file.read_text()[-3000:] if file.exists() else ""

    def finish(self, row: Row, *, experiments: list[str] | None = None) -> Book:
        """Close the books and complete *row*."""
        book = self.oracle.close()
        row.trouble += self.trouble
        row.verdict = compare(book, self.server, experiments or [self.experiment])
        row.law_broken = [" ".join(map(str, note[1:])) for note in book.notes if note[0] == "law"]
        row.trouble += [" ".join(map(str, note[1:])) for note in book.notes if note[0] == "trouble"]
        for kind, *details in book.notes:
            if kind == "drained" and details[1]:
                row.trouble.append(f"{details[1]} records are left in {details[0]}: {details[5]}")
            if kind == "drained" and details[2]:
                row.trouble.append(f"{details[2]} dead letters in {details[0]}")
        return book

    def close(self) -> None:
        """Stop the oracle."""
        self.oracle.kill()


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.clients"])
    return context


@contextlib.contextmanager
def faulty(bench: Bench, plan: Plan | None = None, **options: Any) -> Iterator[FaultProxy]:
    """Put a proxy before the server."""
    proxy = FaultProxy(bench.server.port, plan, seed=bench.seed, **options)
    try:
        yield proxy
    finally:
        proxy.close()


def readdress(spool: Path, url: str) -> None:
    """
    Have the records in *spool* be for the server at *url*: the one they were logged to was away, or a
    proxy.
    """
    for directory in list(spool.iterdir()):
        note = directory / "destination.json"
        if note.exists() and directory.name != destination_id(url):
            note.write_bytes(msgspec.json.encode({"uri": url}))
            directory.rename(directory.with_name(destination_id(url)))


def kill(process: BaseProcess, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that we started."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


def in_parallel(work: Callable[[int], None], lanes: int) -> None:
    """Do *work* for each lane in a thread of its own; raise what one of them raises."""
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(work, range(lanes)))
