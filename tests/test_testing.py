"""What users get for their own tests: recordings that are apart, trees that compare, and a plugin that costs nothing."""

from __future__ import annotations

import ast
import math
import threading

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

import mltrace
import pytest_mltrace

from mltrace import _clock, _config, _guard
from mltrace._clock import new_id
from mltrace._records import ArtifactLogged, Logged, Metric, RunEnded, RunStarted
from mltrace.backends.memory import MemoryBackend
from mltrace.testing import (
    RunTree,
    _limits,
    _recorder,
    explain,
    play,
    record,
    refuse,
    run,
    strategies,
    unordered,
)  # fmt: skip
from tests.harness import ended, logged, run_python, started


pytest_plugins = ["pytester"]


@mltrace.track_run
def inner(x: int) -> int:
    return x


@mltrace.track_run("outer_{x}", tags={"env": "test"})
def outer(x: int) -> int:
    mltrace.log_metric("seen", x)
    return inner(x + 1) + 1


# Trees.


def test_a_recording_is_a_forest_of_values() -> None:
    """What a block did compares with a tree written by hand, in one ``==`` and in either order."""
    with record() as recorder:
        outer(1)
        inner(5)
    expected = [
        run(
            "outer_1",
            params={"x": "1"},
            metrics={"seen": 1, "output": 3},
            tags={"env": "test"},
            children=[run("inner", params={"x": 2}, metrics={"output": pytest.approx(2.0)})],
        ),
        run("inner", params={"x": 5}),
    ]
    assert expected == recorder.runs
    assert recorder.runs == expected


BASE: dict[str, Any] = {
    "params": {"a": "1"},
    "metrics": {"loss": 0.5},
    "tags": {"env": "test"},
    "kind": "run",
    "experiment": "Default",
}


def recorded(**changed: Any) -> RunTree:
    """Return a recorded tree like BASE."""
    options = {**BASE, **changed}
    with (
        record() as recorder,
        mltrace.track_run(
            options.get("name", "r"),
            experiment_name=options["experiment"],
            params=options["params"],
            tags=options["tags"],
        ),
    ):
        mltrace.log_metrics(options["metrics"])
        for _ in options.get("children", []):
            inner(1)
    return recorder.runs[0]


