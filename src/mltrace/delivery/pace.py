"""
How fast runs are recorded, and how fast the server takes them: whether the spool keeps growing.

Runs recorded are counted against their own time, not against when they were read: reading waits for
sending. Both rates are of the last `WINDOW_SECONDS` in which the server was well.
"""

from __future__ import annotations

import time

from .. import _clock, _guard
from .._spool import BEHIND_SECONDS, DestinationDirectory, Trend


WINDOW_SECONDS = 10.0


class Pace:
    """Counts the runs of one sender. The coordinator's alone."""

    def __init__(self) -> None:
        self._growing = 0  # windows in a row: a burst that is sent within one is nobody's worry
        self._begin(time.monotonic())

    def _begin(self, now: float) -> None:
        self._since = now
        self._read: list[int] = []
        self._sent = 0

    def read(self, time_ms: int) -> None:
        """Count a run that began at *time_ms*, wall clock."""
        self._read.append(time_ms)

    def sent(self) -> None:
        """Count a run that is on the server, with its end."""
        self._sent += 1

    def look(self, now: float, directory: DestinationDirectory, *, healthy: bool) -> None:
        """When a window is over, write down how fast it went; warn once where two in a row show a server that is too slow."""
        if not healthy:
            self._begin(now)
        elif now >= self._since + WINDOW_SECONDS:
            if self._read and self._sent:
                self._conclude(now - self._since, directory)
            self._begin(now)

    def _conclude(self, seconds: float, directory: DestinationDirectory) -> None:
        when = _clock.now_ms()
        behind = (when - max(self._read)) / 1000
        spread = (max(self._read) - min(self._read)) / 1000
        came = len(self._read) / (max(spread, 1.0) if behind > BEHIND_SECONDS else seconds)
        trend = Trend(round(came, 1), round(self._sent / seconds, 1), round(behind, 1), when)
        directory.note_trend(trend)
        self._growing = self._growing + 1 if trend.is_growing else 0
        if self._growing > 1:
            _guard.warn_once(
                "pace",
                f"runs are recorded at {trend.runs_in:.0f} a second and the server takes {trend.runs_out:.0f}: it falls behind."
                " Record calls as traces (record_as='trace', MLTRACE_RECORD_AS), of which it takes about ten times as"
                " many, or a share of them (sample_rate)",
                seconds_behind=trend.seconds_behind,
            )
