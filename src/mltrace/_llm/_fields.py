"""
Fields of other people's objects, by paths.

A path is a sequence of steps: a name (an attribute or a key), an index, or ``*`` for every element.
What reading a field costs depends on whose code it runs: builtin containers, providers' objects and
plain attributes are read where they are, anything else in another thread (`_watched`), which is why
a reader comes in two kinds.
"""

from __future__ import annotations

import enum
import itertools

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .._forms import reads_plainly, wrote
from .._known_types import PLAIN, class_name, home, lookup, mro_of
from .._numbers import number


Path = tuple[str | int, ...]
Paths = Sequence[Path]

EACH: Final = "*"

PROVIDERS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "mistralai": "mistral",
    "google.genai": "google",
    "cohere": "cohere",
    "ollama": "ollama",
    "litellm": None,
    "langchain_core": None,
    "llama_index": None,
}
"""Packages whose objects are read where they are, and whose API each is, where that is one's."""

_ELEMENTS = 1_000  # of one list that are looked at
_REMEMBERED = 4_096

Access = Callable[[Any, Any], Any]


class Unsure(Exception):
    """Reading on would run code of a user's, of the class *kind*."""

    def __init__(self, kind: type) -> None:
        super().__init__(class_name(kind))
        self.kind = kind


class Reader:
    """
    Reads fields. One that *asks* reads them all; one that does not raises `Unsure` before it would
    run code of a user's.
    """

    def __init__(self, *, asks: bool) -> None:
        self._asks = asks

    def get(self, value: Any, step: str | int) -> Any:
        """Return the field *step* of *value*; None where it has none, and for methods."""
        kind = type(value)
        if kind is dict:
            try:
                return value.get(step)
            except Exception:  # of a key that compares in a way of its own
                return None
        if kind is list:
            return value[step] if type(step) is int and step < len(value) else None
        if kind in PLAIN:
            return None
        access, runs_user_code = _access(kind, step)
        if runs_user_code and not self._asks:
            raise Unsure(kind)
        try:
            return access(value, step)
        except Exception:  # a field that raises says nothing
            return None

    def walk(self, value: Any, path: Path) -> Any:
        """Return what the *path* leads to; None where it ends early."""
        return self.first(value, (path,))

    def first(self, value: Any, paths: Paths) -> Any:
        """Return what the first of *paths* leads to that leads anywhere."""
        for path in paths:
            found = value
            for step in path:
                if step is EACH:
                    found = self._each(found, path[path.index(EACH) + 1 :])
                    break
                if (
                    type(found) is dict
                ):  # what most responses are made of: a call for each costs more than all of them
                    try:
                        found = found.get(step)
                    except Exception:  # of a key that compares in a way of its own
                        found = None
                else:
                    found = self.get(found, step)
                if found is None:
                    break
            if found is not None:
                return found
        return None

    def items(self, value: Any) -> list[Any]:
        """Return the elements of a list; anything else is one element, and None is none."""
        if type(value) is list or type(value) is tuple:
            return list(value[:_ELEMENTS])
        if value is None or not _is(type(value), Sequence) or type(value) in PLAIN:
            return [] if value is None else [value]
        found = (self.get(value, index) for index in range(_ELEMENTS))
        return list(itertools.takewhile(lambda item: item is not None, found))

    def _each(self, value: Any, rest: Path) -> list[Any] | None:
        found = [self.walk(item, rest) for item in self.items(value)]
        flat = [part for item in found for part in self.items(item)]
        return flat or None

    def text(self, content: Any) -> Any:
        """Return the text of a message's content, which may come in blocks of several types."""
        if type(content) is str or content is None:
            return content
        if not _is(type(content), Sequence):
            return content
        texts = [self._block(block) for block in self.items(content)]
        texts = [text for text in texts if type(text) is str]
        return "".join(texts) if texts else None

    def _block(self, block: Any) -> Any:
        if type(block) is str:
            return block
        return None if self.get(block, "thought") is True else self.get(block, "text")


def name_of(value: Any) -> str | None:
    """Return *value* if it is a text; of an enumeration of texts its value."""
    kind = type(value)
    if kind is str:
        return str(value)
    return str.__str__(value) if issubclass(kind, str) and issubclass(kind, enum.Enum) else None


def count_of(value: Any) -> float | None:
    """Return *value* if it can be a count of tokens."""
    found = number(value)
    return found if found is not None and 0 <= found < float("inf") else None


def package_of(kind: type) -> str | None:
    """Return the provider's package that made the class *kind*."""
    if (found := _packages.get(id(kind))) is not None:
        return found[1]
    if len(_packages) >= _REMEMBERED:
        _packages.clear()
    name = f"{class_name(kind)}."
    package = next((package for package in PROVIDERS if name.startswith(f"{package}.")), None)
    _packages[id(kind)] = (kind, package)
    return package


_packages: dict[int, tuple[type, str | None]] = {}  # by identity: a class may refuse to be hashed


# How a class gives a field, decided once.

_known: dict[tuple[int, str | int], tuple[type, tuple[Access, bool]]] = {}


def _access(kind: type, step: str | int) -> tuple[Access, bool]:
    """Return how to get the field *step* of objects of *kind*, and whether that runs code of a user's."""
    if (found := _known.get((id(kind), step))) is not None:
        return found[1]
    if len(_known) >= _REMEMBERED:
        _known.clear()
    made = (
        _index(kind)
        if type(step) is int
        else _key(kind)
        if _is(kind, Mapping)
        else _attribute(kind, str(step))
    )
    _known[id(kind), step] = (kind, made)
    return made


def _index(kind: type) -> tuple[Access, bool]:
    if not _is(kind, Sequence) or issubclass(kind, str):
        return _nothing, False
    return (lambda value, step: value[step]), _is_users(kind, "__getitem__", "__getattribute__")


def _key(kind: type) -> tuple[Access, bool]:
    return (lambda value, step: value.get(step)), _is_users(kind, "get", "__getitem__", "__getattribute__")


def _attribute(kind: type, step: str) -> tuple[Access, bool]:
    mro = mro_of(kind)
    access = _field if step.startswith("_") or not _is_of_model_alone(mro, step) else _stored
    return access, package_of(kind) is None and not reads_plainly(mro, (step,))


def _is_of_model_alone(mro: Sequence[type], step: str) -> bool:
    """Say whether objects can have *step* as a field of pydantic's alone: asking for one that is missing costs microseconds."""
    makers = (lookup(mro, "__getattr__")[1], lookup(mro, "__getattribute__")[1], lookup(mro, step)[1])
    return makers[1:] == (object, None) and makers[0] is not None and class_name(makers[0]) == _MODEL


_MODEL = "pydantic.main.BaseModel"


def _is_users(kind: type, *methods: str) -> bool:
    return package_of(kind) is None and not home(kind) and wrote(mro_of(kind), *methods)


def _is(kind: type, abstract: Any) -> bool:
    try:
        return issubclass(kind, abstract)
    except Exception:  # its metaclass does not say
        return False


def _field(value: Any, step: Any) -> Any:
    found = getattr(value, step, None)
    return None if callable(found) else found


def _stored(value: Any, step: Any) -> Any:
    if (found := value.__dict__.get(step)) is None:
        extra = value.__pydantic_extra__
        found = None if extra is None else extra.get(step)
    return None if callable(found) else found


def _nothing(value: Any, step: Any) -> None:
    """Have no such field."""
