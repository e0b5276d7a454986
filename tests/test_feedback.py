"""
Feedback on calls: what a run holds of it, from whatever process it comes, however often it is sent, and
what is read back.
"""

from __future__ import annotations

import json
import threading

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

import mltrace

from mltrace import _config
from mltrace._records import Metric
from mltrace.backends import FlushReport
from mltrace.backends.memory import MemoryBackend
from mltrace.exceptions import ConfigurationError, LoggingError
from mltrace.feedback import FeedbackCollector, UserFeedback, log_feedback
from mltrace.testing import record
from tests.harness import CUT, Proxy, on_disk, run_python
from tests.server import MlflowServer


SECRET = "sk-abcdefghijklmnopqrstuvwxyz012345"


@pytest.fixture(name="experiment")
def _experiment(server: MlflowServer, request: pytest.FixtureRequest) -> str:
    """An experiment of this test's own on the server, and this process configured for it, strictly."""
    name = str(request.node.nodeid.partition("::")[2])
    log_to(server.url, name)
    return name


def log_to(uri: str, experiment: str) -> None:
    """Have this process log to *uri* in *experiment*, strictly."""
    mltrace.configure(tracking_uri=uri, experiment_name=experiment, strict=True)


def delivered(timeout: float = 60.0) -> FlushReport:
    """Flush, and fail if something is left."""
    report = mltrace.flush(timeout)
    assert (0, 0) == (report.pending, report.dead), mltrace.status()
    return report


def restart() -> None:
    """Leave everything in the spool, and begin again as another process would."""
    given = dict(_config._given)
    _config.reset()
    mltrace.configure(**given)


def said(tags: dict[str, str]) -> dict[tuple[str, str | None], dict[str, Any]]:
    """Return the feedback in a run's tags by name and source, without its time."""
    found = [json.loads(value) for key, value in tags.items() if key.startswith("feedback.")]
    return {
        (one["name"], one.get("source")): {
            key: one[key] for key in one if key not in ("name", "source", "time")
        }
        for one in found
    }


def history_of(run: mltrace.Run, key: str) -> list[Metric]:
    """Return the points of a metric that the backend in memory has."""
    backend = _config.active().backend
    assert isinstance(backend, MemoryBackend)
    return backend.runs[run.id].history.get(key, [])


def predict(question: str = "What is RAG?", answer: str = "A cloth.", **options: Any) -> mltrace.Run:
    return mltrace.log_prediction(question=question, answer=answer, **options)


