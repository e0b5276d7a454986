"""Any value becomes bounded, JSON-ready data; any key and path becomes one that MLflow takes."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import posixpath
import time
import uuid

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest

from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.store.artifact.artifact_repo import verify_artifact_path
from mlflow.utils.uri import validate_path_is_safe
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from mltrace import _watched
from mltrace._numbers import number, numbers
from mltrace._redaction import MASK, Redactor
from mltrace._texts import (
    EXPERIMENT_LIMIT,
    KEY_LIMIT,
    WHOLE_LIMIT,
    clean_experiment,
    clean_key,
    clean_path,
    clean_text,
    fit,
)
from mltrace._values import Renderer, as_json


RENDERER = Renderer(Redactor())
PROPERTY = settings(deadline=None, max_examples=150)


@pytest.fixture(autouse=True, scope="module")
def _patience() -> Iterator[None]:
    """Let a busy machine take its time: nothing here is slow by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_watched, "BUDGET_SECONDS", 10.0)
        yield


def plain(value: Any) -> Any:
    return RENDERER.plain("x", value, [])


def field(value: Any) -> str:
    return RENDERER.field("x", value, [])


# Awkward values.


class Hostile(Exception):
    """What awkward objects raise."""


def refuse(*_: object, **__: object) -> Any:
    raise Hostile("no")


def raising(*names: str, bases: tuple[type, ...] = (), **more: Any) -> type:
    """Return a class whose special methods *names* raise."""
    return type("Awkward", bases, {**dict.fromkeys(names, refuse), **more})


class Opaque(type):
    """A metaclass whose classes do not even tell their names."""

    def __getattribute__(cls, name: str) -> Any:
        raise Hostile(name)


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    hidden: int = dataclasses.field(default=1, repr=False)


class Pair(collections.namedtuple("Pair", "left right")):
    pass


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Bits(enum.Flag):
    A = 1
    B = 2


class Model(pydantic.BaseModel):
    name: str
    key: pydantic.SecretStr = pydantic.SecretStr("pydantic-secret")


@attrs.define
class Attrs:
    a: int
    b: int = attrs.field(default=2, repr=False)


class Struct(msgspec.Struct):
    a: int


class Text(str):
    __slots__ = ()


class Number(int):
    pass


def cycle() -> list[Any]:
    found: list[Any] = [1]
    found.append({"again": found})
    return found


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for level in range(depth):
        value = [value] if level % 2 else {"deeper": value}
    return value


def badly_named() -> Any:
    kind = raising("__repr__")
    kind.__qualname__ = "\udc00\0"
    return kind()


