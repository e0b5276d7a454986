"""
What is known of types: one table of the standard library's and of other packages', by name, so that
none of them is imported.

An entry opens a value: it returns a text, `Pairs` (rendered as a mapping), `Items` (as a list), or
another value that is rendered in its place. It reads what lies at hand and no more: of an array its
shape, type and first elements, never the data of a device, a file or a query that was not run.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import functools
import itertools
import os
import sys
import types
import uuid

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ._texts import READ_LIMIT, WHOLE_LIMIT


HEAD = 6
"""Elements of an array, or rows of a frame, that are shown."""

COLUMNS = 50
"""Columns of a frame that are shown."""

NODES = 20_000
"""Values that one rendering visits; no container is read further."""

_ITEM_BYTES = 4096  # elements larger than this are not shown: six of them could fill the memory

Open = Callable[[Any], Any]


class Pairs(NamedTuple):
    """Keys and values, rendered as a mapping although keys may repeat; *length* is the whole's."""

    pairs: Iterable[tuple[Any, Any]]
    length: int | None = None


class Items(NamedTuple):
    """Values rendered as a list; *length* is the whole's."""

    items: Sequence[Any]
    length: int | None = None


class Text(NamedTuple):
    """The beginning of a text, the whole's *length*, and how many characters at most are kept."""

    text: str
    length: int
    limit: int = WHOLE_LIMIT


class Secret(NamedTuple):
    """A value that is hidden whatever its name is."""

    value: Any


# Asking a class about itself without running code of its metaclass.

mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__
_dict_of = type.__dict__["__dict__"].__get__


def lookup(mro: Sequence[type], name: str) -> tuple[Any, type | None]:
    """Return what a class has under *name*, as it is stored, and the base that has it."""
    for base in mro:
        if name in (found := _dict_of(base)):
            return found[name], base
    return None, None


def dotted_name(kind: type) -> str:
    """Return ``package.module.Type``; of a builtin the name alone."""
    module = _module_of(kind)
    return _qualname_of(kind) if module == "builtins" else f"{module}.{_qualname_of(kind)}"


def class_name(kind: type) -> str:
    """Return the name of a class, and ``object`` where it has none that is a text."""
    try:
        return str(dotted_name(kind))[:200]
    except Exception:
        return "object"


def qualified_name(kind: type) -> str:
    """Return the name of a class within its module."""
    return str(_qualname_of(kind))[:200]


def _short_name(value: Any) -> str:
    return str(_qualname_of(type(value))).rpartition(".")[2]


def class_of_name(name: str) -> Any:
    """Return what *name* (``package.module.Type``) stands for where its module is imported; else None."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        if (module := sys.modules.get(".".join(parts[:cut]))) is not None:
            found: Any = module
            for part in parts[cut:]:
                found = vars(found).get(part) if isinstance(found, (type, types.ModuleType)) else None
            return found
    return None


_HOMES = frozenset(
    {
        "numpy",
        "pandas",
        "polars",
        "torch",
        "PIL",
        "pydantic",
        "attr",
        "attrs",
        "msgspec",
        "google",
        "builtins",
    }
)


def home(kind: type | None) -> bool:
    """Say whether a class is the standard library's or of a package in the table: no user wrote it."""
    module = _module_of(kind) if kind is not None else None
    root = module.partition(".")[0] if type(module) is str else ""
    return root in _HOMES or (root in sys.stdlib_module_names and root != "__main__")


# The standard library.


def _enum(value: Any) -> str:
    """Return ``Color.RED``."""
    stored = object.__getattribute__(value, "__dict__")
    name = stored.get("_name_") or integer_text(
        int(stored["_value_"])
    )  # flags joined have no name before 3.11
    return f"{_short_name(value)}.{name}"


_plain_dict = BaseException.__dict__["__dict__"].__get__
_arguments = BaseException.__dict__["args"].__get__


def is_plain_error(error: BaseException) -> bool:
    """Say whether the text of an exception is made by builtin code from plain values alone."""
    mro = mro_of(type(error))
    makers = (lookup(mro, name)[1] for name in ("__str__", "__repr__", "__getattribute__"))
    # Notes come from `add_note`, or from anywhere.
    said = (*_arguments(error), *_plain_dict(error).get("__notes__", ()))
    return all(home(maker) for maker in makers) and all(type(part) in PLAIN for part in said)


PLAIN = frozenset({str, int, float, bool, type(None), bytes})
"""Types whose values have a text of their own, made without anybody's code."""