class TestOnARun:
    """What the run holds on the server."""

    def test_fields(self, server: MlflowServer, experiment: str) -> None:
        """A rating is a tag with all of it, a metric, and the tag that people read."""
        run = predict()
        assert log_feedback(
            run,
            value=2,
            text="Not a cloth.",
            corrected="Retrieval",
            source="ada",
            timestamp="2026-05-04T10:00:00Z",
        )
        delivered()
        (found,) = server.runs(experiment)

        assert {("rating", "ada"): {"value": 2, "text": "Not a cloth.", "corrected": "Retrieval"}} == said(
            found["tags"]
        )
        assert [{"value": 2.0, "timestamp": 1777888800000, "step": 0}] == server.metric_history(
            found["id"], "feedback.rating"
        )
        assert "rating 2: Not a cloth." == found["tags"]["user_feedback"]
        assert "2026-05-04T10:00:00.000Z" == found["tags"]["mltrace.feedback"]

    def test_twice_is_once(self, server: MlflowServer, experiment: str) -> None:
        """The same feedback twice is one tag and one point of the metric."""
        run = predict()
        for _ in range(3):
            log_feedback(run.id, value=4, text="Good.", source="ada")
        delivered()
        (found,) = server.runs(experiment)

        assert {("rating", "ada"): {"value": 4, "text": "Good."}} == said(found["tags"])
        assert [4.0] == [point["value"] for point in server.metric_history(found["id"], "feedback.rating")]

    def test_a_changed_one_replaces_it(self, server: MlflowServer, experiment: str) -> None:
        """Of one source the last word counts, whole: a text that was not said again is gone."""
        run = predict()
        log_feedback(run, value=5, text="Very good.", source="ada")
        log_feedback(run, value=1, source="ada")
        log_feedback(run, value=3, source="bob")
        log_feedback(run, name="helpful", value=True)
        delivered()
        (found,) = server.runs(experiment)

        assert {
            ("rating", "ada"): {"value": 1},
            ("rating", "bob"): {"value": 3},
            ("helpful", None): {"value": True},
        } == said(found["tags"])
        assert (3.0, 1.0) == (found["metrics"]["feedback.rating"], found["metrics"]["feedback.helpful"])

    def test_the_last_point_counts_within_a_millisecond(self, memory: MemoryBackend) -> None:
        """Changed in the same millisecond, the metric's latest point is the last word, not the larger number."""
        with record():  # the clock stands
            run = predict()
            log_feedback(run, value=5)
            log_feedback(run, value=1)
            points = history_of(run, "feedback.rating")

        assert [5.0, 1.0] == [point.value for point in points]
        assert points[0].timestamp < points[1].timestamp

    def test_long_texts(self, server: MlflowServer, experiment: str) -> None:
        """What does not fit a tag is whole in an artifact, which the tag names, and is read back whole."""
        run = predict()
        text, corrected = 'He said "no".\n' * 800, "é" * 20_000
        log_feedback(run, value=1, text=text, corrected=corrected)
        delivered()
        (found,) = server.runs(experiment)
        held = said(found["tags"])["rating", None]

        assert len(found["tags"]["feedback.rating"]) <= 8_000
        assert corrected == json.loads(server.artifact_text(found["id"], held["whole"]))["corrected"]
        (one,) = FeedbackCollector().load()
        assert (text, corrected, False) == (one.text, one.corrected, one.cut)

    @pytest.mark.parametrize(
        ("value", "held", "metric"),
        [
            (4, 4, 4.0),
            (4.0, 4, 4.0),
            (4.5, 4.5, 4.5),
            (False, False, 0.0),
            ("helpful", "helpful", None),
            (float("nan"), "nan", None),
            ([1, "a"], '[1,"a"]', None),
        ],
        ids=str,
    )
    def test_values(self, memory: MemoryBackend, value: Any, held: Any, metric: float | None) -> None:
        """Numbers are metrics; yes and no are 1 and 0; everything else is kept as a text."""
        run = predict()
        log_feedback(run, value=value)
        found = memory.runs[run.id]

        assert {("rating", None): {"value": held}} == said(found.tags)
        assert metric == found.metrics.get("feedback.rating")

    def test_secrets(self, server: MlflowServer, experiment: str) -> None:
        """Secrets in what was said reach neither the disk nor the server."""
        run = predict()
        log_feedback(run, value=1, text=f"my key {SECRET}", corrected=f"use {SECRET}", source=f"u:{SECRET}")
        log_feedback(run, name="password", value="hunter2hunter2")
        spool = _config.active().settings.spool_dir
        written = on_disk(spool)
        delivered()
        (found,) = server.runs(experiment)

        assert "my key [redacted]" == next(iter(said(found["tags"]).values()))["text"]
        for secret in (SECRET, "hunter2hunter2"):
            assert secret.encode() not in written
            assert secret not in json.dumps(found)


