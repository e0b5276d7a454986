"""
A clock that stands still and ids that count: what makes a recording the same each time.
"""

from __future__ import annotations

import itertools
import random
import threading
import time


STARTED_MS = 1_767_225_600_000
"""2026-01-01 00:00 UTC, when a recording begins."""


class Clock:
    """
    A clock that stands still until it is told otherwise. Safe to use from many threads.

    Args:
        started_ms: Wall-clock milliseconds since the epoch at which it stands.

        tick: Seconds that pass at each reading (0). A run reads the clock when it begins, when it
            logs and when it ends.
    """

    def __init__(self, started_ms: int = STARTED_MS, tick: float = 0.0) -> None:
        # Runs that were open before measure from the machine's clock: it must not seem to run back.
        self._base = time.perf_counter_ns()
        self._started = started_ms * 1_000_000
        self._tick = round(tick * 1e9)
        self._passed = 0
        self._lock = threading.Lock()

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass; a negative number raises `ValueError`."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back {-seconds:g} s")
        self._pass(round(seconds * 1e9))

    @property
    def now_ms(self) -> int:
        """The time in milliseconds since the epoch. Asking makes no tick."""
        return (self._started + self._passed) // 1_000_000

    def elapsed_ns(self) -> int:
        """Return nanoseconds since a fixed moment, after a tick."""
        return self._base + self._pass(self._tick)

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch, after a tick."""
        return self._started + self._pass(self._tick)

    def moment(self) -> tuple[int, int]:
        """Return wall-clock milliseconds and elapsed nanoseconds, each after a tick."""
        return self.wall_ns() // 1_000_000, self.elapsed_ns()

    def _pass(self, nanoseconds: int) -> int:
        with self._lock:
            self._passed += nanoseconds
            return self._passed


class Source:
    """A `Clock`, and ids and chances that are the same in each recording."""

    def __init__(self, clock: Clock) -> None:
        self.elapsed_ns = clock.elapsed_ns
        self.wall_ns = clock.wall_ns
        self.moment = clock.moment
        self.chance = random.Random(0).random
        self._numbers = itertools.count(1)

    def run_id(self) -> str:
        """
        Return the next id. Neither half is zero: a ``traceparent`` has the first one as its span.
        """
        return f"{next(self._numbers):016x}" * 2
