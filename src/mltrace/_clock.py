"""Time and identity: the only module that asks the machine for either."""

from __future__ import annotations

import os
import random
import time


elapsed_ns = time.perf_counter_ns
wall_ns = time.time_ns

# A generator of our own: the user's `random.seed(0)` must not make two processes issue the same run
# ids.
_random = random.Random(os.urandom(32))
_random_bits = _random.getrandbits


def now_ms() -> int:
    """Return the wall clock in whole milliseconds since the epoch, MLflow's unit."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """Return a fresh run id: 32 lowercase hex digits, 128 random bits."""
    return "%032x" % _random_bits(128)  # noqa: UP031 # half the cost of a format specification


def reseed() -> None:
    """
    Forget the inherited random state: parent and forked child would otherwise issue the same ids.
    """
    _random.seed(os.urandom(32))


os.register_at_fork(after_in_child=reseed)


def chance() -> float:
    """Return a random number in [0, 1)."""
    return _random.random()