class TestOnATrace:
    """A call that is recorded as a trace."""

    @pytest.fixture(name="traced")
    def _traced(self, server: MlflowServer, experiment: str) -> str:
        mltrace.configure(tracking_uri=server.url, experiment_name=experiment, strict=True, record_as="trace")
        return experiment

    def assessments(self, server: MlflowServer, experiment: str) -> dict[str, list[dict[str, Any]]]:
        """Return what MLflow's own API says of the traces of an experiment, by the name of the trace."""
        body = {
            "locations": [
                {
                    "type": "MLFLOW_EXPERIMENT",
                    "mlflow_experiment": {"experiment_id": server.experiments()[experiment]},
                }
            ]
        }
        status, answer = server._send("POST", "/api/3.0/mlflow/traces/search", json.dumps(body).encode())
        assert 200 == status, answer
        traces = json.loads(answer).get("traces", [])
        return {trace["tags"]["mlflow.traceName"]: trace.get("assessments", []) for trace in traces}

    def test_fields(self, server: MlflowServer, traced: str) -> None:
        """A rating is an assessment of the trace with source, rationale and correction; twice is once."""
        run = predict()
        for call in (run, run.feedback_id, run.feedback_id):
            assert log_feedback(
                call, value=4, text="Good.", corrected="Better.", source="ada", timestamp=1777888800
            )
        delivered()
        (found,) = self.assessments(server, traced)["prediction"]

        assert ("rating", "Good.", {"value": 4.0}, {"source_type": "HUMAN", "source_id": "ada"}) == (
            found["assessment_name"],
            found["rationale"],
            found["feedback"],
            found["source"],
        )
        assert {"corrected": "Better.", "mltrace.feedback": "2026-05-04T10:00:00.000Z"} == found["metadata"]
        assert "span_id" not in found

    def test_a_changed_one_replaces_it(self, server: MlflowServer, traced: str) -> None:
        """The last word of a source counts, whole, also from another process; each source keeps its own."""
        script = """
        import mltrace, sys
        from mltrace.feedback import log_feedback
        mltrace.configure(tracking_uri=sys.argv[1], experiment_name="another", strict=True)
        assert log_feedback(sys.argv[2], value=2, source="ada")
        assert (0, 0) == (mltrace.flush(60).pending, mltrace.flush(1).dead)
        """
        run = predict()
        log_feedback(run, value=5, text="Very good.", corrected="x", source="ada")
        log_feedback(run, value=3, source="bob")
        delivered()
        run_python(script, server.url, run.feedback_id)
        found = {one["source"]["source_id"]: one for one in self.assessments(server, traced)["prediction"]}

        assert {"ada": 2.0, "bob": 3.0} == {source: one["feedback"]["value"] for source, one in found.items()}
        assert ("", "") == (found["ada"].get("rationale", ""), found["ada"]["metadata"]["corrected"])
        assert {("ada", 2, None, None), ("bob", 3, None, None)} == {
            (one.source, one.value, one.text, one.corrected) for one in FeedbackCollector().load()
        }

    def test_a_span_within(self, server: MlflowServer, traced: str) -> None:
        """What is said of a call within a trace is said of its span, beside what is said of the trace."""
        with mltrace.track_run("outer") as outer:
            inner = predict()
        log_feedback(outer, value=1)
        log_feedback(inner, value=5)
        delivered()

        assert {(None, 1.0), (inner.id[:16], 5.0)} == {
            (one.get("span_id"), one["feedback"]["value"])
            for one in self.assessments(server, traced)["outer"]
        }

    @pytest.mark.parametrize("when", ["pending", "delivered", "both"])
    def test_load(self, server: MlflowServer, traced: str, when: str) -> None:
        """The feedback of traces is read with that of runs, from the spool and from MLflow, texts whole."""
        with Proxy(server.port) as proxy:
            mltrace.configure(tracking_uri=proxy.url, experiment_name=traced, strict=True, record_as="trace")
            if when == "pending":
                proxy.fail("v1/traces", CUT)
            run = predict("Why?" * 600, "So." * 900, context="Since.", model_version="3")
            log_feedback(run, value=4, text="Good.")
            if when != "pending":
                delivered()
            if when == "both":
                proxy.fail("assessments", CUT)
            log_feedback(run.feedback_id, value=2, corrected="Better.")
            if when == "delivered":
                delivered()
            (found,) = FeedbackCollector().load()

        assert (run.id, 2, None, "Better.", "Why?" * 600, "So." * 900, "Since.", when != "delivered") == (
            found.call_id,
            found.value,
            found.text,
            found.corrected,
            found.question,
            found.answer,
            found.context,
            found.pending,
        )

    def test_what_was_said_in_mlflow(self, server: MlflowServer, traced: str) -> None:
        """A reviewer's assessment, made in MLflow itself, is feedback too."""
        run = predict()
        delivered()
        body = {
            "assessment": {
                "assessment_name": "rating",
                "source": {"source_type": "HUMAN", "source_id": "eve"},
                "feedback": {"value": 1},
                "rationale": "Bad.",
            }
        }
        status, answer = server._send(
            "POST", f"/api/3.0/mlflow/traces/{run.feedback_id}/assessments", json.dumps(body).encode()
        )
        assert 200 == status, answer

        assert [("eve", 1, "Bad.", run.id)] == [
            (one.source, one.value, one.text, one.call_id) for one in FeedbackCollector().load()
        ]

    def test_in_memory(self, memory: MemoryBackend) -> None:
        """In tests it is on the recorded span, and read from there."""
        mltrace.configure(backend=memory, strict=True, record_as="trace")
        run = predict()
        log_feedback(run.feedback_id, value="good", text="Yes.")

        assert [("good", "Yes.", "What is RAG?")] == [
            (one.value, one.text, one.question) for one in FeedbackCollector().load()
        ]


