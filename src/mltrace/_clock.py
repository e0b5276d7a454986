"""
Time and identity: the only module that asks the machine for either.

What runs read here, they read as ``_clock.name()`` at each use, so that `mltrace.testing` can put a
clock and ids of its own in the place of the machine's; see `substitute`.
"""

from __future__ import annotations

import os
import random
import time

from collections.abc import Callable
from typing import Protocol


elapsed_ns = time.perf_counter_ns
wall_ns = time.time_ns

# A generator of our own: the user's `random.seed(0)` must not make two processes issue the same run
# ids.
_random = random.Random(os.urandom(32))
_random_bits = _random.getrandbits


_APART_NS = 500_000


def moment() -> tuple[int, int]:
    """
    Return wall-clock milliseconds and elapsed nanoseconds of one moment.

    All times of a run are measured from such a pair: were the thread put aside between the two
    readings, they would all be off by that long. Then both are read again.
    """
    elapsed, wall = elapsed_ns(), wall_ns()
    tries = 1
    while elapsed_ns() - elapsed >= _APART_NS and tries < 3:
        elapsed, wall = elapsed_ns(), wall_ns()
        tries += 1
    return wall // 1_000_000, elapsed


def now_ms() -> int:
    """Return the wall clock in whole milliseconds since the epoch, MLflow's unit."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """Return a fresh run id: 32 lowercase hex digits, 128 random bits."""
    return "%032x" % _random_bits(128)  # noqa: UP031 # half the cost of a format specification


run_id = new_id
"""The id of the next run. Files have theirs from `new_id`, which stays random in tests."""


def reseed() -> None:
    """
    Forget the inherited random state: parent and forked child would otherwise issue the same ids.
    """
    _random.seed(os.urandom(32))


os.register_at_fork(after_in_child=reseed)


def chance() -> float:
    """Return a random number in [0, 1)."""
    return _random.random()


class Source(Protocol):
    """What runs ask of time and chance."""

    def elapsed_ns(self) -> int:
        """Return nanoseconds since any fixed moment."""

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch."""

    def moment(self) -> tuple[int, int]:
        """Return wall-clock milliseconds and elapsed nanoseconds of one moment."""

    def run_id(self) -> str:
        """Return a fresh id: 32 lowercase hex digits."""

    def chance(self) -> float:
        """Return a number in [0, 1)."""


def substitute(source: Source) -> Callable[[], None]:
    """
    Let runs read *source* in the place of the machine until the returned function is called: for
    tests. The journal and its delivery go on with the machine's time.
    """
    names = ("elapsed_ns", "wall_ns", "moment", "run_id", "chance")
    before = {name: globals()[name] for name in names}
    globals().update({name: getattr(source, name) for name in names})
    return lambda: globals().update(before)
