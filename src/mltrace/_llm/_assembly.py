"""
What a stream has said so far, within bounds.

Chunks are read when they come and not kept: a consumer may change them afterwards (OpenAI's own
examples add up tool calls in the first chunk's), and what the last one says (usage, finish reason)
counts however much came before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._kept import Kept, Reducer
from .._texts import READ_LIMIT
from ._chunks import CallPart, Part
from ._reading import read_chunk
from ._response import LlmResponse, whole_usage
from ._shapes import structure


_CALLS = 1_000


class _Call:
    """A tool call as far as it has come."""

    def __init__(self, part: CallPart) -> None:
        self.id = part.id
        self.name = part.name
        self.whole: Any = None
        self._pieces: list[str] = []
        self._room = READ_LIMIT

    def add(self, part: CallPart) -> None:
        """Take the next piece."""
        self.id, self.name = self.id or part.id, self.name or part.name
        if type(part.arguments) is not str:
            self.whole = part.arguments if part.arguments else self.whole
        elif self._room > 0:
            self._pieces.append(part.arguments)
            self._room -= len(part.arguments)

    def data(self) -> dict[str, Any]:
        """Return the call as `LlmResponse` has it."""
        said = "".join(self._pieces)
        return {"id": self.id, "name": self.name, "arguments": structure(said) if said else self.whole or {}}


class Assembly:
    """
    What a model's stream has said so far. Items of no known form are kept as any stream's are.
    """

    def __init__(self, render: Callable[[Any], Any], reducer: Reducer | None, *, keep: bool) -> None:
        self._kept = Kept(render, reducer, keep=keep, texts=True)
        self._raw = reducer is not None  # the user's reducer gets the chunks as they are
        self._keep = keep
        self._part = Part()
        self._counts: dict[str, float] = {}
        self._calls: list[_Call] = []
        self._open: dict[int, _Call] = {}
        self._whole = LlmResponse()

    def add(self, chunk: Any) -> bool:
        """Take the next chunk; say whether it brought text."""
        part = Part(text=chunk) if type(chunk) is str else read_chunk(chunk)
        if part is None:
            return self._kept.add(chunk)
        if self._raw:
            self._kept.add(chunk)
        elif part.text:
            self._kept.add(part.text)
        if type(chunk) is not str:
            self._take(part)
        return bool(part.text)

    def _take(self, part: Part) -> None:
        before = self._part
        self._part = Part(
            model=part.model or before.model,
            provider=part.provider or before.provider,
            finish_reason=part.finish_reason or before.finish_reason,
            outside=part.outside or before.outside,
        )
        for name, count in part.counts.items():
            self._counts[name] = self._counts.get(name, 0.0) + count if part.adds_counts else count
        if part.whole is not None:
            self._whole = part.whole.filled(self._whole)
        for piece in part.calls if self._keep else ():
            self._add_call(piece)

    def _add_call(self, piece: CallPart) -> None:
        call = None if piece.place is None else self._open.get(piece.place)
        another = call is not None and piece.id and call.id and piece.id != call.id
        if call is None or another:  # some providers give every call of an answer the same place
            if len(self._calls) >= _CALLS:
                return
            call = _Call(piece)
            self._calls.append(call)
            if piece.place is not None:
                self._open[piece.place] = call
        call.add(piece)

    def result(self) -> Any:
        """Return the output: see `Kept.result`; an empty text where there was none."""
        if self._raw or self._kept.items:
            return self._kept.result()
        return "" if self._whole.text is None else self._whole.text

    @property
    def items(self) -> list[Any]:
        """What is kept."""
        return self._kept.items

    @property
    def said(self) -> LlmResponse:
        """What the chunks said beside the text."""
        calls = [call.data() for call in self._calls if call.name is not None]
        own = LlmResponse(
            model=self._part.model,
            provider=self._part.provider,
            finish_reason=self._part.finish_reason,
            tool_calls=calls,
            usage=whole_usage(self._counts, self._part.outside),
        )
        return own.filled(self._whole)