class TestWhoseCall:
    """From what a call is known."""

    def test_a_call(self, memory: MemoryBackend) -> None:
        """A block's `Call` takes feedback while it is open and when it is over."""
        with mltrace.log_llm_call(model="m", prompt="p") as call:
            log_feedback(call, name="guess", value=0.5)
        log_feedback(call, value=5)

        assert {("guess", None), ("rating", None)} == said(memory.runs[call.id].tags).keys()

    def test_another_process_before_delivery(self, server: MlflowServer, experiment: str) -> None:
        """
        A call that one process left in the spool, and feedback by its id that a second one left there, are
        delivered by a third: once, whoever's records are read first.
        """
        leave = """
        import mltrace, sys
        from mltrace.feedback import log_feedback
        mltrace.configure(tracking_uri=sys.argv[1], experiment_name=sys.argv[2], exit_timeout=0, strict=True)
        if sys.argv[3:]:
            assert log_feedback(sys.argv[3], value=4, source="ada")
        else:
            print(mltrace.log_prediction(question="q", answer="a").id)
        """
        with Proxy(server.port) as proxy:
            proxy.refuse()
            uid = run_python(leave, proxy.url, experiment).stdout.strip()
            run_python(leave, proxy.url, experiment, uid)
            log_to(proxy.url, experiment)
            assert [(uid, 4)] == [(one.call_id, one.value) for one in FeedbackCollector().load()]
            proxy.accept()
            run_python("from mltrace.cli import app; app(['sync'])", MLFLOW_TRACKING_URI=proxy.url)
            (found,) = server.runs(experiment)

        assert {("rating", "ada"): {"value": 4}} == said(found["tags"])

    def test_another_process_after_delivery(self, server: MlflowServer, experiment: str) -> None:
        """Feedback by id from a second process lands on the run that a first one has delivered."""
        script = """
        import mltrace, sys
        from mltrace.feedback import log_feedback
        mltrace.configure(tracking_uri=sys.argv[1], experiment_name=sys.argv[2], strict=True)
        assert log_feedback(sys.argv[3], value=2, source="ada", timestamp=1777888800)
        assert 0 == mltrace.flush(60).pending
        """
        run = predict()
        delivered()
        for _ in range(2):
            run_python(script, server.url, experiment, run.id)
        (found,) = server.runs(experiment)

        assert {("rating", "ada"): {"value": 2}} == said(found["tags"])
        assert 1 == len(server.metric_history(found["id"], "feedback.rating"))

    def test_in_another_experiment(self, server: MlflowServer, experiment: str) -> None:
        """Of a call elsewhere than in the configured experiment, its experiment is named."""
        run = predict(experiment_name=f"{experiment} elsewhere")
        delivered()
        restart()
        log_feedback(run.id, value=3, experiment_name=f"{experiment} elsewhere")
        delivered()

        assert {("rating", None): {"value": 3}} == said(server.runs(f"{experiment} elsewhere")[0]["tags"])

    def test_offline(self, server: MlflowServer, experiment: str) -> None:
        """With the server away, call and feedback wait in the spool, and arrive once when it is back."""
        with Proxy(server.port) as proxy:
            proxy.refuse()
            log_to(proxy.url, experiment)
            run = predict()
            for _ in range(2):
                log_feedback(run.id, value=1, text="bad")
            restart()
            log_feedback(run.id, value=2, text="not so bad")
            assert 0 < mltrace.flush(0.3).pending
            proxy.accept()
            _config.reset()
            log_to(proxy.url, experiment)
            predict("other")
            delivered()
            found = {run["tags"]["mltrace.uid"]: run for run in server.runs(experiment)}

        assert 2 == len(found)
        assert {("rating", None): {"value": 2, "text": "not so bad"}} == said(found[run.id]["tags"])
        assert [1.0, 2.0] == sorted(
            point["value"] for point in server.metric_history(found[run.id]["id"], "feedback.rating")
        )

    @pytest.mark.parametrize(
        "what", ["", "nonsense", "A" * 32, "a" * 31, 7, None, "tr-" + "0" * 31], ids=repr
    )
    def test_no_call(self, memory: MemoryBackend, what: Any) -> None:
        """What is no call's id is not recorded, is said once, and raises in strict mode alone: clients send it."""
        with pytest.raises(LoggingError, match="no call's id"):
            log_feedback(what, value=1)
        mltrace.configure(backend=memory, strict=False)
        assert not log_feedback(what, value=1)
        assert {} == memory.runs

    @pytest.mark.parametrize(
        ("options", "option"),
        [
            ({"value": 1, "name": ""}, "name"),
            ({"value": 1, "name": "x" * 201}, "name"),
            ({"value": 1, "name": 3}, "name"),
            ({"value": 1, "timestamp": "yesterday"}, "timestamp"),
            ({"value": 1, "timestamp": -1}, "timestamp"),
            ({"value": 1, "timestamp": True}, "timestamp"),
            ({"value": 1, "experiment_name": 3}, "experiment_name"),
            ({}, "value"),
        ],
        ids=str,
    )
    def test_wrong_options(self, memory: MemoryBackend, options: dict[str, Any], option: str) -> None:
        """A wrong option raises and is named, though no call is harmed."""
        with pytest.raises(ConfigurationError, match=option):
            log_feedback("a" * 32, **options)

    def test_off(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Switched off, nothing is recorded and no file made."""
        monkeypatch.setenv("MLTRACE_ENABLED", "0")

        assert not log_feedback(predict(), value=1)
        assert not log_feedback("a" * 32, value=1)
        assert FeedbackCollector().save_feedback(UserFeedback(0, "q", "a")) is None
        assert not (tmp_path / "spool").exists()

    def test_nothing_is_asked_of_the_server(self, server: MlflowServer, experiment: str) -> None:
        """The caller's thread appends to the journal and makes no request."""
        with Proxy(server.port) as proxy:
            log_to(proxy.url, experiment)
            caller = threading.get_ident()
            seen: list[int] = []
            handle = proxy.handle
            proxy.handle = lambda request: (seen.append(threading.get_ident()), handle(request))[1]  # type: ignore[method-assign]
            proxy.refuse()
            assert log_feedback(predict(), value=1)
            assert [] == proxy.requests
            assert caller not in seen


class TestManyAtOnce:
    """Threads."""

    def test_each_source_keeps_its_own(self, server: MlflowServer, experiment: str) -> None:
        """Twelve sources that say five things each at the same time have their last word each."""
        run = predict()

        def say(source: int) -> None:
            for value in range(5):
                log_feedback(run.id, value=value, source=f"user {source}")

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(say, range(12)))
        delivered()
        (found,) = server.runs(experiment)

        assert {("rating", f"user {source}"): {"value": 4} for source in range(12)} == said(found["tags"])