def integer_text(value: int) -> str:
    """Return an integer's digits; its size where there are more than Python writes out."""
    bits = int.bit_length(value)
    return f"<int of {bits} bits>" if bits > 1_000 else int.__repr__(value)


def _text(value: str) -> Text:
    return Text(str.__getitem__(value, slice(0, READ_LIMIT)), str.__len__(value))


def _bytes(value: Any) -> str:
    view = memoryview(value)
    name, size = _qualname_of(type(value)), view.nbytes
    if view.ndim != 1 or not view.c_contiguous:
        return f"<{name} of {size} bytes>"
    return f"<{name} of {size} bytes: {view.cast('B')[:16].hex()}{'…' if size > 16 else ''}>"


def _iterator(value: Any) -> str:
    return f"<{_qualname_of(type(value))} {getattr(value, '__qualname__', '')}>".replace(" >", ">")


def _error(value: BaseException) -> str:
    return f"{_short_name(value)}: {value}"


def _function(value: Any) -> str:
    module = getattr(value, "__module__", None) or getattr(getattr(value, "__self__", None), "__name__", None)
    return f"{module}.{value.__qualname__}" if type(module) is str else str(value.__qualname__)


def _wrapped(value: Any) -> Any:
    return object.__getattribute__(value, "__wrapped__")


def _partial(value: Any) -> Pairs:
    return Pairs(
        [
            ("partial", value.func),
            *((str(place), item) for place, item in enumerate(value.args)),
            *value.keywords.items(),
        ]
    )


# Arrays and frames.


def _array(array: Any) -> Any:
    if array.shape == ():
        return array.item()
    flat = (
        array.reshape(-1)[:HEAD]
        if array.flags.c_contiguous or array.size <= 1_000
        else array[(0,) * (array.ndim - 1)][:HEAD]
    )
    if array.dtype.hasobject:  # elements are anybody's: the walk opens them
        return Pairs(
            [
                ("type", "ndarray"),
                ("shape", list(array.shape)),
                ("dtype", str(array.dtype)),
                ("head", flat.tolist()),
            ]
        )
    head = f", head={flat.tolist()}" if array.dtype.itemsize <= _ITEM_BYTES else ""
    return f"ndarray(shape={array.shape}, dtype={array.dtype}{head})"


def _shape(value: Any) -> str:
    # The data stays where it is: reading an element of a device's array waits for the device, and of a
    # lazy one for whatever makes it.
    device = getattr(value, "device", None)
    where = "" if device is None or callable(device) else f", device={device}"
    name = _short_name(value)
    return f"{name}(shape={tuple(value.shape)}, dtype={value.dtype}{where})"


def array_like(mro: Sequence[type]) -> Open | None:
    """Return how to open an array of a package that is not in the table: one that says its shape and type."""
    found = [lookup(mro, name)[0] for name in ("shape", "dtype")]
    return _shape if all(hasattr(type(one), "__get__") for one in found) else None


def _pandas_frame(frame: Any) -> Pairs:
    head = frame.iloc[:HEAD, :COLUMNS]
    columns = [(name, head.iloc[:, place].tolist()) for place, name in enumerate(head.columns)]
    return Pairs([("type", "DataFrame"), ("shape", list(frame.shape)), ("head", Pairs(columns))])


def _pandas_series(series: Any) -> Pairs:
    head = Pairs([(series.name, series.iloc[:HEAD].tolist())])
    return Pairs([("type", "Series"), ("length", len(series)), ("dtype", str(series.dtype)), ("head", head)])


def _pandas_array(array: Any) -> Pairs:
    name = _qualname_of(type(array))
    return Pairs(
        [("type", name), ("length", len(array)), ("dtype", str(array.dtype)), ("head", list(array[:HEAD]))]
    )


def _polars_frame(frame: Any) -> Pairs:
    names = frame.columns[:COLUMNS]
    head = frame.head(HEAD).select(names).to_dict(as_series=False)
    return Pairs([("type", "DataFrame"), ("shape", list(frame.shape)), ("head", head)])


def _polars_series(series: Any) -> Pairs:
    head = Pairs([(series.name, series.head(HEAD).to_list())])
    return Pairs([("type", "Series"), ("length", len(series)), ("dtype", str(series.dtype)), ("head", head)])


def _image(image: Any) -> str:
    # Size and mode come from the header; the pixels may not be decoded yet.
    made = f", format={image.format}" if image.format else ""
    return f"Image(size={image.size[0]}x{image.size[1]}, mode={image.mode}{made})"


def _message(message: Any) -> Pairs:
    return Pairs([(field.name, value) for field, value in message.ListFields()])


def _not_run(value: Any) -> str:
    return f"<{class_name(type(value))}, not run>"


