"""
Runs of which records were dropped: their ends say how many (`DROPPED_TAG`).
"""

from __future__ import annotations

import msgspec

from .._records import DROPPED_TAG, Record, RunEnded, RunRecorded


_RUNS = 65_536  # whose dropped records are counted for each by itself


class Shortfall:
    """How many records of a run were dropped, until its end."""

    def __init__(self) -> None:
        self._runs: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, record: Record) -> None:
        """Remember that *record* was dropped; of an end nothing comes after."""
        if isinstance(record, (RunEnded, RunRecorded)):
            self._runs.pop(record.run, None)
            return
        self._runs[record.run] = self._runs.pop(record.run, 0) + 1
        if len(self._runs) > _RUNS:
            del self._runs[next(iter(self._runs))]

    def tagged(self, record: Record) -> Record:
        """Return *record*, an end with how many records of its run were dropped, which is forgotten then."""
        if isinstance(record, (RunEnded, RunRecorded)) and (number := self._runs.pop(record.run, 0)):
            number += int(record.tags.get(DROPPED_TAG, "0"))  # the artifacts, which the run has counted
            return msgspec.structs.replace(record, tags={**record.tags, DROPPED_TAG: str(number)})
        return record
