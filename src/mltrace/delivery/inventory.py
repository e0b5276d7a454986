"""
What a writer directory holds, counted from its files alone and without changing one.

The command line shows it, and whoever takes over a directory with damaged acknowledgements starts
from it. How exact the counts are: the docstring of `mltrace._spool`.
"""

from __future__ import annotations

import os

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Union

import msgspec

from .._checks import decode, is_sound
from .._files import Foreign, read_private, unframe
from .._records import Record
from .._spool import Tally, read_owner, read_tally
from .acks import AckLog


_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class Inventory(msgspec.Struct):
    """
    Counts of records, the *pending* ones themselves, bytes on disk, and the wall clock of the oldest
    (None: nothing is pending).

    *elsewhere* is how many more are pending in the memory of a living writer.
    """

    accepted: int = 0
    delivered: int = 0
    dead: int = 0
    dropped: dict[str, int] = {}
    pending: list[Record] = []
    elsewhere: int = 0
    bytes: int = 0
    oldest_ms: Union[int, None] = None


class _Segment(msgspec.Struct, frozen=True):
    """The number of a segment's file, and the least and the largest number of its records."""

    number: int
    first: int
    last: int


def read_record(line: bytes) -> Record | None:
    """Return the record of a line, None where the line is damaged, or was not written by mltrace."""
    payload = unframe(line)
    try:
        record = None if payload is None else decode(payload, _DECODER)
    except msgspec.DecodeError:
        return None
    return record if record is not None and is_sound(record) else None


def take_inventory(path: Path) -> Inventory:
    """Count what the writer directory *path* holds."""
    acks = AckLog()
    acks.replay_file(path / "acks")
    if acks.damaged:
        acks.settled.clear()
    records: dict[int, Record] = {}
    segments: list[_Segment] = []
    for file in _files(path, ".seg"):
        found = list(_records(file))
        records.update((record.seq, record) for record in found)
        if found and file.stem.isdigit():
            numbers = [record.seq for record in found]
            segments.append(_Segment(int(file.stem), min(numbers), max(numbers)))
    tally = read_tally(path)
    pending = [record for number, record in sorted(records.items()) if number not in acks.settled]
    accepted = max([tally.accepted, *records, *acks.settled])
    if acks.damaged:
        acks.dead -= len(acks.given_up & records.keys())  # these are sent again, as all that is there
        lost = max(_gaps(segments, records, accepted) - sum(tally.dropped.values()), 0)
        delivered = accepted - sum(tally.dropped.values()) - acks.dead - lost - len(pending)
        acks.delivered = max(delivered, 0)
    known = acks.delivered + acks.dead + len(pending)
    dropped = losses(tally, accepted, known)
    alive = dropped.pop("memory_lost", 0) if tally.memory and _is_alive(path) else 0
    return Inventory(
        accepted=known + alive + sum(dropped.values()),
        delivered=acks.delivered,
        dead=acks.dead,
        dropped=dropped,
        pending=pending,
        elsewhere=alive,
        bytes=sum(_size(file) for file in (*_files(path, ".seg"), *_files(path / "blobs"))),
        oldest_ms=min((record.time for record in pending), default=None),
    )


def losses(tally: Tally, accepted: int, known: int) -> dict[str, int]:
    """
    Return by cause what has become of the records up to number *accepted* that are neither
    delivered, dead nor pending, which *known* are.
    """
    missing = max(accepted - known - sum(tally.dropped.values()), 0)
    memory = min(missing, tally.memory)
    causes: Mapping[str, int] = {"memory_lost": memory, "damaged": missing - memory}
    names = dict.fromkeys((*tally.dropped, *causes))
    counts = {cause: tally.dropped.get(cause, 0) + causes.get(cause, 0) for cause in names}
    return {cause: number for cause, number in counts.items() if number}


def _records(segment: Path) -> Iterator[Record]:
    try:
        content = read_private(segment)
    except (FileNotFoundError, NotADirectoryError, Foreign):
        return
    for line in content.split(b"\n")[:-1]:
        if (record := read_record(line)) is not None:
            yield record


def _gaps(segments: list[_Segment], records: Mapping[int, Record], accepted: int) -> int:
    """
    Return how many numbers are missing within the segments that are there, and between two that
    follow each other. A segment that is not there was settled as a whole.
    """
    if not segments:
        return 0
    segments = sorted(segments, key=lambda segment: segment.first)
    missing = accepted - segments[-1].last
    missing += segments[0].first - 1 if segments[0].number == 1 else 0
    for segment in segments:
        here = range(segment.first, segment.last + 1)
        missing += sum(number not in records for number in here)
    for before, after in pairwise(segments):
        if abs(after.number - before.number) == 1:
            missing += max(after.first - before.last - 1, 0)
    return missing


def _is_alive(path: Path) -> bool:
    try:
        owner = read_owner(path)
        if owner is not None:
            os.kill(owner.pid, 0)
    except (ProcessLookupError, Foreign):
        return False
    except OSError:
        return True
    return owner is not None


def _files(folder: Path, suffix: str = "") -> list[Path]:
    """Return what is in *folder*; nothing where it was finished, and removed, meanwhile."""
    try:
        return [folder / name for name in os.listdir(folder) if name.endswith(suffix)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # delivered meanwhile
        return 0
