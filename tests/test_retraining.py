"""
Retraining: when the rule says so and why, what the training set has, and what MLflow holds of it.
"""

from __future__ import annotations

import json

from datetime import timedelta
from typing import Any

import pandas as pd
import pytest

import mltrace

from mltrace._records import Dataset
from mltrace.backends.memory import MemoryBackend
from mltrace.exceptions import ConfigurationError
from mltrace.feedback import RetrainingPipeline, RetrainingRule, log_feedback
from mltrace.feedback._rule import decide
from tests.harness import CUT, Proxy, run_python
from tests.server import MlflowServer
from tests.test_feedback import SECRET, delivered, log_to, predict


DAY = 86_400_000
NOW = 1_777_888_800_000


@pytest.fixture(name="experiment")
def _experiment(server: MlflowServer, request: pytest.FixtureRequest) -> str:
    """An experiment of this test's own on the server, and this process configured for it, strictly."""
    name = str(request.node.nodeid.partition("::")[2])
    log_to(server.url, name)
    return name


def rated(*ratings: float, days: float = 0) -> list[tuple[int, float]]:
    """Return *ratings* given *days* ago."""
    return [(NOW - round(days * DAY), rating) for rating in ratings]


RULE = RetrainingRule(min_count=4, max_mean_rating=3.5, min_negative_share=0.5, max_age=10)


class TestRule:
    """`decide`, at and beside each boundary."""

    @pytest.mark.parametrize(
        ("rule", "given", "fired"),
        [
            (RULE, [], ()),
            (RULE, rated(1, 1, 1), ()),  # one too few, however bad and old
            (RULE, rated(1, 1, 1, days=99), ()),
            (RULE, rated(1, 1, 1, 1), ("mean", "negatives")),
            (RULE, rated(3, 4, 3, 4), ("mean",)),  # 3.5, the limit itself
            (RULE, rated(3, 4, 3, 4.01), ()),
            (
                RULE,
                rated(2, 2, 5, 5.01),
                ("negatives",),
            ),  # half, the limit itself, with 2 as negative; mean 3.5025
            (RULE, rated(2, 2.01, 5, 5.01), ()),
            (RULE, rated(2, 2, 5, 5, 5), ()),
            (RULE, rated(5, 5, 5) + rated(5, days=10), ("age",)),  # ten days to the millisecond
            (RULE, [*rated(5, 5, 5), (NOW - 10 * DAY + 1, 5.0)], ()),
            (RULE, rated(1, 1, 1, 1, days=11), ("mean", "negatives", "age")),
            (
                RetrainingRule(min_count=1, max_mean_rating=None, min_negative_share=None, max_age=None),
                rated(1),
                (),
            ),
            (RetrainingRule(min_count=1, max_mean_rating=None, max_age=None), rated(3), ()),
            (
                RetrainingRule(min_count=1, min_negative_share=0, max_mean_rating=None),
                rated(5),
                ("negatives",),
            ),
            (RetrainingRule(min_count=1, negative_rating=3, max_mean_rating=None), rated(3), ("negatives",)),
            (RetrainingRule(min_count=1, max_age=timedelta(hours=1)), rated(5, days=1 / 24), ("age",)),
            (RetrainingRule(min_count=1, max_age=0), rated(5), ("age",)),
            (RetrainingRule(), rated(*[1] * 49), ()),
            (RetrainingRule(), rated(*[1] * 50), ("mean", "negatives")),
            (RetrainingRule(), rated(*[5] * 70, *[1] * 30), ("negatives",)),
            (RetrainingRule(), rated(*[5] * 71, *[1] * 29), ()),
            (RetrainingRule(), rated(*[5] * 50, days=90), ("age",)),
            (RetrainingRule(), rated(*[5] * 50, days=89.9), ()),
        ],
    )
    def test_which_fires(
        self, rule: RetrainingRule, given: list[tuple[int, float]], fired: tuple[str, ...]
    ) -> None:
        """Below the minimum count nothing fires; else a threshold that is reached does, its own value included."""
        decision = decide(rule, given, NOW)

        assert (fired, bool(fired), len(given)) == (decision.rules, bool(decision), decision.count)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ([], "do not retrain: at least 4 ratings are needed (0 ratings so far)"),
            (
                rated(5, 5, 5, 5),
                "do not retrain: no threshold is reached (4 ratings so far, mean 5.00, 0% negative)",
            ),
            (
                rated(1, 1, 5, 5, days=12),
                "retrain: the mean rating is 3.00, at most 3.5 is the limit; 50% of the ratings are 2 or less,"
                " 50% is the limit; feedback has waited for 12.0 days, 10 is the limit"
                " (4 ratings so far, mean 3.00, 50% negative)",
            ),
        ],
        ids=["too few", "well", "not well"],
    )
    def test_words(self, given: list[tuple[int, float]], words: str) -> None:
        """The decision says which rule fired, and the numbers."""
        assert words == decide(RULE, given, NOW).says

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("min_count", 0),
            ("min_count", 1.5),
            ("min_count", True),
            ("max_mean_rating", "3"),
            ("max_mean_rating", float("nan")),
            ("min_negative_share", 1.1),
            ("min_negative_share", -0.1),
            ("max_age", -1),
            ("max_age", timedelta(days=-1)),
            ("negative_rating", None),
            ("best_rating", 0),
            ("experiment_name", 3),
        ],
    )
    def test_wrong_thresholds(self, option: str, value: Any) -> None:
        """A threshold that cannot be one raises at once, and is named."""
        with pytest.raises(ConfigurationError, match=option):
            RetrainingPipeline(**{option: value})


