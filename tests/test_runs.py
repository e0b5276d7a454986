"""What is logged to a run is on it once and as it was; logging outside any run records nothing."""

from __future__ import annotations

import asyncio
import contextvars
import json
import math
import threading

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypothesis import example, given, settings
from hypothesis import strategies as st

import mltrace

from mltrace import _clock
from mltrace._records import RunEnded
from mltrace.backends.memory import MemoryBackend, RecordedRun
from tests.harness import shown


def only(memory: MemoryBackend) -> RecordedRun:
    [run] = memory.roots
    return run


def points(run: RecordedRun, key: str) -> list[tuple[int, Any]]:
    return [(point.step, point.value) for point in run.history[key]]


@pytest.fixture(name="lenient")
def _lenient() -> MemoryBackend:
    """Record into memory as in production: misuse is warned of, not raised."""
    backend = MemoryBackend()
    mltrace.configure(backend=backend)
    return backend


# What a run is.


def test_a_run_knows_itself(memory: MemoryBackend) -> None:
    """A run's id, parent, name, kind and experiment are usable at once, and are those of the record."""
    with mltrace.track_run("outer", experiment_name="e") as outer, mltrace.track_run("inner") as inner:
        assert 32 == len(inner.id)
        assert set(inner.id) <= set("0123456789abcdef")
        assert (outer.id, "inner", "run", "e", outer.id) == (
            inner.parent_id,
            inner.name,
            inner.kind,
            inner.experiment,
            inner.trace_id,
        )
        assert (None, outer.id) == (outer.parent_id, outer.trace_id)
        assert inner.id in repr(inner)
    [recorded] = only(memory).children
    assert (inner.id, outer.id, "inner", "run", "e") == (
        recorded.id,
        recorded.parent_id,
        recorded.name,
        recorded.kind,
        recorded.experiment,
    )


def test_ids_do_not_depend_on_the_programs_seed(memory: MemoryBackend) -> None:
    """A program that seeds `random` twice gets two ids."""
    import random

    ids = set()
    for _ in range(2):
        random.seed(0)
        with mltrace.track_run("run") as run:
            ids.add(run.id)
    assert 2 == len(ids)


def test_a_run_can_be_waited_for(memory: MemoryBackend) -> None:
    """`wait` says whether the run is delivered, and `mlflow_run_id` is its id there."""
    with mltrace.track_run("run") as run:
        pass
    assert (True, run.id) == (run.wait(1), run.mlflow_run_id)


# Every method, and the module functions of the same names.

LOGGING: dict[str, tuple[Callable[[Any], None], Callable[[RecordedRun], Any], Any]] = {
    "log_param": (lambda to: to.log_param("k", 5), lambda run: run.params, {"k": "5"}),
    "log_params": (
        lambda to: to.log_params({"a": [1], "b": None}),
        lambda run: run.params,
        {"a": "[1]", "b": "None"},
    ),
    "log_metric": (
        lambda to: to.log_metric("loss", 0.5, step=3),
        lambda run: points(run, "loss"),
        [(3, 0.5)],
    ),
    "log_metrics": (
        lambda to: to.log_metrics({"a": 1, "b": 2.5}, step=1),
        lambda run: points(run, "a") + points(run, "b"),
        [(1, 1.0), (1, 2.5)],
    ),
    "set_tag": (lambda to: to.set_tag("t", True), lambda run: run.tags["t"], "True"),
    "set_tags": (
        lambda to: to.set_tags({"t": "x", "u": 1}),
        lambda run: (run.tags["t"], run.tags["u"]),
        ("x", "1"),
    ),
    "log_text": (
        lambda to: to.log_text("täxt", "a/b.txt"),
        lambda run: run.artifacts["a/b.txt"].decode(),
        "täxt",
    ),
    "log_dict": (
        lambda to: to.log_dict({"a": [1, None]}, "a.json"),
        lambda run: json.loads(run.artifacts["a.json"]),
        {"a": [1, None]},
    ),
}


@pytest.mark.parametrize(("log", "read", "expected"), LOGGING.values(), ids=LOGGING)
def test_what_is_logged_is_on_the_run(
    memory: MemoryBackend, log: Callable[[Any], None], read: Callable[[RecordedRun], Any], expected: Any
) -> None:
    """Each method records what it is given."""
    with mltrace.track_run("run") as run:
        log(run)
    assert expected == read(only(memory))


