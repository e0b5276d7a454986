"""
Run trees as values: what was recorded, and what a test expects, compare with one ``==``.
"""

from __future__ import annotations

import dataclasses
import math
import types

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from .._records import RUN, TRACE
from .._redaction import Redactor
from .._values import Renderer
from ..backends.memory import RecordedRun


RUNNING = "RUNNING"
"""MLflow's status of a run that has not ended."""

VOLATILE = frozenset({"latency_ms", "time_to_first_token_ms"})
"""Metrics that are not compared unless the expected tree names them."""

RESERVED = ("mltrace.", "mlflow.")
"""Tags under these prefixes are not compared unless the expected tree names them."""

_MAPPINGS = ("params", "metrics", "tags", "artifacts")
_SCALARS = ("status", "kind", "experiment", "record_as", "span_type", "id", "parent_id", "start_ms", "end_ms")
_VOLATILE_FIELDS = frozenset({"id", "parent_id", "start_ms", "end_ms"})
_SHOWN = 200  # characters of one value in a message

_renderer = Renderer(Redactor(builtin=False))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RunTree:
    """
    A run and the runs below it, immutable: a recorded one, or (see `run`) an expected one.

    Two trees are equal when everything that the expected one states is so. A recorded tree states
    everything; ids, times and latencies are compared only where an expected tree states them. The
    ``repr`` of a recorded tree is the call of `run` that makes an equal one.

    Attributes:
        name, kind, experiment: As in MLflow; *kind* is the tag ``mltrace.kind``.

        status: ``FINISHED``, ``FAILED``, ``KILLED``; ``RUNNING`` for a run that has not ended.

        params, tags: Texts by key. metrics: the last value by key. artifacts: bytes by path.

        children: The runs below it, in the order in which they started, or `unordered`.

        id, parent_id: 32 hex digits. start_ms, end_ms: milliseconds since the epoch.

        record_as, span_type: ``run``, or ``trace`` for a span; and the span's type, where the program
            gave one.
    """

    name: str
    status: str | None = "FINISHED"
    kind: str | None = None
    experiment: str | None = None
    params: Mapping[str, str] | None = None
    metrics: Mapping[str, Any] | None = None
    tags: Mapping[str, str] | None = None
    artifacts: Mapping[str, bytes] | None = None
    children: Sequence[RunTree] = ()
    id: str | None = None
    parent_id: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    record_as: str | None = None
    span_type: str | None = None
    recorded: bool = False

    def __post_init__(self) -> None:
        for field in _MAPPINGS:
            if (given := getattr(self, field)) is not None:
                object.__setattr__(self, field, types.MappingProxyType(dict(given)))

    def walk(self) -> Iterator[RunTree]:
        """Yield this run and those below it, in the order in which they started."""
        yield self
        for child in self.children:
            yield from child.walk()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunTree):
            return NotImplemented
        return next(differences(*_ordered(self, other)), None) is None

    __hash__ = None  # type: ignore[assignment] # what is not stated is equal to anything

    def __repr__(self) -> str:
        return "\n".join(_lines(self))


def run(
    name: str,
    *,
    status: str | None = "FINISHED",
    kind: str | None = None,
    experiment: str | None = None,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    artifacts: Mapping[str, bytes | str] | None = None,
    children: Iterable[RunTree] = (),
    id: str | None = None,  # noqa: A002 # the name it has in a `Run`
    parent_id: str | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
    record_as: str | None = None,
    span_type: str | None = None,
) -> RunTree:
    """
    Return the tree that a test expects.

    What is given is compared, and exactly: *params* are all params. What is left out may be
    anything, except that the run is ``FINISHED`` and has no children unless something else is said.
    *children* are compared in the order in which they started; where that is chance, as with
    threads and tasks, say ``children=unordered([…])``.

    Values that are no texts are compared as mltrace records them: ``params={"k": 5}`` is ``"5"``.
    A metric may be anything that compares with a number, as `pytest.approx` does. Tags of
    MLflow's and mltrace's own (``mltrace.output``) and latencies are compared only where they are
    named.
    """
    return RunTree(
        name, status, kind, experiment, texts(params),
        None if metrics is None else dict(metrics),
        texts(tags),
        None if artifacts is None else {
            path: content.encode() if isinstance(content, str) else content for path, content in artifacts.items()
        },
        children if isinstance(children, Unordered) else tuple(children), id, parent_id, start_ms, end_ms,
        record_as, span_type,
    )  # fmt: skip