def say(*ratings: float | None, **options: Any) -> list[mltrace.Run]:
    """Record a prediction for each of *ratings*, and that rating on it."""
    runs = []
    for number, rating in enumerate(ratings):
        run = predict(
            f"Question {number}?", f"Answer {number}.", model_version="v1", context=f"Context {number}"
        )
        log_feedback(run, **{"value": rating, "source": "ada", **options})
        runs.append(run)
    return runs


PIPELINE: dict[str, Any] = {"min_count": 3, "max_age": None}


class TestDecision:
    """`RetrainingPipeline.should_retrain`, over a server and over a spool."""

    def test_since_the_last_retraining(self, server: MlflowServer, experiment: str) -> None:
        """What a retraining has used counts no more; what was said since does."""
        pipeline = RetrainingPipeline(**PIPELINE)
        say(1, 2, 1)
        delivered()
        assert ("mean", "negatives") == pipeline.should_retrain().rules
        pipeline.prepare_retraining_data()
        assert (False, 0) == (
            pipeline.should_retrain().retrain,
            pipeline.should_retrain().count,
        )  # it is pending
        delivered()
        assert 0 == pipeline.should_retrain().count
        say(1, 2, 2)
        decision = pipeline.should_retrain()

        assert (True, 3) == (decision.retrain, decision.count)
        assert "3 ratings since the last retraining (20" in decision.says

    @pytest.mark.parametrize(("failed", "count"), [(False, 0), (True, 3)])
    def test_a_failed_training_uses_nothing_up(
        self, server: MlflowServer, experiment: str, failed: bool, count: int
    ) -> None:
        """Logged to a training run that fails, the feedback counts again."""
        pipeline = RetrainingPipeline(**PIPELINE)
        say(1, 2, 1)

        @mltrace.log_training_run("train")
        def train() -> None:
            assert mltrace.current_run().id == pipeline.prepare_retraining_data().attrs["run"]
            if failed:
                raise ValueError("no")

        try:
            train()
        except ValueError:
            assert failed
        assert count == pipeline.should_retrain().count
        delivered()
        assert count == pipeline.should_retrain().count

    def test_pending_counts(self, server: MlflowServer, experiment: str) -> None:
        """Feedback that has not been delivered counts like what has, once."""
        with Proxy(server.port) as proxy:
            log_to(proxy.url, experiment)
            (first,) = say(1)
            delivered()
            proxy.fail("runs/", CUT)
            log_feedback(first, value=2, source="ada")
            log_feedback(first, value=2, source="bob")
            proxy.heal()
            proxy.fail("runs/log-batch", CUT)
            proxy.fail("runs/create", CUT)
            say(2)
            decision = RetrainingPipeline(**PIPELINE).should_retrain()

        assert (3, 2.0, True) == (decision.count, decision.mean_rating, decision.complete)

    def test_unreachable(self, experiment: str) -> None:
        """Without the server the decision is over the spool alone, and says so."""
        log_to("http://127.0.0.1:9", experiment)
        say(1, 1, 1)
        decision = RetrainingPipeline(**PIPELINE).should_retrain()

        assert (True, False) == (decision.retrain, decision.complete)
        assert "from the local spool alone, which has not all" in decision.says

    def test_another_name(self, memory: MemoryBackend) -> None:
        """Feedback of another name, and what is no number, does not count; yes and no are 1 and 0."""
        say(1, 1, name="speed")
        say("bad")
        say(None, text="hm")
        say(True, False, False, name="helpful")
        decision = RetrainingPipeline(name="helpful", negative_rating=0, **PIPELINE).should_retrain()

        assert 0 == RetrainingPipeline(**PIPELINE).should_retrain().count
        assert (3, 2 / 3) == (decision.count, decision.negative_share)


