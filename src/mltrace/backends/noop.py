"""The backend that drops everything."""

from __future__ import annotations

from .._records import Record, RunStarted
from . import Blob, FlushReport, SpoolStatus


class NoopBackend:
    """Drops every record. No thread, file or socket."""

    def emit(self, record: Record) -> None:
        """Drop *record*."""

    def begin(self, start: RunStarted) -> None:
        """Drop *start*."""

    def store(self, source: bytes | str) -> Blob | None:
        """Keep nothing."""
        return None

    def run_id(self, uid: str) -> str | None:
        """Return None: no run reaches MLflow."""
        return None

    def wait(self, uid: str, timeout: float) -> bool:
        """Return True at once: nothing is outstanding."""
        return True

    def flush(self, timeout: float) -> FlushReport:
        """Return zeros."""
        return FlushReport(0, 0, 0, 0)

    def status(self) -> SpoolStatus:
        """Return an empty state."""
        return SpoolStatus(destination="noop")

    def close(self, timeout: float) -> FlushReport:
        """Return zeros."""
        return FlushReport(0, 0, 0, 0)
