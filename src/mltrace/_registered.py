"""
Functions that users register for types, or for the names of types that need not be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ._known_types import class_name, class_of_name, mro_of
from .exceptions import ConfigurationError


T = TypeVar("T")

_PLAIN = (str, int, float, bool, type(None))


class Registry:
    """
    The functions that one public function registers; *caller* and *role* are its name and its
    argument's, for messages. *changed* is called after each change.
    """

    def __init__(self, caller: str, role: str, changed: Callable[[], None] = lambda: None) -> None:
        self.entries: dict[type | str, Callable[[Any], Any]] = {}
        self._caller = caller
        self._role = role
        self._changed = changed

    def register(self, kind: Any, function: Any = None) -> Any:
        """
        Register *function* for the type *kind*, or for its dotted name; without one, return a
        decorator that does.

        Raises:
            ConfigurationError: *kind* is neither a type that is not plain, nor a dotted name; or
                *function* cannot be called.
        """
        plain = kind in _PLAIN if isinstance(kind, type) else False
        if plain or not (isinstance(kind, type) or (isinstance(kind, str) and "." in kind.strip("."))):
            wanted = "a type that is not a plain one, or a dotted name"
            raise ConfigurationError(f"{self._caller}: kind {kind!r:.100} is not {wanted}")

        def register(function: Any) -> Any:
            if not callable(function):
                raise ConfigurationError(f"{self._caller}: {self._role} {function!r:.100} is not a function")
            self.entries[kind] = function
            self._changed()
            return function

        return register if function is None else register(function)

    def find(self, kind: type) -> Callable[[Any], Any] | None:
        """Return the function of the nearest base of *kind* that has one."""
        if not self.entries:
            return None
        found = (entry(self.entries, base) for base in mro_of(kind))
        return next((function for function in found if function is not None), None)

    def forget(self) -> None:
        """Forget what was registered: for tests."""
        self.entries.clear()
        self._changed()


def entry(table: Mapping[Any, T], base: type) -> T | None:
    """
    Return what *table* has for a class: under itself, under its dotted name, or under the name by
    which its package offers it (``pandas.DataFrame`` lives in ``pandas.core.frame``).
    """
    name = class_name(base)
    for key, found in table.items():
        if key is base or (type(key) is str and (key == name or class_of_name(key) is base)):
            return found
    return None
