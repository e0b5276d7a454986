"""A backend that somebody looks over the shoulder of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._records import Record, RunStarted
from ..backends import Backend


class Observed:
    """Tells *observer* of each record, and hands it on to *backend*."""

    def __init__(self, backend: Backend, observer: Callable[[Record], None]) -> None:
        self._backend = backend
        self._observer = observer

    def emit(self, record: Record) -> None:
        """Tell of *record*, and emit it."""
        self._observer(record)
        self._backend.emit(record)

    def begin(self, start: RunStarted) -> None:
        """Tell of *start*, and begin it."""
        self._observer(start)
        self._backend.begin(start)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)
