"""Values of other packages have a readable form, and none is read further than it shows."""

from __future__ import annotations

import dataclasses
import fractions
import functools
import itertools
import json
import math
import os
import subprocess
import sys
import threading
import tracemalloc
import types

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import attrs
import google.protobuf.struct_pb2
import google.protobuf.timestamp_pb2
import msgspec
import numpy as np
import pandas as pd
import PIL.Image
import polars as pl
import pydantic
import pydantic.v1
import pytest

import mltrace

from mltrace import _forms, _watched
from mltrace._numbers import number
from mltrace._redaction import MASK, Redactor
from mltrace._texts import WHOLE_LIMIT
from mltrace._values import Renderer
from mltrace.backends.memory import MemoryBackend
from mltrace.exceptions import ConfigurationError
from mltrace.testing._laws import outcome


RENDERER = Renderer(Redactor())


def plain(value: Any) -> Any:
    return RENDERER.plain("x", value, [])


def field(value: Any) -> str:
    return RENDERER.field("x", value, [])


def struct() -> google.protobuf.struct_pb2.Struct:
    found = google.protobuf.struct_pb2.Struct()
    found.update({"k": [1, "a"]})
    return found


class Own:
    def __repr__(self) -> str:
        return "own"


class Open(pydantic.BaseModel, extra="allow"):
    shown: int
    silent: str = pydantic.Field("silent", repr=False)


class Old(pydantic.v1.BaseModel):
    shown: int = 1


class Point(msgspec.Struct):
    x: int


@attrs.frozen
class Pair:
    left: Any
    right: Any = attrs.field(default=2, repr=False)


HEAD_OF_OBJECTS = {"type": "ndarray", "shape": [2], "dtype": "object", "head": ["own", None]}
READABLE: dict[str, tuple[Callable[[], Any], Any]] = {
    "numpy objects": (lambda: np.array([Own(), None], dtype=object), HEAD_OF_OBJECTS),
    "numpy scalars": (lambda: [np.float16(0.5), np.int8(-1), np.bool_(False), np.str_("a")], [0.5, -1, False, "a"]),
    "numpy nan": (lambda: [np.float32("nan"), np.float64("inf")], ["nan", "inf"]),
    "numpy long texts": (lambda: np.array(["x" * 9_000] * 9), "ndarray(shape=(9,), dtype=<U9000)"),
    "pandas repeated columns": (
        lambda: pd.DataFrame([[1, 2, 3]], columns=["d", "d", "d"]),
        {"type": "DataFrame", "shape": [1, 3], "head": {"d": [1], "d~1": [2], "d~2": [3]}},
    ),
    "pandas index": (lambda: pd.Index([1, 2]), {"type": "Index", "length": 2, "dtype": "int64", "head": [1, 2]}),
    "pandas array": (
        lambda: pd.array([1, None], dtype="Int64"),
        {"type": "IntegerArray", "length": 2, "dtype": "Int64", "head": [1, "<NA>"]},
    ),
    "polars frame": (
        lambda: pl.DataFrame({"n": [1, None], "s": ["a", "b"]}),
        {"type": "DataFrame", "shape": [2, 2], "head": {"n": [1, None], "s": ["a", "b"]}},
    ),
    "polars series": (
        lambda: pl.Series("s", [1.5]),
        {"type": "Series", "length": 1, "dtype": "Float64", "head": {"s": [1.5]}},
    ),
    "pillow": (lambda: PIL.Image.new("L", (3, 2)), "Image(size=3x2, mode=L)"),
    "pydantic": (lambda: Open(shown=1, more=[2]), {"shown": 1, "more": [2]}),
    "pydantic 1": (lambda: Old(), {"shown": 1}),
    "attrs": (lambda: Pair(Own()), {"left": "own"}),
    "msgspec": (lambda: Point(1), {"x": 1}),
    "msgspec raw": (lambda: msgspec.Raw(b"{}"), "<Raw of 2 bytes: 7b7d>"),
    "protobuf": (struct, {"fields": {"k": {"list_value": {"values": [{"number_value": 1.0}, {"string_value": "a"}]}}}}),
    "protobuf timestamp": (lambda: google.protobuf.timestamp_pb2.Timestamp(seconds=5), {"seconds": 5}),
    "fraction": (lambda: fractions.Fraction(1, 3), "1/3"),
    "huge fraction": (lambda: fractions.Fraction(10**5_000, 3), f"<int of {(10**5_000).bit_length()} bits>/3"),
    "huge negative int": (lambda: [-(10**5_000)], [f"<int of {(10**5_000).bit_length()} bits>"]),
    "partial": (lambda: functools.partial(math.pow, 2), {"partial": "math.pow", "0": 2}),
    "namespace": (lambda: types.SimpleNamespace(a=Own()), {"a": "own"}),
    "dict views": (lambda: [{"a": 1}.keys(), {"a": 1}.values()], [["a"], [1]]),
    "read-only mapping": (lambda: types.MappingProxyType({"a": 1}), {"a": 1}),
    "decorated function": (lambda: mltrace.track_run(os.getcwd), "posix.getcwd"),
    "cached function": (lambda: functools.lru_cache(field), f"{__name__}.field"),
    "lock": (threading.Lock, "<unlocked _thread.lock object>"),
    "open file": (lambda: open(os.devnull), f"<_io.TextIOWrapper name='{os.devnull}' mode='r' encoding='UTF-8'>"),  # noqa: SIM115
    "memory of several dimensions": (lambda: memoryview(np.zeros((2, 3))), "<memoryview of 48 bytes>"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), READABLE.values(), ids=READABLE)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_value_of_another_package_has_a_readable_form(make: Callable[[], Any], expected: Any) -> None:
    """Shape, type and the first elements, or the fields that the value itself would show."""
    assert expected == plain(make())


