"""
From a tree to the calls that make it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._decorators import track_run
from .._fluent import log_metrics, set_tags
from ._trees import RunTree


class Failed(Exception):
    """What a call raises whose tree says ``FAILED``."""


class Killed(BaseException):
    """What a call raises whose tree says ``KILLED``."""


_RAISED: dict[str | None, type[BaseException]] = {"FAILED": Failed, "KILLED": Killed}


def play(tree: RunTree, decorate: Callable[..., Any] = track_run) -> None:
    """
    Make the calls that *tree* describes: each run is the call of a function of that name, decorated
    by *decorate*, with the tree's params as keyword arguments. It logs the metrics and tags, makes
    the children's calls, and raises where the tree says so. A parent goes on when a child fails.
    """

    def function(**params: Any) -> None:
        if tree.metrics:
            log_metrics(tree.metrics)
        if tree.tags:
            set_tags(tree.tags)
        for child in tree.children:
            play(child, decorate)
        if tree.status in _RAISED:
            raise _RAISED[tree.status](tree.name)

    function.__name__ = function.__qualname__ = tree.name
    try:
        decorate(function)(**(tree.params or {}))
    except (Failed, Killed):
        return