class Unordered(Sequence[RunTree]):
    """Trees that are compared whatever their order; see `unordered`."""

    def __init__(self, trees: Iterable[RunTree]) -> None:
        self._trees = tuple(trees)

    @overload
    def __getitem__(self, index: int) -> RunTree: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RunTree]: ...
    def __getitem__(self, index: int | slice) -> RunTree | Sequence[RunTree]:
        return self._trees[index]

    def __len__(self) -> int:
        return len(self._trees)

    def __eq__(self, other: object) -> bool:
        forest = None if isinstance(other, RunTree) else _as_forest(other)
        if forest is None:
            return NotImplemented
        return next(_forest_differences(self, forest), None) is None

    __hash__ = None  # type: ignore[assignment] # as that of a `RunTree`

    def __repr__(self) -> str:
        return f"unordered({list(self._trees)!r})"


def unordered(trees: Iterable[RunTree]) -> Unordered:
    """
    Return *trees* as siblings whose order does not count, as those that threads or tasks start.

    For the children of a run, ``run("batch", children=unordered([…]))``, and for root runs,
    ``recorder.runs == unordered([…])``. Each tree must equal one of its own, so two equal ones need
    two; the order of what is below them counts, unless it is said again there.
    """
    return Unordered(trees)


def texts(fields: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return *fields* as mltrace records them; texts stay as they are."""
    if fields is None:
        return None
    return {
        key: value if isinstance(value, str) else _renderer.field(key, value, [])
        for key, value in fields.items()
    }


def recorded(found: RecordedRun) -> RunTree:
    """Return what the memory backend holds of a run as a value that does not change any more."""
    return RunTree(
        found.name, found.status or RUNNING, found.kind, found.experiment, dict(found.params), dict(found.metrics),
        dict(found.tags), dict(found.artifacts), tuple(recorded(child) for child in found.children),
        found.id, found.parent_id, found.start_time, found.end_time,
        TRACE if found.trace is not None else RUN, found.span_type, recorded=True,
    )  # fmt: skip


# Comparing.


def differences(expected: RunTree, actual: RunTree, path: str = "") -> Iterator[str]:
    """Yield a line for each thing that *expected* states and *actual* does not have."""
    here = f"{path}{actual.name}"
    if expected.name != actual.name:
        yield f"{path or 'the run'}: name is {actual.name!r}, expected {expected.name!r}"
    for field in _SCALARS:
        wanted, found = getattr(expected, field), getattr(actual, field)
        if wanted is not None and found is not None and wanted != found and not _is_volatile(expected, field):
            yield f"{here}: {field} is {found!r}, expected {wanted!r}"
    for field in _MAPPINGS:
        wanted, found = getattr(expected, field), getattr(actual, field)
        if wanted is not None and found is not None:
            ignored = {key for key in found if key not in wanted and _is_ours(field, key)}
            yield from _field_differences(f"{here}: {field}", wanted, found, ignored, expected.recorded)
    wanted_names = [child.name for child in expected.children]
    found_names = [child.name for child in actual.children]
    if len(wanted_names) != len(found_names):
        yield f"{here}: children are {found_names}, expected {wanted_names}"
    else:
        for child, other in _pairs(expected.children, actual.children):
            yield from differences(child, other, f"{here} › ")


def _forest_differences(first: Sequence[RunTree], second: Sequence[RunTree]) -> Iterator[str]:
    """Yield a line for each thing by which two forests differ, either of which may be the expected one."""
    if len(first) != len(second):
        yield f"{len(first)} run trees == {len(second)} run trees"
        return
    for one, other in _pairs(first, second):
        yield from differences(*_ordered(one, other))


def _pairs(first: Sequence[RunTree], second: Sequence[RunTree]) -> Iterator[tuple[RunTree, RunTree]]:
    """Pair siblings, as many as there are of each: in their order, or so that as many as can be are equal."""
    if not isinstance(first, Unordered) and not isinstance(second, Unordered):
        yield from zip(first, second, strict=True)
        return
    places = _matching([[place for place, other in enumerate(second) if one == other] for one in first])
    rest = [other for place, other in enumerate(second) if place not in places]
    for one, place in zip(first, places, strict=True):
        if place is not None:
            yield one, second[place]
        else:  # shown beside what differs least
            counts = [sum(1 for _ in differences(*_ordered(one, other))) for other in rest]
            yield one, rest.pop(counts.index(min(counts)))


def _matching(fits: list[list[int]]) -> list[int | None]:
    """
    Return a place for each row, no place twice, for as many rows as can have one of those in *fits*.

    Taking the first free place would not do: a tree that states little may take the only one that
    another equals. So a row that finds none asks the owners of its places to move (Kuhn's algorithm).
    """
    owners: dict[int, int] = {}

    def settle(row: int, asked: set[int]) -> bool:
        free = [place for place in fits[row] if place not in owners]
        for place in free[:1] or fits[row]:
            if place in asked:
                continue
            asked.add(place)
            if place not in owners or settle(owners[place], asked):
                owners[place] = row
                return True
        return False

    for row in range(len(fits)):
        settle(row, set())
    placed = {row: place for place, row in owners.items()}
    return [placed.get(row) for row in range(len(fits))]


def _field_differences(
    where: str, expected: Mapping[str, Any], actual: Mapping[str, Any], ignored: set[str], both: bool
) -> Iterator[str]:
    for key in sorted(expected.keys() | (actual.keys() - ignored)):
        if key not in actual:
            yield f"{where}: {key!r} is missing, expected {_short(expected[key])}"
        elif key not in expected:
            yield f"{where}: {key!r} is {_short(actual[key])}, expected none"
        elif not _same(expected[key], actual[key]) and not (both and key in VOLATILE):
            yield f"{where}: {key!r} is {_short(actual[key])}, expected {_short(expected[key])}"


def _is_volatile(expected: RunTree, field: str) -> bool:
    return expected.recorded and field in _VOLATILE_FIELDS


def _is_ours(field: str, key: str) -> bool:
    return (field == "metrics" and key in VOLATILE) or (field == "tags" and key.startswith(RESERVED))


def _same(expected: Any, actual: Any) -> bool:
    if isinstance(expected, float) and isinstance(actual, float) and math.isnan(expected):
        return math.isnan(actual)
    return bool(expected == actual)


def _ordered(first: RunTree, second: RunTree) -> tuple[RunTree, RunTree]:
    """Return the expected tree, then the other: tests are written in either order."""
    return (second, first) if first.recorded and not second.recorded else (first, second)


def partial_differences(
    tree: RunTree, *, params: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None,
    tags: Mapping[str, Any] | None, **scalars: Any,
) -> list[str]:  # fmt: skip
    """Return a line for each thing that was asked for and that *tree* does not have; it may have more."""
    found = [
        f"{field} is {getattr(tree, field)!r}, expected {wanted!r}"
        for field, wanted in scalars.items()
        if wanted is not None and getattr(tree, field) != wanted
    ]
    for field, wanted in (("params", texts(params)), ("metrics", metrics), ("tags", texts(tags))):
        actual = getattr(tree, field)
        for key, value in (wanted or {}).items():
            if key not in actual:
                found.append(f"{field}: {key!r} is missing, expected {_short(value)}")
            elif not _same(value, actual[key]):
                found.append(f"{field}: {key!r} is {_short(actual[key])}, expected {_short(value)}")
    return found


# Showing.


def explain(operator: str, left: object, right: object) -> list[str] | None:
    """
    Return lines that say how two trees, or two sequences of them, differ; None where that is not
    the question. The pytest plugin shows them below a failed ``assert … == …``.
    """
    first, second = _as_forest(left), _as_forest(right)
    if operator != "==" or first is None or second is None:
        return None
    found = _forest_differences(first, second)
    return ["the run trees differ:", *(f"  {line}" for line in found), *_both(first, second)]


def _as_forest(value: object) -> Sequence[RunTree] | None:
    if isinstance(value, RunTree):
        return [value]
    if isinstance(value, (list, tuple, Unordered)) and all(isinstance(item, RunTree) for item in value):
        return value
    return None


def _both(left: Sequence[RunTree], right: Sequence[RunTree]) -> Iterator[str]:
    for title, forest in (("left:", left), ("right:", right)):
        yield title
        for tree in forest:
            yield from (f"  {line}" for line in _lines(tree))
        if not forest:
            yield "  nothing"


def _lines(tree: RunTree) -> Iterator[str]:
    """Yield the call of `run` that makes an equal tree, one line for each run."""
    shown = [repr(tree.name)]
    if tree.status != "FINISHED":
        shown.append(f"status={tree.status!r}")
    if tree.kind not in (None, "run"):
        shown.append(f"kind={tree.kind!r}")
    if tree.record_as not in (None, RUN):
        shown.append(f"record_as={tree.record_as!r}")
    for field in _MAPPINGS[:3] if tree.recorded else _MAPPINGS:
        fields = getattr(tree, field) or {}
        kept = {key: value for key, value in fields.items() if not (tree.recorded and _is_ours(field, key))}
        if kept:
            pairs = ", ".join(f"{key!r}: {_short(value)}" for key, value in sorted(kept.items()))
            shown.append(f"{field}={{{pairs}}}")
    if not tree.children:
        yield f"run({', '.join(shown)})"
        return
    opening, closing = ("unordered([", "])") if isinstance(tree.children, Unordered) else ("[", "]")
    yield f"run({', '.join(shown)}, children={opening}"
    for child in tree.children:
        *lines, last = _lines(child)
        yield from (f"    {line}" for line in [*lines, f"{last},"])
    yield f"{closing})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
