"""
Hypothesis, or a sentence that says how to install it; the one place of the kit that imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..exceptions import MissingExtra


try:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
except ImportError as error:
    raise MissingExtra(
        "mltrace.testing.strategies and .contracts need Hypothesis: pip install 'mltrace-mlflow[test]'"
    ) from error


T = TypeVar("T")

__all__ = ["for_all", "st"]


def for_all(strategy: st.SearchStrategy[T], law: Callable[[T], None], examples: int) -> None:
    """
    Call *law* with *examples* values of *strategy*; raise its error for the smallest value that
    breaks it.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def holds(value: T) -> None:
        law(value)

    holds()
