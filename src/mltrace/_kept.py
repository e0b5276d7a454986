"""
The items of a stream, as far as they are kept for its output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ._texts import READ_LIMIT, WHOLE_LIMIT


_ITEMS = 10_000

Reducer = Callable[[list[Any]], Any]


class Streamed(NamedTuple):
    """
    What is known of a stream beside its output.

    *first_ms*: milliseconds from the start of the call to the first item that brings text; *seconds*: from that to
    the last one; *said*: what its chunks said (an `LlmResponse`).
    """

    first_ms: float | None = None
    seconds: float = 0.0
    said: Any = None


class Keeper(Protocol):
    """What takes a stream's items."""

    def add(self, item: Any) -> bool:
        """Take the next item; say whether it brings text, or may."""

    def result(self) -> Any:
        """Return the output."""

    @property
    def items(self) -> list[Any]:
        """What is kept."""

    @property
    def said(self) -> Any:
        """What the items said beside the output."""


class Kept:
    """
    The items of a stream that are kept: the first 10,000, or about 1 MiB of text; in a stream of
    *texts* the text alone is bounded.
    """

    def __init__(
        self, render: Callable[[Any], Any], reducer: Reducer | None, *, keep: bool, texts: bool = False
    ) -> None:
        self._render = render
        self._reducer = reducer
        self._keep = keep
        self._joins = texts and reducer is None
        self._room = READ_LIMIT if texts else WHOLE_LIMIT
        self._items: list[Any] = []
        self._left_out = 0

    def add(self, item: Any) -> bool:
        """Take the next item."""
        if not self._keep:
            self._left_out += 1
            return True
        try:
            if self._reducer is None and type(item) is not str:
                item = self._render(item)
        except Exception:
            self._left_out += 1
            raise
        self._items.append(item)
        self._room -= len(item) if type(item) is str else 100
        if self._joins and len(self._items) >= _ITEMS and all(type(kept) is str for kept in self._items):
            self._items = ["".join(self._items)]
        self._keep = self._room > 0 and len(self._items) < _ITEMS
        return True

    def result(self) -> Any:
        """
        Return the output: what the reducer makes of the items; else texts joined, anything else as
        a list, and how many were left out.
        """
        items, reducer = self._items, self._reducer
        if reducer is not None:
            return reducer(items)
        left = [f"… [{self._left_out} more items]"] if items and self._left_out else []
        return "".join(items + left) if items and all(type(item) is str for item in items) else items + left

    @property
    def said(self) -> None:
        """Nothing: what items mean is not known here."""

    @property
    def items(self) -> list[Any]:
        """What is kept."""
        return self._items
