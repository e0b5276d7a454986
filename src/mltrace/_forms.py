"""
How a value of a type is opened: which text, fields or items it is rendered as.

The decision is made once per type, from the class as it is stored and without asking it: what it
inherits, which fields it declares, which function a user has registered. It says too whether
opening a value runs code of the user's, which `_watched` then does.
"""

from __future__ import annotations

import enum
import itertools
import re
import types

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple, TypeVar, cast, overload

import msgspec

from . import _guard, _watched
from ._known_types import (
    FOREIGN,
    MODELS_ALONE,
    NODES,
    PLAIN,
    RECORDS,
    STANDARD,
    Items,
    Known,
    Open,
    Pairs,
    Secret,
    Text,
    array_like,
    class_name,
    home,
    integer_text,
    is_plain_error,
    lookup,
    mro_of,
)
from ._redaction import marked_names
from ._registered import Registry, entry
from ._texts import READ_LIMIT, WHOLE_LIMIT


T = TypeVar("T")
V = TypeVar("V")

_REPR_LIMIT = 2_000
_FORMS_LIMIT = 4_096  # types that are remembered; a program that makes classes as it goes has more
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,}| id='[0-9]{6,}'")


class Form(NamedTuple):
    """How values of a type are opened, and whether that runs code of the user's."""

    open: Open
    runs_user_code: bool | Callable[[Any], bool] = False
    instead: Form | None = None
    """What to do where a registered function raises."""

    def is_watched(self, value: Any) -> bool:
        """Say whether *value* is opened in another thread."""
        runs = self.runs_user_code
        return runs if isinstance(runs, bool) else runs(value)


class Unreadable(NamedTuple):
    """Why a value could not be opened, in words."""

    why: str


# What users register.

_forms: dict[int, tuple[type, Form]] = {}  # by identity: a class may refuse to be hashed


def _forget_forms() -> None:
    # A new table: another thread may be about to write what it has found to the old one.
    global _forms
    _forms = {}


_renderers = Registry("register_renderer", "renderer", _forget_forms)
registered = _renderers.entries


@overload
def register_renderer(kind: type[T], renderer: Callable[[T], V], /) -> Callable[[T], V]: ...


@overload
def register_renderer(kind: str, renderer: Callable[[Any], V], /) -> Callable[[Any], V]: ...


@overload
def register_renderer(kind: type[T], /) -> Callable[[Callable[[T], V]], Callable[[T], V]]: ...


@overload
def register_renderer(kind: str, /) -> Callable[[Callable[[Any], V]], Callable[[Any], V]]: ...


def register_renderer(kind: Any, renderer: Any = None, /) -> Any:
    """
    Say how values of a type are recorded: ``register_renderer(Molecule, lambda m: m.formula)``, or
    ``@register_renderer(Molecule)`` above the function.

    What the function returns is rendered in the value's place, in every argument (MLflow: params),
    output (the tag ``mltrace.output``), tag, text and artifact, redacted and bounded as any value
    is. It counts for subclasses too; the nearest base has it, and the latest function for a type
    wins. It is called in the calling thread and takes the time it takes: unlike a slow `__repr__`
    it is not stopped. Where it raises, the value is rendered as if nothing were registered, and
    that is said once.

    Args:
        kind: The type; or its name, ``"package.module.Type"``, which need not be imported yet and
            never is by this.

        renderer: ``function(value) -> value``; a text, or anything that mltrace can render.

    Returns:
        The function; without one, a decorator for it.

    Raises:
        ConfigurationError: *kind* is neither a type nor a dotted name, is a plain type (`str`,
            `int`, `float`, `bool`, `None`), or *renderer* cannot be called.
    """
    return _renderers.register(kind, renderer)


def forget_renderers() -> None:
    """Forget what was registered: for tests."""
    _renderers.forget()


# The decision.


def form_of(kind: type) -> Form:
    """Return how values of the type *kind* are opened."""
    forms = _forms
    if (found := forms.get(id(kind))) is not None:
        return found[1]
    form = _registered_form(kind) or _own_form(kind)
    if len(forms) >= _FORMS_LIMIT:
        forms.clear()
    forms[id(kind)] = (kind, form)
    return form


