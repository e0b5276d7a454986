"""
Which values are numbers that MLflow takes, and which numbers a mapping has: MLflow's metrics.
"""

from __future__ import annotations

import decimal
import itertools

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import _guard, _watched
from ._forms import open_value, text_of
from ._known_types import NODES, Pairs, class_name, home


NUMBERS_LIMIT = 1_000
"""Numbers of one returned mapping that become metrics."""

INTEGER_LIMIT = 1 << 63
"""MLflow's steps and times are 64-bit integers below it."""

_DEPTH = 20


def number(value: Any) -> float | None:
    """
    Return *value* as a metric's float, or None where it is not a number (bools, texts and arrays
    are not; arrays and tensors without a dimension are, where no device holds them).
    """
    kind = type(value)
    if kind is float:
        return float(value)
    if kind is int and -INTEGER_LIMIT < value < INTEGER_LIMIT:
        return float(value)
    if kind is str or kind is bool or value is None:
        return None
    try:
        for base, as_float in _NUMBERS:
            if issubclass(kind, base):
                return as_float(value)  # the base's own: a subclass may do anything
        if home(kind) and kind.__module__ == "numpy" and value.shape == () and value.dtype.kind in "iuf":
            return float(value)
        if kind.__module__ == "torch" and value.shape == () and value.device.type == "cpu":
            # Not of a device: its data would be waited for. Not `float`: that warns of a gradient.
            return number(value.detach().item())
    except Exception:  # whatever it is, it is no number
        return None
    return None


_NUMBERS: tuple[tuple[type, Callable[[Any], float]], ...] = (
    (float, float.__float__),
    (int, int.__float__),
    (decimal.Decimal, decimal.Decimal.__float__),
)


def integer(name: str, value: Any, least: int) -> int:
    """Return *value* as an integer of MLflow's range; 0, with a warning, where it is none."""
    try:
        found = int(value)
        if found == value and least <= found < INTEGER_LIMIT:
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    kind = class_name(type(value))
    _guard.misuse(
        f"whole:{name}", f"{name} (of type {kind}) is not an integer that MLflow takes; 0 is recorded"
    )
    return 0


def numbers(value: Any, is_secret_name: Callable[[str], bool] = lambda _: False) -> list[tuple[str, float]]:
    """
    Return the numbers of a (nested) mapping, at most `NUMBERS_LIMIT`, with their keys joined by a
    full stop: the metrics of a returned mapping. A number under a secret's name is none of them.
    """
    search = _Search(is_secret_name)
    search.collect(value, "", set())
    return search.found


class _Search:
    """One search, within the nodes and the time that are left: branches may be shared, or endless."""

    def __init__(self, is_secret_name: Callable[[str], bool]) -> None:
        self.found: list[tuple[str, float]] = []
        self._is_secret_name = is_secret_name
        self._nodes = NODES - 1
        self._budget = _watched.Budget()

    def collect(self, value: Any, prefix: str, inside: set[int]) -> None:
        """Add the numbers of *value*."""
        if id(value) in inside or len(inside) > _DEPTH:
            return
        inside.add(id(value))
        try:
            for key, item in self._pairs(value):
                self._nodes -= 1
                if self._nodes < 0 or len(self.found) >= NUMBERS_LIMIT:
                    return
                name = text_of(key)
                if (one := number(item)) is not None:
                    if not self._is_secret_name(name):
                        self.found.append((f"{prefix}{name}", one))
                elif issubclass(type(item), Mapping) and not self._is_secret_name(name):
                    self.collect(item, f"{prefix}{name}.", inside)
        except Exception:  # a mapping that cannot be read to its end has the numbers read so far
            return
        finally:
            inside.discard(id(value))

    def _pairs(self, value: Any) -> Iterable[tuple[Any, Any]]:
        if type(value) is dict:
            return list(itertools.islice(value.items(), NODES))
        opened = open_value(value, self._budget)
        return opened.pairs if type(opened) is Pairs else ()
