"""
Runs by hand: begun in one place and ended in another, as in the cells of a notebook.
"""

from __future__ import annotations

import sys
import weakref

from collections.abc import Callable

from ._config import before_exit
from ._context import get_current, set_ambient, set_current
from ._runs import Run


_opened: weakref.WeakSet[Run] = weakref.WeakSet()
_sites: weakref.WeakValueDictionary[tuple[str, int], Run] = weakref.WeakValueDictionary()


def open_by_hand(make: Callable[[], Run], depth: int) -> Run:
    """
    Start the run that *make* returns and make it current until its `Run.end`.

    At module level (a notebook cell, a script) a run started again at the same line closes the one
    before, and the run is current in other cells too, whose contexts notebooks may keep apart.
    *depth* is the number of frames up to the caller.
    """
    frame = sys._getframe(depth)
    top_level = frame.f_code.co_name == "<module>"
    site = (frame.f_code.co_filename, frame.f_lineno)
    if top_level and (before := _sites.get(site)) is not None and before.is_open:
        before.end()
    outer = get_current()
    run = make()
    run._outer = outer
    set_current(run)
    if top_level:
        set_ambient(run)
        _sites[site] = run
    _opened.add(run)
    return run


def _end_all() -> None:
    """End what was opened by hand and never ended, as MLflow does at exit."""
    for run in list(_opened):
        run.end()


before_exit(_end_all)
