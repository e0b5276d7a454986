"""
What a request may still do when its sender has long turned to something else: it is delayed on the way, or a
gateway sends it once more, answered or not.

A creation makes the same run a second time; a tag goes back to an earlier value. Nobody sees that from
here, so where it can happen is noted before the request is made, and `Courier.reconcile` looks there when the
request has had the time to land. The notes are lines of ``reconcile-<number>.log``, a file for each
`RECONCILE_SECONDS` of wall clock: what one period has noted is looked for when another has passed, by
whatever process delivers then, and the file is removed.
"""

from __future__ import annotations

import time

from collections.abc import Iterable
from pathlib import Path

import msgspec

from .._checks import decode, is_server_id
from .._files import append_line, read_lines
from .._spool import DestinationDirectory


RECONCILE_SECONDS = 600.0
"""How long a request may be on its way: as long as any proxy keeps one."""

_MOST_UNWRITTEN = 4096  # notes of one period in memory, when the disk refuses them


class Suspect(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    In the experiment *experiment_id* a run may turn up a second time. Tags of *run_id* may go back from
    their *final* values to *stale* ones.
    """

    experiment_id: str
    run_id: str = ""
    stale: dict[str, set[str]] = {}
    final: dict[str, str] = {}


_SUSPECT = msgspec.json.Decoder(Suspect)


class LateLog:
    """The notes of one destination, which its processes share; any thread may write them."""

    def __init__(self, directory: DestinationDirectory) -> None:
        self._directory = directory
        self._created: tuple[int, set[str]] = 0, set()
        self._unwritten: dict[int, list[Suspect]] = {}

    def note_creation(self, experiment_id: str) -> None:
        """Note that a run is about to be created in *experiment_id*: one line in each period says so."""
        period, known = self._created
        if period != _period():
            period, known = self._created = _period(), set()
        if experiment_id not in known:
            self.note(Suspect(experiment_id))
            known.add(experiment_id)

    def note(self, suspect: Suspect) -> None:
        """Note *suspect*; in memory only where the disk does not take it."""
        period = _period()
        try:
            append_line(self._directory.reconcile_log(period), msgspec.json.encode(suspect))
        except OSError:
            unwritten = self._unwritten.setdefault(period, [])
            if len(unwritten) < _MOST_UNWRITTEN:
                unwritten.append(suspect)

    def periods(self) -> list[int]:
        """Return the periods in which something was noted."""
        return sorted({*self._directory.reconcile_periods(), *self._unwritten})

    def overdue(self) -> list[int]:
        """Return the periods of which every request has had the time to land; one in the future is of another clock."""
        now = _period()
        return [period for period in self.periods() if not now - 1 <= period <= now]

    def read(self, periods: Iterable[int]) -> list[Suspect]:
        """Return what was noted in *periods*; of a tag the last value."""
        found: dict[tuple[str, str], Suspect] = {}
        for period in periods:
            written = _read(self._directory.reconcile_log(period))
            for suspect in [*written, *self._unwritten.get(period, ())]:
                of = suspect.experiment_id, suspect.run_id
                found[of] = _later(found[of], suspect) if of in found else suspect
        return list(found.values())

    def forget(self, periods: Iterable[int]) -> None:
        """Remove the notes of *periods*."""
        for period in periods:
            self._directory.reconcile_log(period).unlink(missing_ok=True)
            self._unwritten.pop(period, None)


def _period() -> int:
    return int(time.time() // RECONCILE_SECONDS)


def _read(path: Path) -> Iterable[Suspect]:
    for payload in read_lines(path):
        try:
            suspect = decode(payload or b"", _SUSPECT)
        except msgspec.DecodeError:
            continue
        if is_server_id(suspect.experiment_id) and (not suspect.run_id or is_server_id(suspect.run_id)):
            yield suspect


def _later(one: Suspect, other: Suspect) -> Suspect:
    keys = one.stale.keys() | other.stale.keys()
    stale = {key: one.stale.get(key, set()) | other.stale.get(key, set()) for key in keys}
    return Suspect(other.experiment_id, other.run_id, stale, {**one.final, **other.final})