@pytest.mark.parametrize(("log", "read", "expected"), LOGGING.values(), ids=LOGGING)
def test_module_functions_act_on_the_current_run(
    memory: MemoryBackend, log: Callable[[Any], None], read: Callable[[RecordedRun], Any], expected: Any
) -> None:
    """The functions of the same names log to the innermost run."""
    with mltrace.track_run("outer"), mltrace.track_run("inner"):
        log(mltrace)
    [inner] = only(memory).children
    assert expected == read(inner)


@pytest.mark.parametrize(("log", "read", "expected"), LOGGING.values(), ids=LOGGING)
def test_a_run_that_has_ended_can_still_be_logged_to(
    memory: MemoryBackend, log: Callable[[Any], None], read: Callable[[RecordedRun], Any], expected: Any
) -> None:
    """An evaluation that comes later is recorded on the run that it is about, which stays as it ended."""
    with mltrace.track_run("run") as run:
        pass
    log(run)
    assert (expected, "FINISHED") == (read(only(memory)), only(memory).status)


def test_a_run_can_be_logged_to_from_any_thread(memory: MemoryBackend) -> None:
    """A run object works in threads that do not carry it, and no point of any thread is lost."""
    with mltrace.track_run("run") as run:
        threads = [
            threading.Thread(
                target=lambda n: [run.log_metric(f"m{n}", step, step) for step in range(50)], args=(n,)
            )
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [list(range(50))] * 4 == [[step for step, _ in points(only(memory), f"m{n}")] for n in range(4)]


# Params.


def test_a_param_logged_again_with_the_same_value_is_nothing(memory: MemoryBackend) -> None:
    """MLflow's params are write-once, and the same value again is no conflict."""
    with mltrace.track_run("run", params={"k": 5}) as run:
        run.log_param("k", 5)
        run.log_param("k", "5")
    assert ({"k": "5"}, []) == (only(memory).params, [tag for tag in only(memory).tags if "changed" in tag])


def test_a_changed_param_becomes_a_tag(lenient: MemoryBackend, said: list[str]) -> None:
    """The first value stays, as in MLflow; the new one is kept as a tag, and one warning says so."""
    with mltrace.track_run("run", params={"k": 5}) as run:
        run.log_params({"k": 6, "other": 1})
        run.log_param("k", 7)
    assert ({"k": "5", "other": "1"}, "7") == (only(lenient).params, only(lenient).tags["mltrace.changed.k"])
    assert 1 == len(said)
    assert "'k'" in said


def test_a_changed_param_raises_in_strict_mode(memory: MemoryBackend) -> None:
    """In tests a conflict is an error."""
    with mltrace.track_run("run", params={"k": 5}) as run, pytest.raises(mltrace.LoggingError, match="'k'"):
        run.log_param("k", 6)


def test_an_argument_can_conflict_with_a_param(lenient: MemoryBackend) -> None:
    """Captured arguments are params like others: the first value stays."""

    @mltrace.track_run
    def call(k: int) -> None:
        mltrace.log_param("k", k + 1)

    call(1)
    assert ({"k": "1"}, "2") == (only(lenient).params, only(lenient).tags["mltrace.changed.k"])


@pytest.mark.parametrize(
    ("method", "limit", "folder"), [("log_param", 6_000, "params"), ("set_tag", 8_000, "tags")]
)
def test_a_long_value_is_kept_whole(memory: MemoryBackend, method: str, limit: int, folder: str) -> None:
    """What a param or tag cannot hold is an artifact, which the field names with length and hash."""
    text = "é" * 20_000
    with mltrace.track_run("run") as run:
        getattr(run, method)("long", text)
    recorded = {**only(memory).params, **only(memory).tags}["long"]
    assert len(recorded) <= limit
    assert "[20000 characters, sha256 " in recorded
    assert f"whole in {folder}/long.txt]" in recorded
    assert text == only(memory).artifacts[f"{folder}/long.txt"].decode()


# Every run has a latency of its own.
any_key = st.text(st.characters(), max_size=12).filter(lambda key: key != "latency_ms")


@given(st.lists(any_key, min_size=1, max_size=6, unique=True))
@settings(deadline=None, max_examples=60)
def test_no_key_loses_its_value(keys: list[str]) -> None:
    """Whatever the keys, each value has a param, a tag and a metric of its own."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, strict=True, redact=False)
    with mltrace.track_run("run", capture_input=False) as run:
        run.log_params({key: number for number, key in enumerate(keys)})
        run.set_tags({key: number for number, key in enumerate(keys)})
        run.log_metrics({key: number for number, key in enumerate(keys)})
    expected = sorted(range(len(keys)))
    assert expected == sorted(int(value) for value in only(memory).params.values())
    assert expected == sorted(int(value) for value in only(memory).tags.values())
    assert expected == sorted(
        int(value) for key, value in only(memory).metrics.items() if key != "latency_ms"
    )


# Metrics.


def test_a_metric_has_steps(memory: MemoryBackend) -> None:
    """Points of one key are kept in order; a step is 0 where none is given, and may be negative."""
    with mltrace.track_run("run") as run:
        run.log_metric("loss", 3)
        for step in (2, 1, -5, 2**63 - 1):
            run.log_metric("loss", 0.5, step=step)
    assert [(0, 3.0), (2, 0.5), (1, 0.5), (-5, 0.5), (2**63 - 1, 0.5)] == points(only(memory), "loss")


def test_a_metric_has_a_time(memory: MemoryBackend) -> None:
    """A point has the time that it is given, else the present within the run's."""
    with mltrace.track_run("run") as run:
        run.log_metric("loss", 1, timestamp=1_700_000_000_000)
        run.log_metric("loss", 2)
    found = only(memory)
    given_time, own_time = [point.timestamp for point in found.history["loss"]]
    assert 1_700_000_000_000 == given_time
    assert found.start_time <= own_time <= (found.end_time or 0)


many_points = st.lists(
    st.tuples(
        st.sampled_from([0.5, 1.0, math.nan, math.inf]),
        st.sampled_from([0, 1]),
        st.sampled_from([100, 101, 102, 200]),
    ),
    max_size=12,
)


@given(many_points)
@example([(1.0, 0, 100)] * 3 + [(1.0, 0, 101)])
@example([(1.0, 0, 100), (1.0, 0, 200), (1.0, 0, 100)])
@settings(deadline=None, max_examples=200)
def test_no_two_points_of_a_metric_are_equal(logged: list[tuple[float, int, int]]) -> None:
    """MLflow stores equal points once: each gets a time of its own, not before the one it was given."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, strict=True)
    with mltrace.track_run("run") as run:
        for value, step, timestamp in logged:
            run.log_metric("m", value, step, timestamp)
    history = only(memory).history.get("m", [])
    assert len(logged) == len({(point.step, str(point.value), point.timestamp) for point in history})
    assert [(step, str(value).lower()) for value, step, _ in logged] == [
        (point.step, {"NaN": "nan", "Infinity": "inf"}.get(str(point.value), str(point.value)))
        for point in history
    ]
    assert [] == [
        point for point, (*_, timestamp) in zip(history, logged, strict=True) if point.timestamp < timestamp
    ]


@pytest.mark.parametrize("first", ["short", "long"])
def test_both_ways_of_logging_know_of_each_other(memory: MemoryBackend, first: str) -> None:
    """A point logged the short way of a training loop and an equal one logged the long way stay two, in either order."""
    with mltrace.track_run("loop") as run:
        run.log_metric("loss", 0.0, 0)  # from the second on it is the short way
        for _ in range(200):
            if first == "short":
                run.log_metric("loss", 1.0, 1)
            run.log_metrics({"loss": 1.0}, 1)
            if first == "long":
                run.log_metric("loss", 1.0, 1)
    points = [(point.step, point.value, point.timestamp) for point in memory.roots[0].history["loss"]]
    assert 401 == len(points) == len(set(points))


def test_equal_points_of_one_moment_stay_distinct(memory: MemoryBackend) -> None:
    """A loop that logs the same value many times within a millisecond loses none."""
    with mltrace.track_run("run") as run:
        for _ in range(500):
            run.log_metric("ones", 1)
    assert 500 == len({point.timestamp for point in only(memory).history["ones"]})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((True, 1.0), (False, 0.0), (np.float32(0.5), 0.5), (np.int64(3), 3.0), (np.array(2), 2.0)),
        *((math.inf, "Infinity"), (-math.inf, "-Infinity"), (math.nan, "NaN")),
    ],
    ids=repr,
)  # fmt: skip
def test_any_number_is_a_metric(memory: MemoryBackend, value: Any, expected: Any) -> None:
    """Truth values, numpy's numbers, and NaN and the infinities as MLflow's JSON has them, are points."""
    with mltrace.track_run("run") as run:
        run.log_metric("m", value)
    assert [(0, expected)] == points(only(memory), "m")


@pytest.mark.parametrize(
    "value", ["high", None, [1, 2], 10**400, 1j], ids=["text", "none", "list", "huge", "complex"]
)
def test_what_is_no_number_becomes_a_tag(lenient: MemoryBackend, said: list[str], value: Any) -> None:
    """A value that is no metric is kept as a tag of that key, the others are logged; one warning says so."""
    with mltrace.track_run("run") as run:
        run.log_metrics({"odd": value, "good": 1})
        run.log_metric("odd", value)
    assert [(0, 1.0)] == points(only(lenient), "good")
    assert only(lenient).tags["odd"]
    assert 1 == len(said)
    assert "'odd'" in said


def test_what_is_no_number_raises_in_strict_mode(memory: MemoryBackend) -> None:
    """In tests a metric that is none is an error."""
    with mltrace.track_run("run") as run, pytest.raises(mltrace.LoggingError, match="'odd'"):
        run.log_metric("odd", "high")  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [1.5, "3", 2**63, None, math.nan, object()], ids=shown)
def test_a_step_that_is_no_integer_does_not_lose_the_point(lenient: MemoryBackend, step: Any) -> None:
    """What MLflow refuses as a step is recorded as 0."""
    with mltrace.track_run("run") as run:
        run.log_metric("m", 1, step=step)
    assert [(0, 1.0)] == points(only(lenient), "m")


@pytest.mark.parametrize("step", [np.int64(3), 3.0, True + 2], ids=repr)
def test_a_step_may_be_any_whole_number(memory: MemoryBackend, step: Any) -> None:
    """Numbers that are whole are steps, whatever their type."""
    with mltrace.track_run("run") as run:
        run.log_metric("m", 1, step=step)
    assert [(3, 1.0)] == points(only(memory), "m")


# Artifacts.


def test_a_large_text_is_kept_whole(memory: MemoryBackend) -> None:
    """Texts of any size are artifacts, and are not cut."""
    with mltrace.track_run("run") as run:
        run.log_text("é" * 3_000_000, "large.txt")
    assert "é" * 3_000_000 == only(memory).artifacts["large.txt"].decode()


def test_a_text_may_be_anything(memory: MemoryBackend) -> None:
    """What UTF-8 cannot hold is replaced, what is no text becomes one."""
    with mltrace.track_run("run") as run:
        run.log_text("\udc00\0a", "a.txt")
        run.log_text(5, "b.txt")  # type: ignore[arg-type]
    assert ("a", b"5") == (
        only(memory).artifacts["a.txt"].decode().strip("\ufffd"),
        only(memory).artifacts["b.txt"],
    )


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "..", "a/../../b", "c:\\windows"])
def test_an_artifact_stays_within_its_run(memory: MemoryBackend, path: str) -> None:
    """A path that leads out of the run's artifacts is mapped to one that does not."""
    with mltrace.track_run("run") as run:
        run.log_text("text", path)
    [recorded] = only(memory).artifacts
    assert (False, False) == (recorded.startswith("/"), ".." in recorded.split("/"))


class Figure:
    """A figure as matplotlib's, as far as saving goes."""

    def savefig(self, target: Any, format: str) -> None:  # noqa: A002 # matplotlib's name
        target.write(f"picture as {format}".encode())


class PlotlyFigure:
    """A figure as plotly's."""

    def to_html(self, include_plotlyjs: str) -> str:
        return "<html>"

    def to_image(self, format: str) -> bytes:  # noqa: A002 # plotly's name
        return f"picture as {format}".encode()


@pytest.mark.parametrize(
    ("figure", "path", "expected"),
    [
        *((Figure(), "a/loss.png", b"picture as png"), (Figure(), "loss.SVG", b"picture as svg")),
        *((PlotlyFigure(), "loss.html", b"<html>"), (PlotlyFigure(), "loss.png", b"picture as png")),
    ],
)  # fmt: skip
def test_a_figure_is_a_picture(memory: MemoryBackend, figure: Any, path: str, expected: bytes) -> None:
    """The suffix chooses the format; both the method and the function take figures."""
    with mltrace.track_run("run") as run:
        run.log_figure(figure, path)
        mltrace.log_figure(figure, f"again/{path}")
    assert {path: expected, f"again/{path}": expected} == only(memory).artifacts


def test_a_figure_that_cannot_be_saved_does_not_reach_the_caller(
    lenient: MemoryBackend, said: list[str]
) -> None:
    """A failing figure is warned of; the run goes on."""
    with mltrace.track_run("run") as run:
        run.log_figure(object(), "a.png")
    assert "FINISHED" == only(lenient).status
    assert 1 == len(said)


@pytest.mark.parametrize("to", ["run", "module"])
@pytest.mark.parametrize(
    ("folder", "expected"), [(None, "model.bin"), ("models", "models/model.bin"), ("a/b/", "a/b/model.bin")]
)
def test_a_file_is_copied_as_it_is(
    memory: MemoryBackend, tmp_path: Path, to: str, folder: str | None, expected: str
) -> None:
    """The artifact is the file at the moment of the call: what becomes of the file later does not matter."""
    file = tmp_path / "model.bin"
    file.write_bytes(bytes(range(256)))
    with mltrace.track_run("run") as run:
        (run if to == "run" else mltrace).log_artifact(file, folder)  # type: ignore[attr-defined]
        file.unlink()
    assert {expected: bytes(range(256))} == only(memory).artifacts


def test_a_directory_is_copied_with_its_files(memory: MemoryBackend, tmp_path: Path) -> None:
    """Every file below a directory is an artifact under the directory's name."""
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep" / "b.txt").write_text("b")
    with mltrace.track_run("run") as run:
        run.log_artifact(str(folder) + "/")
        run.log_artifact(folder, "kept")
    expected = {
        "model/a.txt": b"a",
        "model/deep/b.txt": b"b",
        "kept/model/a.txt": b"a",
        "kept/model/deep/b.txt": b"b",
    }
    assert expected == only(memory).artifacts


def test_a_file_that_is_missing_is_said(lenient: MemoryBackend, said: list[str]) -> None:
    """There is nothing to log, and the program goes on."""
    with mltrace.track_run("run") as run:
        run.log_artifact("missing.bin")
    assert ({}, "FINISHED") == (only(lenient).artifacts, only(lenient).status)
    assert "missing.bin" in said


def test_a_file_that_is_missing_raises_in_strict_mode(memory: MemoryBackend) -> None:
    """In tests a missing file is an error."""
    with mltrace.track_run("run") as run, pytest.raises(mltrace.LoggingError, match=r"missing\.bin"):
        run.log_artifact("missing.bin")


# The end.


def ends(memory: MemoryBackend) -> list[str]:
    """Return the statuses of the ends that are emitted from now on."""
    found: list[str] = []
    emit = memory.emit

    def watch(record: Any) -> None:
        end = record if isinstance(record, RunEnded) else getattr(record, "end", None)
        if end is not None:
            found.append(end.status)
        emit(record)

    memory.emit = watch  # type: ignore[method-assign]
    return found


def test_only_the_first_end_counts(memory: MemoryBackend) -> None:
    """A run that ends itself within its block is not ended again by the block."""
    seen = ends(memory)
    with mltrace.track_run("run") as run:
        run.end("FAILED")
        run.end()
    run.end("KILLED")
    assert (["FAILED"], "FAILED") == (seen, only(memory).status)


def test_two_threads_end_a_run_once(memory: MemoryBackend) -> None:
    """However many threads end a run at the same time, one does."""
    seen = ends(memory)
    barrier = threading.Barrier(4)
    for _ in range(20):
        run = mltrace.start_run("run")

        def end(run: Any = run) -> None:
            barrier.wait()
            run.end()

        threads = [threading.Thread(target=end) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run.end()
    assert ["FINISHED"] * 20 == seen


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_with_the_status_given(memory: MemoryBackend, status: str) -> None:
    """`end` takes MLflow's three final statuses."""
    mltrace.start_run("run").end(status)
    assert status == only(memory).status


@pytest.mark.parametrize("status", ["finished", "RUNNING", "", None, 5])
def test_an_unknown_status_is_a_failure(lenient: MemoryBackend, said: list[str], status: Any) -> None:
    """A status that MLflow does not know does not leave the run open; the warning names the known ones."""
    mltrace.start_run("run").end(status)
    assert "FAILED" == only(lenient).status
    assert "FINISHED, FAILED, KILLED" in said


# Runs by hand.


def test_a_run_by_hand_is_current_until_its_end(memory: MemoryBackend) -> None:
    """Calls between `start_run` and `end` are its children, and what was current before is current again."""
    with mltrace.track_run("outer") as outer:
        run = mltrace.start_run("by hand", params={"k": 5}, tags={"t": "x"})
        assert run is mltrace.current_run()
        mltrace.track_run(int)(1)
        run.end()
        assert outer is mltrace.current_run()
    [recorded] = only(memory).children
    assert ("by hand", "FINISHED", {"k": "5"}, "x", ["int"]) == (
        recorded.name,
        recorded.status,
        recorded.params,
        recorded.tags["t"],
        [child.name for child in recorded.children],
    )


def test_a_run_by_hand_is_a_context_manager(memory: MemoryBackend) -> None:
    """``with start_run(…)`` ends it, with the block's exception if there is one."""
    with mltrace.start_run("good") as run:
        assert run is mltrace.current_run()
    with pytest.raises(ValueError, match="no"), mltrace.start_run("bad"):
        raise ValueError("no")
    assert [("good", "FINISHED"), ("bad", "FAILED")] == [(found.name, found.status) for found in memory.roots]
    assert not mltrace.current_run()


def test_end_run_ends_the_run_by_hand(memory: MemoryBackend) -> None:
    """The module function ends the current one, and outside any run does nothing."""
    mltrace.start_run("run")
    mltrace.end_run("FAILED")
    mltrace.end_run()
    assert ("FAILED", False) == (only(memory).status, bool(mltrace.current_run()))


def cell(source: str) -> Callable[[dict[str, Any]], None]:
    """Return *source* as a cell of a notebook: module-level code that can be run again."""
    code = compile(source, f"<cell {hash(source)}>", "exec")
    return lambda names: exec(code, names)


def test_the_same_cell_again_closes_the_run_before(memory: MemoryBackend) -> None:
    """A cell that is run again ends the run that it started as FINISHED; the second is no child of it."""
    names: dict[str, Any] = {"mltrace": mltrace}
    start = cell("run = mltrace.start_run('cell')\nmltrace.log_param('k', 5)")
    start(names)
    first = names["run"]
    start(names)
    second = names["run"]
    assert (False, True) == (first.is_open, second.is_open)
    second.end()
    assert [("FINISHED", None)] * 2 == [(run.status, run.parent_id) for run in memory.roots]


def test_two_lines_are_two_runs(memory: MemoryBackend) -> None:
    """Runs started at different lines nest; only the same line closes what it opened."""
    names: dict[str, Any] = {"mltrace": mltrace}
    cell("outer = mltrace.start_run('outer')\ninner = mltrace.start_run('inner')")(names)
    assert (True, names["outer"].id) == (names["outer"].is_open, names["inner"].parent_id)
    names["inner"].end()
    names["outer"].end()
    assert [(0, "outer"), (1, "inner")] == [(depth, run.name) for depth, run in only(memory).walk()]


def test_a_loop_in_a_function_opens_many(memory: MemoryBackend) -> None:
    """Within functions the same line may open several runs: only cells are run again."""
    runs = [mltrace.start_run(f"run {number}") for number in range(2)]
    assert [True, True] == [run.is_open for run in runs]
    for run in reversed(runs):
        run.end()
    assert ["run 0", "run 1"] == [run.name for _, run in only(memory).walk()]


def test_a_cells_run_is_current_in_other_cells(memory: MemoryBackend) -> None:
    """Notebooks may run each cell in a context of its own: the run is current there too, and travels."""
    names: dict[str, Any] = {"mltrace": mltrace}
    contextvars.Context().run(cell("run = mltrace.start_run('cell')"), names)
    found = contextvars.Context().run(lambda: (mltrace.current_run(), mltrace.carrier()))
    contextvars.Context().run(mltrace.track_run(int), 1)
    names["run"].end()
    assert names["run"] is found[0]
    assert names["run"].id == found[1].get("mltrace-run")
    assert ["cell", "int"] == [run.name for _, run in only(memory).walk()]
    assert not mltrace.current_run()


# Outside any run.

SILENCE: list[Callable[[], object]] = [
    lambda: mltrace.log_param("k", 1),
    lambda: mltrace.log_params({"k": 1}),
    lambda: mltrace.log_metric("m", 1),
    lambda: mltrace.log_metrics({"m": 1}, step=1),
    lambda: mltrace.set_tag("t", 1),
    lambda: mltrace.set_tags({"t": 1}),
    lambda: mltrace.log_text("text", "a.txt"),
    lambda: mltrace.log_dict({}, "a.json"),
    lambda: mltrace.log_figure(Figure(), "a.png"),
    lambda: mltrace.log_artifact("missing.bin"),
]


def test_logging_outside_any_run_records_nothing_and_warns_once(
    lenient: MemoryBackend, said: list[str]
) -> None:
    """No stray runs: whatever is logged outside is dropped, with one warning in all."""
    for log in SILENCE * 2:
        log()
    assert {} == lenient.runs
    assert 1 == len(said)
    assert "outside any run" in said


@pytest.mark.parametrize("log", SILENCE, ids=range(len(SILENCE)))
def test_logging_outside_any_run_raises_in_strict_mode(
    memory: MemoryBackend, log: Callable[[], object]
) -> None:
    """In tests it is an error."""
    with pytest.raises(mltrace.LoggingError, match="outside any run"):
        log()
    assert {} == memory.runs


def test_the_run_where_there_is_none_is_inert(memory: MemoryBackend) -> None:
    """`current_run` always gives a run: false in a condition, not in MLflow, never to be waited for."""
    run = mltrace.current_run()
    assert (False, None, True, "none") == (bool(run), run.mlflow_run_id, run.wait(0), run.name)
    run.end()
    with run:
        assert not mltrace.current_run()
    assert {} == memory.runs


def test_logging_when_switched_off_is_silent(lenient: MemoryBackend, said: list[str]) -> None:
    """What was switched off on purpose is not warned of."""
    mltrace.configure(backend=lenient, enabled=False)
    for log in SILENCE:
        log()
    with mltrace.track_run("run") as run:
        run.log_metric("m", 1)
    assert not mltrace.start_run("run")
    assert ({}, 0) == (lenient.runs, len(said))


# Nothing of mltrace's reaches the caller.


@pytest.mark.parametrize(
    "log",
    [
        lambda run: run.log_params(None),
        lambda run: run.log_params([1]),
        lambda run: run.log_metrics("m"),
        lambda run: run.set_tags(5),
        lambda run: run.log_text("text", None),
        lambda run: run.log_text("text", 5),
        lambda run: run.log_dict({}, b"a"),
        lambda run: run.log_artifact(None),
        lambda run: run.log_artifact("a", 5),
        lambda run: run.log_metric(None, None),
    ],
    ids=range(10),
)
def test_arguments_of_a_wrong_type_do_not_reach_the_caller(
    lenient: MemoryBackend, said: list[str], log: Callable[[Any], None]
) -> None:
    """A mistake in logging costs that record, not the program; a warning says so."""
    with mltrace.track_run("run") as run:
        log(run)
    assert "FINISHED" == only(lenient).status
    assert 1 == len(said)


def test_a_task_ends_its_run_where_the_loop_stops(memory: MemoryBackend) -> None:
    """A task that the loop cancels at its end leaves no run open."""

    async def main() -> None:
        started = asyncio.Event()

        async def work() -> None:
            with mltrace.track_run("task"):
                started.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(work())
        await started.wait()
        assert not task.done()

    asyncio.run(main())
    assert "KILLED" == only(memory).status


def test_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is put aside between the readings of the two clocks reads both again."""
    readings = iter([0, 5_000_000, 6_000_000, 6_000_100])
    monkeypatch.setattr(_clock, "elapsed_ns", lambda: next(readings))

    assert 6_000_000 == _clock.moment()[1]


def test_runs_by_hand_end_in_any_order(memory: MemoryBackend) -> None:
    """When runs by hand end in the order of their beginning none of them stays current."""
    first, second = mltrace.start_run("first"), mltrace.start_run("second")
    first.end()
    assert mltrace.current_run() is second
    second.end()

    assert not mltrace.current_run()
