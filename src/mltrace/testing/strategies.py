"""
Hypothesis strategies for code that is recorded: awkward values, calls, run trees, secrets.

    from hypothesis import given
    from mltrace.testing import strategies as mlst

    @given(mlst.values())
    def test_search_takes_anything(query): ...
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import inspect
import keyword
import pathlib
import string
import uuid

from collections.abc import Callable, Sequence
from typing import Any

from ._hypothesis import st
from ._trees import RunTree, run


__all__ = ["KINDS", "Call", "calls", "secrets", "texts", "trees", "values"]


# Values.


def _refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("this object refuses to be asked")


def _pretty(self: Any, printer: Any, cycle: bool) -> None:
    # Hypothesis shows a failing example with this, where `__repr__` would raise.
    printer.text(f"<{type(self).__name__}>")


_QUESTIONS = (
    *("__repr__", "__str__", "__eq__", "__ne__", "__bool__", "__hash__", "__len__", "__iter__", "__contains__"),
    *("__getattr__", "__getattribute__", "__format__", "__float__", "__int__", "__index__", "__call__"),
    *("__copy__", "__deepcopy__", "__reduce__", "__reduce_ex__", "__array__", "__dir__", "__getitem__"),
)  # fmt: skip

HOSTILE = [
    type(f"Refuses{question.strip('_').title().replace('_', '')}", (), {question: _refuse, "_repr_pretty_": _pretty})
    for question in _QUESTIONS
] + [
    type(f"Hostile{base.__name__.title()}", (base,), {**dict.fromkeys(refused, _refuse), "_repr_pretty_": _pretty})
    for base, refused in (
        (dict, ("items", "keys", "values", "get", "__iter__", "__len__", "__getitem__", "__repr__")),
        (list, ("__iter__", "__len__", "__getitem__", "__repr__")),
        (str, ("__len__", "__eq__", "__hash__", "__str__", "__repr__")),
        (int, ("__float__", "__int__", "__lt__", "__gt__", "__repr__")),
    )
]  # fmt: skip
"""Classes whose instances raise when they are asked something."""


class _Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class _Point:
    x: Any
    y: Any = None


def _cyclic_list() -> list[Any]:
    items: list[Any] = [1]
    items.append(items)
    return items


def _cyclic_dict() -> dict[str, Any]:
    mapping: dict[str, Any] = {"a": 1}
    mapping["self"] = mapping
    return mapping


def _huge() -> int:
    return 10**400


def _deep(depth: int = 200) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def _fresh(make: Callable[[], Any]) -> st.SearchStrategy[Any]:
    # Made anew for each example: what a test does to one must not be seen by the next.
    return st.builds(make)


_CHARACTERS = "aZ09_ .-/\\\n\t{}%'\"é漢🙂\u202e\u0301\x7f\0\ud800\udfff"


def texts() -> st.SearchStrategy[str]:
    """
    Texts of letters and of what trips programs: lone surrogates, NUL, marks, braces, quotes; and
    some that are longer than a field of MLflow's.
    """
    return st.text(_CHARACTERS) | st.sampled_from([7_000, 10_000]).map(_long)


def _long(length: int) -> str:
    return "é" * length


def values() -> st.SearchStrategy[Any]:
    """
    Values that have broken instrumentation before: numbers that JSON has not, texts that are none,
    cycles, depth, iterators, and objects that raise whatever they are asked.
    """
    return st.deferred(_values)  # whose `repr` is short


def _values() -> st.SearchStrategy[Any]:
    numbers = (
        st.integers() | st.floats() | _fresh(_huge) | st.decimals() | st.fractions() | st.complex_numbers()
    )
    plain = (
        st.none() | st.booleans() | numbers | texts() | st.binary(max_size=20) | st.datetimes() | st.timedeltas() | st.uuids()
    )  # fmt: skip
    odd = st.sampled_from(
        [decimal.Decimal("sNaN"), fractions.Fraction(1, 3), _Colour.RED, pathlib.PurePath("a/b"), dt.timezone.utc,
         uuid, len, _Point, Ellipsis, NotImplemented, b"\xff"]
    )  # fmt: skip
    made: tuple[Callable[[], Any], ...] = (
        *(_cyclic_list, _cyclic_dict, _deep, object, lambda: iter([1]), lambda: (n for n in [1]), lambda: lambda: None),
        *HOSTILE,
    )  # fmt: skip
    awkward = st.one_of([_fresh(make) for make in made])
    leaves = plain | odd | awkward
    return leaves | st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(texts() | st.integers(), inner, max_size=3),
            st.builds(_Point, inner, inner),
        ),
        max_leaves=6,
    )


# Calls.

KINDS = ("function", "coroutine", "generator", "async generator")
"""What a function of `calls` can be."""

_NAMES = (
    *("x", "y", "data", "größe", "b2", "_private"),
    # Names that a wrapper may take for its own.
    *("args", "kwargs", "func", "function", "wrapped", "wrapper", "instance", "options", "run", "name", "call"),
    *("run_name", "experiment_name", "params", "tags", "description", "sample_rate", "capture_input", "model"),
)  # fmt: skip

KEYWORDS = (*_NAMES, "self", "cls", "__wrapped__", "_self_wrapper", "args_", "mltrace")
"""Names that a keyword argument of ``**more`` can have, though wrappers may stumble over them."""

_TEMPLATES = {
    "function": "def {name}{signature}:\n    return _body_(locals())",
    "coroutine": "async def {name}{signature}:\n    return _body_(locals())",
    "generator": "def {name}{signature}:\n    return (yield from _body_(locals()))",
    "async generator": "async def {name}{signature}:\n    for item in _body_(locals()):\n        yield item",
}


@dataclasses.dataclass(repr=False)
class Call:
    """
    A function, and arguments for a call of it.

    Attributes:
        function: Undecorated; what it does is the *body* that `calls` was given.

        args, kwargs: The call is ``function(*args, **kwargs)``.

        kind: One of `KINDS`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    kind: str

    def __repr__(self) -> str:
        parameters = [
            p if p.default is p.empty else p.replace(default=_Source(_shown(p.default)))
            for p in inspect.signature(self.function).parameters.values()
        ]
        given = [*map(_shown, self.args), *(f"{name}={_shown(value)}" for name, value in self.kwargs.items())]
        head = f"{self.kind} {self.function.__name__}{inspect.Signature(parameters)}"
        return f"{head}, called with ({', '.join(given)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would ask the values themselves

    @property
    def arguments(self) -> dict[str, Any]:
        """
        The arguments as params name them: defaults applied, an empty ``*rest`` left out, ``**more``
        by its own keys. `TypeError` where they do not fit.
        """
        parameters = inspect.signature(self.function).parameters
        defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
        bare = inspect.Signature([p.replace(annotation=p.empty) for p in parameters.values()])
        source = _source_of(bare, defaults)
        # Python itself binds: `Signature.bind` refuses a keyword of the name of a positional-only
        # parameter that has a default.
        bind = eval(f"lambda {source[1:-1]}: locals()", {"_defaults_": defaults})  # noqa: S307 # of a signature alone
        bound = bind(*self.args, **self.kwargs)
        found: dict[str, Any] = {}
        for name, p in parameters.items():
            value = bound[name]
            if p.kind is p.VAR_KEYWORD:
                found.update({f"{name}.{key}" if key in found else key: more for key, more in value.items()})
            elif p.kind is not p.VAR_POSITIONAL or value:
                found[name] = value
        return found


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except Exception:
        return f"<{type(value).__name__}>"


