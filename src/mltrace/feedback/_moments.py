"""
Points in time as people and files write them, in wall-clock milliseconds.
"""

from __future__ import annotations

import math

from datetime import datetime, timezone
from typing import Any

from ..exceptions import ConfigurationError


Moment = str | float | datetime

_MILLISECONDS = 1e11  # above this a number cannot be seconds: that would be the year 5138
_LONGEST = 253_402_300_799_999  # the last millisecond of the year 9999, which no datetime is behind


def milliseconds(moment: Any) -> int:
    """
    Return *moment* in milliseconds since the epoch: an ISO 8601 text, a `datetime` (both local time
    where they name no zone), or seconds or milliseconds since the epoch.

    Raises:
        ConfigurationError: Anything else.
    """
    try:
        if isinstance(moment, str):
            # Python 3.10 reads no Z.
            moment = datetime.fromisoformat(f"{moment[:-1]}+00:00" if moment[-1:] in ("Z", "z") else moment)
        if isinstance(moment, datetime):
            return _in_range(moment.timestamp() * 1000)
        if isinstance(moment, (int, float)) and not isinstance(moment, bool):
            return _in_range(moment if abs(moment) >= _MILLISECONDS else moment * 1000)
    except (ValueError, OverflowError, OSError):
        pass
    raise ConfigurationError(
        f"timestamp: {moment!r:.100} is neither an ISO 8601 text, nor a datetime, nor a number of seconds"
    )


def _in_range(moment: float) -> int:
    if not (math.isfinite(moment) and 0 <= moment <= _LONGEST):
        raise ValueError("outside what MLflow and datetime take")
    return round(moment)


def iso(moment_ms: int) -> str:
    """Return *moment_ms* as ISO 8601 in UTC, of fixed width."""
    moment = datetime.fromtimestamp(moment_ms / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
