"""
`RetrainingPipeline`: from what users said to a decision, and to the next training set.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from .. import _clock, _guard
from .._binding import Options
from .._config import is_enabled
from .._context import reset_current, set_current
from .._fluent import current_run
from .._inert import SILENT, InertRun
from .._instrument import Instrument
from .._provenance import context_tags
from .._records import FINISHED, RUN, Logged
from .._runs import Run
from .._texts import TAG_LIMIT, fit
from ..exceptions import ConfigurationError, SpoolFull
from . import _frame
from ._moments import Moment, milliseconds
from ._reading import RETRAINING, UNTIL, Feedback, Holdings, take_stock
from ._rule import RetrainingDecision, RetrainingRule, decide


if TYPE_CHECKING:
    import pandas as pd

ARTIFACT = "retraining/data.jsonl"


class RetrainingPipeline:
    """
    Decides over the feedback of one experiment, and makes the training set of it.

    Feedback is used up by the run that `prepare_retraining_data` logs to, unless that fails: what is
    counted is what was said since. The rule: `RetrainingRule`, whose thresholds these are.

    Args:
        experiment_name: Where the calls are (default: the configured one).

        name: What is judged, as in `log_feedback`.

        min_count: Ratings that are needed for any decision to retrain.

        max_mean_rating: A mean of that or less is one.

        min_negative_share: So is a share of negative ratings of that or more,

        max_age: and feedback that has waited for that long, a `timedelta` or a number of days.

        negative_rating: A rating of that or less is negative.

        best_rating: The rating that makes an answer's full weight.

    Raises:
        ConfigurationError: A threshold that cannot be one.
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        *,
        name: str = "rating",
        min_count: int = 50,
        max_mean_rating: float | None = 3.5,
        min_negative_share: float | None = 0.3,
        max_age: timedelta | float | None = timedelta(days=90),
        negative_rating: float = 2,
        best_rating: float = 5,
    ) -> None:
        self.rule = RetrainingRule(
            min_count=min_count,
            max_mean_rating=max_mean_rating,
            min_negative_share=min_negative_share,
            max_age=max_age,
            negative_rating=negative_rating,
        )
        if isinstance(best_rating, bool) or not isinstance(best_rating, (int, float)) or not best_rating > 0:
            raise ConfigurationError(f"best_rating: {best_rating!r:.100} is not a number above 0")
        options = Options(
            kind=RETRAINING,
            run_name=RETRAINING,
            experiment_name=experiment_name,
            record_as=RUN,
            sample_rate=1.0,
        )
        self.experiment_name = options.experiment_name
        self.name = name
        self.best_rating = best_rating
        self._instrument = Instrument(options)

    def should_retrain(self) -> RetrainingDecision:
        """
        Decide over the feedback since the last retraining, and say why; asks the server. Where that
        cannot be read, the decision is over the local spool alone, and says so.
        """
        stock = take_stock(self.experiment_name, self.name)
        return self._decide(stock, self._fresh(stock, stock.feedback(), stock.used_until))

    def _fresh(self, stock: Holdings, found: list[Feedback], after: int | None) -> list[Feedback]:
        return [one for one in found if one.name == self.name and (after is None or one.time_ms > after)]

    def _decide(self, stock: Holdings, fresh: list[Feedback]) -> RetrainingDecision:
        rated = [(one.time_ms, one.rating) for one in fresh if one.rating is not None]
        now = _clock.moment()[0]
        return decide(
            self.rule, rated, now, since_ms=stock.used_until, complete=stock.complete, read=stock.says
        )

    def prepare_retraining_data(
        self, *, since: Moment | None = None, run: Run | None = None, dataset_name: str = "feedback"
    ) -> pd.DataFrame:
        """
        Return the feedback since the last retraining (or *since* then) as a training set, and log it:
        asks the server. Needs pandas: ``mltrace-mlflow[feedback]``.

        It is logged to *run*, else to the current run, else (or where that is a span) to a run of kind
        ``retraining`` of its own:
        as MLflow's dataset input *dataset_name*, as the artifact ``retraining/data.jsonl``, and in the
        tag ``mltrace.feedback.until``, which marks it as used, unless that run fails. Without any
        feedback, nothing is logged.

        Returns:
            The frame, a row for each thing said: question, context, sources, answer,
            corrected_answer, target (the corrected answer, else an answer that was not rated as
            negative), rating, feedback_text, weight (1 for a correction, else the share of the best
            rating, 0 without a target), source, time, call_id (`Run.id`), run_id (MLflow's),
            model_version, cut (whether a text is longer than what is here). ``frame.attrs`` has
            *says* and *complete* (False where the server could not be read), and *run*, the id of the
            run that has it.

        Raises:
            MissingExtra: pandas is not installed.
        """
        _frame.pandas()
        stock = take_stock(self.experiment_name, self.name)
        after = stock.used_until if since is None else milliseconds(since) - 1
        fresh = self._fresh(stock, stock.feedback(whole=True), after)
        made = _frame.frame(fresh, self.rule.negative_rating, self.best_rating)
        decision = self._decide(stock, fresh)
        made.attrs = {"says": decision.says, "complete": stock.complete, "run": None}
        if fresh and is_enabled():
            made.attrs["run"] = self._log(made, decision, fresh[-1].time_ms, run, dataset_name)
        return made

    def _log(
        self,
        made: pd.DataFrame,
        decision: RetrainingDecision,
        until: int,
        run: Run | None,
        dataset_name: str,
    ) -> str | None:
        """Log the frame to the run that uses it; return that run's id, None where it could not be logged."""
        target = run or current_run()
        own = not target or target.is_span  # a trace has neither datasets nor files
        try:
            if own:
                target = self._own_run()
            if isinstance(target, InertRun):
                return None
            content = _frame.json_lines(made)
            target._attach(ARTIFACT, content)
            target.emit(
                _frame.dataset(
                    target.id,
                    target._now(),
                    dataset_name,
                    content,
                    len(made),
                    context_tags(),
                    target._elsewhere(),
                )
            )
            tags = {UNTIL: str(until), "mltrace.feedback.decision": fit(decision.says, TAG_LIMIT, None)}
            target.emit(Logged(run=target.id, time=target._now(), tags=tags, experiment=target.experiment))
            target.log_params(_thresholds(self.rule))
            target.log_metrics(_numbers(made, decision))
            if own:
                target.finish(FINISHED)
        except SpoolFull:
            raise
        except Exception as error:
            _guard.internal_error("prepare_retraining_data", error)
            return None
        return target.id

    def _own_run(self) -> Run:
        """Start a run of kind ``retraining``, at the root."""
        token = set_current(SILENT)
        try:
            return self._instrument.launch(self._instrument.prepare(None, (), {}))
        finally:
            reset_current(token)


def _thresholds(rule: RetrainingRule) -> dict[str, Any]:
    found = msgspec.structs.asdict(rule)
    return {f"feedback.{name}": value for name, value in found.items() if value is not None}


def _numbers(made: pd.DataFrame, decision: RetrainingDecision) -> dict[str, float]:
    found: dict[str, float | None] = {
        "feedback.rows": float(len(made)),
        "feedback.with_target": float(made["target"].notna().sum()),
        "feedback.corrected": float(made["corrected_answer"].notna().sum()),
        "feedback.mean_rating": decision.mean_rating,
        "feedback.negative_share": decision.negative_share,
    }
    return {name: value for name, value in found.items() if value is not None}
