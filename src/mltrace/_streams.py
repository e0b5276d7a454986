"""
What a stream has yielded, within bounds, and the end of its run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _clock, _guard
from ._instrument import Instrument
from ._runs import Run, failure_fields
from ._texts import WHOLE_LIMIT


_STREAM_ITEMS = 10_000


class Stream:
    """What a stream has yielded so far, bounded, and the end of its run."""

    def __init__(self, instrument: Instrument, run: Run) -> None:
        self._instrument = instrument
        self._run = run
        self._items: list[Any] = []
        self._keep = instrument.options.capture_output
        self._count = 0
        self._room = WHOLE_LIMIT
        self.first_ns: int | None = None

    def add(self, item: Any) -> None:
        """
        Take the next item; the first 10,000 items, or about 1 MiB of text, are kept for the output.
        """
        if self.first_ns is None:
            self.first_ns = _clock.elapsed_ns()
        self._count += 1
        if not self._keep:
            return
        try:
            if self._instrument.options.output_reducer is None and type(item) is not str:
                item = self._run._renderer.plain("", item, self._run._secrets)
            self._items.append(item)
            self._room -= len(item) if type(item) is str else 100
            self._keep = self._room > 0 and len(self._items) < _STREAM_ITEMS
        except Exception as error:
            _guard.internal_error("recording a stream", error, self._run.hide)

    def ignored_exit(self) -> None:
        """
        End the run of a body that yields when it is closed: Python raises in the consumer, and the
        body gets no other step.
        """
        self._run.finish(*failure_fields(self._run, RuntimeError("the generator ignored GeneratorExit")))

    def finish(self, *, closed: bool = False) -> None:
        """End the run with the reduced output."""
        run = self._run
        if not run:
            return
        try:
            result = reduce(self._items, self._instrument.options.output_reducer, self._count)
        except Exception as error:
            _guard.internal_error("output_reducer", error, run.hide)
            result = self._items
        first_ms = None if self.first_ns is None else (self.first_ns - run._start_ns) / 1e6
        self._instrument.finish(
            run, result, first_ms=first_ms, extra={"mltrace.stream": "closed"} if closed else None
        )


def reduce(items: list[Any], reducer: Callable[[list[Any]], Any] | None, count: int) -> Any:
    """
    Return a stream's output: what *reducer* makes of the *items* kept of *count*; else texts
    joined, anything else as a list, and how many were left out.
    """
    if reducer is not None:
        return reducer(items)
    left = [f"… [{count - len(items)} more items]"] if items and count > len(items) else []
    return "".join(items + left) if items and all(type(item) is str for item in items) else items + left
