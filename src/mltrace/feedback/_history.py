"""
Feedback as programs had it before: `UserFeedback`, and the JSON files that hold histories of it.
"""

from __future__ import annotations

import hashlib
import os

from collections.abc import Iterable, Iterator
from typing import Any, Union

import msgspec

from .._checks import decode
from ..exceptions import ConfigurationError
from ._moments import iso, milliseconds
from ._reading import Feedback


class UserFeedback(msgspec.Struct, frozen=True):
    """
    A question, the answer that was given, and what its user said of it.

    *timestamp* is ISO 8601, a `datetime` (both local time where they name no zone), or seconds since the
    epoch; *sources* are the documents that the answer came from, as texts or mappings; *rating* is a
    number, by custom 1 to 5.

    Raises:
        ConfigurationError: A *timestamp* or *rating* that cannot be used.
    """

    timestamp: Any  # a `Moment`; msgspec has no union of text and datetime
    question: str
    answer: str
    sources: list[Any] = []
    rating: Union[int, float, None] = None
    feedback_text: Union[str, None] = None
    corrected_answer: Union[str, None] = None

    def __post_init__(self) -> None:
        milliseconds(self.timestamp)
        if self.rating is not None and (
            isinstance(self.rating, bool) or not isinstance(self.rating, (int, float))
        ):
            raise ConfigurationError(f"rating: {self.rating!r:.100} is not a number")

    @property
    def time_ms(self) -> int:
        """The timestamp in milliseconds since the epoch."""
        return milliseconds(self.timestamp)

    @property
    def digest(self) -> str:
        """32 hex digits that only the same feedback has."""
        content = msgspec.json.encode(msgspec.structs.replace(self, timestamp=self.time_ms))
        return hashlib.sha256(content).hexdigest()[:32]


_FEEDBACK = msgspec.json.Decoder(UserFeedback)
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def read_history(path: str | os.PathLike[str]) -> list[UserFeedback]:
    """
    Return the feedback in a file: a JSON list, a mapping with one list in it, or a JSON object per
    line. Fields are named as those of `UserFeedback`; others are passed over.

    Raises:
        ConfigurationError: What is no feedback; the message says where in the file it is.
    """
    with open(path, "rb") as file:
        content = file.read()
    return [_feedback(place, part, path) for place, part in _parts(content, path)]


def _parts(content: bytes, path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    try:
        document = decode(content, _ANY)
    except msgspec.DecodeError:
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                yield f"line {number}", line
        return
    if isinstance(document, dict) and "question" not in document:
        lists = [value for value in document.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise ConfigurationError(f"path: {os.fspath(path)!r} has no list of feedback, or more than one")
        document = lists[0]
    for number, part in enumerate(document if isinstance(document, list) else [document], 1):
        yield f"entry {number}", part


def _feedback(place: str, part: Any, path: str | os.PathLike[str]) -> UserFeedback:
    try:
        return decode(part, _FEEDBACK) if isinstance(part, bytes) else msgspec.convert(part, UserFeedback)
    except (msgspec.ValidationError, msgspec.DecodeError, ConfigurationError) as error:
        raise ConfigurationError(f"path: {os.fspath(path)!r}, {place}, is no feedback: {error}") from None


def write_history(path: str | os.PathLike[str], found: Iterable[Feedback]) -> int:
    """Write *found* as a JSON list that `read_history` reads; return how many there are."""
    history = [_as_user_feedback(one) for one in found]
    content = msgspec.json.format(msgspec.json.encode(history), indent=2)
    with open(path, "wb") as file:
        file.write(content + b"\n")
    return len(history)


def _as_user_feedback(one: Feedback) -> UserFeedback:
    rating = one.rating
    return UserFeedback(
        iso(one.time_ms),
        one.question or "",
        one.answer or "",
        one.sources,
        int(rating) if rating is not None and rating.is_integer() else rating,
        one.text,
        one.corrected,
    )
