"""
Spans that travel together: one request for some hundred of them is ten times as fast as one for each.

A span is ready when its end was read. It waits for others of its experiment, `WAIT_SECONDS` at most,
or until `MAX_SPANS` are there. Two bundles under way never have spans of one trace: MLflow would
create the trace twice at once, and drop the spans of whoever comes second.
"""

from __future__ import annotations

import time

from collections.abc import Iterable, Iterator

from .outbox import Box, Parcel


MAX_SPANS = 200
MAX_AWAY = 2
"""
How many bundles are under way at once: more are no faster, and over SQLite they wait for its one writer until it
answers that it is locked. The other connections are for runs.
"""

WAIT_SECONDS = 0.25


class Bundle(Parcel):
    """Spans of one *experiment* on their way."""

    def __init__(self, experiment: str, boxes: list[Box]) -> None:
        super().__init__()
        self.experiment = experiment
        self.boxes = boxes
        """What is still to be done: spans to be sent, or sent ones whose run was not there yet."""
        self.traces = {box.trace for box in boxes}
        self.done: list[Box] = []
        """What was settled since the coordinator last looked."""
        self.proven = False
        """Whether what is left was refused while others passed: it is the fault of these spans."""

    def needs(self) -> Iterable[str]:
        """Yield the runs that its traces belong to."""
        return {
            box.start.linked for box in self.boxes if box.start is not None and box.start.linked is not None
        }

    links = needs

    def defer(self) -> None:
        """Take no room: this will take long."""
        for box in self.boxes:
            for source, records in box.by_source().items():
                source.park(records)


class Bundler:
    """Collects spans, and gives them out in bundles. The coordinator's alone."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, Box]] = {}
        self._since: dict[str, float] = {}
        self._away: set[str | None] = set()

    def add(self, box: Box, now: float) -> None:
        """Take a span that is complete."""
        assert box.start is not None
        experiment = box.start.experiment
        box.queue = "bundle"
        self._waiting.setdefault(experiment, {})[box.uid] = box
        self._since.setdefault(experiment, now)

    def due(self, now: float, *, hurry: bool) -> Iterator[Bundle]:
        """Yield the bundles that are full, or have waited for long enough; with *hurry* all."""
        for experiment in list(self._waiting):
            while (hurry or now >= self._since[experiment] + WAIT_SECONDS or self._is_full(experiment)) and (
                boxes := self._take(experiment)
            ):
                bundle = Bundle(experiment, boxes)
                self._away |= bundle.traces
                yield bundle
            if not self._waiting[experiment]:
                del self._waiting[experiment], self._since[experiment]

    def next_due(self) -> float | None:
        """Return when there is a bundle to be given out, however few come in the meantime; None: there is nothing."""
        return min(self._since.values()) + WAIT_SECONDS if self._since else None

    def back(self, bundle: Bundle) -> None:
        """Know that the spans of *bundle* are on the server: others of their traces may follow."""
        self._away -= bundle.traces

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _is_full(self, experiment: str) -> bool:
        return len(self._waiting[experiment]) >= MAX_SPANS

    def _take(self, experiment: str) -> list[Box]:
        waiting = self._waiting[experiment]
        taken: list[Box] = []
        for box in waiting.values():
            if box.trace not in self._away:
                taken.append(box)
                if len(taken) == MAX_SPANS:
                    break
        for box in taken:
            del waiting[box.uid]
            box.job = list(box.records)
        self._since[experiment] = time.monotonic()
        return taken
