"""
The workers: threads that do what the coordinator gives them, one job at a time each, and say in its
inbox how that went.
"""

from __future__ import annotations

import contextlib
import queue
import threading

from collections.abc import Callable
from typing import Any, NamedTuple

from .. import _guard
from .courier import Courier
from .destination import DeliveryError, Destination, Uncertain


class Job(NamedTuple):
    """What a worker does, and the message that says so to the coordinator; the error is added."""

    work: Callable[[Courier], None]
    reply: tuple[Any, ...]


class Crew:
    """
    The workers of one coordinator, who read *inbox*. They share the courier, and the destination of it,
    that *open_courier* makes when it is first needed.

    What they work with is their own: the sender may have been closed, and even started again, meanwhile.
    """

    def __init__(
        self,
        inbox: queue.SimpleQueue[tuple[Any, ...]],
        open_courier: Callable[[], tuple[Destination, Courier]],
    ) -> None:
        self.busy = 0
        """Jobs under way; the coordinator counts them down."""
        self.destination: Destination | None = None
        self._open_courier = open_courier
        self._courier: Courier | None = None
        self._inbox = inbox
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def assign(self, job: Job) -> None:
        """Have a worker do *job*."""
        self.busy += 1
        if len(self._threads) < self.busy:
            with contextlib.suppress(RuntimeError):  # the interpreter exits; the workers there are do it
                self.start_one()
        self._jobs.put(job)

    def start_one(self) -> None:
        """Start one more worker; raise `RuntimeError` where no thread can be started any more."""
        worker = threading.Thread(target=self._work, name=f"mltrace-worker-{len(self._threads)}", daemon=True)
        worker.start()
        self._threads.append(worker)

    def dismiss(self) -> None:
        """Let the workers go when they have done what they were given."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        courier: Courier | None = None
        while (job := self._jobs.get()) is not None:
            error: Exception | None = None
            try:
                courier = courier or self._open()
                job.work(courier)
            except DeliveryError as problem:
                error = problem
            except Exception as bug:
                error = Uncertain(f"mltrace failed while delivering: {type(bug).__name__}: {bug}")
                report(bug)
            self._inbox.put((*job.reply, error))
        if courier is not None:
            courier.close()

    def _open(self) -> Courier:
        if self._courier is None:
            self.destination, self._courier = self._open_courier()
        return self._courier


def report(error: Exception) -> None:
    """Log a bug of the delivery; there is nobody here to raise it to, in strict mode either."""
    _guard.warn_once(
        f"delivery:{type(error).__name__}:{error}",
        "mltrace failed in delivery and goes on",
        error=repr(error)[:500],
    )
