"""
What `copy`, `pickle` and cloudpickle make of a decorated callable: what they make of the
undecorated one, with its decoration.

A function is pickled by its name and copied as itself. What is no function (a callable instance, a
partial, a bound method) is pickled and copied by value, with the options that decorate it again.
cloudpickle takes functions by value that the other process cannot import: those of ``__main__``, of
notebooks, of other functions.
"""

from __future__ import annotations

import copy
import functools
import importlib
import sys
import types

from collections.abc import Callable
from typing import Any

import wrapt


Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
Decorate = Callable[[Any], Any]


def _asks_for_values(frame: types.FrameType) -> bool:
    """Say whether *frame* is cloudpickle's; Ray, Spark and joblib have copies under their own names."""
    return "cloudpickle" in str(frame.f_globals.get("__name__"))


class _Pickled:
    """Asks `_reduced` how it is pickled, and whether by cloudpickle."""

    __slots__ = ()  # with a `__dict__` of its own it would hide that of the wrapped function

    @property  # type: ignore[misc] # nobody sets it
    def __class__(self) -> Any:
        # cloudpickle would take anything that is an instance of FunctionType apart before it asks
        # it, and so send the undecorated function. To everyone else this is the type of the wrapped.
        frame = sys._getframe(1)
        return type(self) if _asks_for_values(frame) else self.__wrapped__.__class__  # type: ignore[attr-defined]

    def __reduce_ex__(self, protocol: Any) -> Any:
        frame = sys._getframe(1)
        return self._reduced(frame if _asks_for_values(frame) else None)

    def __reduce__(self) -> Any:
        return self._reduced(None)

    def _reduced(self, cloudpickle: types.FrameType | None) -> Any:
        raise NotImplementedError


class TracedMethod(_Pickled, wrapt.BoundFunctionWrapper):  # type: ignore[type-arg] # see Traced
    """A decorated method, looked up on an instance or a class."""

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def _reduced(self, cloudpickle: types.FrameType | None) -> Any:
        """
        Return what finds the method again: its instance and name, or, without one, its qualified
        name; for cloudpickle, where the other process does not know that, the function itself.
        """
        function = self.__wrapped__
        if self._self_instance is not None:
            return getattr, (self._self_instance, function.__name__)
        if cloudpickle is not None and _importable(function, cloudpickle) is None:
            return _unbound, (self._self_parent,)
        return _look_up, (function.__module__, function.__qualname__)


class Traced(_Pickled, wrapt.FunctionWrapper):  # type: ignore[type-arg] # its parameters are newer than our oldest wrapt
    """A decorated callable. *again* decorates another callable as this one is."""

    __bound_function_wrapper__ = TracedMethod

    def __init__(self, wrapped: Any, wrapper: Wrapper, kind: str, again: Decorate) -> None:
        super().__init__(wrapped, wrapper)
        self._self_kind = kind
        self._self_again = again

    def __copy__(self) -> Any:
        return self if self._is_named() else self._self_again(copy.copy(self.__wrapped__))

    def __deepcopy__(self, memo: Any) -> Any:
        return self if self._is_named() else self._self_again(copy.deepcopy(self.__wrapped__, memo))

    def _reduced(self, cloudpickle: types.FrameType | None) -> Any:
        """
        Return the name under which unpickling finds the decorated function; for what has none, or
        none that the other process knows, how it is made again.
        """
        if self._is_named() and (cloudpickle is None or _importable(self.__wrapped__, cloudpickle) is self):
            return self.__wrapped__.__qualname__
        # In two steps, as a function may refer to itself: the state is pickled when the reference
        # to the hollow object exists.
        return _hollow, (), (self._self_again, self.__wrapped__), None, None, _fill

    def _is_named(self) -> bool:
        wrapped = self.__wrapped__
        target = wrapped.__func__ if isinstance(wrapped, (classmethod, staticmethod)) else wrapped
        return type(target) in (types.FunctionType, Traced)


def _importable(function: Any, cloudpickle: types.FrameType) -> Any:
    """Return what another process finds under the name of *function*, as cloudpickle judges that; or None."""
    module = sys.modules.get(function.__module__)
    by_value = cloudpickle.f_globals.get("_is_registered_pickle_by_value")
    if module is None or module.__name__ == "__main__" or (by_value is not None and by_value(module)):
        return None
    try:
        return _look_up(module.__name__, function.__qualname__)
    except (ImportError, AttributeError):
        return None


def _unbound(traced: Traced) -> Any:
    """Return the function of a class as the class gives it."""
    return traced.__get__(None, object)


def _look_up(module: str, qualified_name: str) -> Any:
    return functools.reduce(getattr, qualified_name.split("."), importlib.import_module(module))


def _hollow() -> Traced:
    """Return a decorated callable that `_fill` makes the right one."""
    return Traced(_hollow, _call, "", _hollow)  # type: ignore[arg-type] # until it is filled


def _call(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return wrapped(*args, **kwargs)


def _fill(traced: Traced, state: tuple[Decorate, Any]) -> None:
    again, wrapped = state
    made = again(wrapped)
    Traced.__init__(traced, wrapped, made._self_wrapper, made._self_kind, again)