def _registered_form(kind: type) -> Form | None:
    function = _renderers.find(kind)
    return None if function is None else Form(function, instead=_own_form(kind))


def _own_form(kind: type) -> Form:
    """Return the form of a type for which nothing is registered."""
    mro = mro_of(kind)
    for find in (_known_form, _secret_form, _record_form, _container_form):
        if (form := find(kind, mro)) is not None:
            return form
    if lookup(mro, "__repr__")[1] is object:  # which is only an address
        return Form(lambda value: f"<{class_name(type(value))}>")
    if (array := array_like(mro)) is not None:
        return Form(array, runs_user_code=True)
    return Form(_own_text, runs_user_code=True)


def _own_text(value: Any) -> Text:
    text = repr(value)
    # Equal objects look equal: addresses go.
    return Text(_ADDRESS.sub("", text[: _REPR_LIMIT + READ_LIMIT - WHOLE_LIMIT]), len(text), _REPR_LIMIT)


def _known_form(kind: type, mro: Sequence[type]) -> Form | None:
    if enum.Enum in mro:  # behind what its members are too: `int`, `str`
        return Form(STANDARD[enum.Enum].open)
    for base in mro[:-1]:  # without `object`
        known: Known | None = STANDARD.get(base) if home(base) else None
        if (known := known or entry(FOREIGN, base)) is None:
            continue
        if base is BaseException:
            return Form(known.open, lambda error: not is_plain_error(error))
        return Form(known.open, runs_user_code=not (known.any_subclass or home(kind)))
    return None


def _secret_form(kind: type, mro: Sequence[type]) -> Form | None:
    if lookup(mro, "get_secret_value")[1] is None:
        return None
    return Form(lambda value: Secret(value.get_secret_value()), runs_user_code=not home(kind))


# Records.


def _record_form(kind: type, mro: Sequence[type]) -> Form | None:
    """
    Return the form of a record: dataclass, pydantic, attrs, msgspec, named tuple. Only its fields
    are shown, and of them those that its own text would show.
    """
    if (names := _field_names(kind, mro)) is None:
        return None
    hidden = marked_names(mro)
    if tuple in mro:
        return Form(lambda value: Pairs(_hiding(zip(names, tuple.__iter__(value), strict=False), hidden)))
    more = "__pydantic_extra__" if lookup(mro, "__pydantic_extra__")[1] is not None else None

    def fields(value: Any) -> Pairs:
        found = [(name, getattr(value, name, "<unset>")) for name in names]
        extra = getattr(value, more, None) if more else None
        if extra:
            found += extra.items()
        return Pairs(_hiding(found, hidden) if hidden else found)

    return Form(fields, runs_user_code=not reads_plainly(mro, names))


def _hiding(pairs: Any, hidden: frozenset[str]) -> list[tuple[Any, Any]]:
    return [(name, Secret(value) if name in hidden else value) for name, value in pairs]


def _field_names(kind: type, mro: Sequence[type]) -> Sequence[str] | None:
    if msgspec.Struct in mro:
        return cast("Sequence[str]", kind.__struct_fields__)  # type: ignore[attr-defined] # its metaclass has it
    for attribute, names in RECORDS.items():
        fields, base = lookup(mro, attribute)
        if base is not None and (attribute not in MODELS_ALONE or _is_model(mro)):
            return names(fields)
    return lookup(mro, "_fields")[0] if tuple in mro else None


def _is_model(mro: Sequence[type]) -> bool:
    return any(class_name(base) in ("pydantic.main.BaseModel", "pydantic.v1.main.BaseModel") for base in mro)


def reads_plainly(mro: Sequence[type], names: Sequence[str]) -> bool:
    """Say whether reading the fields runs no code of the user's."""
    stored = [lookup(mro, name)[0] for name in names]
    computed = any(hasattr(type(one), "__set__") and type(one) not in _SLOTS for one in stored)
    return not computed and not wrote(mro, "__getattribute__", "__getattr__")