AWKWARD: dict[str, Callable[[], Any]] = {
    "repr raises": raising("__repr__", "__str__"),
    "eq and hash raise": raising("__eq__", "__hash__"),
    "getattr raises": raising("__getattr__"),
    "getattribute raises": raising("__getattribute__"),
    "len, iter and bool raise": raising("__len__", "__iter__", "__bool__"),
    "class raises": raising(__class__=property(refuse)),
    "class lies: str": raising(__class__=property(lambda _: str)),
    "class lies: dict": raising(__class__=property(lambda _: dict)),
    "class lies: int": raising(__class__=property(lambda _: int)),
    "dict that raises": raising("items", "__iter__", "__len__", "__getitem__", bases=(dict,)),
    "list that raises": raising("__iter__", "__len__", "__getitem__", bases=(list,)),
    "str that raises": raising("__str__", "__repr__", "__len__", "__eq__", "__hash__", bases=(str,)),
    "int that raises": raising(
        "__int__", "__index__", "__str__", "__repr__", "__bool__", "__lt__", "__gt__", bases=(int,)
    ),
    "float that raises": raising("__float__", "__str__", "__repr__", "__ge__", bases=(float,)),
    "exception that raises": raising("__str__", "__repr__", bases=(Exception,)),
    "path that raises": raising("__fspath__", "__str__", bases=(pathlib.PurePosixPath,)),
    "get_secret_value raises": raising("get_secret_value"),
    "metaclass raises": lambda: Opaque("Sealed", (), {"__repr__": refuse})(),
    "type of a metaclass that raises": lambda: Opaque("Sealed", (), {}),
    "recursive repr": raising(__repr__=lambda self: repr(self)),
    "repr of surrogates": raising(__repr__=lambda self: "\udc00\0"),
    "repr of no text": raising(__repr__=lambda self: 5),
    "endless repr": raising(__repr__=lambda self: "x" * 5_000_000),
    "bad qualified name": badly_named,
    "key that raises": lambda: {raising("__repr__", "__str__")(): 1},
    "cycle": cycle,
    "deep": lambda: nested(10_000),
    "lone surrogate": lambda: "\ud800 and \udfff",
    "nul": lambda: "\0" * 20,
    "huge int": lambda: 10**5_000,
    "nan and infinities": lambda: [math.nan, math.inf, -math.inf],
    "generator": lambda: (item for item in range(3)),
    "numpy object array": lambda: np.array([raising("__repr__")(), None], dtype=object),
    "numpy scalars": lambda: [
        np.float32(1),
        np.longdouble(1),
        np.complex64(1j),
        np.bool_(True),
        np.datetime64("2024-01-01"),
        np.str_("a"),
    ],
    "numpy empty": lambda: [
        np.empty((0, 3)),
        np.array(5),
        np.zeros((2, 0, 2))[:, :, ::-1],
        np.ma.masked_array([1, 2], [True, False]),
    ],
    "pandas": lambda: [
        pd.NaT,
        pd.NA,
        pd.Timestamp(0),
        pd.DataFrame(),
        pd.Series(dtype=float),
        pd.Index([1]),
        pd.Categorical(["a"]),
    ],
    "multi-index frame": lambda: pd.DataFrame(
        [[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 1)])
    ),
    "frame of hostile objects": lambda: pd.DataFrame({"a": [raising("__repr__")()]}),
    "enums": lambda: [Color.RED, Level.LOW, Bits.A | Bits.B, Color],
    "records": lambda: [Point(1), Pair(1, 2), Attrs(1), Struct(1), Model(name="n"), Point, Model],
    "unset attrs": lambda: Attrs.__new__(Attrs),
    "builtins": lambda: [
        len,
        print,
        int,
        type,
        object(),
        NotImplemented,
        ...,
        json,
        lambda: 0,
        memoryview(b"a"),
        slice(1),
    ],
    "times": lambda: [dt.datetime.max, dt.date.min, dt.time.max, dt.timedelta.max, dt.timezone.utc],
}


class Later(str):
    """The name of an awkward value, which is made within the test: Hypothesis looks at what it draws."""

    __slots__ = ()


def made(value: Any) -> Any:
    """Return *value* with its `Later` parts made."""
    if isinstance(value, Later):
        return AWKWARD[value]()
    if type(value) in (list, tuple):
        return type(value)(made(item) for item in value)
    if type(value) is dict:
        return {key: made(item) for key, item in value.items()}
    return Point(made(value.x), made(value.y)) if type(value) is Point else value


leaves = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters()),
        st.binary(),
        st.complex_numbers(),
        st.decimals(),
    ),
    *(
        st.datetimes(),
        st.dates(),
        st.times(),
        st.timedeltas(),
        st.uuids(),
        st.builds(Text, st.text()),
        st.builds(Number, st.integers()),
    ),
    st.builds(Later, st.sampled_from(list(AWKWARD))),
)
keys = st.one_of(
    st.text(max_size=8),
    st.integers(),
    st.none(),
    st.sampled_from(["password", "token", "a"]),
    st.tuples(st.integers()),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.tuples(inner, inner),
        st.builds(Point, inner, inner),
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("make", AWKWARD.values(), ids=AWKWARD)
def test_an_awkward_value_is_rendered_as_json(make: Callable[[], Any]) -> None:
    """Whatever an object does when it is looked at, its rendering is JSON and its field a text for UTF-8."""
    json.loads(as_json(plain(make())))
    field(make()).encode()


@pytest.mark.parametrize("make", AWKWARD.values(), ids=AWKWARD)
def test_an_awkward_value_under_a_secret_name_is_masked(make: Callable[[], Any]) -> None:
    """A secret's name hides the value without asking the value anything that could raise."""
    assert MASK == RENDERER.plain("password", make(), [])


@given(values)
@PROPERTY
def test_rendering_is_total(value: Any) -> None:
    """Any nesting of any values is rendered as JSON that reads back, in a text within the limit."""
    awkward = made(value)
    json.loads(as_json(plain(awkward)))
    text = field(awkward)
    assert len(text) <= WHOLE_LIMIT
    assert "\0" not in text
    text.encode()


storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | storable,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values)
@PROPERTY
def test_plain_data_is_rendered_as_it_is(value: Any) -> None:
    """What is JSON-ready, short and no secret comes out equal."""
    assert value == plain(value)


