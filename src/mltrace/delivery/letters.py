"""
Dead letters: what the server refused for good, kept until a person decides.

The log ``dead.log`` is shared by all processes and only appended to. A letter holds the record
that it takes to send the refused thing again, so that it can be requeued; an artifact's bytes lie
in ``dead/``. A letter that is requeued or discarded stays in the log, and a later line says what
became of it. A letter's id is a hash of what it is about: written twice, because a process died
before it could acknowledge the record, it is still one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Union

import msgspec

from .. import _clock, _guard
from .._checks import decode, is_sound
from .._files import append_line, make_directory, read_lines
from .._records import Record, blobs_of, with_blobs
from .._spool import DestinationDirectory
from ..backends.journal import Journal


class Letter(msgspec.Struct, frozen=True, tag_field="type", tag="letter", omit_defaults=True):
    """
    One thing that was refused: *what* it is in a few words, *reason* in the server's.

    *time* is when it was given up, wall-clock milliseconds. *run* is the run's uid, *run_id* the
    server's id of it where there is one. *writer* and *seq* name the record it was part of, and
    *record* is what to send again.
    """

    id: str
    time: int
    run: str
    what: str
    reason: str
    record: Record
    writer: str = ""
    seq: int = 0
    run_id: str = ""


class Settled(msgspec.Struct, frozen=True, tag_field="type", tag="settled"):
    """What became of the letters *ids*: they were ``requeued`` or ``discarded``."""

    ids: list[str]
    how: str


class Office(msgspec.Struct):
    """
    The dead letters of a destination: those that *wait*, by id, and how many records were settled,
    by how.
    """

    waiting: dict[str, Letter] = {}
    settled: dict[str, int] = {}


_DECODER: msgspec.json.Decoder[Letter | Settled] = msgspec.json.Decoder(Union[Letter, Settled])
_encode = msgspec.json.Encoder().encode
_REASON_LIMIT = 500


def write_letter(
    what: str, reason: str, record: Record, *, writer: str, seq: int, run_id: str = ""
) -> Letter:
    """Return a letter; see `Letter`."""
    about = msgspec.json.encode((writer, seq, what, record))
    identity = hashlib.sha256(about).hexdigest()[:12]
    return Letter(
        identity, _clock.now_ms(), record.run, what, reason[:_REASON_LIMIT], record, writer, seq, run_id
    )


def post(directory: DestinationDirectory, letters: Sequence[Letter], blobs: Path | None) -> None:
    """
    Append *letters* to the log, and keep the artifacts they refer to, which lie in *blobs*.

    Raises OSError where the disk refuses: the records are not to be acknowledged then.
    """
    for letter in letters:
        if blobs is not None:
            for blob in blobs_of(letter.record):
                _keep(directory, blobs / blob)
        append_line(directory.dead_letters, _encode(letter))
        _guard.warn_once(
            "dead",
            "the server refused a record for good; it is kept among the dead letters, see `mltrace dead list`",
            reason=letter.reason[:200],
        )


def _keep(directory: DestinationDirectory, blob: Path) -> None:
    make_directory(directory.dead_artifacts)
    # What is missing was moved before, by a process that died; or the letter says that it was missing.
    with contextlib.suppress(FileNotFoundError):
        os.replace(blob, directory.dead_artifacts / blob.name)


def read_office(directory: DestinationDirectory) -> Office:
    """Return the letters of *directory*, oldest first; damaged lines are passed over."""
    waiting: dict[str, Letter] = {}
    office = Office(waiting, {})
    for payload in read_lines(directory.dead_letters):
        with contextlib.suppress(msgspec.DecodeError):
            entry = decode(payload or b"", _DECODER)
            if isinstance(entry, Settled):
                _settle(office, entry)
            elif is_sound(entry.record):
                waiting.setdefault(entry.id, entry)
    return office


def _settle(office: Office, entry: Settled) -> None:
    """
    Count records, not letters: a record is settled with the last of its letters. The end that was made
    up for a dead process's run has no number, and was never counted as accepted.
    """
    gone = [letter for identity in entry.ids if (letter := office.waiting.pop(identity, None))]
    left = {(letter.writer, letter.seq) for letter in office.waiting.values()}
    records = {(letter.writer, letter.seq) for letter in gone if letter.seq} - left
    office.settled[entry.how] = office.settled.get(entry.how, 0) + len(records)


def requeue(directory: DestinationDirectory, letters: Iterable[Letter]) -> int:
    """
    Put the records of *letters* into the spool again, for the next process that delivers; return
    how many there were. A process that dies in between leaves the letters where they are.
    """
    chosen = sorted(letters, key=lambda letter: (letter.writer, letter.seq))
    journal = Journal(directory)
    for record in (letter.record for letter in chosen):
        stored = {blob: journal.store(str(directory.dead_artifacts / blob)) for blob in blobs_of(record)}
        record = with_blobs(record, {blob: copy.name if copy else blob for blob, copy in stored.items()})
        journal.emit(msgspec.structs.replace(record, seq=0))
    if (left := journal.close(0)).pending < len(chosen):
        raise OSError(f"the spool took {left.pending} of {len(chosen)} records; free the disk and try again")
    _finish(directory, chosen, "requeued")
    return len(chosen)


def discard(directory: DestinationDirectory, letters: Iterable[Letter]) -> int:
    """Give *letters* up; they count as dropped from now on. Return how many there were."""
    chosen = list(letters)
    _finish(directory, chosen, "discarded")
    return len(chosen)


def _finish(directory: DestinationDirectory, letters: Sequence[Letter], how: str) -> None:
    if letters:
        append_line(directory.dead_letters, _encode(Settled([letter.id for letter in letters], how)))
    for letter in letters:
        for blob in blobs_of(letter.record):
            (directory.dead_artifacts / blob).unlink(missing_ok=True)


def as_document(letter: Letter) -> dict[str, Any]:
    """Return *letter* as plain data, for an export."""
    document: dict[str, Any] = msgspec.to_builtins(letter)
    return document
