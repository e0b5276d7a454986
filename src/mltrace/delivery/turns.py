"""
Turns at the interpreter: a worker that has much to compute lets the program's threads have it in between.

CPython takes its lock from a thread five milliseconds after another has asked for it
(`sys.getswitchinterval`), and a request of the program's asks each time it has waited for something.
Letting go for no time is not enough: whoever waits has to wake up first.
"""

from __future__ import annotations

import time

from collections.abc import Iterable, Iterator
from typing import TypeVar


T = TypeVar("T")

TURN_SECONDS = 0.0002
PAUSE_SECONDS = 0.0005


def in_turns(items: Iterable[T]) -> Iterator[T]:
    """Yield *items*, each of which takes a moment to deal with; every `TURN_SECONDS` pause before the next."""
    until = time.perf_counter() + TURN_SECONDS
    for item in items:
        yield item
        if time.perf_counter() >= until:
            time.sleep(PAUSE_SECONDS)
            until = time.perf_counter() + TURN_SECONDS
