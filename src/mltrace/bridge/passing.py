"""What has no method of its own here is the server's to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def passing(store: type, keeping: tuple[str, ...] = ()) -> Any:
    """
    Return a subclass of MLflow's abstract *store* in which every public method is ``self._pass(name, …)``,
    save those that have one of the texts *keeping* in their names.
    """
    names = [
        name
        for owner in store.__mro__[:-1]
        for name, value in vars(owner).items()
        if callable(value) and not name.startswith("__") and not any(text in name for text in keeping)
    ]
    return type("Passing", (store,), {name: _passed(name) for name in names})


def _passed(name: str) -> Callable[..., Any]:
    def passed(self: Any, *arguments: Any, **options: Any) -> Any:
        return self._pass(name, *arguments, **options)

    passed.__name__, passed.__doc__ = name, f"Have the server do it: see MLflow's `{name}`."
    return passed
