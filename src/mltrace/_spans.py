"""
The trace that spans belong to, and the run that the trace belongs to.

A run that is recorded as a span begins a trace, or is of that of the span above it, which may be
another process's, or another tracer's. A trace that begins below a run is linked to it: that run
gets the files that a trace cannot keep.
"""

from __future__ import annotations

from typing import Union

import msgspec

from ._records import RunStarted


class Trace(msgspec.Struct, gc=False):
    """
    A trace, as the spans of it that are this process's share it.

    Attributes:
        id: 32 hex digits; the uid of its top, where mltrace began it.

        linked: Uid of the run that it belongs to, if there is one.

        linked_experiment: The experiment of that run.

        anchor: Wall and elapsed nanoseconds of the first span's start.
    """

    id: str
    linked: Union[str, None] = None
    linked_experiment: str = ""
    anchor: Union[tuple[int, int], None] = None

    def place(self, start: RunStarted, span_type: str | None, elapsed_ns: int) -> RunStarted:
        """
        Return *start*, at *elapsed_ns* of `_clock.elapsed_ns`, as that of a span. All spans take the wall
        clock from the first one's start: what that clock does meanwhile changes no order.
        """
        if self.anchor is None:
            self.anchor = (start.time * 1_000_000, elapsed_ns)
        is_top = self.id == start.run
        found: RunStarted = msgspec.structs.replace(
            start,
            trace=self.id,
            span_type=span_type,
            started_ns=self.anchor[0] + elapsed_ns - self.anchor[1],
            parent=None if is_top else start.parent,
            parent_experiment=None,
            linked=self.linked if is_top else None,
            linked_experiment=self.linked_experiment or None if is_top else None,
        )
        return found
