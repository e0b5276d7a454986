"""
Any Python value as bounded, redacted, JSON-ready data; and keys and texts as MLflow takes them.

`Renderer.plain` is total: whatever the value does, it returns. Values are read, never copied whole,
consumed or kept: arrays and frames become shape, type and a head; iterators become a name. Depth,
number of nodes and length of text are bounded; what was left out says so.

MLflow's limits are those of `mlflow/utils/validation.py` (3.17): keys ``^[/\\w.\\- :]*$`` of at
most 250 characters that are a normalised relative path, params of at most 6,000 characters, tags of
at most 8,000.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import hashlib
import itertools
import math
import os
import re
import types
import uuid

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import msgspec

from ._checks import PART_BYTES, PATH_PARTS, REFUSED_IN_PATHS
from ._redaction import MASK, Redactor


PARAM_LIMIT = 6_000
TAG_LIMIT = 8_000
KEY_LIMIT = 250
NAME_LIMIT = 250
EXPERIMENT_LIMIT = 256  # MLflow lets 500 through, which its column in a strict database does not hold
WHOLE_LIMIT = 1 << 20
"""Characters of one value kept in an artifact (``inputs.json``, ``outputs.json``)."""

NUMBERS_LIMIT = 1_000
"""Numbers of one returned mapping that become metrics."""

_DEPTH = 20
_NODES = 20_000
_HEAD = 6  # elements of an array or rows of a frame that are shown
_REPR_LIMIT = 2_000
_SHORT = 10  # below this no text can have the shape of a secret
_SMALL = 1 << 63
_NAMES = 4096  # argument names that a renderer remembers

_KEY = re.compile(r"[/\w.\- :]+")
_NOT_KEY = re.compile(r"[^/\w.\- :]")
_UNREADABLE = "<{}: its representation raised {}>"


def clean_text(text: str) -> str:
    """
    Return *text* without what JSON or a database refuses: lone surrogates and NUL become U+FFFD.
    """
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def clean_key(key: str) -> str:
    """
    Return *key* as MLflow takes it.

    An acceptable key is returned as it is. Another is mapped by a fixed rule: refused characters
    become ``_`` and six hex digits of the original's hash are added, so that equal keys stay equal
    and different keys stay different (``MAP@k`` → ``MAP_k-3f1b2c``).
    """
    if len(key) <= KEY_LIMIT and (
        (key.isascii() and key.isidentifier()) or (_KEY.fullmatch(key) and _is_normal_path(key))
    ):
        return key
    parts = _NOT_KEY.sub("_", clean_text(key)[: KEY_LIMIT - 7]).split("/")
    readable = "/".join(part for part in map(_without_dots, parts) if part) or "key"
    return f"{readable}-{_digest(key)[:6]}"


def clean_experiment(name: str) -> str:
    """
    Return an experiment's *name* as every database behind MLflow takes it; one that is too long
    ends in six hex digits of its hash, so that different names stay different.
    """
    cleaned = clean_text(name)
    if len(cleaned) <= EXPERIMENT_LIMIT:
        return cleaned
    return f"{cleaned[: EXPERIMENT_LIMIT - 7]}-{_digest(name)[:6]}"


def _without_dots(part: str) -> str:
    """Return a part of a path that no file system takes for the way up, or for the place itself."""
    part = part.strip()
    return part.lstrip(". ") if part.startswith("..") or part == "." else part


_PART_LENGTH = 100


def clean_path(path: str) -> str:
    """
    Return *path* as a relative artifact path: no root, no ``..``, no character that an address or
    file system reads otherwise.

    An acceptable path is returned as it is; another is mapped as `clean_key` maps keys. It can
    never name another run's artifacts.
    """
    parts = [part for part in map(_clean_part, path.replace("\\", "/").split("/")) if part]
    cleaned = "/".join(parts[-PATH_PARTS:]) or "artifact"
    if cleaned == path:
        return path
    stem, dot, suffix = cleaned.rpartition(".")
    mark = _digest(path)[:6]
    return f"{stem}-{mark}.{suffix}" if dot and stem and "/" not in suffix else f"{cleaned}-{mark}"


def _clean_part(part: str) -> str:
    text = clean_text(REFUSED_IN_PATHS.sub("_", part))[:_PART_LENGTH]
    return _without_dots(text.encode()[:PART_BYTES].decode("utf-8", "ignore"))


def _is_normal_path(key: str) -> bool:
    """
    Say whether *key* survives `posixpath.normpath`: MLflow's store keeps metrics under it as a
    path.
    """
    return not key.startswith(("/", "..")) and all(part not in ("", ".", "..") for part in key.split("/"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def fit(text: str, limit: int, whole_in: str | None) -> str:
    """
    Return *text*, or where it is longer than *limit* a preview that names its length, its hash, and
    the artifact that has it whole.
    """
    if len(text) <= limit:
        return text
    where = f", whole in {whole_in}" if whole_in else ""
    note = f"… [{len(text)} characters, sha256 {_digest(text)[:16]}{where}]"
    return text[: limit - len(note)] + note


def number(value: Any) -> float | None:
    """
    Return *value* as a metric's float, or None where it is not a number (bools, texts and arrays
    are not).
    """
    kind = type(value)
    if kind is float:
        return float(value)
    if kind is int and -_SMALL < value < _SMALL:
        return float(value)
    if kind is str or kind is bool or value is None:
        return None
    try:
        if issubclass(kind, (int, float, decimal.Decimal)):
            return float(value)
        if kind.__module__ == "numpy" and value.shape == () and value.dtype.kind in "iuf":
            return float(value)
    except Exception:  # whatever it is, it is no number
        return None
    return None


def numbers(value: Any) -> list[tuple[str, float]]:
    """
    Return the numbers of a (nested) mapping, at most `NUMBERS_LIMIT`, with their keys joined by a
    full stop: the metrics of a returned mapping.
    """
    found: list[tuple[str, float]] = []
    _collect(value, "", found, [_NODES - 1], set())
    return found


def _collect(
    value: Any, prefix: str, found: list[tuple[str, float]], nodes: list[int], inside: set[int]
) -> None:
    """
    Add the numbers of *value*, within the *nodes* that are left: branches may be shared, or
    endless.
    """
    if id(value) in inside or len(inside) > _DEPTH:
        return
    inside.add(id(value))
    try:
        for key, item in value.items():
            nodes[0] -= 1
            if nodes[0] < 0 or len(found) >= NUMBERS_LIMIT:
                return
            if (one := number(item)) is not None:
                found.append((f"{prefix}{key}", one))
            elif issubclass(type(item), Mapping):
                _collect(item, f"{prefix}{key}.", found, nodes, inside)
    except Exception:  # a mapping that cannot be read to its end has the numbers read so far
        return
    finally:
        inside.discard(id(value))


class Renderer:
    """Renders values under one *redactor*. Stateless between calls, safe to share among threads."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor
        self._ordinary: set[str] = set()
        """
        Names that are acceptable keys and no secret's, as far as they came up: a call's arguments
        have the same names each time.
        """

    def _is_ordinary(self, name: str) -> bool:
        """
        Say whether a value called *name* is rendered as it is: its name is no secret's, and no hook
        wants to see it.
        """
        if self.redactor.hook is not None or self.redactor.is_secret_name(name):
            return False
        if len(self._ordinary) < _NAMES and clean_key(name) == name:
            self._ordinary.add(name)
        return True

    def fields(self, values: Mapping[Any, Any], secrets: list[str]) -> dict[str, str]:
        """Return *values* as texts under keys that MLflow takes; see `field`."""
        found: dict[str, str] = {}
        ordinary = self._ordinary
        for name, value in values.items():
            kind = type(value)
            if name in ordinary and kind is int and -_SMALL < value < _SMALL:
                found[name] = str(value)
            elif name in ordinary and kind is str and len(value) < _SHORT and value.isprintable():
                found[name] = value
            else:
                found[clean_key(str(name))] = self.field(str(name), value, secrets)
        return found

    def field(self, name: str, value: Any, secrets: list[str]) -> str:
        """
        Return *value*, called *name*, as one text: itself for a text, else its JSON or `str`.

        Secret values that were hidden by name are added to *secrets*, so that the caller can hide
        them elsewhere too. The text is at most `WHOLE_LIMIT` characters long; the caller fits it to
        its field.
        """
        if name in self._ordinary or self._is_ordinary(name):  # most values need no walk
            kind = type(value)
            if kind is str:
                if len(value) < _SHORT and value.isprintable():
                    return str(value)
            elif kind is int:
                if -_SMALL < value < _SMALL:
                    return str(value)
            elif kind is float or kind is bool or value is None:
                return str(value)
        plain = self.plain(name, value, secrets)
        text = (
            plain
            if isinstance(plain, str)
            else as_json(plain)
            if isinstance(plain, (dict, list))
            else str(plain)
        )
        return fit(text, WHOLE_LIMIT, None)

    def plain(self, name: str, value: Any, secrets: list[str]) -> Any:
        """
        Return *value*, called *name*, as JSON-ready data (dict, list, str, int, float, bool, None).
        """
        try:
            return _Walk(self.redactor, secrets).value(name, value, 0)
        except RecursionError:
            return f"<{type(value).__name__}: nested too deeply>"

    def text(self, name: str, text: str, secrets: Sequence[str] = ()) -> str:
        """Return a free *text*, called *name*, cleaned and redacted, whole."""
        value = self.redactor.hooked(name, text)
        if not isinstance(value, str):
            value = self.field(name, value, [])
        return self.redactor.text(clean_text(value), secrets)


