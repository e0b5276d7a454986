"""
The circuit breaker of a destination, and back-off: when to try again what failed.

A refused connection, or five unclear answers in a row, opens the breaker: all wait, with full-jitter
back-off of at most `BACKOFF_CAP` seconds and no maximum age, then one job probes. Credentials and
address problems suspend the destination in the same way, more slowly. What fails for a reason of its
own waits by itself, and holds nobody up.
"""

from __future__ import annotations

import random

from collections.abc import Callable

from .. import _clock, _guard
from .._spool import DestinationDirectory, Trouble
from .bundles import Bundle
from .destination import Missing, NotApplied, Parked, Suspended, Throttled, Uncertain
from .outbox import Parcel


BACKOFF_BASE, BACKOFF_CAP = 0.5, 60.0

_SUSPENDED_CAP = 300.0
_FAILURES = 5  # in a row, that open it
_WAITED_FOR_CAP = 1.0  # while somebody waits in `flush`, the pause between two attempts
_MISSING_SECONDS = 600.0
_LOST_SECONDS = 10.0  # for a run whose start is in no directory that is here


class Breaker:
    """
    The circuit breaker of one sender, whose trouble is noted in *directory*; pauses are short while
    somebody *is_waiting*. The coordinator's alone, but for `state`.
    """

    def __init__(self, directory: DestinationDirectory, is_waiting: Callable[[], bool]) -> None:
        self.state: tuple[str, str | None] = ("idle", None)
        """The destination's state (idle, healthy, unreachable, throttled, suspended) and the last error."""
        self.not_before = 0.0
        """When the destination may be asked again, as of `time.monotonic`."""
        self.gave_up = (0, 0)
        """How often all had to wait, and how often because the destination was suspended."""
        self._directory = directory
        self._is_waiting = is_waiting
        self._failures = 0
        self._successes = 0

    @property
    def is_open(self) -> bool:
        """Whether the destination is only probed."""
        return self._failures >= _FAILURES

    @property
    def is_healthy(self) -> bool:
        """Whether the last answer was a good one."""
        return self.state[0] == "healthy"

    def succeeded(self, parcel: Parcel) -> None:
        """Take note that *parcel* was delivered."""
        self._failures = parcel.attempts = 0
        parcel.refusals = Parcel.refusals
        self._successes += 1
        self.not_before = parcel.missing_since = 0.0
        if not self.is_healthy:
            self.state = ("healthy", self.state[1])
            self._directory.note_trouble(None)
            _guard.forget("unreachable")

    def failed(self, parcel: Parcel, error: Exception, now: float) -> None:
        """Decide when to try *parcel*, and the destination, again."""
        if parcel.tried_at != self._successes or (isinstance(parcel, Bundle) and parcel.proven):
            # Only a refusal that others of the same time did not meet tells something about this
            # parcel.
            parcel.attempts += 1
            parcel.count_refusal(error)
            parcel.tried_at = self._successes
        pause = self.pause(parcel.attempts)
        if isinstance(error, Throttled):
            self._hold("throttled", error, now + error.seconds)
        elif isinstance(error, Suspended):
            self._failures += 1
            longest = min(15.0 * 2 ** min(self._failures, 8), _SUSPENDED_CAP)
            self._hold("suspended", error, now + self._cap(random.uniform(0.5, 1) * longest))
        elif isinstance(error, (NotApplied, Uncertain)):
            self._failures = max(self._failures + 1, _FAILURES if isinstance(error, NotApplied) else 0)
            if self.is_open:
                self._hold("unreachable", error, now + self.pause(self._failures - _FAILURES))
            if isinstance(error, Uncertain):
                parcel.not_before = max(parcel.not_before, now + pause)
        else:
            self.state = (self.state[0], str(error))
            self._put_off(parcel, error, now)

    def pause(self, attempts: int) -> float:
        """Return a full-jitter pause in seconds after so many *attempts*."""
        longest = min(BACKOFF_BASE * float(1 << min(attempts, 16)), BACKOFF_CAP)
        return self._cap(max(random.random() * longest, 0.02))

    def _put_off(self, parcel: Parcel, error: Exception, now: float) -> None:
        """
        Pause a parcel whose run, parent or experiment is not there; give it up when that stays so.
        """
        parcel.defer()
        if isinstance(error, Parked):
            _guard.warn_once(f"parked:{error}", str(error))
            parcel.not_before = now + self._cap(BACKOFF_CAP)
            return
        if isinstance(error, Missing):
            parcel.missing_since = parcel.missing_since or now
            patience = _LOST_SECONDS if parcel.is_lost else _MISSING_SECONDS
            parcel.give_up = now - parcel.missing_since > patience
            if parcel.is_lost:
                parcel.not_before = min(now + 1.0, parcel.missing_since + patience)
                return
        parcel.not_before = now + self.pause(parcel.attempts + 2)

    def _cap(self, seconds: float) -> float:
        return min(seconds, _WAITED_FOR_CAP) if self._is_waiting() else seconds

    def _hold(self, state: str, error: Exception, until: float) -> None:
        """Have all wait *until* then."""
        self.not_before = max(self.not_before, until)
        if self.state != (state, str(error)):
            self.state = (state, str(error))
            self._directory.note_trouble(Trouble(state, str(error), _clock.now_ms()))
        self.gave_up = (self.gave_up[0] + 1, self.gave_up[1] + (state == "suspended"))
        _guard.warn_once(
            state if state != "suspended" else f"suspended:{error}",
            f"{error}; records stay in the spool and are sent later",
        )