class TestFrame:
    """`RetrainingPipeline.prepare_retraining_data`."""

    def test_rows(self, memory: MemoryBackend) -> None:
        """Each thing said is a row, with its call, its target and its weight."""
        say(4, timestamp=NOW)
        say(2, timestamp=NOW + 1)
        say(1, corrected="Right.", text="wrong", timestamp=NOW + 2)
        say(None, corrected="Better.", timestamp=NOW + 3)
        say(True, timestamp=NOW + 4)
        say(False, timestamp=NOW + 5)
        (run,) = say("good", timestamp=NOW + 6)
        frame = RetrainingPipeline().prepare_retraining_data()

        assert [
            (4.0, "Answer 0.", 0.8),
            (2.0, None, 0.0),
            (1.0, "Right.", 1.0),
            (None, "Better.", 1.0),
            (1.0, "Answer 0.", 1.0),
            (0.0, None, 0.0),
            (None, None, 0.0),
        ] == [
            (None if pd.isna(row.rating) else row.rating, row.target, row.weight)
            for row in frame.itertuples()
        ]
        last = frame.iloc[-1]
        assert ("Question 0?", "Context 0", "Answer 0.", "v1", "ada", run.id, run.id) == tuple(
            last[["question", "context", "answer", "model_version", "source", "call_id", "run_id"]]
        )
        assert pd.Timestamp(NOW + 6, unit="ms", tz="UTC") == last["time"]
        assert ("wrong", "Right.") == tuple(frame.iloc[2][["feedback_text", "corrected_answer"]])

    def test_on_the_server(self, server: MlflowServer, experiment: str) -> None:
        """A run of kind retraining has the dataset as its input, once, the frame as an artifact, and the numbers."""
        (first,), (second,) = say(1, corrected="Right.", timestamp=NOW), say(5, corrected="Right.")
        delivered()
        frame = RetrainingPipeline(**PIPELINE).prepare_retraining_data(dataset_name="photo questions")
        delivered()
        (found,) = [run for run in server.runs(experiment) if run["tags"]["mltrace.kind"] == "retraining"]
        (used,) = server.rest("runs/get", run_id=found["id"])["run"]["inputs"]["dataset_inputs"]

        assert ("retraining", "FINISHED", frame.attrs["run"]) == (
            found["name"],
            found["status"],
            found["tags"]["mltrace.uid"],
        )
        assert ("photo questions", "code") == (used["dataset"]["name"], used["dataset"]["source_type"])
        assert [{"key": "mlflow.data.context", "value": "training"}] == used["tags"]
        assert {"num_rows": 2, "num_elements": 2 * len(frame.columns)} == json.loads(
            used["dataset"]["profile"]
        )
        assert list(frame.columns) == [
            column["name"] for column in json.loads(used["dataset"]["schema"])["mlflow_colspec"]
        ]
        rows = [
            json.loads(line)
            for line in server.artifact_text(found["id"], "retraining/data.jsonl").splitlines()
        ]
        assert [("Question 0?", "Right.", 1.0), ("Question 0?", "Right.", 5.0)] == [
            (row["question"], row["target"], row["rating"]) for row in rows
        ]
        assert [first.mlflow_run_id, second.mlflow_run_id] == [row["run_id"] for row in rows]
        assert (2.0, 2.0, 3.0) == tuple(
            found["metrics"][f"feedback.{name}"] for name in ("rows", "corrected", "mean_rating")
        )
        assert "3" == found["params"]["feedback.min_count"]

    @pytest.mark.parametrize("name", ["retrain", "feedback of an earlier start"])
    def test_pending_of_a_run_that_started_earlier(
        self, server: MlflowServer, experiment: str, name: str
    ) -> None:
        """Of a run whose start is delivered, what is pending is read: the mark, and feedback."""
        with Proxy(server.port) as proxy:
            log_to(proxy.url, experiment)
            say(1, 1)
            with mltrace.log_training_run(name) as run:
                delivered()
                proxy.fail("runs/log-batch", CUT)
                if name == "retrain":
                    RetrainingPipeline(**PIPELINE).prepare_retraining_data()
                else:
                    log_feedback(run, value=1)
                assert {"retrain": 0}.get(name, 3) == RetrainingPipeline(**PIPELINE).should_retrain().count

    def test_under_a_trace(self, memory: MemoryBackend) -> None:
        """Where the current call is a span, the training set is logged to a run of its own."""
        mltrace.configure(backend=memory, strict=True, record_as="trace")
        say(1)
        with mltrace.track_run("nightly") as nightly:
            frame = RetrainingPipeline().prepare_retraining_data()
            assert mltrace.current_run() is nightly
        run = memory.runs[frame.attrs["run"]]

        assert ("retraining", None, None, 1) == (run.kind, run.trace, run.parent_id, len(run.datasets))

    def test_mlflow_reads_the_dataset(self, server: MlflowServer, experiment: str) -> None:
        """MLflow's own client knows schema and source of the dataset that is logged."""
        say(1)
        RetrainingPipeline().prepare_retraining_data()
        delivered()
        script = """
        import sys, warnings
        warnings.simplefilter("ignore")
        import mlflow
        mlflow.set_tracking_uri(sys.argv[1])
        (run,) = mlflow.search_runs(experiment_names=[sys.argv[2]], output_format="list",
                                    filter_string="tags.`mltrace.kind` = 'retraining'")
        (used,) = run.inputs.dataset_inputs
        print(type(mlflow.data.get_source(used)).__name__)
        from mlflow.types import Schema
        print(Schema.from_json(__import__("json").dumps(__import__("json").loads(used.dataset.schema)["mlflow_colspec"])).input_names()[:2])
        """
        done = run_python(script, server.url, experiment)

        assert ["CodeDatasetSource", "['question', 'context']"] == done.stdout.splitlines()

    def test_offline(self, server: MlflowServer, experiment: str) -> None:
        """Without the server the frame has what is in the spool; it and its dataset arrive later, once."""
        with Proxy(server.port) as proxy:
            log_to(proxy.url, experiment)
            proxy.refuse()
            say(1, 2)
            frame = RetrainingPipeline(**PIPELINE).prepare_retraining_data()
            assert (2, False) == (len(frame), frame.attrs["complete"])
            assert [None, None] == list(frame["run_id"])
            proxy.accept()
            proxy.fail("runs/log-inputs", "lost", times=1)
            delivered(40)
            (found,) = [run for run in server.runs(experiment) if run["tags"]["mltrace.kind"] == "retraining"]

        assert 1 == len(server.rest("runs/get", run_id=found["id"])["run"]["inputs"]["dataset_inputs"])
        assert ["retraining/data.jsonl"] == server.artifacts(found["id"])

    def test_long_texts_are_whole(self, server: MlflowServer, experiment: str) -> None:
        """Questions, contexts, answers and corrections that do not fit their fields are in the frame whole."""
        texts = [f"{name} " * 3_000 for name in ("question", "context", "answer", "corrected")]
        run = predict(texts[0], texts[2], context=texts[1])
        log_feedback(run, value=1, corrected=texts[3])
        delivered()
        frame = RetrainingPipeline().prepare_retraining_data()

        assert texts == list(frame.iloc[0][["question", "context", "answer", "target"]])
        assert not frame["cut"].any()

    def test_a_remark_of_the_users_own(self, server: MlflowServer, experiment: str) -> None:
        """A text that ends like mltrace's remark on a cut text leads to no file, and is kept as it is."""
        text = "… [9 characters, sha256 0123456789abcdef, whole in ../../../../etc/passwd]"
        log_feedback(predict(text, text), value=1, corrected=text)
        delivered()
        frame = RetrainingPipeline().prepare_retraining_data()

        assert [text] * 3 == list(frame.iloc[0][["question", "answer", "target"]])

    def test_nothing_said(self, server: MlflowServer, experiment: str) -> None:
        """Without feedback the frame is empty, with its columns, and nothing is logged."""
        frame = RetrainingPipeline().prepare_retraining_data()

        assert (0, "question", None) == (len(frame), frame.columns[0], frame.attrs["run"])
        delivered()
        assert [] == server.runs(experiment)

    def test_again(self, server: MlflowServer, experiment: str) -> None:
        """With `since` feedback that was used before is prepared again."""
        say(1, 2, timestamp=NOW)
        say(3, timestamp=NOW + 1000)
        pipeline = RetrainingPipeline()
        assert [3, 0, 3, 1] == [
            len(pipeline.prepare_retraining_data(since=since)) for since in (None, None, NOW, NOW + 1)
        ]

    def test_secrets(self, memory: MemoryBackend) -> None:
        """What was hidden when it was said is hidden in the training set."""
        say(1, corrected=f"the key is {SECRET}")
        frame = RetrainingPipeline().prepare_retraining_data()

        assert SECRET not in frame.to_csv()
        assert all(
            SECRET.encode() not in content
            for run in memory.runs.values()
            for content in run.artifacts.values()
        )

    def test_the_memory_backend_keeps_the_dataset(self, memory: MemoryBackend) -> None:
        """In tests the dataset is on the recorded run."""
        say(1)
        frame = RetrainingPipeline().prepare_retraining_data()
        (dataset,) = memory.runs[frame.attrs["run"]].datasets

        assert isinstance(dataset, Dataset)
        assert "feedback" == dataset.name

    def test_without_pandas(self) -> None:
        """Where pandas is missing, the message says what to install, and the decision works all the same."""
        script = """
        import sys
        sys.modules["pandas"] = None
        import mltrace
        from mltrace.feedback import RetrainingPipeline
        mltrace.configure(backend="memory")
        print(RetrainingPipeline().should_retrain().says)
        try:
            RetrainingPipeline().prepare_retraining_data()
        except mltrace.MissingExtra as error:
            print(error)
        """
        lines = run_python(script).stdout.splitlines()

        assert "do not retrain" in lines[0]
        assert "install mltrace-mlflow[feedback]" in lines[1]