@given(values)
@PROPERTY
def test_rendering_the_same_value_twice_gives_the_same_text(value: Any) -> None:
    """Rendering neither changes nor consumes a value, and holds no state that would show."""
    awkward = made(value)
    assert field(awkward) == field(awkward)


# Bounds.

LARGE: dict[str, Callable[[], Any]] = {
    "long text": lambda: "x" * (3 * WHOLE_LIMIT),
    "long list": lambda: list(range(1_000_000)),
    "long list of texts": lambda: ["x" * 300] * 30_000,
    "wide mapping": lambda: dict.fromkeys(range(200_000)),
    "long keys": lambda: {f"{number}{'x' * 1_000}": number for number in range(10_000)},
    "keys with the same beginning": lambda: {f"{'x' * 300}{number}": number for number in range(3_000)},
    "tree": lambda: wide_tree(8, 8),
    "deep": lambda: nested(900),
    "large array": lambda: np.zeros((3_000, 1_000)),
    "large array against the grain": lambda: np.zeros((3_000, 1_000)).T[::-1],
    "large array of texts": lambda: np.array(["x" * 1_000_000] * 6, dtype=object),
    "wide frame": lambda: pd.DataFrame(np.zeros((10, 5_000))),
    "bytes": lambda: b"x" * 10_000_000,
    "sparse range": lambda: range(10**12),
}


def wide_tree(width: int, depth: int) -> Any:
    """Return a tree with shared branches: small in memory, and of *width* to the power of *depth* leaves."""
    value: Any = "leaf"
    for _ in range(depth):
        value = [value] * width
    return value


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
def test_a_large_value_is_cut(make: Callable[[], Any]) -> None:
    """However large a value is, its field keeps to the limit, its rendering near it, both within seconds."""
    value = make()
    started = time.thread_time()
    assert len(as_json(plain(value))) <= 2 * WHOLE_LIMIT
    assert len(field(value)) <= WHOLE_LIMIT
    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    "unit", ["a-", "a.", "eyJ-", "http://", "a@", "bearer ", "-----BEGIN PRIVATE KEY-----", "password", "sk-"]
)
def test_the_time_for_a_text_grows_with_its_length_and_no_faster(unit: str) -> None:
    """No text, repetitive as it may be, makes the search for secrets run for seconds."""
    text = (unit * 30_000)[:30_000]
    started = time.thread_time()
    field(text)
    assert time.thread_time() - started < 1


def test_what_a_long_list_leaves_out_is_counted() -> None:
    """A list that is cut ends with the number of its elements that are missing."""
    rendered = plain(list(range(100_000)))
    assert f"… {100_000 - (len(rendered) - 1)} more" == rendered[-1]


def test_what_a_long_text_leaves_out_is_said() -> None:
    """A text that is cut names its full length."""
    assert f"[{3 * WHOLE_LIMIT} characters]" in plain("x" * (3 * WHOLE_LIMIT))


def test_depth_is_bounded_and_said() -> None:
    """Below twenty levels a value is replaced by the remark that it goes deeper."""
    assert "deeper than 20 levels" in field(nested(50))


def test_a_cycle_is_named() -> None:
    """A container inside itself is replaced by a remark, once around."""
    assert [1, {"again": "<cycle: list>"}] == plain(cycle())


def test_the_same_object_twice_is_no_cycle() -> None:
    """Two references beside each other are both rendered."""
    shared = [1]
    assert [[1], [1]] == plain([shared, shared])


def test_keys_that_look_alike_keep_their_values() -> None:
    """Keys that become equal as texts are told apart; no value is lost."""
    assert {"int", "str"} == set(plain({1: "int", "1": "str"}).values())
    assert {"a", "int", "str"} == set(plain({"1~2": "a", 1: "int", "1": "str"}).values())


def test_a_generator_is_not_consumed() -> None:
    """An iterator is rendered by name and yields all its items afterwards."""
    generator = (item for item in range(3))
    assert "generator" in field(generator)
    assert [0, 1, 2] == list(generator)


@pytest.mark.parametrize(
    "make",
    [iter, lambda items: map(str, items), enumerate, reversed, lambda items: zip(items, items, strict=True)],
)
def test_an_iterator_is_not_consumed(make: Callable[[list[int]], Iterator[Any]]) -> None:
    """Built-in iterators keep their items."""
    iterator = make([1, 2, 3])
    field(iterator)
    assert 3 == len(list(iterator))


