"""
Trees that are not sampled: kept back until it is known whether one of their runs fails.
"""

from __future__ import annotations

import threading

from typing import Any

from ._records import FAILED, Record, RunEnded, RunStarted
from .backends import Backend


class Withheld:
    """
    The backend of a tree that is not sampled: holds its records until a run fails, which releases
    them all, or the root ends.
    """

    LIMIT = 10_000

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._records: list[Record] = []
        self._released = False
        self._lock = threading.RLock()

    def emit(self, record: Record) -> None:
        """Keep *record*; with the end of a failed run, let everything go that was kept."""
        with self._lock:
            if not self._released:
                self._records.append(record)
                if not (isinstance(record, RunEnded) and record.status == FAILED):
                    # Beyond the limit even a failed tree is let go: the alternative is memory
                    # without bound.
                    del self._records[self.LIMIT :]
                    return
                self._released = True
                records, self._records = self._records, []
            else:
                records = [record]
        for kept in records:
            self._backend.emit(kept)

    def begin(self, start: RunStarted) -> None:
        """Keep *start*."""
        self.emit(start)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)