def test_a_local_store() -> None:
    """Over sqlite, through MLflow's own client: recorded, read, prepared, with its dataset, each once."""
    script = """
    import json, mltrace, warnings
    warnings.simplefilter("ignore")
    from mltrace.feedback import *
    mltrace.configure(tracking_uri="sqlite:///data.db", experiment_name="local", strict=True)
    assert 0 == FeedbackCollector().summary().count
    collector = FeedbackCollector()
    for number in range(50):
        collector.save_feedback(UserFeedback(1_777_888_800 + number, "q", "a", ["s"], 2))
    long = UserFeedback(1_777_888_900, "q" * 7000, "a" * 9000, ["s"], 2, "text", "b" * 9000)
    collector.save_feedback(long)
    assert 0 == mltrace.flush(60).pending
    pipeline = RetrainingPipeline()
    decision = pipeline.should_retrain()
    assert (True, 51, True) == (decision.retrain, decision.count, decision.complete), decision
    frame = pipeline.prepare_retraining_data()
    assert ("q" * 7000, "a" * 9000, "b" * 9000, False) == tuple(frame.iloc[-1][["question", "answer", "target", "cut"]])
    assert 0 == mltrace.flush(60).pending
    assert 0 == pipeline.should_retrain().count
    import mlflow
    mlflow.set_tracking_uri("sqlite:///data.db")
    (run,) = mlflow.search_runs(experiment_names=["local"], output_format="list",
                                filter_string="tags.`mltrace.kind` = 'retraining'")
    (used,) = run.inputs.dataset_inputs
    print(used.dataset.name, json.loads(used.dataset.profile)["num_rows"])
    """
    assert "feedback 51" == run_python(script).stdout.splitlines()[-1]


def test_traces_in_a_local_store() -> None:
    """Over sqlite too the feedback of traces is read: the last word of each source, with the call whole."""
    script = """
    import mltrace, warnings
    warnings.simplefilter("ignore")
    from mltrace.feedback import *
    mltrace.configure(tracking_uri="sqlite:///data.db", experiment_name="local", strict=True, record_as="trace")
    run = mltrace.log_prediction(question="q" * 3000, answer="a" * 3000, context="c")
    log_feedback(run, value=4, text="Good.", source="ada")
    assert 0 == mltrace.flush(60).pending
    log_feedback(run.feedback_id, value=1, corrected="Better.", source="ada")
    assert 0 == mltrace.flush(60).pending
    assert mltrace.status().dead == 0
    (one,) = FeedbackCollector().load()
    assert (one.question, one.answer, one.cut) == ("q" * 3000, "a" * 3000, False)
    print(one.call_id == run.id, one.run_id == run.feedback_id, one.value, one.text, one.corrected, one.context, one.source)
    """
    assert "True True 1 None Better. c ada" == run_python(script).stdout.splitlines()[-1]