def _returned(arguments: dict[str, Any]) -> Any:
    return arguments


def calls(
    arguments: st.SearchStrategy[Any] | None = None,
    *,
    body: Callable[[dict[str, Any]], Any] = _returned,
    kinds: Sequence[str] = ("function",),
    matching: bool = True,
) -> st.SearchStrategy[Call]:
    """
    Functions of any signature, each with the arguments of a call.

    Args:
        arguments: Where arguments and defaults come from (small integers and short texts).

        body: What the function does: it gets its local variables, and what it returns is returned;
            generators yield from it. Default: the variables themselves.

        kinds: Which of `KINDS` a function may be.

        matching: Whether arguments fit the signature; else they may or may not.
    """
    drawn = st.integers(0, 9) | st.text("abc", max_size=3) if arguments is None else arguments
    return _calls(drawn, body, tuple(kinds), matching)


# Made once: a strategy is checked when it is first drawn from.
_parameter = inspect.Parameter
_PARAMETERS = st.lists(st.sampled_from(_NAMES), max_size=6, unique=True)
_SORTS = st.sampled_from(
    [_parameter.POSITIONAL_ONLY, _parameter.POSITIONAL_OR_KEYWORD, _parameter.KEYWORD_ONLY]
)
_ANNOTATIONS = st.sampled_from([_parameter.empty, int, "str"])
_FUNCTION_NAMES = st.sampled_from(["task", "größe", "_f", "run"])
_DOCUMENTATION = st.none() | st.just("Do it.")


@st.composite
def _calls(
    draw: Any, arguments: st.SearchStrategy[Any], body: Callable[..., Any], kinds: tuple[str, ...], matching: bool
) -> Call:  # fmt: skip
    signature, defaults = draw(_signatures(arguments))
    kind = draw(st.sampled_from(kinds))
    name = draw(_FUNCTION_NAMES)
    source = _TEMPLATES[kind].format(name=name, signature=_source_of(signature, defaults))
    scope: dict[str, Any] = {"_body_": body, "_defaults_": defaults, "__name__": __name__}
    exec(source, scope)  # noqa: S102 # of names from the table above alone
    function = scope[name]
    function.__doc__ = draw(_DOCUMENTATION)
    args, kwargs = draw(_fitting(signature, arguments) if matching else _any_arguments(arguments))
    return Call(function, tuple(args), kwargs, kind)


