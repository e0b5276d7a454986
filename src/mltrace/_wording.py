"""
How a moment, a trouble and a trend are said, to people at a terminal and in a program's messages.
"""

from __future__ import annotations

import time

from ._redaction import shown
from ._spool import Trend, Trouble


def age(moment_ms: int | None) -> str:
    """Return in words how long ago *moment_ms* was."""
    if moment_ms is None:
        return "-"
    seconds = max(time.time() - moment_ms / 1000, 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit} ago"
    return f"{seconds:.0f} s ago"


def trouble(met: Trouble) -> str:
    """Return in words why nothing could be sent, and when."""
    return f"{shown(met.state)} {age(met.time)}: {shown(met.error)}"


def trend(found: Trend) -> str:
    """Return in words how fast runs are recorded and taken."""
    pace = f"{found.runs_in:g} runs/s recorded, {found.runs_out:g} runs/s taken {age(found.time)}"
    if not found.is_growing:
        return pace
    return f"{pace}; it falls behind: record calls as traces (MLTRACE_RECORD_AS=trace), or a share of them (MLTRACE_SAMPLE_RATE)"
