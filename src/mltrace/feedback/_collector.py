"""
`FeedbackCollector`: one place to put feedback, and to look at it.
"""

from __future__ import annotations

import os
import threading

from collections import Counter
from collections.abc import Iterable
from typing import Any, Union

import msgspec

from .. import _clock, _guard
from .._binding import Options
from .._calls import Call, PredictionInstrument
from .._config import is_enabled
from .._records import FINISHED
from .._runs import Run
from ..exceptions import ConfigurationError, SpoolFull
from ._history import UserFeedback, read_history, write_history
from ._log import log_feedback
from ._moments import Moment, milliseconds
from ._reading import Feedback, take_stock


DIGEST = "mltrace.feedback.digest"
"""Of a run that was made for a `UserFeedback`: which one. Importing a history again finds it there."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """
    Feedback in numbers.

    *count* is of all, *rated* of those with a number; the mean and the share of negatives are of the
    rated, None where there are none. *by_rating* counts each rating. *complete* is False where the
    server could not be read; *says* tells what was.
    """

    count: int
    rated: int
    mean_rating: Union[float, None]
    negative: int
    negative_share: Union[float, None]
    corrected: int
    by_rating: dict[float, int]
    first_ms: Union[int, None]
    last_ms: Union[int, None]
    complete: bool
    says: str


class History(msgspec.Struct, frozen=True):
    """Feedback, earliest first; *complete* is False where the server could not be read; *says* tells what was."""

    feedback: list[Feedback]
    complete: bool
    says: str

    def __len__(self) -> int:
        return len(self.feedback)

    def __iter__(self) -> Any:
        return iter(self.feedback)


class FeedbackCollector:
    """
    Collects what users say of answers in one experiment.

    Args:
        experiment_name: Where the calls are, and where calls are recorded that have no run yet
            (default: the configured one).

        name: What is judged, as in `log_feedback`.

        negative_rating: A rating of that or less is negative.
    """

    def __init__(
        self, experiment_name: str | None = None, *, name: str = "rating", negative_rating: float = 2
    ) -> None:
        self._options = Options(kind="prediction", run_name="prediction", experiment_name=experiment_name)
        self.experiment_name = self._options.experiment_name
        self.name = name
        self.negative_rating = negative_rating
        self._lock = threading.Lock()
        self._saved: dict[str, str] = {}

    def save_feedback(
        self, feedback: UserFeedback, run: Run | Call | str | None = None, *, source: str | None = None
    ) -> str | None:
        """
        Record *feedback* on the call it is of; without *run*, on a prediction of its own, which has
        question, answer and sources and the feedback's time.

        Saved twice, it is there once: of a *run*, because that has one feedback per name and source;
        without one, as long as this collector lives.

        Returns:
            The id of the run that has it; None where it was not recorded.
        """
        if not isinstance(feedback, UserFeedback):
            raise ConfigurationError(f"feedback: {feedback!r:.100} is not a UserFeedback")
        if not is_enabled():
            return None
        if run is None:
            with self._lock:
                known = self._saved.get(feedback.digest)
                run = known if known is not None else self._record(feedback)
                if isinstance(run, Run):
                    self._saved[feedback.digest] = run.id
        if run is None or not self._attach(run, feedback, source):
            return None
        return run if isinstance(run, str) else run.id

    def _attach(self, run: Run | Call | str, feedback: UserFeedback, source: str | None) -> bool:
        said = (feedback.rating, feedback.feedback_text, feedback.corrected_answer)
        if said == (None, None, None):
            return True  # an answer that nobody has said anything of
        return log_feedback(
            run,
            name=self.name,
            value=feedback.rating,
            text=feedback.feedback_text,
            corrected=feedback.corrected_answer,
            source=source,
            experiment_name=self.experiment_name,
            timestamp=feedback.time_ms,
        )

    def _record(self, feedback: UserFeedback) -> Run | None:
        """Record the prediction that *feedback* is of, at its time: how long it took is not known."""
        options = Options(
            kind="prediction",
            run_name="prediction",
            experiment_name=self.experiment_name,
            params={"question": feedback.question, "sources": feedback.sources},
            tags={DIGEST: feedback.digest},
        )
        try:
            instrument = PredictionInstrument(options)
            started = (feedback.time_ms, _clock.moment()[1])
            run = instrument.launch(instrument.prepare(None, (), {}), started)
            metrics, tags = instrument.describe(run, feedback.answer, None)
            run.finish(FINISHED, metrics, tags, latency_ms=0.0)
        except SpoolFull:
            raise
        except Exception as error:
            _guard.internal_error("save_feedback", error)
            return None
        return run

    def load(self, since: Moment | None = None) -> History:
        """
        Return what was said in the experiment (*since* then), from MLflow and the local spool; asks
        the server.
        """
        stock = take_stock(self.experiment_name)
        return History(self._mine(stock.feedback(whole=True), since), stock.complete, stock.says)

    def _mine(self, feedback: Iterable[Feedback], since: Moment | None) -> list[Feedback]:
        after = None if since is None else milliseconds(since)
        return [one for one in feedback if one.name == self.name and (after is None or one.time_ms >= after)]

    def summary(self, since: Moment | None = None) -> Summary:
        """Return what was said in numbers; asks the server."""
        stock = take_stock(self.experiment_name)
        found = self._mine(stock.feedback(), since)
        ratings = [one.rating for one in found if one.rating is not None]
        negative = sum(rating <= self.negative_rating for rating in ratings)
        return Summary(
            count=len(found),
            rated=len(ratings),
            mean_rating=sum(ratings) / len(ratings) if ratings else None,
            negative=negative,
            negative_share=negative / len(ratings) if ratings else None,
            corrected=sum(one.corrected is not None for one in found),
            by_rating=dict(sorted(Counter(ratings).items())),
            first_ms=found[0].time_ms if found else None,
            last_ms=found[-1].time_ms if found else None,
            complete=stock.complete,
            says=stock.says,
        )

    def import_history(self, path: str | os.PathLike[str]) -> int:
        """
        Record the feedback in a JSON file, each as a prediction of its own, at its time; return how
        many were new. What was imported before is passed over, as far as the server or the spool
        shows it. Forms of the file: a list, a mapping with one list in it, or an object per line.
        """
        history = read_history(path)
        stock = take_stock(self.experiment_name)
        if not stock.complete:
            _guard.warn_once(
                "import", "a history is imported while the server cannot be asked what was imported before"
            )
        known = {run.tags.get(DIGEST) for run in stock.runs} | self._saved.keys()
        fresh = {one.digest: one for one in history if one.digest not in known}
        return sum(self.save_feedback(one) is not None for one in fresh.values())

    def export_history(self, path: str | os.PathLike[str], since: Moment | None = None) -> int:
        """Write what was said as a JSON list of `UserFeedback`; return how many there are. Asks the server."""
        return write_history(path, self.load(since))
