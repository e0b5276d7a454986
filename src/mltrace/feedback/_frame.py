"""
Feedback as a training set: a pandas frame, and the dataset that MLflow shows of it.

The columns, one row for each thing said:

    question, context, sources   what the call was asked, and from what it answered
    answer, corrected_answer     what it answered, and what it should have
    target                       what to train on: the corrected answer, else the answer where it was
                                 not rated as negative; missing where neither is known to be right
    rating, feedback_text        what was said
    weight                       1 for a correction; the share of the best rating for an answer that
                                 stands; 0 where there is no target
    source, time                 who said it, and when (UTC)
    call_id, run_id              `Run.id`, and MLflow's id of the run, missing until it is delivered
    model_version                the call's param
    cut                          whether one of the texts is longer than what is here
"""

from __future__ import annotations

import hashlib

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .. import _guard
from .._records import Dataset, InputsLogged
from ..exceptions import MissingExtra
from ._reading import Feedback


if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "question": "string",
    "context": "string",
    "sources": "string",
    "answer": "string",
    "corrected_answer": "string",
    "target": "string",
    "rating": "double",
    "feedback_text": "string",
    "weight": "double",
    "source": "string",
    "time": "datetime",
    "call_id": "string",
    "run_id": "string",
    "model_version": "string",
    "cut": "boolean",
}
"""The columns and their types in MLflow's schema; of *sources*, lists of anything, the frame has the lists."""


def pandas() -> Any:
    """Return pandas; raise `MissingExtra` where it is not installed."""
    try:
        with _guard.importing:
            import pandas
    except ImportError as error:
        raise MissingExtra(
            f"prepare_retraining_data needs pandas ({error}); install mltrace-mlflow[feedback]"
        ) from None
    return pandas


def frame(found: Iterable[Feedback], negative_rating: float, best_rating: float) -> pd.DataFrame:
    """Return *found* as a frame; see the module's docstring."""
    rows = [_row(one, negative_rating, best_rating) for one in found]
    made = pandas().DataFrame(rows, columns=list(COLUMNS), dtype=object)
    made["time"] = pandas().to_datetime(made["time"], unit="ms", utc=True)
    return made.astype({"rating": "float64", "weight": "float64", "cut": "bool"})


def _row(one: Feedback, negative_rating: float, best_rating: float) -> dict[str, Any]:
    target, weight = _target(one, negative_rating, best_rating)
    return {
        "question": one.question,
        "context": one.context,
        "sources": one.sources,
        "answer": one.answer,
        "corrected_answer": one.corrected,
        "target": target,
        "rating": one.rating,
        "feedback_text": one.text,
        "weight": weight,
        "source": one.source,
        "time": one.time_ms,
        "call_id": one.call_id,
        "run_id": one.run_id,
        "model_version": one.model_version,
        "cut": one.cut,
    }


def _target(one: Feedback, negative_rating: float, best_rating: float) -> tuple[str | None, float]:
    if one.corrected is not None:
        return one.corrected, 1.0
    if isinstance(one.value, bool):
        return (one.answer, 1.0) if one.value and one.answer is not None else (None, 0.0)
    if one.answer is None or one.rating is None or one.rating <= negative_rating:
        return None, 0.0
    return one.answer, min(max(one.rating / best_rating, 0.0), 1.0)


def json_lines(made: pd.DataFrame) -> bytes:
    """Return *made* as JSON, a row a line, times in ISO 8601."""
    text: str = made.to_json(orient="records", lines=True, date_format="iso", force_ascii=False)
    return text.encode()


def dataset(
    uid: str,
    time: int,
    name: str,
    content: bytes,
    rows: int,
    context: Mapping[str, str],
    experiment: str | None,
) -> InputsLogged:
    """
    Return the record of the dataset that *content*, *rows* long, is: MLflow's digest is its hash, the
    source is the program that *context* describes, as for a frame of MLflow's own.
    """
    columns: Sequence[dict[str, Any]] = [
        {"type": kind, "name": column, "required": False} for column, kind in COLUMNS.items()
    ]
    found = Dataset(
        name=name,
        digest=hashlib.sha256(content).hexdigest()[:16],
        source_type="code",
        source=_json({"tags": {key: text[:2000] for key, text in context.items()}}),
        schema=_json({"mlflow_colspec": columns}),
        profile=_json({"num_rows": rows, "num_elements": rows * len(COLUMNS)}),
        tags={"mlflow.data.context": "training"},
    )
    return InputsLogged(run=uid, time=time, datasets=(found,), experiment=experiment)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