# Readable forms.

FRAME = {"type": "DataFrame", "shape": [1, 2]}
READABLE: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (1.5, 1.5),
    (math.nan, "nan"),
    (-math.inf, "-inf"),
    (2**64, str(2**64)),
    ("a\0b", "a\ufffdb"),
    (b"\x01\x02", "<bytes of 2 bytes: 0102>"),
    (decimal.Decimal("1.10"), "1.10"),
    (1j, "1j"),
    (range(3), "range(0, 3)"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (pathlib.PurePosixPath("a/b"), "a/b"),
    (pathlib.PureWindowsPath("a\\b"), "a\\b"),
    (dt.datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),
    (dt.date(2024, 1, 2), "2024-01-02"),
    (dt.time(3, 4), "03:04:00"),
    (dt.timedelta(hours=1), "1:00:00"),
    (Color.RED, "Color.RED"),
    (Level.LOW, "Level.LOW"),
    (Text("text"), "text"),
    (Number(5), 5),
    (ValueError("bad"), "ValueError: bad"),
    (Point(1.0, 2.0), {"x": 1.0, "y": 2.0}),
    (Pair(1, "b"), {"left": 1, "right": "b"}),
    (Attrs(1), {"a": 1}),
    (Struct(1), {"a": 1}),
    (Model(name="n"), {"name": "n", "key": MASK}),
    ({1}, [1]),
    ((1, [2]), [1, [2]]),
    ({1: 2}, {"1": 2}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.deque([1]), [1]),
    (len, "builtins.len"),
    (json, "<module json>"),
    (np.float32(0.5), 0.5),
    (np.int64(3), 3),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.longdouble("1.5"), 1.5),
    (np.datetime64("2024-01-02T03:04", "ns"), "2024-01-02T03:04:00.000000000"),
    (np.array(7), 7),
    (np.arange(3), "ndarray(shape=(3,), dtype=int64, head=[0, 1, 2])"),
    (np.zeros((2, 9), dtype="f4"), f"ndarray(shape=(2, 9), dtype=float32, head={[0.0] * 6})"),
    (pd.Timestamp("2024-01-02"), "2024-01-02T00:00:00"),
    (pd.NaT, "NaT"),
    (pd.DataFrame([[1, "a"]], columns=["n", "s"]), {**FRAME, "head": {"n": [1], "s": ["a"]}}),
    (pd.DataFrame([[1, 2]], columns=["d", "d"]), {**FRAME, "head": {"d": [1], "d~1": [2]}}),
    (pd.Series([1, 2], name="s"), {"type": "Series", "length": 2, "dtype": "int64", "head": {"s": [1, 2]}}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"), READABLE, ids=[repr(value).splitlines()[0][:40] for value, _ in READABLE]
)
def test_a_known_type_has_a_readable_form(value: Any, expected: Any) -> None:
    """Values of the standard library, numpy, pandas and record libraries are rendered by what they say."""
    assert (type(expected), expected) == (type(plain(value)), plain(value))


def test_the_head_of_an_array_is_short() -> None:
    """Of a large array six elements are shown, whatever its memory layout."""
    assert "ndarray(shape=(1000, 2000), dtype=int64, head=[1, 1, 1, 1, 1, 1])" == plain(
        np.ones((2000, 1000), dtype="int64").T
    )


def test_an_object_without_a_text_of_its_own_is_its_type() -> None:
    """The default `repr` is only an address: the type's name is kept, so that equal objects look equal."""
    kind = raising()
    assert plain(kind()) == plain(kind())
    assert f"<{kind.__module__}.Awkward>" == plain(kind())


def test_a_secret_in_a_frame_is_masked_by_its_column() -> None:
    """Columns and series are names too: what stands under a secret's is hidden."""
    frame = pd.DataFrame({"password": ["correct-horse"], "user": ["ada"]})
    assert "correct-horse" not in field(frame)
    assert "correct-horse" not in field(frame["password"])
    assert "ada" in field(frame)


def test_an_object_that_cannot_be_read_says_why() -> None:
    """Where an object refuses to be read, its type and the error's type are what is kept."""
    text = plain(raising("__repr__")())
    assert "Awkward" in text
    assert "Hostile" in text


# Numbers.