@dataclasses.dataclass
class Link:
    to: Any


class Told:
    def __init__(self, to: Any) -> None:
        self.to = to

    def __repr__(self) -> str:
        return f"Told({self.to!r})"


class Raised(Exception):
    def __init__(self, cause: Any) -> None:
        super().__init__("raised")
        self.__cause__ = cause if isinstance(cause, Raised) else None


DEEP: dict[str, Callable[[Any], Any]] = {
    "lists": lambda inner: [inner],
    "tuples": lambda inner: (inner,),
    "mappings": lambda inner: {"to": inner},
    "dataclasses": Link,
    "objects with a text of their own": Told,
    "attrs": Pair,
    "msgspec": Point,
    "pydantic": lambda inner: Open(shown=1, to=inner),
    "partials": lambda inner: functools.partial(print, inner),
    "causes": Raised,
}


@pytest.mark.parametrize("kind", DEEP)
def test_ten_thousand_levels_cost_what_twenty_do(kind: str, memory: MemoryBackend) -> None:
    """A value as deep as no stack is passes through, and is recorded in a short text, raised or not."""
    value: Any = None
    for _ in range(10_000):
        value = DEEP[kind](value)

    @mltrace.track_run
    def call(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    returned, raised = outcome(lambda: call(value))
    assert value is (returned if raised is None else raised)
    [run] = memory.roots
    assert len(run.params["value"]) < 1_000


def test_a_real_tensor_is_its_shape() -> None:
    """A tensor of torch is described without reading one element."""
    torch = pytest.importorskip(
        "torch", reason="torch is not installed: it is large, and a stand-in is tested below"
    )
    assert "Tensor(shape=(2, 3), dtype=torch.float32, device=cpu)" == plain(torch.zeros(2, 3))
    assert "Tensor(shape=(9, 9), dtype=torch.float32, device=meta)" == plain(torch.zeros(9, 9, device="meta"))


@pytest.mark.filterwarnings("error")
def test_a_real_tensor_without_a_dimension_is_a_number(memory: MemoryBackend) -> None:
    """A loss is a metric whether it has a gradient or not, logged or returned; what is no number stays none."""
    torch = pytest.importorskip(
        "torch", reason="torch is not installed: it is large, and a stand-in is tested below"
    )
    loss = torch.tensor(0.5, requires_grad=True)
    with mltrace.track_run("training"):
        mltrace.log_metric("loss", loss)
        mltrace.log_metric("steps", torch.tensor(3))
        mltrace.track_run(lambda: {"loss": loss * 2, "vector": torch.zeros(3)})()
    training = memory.roots[0]
    assert ({"loss": 0.5, "steps": 3.0}, {"loss": 1.0}) == tuple(
        {key: value for key, value in run.metrics.items() if key != "latency_ms"}
        for run in (training, training.children[0])
    )
    for other in (torch.tensor(True), torch.tensor(1j), torch.zeros(1), torch.zeros((), device="meta")):
        assert None is number(other)


def tensor(device: str) -> Any:
    """Return what has the fields of a tensor of one number on *device*."""

    def item() -> float:
        return 0.5 if device == "cpu" else pytest.fail("the data was fetched")

    found = type(
        "Tensor", (), {"__module__": "torch", "shape": (), "device": types.SimpleNamespace(type=device)}
    )()
    found.detach = lambda: types.SimpleNamespace(item=item)
    return found


@pytest.mark.parametrize(("device", "expected"), [("cpu", 0.5), ("cuda", None), ("meta", None)])
def test_a_number_is_not_fetched_from_a_device(device: str, expected: float | None) -> None:
    """A tensor's number is a metric where reading it waits for no device."""
    assert expected == number(tensor(device))


class DeviceArray:
    """An array whose data is elsewhere; it fails the test when it is fetched."""

    shape = property(lambda self: (1_000_000, 1_000))
    dtype = property(lambda self: "bfloat16")
    device = property(lambda self: "cuda:0")

    def fetch(self, *_: object) -> Any:
        pytest.fail("the data was fetched")

    __repr__ = __str__ = __array__ = __iter__ = __len__ = __getitem__ = tolist = numpy = cpu = fetch


def test_the_data_of_a_device_stays_there() -> None:
    """An array of a package that mltrace does not know is its shape, type and place."""
    assert "DeviceArray(shape=(1000000, 1000), dtype=bfloat16, device=cuda:0)" == plain(DeviceArray())
    assert ["DeviceArray(shape=(1000000, 1000), dtype=bfloat16, device=cuda:0)"] == plain([DeviceArray()])


def test_a_lazy_query_is_not_run() -> None:
    """A polars query stays a query."""

    def run(frame: pl.DataFrame) -> pl.DataFrame:
        pytest.fail("the query was run")

    assert "not run" in plain(pl.DataFrame({"a": [1]}).lazy().map_batches(run))


def test_an_image_is_not_decoded(tmp_path: Path) -> None:
    """Of a file of pixels only the header is read."""
    PIL.Image.new("RGB", (4, 5)).save(tmp_path / "image.png")
    with PIL.Image.open(tmp_path / "image.png") as image:
        assert "Image(size=4x5, mode=RGB, format=PNG)" == plain(image)
        assert image.fp is not None  # it is closed when the pixels are loaded


@pytest.mark.parametrize("transposed", [False, True])
def test_a_memory_map_is_not_read(tmp_path: Path, transposed: bool) -> None:
    """Ten gigabytes that are mapped cost a page, whatever their order."""
    side = 2**15
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10 << 30)
    mapped = np.memmap(tmp_path / "sparse", dtype="f8", mode="r", shape=(side, side))
    before = resident_bytes()
    text = plain(mapped.T if transposed else mapped)
    assert f"ndarray(shape=({side}, {side}), dtype=float64, head={[0.0] * 6})" == text
    assert resident_bytes() - before < 64 << 20


