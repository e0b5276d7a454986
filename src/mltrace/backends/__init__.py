"""
Where records go: the `Backend` protocol, and what every backend can say about itself.

A backend takes records one at a time from any thread, and never talks to a network while it does.
`noop` drops them, `memory` keeps them as a tree for tests, `journal` appends them to the spool,
from where delivery takes them.
"""

from __future__ import annotations

from typing import Protocol, Union, runtime_checkable

import msgspec

from .._records import Record, RunStarted
from .._spool import Trend


class FlushReport(msgspec.Struct, frozen=True):
    """What has become of the records of this process: counts of records, not of runs."""

    delivered: int
    pending: int
    dropped: int
    dead: int


class SpoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """
    The state of one destination as one process (or the command line) sees it.

    ``accepted == delivered + pending + dropped + dead`` at every moment. *dropped* is counted by
    cause. *bytes* are on disk, *oldest_ms* is the wall-clock time of the oldest pending record
    (None: nothing pending). *degraded* means that the spool cannot be written and records are kept
    in bounded memory instead. *trend* is how fast runs are recorded and taken, None where that was not
    found yet.
    """

    destination: str
    directory: Union[str, None] = None
    accepted: int = 0
    delivered: int = 0
    pending: int = 0
    dropped: dict[str, int] = {}
    dead: int = 0
    bytes: int = 0
    oldest_ms: Union[int, None] = None
    degraded: bool = False
    state: str = "idle"
    last_error: Union[str, None] = None
    trend: Union[Trend, None] = None

    def report(self) -> FlushReport:
        """Return the four counts alone."""
        return FlushReport(self.delivered, self.pending, sum(self.dropped.values()), self.dead)


class Blob(msgspec.Struct, frozen=True):
    """A stored artifact: its name in the backend's blob store and its size in bytes."""

    name: str
    size: int


@runtime_checkable
class Backend(Protocol):
    """
    What a run needs of a backend.

    Third parties test theirs with `mltrace.testing.contracts.check_backend`.
    """

    def emit(self, record: Record) -> None:
        """
        Take *record*.

        Durable in the backend's sense when it returns; never blocks on a network.
        """

    def begin(self, start: RunStarted) -> None:
        """
        Take the start of a decorated call, which may be over in no time.

        Like `emit`, but the backend may hold the record back until the next one or for some
        milliseconds, to join it with the call's end.
        """

    def store(self, source: Union[bytes, str]) -> Union[Blob, None]:
        """
        Keep an artifact's bytes, or a copy of the file at the path *source*; None (counted as
        dropped) where that cannot be done.
        """

    def run_id(self, uid: str) -> Union[str, None]:
        """Return MLflow's id of the run *uid*, None until it is known."""

    def wait(self, uid: str, timeout: float) -> bool:
        """
        Wait at most *timeout* seconds until everything logged to the run *uid* so far is delivered;
        say whether it is.
        """

    def flush(self, timeout: float) -> FlushReport:
        """
        Deliver what was accepted before the call, for at most *timeout* seconds, and say how far it
        came.
        """

    def status(self) -> SpoolStatus:
        """Return the present state."""

    def close(self, timeout: float) -> FlushReport:
        """Flush for at most *timeout* seconds and stop; what is left stays where it is."""
