"""
The metric points of a run, each one different from those before it.

MLflow stores equal points (key, step, time, value) once: a second one would be lost. So a run
remembers the latest points of each metric, and one that equals an earlier one gets the next
millisecond.
"""

from __future__ import annotations

from ._numbers import INTEGER_LIMIT
from ._records import Metric, wire_number


_REMEMBERED = 2048  # latest points of a metric


class _Moment:
    """The latest time of a metric's points, and what was logged then: the value of each step."""

    __slots__ = ("time", "values")

    def __init__(self) -> None:
        self.time = -1
        self.values: dict[int, float | str] = {}


class Points:
    """The latest metric points of one run."""

    __slots__ = ("_latest", "_times")

    def __init__(self) -> None:
        # The latest points of each key: time by (step, value) and time. Older ones are long past.
        self._times: dict[str, dict[tuple[int, float | str, int | None], int]] = {}
        self._latest: dict[str, _Moment] = {}

    def add(self, key: str, value: float, step: int, when: int, *, exact: bool = False) -> Metric:
        """
        Return a metric point that no earlier one equals. A time that the user gave (*exact*) moves
        only if the very point was logged before.
        """
        wire = wire_number(value)
        times = self._times.setdefault(key, {})
        moment = self._latest.setdefault(key, _Moment())
        if moment.time == when and moment.values.get(step) == wire:  # logged the short way
            times[step, wire, None] = times[step, wire, when] = when
        latest = times.get((step, wire, None), -1)
        if when <= latest and (not exact or (step, wire, when) in times):
            when = latest + 1
        times[step, wire, None] = max(when, latest)
        times[step, wire, when] = when
        while len(times) > _REMEMBERED:
            del times[next(iter(times))]
        if when > moment.time:
            moment.time, moment.values = when, {step: wire}
        elif when == moment.time:
            moment.values[step] = wire
        return Metric(key, wire, when, step)

    def add_now(self, key: str, value: float, step: int, now: int) -> Metric | None:
        """
        Return the point as of *now*, the short way of `add`, for a training loop; None where *key* is
        new, or a point of the same moment has the step.
        """
        moment = self._latest.get(key)
        if moment is None or not 0 <= step < INTEGER_LIMIT:
            return None
        wire = value if value - value == 0.0 else wire_number(value)
        if now > moment.time:
            moment.time, moment.values = now, {step: wire}
        elif now < moment.time or step in moment.values:
            return None
        else:
            moment.values[step] = wire
        return Metric(key, wire, now, step)
