"""Wrong options, which type checkers refuse: each line is an error, or its comment is one. Checked, never run."""

from __future__ import annotations

import mltrace


# Options that do not exist, or have another type.

mltrace.track_run(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
mltrace.track_run(tagz={})  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
mltrace.track_run(tags=["a"])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
mltrace.track_run(params="a=1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
mltrace.track_run(capture_input=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
mltrace.track_run(capture_output="no")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
mltrace.track_run(ignore_arguments=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
mltrace.track_run(sample_rate="half")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
mltrace.track_run(process_inputs=len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
mltrace.track_run("name", "experiment")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
mltrace.log_training_run(epochs=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
mltrace.start_run(name="cell")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
mltrace.start_run(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
mltrace.log_llm_call(model="m", temperature="hot")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
mltrace.log_llm_call(modell="m")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
mltrace.log_prediction(version="3")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

# What describes a call that is over, without what came out of it.

mltrace.log_llm_call(model="m", prompt="p", tokens_used=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
mltrace.log_llm_call(model="m", latency_ms=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
mltrace.log_prediction(question="q", latency_ms=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# What cannot be decorated, and what does not fit.


mltrace.track_run("name")(5)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]

with mltrace.track_run("block") as run:
    run.record_usage(input_tokens=1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    run.log_metric("a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    run.log_metrics({"a": "b"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    run.log_text(5, "a.txt")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

mltrace.register_renderer(5, repr)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
mltrace.register_extractor(5, lambda value: {})  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
mltrace.register_price("m", input=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
mltrace.register_renderer(dict, "text")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
