"""
The end of a delivery: what the server refused for good becomes letters, and the records are settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from .._records import Record, RunEnded, RunRecorded, RunStarted
from .._spool import DestinationDirectory
from .batches import Item
from .letters import Letter, post, write_letter
from .outbox import Box, Delivered
from .source import Source


def settle(
    directory: DestinationDirectory,
    uid: str,
    job: Sequence[Delivered],
    letters: Mapping[int, Sequence[Letter]],
    *,
    closes: bool = True,
) -> None:
    """
    Write down what of *job*, the records of *uid*, was delivered and what is dead; first the *letters*,
    by the identity of the record, which must not be lost. *closes*: an end among them is the last of the run.
    """
    for source in dict.fromkeys(source for source, _ in job):
        if source.is_left:
            continue  # nor are there to be letters of what is delivered again
        mine = [record for other, record in job if other is source]
        refused = [letters[id(record)] for record in mine if id(record) in letters]
        post(directory, [letter for those in refused for letter in those], _blobs(source))
        fine = [record for record in mine if id(record) not in letters]
        if bad := [record for record in mine if id(record) in letters]:
            source.dead(uid, bad, closed=closes and any(map(is_end, bad)))
        if fine:
            source.done(uid, fine, closed=closes and any(map(is_end, fine)))


class Refused:
    """The letters about the records of one job, by the identity of the record."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self.letters: dict[int, list[Letter]] = {}

    def whole(self, delivered: Delivered, refusal: Exception) -> None:
        """Give a record up as it is."""
        self._add(delivered, type(delivered[1]).__name__, refusal, delivered[1])

    def part(self, delivered: Delivered, what: str, refusal: Exception) -> None:
        """Give up an artifact, or the end of a run that is there."""
        record = delivered[1]
        if isinstance(record, RunRecorded):
            record = record.end
        assert not isinstance(record, (RunStarted, RunRecorded))
        self._add(delivered, what, refusal, _moved(record, self._experiment(delivered)))

    def item(self, item: Item, refusal: Exception) -> None:
        """Give up one param, metric point or tag."""
        experiment = self._experiment(item.delivered)
        record = item.alone(self._box.uid, item.delivered[1].time, experiment)
        self._add(item.delivered, item.what, refusal, record)

    def _experiment(self, delivered: Delivered) -> str:
        start = self._box.start
        return start.experiment if start else self._box.elsewhere or delivered[0].experiment

    def _add(self, delivered: Delivered, what: str, refusal: Exception, record: Record) -> None:
        source, of = delivered
        server = self._box.server
        letter = write_letter(
            what,
            str(refusal),
            record,
            writer=source.writer,
            seq=of.seq,
            run_id=server.run_id if server is not None else "",
        )
        self.letters.setdefault(id(of), []).append(letter)


def _moved(record: Record, experiment: str) -> Record:
    """Return *record* such that it can be delivered from any directory."""
    moved: Record = msgspec.structs.replace(record, experiment=experiment)
    return moved


def _blobs(source: Source) -> Path | None:
    return source.directory.path / "blobs" if source.directory is not None else None


def is_end(record: Record) -> bool:
    """Say whether *record* ends a run."""
    return isinstance(record, (RunEnded, RunRecorded))
