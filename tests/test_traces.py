"""
``record_as="trace"``: calls as spans of MLflow traces, through the same journal and to the same ends:
there once, whatever happens on the way.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mltrace

from mltrace import _config, _spool
from mltrace._clock import new_id, now_ms
from mltrace._records import AssessmentLogged
from mltrace.backends.memory import MemoryBackend
from mltrace.delivery import breaker, bundles, courier, pace, sender, turns
from mltrace.exceptions import ConfigurationError
from tests.harness import LOST, Answer, Proxy, Request, python, run_python, until
from tests.receiver import Receiver
from tests.server import MlflowServer


SECRET = "sk-proj-" + "a1B2" * 10
OK, ERROR = "STATUS_CODE_OK", "STATUS_CODE_ERROR"


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have failed requests made again sooner than a real network would allow."""
    monkeypatch.setattr(courier, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(breaker, "BACKOFF_BASE", 0.02)


@pytest.fixture(name="experiment")
def _experiment(server: MlflowServer, request: pytest.FixtureRequest) -> str:
    """An experiment of this test's own, to which this process logs as traces, strictly."""
    name = str(request.node.nodeid.rpartition("::")[2])
    log_to(server.url, name)
    return name


def log_to(uri: str, experiment: str, **options: Any) -> None:
    """Have this process log to *uri*."""
    settings = {"tracking_uri": uri, "experiment_name": experiment, "strict": True, "record_as": "trace"}
    mltrace.configure(**{**settings, **options})


def delivered(timeout: float = 60.0) -> mltrace.FlushReport:
    """Flush, and fail if something is left."""
    report = mltrace.flush(timeout)
    assert report.pending == 0, mltrace.status()
    return report


def of_calls(calls: int) -> range:
    """Return how many records *calls* that are over may make: one each, or two where the sender looked in between."""
    return range(calls, 2 * calls + 1)


REPLY = {
    "model": "gpt-4-0613",
    "choices": [{"message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
}


@mltrace.track_run(span_type="RETRIEVER")
def retrieve(query: str) -> list[dict[str, Any]]:
    return [{"page_content": "the answer is 42", "metadata": {"doc_uri": "a.md"}}]


@mltrace.log_llm_call(model="gpt-4", provider="openai", temperature=0.5)
def complete(messages: list[dict[str, str]]) -> dict[str, Any]:
    return REPLY


@mltrace.log_prediction(tags={"env": "test"})
def answer(question: str) -> str:
    retrieve(question)
    complete([{"role": "user", "content": question}])
    if question == "unanswerable":
        raise ValueError(f"no answer for {SECRET}")
    return "42"


class TestWhatMlflowHolds:
    """A traced call in MLflow's own words."""

    def test_a_call_and_what_is_below_it_are_one_trace(self, server: MlflowServer, experiment: str) -> None:
        """The tree, types, times, tokens and tags of a traced call are what happened; there is no run."""
        answer("what?")
        delivered()
        [trace] = server.traces(experiment)
        spans = trace["spans"]
        assert ("OK", 3, []) == (trace["state"], trace["count"], server.runs(experiment))
        assert {
            "answer": ("CHAIN", None),
            "retrieve": ("RETRIEVER", "answer"),
            "complete": ("CHAT_MODEL", "answer"),
        } == {name: (span["type"], span["parent"]) for name, span in spans.items()}
        assert {OK} == {span["status"] for span in spans.values()}
        assert {
            "input_tokens": 12,
            "output_tokens": 3,
            "total_tokens": 15,
            "cache_read_input_tokens": 4,
        } == json.loads(trace["metadata"]["mlflow.trace.tokenUsage"])
        assert ("test", "answer") == (trace["tags"]["env"], trace["tags"]["mlflow.traceName"])
        assert ('{"question": "what?"}', '"42"') == (trace["request"], trace["response"])
        top, first, second = spans["answer"], spans["retrieve"], spans["complete"]
        assert (
            top["start_ns"]
            <= first["start_ns"]
            <= first["end_ns"]
            <= second["start_ns"]
            <= second["end_ns"]
            <= top["end_ns"]
        )
        assert top["attributes"]["metrics.latency_ms"] == pytest.approx(
            (top["end_ns"] - top["start_ns"]) / 1e6
        )

    def test_an_llm_call_has_the_names_of_mlflow_and_of_opentelemetry(
        self, server: MlflowServer, experiment: str
    ) -> None:
        """Model, provider, settings, usage and finish reason are there under both."""
        complete([{"role": "user", "content": "hi"}])
        delivered()
        [trace] = server.traces(experiment)
        found = trace["spans"]["complete"]["attributes"]
        expected = {
            "mlflow.llm.model": "gpt-4",
            "mlflow.llm.provider": "openai",
            "mlflow.spanOutputs": 42 if found["mlflow.spanOutputs"] == 42 else "42",
            "mlflow.spanFunctionName": "test_traces.complete",
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-4",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.usage.input_tokens": 12,
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.response.finish_reasons": ["stop"],
        }
        expected["mlflow.spanFunctionName"] = f"{__name__}.complete"
        assert expected == {key: found.get(key) for key in expected}
        assert [{"role": "user", "content": "hi"}] == found["mlflow.spanInputs"]["messages"]

    def test_a_failure_is_an_error_with_its_exception(self, server: MlflowServer, experiment: str) -> None:
        """Status, message and exception event of a call that raised, secrets hidden; the tree above it fails too."""
        with pytest.raises(ValueError, match="no answer"):
            answer("unanswerable")
        delivered()
        [trace] = server.traces(experiment)
        span = trace["spans"]["answer"]
        [event] = span["events"]
        assert ("ERROR", ERROR, OK) == (trace["state"], span["status"], trace["spans"]["retrieve"]["status"])
        assert ("exception", "ValueError") == (event["name"], event["exception.type"])
        assert "in answer" in event["exception.stacktrace"]
        assert SECRET not in json.dumps(trace)
        assert span["message"].startswith("no answer")

    def test_a_trace_below_a_run_belongs_to_it(self, server: MlflowServer, experiment: str) -> None:
        """A run that makes traced calls has one trace for each, found by the run's id."""
        with mltrace.track_run("training", record_as="run") as run:
            for number in range(5):
                answer(str(number))
        delivered()
        [held] = server.runs(experiment)
        linked = server.traces(experiment, str(run.mlflow_run_id))
        assert ("training", held["id"]) == (held["name"], run.mlflow_run_id)
        assert [f'{{"question": "{number}"}}' for number in range(5)] == sorted(
            trace["request"] for trace in linked
        )

    def test_what_is_logged_to_a_span_is_in_its_attributes(
        self, server: MlflowServer, experiment: str
    ) -> None:
        """Params, the last value of a metric, its earlier points, tags, texts and dicts."""
        with mltrace.track_run("work", params={"k": 5}) as run:
            run.log_param("late", 1)
            for step in range(3):
                run.log_metric("loss", 1.0 - step / 4, step=step)
            run.set_tag("env", "test")
            run.log_text("a note", "notes/n.txt")
            run.log_dict({"a": [1]}, "d.json")
            run.log_metric("nan", float("nan"))
        delivered()
        [trace] = server.traces(experiment)
        span = trace["spans"]["work"]
        found = span["attributes"]
        expected = {
            "mlflow.spanInputs": {"k": "5"},
            "params.late": "1",
            "metrics.loss": 0.5,
            "metrics.nan": "NaN",
            "env": "test",
            "artifacts.notes/n.txt": "a note",
            "artifacts.d.json": {"a": [1]},  # MLflow shows any JSON as what it is
        }
        assert expected == {key: found.get(key) for key in expected}
        assert [(1.0, 0), (0.75, 1)] == [(event["value"], event["step"]) for event in span["events"]]

    def test_long_inputs_and_outputs_are_whole(self, server: MlflowServer, experiment: str) -> None:
        """What does not fit a field of a run is whole in the span, as far as a record holds it."""
        mltrace.log_llm_call(model="m", prompt="p" * 20_000, response="r" * 9_000)
        delivered()
        [trace] = server.traces(experiment)
        found = trace["spans"]["llm_call"]["attributes"]
        assert ("LLM", "p" * 20_000, "r" * 9_000) == (
            found["mlflow.spanType"],
            found["mlflow.spanInputs"]["prompt"],
            found["mlflow.spanOutputs"],
        )

    def test_files_go_to_the_run_that_the_trace_belongs_to(
        self, server: MlflowServer, experiment: str, tmp_path: Path
    ) -> None:
        """A trace keeps no files: its run does."""
        (tmp_path / "data.bin").write_bytes(b"\x00\x01")
        with mltrace.track_run("outer", record_as="run") as run, mltrace.track_run("inner") as span:
            span.log_artifact(tmp_path / "data.bin")
        delivered()
        assert [f"spans/{span.id[:16]}/data.bin"] == server.artifacts(str(run.mlflow_run_id))

    def test_a_file_without_a_run_is_dropped_and_counted(
        self, server: MlflowServer, experiment: str, tmp_path: Path, said: list[str]
    ) -> None:
        """Where there is nowhere to keep it, a file is dropped, with a warning and a tag that counts."""
        _config.configure(tracking_uri=server.url, experiment_name=experiment, record_as="trace")
        (tmp_path / "data.bin").write_bytes(b"\x00\x01")
        with mltrace.track_run("alone") as span:
            span.log_artifact(tmp_path / "data.bin")
        delivered()
        [trace] = server.traces(experiment)
        assert "1" == trace["tags"]["mltrace.dropped_records"]
        assert "a trace keeps no files" in said


class TestChoice:
    """Which calls become spans."""

    def forms(self, backend: MemoryBackend) -> list[tuple[str, bool]]:
        return [(run.name, run.trace is not None) for run in backend.runs.values()]

    @pytest.mark.parametrize(
        ("configured", "environment", "expected"),
        [
            (None, None, {}),
            ("trace", None, {"run": True, "llm_call": True, "prediction": True}),
            ({"llm_call": "trace"}, None, {"llm_call": True}),
            (None, "trace", {"run": True, "llm_call": True, "prediction": True}),
            (None, "llm_call=trace, prediction=trace", {"llm_call": True, "prediction": True}),
            ("run", "trace", {}),
        ],
    )
    def test_configuration_by_kind_and_environment(
        self,
        configured: Any,
        environment: str | None,
        expected: dict[str, bool],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """`configure` decides, else the environment, else every call is a run."""
        if environment is not None:
            monkeypatch.setenv("MLTRACE_RECORD_AS", environment)
        backend = MemoryBackend()
        mltrace.configure(backend=backend, record_as=configured, strict=True)
        with mltrace.track_run("run"):
            pass
        mltrace.log_llm_call(model="m", prompt="p", response="r")
        mltrace.log_prediction(question="q", answer="a")
        wanted = {"run": False, "llm_call": False, "prediction": False} | expected
        assert list(wanted.items()) == self.forms(backend)

    def test_the_option_is_stronger_than_the_configuration(self, memory: MemoryBackend) -> None:
        """A decorator's own choice counts; what is below a span is a span whatever it says itself."""
        mltrace.configure(backend=memory, record_as="trace", strict=True)
        with (
            mltrace.track_run("run", record_as="run"),
            mltrace.track_run("span"),
            mltrace.track_run("below", record_as="run"),
        ):
            pass
        assert [("run", False), ("span", True), ("below", True)] == self.forms(memory)

    @pytest.mark.parametrize(
        "wrong", ["traces", "llm_call=span", {"llm": "trace"}, {"llm_call": "both"}, 1, {"run": None}]
    )
    def test_a_wrong_value_is_refused(self, wrong: Any) -> None:
        """The error names the option and what it takes."""
        with pytest.raises(
            ConfigurationError, match=r"record_as: .* is not 'run', 'trace', or one of the two"
        ):
            mltrace.configure(record_as=wrong)

    @pytest.mark.parametrize("options", [{"record_as": "span"}, {"span_type": "llm!"}, {"span_type": 3}])
    def test_a_wrong_option_is_refused_at_decoration(self, options: dict[str, Any]) -> None:
        """So is one of a decorator."""
        [name] = options
        with pytest.raises(ConfigurationError, match=name):
            mltrace.track_run("name", **options)

    def test_ids_are_usable_at_once(self, memory: MemoryBackend) -> None:
        """A span knows its trace, and what feedback is given to; a run is what it was."""
        with (
            mltrace.track_run("run", record_as="run") as run,
            mltrace.track_run("span", record_as="trace") as top,
            mltrace.track_run("below") as below,
        ):
            pass
        assert (run.id, run.id, False) == (run.feedback_id, run.trace_id, run.is_span)
        assert (f"tr-{top.id}", top.id, True) == (top.feedback_id, top.trace_id, top.is_span)
        assert (top.feedback_id, top.trace_id) == (below.feedback_id, below.trace_id)

    def test_a_span_takes_nothing_when_it_is_over(self, said: list[str]) -> None:
        """What is logged to an ended span is not recorded, and a warning says so."""
        backend = MemoryBackend()
        mltrace.configure(backend=backend, record_as="trace")
        with mltrace.track_run("span") as span:
            pass
        span.set_tag("late", "1")
        assert {} == backend.runs[span.id].tags
        assert "is a span and has ended" in said


FOREIGN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TestTraceContext:
    """W3C Trace Context, in and out."""

    def test_another_tracers_span_is_continued(self, server: MlflowServer, experiment: str) -> None:
        """A trace below a plain ``traceparent`` has its id, and its span for a parent."""
        with mltrace.attach({"traceparent": FOREIGN}):
            answer("what?")
        delivered()
        [trace] = server.traces(experiment)
        assert "tr-0af7651916cd43dd8448eb211c80319c" == trace["id"]
        assert {"retrieve", "answer", "complete"} == set(trace["spans"])

    def test_a_run_below_another_tracers_span_is_a_root_that_says_so(self, memory: MemoryBackend) -> None:
        """A run has no span above it; its tag names the one that was."""
        with mltrace.attach({"traceparent": FOREIGN}), mltrace.track_run("run") as run:
            carried = mltrace.carrier()
        [root] = memory.roots
        assert (None, FOREIGN) == (root.parent_id, root.tags["mltrace.traceparent"])
        assert f"00-{FOREIGN[3:35]}-{run.id[:16]}-01" == carried["traceparent"]

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "00-" + "0" * 32 + "-b7ad6b7169203331-01",
            FOREIGN[:-3],
            "ff" + FOREIGN[2:],
            FOREIGN + "-more",
            FOREIGN.upper(),
        ],
    )
    def test_a_malformed_header_is_nothing(self, header: str, said: list[str]) -> None:
        """As the recommendation has it, what is malformed is ignored; here with a warning."""
        backend = MemoryBackend()
        mltrace.configure(backend=backend)
        with mltrace.attach({"traceparent": header}), mltrace.track_run("run"):
            pass
        assert [{}] == [run.tags for run in backend.runs.values()]
        assert "not a carrier" in said

    def test_a_later_version_is_understood_as_far_as_it_is_known(self, memory: MemoryBackend) -> None:
        """A version that is not known yet may have more behind its flags."""
        with (
            mltrace.attach({"traceparent": "01" + FOREIGN[2:] + "-more"}),
            mltrace.track_run("s", record_as="trace") as run,
        ):
            pass
        assert FOREIGN[3:35] == run.trace_id

    def test_what_another_tracer_does_not_sample_is_not_recorded(self, memory: MemoryBackend) -> None:
        """The flag of the header decides, as it does between other tracers."""
        with (
            mltrace.attach({"traceparent": FOREIGN[:-2] + "00"}),
            mltrace.track_run("run", record_as="trace"),
        ):
            pass
        assert {} == memory.runs

    def test_spans_of_two_processes_are_one_trace(self, server: MlflowServer, experiment: str) -> None:
        """A span's carrier goes to another process, whose spans are below it."""
        with mltrace.track_run("here") as run:
            run_python(
                """
                import mltrace
                with mltrace.track_run("there"):
                    mltrace.log_metric("x", 1)
                assert mltrace.flush(60).pending == 0
                """,
                MLFLOW_TRACKING_URI=server.url,
                MLTRACE_CARRIER=json.dumps(mltrace.carrier()),
            )
        delivered()
        [trace] = server.traces(experiment)
        assert f"tr-{run.id}" == trace["id"]
        assert {"here": None, "there": "here"} == {
            name: span["parent"] for name, span in trace["spans"].items()
        }


class Picky(Proxy):
    """A proxy that answers requests to ``/v1/traces`` whose body has *poison* in it with *refusal*."""

    poison = b"poison"
    refusal = Answer(422, b'{"detail": "Cannot convert OpenTelemetry span to MLflow span"}')

    def forward(self, request: Request) -> Answer:
        if "/v1/traces" in request.path and self.poison in request.body:
            return self.refusal
        return super().forward(request)


class TestDelivery:
    """There once, whatever happens on the way."""

    def test_many_traces_take_few_requests(self, server: MlflowServer, experiment: str) -> None:
        """A thousand traces go in bundles."""
        with Proxy(server.port) as proxy:
            log_to(proxy.url, experiment)
            for number in range(1000):
                mltrace.log_llm_call(model="m", prompt=str(number), response="r")
            delivered(60)
        assert 1000 == server.count_traces(experiment)
        assert len(proxy.seen("/v1/traces")) <= 12

    def test_what_is_sent_twice_is_there_once(self, server: MlflowServer, experiment: str) -> None:
        """Answers that are lost make the spans be sent again, and they replace themselves, tokens and links too."""
        with Proxy(server.port) as proxy:
            log_to(proxy.url, experiment)
            proxy.fail("/v1/traces", LOST, times=3)
            proxy.fail("link-to-run", LOST, times=2)
            with mltrace.track_run("outer", record_as="run") as run:
                for number in range(20):
                    answer(str(number))
            delivered()
        traces = server.traces(experiment)
        usage = {json.loads(trace["metadata"]["mlflow.trace.tokenUsage"])["total_tokens"] for trace in traces}
        assert (20, {3}, {15}) == (len(traces), {trace["count"] for trace in traces}, usage)
        assert 20 == len(server.traces(experiment, str(run.mlflow_run_id)))
        assert len(proxy.seen("/v1/traces")) >= 4

    def test_a_span_at_fault_goes_to_the_dead_letters_alone(
        self, server: MlflowServer, experiment: str
    ) -> None:
        """A bundle that is refused is halved until the one span is found; the others arrive."""
        with Picky(server.port) as proxy:
            log_to(proxy.url, experiment)
            for number in range(30):
                mltrace.log_prediction(question="poison" if number == 17 else "fine", answer=str(number))
            report = delivered()
        assert (True, True, 29) == (
            report.delivered in of_calls(29),
            report.dead in of_calls(1),
            server.count_traces(experiment),
        )
        status = mltrace.status()
        assert status.accepted == report.delivered + report.pending + report.dropped + report.dead
        found = run_python(
            "from mltrace.cli import main; main()", "dead", "list", "--json", MLFLOW_TRACKING_URI=proxy.url
        )
        assert "422" in found.stdout

    def test_a_server_without_traces_is_told_from_a_wrong_address(
        self, server: MlflowServer, experiment: str
    ) -> None:
        """Where MLflow is too old the spans are dead letters that say so, at once, and runs go on."""
        with Picky(server.port) as proxy:
            proxy.poison, proxy.refusal = b"", Answer(404, b'{"detail": "Not Found"}')
            log_to(proxy.url, experiment)
            for _ in range(10):
                mltrace.log_prediction(question="q", answer="a")
            with mltrace.track_run("run", record_as="run"):
                pass
            report = delivered()
        assert (True, ["run"]) == (
            report.dead in of_calls(10),
            [run["name"] for run in server.runs(experiment)],
        )
        assert len(proxy.seen("/v1/traces")) <= 2

    def test_an_open_span_keeps_nobody_waiting(self, server: MlflowServer, experiment: str) -> None:
        """A flush within a span waits for what can be delivered; the span follows when it ends."""
        with mltrace.track_run("outer"):
            answer("what?")
            began = time.monotonic()
            report = mltrace.flush(60)
            assert time.monotonic() - began < 30
            assert 1 == report.pending
            until(lambda: server.traces(experiment))
        delivered()
        [trace] = server.traces(experiment)
        assert ("OK", 4, "outer") == (trace["state"], trace["count"], trace["spans"]["answer"]["parent"])

    def test_waiting_for_one_span(self, server: MlflowServer, experiment: str) -> None:
        """`Run.wait` says when a span is there, and then the trace's id is known."""
        with mltrace.track_run("span") as run:
            pass
        assert run.wait(20)
        assert run.feedback_id == run.mlflow_run_id

    def test_a_span_that_logs_more_than_is_read_ahead(
        self, server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An open span's records take no room that others need."""
        monkeypatch.setattr(sender, "READ_AHEAD", 50)
        with mltrace.track_run("chatty") as run:
            for step in range(300):
                run.log_metric("x", step, step=step)
            answer("in between")
        delivered()
        [trace] = server.traces(experiment)
        assert (4, 299.0) == (trace["count"], trace["spans"]["chatty"]["attributes"]["metrics.x"])

    def test_a_trace_larger_than_a_bundle(
        self, server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The spans of one trace go one bundle after the other, and add up."""
        monkeypatch.setattr(bundles, "MAX_SPANS", 7)
        with mltrace.track_run("outer"):
            for number in range(40):
                mltrace.log_llm_call(model="m", prompt="p", response="r", tokens_used=1, run_name=f"call {number}",
                                     input_tokens=1, output_tokens=0)  # fmt: skip
        delivered()
        [trace] = server.traces(experiment)
        assert (41, 40) == (
            trace["count"],
            json.loads(trace["metadata"]["mlflow.trace.tokenUsage"])["input_tokens"],
        )

    def test_spans_that_wait_for_a_server_take_no_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While more bundles are ready than may be under way, the sender sleeps until it is to try again."""
        looks: Counter[str] = Counter()
        step = sender.Sender._step

        def counted(self: sender.Sender) -> float:
            looks[self.state()[0]] += 1
            return step(self)

        monkeypatch.setattr(sender.Sender, "_step", counted)
        log_to("http://127.0.0.1:9", "away", exit_timeout=0)
        for number in range((bundles.MAX_AWAY + 2) * bundles.MAX_SPANS):
            mltrace.log_prediction(question=number, answer="a")
        delivery: Any = _config.active().backend._delivery  # type: ignore[attr-defined]
        tried = until(lambda: delivery._breaker.gave_up[0] > 3 and delivery._breaker.gave_up[0])
        before = looks["unreachable"]
        again = until(lambda: delivery._breaker.gave_up[0] > tried + 4 and delivery._breaker.gave_up[0])
        assert looks["unreachable"] - before < 20 * (again - tried)

    def test_the_server_is_killed_and_comes_back(self, tmp_path: Path) -> None:
        """Spans recorded while the server is away arrive when it is back, those under way too, once."""
        with MlflowServer(tmp_path / "mortal", workers=1) as server:
            log_to(server.url, "mortal")
            for number in range(200):
                answer(str(number))
                if number == 100:
                    until(lambda: server.count_traces("mortal"), 60)
                    server.kill()
            server.start()
            delivered(60)
            assert 200 == server.count_traces("mortal")
            with_spans = {trace["count"] for trace in server.traces("mortal")}
            assert {3} == with_spans

    def test_the_program_is_killed(self, server: MlflowServer, experiment: str) -> None:
        """What a killed program had recorded is delivered by the next, its open spans as errors."""
        script = """
            import sys, time, mltrace
            mltrace.configure(record_as="trace", exit_timeout=0, experiment_name=sys.argv[1])
            with mltrace.track_run("open"):
                for number in range(50):
                    mltrace.log_prediction(question=str(number), answer="a")
                print("recorded", flush=True)
                time.sleep(60)
        """
        with python(script, experiment, MLFLOW_TRACKING_URI="http://127.0.0.1:9") as program:
            assert program.stdout is not None
            assert "recorded\n" == program.stdout.readline()
            program.send_signal(signal.SIGKILL)
            program.wait()
        [spool] = Path("spool").iterdir()
        (spool / "destination.json").write_text(
            (spool / "destination.json").read_text().replace("http://127.0.0.1:9", server.url)
        )
        from mltrace._addresses import destination_id

        spool.rename(spool.with_name(destination_id(server.url)))
        mltrace.log_prediction(question="mine", answer="a")
        delivered()
        until(lambda: server.count_traces(experiment) == 2)
        traces = {trace["count"]: trace for trace in server.traces(experiment)}
        assert ("ERROR", "KILLED") == (
            traces[51]["state"],
            traces[51]["spans"]["open"]["attributes"]["mltrace.status"],
        )

    def test_no_package_no_traces(self, server: MlflowServer, experiment: str) -> None:
        """Without OpenTelemetry's package everything stays in the spool, and a warning names the extra."""
        done = run_python(
            """
            import sys
            sys.modules["opentelemetry.proto.trace"] = sys.modules["opentelemetry.proto.collector"] = None
            import mltrace
            mltrace.log_prediction(question="q", answer="a", record_as="trace")
            assert mltrace.flush(5).pending == mltrace.status().accepted > 0
            """,
            MLFLOW_TRACKING_URI=server.url,
        )
        assert "install mltrace-mlflow[otlp]" in done.stderr


CRASHING = """
import os, sys
from tests.faults import crashpoints
crashpoints.install(int(sys.argv[1]), sys.argv[2])
import mltrace
from mltrace.delivery import breaker, bundles
bundles.WAIT_SECONDS = 0.05  # so that there are several bundles

@mltrace.log_prediction(record_as="trace")
def predict(name):
    mltrace.log_metric("x", 1)
    with mltrace.track_run("inner"):
        pass
    return name

with mltrace.track_run("outer " + sys.argv[1]) as run:
    for number in range(6):
        name = f"{sys.argv[1]}-{number}"
        predict(name)
        os.write(1, f"{name}\\n".encode())
        if number == 3:
            mltrace.flush(60)
mltrace.flush(60)
os.write(1, b"done\\n")
"""


class TestCrashes:
    """A process that dies at any point of what it does to disk and network."""

    def test_what_was_recorded_is_there_once(
        self, server: MlflowServer, experiment: str, tmp_path: Path
    ) -> None:
        """Whatever the crash point, each call that returned is one trace, whole, of its run."""
        report = tmp_path / "points"
        recorded = self.crash(server, experiment, -1, report)
        points = len(report.read_text().splitlines())
        assert ("done", True) == (recorded[-1], points > 100)
        chosen = range(3, points, max(points // 24, 1))
        with ThreadPoolExecutor(3) as pool:
            for names in pool.map(lambda point: self.crash(server, experiment, point, "")[:], chosen):
                recorded += names
        mltrace.log_prediction(question="last", answer="a")
        delivered(120)
        traces = server.traces(experiment)
        found = Counter(json.loads(trace["response"]) for trace in traces if trace["response"])
        promised = {name for name in recorded if name != "done"}
        assert set() == promised - found.keys()
        assert {1} == set(found.values())
        assert {2} == {trace["count"] for trace in traces if json.loads(trace["response"] or "0") in promised}
        assert {"ERROR"} >= {trace["state"] for trace in traces if not trace["response"]}  # cut short
        runs = {run["name"].rpartition(" ")[2]: run["id"] for run in server.runs(experiment)}
        for point in (-1, *chosen):
            mine = {name for name in promised if name.rpartition("-")[0] == str(point)}
            linked = server.traces(experiment, runs[str(point)]) if mine else []
            assert mine <= {json.loads(trace["response"] or "null") for trace in linked}

    def crash(self, server: MlflowServer, experiment: str, point: int, report: Any) -> list[str]:
        """Run the program until it dies; return the calls of it that returned."""
        command = [sys.executable, "-c", CRASHING, str(point), str(report)]
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": server.url,
            "MLFLOW_EXPERIMENT_NAME": experiment,
            "MLTRACE_EXIT_TIMEOUT": "0",
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == (0 if point < 0 else 86), done.stderr
        return done.stdout.split()


class TestPace:
    """Whether the server keeps up."""

    def test_a_server_that_is_too_slow_for_runs_is_warned_of(
        self, server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch, said: list[str]
    ) -> None:
        """One warning names both rates and the remedies; `status`, here and on the command line, has the rates."""
        monkeypatch.setattr(pace, "WINDOW_SECONDS", 1.0)
        monkeypatch.setattr(pace, "BEHIND_SECONDS", 0.5)
        monkeypatch.setattr(_spool, "BEHIND_SECONDS", 0.5)
        log_to(server.url, experiment, record_as="run")
        for number in range(400):
            mltrace.log_prediction(question=str(number), answer="a")
        until(lambda: "runs are recorded at" in said, 60)
        trend = mltrace.status().trend
        assert trend is not None
        assert (True, True) == (trend.is_growing, trend.runs_in > trend.runs_out > 0)
        assert "record_as='trace'" in said
        assert "sample_rate" in said
        shown = run_python(
            "from mltrace import _spool; _spool.BEHIND_SECONDS = 0.5; from mltrace.cli import main; main()",
            "status",
            MLFLOW_TRACKING_URI=server.url,
        ).stdout
        assert "runs/s recorded" in shown
        assert "MLTRACE_RECORD_AS=trace" in shown

    def test_a_server_that_keeps_up_is_not(
        self, server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch, said: list[str]
    ) -> None:
        """A few runs make a trend, and no warning."""
        monkeypatch.setattr(pace, "WINDOW_SECONDS", 0.2)
        log_to(server.url, experiment, record_as="run")
        mltrace.log_prediction(question="q", answer="a")
        delivered()

        def trend() -> Any:
            mltrace.log_prediction(question="q", answer="a")
            return mltrace.status().trend

        assert not until(trend, 30).is_growing
        assert "runs are recorded at" not in said


def said_of(trace: str, **fields: Any) -> AssessmentLogged:
    """Return an assessment of *trace*."""
    given = {
        "run": trace,
        "time": now_ms(),
        "trace": trace,
        "assessment_id": "a-" + new_id(),
        "name": "rating",
        "value": "4",
    }
    return AssessmentLogged(**{**given, **fields})


class TestAssessments:
    """What is said of a trace."""

    @pytest.fixture(name="recorded")
    def _recorded(self, server: MlflowServer, experiment: str) -> mltrace.Run:
        return mltrace.log_prediction(question="q", answer="a")

    def test_feedback_and_expectation_are_on_the_trace(
        self, server: MlflowServer, experiment: str, recorded: mltrace.Run
    ) -> None:
        """All their fields are, and they are the client's by their id."""
        backend = _config.active().backend
        feedback = said_of(
            recorded.trace_id,
            rationale="good",
            source_id="user@host",
            metadata={"k": "v"},
            span=recorded.id[:16],
        )
        backend.emit(feedback)
        backend.emit(
            said_of(
                recorded.trace_id, kind="expectation", value='{"answer": "b"}', assessment_id="a-expected"
            )
        )
        delivered()
        [trace] = server.traces(experiment)
        found = trace["assessments"][feedback.assessment_id]
        assert {"value": 4.0} == {"value": found["feedback"]["value"]}
        assert ("rating", "good", {"k": "v"}, "user@host", "HUMAN") == (
            found["assessment_name"], found["rationale"], found["metadata"],
            found["source"]["source_id"], found["source"]["source_type"],
        )  # fmt: skip
        assert "a-expected" in trace["assessments"]

    def test_what_is_said_again_replaces_itself(
        self, server: MlflowServer, experiment: str, recorded: mltrace.Run
    ) -> None:
        """An assessment is there once under its id, with the last value, also where an answer was lost."""
        with Proxy(server.port) as proxy:
            proxy.fail("assessments", LOST, times=1)
            log_to(proxy.url, experiment)
            mltrace.log_prediction(question="q", answer="a")
            for value in ("1", "5"):
                _config.active().backend.emit(
                    said_of(recorded.trace_id, assessment_id="a-same" + recorded.id[:8], value=value)
                )
            delivered()
        trace = next(trace for trace in server.traces(experiment) if trace["id"] == recorded.feedback_id)
        assert [5.0] == [said["feedback"]["value"] for said in trace["assessments"].values()]

    def test_it_waits_for_a_trace_of_another_process(self, server: MlflowServer, experiment: str) -> None:
        """Feedback on a trace that is not there yet waits for it."""
        mltrace.configure(tracking_uri=server.url, experiment_name=experiment, record_as="trace")
        trace = new_id()
        _config.active().backend.emit(said_of(trace))
        assert 1 == mltrace.flush(1).pending
        with mltrace.attach({"traceparent": f"00-{trace}-b7ad6b7169203331-01"}), mltrace.track_run("late"):
            pass
        delivered()
        [found] = server.traces(experiment)
        assert 1 == len(found["assessments"])

    def test_what_is_said_of_nothing_is_given_up(
        self, server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A trace that never comes makes a dead letter of what is said of it; others are not held up."""
        monkeypatch.setattr(breaker, "_MISSING_SECONDS", 0.2)
        mltrace.configure(tracking_uri=server.url, experiment_name=experiment, record_as="trace")
        _config.active().backend.emit(said_of(new_id()))
        mltrace.log_prediction(question="q", answer="a")
        report = delivered()
        assert (True, 1) == (report.delivered in of_calls(1), report.dead)


class TestCollector:
    """Any receiver of OpenTelemetry's protocol."""

    @pytest.fixture(name="receiver")
    def _receiver(self) -> Iterator[Receiver]:
        with Receiver() as receiver:
            yield receiver

    def test_everything_becomes_spans(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        """Runs too; with the service's name, the headers of the environment, and structures as JSON."""
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,service.version=1%202")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20abcdefghijkl,x-tenant=7")
        log_to(receiver.url, "shop", record_as="run")
        with mltrace.track_run("training"):
            answer("what?")
        delivered()
        spans = receiver.by_name()
        top, call = spans["training"], spans["complete"]
        assert {"training": None, "answer": top["id"]} == {
            name: spans[name]["parent"] for name in ("training", "answer")
        }
        assert {top["trace"]} == {span["trace"] for span in spans.values()}
        assert ("shop", "test", "1 2") == tuple(
            call["resource"][key] for key in ("service.name", "deployment.environment", "service.version")
        )
        assert {"Bearer abcdefghijkl"} == {headers["Authorization"] for headers in receiver.headers}
        assert "7" == receiver.headers[0]["x-tenant"]
        assert [{"role": "user", "content": "what?"}] == json.loads(call["attributes"]["mlflow.spanInputs"])[
            "messages"
        ]
        assert ("shop", 12) == (
            call["attributes"]["mltrace.experiment"],
            call["attributes"]["gen_ai.usage.input_tokens"],
        )

    def test_a_refused_span_is_found(self) -> None:
        """A partial success is no success: the span at fault is a dead letter, the others are there."""
        with Receiver(lambda name: name == "bad") as receiver:
            log_to(receiver.url, "e")
            for name in ("a", "b", "bad", "c"):
                with mltrace.track_run(name):
                    pass
            report = delivered()
        assert ({"a", "b", "c"}, 2) == ({span["name"] for span in receiver.spans}, report.dead)

    def test_a_receiver_that_is_away(self, receiver: Receiver) -> None:
        """Spans wait in the spool for a receiver as they do for MLflow."""
        with Proxy(int(receiver.url.rpartition(":")[2])) as proxy:
            log_to(proxy.url.replace("http", "otlp+http"), "e")
            proxy.refuse()
            with mltrace.track_run("early"):
                pass
            assert 2 == mltrace.flush(0.5).pending
            proxy.accept()
            delivered()
        assert ["early"] == [span["name"] for span in receiver.spans]

    def test_what_a_receiver_has_no_place_for(self, receiver: Receiver) -> None:
        """An assessment is a dead letter at once."""
        log_to(receiver.url, "e")
        _config.active().backend.emit(said_of(new_id()))
        assert 1 == delivered().dead

    def test_the_address_is_probed(self, receiver: Receiver) -> None:
        """`init_mlflow` says in words whether there is a receiver."""
        assert mltrace.init_mlflow(tracking_uri=receiver.url).ok
        found = mltrace.init_mlflow(tracking_uri=receiver.url + "/elsewhere")
        assert (False, True) == (found.ok, "4318" in found.message)


class TestLocalStore:
    """Without a server, through MLflow's own code."""

    def test_traces_in_a_sqlite_file(self, tmp_path: Path) -> None:
        """They are there with tree, tokens, link and assessment, as over HTTP; and replaced when sent again."""
        run_python(
            """
            import mltrace, json
            from mltrace import _config, _spool
            from tests.test_traces import answer, said_of
            mltrace.configure(tracking_uri="sqlite:///data.db", experiment_name="local", record_as="trace")
            with mltrace.track_run("outer", record_as="run") as run:
                for number in range(3):
                    answer(str(number))
            one = mltrace.log_prediction(question="q", answer="a")
            for value in ("1", "2"):
                _config.active().backend.emit(said_of(one.trace_id, assessment_id="a-1", value=value))
            report = mltrace.flush(60)
            assert report.pending == report.dead == 0, mltrace.status()

            import mlflow
            mlflow.set_tracking_uri("sqlite:///data.db")
            client = mlflow.MlflowClient()
            [experiment] = [e.experiment_id for e in client.search_experiments() if e.name == "local"]
            linked = mlflow.search_traces(locations=[experiment], filter_string=f"attributes.run_id = '{run.mlflow_run_id}'", return_type="list")
            assert len(linked) == 3, linked
            assert {len(trace.data.spans) for trace in linked} == {3}
            assert {trace.info.token_usage["total_tokens"] for trace in linked} == {15}
            [said] = mlflow.get_trace(one.feedback_id).info.assessments
            assert said.feedback.value == 2
            """,
            PYTHONPATH=str(Path(__file__).parent.parent),
        )


class TestTurns:
    """What the delivery computes does not keep the program's threads waiting for the interpreter."""

    def test_a_pause_comes_after_each_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is done with the items in between takes the turn; one that was short needs no pause."""
        now, pauses = 0.0, list[float]()
        clock = SimpleNamespace(perf_counter=lambda: now, sleep=pauses.append)
        monkeypatch.setattr(turns, "time", clock)
        took = [0.4, 0.4, 1.1, 0.1]
        for share in turns.in_turns(took):
            now += share * turns.TURN_SECONDS
        assert [turns.PAUSE_SECONDS] == pauses
        assert took == list(turns.in_turns(took))

    def test_spans_are_told_in_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker pauses between any two of many spans, when it puts them in words and into protobuf, where each takes a turn."""
        monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
        paused: Counter[str] = Counter()

        def pause(seconds: float) -> None:
            paused[threading.current_thread().name] += 1

        monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=time.perf_counter, sleep=pause))
        with Receiver() as receiver:
            log_to(receiver.url, "turns")
            for number in range(50):
                mltrace.log_prediction(question=number, answer="a")
            delivered()
        assert 50 == len(receiver.spans)
        assert sum(paused.values()) >= 2 * 50 > 0 == paused["mltrace-sender"]