def wrote(mro: Sequence[type], *methods: str) -> bool:
    """Say whether a user wrote one of the methods that a class has."""
    makers = [lookup(mro, method)[1] for method in methods]
    return not all(home(maker) for maker in makers if maker is not None)


_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


# Containers.


def _container_form(kind: type, mro: Sequence[type]) -> Form | None:
    watched = wrote(mro, "__getattribute__", "__iter__", "__len__", "__getitem__")
    if _is(kind, Mapping):
        return Form(_pairs, watched or wrote(mro, "items"))
    if _is(kind, (Sequence, Set)) or any(base in mro for base in (list, tuple, set, frozenset)):
        return Form(_items, watched)
    return None


def _is(kind: type, abstract: Any) -> bool:
    try:
        return issubclass(kind, abstract)
    except Exception:  # its metaclass does not say
        return False


def _pairs(value: Any) -> Pairs:
    # Copied in one go: another thread may be adding keys.
    return Pairs(list(itertools.islice(value.items(), NODES + 1)), len(value))


def _items(value: Any) -> Items:
    return Items(list(itertools.islice(value, NODES + 1)), len(value))


# Opening.


def shows_parts(kind: type) -> bool:
    """Say whether values of a type are opened as something else than a text of their own."""
    return form_of(kind).open is not _own_text


def open_value(value: Any, budget: _watched.Budget) -> Any:
    """Return *value* opened: see `Form`; or `Unreadable`. Raises what opening it here raises."""
    form = form_of(type(value))
    if form.instead is None and form.runs_user_code is False:  # most are
        return form.open(value)
    if form.instead is not None:
        try:
            return form.open(value)
        except Exception as error:
            _report(value, error)
        form = form.instead
    return open_watched([value], [form], budget)[0] if form.is_watched(value) else form.open(value)


def _report(value: Any, error: Exception) -> None:
    name = class_name(type(value))
    _guard.warn_once(
        f"renderer:{name}",
        f"the renderer registered for {name} raised; its values are rendered without it",
        error=class_name(type(error)),
    )


def open_watched(values: Sequence[Any], forms: Sequence[Form], budget: _watched.Budget) -> list[Any]:
    """
    Return *values* opened in another thread, all in one hand-over; `Unreadable` for one that raises
    or is late, and for those behind it.
    """
    asked = [place for place, value in enumerate(values) if not _watched.is_slow(type(value))]
    opened: list[Any] = []

    def work() -> None:
        for place in asked:
            opened.append(_open_or_say(values[place], forms[place]))

    if asked:
        try:
            _watched.run(work, budget)
        except _watched.Overrun as late:
            if late.begun and len(opened) < len(asked):
                _watched.blame(type(values[asked[len(opened)]]))
    done = dict(zip(asked, list(opened), strict=False))
    return [done[place] if place in done else _why_not(type(value)) for place, value in enumerate(values)]


def _open_or_say(value: Any, form: Form) -> Any:
    try:
        return form.open(value)
    except _watched.Stop:
        raise
    except BaseException as error:  # of an object: SystemExit from its text must not end the program
        return raised(error)


def raised(error: BaseException) -> Unreadable:
    """Return the remark for a value that raised *error* when it was looked at."""
    return Unreadable(f"its representation raised {class_name(type(error)).rpartition('.')[2]}")


def _why_not(kind: type) -> Unreadable:
    if _watched.is_slow(kind):
        return Unreadable(f"its representation took longer than {_watched.BUDGET_SECONDS * 1000:.0f} ms")
    return Unreadable("not asked, there was no time left")


def text_of(value: Any) -> str:
    """Return what `str` makes of *value*, bounded in time; its type where that cannot be had."""
    kind = type(value)
    if kind is str:
        return cast("str", value)
    if kind is int:
        return integer_text(value)
    if kind in PLAIN:
        return str(value)
    outcome = _watched.ask(lambda: f"{value!s}", (kind,))
    if outcome is None or outcome.error is not None:
        return f"<{class_name(kind)}>"
    return cast("str", outcome.result)
