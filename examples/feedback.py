"""What users say of answers, recorded, read back, judged, and turned into the next training set.

The runs go to `MLFLOW_TRACKING_URI`, by default `sqlite:///mlflow.db` in the current directory. The exit code is 1 if
something has not arrived there.
"""

import json
import sys

from pathlib import Path

import mltrace

from mltrace.feedback import FeedbackCollector, HealthChecker, RetrainingPipeline, UserFeedback, log_feedback


EXPERIMENT = "photography_answers"
ANSWERS = {
    "Why is the image in a pinhole camera upside down?": "Rays from above meet the film below.",
    "What does the fixer do?": "It makes the picture visible.",
    "Why can snow come out grey?": "The meter takes it for grey.",
}


def ask(question: str) -> tuple[str, str]:
    """Return the answer, and the id by which feedback finds the call again: what ``POST /ask`` replies."""
    with mltrace.log_prediction(question, model_version="extractive-1", experiment_name=EXPERIMENT) as call:
        call.answer = ANSWERS[question]
    return call.answer, call.feedback_id


def past() -> Path:
    """Write the history that a program kept before as a file of JSON, as it might be."""
    history = [
        {"timestamp": f"2026-05-04T10:00:0{number}Z", "question": "What is an f-number?", "answer": "A lens.",
         "sources": ["aperture.txt"], "rating": number % 3 + 1, "feedback_text": "no",
         "corrected_answer": "Focal length over the diameter of the aperture."}
        for number in range(4)
    ]  # fmt: skip
    path = Path("feedback_history.json")
    path.write_text(json.dumps(history))
    return path


def main() -> int:
    """Do all of it once."""
    collector = FeedbackCollector(EXPERIMENT)
    print("imported:", collector.import_history(past()), "and again:", collector.import_history(past()))

    ids = {question: ask(question)[1] for question in ANSWERS}
    for question, call in ids.items():  # what POST /feedback does, in whatever process, at whatever time
        log_feedback(call, value=4, source="ada@example.org", experiment_name=EXPERIMENT)
        if "fixer" in question:  # she thinks again: her last word counts
            corrected = "It dissolves the silver halide that is left."
            log_feedback(
                call, value=1, corrected=corrected, source="ada@example.org", experiment_name=EXPERIMENT
            )
    feedback = UserFeedback("2026-05-05T09:00:00Z", "What is bokeh?", "A blur.", ["lens.txt"], 2, "too short")
    collector.save_feedback(feedback)

    summary = collector.summary()
    print(
        f"{summary.count} ratings, mean {summary.mean_rating:.2f}, {summary.negative} negative; {summary.says}"
    )

    pipeline = RetrainingPipeline(EXPERIMENT, min_count=5, max_mean_rating=3.0)
    decision = pipeline.should_retrain()
    print(decision.says)
    if decision:
        with mltrace.log_training_run("retrain", experiment_name=EXPERIMENT):
            frame = pipeline.prepare_retraining_data()  # MLflow: this run's dataset
            print(frame[["question", "rating", "target", "weight"]].to_string())
            mltrace.log_metric("examples", float((frame["weight"] > 0).sum()))
    print(pipeline.should_retrain().says)

    report = mltrace.flush(60)
    print(f"{report.delivered} records delivered, {report.pending} pending")
    print(HealthChecker(EXPERIMENT).check_health().says)
    return int(report.pending > 0 or report.dead > 0)


if __name__ == "__main__":
    sys.exit(main())