@pytest.mark.parametrize(
    ("stated", "line"),
    [
        ({"name": "other"}, "name is 'r', expected 'other'"),
        ({"status": "FAILED"}, "r: status is 'FINISHED', expected 'FAILED'"),
        ({"kind": "training"}, "r: kind is 'run', expected 'training'"),
        ({"experiment": "e"}, "r: experiment is 'Default', expected 'e'"),
        ({"params": {"a": "2"}}, "r: params: 'a' is '1', expected '2'"),
        ({"params": {}}, "r: params: 'a' is '1', expected none"),
        ({"params": {"a": "1", "b": "2"}}, "r: params: 'b' is missing, expected '2'"),
        ({"metrics": {"loss": 0.25}}, "r: metrics: 'loss' is 0.5, expected 0.25"),
        ({"metrics": {"loss": 0.5, "latency_ms": 7.0}}, "r: metrics: 'latency_ms' is 0.0, expected 7.0"),
        ({"tags": {"env": "test", "mltrace.output": "x"}}, "r: tags: 'mltrace.output' is missing, expected 'x'"),
        ({"children": [run("inner")]}, "r: children are [], expected ['inner']"),
        ({"start_ms": 0}, "r: start_ms is 1767225600000, expected 0"),
        ({"id": "0" * 32}, f"r: id is '{'0' * 15}1{'0' * 15}1', expected '{'0' * 32}'"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_tree_differs_in_what_is_stated(stated: dict[str, Any], line: str) -> None:
    """Each field that is stated otherwise makes trees unequal, and the explanation says which and how."""
    expected, found = run(stated.pop("name", "r"), **stated), recorded()
    assert expected != found
    assert line in "\n".join(explain("==", found, expected) or [])


@pytest.mark.parametrize(
    "stated",
    [{}, BASE, {"start_ms": 1767225600000}, {"metrics": {"loss": 0.5, "latency_ms": 0}}, {"tags": {"env": "test"}}],
    ids=repr,
)  # fmt: skip
def test_a_tree_is_equal_where_nothing_else_is_stated(stated: dict[str, Any]) -> None:
    """What is left out may be anything: ids, times, latencies, tags of mltrace's own."""
    assert run("r", **stated) == recorded()


def test_recorded_trees_compare_in_all_but_ids_and_times() -> None:
    """Two recordings of the same calls are equal, whenever they were made and however long they took."""
    with record() as first:
        outer(1)
    with record(started_ms=0, tick=0.5) as second:
        outer(1)
    assert first.runs == second.runs
    assert recorded() == recorded()
    assert recorded() != recorded(tags={"env": "prod"})
    assert recorded() != recorded(metrics={"loss": math.nan})
    assert recorded(metrics={"loss": math.nan}) == recorded(metrics={"loss": math.nan})


def test_a_deeper_difference_is_found_and_placed() -> None:
    """A difference below the root is said with the path to it."""
    with record() as recorder:
        outer(1)
    expected = run("outer_1", children=[run("inner", params={"x": "9"})])
    assert "outer_1 › inner: params: 'x' is '2', expected '9'" in "\n".join(
        explain("==", recorder.runs[0], expected) or []
    )


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_unordered_siblings_compare_in_any_order(data: st.DataObject) -> None:
    """Children, and root runs, that are said to be unordered equal any order of theirs, and nothing else."""
    trees = data.draw(st.lists(strategies.trees(max_runs=3), max_size=4))
    shuffled = data.draw(st.permutations(trees))
    with record() as recorder:
        for tree in shuffled:
            play(tree)
        play(run("parent", children=shuffled))
    *roots, parent = recorder.runs
    assert unordered(trees) == roots
    assert roots == unordered(trees)
    assert parent == run("parent", children=unordered(trees))
    assert (roots == trees) == (roots == list(trees))
    odd = run("no drawn tree has this name")
    assert roots != unordered([*trees, odd])
    assert [*roots[1:], odd] != unordered(trees) or not trees
    assert parent != run("parent", children=unordered([odd, *trees[1:]])) or not trees


def test_threads_are_compared_whatever_their_order() -> None:
    """Runs that threads start are stated once, without a guess which comes first."""
    barrier = threading.Barrier(3)

    @mltrace.track_run("part")
    def part(number: int) -> None:
        barrier.wait(10)
        inner(number)

    with record() as recorder, mltrace.track_run("batch"), ThreadPoolExecutor(3) as pool:
        list(pool.map(mltrace.wrap(part), range(3)))
    parts = [
        run("part", params={"number": n}, children=[run("inner", params={"x": n})])
        for n in reversed(range(3))
    ]
    assert [run("batch", children=unordered(parts))] == recorder.runs


def test_each_unordered_tree_needs_one_of_its_own() -> None:
    """A tree that states little does not take the only one that another equals; equal trees count."""
    found = [recorded(), recorded(params={"a": "2"})]
    anything, exact = run("r"), run("r", params={"a": "1"})
    for order in ([anything, exact], [exact, anything]):
        assert unordered(order) == found
        assert unordered(order) == found[::-1]
    assert unordered([exact, exact]) != found
    assert unordered([anything, anything]) == found
    assert unordered([anything]) != found
    assert unordered(found) == unordered(found[::-1])
    assert unordered([exact]) != exact


def test_what_no_unordered_tree_equals_is_shown_beside_the_closest() -> None:
    """Of unordered siblings only those that differ are explained, each by what it lacks."""
    found = [recorded(), recorded(params={"a": "2"}), recorded(params={"a": "3"})]
    expected = unordered([run("r", params={"a": "3"}), run("other"), run("r", params={"a": "1"})])
    lines = explain("==", found, expected) or []
    assert ["  the run: name is 'r', expected 'other'"] == [line for line in lines if "expected" in line]
    tree = run("parent", children=expected)
    assert eval(repr(tree), {"run": run, "unordered": unordered}) == tree
    assert eval(repr(expected), {"run": run, "unordered": unordered}) == expected


def test_the_repr_is_the_call_that_makes_an_equal_tree() -> None:
    """What a failed test shows can be pasted into the test."""
    with record() as recorder:
        outer(1)
        with pytest.raises(ZeroDivisionError):
            mltrace.track_run("fails", params={"text": "it's"})(lambda: 1 / 0)()
    for tree in recorder.runs:
        assert eval(repr(tree), {"run": run}) == tree
    assert (
        "run('outer_1', params={'x': '1'}, metrics={'output': 3.0, 'seen': 1.0}, tags={'env': 'test'}, children=[\n"
        "    run('inner', params={'x': '2'}, metrics={'output': 2.0}),\n"
        "])"
    ) == repr(recorder.runs[0])


def test_a_tree_does_not_change() -> None:
    """A tree is the state when it was asked for: what is logged later is in the next one."""
    with record() as recorder, mltrace.track_run("r"):
        before = recorder.runs[0]
        mltrace.log_param("late", 1)
        assert {"late": "1"} == recorder.runs[0].params
    assert ("RUNNING", {}) == (before.status, before.params)
    with pytest.raises(AttributeError):
        before.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        before.params["late"] = "1"  # type: ignore[index]


# Finding and asserting.


def test_a_run_is_found_by_its_name() -> None:
    """`find` goes through all trees; it wants exactly one, and says what there is else."""
    with record() as recorder:
        outer(1)
        inner(1)
    assert {"x": "1"} == recorder.find("outer_1").params
    with pytest.raises(
        AssertionError, match=r"2 runs are called 'inner'; recorded: 'outer_1', 'inner', 'inner'"
    ):
        recorder.find("inner")
    with pytest.raises(AssertionError, match="no run is called 'missing'"):
        recorder.find("missing")


def test_assert_logged_takes_what_has_at_least_that() -> None:
    """The run that has all that is asked for is returned, whatever else it has."""
    with record() as recorder:
        outer(1)
    found = recorder.assert_logged(
        "outer_1", params={"x": 1}, metrics={"seen": 1}, tags={"env": "test"}, status="FINISHED"
    )
    assert recorder.runs[0] == found
    assert "inner" == recorder.assert_logged(params={"x": 2}).name


def test_assert_logged_names_the_closest_run() -> None:
    """Where no run has it, the message shows the one with the fewest differences, and these."""
    with record() as recorder:
        outer(1)
        inner(7)
    with pytest.raises(AssertionError) as caught:
        recorder.assert_logged("inner", params={"x": 8}, status="FINISHED", tags={"env": "prod"})
    assert (
        "no run has params={'x': 8}, tags={'env': 'prod'}, name='inner', status='FINISHED'; the closest is\n"
        "run('inner', params={'x': '2'}, metrics={'output': 2.0})\n"
        "  params: 'x' is '2', expected '8'\n"
        "  tags: 'env' is missing, expected 'prod'"
    ) == str(caught.value)
    with record() as empty, pytest.raises(AssertionError, match="nothing was logged"):
        empty.assert_logged("inner")


# Time and ids.


def test_the_clock_stands_until_it_is_told() -> None:
    """A run lasts as long as the test says, and begins and ends when the recorder's clock does."""
    with record(started_ms=1000) as recorder:
        with mltrace.track_run("slow"):
            recorder.clock.advance(1.5)
        inner(1)
    slow, fast = recorder.runs
    assert (1000, 2500, 1500.0) == (slow.start_ms, slow.end_ms, (slow.metrics or {})["latency_ms"])
    assert (2500, 2500, 0.0) == (fast.start_ms, fast.end_ms, (fast.metrics or {})["latency_ms"])
    assert 2500 == recorder.clock.now_ms
    with pytest.raises(ValueError, match="cannot go back"):
        recorder.clock.advance(-1)


def test_the_clock_can_tick() -> None:
    """With a tick every run takes time, the same in each recording."""
    with record(tick=0.25) as recorder:
        inner(1)
        inner(1)
    assert [250.0, 250.0] == [(tree.metrics or {})["latency_ms"] for tree in recorder.runs]
    assert [0, 750] == [(tree.start_ms or 0) - _recorder.STARTED_MS - 250 for tree in recorder.runs]


def test_ids_are_the_same_in_each_recording() -> None:
    """Ids count, so that a test can name them; a carrier made of one is valid W3C Trace Context."""
    ids = []
    for _ in range(2):
        with record() as recorder, mltrace.track_run("r") as opened:
            ids.append(opened.id)
            [_, trace, span, _] = mltrace.carrier()["traceparent"].split("-")
            assert (32, 16, True) == (len(trace), len(span), int(span, 16) > 0)
        assert ids[-1] == recorder.runs[0].id
    assert ids == ["0000000000000001" * 2] * 2


def test_a_run_from_before_is_not_timed_by_the_fake_clock() -> None:
    """A run that is open outside goes on in its own backend, with the time that really passes."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, strict=True)
    with mltrace.track_run("outside") as outside:
        with record() as recorder:
            inner(1)
            outside.log_metric("m", 1)
            recorder.clock.advance(3600)
        assert outside is mltrace.current_run()
    assert ["inner"] == [tree.name for tree in recorder.runs]
    assert [None] == [tree.parent_id for tree in recorder.runs]
    assert ({"m", "latency_ms"}, []) == (memory.roots[0].metrics.keys(), memory.roots[0].children)
    assert 0 <= memory.roots[0].metrics["latency_ms"] < 60_000


# Isolation.


def state() -> tuple[Any, ...]:
    """Return everything of mltrace's that a recording may not change for good."""
    return (
        *(
            _config._given,
            _config._forced,
            _config._enabled,
            _config._active,
            _config._retired,
            list(_config._retired),
        ),
        *(_guard.strict, set(_guard._said), dict(_guard._errors)),
        *(_clock.elapsed_ns, _clock.wall_ns, _clock.run_id, _clock.chance, mltrace.current_run().id),
    )


def configure_in_between() -> None:
    mltrace.configure(experiment_name="e", sample_rate=0.5, tracking_uri="http://nowhere.invalid")
    inner(1)


def log_nonsense() -> None:
    with pytest.raises(mltrace.LoggingError):
        mltrace.log_metric("outside", 1)


@pytest.mark.parametrize("before", ["nothing", "configured", "active", "journal", "off"])
@pytest.mark.parametrize(
    "within",
    [
        lambda: inner(1),
        configure_in_between,
        log_nonsense,
        mltrace.shutdown,
        lambda: mltrace.start_run("left open"),
    ],
    ids=["calls", "configures", "fails", "shuts down", "leaves open"],
)
def test_everything_is_as_before(tmp_path: Path, before: str, within: Callable[[], Any]) -> None:
    """Settings, backends, messages, clock and current run are the same objects after the block."""
    if before == "configured":
        mltrace.configure(experiment_name="mine", redact_keys=["badge"])
    elif before == "active":
        mltrace.configure(backend=MemoryBackend(), strict=True)
        inner(0)
    elif before == "journal":
        mltrace.configure(spool_dir=tmp_path / "a", tracking_uri="http://nowhere.invalid")
        inner(0)
        mltrace.configure(spool_dir=tmp_path / "b", tracking_uri="http://nowhere.invalid")
        inner(0)
    elif before == "off":
        mltrace.configure(enabled=False)
    found = state()
    with record():
        within()
    assert found == state()


def test_a_failing_test_restores_too() -> None:
    """The block's own exception leaves it as it is, after everything was restored."""
    found = state()
    with pytest.raises(ValueError, match="mine"), record():
        raise ValueError("mine")
    assert found == state()


def test_a_wrong_option_changes_nothing() -> None:
    """An option that cannot be used is refused as `configure` refuses it."""
    found = state()
    with pytest.raises(mltrace.ConfigurationError, match="sample_rate"), record(sample_rate=2):
        pass
    assert found == state()


def test_recording_goes_on_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches that are set where tests run, and a program that configures itself, do not stop a recording."""
    monkeypatch.setenv("MLTRACE_ENABLED", "0")
    monkeypatch.setenv("MLTRACE_SAMPLE_RATE", "0")
    monkeypatch.setenv("MLTRACE_BACKEND", "noop")
    with record() as recorder:
        inner(1)
        mltrace.configure(tracking_uri="http://nowhere.invalid", experiment_name="e")
        inner(2)
        mltrace.configure(enabled=False)
        inner(3)
    assert [("Default", {"x": "1"}), ("e", {"x": "2"})] == [
        (tree.experiment, tree.params) for tree in recorder.runs
    ]


def test_the_programs_redaction_is_recorded() -> None:
    """What the program configured is in force in the block, unless the block says otherwise."""
    mltrace.configure(redact_keys=["badge"])
    hello = mltrace.track_run("hello")(lambda badge: None)
    with record() as recorder:
        hello("b-17")
    with record(redact_keys=[]) as open_recorder:
        hello("b-17")
    assert ([run("hello", params={"badge": "[redacted]"})], [run("hello", params={"badge": "b-17"})]) == (
        recorder.runs,
        open_recorder.runs,
    )


def test_recordings_nest() -> None:
    """An inner recording has what happens in it, and the outer one goes on after it."""
    with record() as first:
        inner(1)
        with mltrace.track_run("open"), record() as second:
            inner(2)
        inner(3)
    assert [run("inner", params={"x": 1}), run("open"), run("inner", params={"x": 3})] == first.runs
    assert [run("inner", params={"x": 2})] == second.runs


def test_threads_that_record_take_turns() -> None:
    """Recordings of many threads have each its own runs and nothing of the others'."""

    def work(number: int) -> list[RunTree]:
        barrier.wait(10)
        with record() as recorder:
            for _ in range(5):
                inner(number)
        return recorder.runs

    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert [[run("inner", params={"x": number})] * 5 for number in range(4)] == found


def test_a_thread_that_waits_for_ever_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording within another thread's says what to do, and does not hang."""
    monkeypatch.setattr(_recorder, "TURN_SECONDS", 0.05)

    def nested() -> None:
        with record():
            pass

    with (
        record(),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(mltrace.ConfigurationError, match="needs none of its own"),
    ):
        pool.submit(nested).result(10)


def test_threads_of_the_program_are_recorded() -> None:
    """What a program's own threads do in the block is in the recording, under the run that was carried there."""
    with record() as recorder, mltrace.track_run("batch"), ThreadPoolExecutor(4) as pool:
        list(pool.map(mltrace.wrap(inner), [1] * 20))
    assert [run("batch", children=[run("inner", params={"x": 1})] * 20)] == recorder.runs


def test_clear_forgets() -> None:
    """After `clear` the recorder has nothing, and an open run still takes what is logged to it."""
    with record() as recorder:
        inner(1)
        with mltrace.track_run("open"):
            recorder.clear()
            mltrace.log_param("a", 1)
            assert [] == recorder.runs


def test_a_run_of_another_process_is_known() -> None:
    """A worker that attaches to a run elsewhere logs to it, and nests under it."""
    with record(), mltrace.track_run("elsewhere"):
        carrier = mltrace.carrier()
    with record() as recorder, mltrace.attach(carrier):
        mltrace.log_param("host", "b")
        inner(1)
    assert [run("remote", status="RUNNING", params={"host": "b"}, children=[run("inner")])] == recorder.runs


# MLflow's limits.

TEXT = "x" * 10_000
NOW = 1_767_225_600_000


@pytest.mark.parametrize(
    ("record_", "words"),
    [
        (started(name="x" * 251), "name has 251"),
        (started(experiment=" "), "experiment"),
        (started(params={"a": "x" * 6001}), "6001 characters; 6000"),
        (started(tags={"a": "x" * 8001}), "8001 characters; 8000"),
        (started(params={"k" * 251: ""}), "251 characters; 250"),
        (started(params={"MAP@k": ""}), "not allowed"),
        (started(params={"a//b": ""}), "no path"),
        (started(params={"": ""}), "or none"),
        (started(tags={"a": "\ud800"}), "no Unicode"),
        (started(tags={"a": "\0"}), "NUL"),
        (started(time=-1), "no time"),
        (logged("0" * 32, metrics=(Metric("m", math.nan, NOW),)), "no number"),
        (logged("0" * 32, metrics=(Metric("m", "many", NOW),)), "text 'many'"),
        (logged("0" * 32, metrics=(Metric("m", 1.0, NOW, 1 << 63),)), "64 bits"),
        (logged("0" * 32, metrics=(Metric("m", 1.0, -1),)), "no time"),
        (logged("0" * 32, metrics=(Metric("../m", 1.0, NOW),)), "no path"),
        (ended("0" * 32, status="DONE"), "'DONE'"),
        (ArtifactLogged(run="0" * 32, time=NOW, path="../x", text=""), "no path"),
    ],
    ids=lambda case: case if type(case) is str else type(case).__name__,
)  # fmt: skip
def test_what_mlflow_refuses_is_refused(record_: Any, words: str) -> None:
    """A record over one of MLflow's limits raises, with a sentence that says which."""
    with pytest.raises(mltrace.LoggingError, match=words):
        refuse(record_, {})


@pytest.mark.parametrize(
    "again", [Logged(run="", time=0, params={"a": "2"}), RunEnded(run="", time=0, status="FAILED")]
)
def test_what_cannot_be_said_twice_is_refused(again: Any) -> None:
    """A param that changes, and a second end, raise where the recorder gets them."""
    import msgspec

    backend, uid = _recorder.RecordingBackend(), new_id()
    backend.emit(RunStarted(run=uid, time=0, name="r", experiment="e", params={"a": "1"}))
    backend.emit(Logged(run=uid, time=0, params={"a": "1", "b": "1"}))
    backend.emit(RunEnded(run=uid, time=0, status="FINISHED"))
    with pytest.raises(mltrace.LoggingError, match=r"written once|ended before"):
        backend.emit(msgspec.structs.replace(again, run=uid))


def test_the_limits_are_mlflows() -> None:
    """The numbers written down are those of the MLflow that is installed."""
    from mlflow.utils import validation

    assert (
        validation.MAX_PARAM_VAL_LENGTH,
        validation.MAX_TAG_VAL_LENGTH,
        validation.MAX_ENTITY_KEY_LENGTH,
    ) == (
        _limits.PARAM_LENGTH,
        _limits.TAG_LENGTH,
        _limits.KEY_LENGTH,
    )
    assert validation.MAX_EXPERIMENT_NAME_LENGTH == _limits.EXPERIMENT_LENGTH


def test_a_recording_is_strict() -> None:
    """What production would adjust raises in a recording; with ``strict=False`` it is adjusted as there."""
    for strict in (True, False):
        with record(strict=strict) as recorder, mltrace.track_run("r") as opened:
            if strict:
                with pytest.raises(mltrace.LoggingError, match="not a number"):
                    opened.log_metric("m", "many")  # type: ignore[arg-type]
            else:
                opened.log_metric("m", "many")  # type: ignore[arg-type]
        assert ({} if strict else {"m": "many"}).items() <= (recorder.runs[0].tags or {}).items()


# The plugin.

SUITE = """
import mltrace
from mltrace.testing import run

@mltrace.track_run
def hello(name):
    return len(name)

def test_records(mltrace_recorder):
    hello("Ada")
    assert mltrace_recorder.runs == [run("hello", params={"name": "Ada"})]

def test_starts_with_nothing(mltrace_recorder):
    assert mltrace_recorder.runs == []

def test_differs(mltrace_recorder):
    hello("Ada")
    assert mltrace_recorder.runs == [run("hello", params={"name": "Bob"})]
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "xdist"])
def test_the_fixture_records_and_explains(pytester: pytest.Pytester, workers: list[str]) -> None:
    """Each test has a recording of its own, in one process or many, and a failure is a readable tree."""
    pytester.makepyfile(SUITE)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", *workers)
    done.assert_outcomes(passed=2, failed=1)
    done.stdout.fnmatch_lines(
        [
            "E * the run trees differ:",
            "E * hello: params: 'name' is 'Ada', expected 'Bob'",
            "E * run('hello', params={'name': 'Ada'}, metrics={'output': 3.0})",
        ]
    )


def test_the_plugin_is_registered() -> None:
    """pytest finds the plugin by its entry point."""
    from importlib.metadata import entry_points

    assert ["pytest_mltrace"] == [
        entry.value for entry in entry_points(group="pytest11") if entry.name == "mltrace"
    ]


def test_the_plugin_imports_nothing_of_mltrace(pytester: pytest.Pytester) -> None:
    """A run of pytest in which no test asks for the fixture does not import mltrace, Hypothesis' strategies or MLflow."""
    pytester.makepyfile(
        """
        import sys
        def test_nothing():
            heavy = {"mltrace", "mltrace.testing", "mlflow", "msgspec", "wrapt"} & set(sys.modules)
            assert "pytest_mltrace" in sys.modules and heavy == set()
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    tree = ast.parse(Path(pytest_mltrace.__file__).read_text())
    imported = {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert {"__future__", "collections.abc", "sys", "typing", "pytest"} == imported


def test_the_plugin_is_imported_in_no_time() -> None:
    """Beside pytest itself the plugin's import takes less than 5 ms, its file read and compiled included."""
    done = run_python(
        """
        import collections.abc, sys, time, typing, pytest
        began = time.process_time()
        import pytest_mltrace
        print(time.process_time() - began)
        """
    )
    assert float(done.stdout) < 0.005


def test_recording_needs_neither_pytest_nor_hypothesis() -> None:
    """`record` works where neither is installed; what needs Hypothesis says what to install."""
    done = run_python(
        """
        import sys
        sys.modules.update(dict.fromkeys(["pytest", "hypothesis"]))
        import mltrace
        from mltrace.testing import record, run
        with record() as recorder:
            mltrace.track_run("r")(lambda: None)()
        assert recorder.runs == [run("r")]
        for name in ("strategies", "contracts"):
            try:
                __import__(f"mltrace.testing.{name}")
            except mltrace.MissingExtra as error:
                print(error)
        """
    )
    assert 2 == done.stdout.count("pip install 'mltrace-mlflow[test]'")
