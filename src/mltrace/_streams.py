"""
What a stream has yielded, within bounds, and the end of its run.
"""

from __future__ import annotations

from typing import Any

from . import _clock, _guard
from ._instrument import Instrument
from ._kept import Streamed
from ._llm import snapshot
from ._runs import Run


class Stream:
    """What a stream has yielded so far, bounded, and the end of its run."""

    def __init__(self, instrument: Instrument, run: Run) -> None:
        self._instrument = instrument
        self._run = run
        self._kept = instrument.keeper(run)
        self._first_ns: int | None = None
        self._last_ns = 0
        self.source: Any = None
        """The provider's stream, where views that give texts alone were made of it."""

    def add(self, item: Any) -> None:
        """Take the next item, and when it came."""
        now = _clock.elapsed_ns()
        try:
            if self._kept.add(item):
                self._first_ns = now if self._first_ns is None else self._first_ns
                self._last_ns = now
        except Exception as error:
            _guard.internal_error("recording a stream", error, self._run.hide)

    def ignored_exit(self) -> None:
        """
        End the run of a body that yields when it is closed: Python raises in the consumer, and the
        body gets no other step.
        """
        self.fail(RuntimeError("the generator ignored GeneratorExit"))

    def fail(self, error: BaseException) -> None:
        """End the run with *error*."""
        self._run.finish(*self._run.failure(error))

    def finish(self, *, closed: bool = False) -> None:
        """End the run with the reduced output."""
        if not self._run:
            return
        result, streamed = self.outcome()
        extra = {"mltrace.stream": "closed"} if closed else None
        self._instrument.finish(self._run, result, streamed=streamed, extra=extra)

    def outcome(self) -> tuple[Any, Streamed]:
        """Return the output so far, and what else is known."""
        said = None
        try:
            said = snapshot(self.source, self._kept.said) if self.source is not None else self._kept.said
            result = self._kept.result()
        except Exception as error:
            _guard.internal_error("output_reducer", error, self._run.hide)
            result = self._kept.items
        if self._first_ns is None:
            return result, Streamed(said=said)
        first_ms = (self._first_ns - self._run._start_ns) / 1e6
        return result, Streamed(first_ms, (self._last_ns - self._first_ns) / 1e9, said)