@pytest.mark.parametrize("make", AWKWARD.values(), ids=AWKWARD)
def test_looking_for_numbers_never_raises(make: Callable[[], Any]) -> None:
    """Whether a value is a number, or a mapping of numbers, is found out without raising."""
    assert type(number(make())) in (float, type(None))
    assert [] == [key for key, found in numbers(make()) if type(found) is not float]
    assert ("last", 1.0) in list(numbers({"a": make(), "b": {"c": make()}, "last": 1}))


NUMBERS = [
    (1, 1.0),
    (1.5, 1.5),
    (decimal.Decimal("0.1"), 0.1),
    (np.float32(0.5), 0.5),
    (np.int8(3), 3.0),
    (np.array(2.0), 2.0),
]


@pytest.mark.parametrize(("value", "expected"), NUMBERS, ids=str)
def test_a_number_is_a_float(value: Any, expected: float) -> None:
    """Python's, numpy's and decimal numbers become floats."""
    assert expected == number(value)


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), "1", b"1", None, [1], 1j, np.array([1.0]), 10**400, math], ids=repr
)
def test_no_number_is_none(value: Any) -> None:
    """Truth values, texts, containers and what no float can hold are not numbers."""
    assert None is number(value)


def test_numbers_that_are_not_finite_are_kept() -> None:
    """NaN and the infinities are numbers."""
    assert math.isnan(number(math.nan) or 0)
    assert -math.inf == number(-math.inf)


def test_nested_numbers_have_joined_keys() -> None:
    """The numbers of a mapping keep its order; keys of inner mappings are joined by a full stop."""
    value = {"a": 1, "skip": "text", "b": {"c": 2.5, 3: {"d": 4}}, "list": [1]}
    assert [("a", 1.0), ("b.c", 2.5), ("b.3.d", 4.0)] == list(numbers(value))


def test_a_mapping_inside_itself_is_read_once() -> None:
    """The search for numbers does not run around cycles, which would double the work at each level."""

    class Watched(dict[str, Any]):
        reads = 0

        def items(self) -> Any:
            Watched.reads += 1
            if Watched.reads > 1_000:
                raise Hostile("read again and again")
            return super().items()

    value = Watched(n=1)
    value["left"] = value["right"] = value
    assert ("n", 1.0) in list(numbers(value))
    assert 1 == Watched.reads


def test_the_search_for_numbers_is_bounded() -> None:
    """Branches that share their mappings are small in memory and endless to read: the search gives up."""
    reads = []

    class Watched(dict[str, Any]):
        def items(self) -> Any:
            reads.append(1)
            return super().items()

    value = Watched()
    for _ in range(16):
        value = Watched(left=value, right=value)
    assert [] == list(numbers(value))
    assert len(reads) <= 20_000


# Keys.

odd_keys = st.one_of(
    st.text(st.characters(), max_size=30),
    st.text("./a: -@\\\0\n\ud800é", max_size=12),
    st.text("ab/.", min_size=KEY_LIMIT - 3, max_size=KEY_LIMIT + 20),
)


@given(odd_keys)
@example("..foo")
@example("...")
@example("..@")
@example("")
@PROPERTY
def test_a_clean_key_is_one_that_mlflow_takes(key: str) -> None:
    """Whatever the key, MLflow's own validation takes its clean form, as metric, param and tag."""
    cleaned = clean_key(key)
    assert len(cleaned) <= KEY_LIMIT
    _validate_metric_name(cleaned)
    _validate_param_name(cleaned)
    _validate_tag_name(cleaned)


@given(odd_keys)
@example("n" * 257)
@example("n" * 600)
@example("\ud83d" * 200)
@example("a\0b")
@PROPERTY
def test_a_clean_experiment_fits_every_database(name: str) -> None:
    """Whatever the name, its clean form is short enough, can be encoded, has no NUL and stays as it is."""
    cleaned = clean_experiment(name)
    assert len(cleaned) <= EXPERIMENT_LIMIT
    assert "\0" not in cleaned.encode().decode()
    assert cleaned == clean_experiment(cleaned)
    assert clean_experiment("n" * 300 + name) != clean_experiment("m" + "n" * 299 + name)


@given(odd_keys)
@PROPERTY
def test_a_clean_key_stays_as_it_is(key: str) -> None:
    """Cleaning is done after one time."""
    assert clean_key(key) == clean_key(clean_key(key))


