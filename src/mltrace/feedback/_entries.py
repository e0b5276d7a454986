"""
What somebody said of a call, and how a run holds it.

One tag per name and source has all of it as JSON, so that setting it replaces it whole and setting
it twice is setting it once:

    feedback.<name>                 of nobody in particular
    feedback.<name>.<8 hex>         of a source: the digits are of its hash, the JSON has it in words
    mltrace.feedback                when the last one was given
    user_feedback                   the last one in words: for people, and what searches look for

`log_prediction` sets the tag ``user_feedback`` alone, to what was said when the call was recorded.

A number is the metric ``feedback.<name>`` too. MLflow's metrics cannot be replaced: the point with
the latest time counts. What does not fit a tag is whole in ``feedback/….json``.

A trace holds each as an assessment of MLflow's, whose id is made of trace, span, name and source.
"""

from __future__ import annotations

import hashlib

from collections.abc import Mapping
from typing import Any, Union

import msgspec

from .._checks import decode
from .._records import AssessmentLogged, Metric, wire_number
from .._texts import TAG_LIMIT, clean_key, fit
from ..exceptions import ConfigurationError
from ._moments import iso, milliseconds


RATING = "rating"
"""What is judged where nobody says it."""

MARK = "mltrace.feedback"
READABLE = "user_feedback"
PREFIX = "feedback."
CORRECTED = "corrected"
NAME_LIMIT = 200
SOURCE_LIMIT = 500

_ASSESSED = 15_000  # characters of each text of an assessment: 64 KiB, a MySQL column, in any script
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


_VALUE: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_ENTRY = msgspec.json.Decoder(Entry)


def as_json(said: Any) -> str:
    """Return *said* as JSON: an entry as the tag has it."""
    return msgspec.json.encode(said).decode()


def read_entry(text: str | bytes) -> Entry | None:
    """Return the entry that *text* is, None where it is none."""
    try:
        return decode(text.encode() if isinstance(text, str) else text, _ENTRY)
    except msgspec.DecodeError:
        return None


def entries(tags: Mapping[str, str], began: int) -> list[Entry]:
    """Return what the *tags* of a run, which *began* then, hold of feedback."""
    found = [
        entry
        for key, value in tags.items()
        if key.startswith(PREFIX) and (entry := read_entry(value)) is not None and entry.key == key
    ]
    if not found and READABLE in tags:
        found.append(_recorded(tags[READABLE], began))
    return found


def _recorded(said: str, time: int) -> Entry:
    """Return what `log_prediction` was given as *said*: a rating, or a text."""
    try:
        value = decode({"True": "true", "False": "false"}.get(said, said).encode(), _VALUE)
    except msgspec.DecodeError:
        value = None
    if isinstance(value, (int, float)):
        return Entry(RATING, time, value)
    return Entry(RATING, time, text=said)


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


def assessment(entry: Entry, uid: str, trace: str, experiment: str) -> AssessmentLogged:
    """
    Return *entry* as said of the span *uid*, or, where that is the top one, of the whole *trace*.

    Rationale and metadata are always there, so that one that replaces another leaves nothing of it.
    """
    span = None if uid == trace else uid[:16]
    identity = as_json([trace, span, entry.name, entry.source])
    said = entry.value if entry.value is not None else entry.text or entry.corrected or ""
    return AssessmentLogged(
        run=uid,
        time=entry.time,
        trace=trace,
        assessment_id=f"a-{hashlib.sha256(identity.encode()).hexdigest()[:32]}",
        name=entry.name,
        value=as_json(fit(said, _ASSESSED, None) if isinstance(said, str) else said),
        rationale=fit(entry.text or "", _ASSESSED, None),
        source_id=entry.source or "",
        span=span,
        metadata={MARK: iso(entry.time), CORRECTED: fit(entry.corrected or "", _ASSESSED, None)},
        experiment=experiment,
    )


def assessed(record: AssessmentLogged) -> Entry:
    """Return the entry that *record* was made of, as far as it has kept it."""
    try:
        value = decode(record.value.encode(), _VALUE)
    except msgspec.DecodeError:
        value = record.value
    return entry_of(
        record.name, record.time, value, record.rationale or "", record.source_id, record.metadata
    )


def entry_of(
    name: str, time: int, value: Any, rationale: str, source_id: str, metadata: Mapping[str, str]
) -> Entry:
    """Return what an assessment says, mltrace's or one that was made in MLflow, as an entry."""
    corrected = metadata.get(CORRECTED) or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and not isinstance(value, (int, float, bool, str)):
        value = as_json(value)
    if value in ("", rationale or corrected):  # nothing but a text, or a correction
        value = None
    try:
        time = milliseconds(metadata[MARK])
    except (KeyError, ConfigurationError):
        pass
    source = source_id if source_id not in ("", "unknown", "default") else None
    return Entry(name, time, value, rationale or None, corrected, source)


def metrics(entry: Entry) -> tuple[Metric, ...]:
    """Return the metric point of a number."""
    value = entry.number
    return () if value is None else (Metric(entry.metric, wire_number(value), entry.time),)


def tags(entry: Entry) -> dict[str, str]:
    """Return the tags of *entry*, which fits."""
    return {entry.key: as_json(entry), MARK: iso(entry.time), READABLE: entry.words}