def as_json(plain: Any) -> str:
    """
    Return JSON-ready data as compact JSON text; numbers that JSON lacks are written as texts by
    `_Walk` before.
    """
    return msgspec.json.encode(plain).decode()


class _Walk:
    """One rendering: counts the nodes it has spent and remembers the containers it is inside of."""

    def __init__(self, redactor: Redactor, secrets: list[str]) -> None:
        self._redactor = redactor
        self._secrets = secrets
        self._inside: set[int] = set()
        self._nodes = _NODES
        self._chars = WHOLE_LIMIT

    def value(self, name: str, value: Any, depth: int) -> Any:
        """Return *value*, called *name*, as plain data; what cannot be read says so."""
        self._nodes -= 1
        if self._nodes < 0 or self._chars < 0:
            return "…"
        if name and value is not None and type(value) is not bool and self._redactor.is_secret_name(name):
            self._remember(value)
            return MASK
        value = self._redactor.hooked(name, value)
        try:
            return self._render(value, depth)
        except RecursionError:
            raise
        except Exception as error:
            return _UNREADABLE.format(_type_name(value), type(error).__name__)

    def _remember(self, value: Any) -> None:
        """Keep a hidden value, so that it is hidden in other texts of the run too."""
        try:
            kind = type(value)
            revealed = value.get_secret_value() if hasattr(kind, "get_secret_value") else value
            if issubclass(type(revealed), bytes):
                revealed = revealed.decode("utf-8", "replace")
            # Shorter ones would blot out ordinary words.
            if type(revealed) is str and len(revealed) >= 6 and revealed not in self._secrets:
                self._secrets.append(revealed)
        except Exception:
            return

    def _render(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._str(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -(1 << 63) <= value < (1 << 64) else _huge(value)
        if kind is float:
            return value if math.isfinite(value) else str(value)
        if id(value) in self._inside:
            return f"<cycle: {_type_name(value)}>"
        if depth >= _DEPTH:
            return f"<{_type_name(value)}: deeper than {_DEPTH} levels>"
        self._inside.add(id(value))
        try:
            return self._composite(value, kind, depth)
        finally:
            self._inside.discard(id(value))

    def _composite(self, value: Any, kind: type, depth: int) -> Any:
        for base in kind.__mro__:
            if (scalar := _SCALARS.get(base)) is not None:
                return self._str(scalar(value))
            if (special := _BY_TYPE_NAME.get(f"{base.__module__}.{base.__qualname__}")) is not None:
                return self.value("", special(value), depth + 1)
        if hasattr(kind, "get_secret_value"):
            self._remember(value)
            return MASK
        if (names := _field_names(value, kind)) is not None:
            return self._mapping(((name, getattr(value, name, "<unset>")) for name in names), depth)
        if kind is _Pairs:
            return self._mapping(value, depth, len(value))
        if isinstance(value, Mapping):
            return self._mapping(value.items(), depth, len(value))
        if isinstance(value, (list, tuple, Set)) or (
            isinstance(value, Sequence) and not isinstance(value, (str, bytes, range))
        ):
            return self._sequence(value, depth)
        if isinstance(value, str):
            return self._str(str.__str__(value))
        if isinstance(value, (int, float)):
            return self._render(int(value) if isinstance(value, int) else float(value), depth)
        if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
            return self._str(f"{value.__module__}.{value.__qualname__}")
        return self._str(_object_text(value, kind))

    def _str(self, text: str) -> str:
        room, length = max(self._chars, 0), len(text)
        kept = self._redactor.text(clean_text(text[:room]), self._secrets)
        self._chars -= len(kept) + 1
        return kept if length <= room else f"{kept}… [{length} characters]"

    def _mapping(self, items: Any, depth: int, size: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {}
        repeated: dict[str, int] = {}
        for key, item in items:
            if self._nodes < 0 or self._chars < 0:
                found["…"] = f"{size - len(found)} more" if size else "more"
                break
            name = key if type(key) is str else str(self._render(key, depth + 1))
            shown = self._redactor.text(clean_text(name[:KEY_LIMIT]), self._secrets)
            if shown in found:
                again = itertools.count(repeated.get(shown, 1))
                shown, base = next(name for n in again if (name := f"{shown}~{n}") not in found), shown
                repeated[base] = next(again)
            self._chars -= len(shown)
            found[shown] = self.value(name, item, depth + 1)
        return found

    def _sequence(self, items: Any, depth: int) -> list[Any]:
        found: list[Any] = []
        for item in items:
            if self._nodes < 0 or self._chars < 0:
                found.append(f"… {len(items) - len(found)} more")
                break
            found.append(self.value("", item, depth + 1))
        return found


def _field_names(value: Any, kind: type) -> Sequence[str] | None:
    """
    Return the names of a record-like object's fields: dataclass, pydantic, attrs, msgspec, named
    tuple.
    """
    if (fields := getattr(kind, "__dataclass_fields__", None)) is not None:
        return [name for name, field in fields.items() if field._field_type.name == "_FIELD" and field.repr]
    if (fields := getattr(kind, "__pydantic_fields__", None)) is not None:
        return list(fields)
    if (fields := getattr(kind, "__attrs_attrs__", None)) is not None:
        return [field.name for field in fields if field.repr]
    if (fields := getattr(kind, "__struct_fields__", None)) is not None:
        return fields  # type: ignore[no-any-return]
    return getattr(kind, "_fields", None) if isinstance(value, tuple) else None


def _huge(value: int) -> str:
    return f"<int of {value.bit_length()} bits>" if value.bit_length() > 1_000 else str(value)


def _type_name(value: Any) -> str:
    kind = type(value)
    try:
        name = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        return clean_text(name[:200])
    except Exception:
        return "object"


def _object_text(value: Any, kind: type) -> str:
    """
    Return the object's own `repr`, bounded; the type's name where it has none, as the default one
    is only an address.
    """
    if getattr(kind, "__repr__", None) is object.__repr__:
        return f"<{_type_name(value)}>"
    return fit(repr(value), _REPR_LIMIT, None)


def _bytes(value: bytes | bytearray | memoryview) -> str:
    head = bytes(value[:16]).hex()
    return f"<{type(value).__name__} of {len(value)} bytes: {head}{'…' if len(value) > 16 else ''}>"


def _iterator(value: Any) -> str:
    return f"<{type(value).__name__} {getattr(value, '__qualname__', '')}>".replace(" >", ">")


def _array(array: Any) -> Any:
    if array.shape == ():
        return array.item()
    flat = (
        array.reshape(-1)[:_HEAD]
        if array.flags.c_contiguous or array.size <= 1_000
        else array[(0,) * (array.ndim - 1)][:_HEAD]
    )
    return f"ndarray(shape={array.shape}, dtype={array.dtype}, head={flat.tolist()})"


def _frame(frame: Any) -> dict[str, Any]:
    head = frame.iloc[:_HEAD, :50]
    columns = [(str(name), head.iloc[:, place].tolist()) for place, name in enumerate(head.columns)]
    return {"type": "DataFrame", "shape": list(frame.shape), "head": _Pairs(columns)}


class _Pairs(list[Any]):
    """
    Pairs of key and value that are rendered as a mapping although keys repeat: columns of a frame.
    """


def _series(series: Any) -> dict[str, Any]:
    head = _Pairs([(str(series.name), series.iloc[:_HEAD].tolist())])
    return {"type": "Series", "length": len(series), "dtype": str(series.dtype), "head": head}


def _tensor(tensor: Any) -> str:
    # The data stays where it is: reading an element of a device tensor waits for the device.
    return f"Tensor(shape={tuple(tensor.shape)}, dtype={tensor.dtype}, device={tensor.device})"


_SCALARS: dict[type, Callable[[Any], str]] = {
    enum.Enum: lambda value: f"{type(value).__name__}.{value.name}",
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    dt.datetime: lambda value: value.isoformat(),  # pandas' NaT is one, with a method of its own
    dt.date: lambda value: value.isoformat(),
    dt.time: dt.time.isoformat,
    dt.timedelta: str,
    decimal.Decimal: str,
    complex: str,
    range: repr,
    uuid.UUID: str,
    os.PathLike: os.fspath,
    types.GeneratorType: _iterator,
    types.AsyncGeneratorType: _iterator,
    types.CoroutineType: _iterator,
    types.ModuleType: lambda value: f"<module {value.__name__}>",
    BaseException: lambda value: f"{type(value).__name__}: {value}",
}
_BY_TYPE_NAME: dict[str, Callable[[Any], Any]] = {
    "pathlib.PurePath": str,
    "pathlib._local.PurePath": str,
    "numpy.ndarray": _array,
    "numpy.datetime64": str,
    "numpy.timedelta64": str,
    "numpy.longdouble": float,
    "numpy.generic": lambda value: value.item(),
    "pandas.DataFrame": _frame,
    "pandas.core.frame.DataFrame": _frame,
    "pandas.Series": _series,
    "pandas.core.series.Series": _series,
    "torch.Tensor": _tensor,
}