@st.composite
def _signatures(draw: Any, arguments: st.SearchStrategy[Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """Draw parameters, each of its own name, and the defaults of some."""
    names = draw(_PARAMETERS)
    kinds = sorted(draw(_SORTS) for _ in names)
    parameters: list[inspect.Parameter] = []
    defaults: dict[str, Any] = {}
    for name, kind in zip(names, kinds, strict=True):
        # After a default every positional parameter needs one.
        positional = kind is not _parameter.KEYWORD_ONLY
        needed = positional and any(p.name in defaults for p in parameters)
        if needed or draw(st.booleans()):
            defaults[name] = draw(arguments)
        annotation = draw(_ANNOTATIONS)
        parameters.append(_parameter(name, kind, annotation=annotation))
    if draw(st.booleans()):
        at = sum(p.kind is not _parameter.KEYWORD_ONLY for p in parameters)
        parameters.insert(at, _parameter("rest", _parameter.VAR_POSITIONAL))
    if draw(st.booleans()):
        parameters.append(_parameter("more", _parameter.VAR_KEYWORD))
    return inspect.Signature(parameters), defaults


def _source_of(signature: inspect.Signature, defaults: dict[str, Any]) -> str:
    shown = [
        p.replace(default=_Source(f"_defaults_[{p.name!r}]")) if p.name in defaults else p
        for p in signature.parameters.values()
    ]
    return str(inspect.Signature(shown))


class _Source:
    """Stands in a signature's text for the expression that it is."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __repr__(self) -> str:
        return self._source


@st.composite
def _fitting(
    draw: Any, signature: inspect.Signature, arguments: st.SearchStrategy[Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Draw arguments that fit, by position and by name; defaults are not known here, so all are given."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for p in signature.parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            if not any(name in kwargs for name in signature.parameters):
                args += draw(st.lists(arguments, max_size=2))
        elif p.kind is p.VAR_KEYWORD:
            taken = [n for n, q in signature.parameters.items() if q.kind is not q.POSITIONAL_ONLY]
            free = st.sampled_from([name for name in (*_NAMES, "self", "cls") if name not in taken])
            kwargs |= draw(st.dictionaries(free, arguments, max_size=3))
        elif p.kind is p.POSITIONAL_ONLY or (
            p.kind is p.POSITIONAL_OR_KEYWORD and not kwargs and draw(st.booleans())
        ):
            args.append(draw(arguments))
        else:
            kwargs[p.name] = draw(arguments)
    return args, kwargs


def _any_arguments(arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[list[Any], dict[str, Any]]]:
    return st.tuples(
        st.lists(arguments, max_size=5),
        st.dictionaries(st.sampled_from((*_NAMES, "self")), arguments, max_size=4),
    )


# Trees.


def trees(max_runs: int = 8) -> st.SearchStrategy[RunTree]:
    """
    Run trees with params, metrics, tags, statuses and children: `mltrace.testing.play` makes the
    calls that record one.
    """
    keys = st.text(string.ascii_lowercase[:6] + "_", min_size=1, max_size=4).filter(
        lambda key: not keyword.iskeyword(key)
    )
    own = {
        "name": st.text("abcXYZ 019é漢🙂{}./-", min_size=1, max_size=20),
        "status": st.sampled_from(["FINISHED", "FINISHED", "FAILED", "KILLED"]),
        "params": st.dictionaries(keys, st.integers(0, 99) | st.text("xyz", max_size=3), max_size=2),
        "metrics": st.dictionaries(keys, st.floats(), max_size=2),
        "tags": st.dictionaries(keys, st.text("xyz", max_size=3), max_size=2),
    }
    return st.recursive(
        st.builds(run, **own),
        lambda inner: st.builds(run, **own, children=st.lists(inner, max_size=3)),
        max_leaves=max_runs,
    )


# Secrets.

_LETTERS = string.ascii_letters + string.digits


def _like(prefix: str, length: int, alphabet: str = _LETTERS) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=length, max_size=length + 8).map(lambda text: prefix + text)


def secrets() -> st.SearchStrategy[str]:
    """
    Texts of the shapes that redaction hides wherever they stand: provider keys, access tokens, JWTs.
    None is a real one.
    """
    prefixes = ["sk-", "ghp_", "github_pat_", "glpat-", "hf_", "xoxb-", "npm_", "gsk_", "pypi-"]
    jwt = st.tuples(*[_like("", 20)] * 3).map(lambda parts: f"eyJ{parts[0]}.{parts[1]}.{parts[2]}")
    aws = st.text(string.ascii_uppercase + string.digits, min_size=16, max_size=16).map(
        lambda text: f"AKIA{text}"
    )
    return st.one_of(*(_like(prefix, 24) for prefix in prefixes), jwt, aws)
