"""
What somebody said of a call, and how a run holds it.

One tag per name and source has all of it as JSON, so that setting it replaces it whole and setting
it twice is setting it once:

    feedback.<name>                 of nobody in particular
    feedback.<name>.<8 hex>         of a source: the digits are of its hash, the JSON has it in words
    mltrace.feedback                when the last one was given: what searches look for
    user_feedback                   the last one in words, for people

A number is the metric ``feedback.<name>`` too. MLflow's metrics cannot be replaced: the point with
the latest time counts. What does not fit a tag is whole in ``feedback/….json``.
"""

from __future__ import annotations

import hashlib

from collections.abc import Iterator, Mapping
from typing import Union

import msgspec

from .._checks import decode
from .._records import Metric, wire_number
from .._texts import TAG_LIMIT, clean_key, fit
from ._moments import iso


MARK = "mltrace.feedback"
READABLE = "user_feedback"
PREFIX = "feedback."
NAME_LIMIT = 200
SOURCE_LIMIT = 500

_ROOM = 3_000  # characters of a text in a tag that does not hold all


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One person's (or program's) word on one call: *value* is a number, a yes or no, or a text; *time*
    is wall-clock milliseconds; *whole* the artifact that has what is cut here.
    """

    name: str
    time: int
    value: Union[int, float, bool, str, None] = None
    text: Union[str, None] = None
    corrected: Union[str, None] = None
    source: Union[str, None] = None
    whole: Union[str, None] = None

    @property
    def number(self) -> float | None:
        """The value where it is a number, yes being 1 and no 0."""
        return None if self.value is None or isinstance(self.value, str) else float(self.value)

    @property
    def metric(self) -> str:
        """The key of its metric, and of its tag where nobody in particular said it."""
        return clean_key(f"{PREFIX}{self.name}")

    @property
    def key(self) -> str:
        """The key of its tag: the same for the same name and source."""
        if self.source is None:
            return self.metric
        digest = hashlib.sha256(self.source.encode("utf-8", "surrogatepass")).hexdigest()
        return clean_key(f"{PREFIX}{self.name}.{digest[:8]}")

    @property
    def words(self) -> str:
        """The entry as one reads it: ``rating 4: too short``."""
        said = f"{self.name} {self.value}" if self.value is not None else self.name
        about = self.text if self.text is not None else self.corrected
        return fit(f"{said}: {about}" if about is not None else said, TAG_LIMIT, self.whole)


_ENTRY = msgspec.json.Decoder(Entry)


def as_json(entry: Entry) -> str:
    """Return *entry* as the tag has it."""
    return msgspec.json.encode(entry).decode()


def read_entry(text: str | bytes) -> Entry | None:
    """Return the entry that *text* is, None where it is none."""
    try:
        return decode(text.encode() if isinstance(text, str) else text, _ENTRY)
    except msgspec.DecodeError:
        return None


def entries(tags: Mapping[str, str]) -> Iterator[Entry]:
    """Yield what a run's *tags* hold of feedback."""
    for key, value in tags.items():
        if key.startswith(PREFIX) and (entry := read_entry(value)) is not None and entry.key == key:
            yield entry


def fitted(entry: Entry) -> Entry:
    """Return *entry* such that it fits a tag; what is cut names the artifact with the whole."""
    if len(as_json(entry)) <= TAG_LIMIT:
        return entry
    path, room = f"feedback/{entry.key.removeprefix(PREFIX)}.json", _ROOM
    while len(as_json(short := _cut(entry, room, path))) > TAG_LIMIT:
        room //= 2  # quotes and control characters are longer in JSON
    return short


def _cut(entry: Entry, room: int, path: str) -> Entry:
    texts = {name: getattr(entry, name) for name in ("value", "text", "corrected")}
    cut = {name: fit(text, room, path) for name, text in texts.items() if isinstance(text, str)}
    return msgspec.structs.replace(entry, whole=path, **cut)


def metrics(entry: Entry) -> tuple[Metric, ...]:
    """Return the metric point of a number."""
    value = entry.number
    return () if value is None else (Metric(entry.metric, wire_number(value), entry.time),)


def tags(entry: Entry) -> dict[str, str]:
    """Return the tags of *entry*, which fits."""
    return {entry.key: as_json(entry), MARK: iso(entry.time), READABLE: entry.words}
