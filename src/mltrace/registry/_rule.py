"""
Which version is promoted: a rule over numbers, which asks nobody.

Differences are taken in decimal, as the numbers are written: 0.3 is 0.1 better than 0.2, which in
binary it is not quite.
"""

from __future__ import annotations

import math

from collections.abc import Mapping
from decimal import Decimal
from typing import Union

import msgspec

from ..exceptions import ConfigurationError


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """
    What makes a version good enough.

    *min_value* is the worst value that may be promoted (a least one, or with *higher_is_better*
    False a greatest one); *min_delta* is how much better than the current version it has to be.
    """

    higher_is_better: bool = True
    min_value: Union[float, None] = None
    min_delta: float = 0.0

    def check(self) -> None:
        """Raise `ConfigurationError` for options that no number can satisfy."""
        if not isinstance(self.higher_is_better, bool):
            raise ConfigurationError(f"higher_is_better: {self.higher_is_better!r} is not a bool")
        for option, value, least in (
            ("min_value", self.min_value, -math.inf),
            ("min_delta", self.min_delta, 0),
        ):
            if value is not None and not (_is_number(value) and value >= least):
                raise ConfigurationError(
                    f"{option}: {value!r} is not a finite number{' of at least 0' if least == 0 else ''}"
                )

    def rank(self, value: float) -> float:
        """Return what is greater where *value* is better."""
        return value if self.higher_is_better else -value

    def gain(self, value: float, over: float) -> Decimal:
        """Return how much better *value* is than *over*; negative where it is worse."""
        gain = Decimal(repr(float(value))) - Decimal(repr(float(over)))
        return gain if self.higher_is_better else -gain


class Decision(msgspec.Struct, frozen=True):
    """
    What the rule says: *promote* a version, or *refuse* one, or neither; and the *reason*, a
    sentence without its beginning.
    """

    promote: Union[str, None] = None
    refuse: Union[str, None] = None
    reason: str = ""


def decide(values: Mapping[str, Union[float, None]], current: Union[str, None], rule: Rule) -> Decision:
    """
    Choose among the versions *values* (number to value; None or what is not finite never wins).

    The best is promoted where it is good enough and better than the *current* one; of equals the
    current one, else the newest. Refused is the best, where it is not good enough, or the newest
    where that is not better than a current one before it. A current one without a finite value is
    beaten by any.
    """
    finite = {
        version: value for version, value in values.items() if value is not None and math.isfinite(value)
    }
    newest = max(values, key=int, default=None)
    if newest is None:
        return Decision(reason="there are no versions")
    if not finite:
        return Decision(refuse=newest, reason="no version has a finite value")
    best = max(finite, key=lambda version: (rule.rank(finite[version]), version == current, int(version)))
    if best == current:
        if int(newest) <= int(best):
            return Decision(reason=f"version {best} is the best and stands already")
        return Decision(refuse=newest, reason=_shortfall(newest, values[newest], best, finite[best], rule))
    return _challenge(best, current, finite, rule)


def _challenge(best: str, current: str | None, finite: Mapping[str, float], rule: Rule) -> Decision:
    value = finite[best]
    if rule.min_value is not None and rule.rank(value) < rule.rank(rule.min_value):
        side = "at least" if rule.higher_is_better else "at most"
        return Decision(refuse=best, reason=f"{value:g} is not {side} {rule.min_value:g}")
    if current is None or current not in finite:
        return Decision(promote=best, reason=f"{value:g} is the best, and no finite value stands against it")
    gain = rule.gain(value, finite[current])
    if gain < Decimal(repr(float(rule.min_delta))):
        return Decision(
            refuse=best,
            reason=f"{value:g} is better than {finite[current]:g} of version {current} by {gain:g}, not by {rule.min_delta:g}",
        )
    return Decision(promote=best, reason=f"{value:g} is better than {finite[current]:g} of version {current}")


def _shortfall(newest: str, value: float | None, best: str, standard: float, rule: Rule) -> str:
    if value is None or not math.isfinite(value):
        return f"version {newest} has no finite value ({value})"
    worse = "worse than" if rule.rank(value) < rule.rank(standard) else "no better than"
    return f"{value:g} is {worse} {standard:g} of version {best}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
