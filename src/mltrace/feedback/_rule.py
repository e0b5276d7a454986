"""
When to retrain: the rule, as a function of numbers alone.

Counted is the feedback with a rating that was given since the last retraining. Below the minimum
count nothing fires. Else each of these does, and one is enough:

    mean        the mean rating is at most `max_mean_rating`
    negatives   the share of ratings of at most `negative_rating` is at least `min_negative_share`
    age         the oldest of it has waited for at least `max_age`

A threshold of None switches its rule off.
"""

from __future__ import annotations

import math

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Union

import msgspec

from ..exceptions import ConfigurationError
from ._moments import iso


class RetrainingRule(msgspec.Struct, frozen=True, kw_only=True):
    """
    The thresholds; *max_age* is a `timedelta` or a number of days.

    Raises:
        ConfigurationError: A threshold that cannot be one; the message names it.
    """

    min_count: int = 50
    max_mean_rating: Union[float, None] = 3.5
    min_negative_share: Union[float, None] = 0.3
    max_age: Union[timedelta, float, None] = timedelta(days=90)
    negative_rating: float = 2

    def __post_init__(self) -> None:
        if isinstance(self.min_count, bool) or not isinstance(self.min_count, int) or self.min_count < 1:
            raise ConfigurationError(
                f"min_count: {self.min_count!r:.100} is not a whole number of at least 1"
            )
        _check("max_mean_rating", self.max_mean_rating, -math.inf, math.inf)
        _check("min_negative_share", self.min_negative_share, 0.0, 1.0)
        _check("negative_rating", self.negative_rating, -math.inf, math.inf)
        if not isinstance(self.max_age, timedelta):
            _check("max_age", self.max_age, 0.0, 1e6)
        elif self.max_age < timedelta(0):
            raise ConfigurationError(f"max_age: {self.max_age} is negative")

    @property
    def max_age_ms(self) -> float | None:
        """The age in milliseconds."""
        if self.max_age is None:
            return None
        age = self.max_age if isinstance(self.max_age, timedelta) else timedelta(days=self.max_age)
        return age / timedelta(milliseconds=1)


def _check(name: str, value: Any, least: float, most: float) -> None:
    if value is None and name != "negative_rating":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigurationError(f"{name}: {value!r:.100} is not a number from {least:g} to {most:g}")


class RetrainingDecision(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whether to retrain: true or false in a condition, and *says* tells why in words.

    *rules* are those that fired: ``mean``, ``negatives``, ``age``. *count* is of ratings, *mean_rating*
    and *negative_share* None where there are none; *since_ms* is up to when feedback is used, None where
    it never was; *oldest_ms* the time of the oldest that is not. *complete* is False where the server
    could not be read.
    """

    retrain: bool
    rules: tuple[str, ...]
    count: int
    mean_rating: Union[float, None]
    negative_share: Union[float, None]
    oldest_ms: Union[int, None]
    since_ms: Union[int, None]
    complete: bool
    says: str

    def __bool__(self) -> bool:
        return self.retrain


def decide(
    rule: RetrainingRule,
    rated: Sequence[tuple[int, float]],
    now_ms: int,
    *,
    since_ms: int | None = None,
    complete: bool = True,
    read: str = "",
) -> RetrainingDecision:
    """
    Return the decision over *rated*, times and ratings, as of *now_ms*; *read* says where they are
    from.
    """
    ratings = [rating for _, rating in rated]
    count = len(ratings)
    mean = math.fsum(ratings) / count if count else None
    share = sum(rating <= rule.negative_rating for rating in ratings) / count if count else None
    oldest = min((time for time, _ in rated), default=None)
    reasons = _reasons(rule, mean, share, oldest, now_ms) if count >= rule.min_count else {}
    since = "so far" if since_ms is None else f"since the last retraining ({iso(since_ms)})"
    numbers = f"{count} rating{'s' if count != 1 else ''} {since}"
    if mean is not None and share is not None:
        numbers += f", mean {mean:.2f}, {share:.0%} negative"
    if reasons:
        verdict = f"retrain: {'; '.join(reasons.values())}"
    elif count < rule.min_count:
        verdict = f"do not retrain: at least {rule.min_count} ratings are needed"
    else:
        verdict = "do not retrain: no threshold is reached"
    return RetrainingDecision(
        retrain=bool(reasons),
        rules=tuple(reasons),
        count=count,
        mean_rating=mean,
        negative_share=share,
        oldest_ms=oldest,
        since_ms=since_ms,
        complete=complete,
        says=f"{verdict} ({numbers}{f'; {read}' if read else ''})",
    )


def _reasons(
    rule: RetrainingRule, mean: float | None, share: float | None, oldest: int | None, now_ms: int
) -> dict[str, str]:
    """Return the rules that fire, each with its reason in words."""
    reasons: dict[str, str] = {}
    if rule.max_mean_rating is not None and mean is not None and mean <= rule.max_mean_rating:
        reasons["mean"] = f"the mean rating is {mean:.2f}, at most {rule.max_mean_rating:g} is the limit"
    if rule.min_negative_share is not None and share is not None and share >= rule.min_negative_share:
        reasons["negatives"] = (
            f"{share:.0%} of the ratings are {rule.negative_rating:g} or less,"
            f" {rule.min_negative_share:.0%} is the limit"
        )
    if rule.max_age_ms is not None and oldest is not None and now_ms - oldest >= rule.max_age_ms:
        days = (now_ms - oldest) / 86_400_000
        reasons["age"] = (
            f"feedback has waited for {days:.1f} days, {rule.max_age_ms / 86_400_000:g} is the limit"
        )
    return reasons