# Records: the attribute of the class that has the fields, and which fields a rendering shows.


def _dataclass_names(fields: Any) -> list[str]:
    return [name for name, field in fields.items() if field._field_type.name == "_FIELD" and field.repr]


def _pydantic_names(fields: Any) -> list[str]:
    return [name for name, field in fields.items() if getattr(field, "repr", True)]


def _pydantic_1_names(fields: Any) -> list[str]:
    return [name for name, field in fields.items() if getattr(field.field_info, "repr", True)]


def _attrs_names(fields: Any) -> list[str]:
    return [field.name for field in fields if field.repr]


RECORDS: dict[str, Callable[[Any], list[str]]] = {
    "__dataclass_fields__": _dataclass_names,
    "__pydantic_fields__": _pydantic_names,
    "model_fields": _pydantic_names,  # pydantic before 2.10
    "__fields__": _pydantic_1_names,
    "__attrs_attrs__": _attrs_names,
}


MODELS_ALONE = frozenset({"model_fields", "__fields__"})
"""Names that others use too: they count in pydantic's models."""


class Known(NamedTuple):
    """How to open values of a type; *any_subclass* where that runs no code of a subclass either."""

    open: Open
    any_subclass: bool = False


STANDARD: dict[type, Known] = {
    enum.Enum: Known(_enum, any_subclass=True),
    str: Known(_text, any_subclass=True),
    int: Known(int.__int__, any_subclass=True),
    float: Known(float.__float__, any_subclass=True),
    **dict.fromkeys((bytes, bytearray, memoryview), Known(_bytes, any_subclass=True)),
    dt.datetime: Known(dt.datetime.isoformat),
    dt.date: Known(dt.date.isoformat),
    dt.time: Known(dt.time.isoformat),
    dt.timedelta: Known(str),
    decimal.Decimal: Known(decimal.Decimal.__str__, any_subclass=True),
    complex: Known(complex.__repr__, any_subclass=True),
    range: Known(repr),
    uuid.UUID: Known(str),
    os.PathLike: Known(os.fspath),
    types.SimpleNamespace: Known(lambda value: dict(vars(value))),
    functools.partial: Known(_partial),
    **dict.fromkeys((types.GeneratorType, types.AsyncGeneratorType, types.CoroutineType), Known(_iterator)),
    **dict.fromkeys(
        (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.MethodWrapperType, types.WrapperDescriptorType,
         types.MethodDescriptorType, types.ClassMethodDescriptorType),
        Known(_function),
    ),
    types.ModuleType: Known(lambda value: f"<module {value.__name__}>"),
    type: Known(lambda value: f"{_module_of(value)}.{_qualname_of(value)}", any_subclass=True),
    type({}.values()): Known(lambda values: Items(list(itertools.islice(values, NODES + 1)), len(values))),
    BaseException: Known(_error),
    msgspec.Raw: Known(_bytes),
    collections.UserString: Known(lambda value: value.data),
}  # fmt: skip

FOREIGN: dict[str, Known] = {
    "pathlib.PurePath": Known(str),
    "pathlib._local.PurePath": Known(str),
    "functools._lru_cache_wrapper": Known(_function),
    "fractions.Fraction": Known(
        lambda value: f"{integer_text(value.numerator)}/{integer_text(value.denominator)}"
    ),
    "wrapt.ObjectProxy": Known(_wrapped, any_subclass=True),
    "wrapt.BaseObjectProxy": Known(_wrapped, any_subclass=True),
    "numpy.ndarray": Known(_array),
    "numpy.datetime64": Known(str),
    "numpy.timedelta64": Known(str),
    "numpy.longdouble": Known(float),
    "numpy.generic": Known(lambda value: value.item()),
    "pandas.DataFrame": Known(_pandas_frame),
    "pandas.Series": Known(_pandas_series),
    "pandas.Index": Known(_pandas_array),
    "pandas.api.extensions.ExtensionArray": Known(_pandas_array),
    "pandas.Timestamp": Known(lambda value: value.isoformat()),
    "pandas._libs.tslibs.nattype.NaTType": Known(str),
    "pandas._libs.missing.NAType": Known(str),
    "polars.DataFrame": Known(_polars_frame),
    "polars.Series": Known(_polars_series),
    "polars.LazyFrame": Known(_not_run),
    "django.db.models.query.QuerySet": Known(_not_run, any_subclass=True),
    "torch.Tensor": Known(_shape),
    "PIL.Image.Image": Known(_image),
    "google.protobuf.message.Message": Known(_message, any_subclass=True),
}