words = st.tuples(
    st.sampled_from(["rating", "helpful"]),
    st.sampled_from([None, "ada", "bob"]),
    st.one_of(st.integers(1, 5), st.booleans(), st.text(min_size=1, max_size=30)),
    st.none() | st.text(max_size=20),
)


class TestProperties:
    """Whatever is said, in whatever order, and however often it is sent."""

    @given(st.lists(words, min_size=1, max_size=12), st.data())
    @settings(deadline=None, max_examples=60)
    def test_last_write_wins(self, all_said: list[Any], data: st.DataObject) -> None:
        """
        What is read back is the last word of each name and source, and the metric's latest point is the last
        change; repeating a word changes nothing.
        """
        with record():
            run = predict()
            last: dict[Any, Any] = {}
            changes: dict[str, list[float]] = {"rating": [], "helpful": []}
            for name, source, value, text in all_said:
                for _ in range(data.draw(st.integers(1, 3))):
                    log_feedback(run.id, name=name, value=value, text=text, source=source)
                if last.get((name, source)) != (value, text) and not isinstance(value, str):
                    changes[name].append(float(value))
                last[name, source] = (value, text)
            held = {
                (one.name, one.source): (one.value, one.text)
                for name in ("rating", "helpful")
                for one in FeedbackCollector(name=name).load()
            }
            points = {name: history_of(run, f"feedback.{name}") for name in ("rating", "helpful")}

        assert {key: (type(value), as_held(value), as_held(text)) for key, (value, text) in last.items()} == {
            key: (type(value), value, text) for key, (value, text) in held.items()
        }
        for name, history in points.items():
            latest = [max(history, key=lambda point: (point.timestamp, point.value)).value] if history else []
            assert changes[name][-1:] == latest