def resident_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("kind", [str, type("Text", (str,), {}), bytes, bytearray])
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": [value]}], ids=["bare", "nested"])
def test_a_large_value_is_neither_copied_nor_read_to_its_end(kind: type, wrap: Callable[[Any], Any]) -> None:
    """A text of a hundred million characters costs the memory of what is kept of it, a few megabytes."""
    content: Any = "x" * 100_000_000
    value = wrap(kind(content) if issubclass(kind, str) else kind(content.encode()))
    tracemalloc.start()
    try:
        text = field(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (True, True, True) == ("100000000" in text, len(text) <= WHOLE_LIMIT, peak < 24 << 20)


@pytest.mark.parametrize("where", ["argument", "output", "error", "tag"])
def test_of_a_large_text_what_fits_is_kept_as_an_artifact(memory: MemoryBackend, where: str) -> None:
    """The field says how long the text was and what the artifact has of it."""
    text = "x" * 3_000_000

    @mltrace.track_run
    def call(value: str = "") -> str:
        if where == "error":
            raise ValueError(text)
        if where == "tag":
            mltrace.set_tag("note", text)
        return text if where == "output" else ""

    try:
        call(text if where == "argument" else "")
    except ValueError:
        pass
    [run] = memory.roots
    fields, artifact = {
        "argument": (run.params.get("value", ""), "inputs.json"),
        "output": (run.tags.get("mltrace.output", ""), "outputs.json"),
        "error": (run.tags.get("mltrace.error.message", ""), "traceback.txt"),
        "tag": (run.tags.get("note", ""), "tags/note.txt"),
    }[where]
    assert (True, True) == (
        fields.endswith(f"in {artifact}]"),
        1_000_000 < len(run.artifacts[artifact]) <= WHOLE_LIMIT + 100,
    )
    if where != "error":
        assert "[3000000 characters; the first 10485" in fields


def test_a_preview_of_a_cut_text_is_truthful(memory: MemoryBackend) -> None:
    """It names the length of the text, not of the part that was kept."""
    mltrace.track_run(lambda value: None)("y" * 2_000_000)
    assert "2000000 characters" in memory.roots[0].params["value"]


def test_nothing_foreign_is_imported() -> None:
    """The table names packages; rendering brings in none of them."""
    script = """
import sys
from mltrace._redaction import Redactor
from mltrace._values import Renderer
class Own:
    def __repr__(self): return "own"
Renderer(Redactor()).field("x", [Own(), {"a": 1}, object(), ValueError("a")], [])
print(sorted({"numpy", "pandas", "polars", "torch", "PIL", "pydantic", "attr", "google.protobuf"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout


@dataclasses.dataclass
class Hidden:
    user: str
    pin: Annotated[str, mltrace.Redact]
    pins: list[Annotated[str, mltrace.Redact]] | None = None


class HiddenModel(pydantic.BaseModel):
    user: str
    pin: Annotated[str, mltrace.Redact]


class HiddenStruct(msgspec.Struct):
    user: str
    pin: Annotated[str, mltrace.Redact()]


@attrs.define
class HiddenAttrs:
    user: str
    pin: Annotated[str, mltrace.Redact]


@pytest.mark.parametrize("kind", [Hidden, HiddenModel, HiddenStruct, HiddenAttrs])
def test_a_marked_field_is_hidden(kind: Any) -> None:
    """`Annotated[…, Redact]` counts in every kind of record, and the rest stays readable."""
    found = plain(kind(user="ada", pin="a-pin-of-ada"))
    assert ("ada", MASK) == (found["user"], found["pin"])


def test_a_mark_inside_an_annotation_hides_the_whole() -> None:
    """A list of marked texts, optional and written as a text, is hidden too."""
    assert MASK == plain(Hidden("ada", "x", pins=["abc"]))["pins"]


# What users register.


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test has registered; and let a busy machine take its time, as nothing here is slow by itself."""
    monkeypatch.setattr(_watched, "BUDGET_SECONDS", 10.0)
    yield
    _forms.forget_renderers()


class Molecule:
    def __init__(self, formula: str) -> None:
        self.formula = formula

    def __repr__(self) -> str:
        return f"a molecule of {self.formula}"


class Salt(Molecule):
    pass


def test_a_registered_function_renders_its_type_and_subclasses() -> None:
    """What it returns is rendered in the value's place, wherever the value stands."""
    mltrace.register_renderer(Molecule, lambda molecule: {"formula": molecule.formula})
    assert {"formula": "H2O"} == plain(Molecule("H2O"))
    assert {"a": [{"formula": "NaCl"}]} == plain({"a": [Salt("NaCl")]})


def test_the_nearest_base_has_it() -> None:
    """Of several registered bases the one that is found first on the way up counts, and the latest function for it."""
    mltrace.register_renderer(Molecule, lambda _: "molecule")
    mltrace.register_renderer(Salt, lambda _: "first")
    mltrace.register_renderer(Salt, lambda _: "salt")
    assert ["molecule", "salt"] == plain([Molecule("H2O"), Salt("NaCl")])


def test_it_can_be_a_decorator() -> None:
    """Above a function, `register_renderer` leaves the function as it is."""

    @mltrace.register_renderer(Molecule)
    def formula(molecule: Molecule) -> str:
        return molecule.formula

    assert ("H2O", "H2O") == (plain(Molecule("H2O")), formula(Molecule("H2O")))


@pytest.mark.parametrize("name", [f"{__name__}.Molecule", "pandas.DataFrame", "pandas.core.frame.DataFrame"])
def test_a_type_can_be_named(name: str) -> None:
    """A name stands for the type that has it, or is offered under it, without an import."""
    mltrace.register_renderer(name, lambda value: "named")
    assert "named" == plain(pd.DataFrame() if "pandas" in name else Molecule("H2O"))


def test_naming_a_type_imports_nothing() -> None:
    """The package of a named type may be missing."""
    mltrace.register_renderer("not_there_at_all.Type", lambda value: "named")
    assert "own" == plain(Own())
    assert "not_there_at_all" not in sys.modules


def test_what_is_registered_comes_before_what_is_known() -> None:
    """Users have the last word on types of the table, on records and on containers."""
    mltrace.register_renderer(np.ndarray, lambda array: f"array of {array.size}")
    mltrace.register_renderer(Point, lambda point: f"x={point.x}")
    mltrace.register_renderer(dict, lambda found: sorted(found))
    assert ["array of 3", "x=1", ["a", "b"]] == plain([np.arange(3), Point(1), {"b": 1, "a": 2}])


def test_what_is_registered_counts_for_types_seen_before() -> None:
    """A type that was rendered already is rendered anew."""
    assert "a molecule of H2O" == plain(Molecule("H2O"))
    mltrace.register_renderer(Molecule, lambda molecule: molecule.formula)
    assert "H2O" == plain(Molecule("H2O"))


def test_a_registered_function_that_raises_is_reported_once(said: list[str]) -> None:
    """Its values are rendered as if nothing were registered; one warning names the type and not the value."""

    def broken(molecule: Molecule) -> str:
        raise ValueError(f"no {molecule.formula}")

    mltrace.register_renderer(Molecule, broken)
    assert ["a molecule of H2O", "a molecule of NaCl"] == [plain(Molecule("H2O")), plain(Molecule("NaCl"))]
    assert (1, True, False) == (len(said), "Molecule" in said, "H2O" in repr(said))


def test_a_registered_function_that_returns_its_argument_ends() -> None:
    """It cannot make the rendering run in circles, nor by making a new value each time."""
    counter = itertools.count()
    mltrace.register_renderer(Molecule, lambda molecule: molecule)
    mltrace.register_renderer(Salt, lambda _: Salt(str(next(counter))))
    assert "cycle" in plain(Molecule("H2O"))
    assert "deeper than" in plain(Salt("NaCl"))


def test_what_a_registered_function_returns_is_redacted() -> None:
    """Names and shapes of secrets count in its result."""
    mltrace.register_renderer(Molecule, lambda _: {"password": "abc", "note": "sk-0123456789abcdef0123"})
    assert {"password": MASK, "note": MASK} == plain(Molecule("H2O"))


@pytest.mark.parametrize("kind", [str, int, float, bool, type(None), 5, "no_dots", ".", None, ""])
def test_a_wrong_kind_is_refused(kind: Any) -> None:
    """Plain types and what is no type raise at once, naming the argument."""
    with pytest.raises(ConfigurationError, match="kind"):
        mltrace.register_renderer(kind, repr)


def test_a_wrong_renderer_is_refused() -> None:
    """What cannot be called raises at once, naming the argument."""
    with pytest.raises(ConfigurationError, match="renderer"):
        mltrace.register_renderer(Molecule, "text")  # type: ignore[call-overload]


def test_it_is_used_in_a_call(memory: MemoryBackend) -> None:
    """Params and outputs show what was registered."""
    mltrace.register_renderer(Molecule, lambda molecule: molecule.formula)
    mltrace.track_run(lambda molecule: molecule)(Molecule("H2O"))
    [run] = memory.roots
    assert ("H2O", "H2O") == (run.params["molecule"], run.tags["mltrace.output"])
    assert json.dumps(run.params)