@given(st.lists(odd_keys, min_size=2, max_size=6, unique=True))
@example(["a@b", "a#b", "a_b"])
@example(["x" * 251, "x" * 252])
@PROPERTY
def test_different_keys_stay_different(several: list[str]) -> None:
    """No two keys are mapped to one."""
    assert len(several) == len({clean_key(key) for key in several})


@pytest.mark.parametrize(
    "key", ["loss", "val/loss", "a b", "a.b", "a:b", "a-b", "α", "recall at 5", ".hidden", "k" * KEY_LIMIT]
)
def test_an_acceptable_key_is_kept(key: str) -> None:
    """A key that MLflow takes is not changed."""
    _validate_metric_name(key)
    assert key == clean_key(key)


def test_a_mapped_key_stays_readable() -> None:
    """What MLflow refuses becomes an underscore, and six digits of a hash tell the key from others."""
    stem, _, digits = clean_key("MAP@k").partition("-")
    assert ("MAP_k", 6) == (stem, len(digits))


# Paths.

odd_paths = st.one_of(
    st.text(st.characters(), max_size=40),
    st.text("./a\\ :;%?#\0\n~", max_size=15),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "..a", "a..", "x" * 148 + "..", "b" * 200, ".hidden", "é"]),
        max_size=14,
    ).map("/".join),
)


@given(odd_paths)
@example("..foo")
@example("../../etc/passwd")
@example("/etc/passwd")
@example(" ")
@example(" /etc/passwd")
@example(".. ../.. ../etc/passwd")
@example(".. .")
@example("a;")
@example("\\\\host\\share")
@example("a/" * 600)
@example("/".join(["x" * 148 + ".."] * 7))
@PROPERTY
def test_a_clean_path_stays_within_the_run(path: str) -> None:
    """Whatever the path, MLflow takes its clean form, which leads to a place below the run's artifacts."""
    cleaned = clean_path(path)
    verify_artifact_path(cleaned)
    assert cleaned == validate_path_is_safe(cleaned)
    assert posixpath.join("/run", cleaned) == posixpath.normpath(posixpath.join("/run", cleaned))
    assert len(cleaned) <= 1_000


def test_no_cut_turns_a_name_into_the_way_up() -> None:
    """A long path is shortened at its beginning; what is left never begins with ``/`` or ``..``."""
    for offset in range(8):
        verify_artifact_path(clean_path("x../" * 300 + "y" * offset))


@given(st.lists(odd_paths, min_size=2, max_size=5, unique=True))
@example(["a#b", "a?b"])
@example(["a/b", "a//b", "./a/b"])
@PROPERTY
def test_different_paths_stay_different(several: list[str]) -> None:
    """No two paths are mapped to one: an artifact never takes the place of another."""
    assert len(several) == len({clean_path(path) for path in several})


@pytest.mark.parametrize(
    "path", ["model.pkl", "plots/loss curve.png", "a/b/c", ".hidden", "über.txt", "v1.0/x"]
)
def test_an_acceptable_path_is_kept(path: str) -> None:
    """An ordinary relative path is not changed."""
    assert path == clean_path(path)


def test_a_mapped_path_keeps_its_suffix() -> None:
    """MLflow's UI chooses the viewer by the suffix, so that it stays the last."""
    assert clean_path("plots/loss?.png").endswith(".png")


# Texts.


@given(st.text(max_size=400), st.integers(150, 300), st.none() | st.just("inputs.json"))
@example("x" * 200, 200, None)
@example("x" * 201, 200, None)
@PROPERTY
def test_a_text_is_fitted_to_the_limit(text: str, limit: int, whole_in: str | None) -> None:
    """A text within the limit is kept, a longer one is not longer than the limit afterwards."""
    fitted = fit(text, limit, whole_in)
    assert fitted == text if len(text) <= limit else len(fitted) <= limit


def test_a_preview_names_length_hash_and_place() -> None:
    """What stands for a long text says how long it was, which it was, and where it is whole."""
    preview = fit("x" * 1_000, 200, "inputs.json")
    assert preview.startswith("xxx")
    assert "[1000 characters, sha256 " in preview
    assert preview.endswith(", whole in inputs.json]")


@given(st.text(st.characters(), max_size=30))
@PROPERTY
def test_a_clean_text_can_be_stored(text: str) -> None:
    """Clean texts have no NUL and no lone surrogate; what has neither is kept."""
    cleaned = clean_text(text)
    cleaned.encode()
    assert "\0" not in cleaned
    assert cleaned == clean_text(cleaned)