def as_held(value: Any) -> Any:
    """Return a text as MLflow takes it; anything else as it is."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


class TestCollector:
    """`FeedbackCollector` and histories."""

    FEEDBACK = UserFeedback(
        "2026-05-04T10:00:00+00:00", "Why?", "So.", ["a.txt", {"page": 3}], 2, "too short", "Because."
    )

    def test_a_prediction_of_its_own(self, server: MlflowServer, experiment: str) -> None:
        """Without a run, feedback makes a prediction with question, answer, sources and its time; twice is once."""
        collector = FeedbackCollector()
        assert collector.save_feedback(self.FEEDBACK) == collector.save_feedback(self.FEEDBACK)
        delivered()
        (found,) = server.runs(experiment)

        assert ("prediction", "prediction", "FINISHED", 1777888800000) == (
            found["name"],
            found["tags"]["mltrace.kind"],
            found["status"],
            found["start_time"],
        )
        assert {"question": "Why?", "sources": '["a.txt",{"page":3}]'} == found["params"]
        assert ("So.", 2.0) == (found["tags"]["mltrace.output"], found["metrics"]["feedback.rating"])

    def test_sampling(self, memory: MemoryBackend) -> None:
        """Feedback is kept with the prediction that it makes, whatever share of calls is recorded."""
        mltrace.configure(backend=memory, strict=True, sample_rate=0)
        assert FeedbackCollector().save_feedback(self.FEEDBACK) in memory.runs

    def test_on_a_run(self, memory: MemoryBackend) -> None:
        """With a run, or its id, the feedback is on that run."""
        run = predict()
        collector = FeedbackCollector()
        assert run.id == collector.save_feedback(self.FEEDBACK, run, source="ada")
        assert run.id == collector.save_feedback(self.FEEDBACK, run.id, source="bob")

        assert {("rating", "ada"), ("rating", "bob")} == said(memory.runs[run.id].tags).keys()
        assert [run.id] == list(memory.runs)

    def test_load(self, server: MlflowServer, experiment: str) -> None:
        """What is on the server and what is pending in the spool are read together, earliest first."""
        collector = FeedbackCollector()
        collector.save_feedback(self.FEEDBACK)
        delivered()
        with Proxy(server.port) as proxy:
            log_to(proxy.url, experiment)
            assert [] == [one for one in collector.load() if one.pending]
            proxy.fail("runs/create", "cut")
            run = predict("How?", "Thus.")
            log_feedback(run, value=4, timestamp="2026-05-04T09:00:00Z")
            history = collector.load()

        assert [("How?", 4, True), ("Why?", 2, False)] == [
            (one.question, one.value, one.pending) for one in history
        ]
        assert (["a.txt", {"page": 3}], "Because.", "So.") == (
            history.feedback[1].sources,
            history.feedback[1].corrected,
            history.feedback[1].answer,
        )
        assert history.complete
        assert "pending in the local spool (1 run)" in history.says

    @pytest.mark.parametrize("when", ["pending", "delivered"])
    def test_said_with_the_prediction(self, server: MlflowServer, experiment: str, when: str) -> None:
        """What `log_prediction` was given is read too, until something is said of the call later."""
        runs = [predict(user_feedback=said) for said in ("helpful", 2, False, "helpful")]
        log_feedback(runs[3], value=5)
        if when == "delivered":
            delivered()
        history = FeedbackCollector().load()

        assert {
            (runs[0].id, None, "helpful"),
            (runs[1].id, 2, None),
            (runs[2].id, False, None),
            (runs[3].id, 5, None),
        } == {(one.call_id, one.value, one.text) for one in history}

    def test_pending_replaces_what_was_delivered(self, server: MlflowServer, experiment: str) -> None:
        """A changed word that is still pending is what is read: it is what the server will have."""
        with Proxy(server.port) as proxy:
            log_to(proxy.url, experiment)
            run = predict()
            log_feedback(run, value=5)
            delivered()
            proxy.fail("runs/log-batch", "cut")
            log_feedback(run, value=1)

            assert [1] == [one.value for one in FeedbackCollector().load()]

    def test_unreachable(self, experiment: str) -> None:
        """Without the server the spool alone is read, and the answer says so."""
        log_to("http://127.0.0.1:9", experiment)
        collector = FeedbackCollector()
        collector.save_feedback(self.FEEDBACK)
        summary = collector.summary()

        assert (1, 2.0, 1, 1.0, 1, {2.0: 1}, False) == (
            summary.count,
            summary.mean_rating,
            summary.negative,
            summary.negative_share,
            summary.corrected,
            summary.by_rating,
            summary.complete,
        )
        assert "from the local spool alone" in summary.says
        assert "cannot be reached" in summary.says

    def test_many(self, server: MlflowServer, experiment: str) -> None:
        """More runs than an answer of the server has are all read."""
        collector = FeedbackCollector()
        for number in range(60):
            collector.save_feedback(
                UserFeedback(1_777_888_800 + number, f"{number}", "a", [], number % 5 + 1)
            )
        delivered(60)
        summary = collector.summary(since=1_777_888_801)

        assert (59, {1.0: 11, 2.0: 12, 3.0: 12, 4.0: 12, 5.0: 12}) == (summary.count, summary.by_rating)
        assert (1_777_888_801_000, 1_777_888_859_000) == (summary.first_ms, summary.last_ms)

    def test_export_and_import(self, server: MlflowServer, experiment: str, tmp_path: Path) -> None:
        """An exported history imports elsewhere as the same, and again as nothing new."""
        mine = FeedbackCollector()
        mine.save_feedback(self.FEEDBACK)
        mine.save_feedback(UserFeedback("2026-05-05T10:00:00Z", "How?", "Thus.", [], 4.5))
        delivered()
        assert 2 == mine.export_history(tmp_path / "history.json")
        elsewhere = f"{experiment} elsewhere"
        assert 2 == FeedbackCollector(elsewhere).import_history(tmp_path / "history.json")
        delivered()

        assert 0 == FeedbackCollector(elsewhere).import_history(tmp_path / "history.json")
        assert 2 == FeedbackCollector(elsewhere).export_history(tmp_path / "again.json")
        assert (tmp_path / "history.json").read_text() == (tmp_path / "again.json").read_text()

    @pytest.mark.parametrize(
        "content",
        [
            '[{"timestamp": "2026-05-04T10:00:00", "question": "q", "answer": "a", "rating": 3, "user": "x"}]',
            '{"version": 1, "feedback": [{"timestamp": 1777888800, "question": "q", "answer": "a", "rating": 3}]}',
            '{"timestamp": 1777888800.5, "question": "q", "answer": "a", "rating": 3}\n\n'
            '{"timestamp": 1777888801, "question": "q", "answer": "a", "rating": 3}\n',
            '{"timestamp": 1777888800000, "question": "q", "answer": "a", "rating": 3, "sources": []}',
        ],
        ids=["list", "mapping", "lines", "one"],
    )
    def test_forms(self, memory: MemoryBackend, tmp_path: Path, content: str) -> None:
        """Histories are lists, mappings with a list, lines, or one object; unknown fields are passed over."""
        path = tmp_path / "history"
        path.write_text(content)
        collector = FeedbackCollector()

        assert content.count("question") == collector.import_history(path)
        assert {3.0} == collector.summary().by_rating.keys()

    @pytest.mark.parametrize(
        ("content", "place"),
        [
            ('[{"timestamp": 1, "question": "q", "answer": "a"}, {"timestamp": 1}]', "entry 2"),
            ('{"timestamp": 1, "question": "q", "answer": "a"}\nnonsense', "line 2"),
            ('[{"timestamp": "never", "question": "q", "answer": "a"}]', "entry 1"),
            ('{"a": [], "b": []}', "more than one"),
            ('[{"timestamp": 1, "question": "q", "answer": "a", "rating": true}]', "entry 1"),
        ],
        ids=["missing", "no json", "timestamp", "two lists", "rating"],
    )
    def test_no_history(self, memory: MemoryBackend, tmp_path: Path, content: str, place: str) -> None:
        """What is no feedback is refused before anything is recorded, and its place is named."""
        path = tmp_path / "history"
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=place):
            FeedbackCollector().import_history(path)
        assert {} == memory.runs

    def test_timestamps(self) -> None:
        """A text, a datetime, seconds and milliseconds name the same moment."""
        moment = datetime(2026, 5, 4, 12, tzinfo=timezone(timedelta(hours=2)))
        forms: list[Any] = [
            "2026-05-04T10:00:00Z",
            "2026-05-04T12:00:00+02:00",
            moment,
            1777888800,
            1777888800000.0,
        ]

        assert {1777888800000} == {UserFeedback(form, "q", "a").time_ms for form in forms}
        assert 1 == len({UserFeedback(form, "q", "a").digest for form in forms})
