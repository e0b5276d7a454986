"""
Any Python value as bounded, redacted, JSON-ready data.

`Renderer.plain` is total: whatever the value does, it returns. Values are read, never copied whole,
consumed or kept: arrays and frames become shape, type and a head; iterators become a name. Depth,
number of nodes, length of text and the time for other people's code are bounded; what was left out
says so.
"""

from __future__ import annotations

import itertools
import math

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ._forms import Unreadable, form_of, open_value, open_watched, raised, registered, shows_parts, text_of
from ._known_types import NODES, PLAIN, Items, Pairs, Secret, Text, class_name, integer_text
from ._redaction import MASK, Redactor, remember
from ._texts import KEY_LIMIT, READ_LIMIT, WHOLE_LIMIT, clean_key, clean_text, cut_note, fit
from ._watched import Budget


_DEPTH = 20
_SHORT = 10  # below this no text can have the shape of a secret
_SMALL = 1 << 63
_OPENED = frozenset({Text, Pairs, Items, Secret})
_PUNCTUATION = 4_096
_NAMES = 4096  # argument names that a renderer remembers


class Renderer:
    """Renders values under one *redactor*. Stateless between calls, safe to share among threads."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor
        self._ordinary: set[str] = set()
        """
        Names that are acceptable keys, no secret's and no secrets, as far as they came up: a call's
        arguments have the same names each time.
        """
        self._keys: set[str] = set()
        """Names that are acceptable keys and show no secret of any shape."""
        self.familiar: set[str] = set()
        """Keys of mappings that are shown as they are, and so are their values, as far as they came up."""

    def _is_ordinary(self, name: str) -> bool:
        """
        Say whether a value called *name* is rendered as it is: its name is no secret's, and no hook
        wants to see it.
        """
        if self.redactor.hook is not None or self.redactor.is_secret_name(name):
            return False
        if len(self._ordinary) < _NAMES and self.key(name, []) == name:
            self._ordinary.add(name)
        return True

    def fields(self, values: Mapping[Any, Any], secrets: list[str]) -> dict[str, str]:
        """
        Return *values* as texts under keys that MLflow takes; see `field`. Together they wait for
        other people's code no longer than one value would.
        """
        found: dict[str, str] = {}
        ordinary = self._ordinary
        budget = None
        for name, value in values.items():
            kind = type(value)
            if name in ordinary and kind is int and -_SMALL < value < _SMALL:
                found[name] = str(value)
            elif name in ordinary and kind is str and len(value) < _SHORT and value.isprintable():
                found[name] = value
            elif name in ordinary and (kind is float or kind is bool or value is None):
                found[name] = str(value)
            else:
                budget = budget or Budget()
                key = text_of(name)
                found[self.key(key, secrets)] = self.field(key, value, secrets, budget)
        return found

    def key(self, name: str, secrets: list[str]) -> str:
        """Return *name* as a key that MLflow takes and that shows no secret."""
        if not secrets and (name in self._ordinary or name in self._keys):
            return name
        key = clean_key(self.redactor.text(name[:READ_LIMIT], secrets, secrets))
        if key == name and len(self._keys) < _NAMES:
            self._keys.add(key)
        return key

    def field(self, name: str, value: Any, secrets: list[str], budget: Budget | None = None) -> str:
        """
        Return *value*, called *name*, as one text: itself for a text, else its JSON or `str`.

        Secret values that were hidden are added to *secrets*, so that the caller can hide them
        elsewhere too. The text is at most `WHOLE_LIMIT` characters long; the caller fits it to its
        field.
        """
        if not secrets and (name in self._ordinary or self._is_ordinary(name)):  # most values need no walk
            kind = type(value)
            if kind is str:
                if len(value) < _SHORT and value.isprintable():
                    return str(value)
            elif kind is int:
                if -_SMALL < value < _SMALL:
                    return str(value)
            elif kind is float or kind is bool or value is None:
                return str(value)
        plain = self.plain(name, value, secrets, budget)
        text = as_text(plain)
        # Once more: what stands before a secret's name is known to be one only now.
        return self.redactor.text(text, secrets) if secrets else text

    def plain(self, name: str, value: Any, secrets: list[str], budget: Budget | None = None) -> Any:
        """
        Return *value*, called *name*, as JSON-ready data (dict, list, str, int, float, bool, None).
        """
        try:
            # A structure has punctuation too, and room for it, so that the remarks on what was cut stay.
            chars = WHOLE_LIMIT if type(value) is str else WHOLE_LIMIT - _PUNCTUATION
            return _Walk(self, secrets, budget or Budget(), chars).value(name, value, 0)
        except RecursionError:
            return f"<{_name(value)}: nested too deeply>"

    def text(self, name: str, text: str, secrets: list[str]) -> str:
        """Return a free *text*, called *name*, cleaned and redacted, whole."""
        value = self.redactor.hooked(name, text)
        if not isinstance(value, str):
            value = self.field(name, value, secrets)
        return self.redactor.text(clean_text(value), secrets, secrets)


def as_text(plain: Any) -> str:
    """Return JSON-ready data as one text: a text as it is, at most `WHOLE_LIMIT` characters."""
    if isinstance(plain, (dict, list)):
        plain = as_json(plain)
    return fit(str(plain), WHOLE_LIMIT, None)


def as_json(plain: Any) -> str:
    """
    Return JSON-ready data as compact JSON text; numbers that JSON lacks are written as texts by
    `_Walk` before.
    """
    return msgspec.json.encode(plain).decode()


_SECRET_PARTS = 200


def remember_all(value: Any, secrets: list[str], budget: Budget) -> None:
    """
    Add a hidden value to the *secrets* of its run: itself if it is a text or number, else the texts
    inside it. Objects are not asked for a text of their own.
    """
    left = [(value, 0)]
    for _ in range(_SECRET_PARTS):
        if not left:
            return
        part, depth = left.pop()
        for found in _parts(part, budget) if depth < _DEPTH else ():
            if type(found) is str:
                remember(found, secrets)
            else:
                left.append((found, depth + 1))


def _parts(value: Any, budget: Budget) -> list[Any]:
    kind = type(value)
    if kind is str:
        return [value]
    if kind is int:
        return [integer_text(value)]
    if kind is bytes:
        return [value[:_SECRET_BYTES].decode("utf-8", "replace")]
    if kind in PLAIN or not shows_parts(kind):
        return []
    try:
        opened = value if kind in _OPENED else open_value(value, budget)
    except Exception:  # it tells nobody
        return []
    if type(opened) is Pairs:
        return [item for _, item in itertools.islice(opened.pairs, _SECRET_PARTS)]
    if type(opened) is Items:
        return list(opened.items[:_SECRET_PARTS])
    return [opened.value] if type(opened) is Secret else [opened.text] if type(opened) is Text else []


_SECRET_BYTES = 10_000


def _name(value: Any) -> str:
    return clean_text(class_name(type(value)))


class _Walk:
    """One rendering: counts the nodes it has spent and remembers the containers it is inside of."""

    def __init__(self, renderer: Renderer, secrets: list[str], budget: Budget, chars: int) -> None:
        self._redactor = renderer.redactor
        self._familiar = renderer.familiar
        self._secrets = secrets
        self._budget = budget
        self._inside: set[int] = set()
        self._nodes = NODES
        self._chars = chars
        self._ahead: dict[
            int, tuple[Any, Any]
        ] = {}  # elements that were opened together with one before them

    def value(self, name: str, value: Any, depth: int) -> Any:
        """Return *value*, called *name*, as plain data; what cannot be read says so."""
        if self._nodes > 0 and name and self._is_hidden(name, value):
            self._nodes -= 1
            remember_all(value, self._secrets, self._budget)
            return MASK
        return self._shown(self._redactor.hooked(name, value), depth)

    def _is_hidden(self, name: str, value: Any) -> bool:
        return value is not None and type(value) is not bool and self._redactor.is_secret_name(name)

    def _shown(self, value: Any, depth: int) -> Any:
        """Return *value*, which its name does not hide and of which the hook knows."""
        self._nodes -= 1
        if self._nodes < 0 or self._chars < 0:
            return "…"
        if type(value) is str:
            return self._str(value, len(value))
        try:
            return self._render(value, depth)
        except RecursionError:
            raise
        except Exception as error:
            return self._remark(value, raised(error))

    def _remark(self, value: Any, unreadable: Unreadable) -> str:
        return f"<{_name(value)}: {unreadable.why}>"

    def _render(self, value: Any, depth: int) -> Any:
        """Return *value*, which is no text, as plain data."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -(1 << 63) <= value < (1 << 64) else integer_text(value)
        if kind is float:
            return value if math.isfinite(value) else str(value)
        if id(value) in self._inside:
            return f"<cycle: {_name(value)}>"
        if depth >= _DEPTH:
            return f"<{_name(value)}: deeper than {_DEPTH} levels>"
        self._inside.add(id(value))
        try:
            return self._composite(value, kind, depth)
        finally:
            self._inside.discard(id(value))

    def _composite(self, value: Any, kind: type, depth: int) -> Any:
        if kind is dict and dict not in registered:
            return self._mapping(list(itertools.islice(value.items(), NODES + 1)), depth, len(value))
        if (kind is list or kind is tuple) and kind not in registered:
            return self._sequence(value, depth, len(value))
        if kind in _OPENED:
            opened = value
        elif (ahead := self._ahead.get(id(value))) is not None:
            opened = ahead[1]
        else:
            opened = open_value(value, self._budget)
        shape = type(opened)
        if shape is str:
            return self._str(opened, len(opened))
        if shape is Text:
            return self._str(opened.text, opened.length, opened.limit)
        if shape is Pairs:
            return self._mapping(opened.pairs, depth, opened.length)
        if shape is Items:
            return self._sequence(opened.items, depth, opened.length)
        if shape is Secret:
            remember_all(opened.value, self._secrets, self._budget)
            return MASK
        if shape is Unreadable:
            return self._remark(value, opened)
        return self.value("", opened, depth + 1)

    def _str(self, text: str, length: int, limit: int = WHOLE_LIMIT) -> str:
        room = self._chars if self._chars < limit else limit
        if length < _SHORT <= room and not self._secrets and text.isprintable():
            self._chars -= length + 1
            return text
        # Secrets go before the cut, which would leave the first half of one.
        room = max(room, 0)
        read = clean_text(text[: room + READ_LIMIT - WHOLE_LIMIT])
        kept = self._redactor.text(read, self._secrets, self._secrets)
        if length > room:
            note = cut_note(length)
            kept = f"{kept[: max(room - len(note), 0)]}{note}"
        self._chars -= len(kept) + 1
        return kept

    def _mapping(self, items: Any, depth: int, size: int | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        repeated: dict[str, int] = {}
        for key, item in items:
            if self._nodes < 0 or self._chars < 0:
                found["…"] = f"{size - len(found)} more" if size else "more"
                break
            if type(key) is str and key in self._familiar and key not in found and not self._secrets:
                self._chars -= len(key)
                found[key] = self._shown(item, depth + 1)
                continue
            name = key if type(key) is str else self._key(key, depth)
            shown = self._redactor.text(clean_text(name[: 2 * KEY_LIMIT]), self._secrets, self._secrets)[
                :KEY_LIMIT
            ]
            self._get_to_know(name, shown)
            if shown in found:
                again = itertools.count(repeated.get(shown, 1))
                shown, base = next(name for n in again if (name := f"{shown}~{n}") not in found), shown
                repeated[base] = next(again)
            self._chars -= len(shown)
            found[shown] = self.value(name, item, depth + 1)
        return found

    def _get_to_know(self, name: str, shown: str) -> None:
        familiar = self._familiar
        is_usual = name == shown and self._redactor.hook is None and not self._redactor.is_secret_name(name)
        if is_usual and len(familiar) < _NAMES:
            familiar.add(name)

    def _key(self, key: Any, depth: int) -> str:
        try:
            found = self._render(key, depth + 1)
        except Exception as error:
            found = self._remark(key, raised(error))
        return found if type(found) is str else as_json(found) if type(found) in (dict, list) else str(found)

    def _sequence(self, items: Sequence[Any], depth: int, size: int | None) -> list[Any]:
        found: list[Any] = []
        hook = self._redactor.hook
        here: type | None = None  # the type of elements that are opened in this thread
        for place, item in enumerate(items):
            if self._nodes < 0 or self._chars < 0:
                found.append(f"… {(size or len(items)) - len(found)} more")
                break
            kind = type(item)
            if kind is not here and kind not in PLAIN and hook is None:
                if form_of(kind).runs_user_code is False:
                    here = kind
                else:
                    self._open_ahead(items, place)
            found.append(self._shown(item if hook is None else self._redactor.hooked("", item), depth + 1))
        return found

    def _open_ahead(self, items: Sequence[Any], place: int) -> None:
        """
        Open the elements from *place* on whose opening runs code of the user's in one hand-over,
        unless that was done.
        """
        first = items[place]
        if id(first) in self._ahead or not _is_watched(first):
            return
        several = {id(item): item for item in items[place : place + self._nodes] if _is_watched(item)}
        if len(several) > 1:
            values = list(
                several.values()
            )  # kept with what they are: an identity is one as long as its object lives
            opened = open_watched(values, [form_of(type(item)) for item in values], self._budget)
            self._ahead.update(zip(several, zip(values, opened, strict=True), strict=True))


def _is_watched(value: Any) -> bool:
    return type(value) not in PLAIN and form_of(type(value)).is_watched(value)
