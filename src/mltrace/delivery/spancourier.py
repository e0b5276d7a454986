"""
The telling of traces: brings spans to the server in bulk, and what is said of a trace behind it.

Both have ids that the client made, so that everything here can be repeated: a span that is sent again
replaces itself. A bundle that the server refuses is halved until the one span at fault is alone; that
goes to the dead letters. The records of a span are settled when it is on the server and its trace
belongs to the run that was current around it, where there was one; a run that another process started
may take its time, and what was sent is not sent again meanwhile.
"""

from __future__ import annotations

import time

from collections.abc import Callable, Sequence

from .. import _guard
from .._records import TRACE_PREFIX, AssessmentLogged
from .._spool import DestinationDirectory
from .bundles import Bundle
from .destination import (
    DeliveryError,
    Destination,
    Doubtful,
    Failed,
    Missing,
    Rejected,
    ServerRun,
    Unsupported,
)
from .outbox import Box, Delivered
from .refusals import Refused, settle
from .spans import Span, span_of
from .turns import in_turns


LINKS = 100
"""How many traces `Destination.link_traces` takes."""

_Pair = tuple[Box, Span]


class _Outcome:
    """How the sending of one bundle went: whether any span of it passed, which were given up, which wait."""

    def __init__(self) -> None:
        self.total = 0
        self.passed = False
        self.refused: list[Box] = []
        self.stuck: list[Box] = []
        self.reason: DeliveryError | None = None


class SpanCourier:
    """
    Delivers bundles to *destination*; *run_id* finds a run by its uid and the name of its experiment.
    Shared by the workers, and without state.
    """

    def __init__(
        self,
        destination: Destination,
        directory: DestinationDirectory,
        run_id: Callable[[str, str], str | None],
        link_seconds: float,
    ) -> None:
        self._destination = destination
        self._directory = directory
        self._run_id = run_id
        self._link_seconds = link_seconds

    def deliver(self, bundle: Bundle) -> None:
        """
        Bring *bundle* to the server and settle what is there; raise `DeliveryError`, the rest unsettled and
        repeatable, where that fails. Spans whose run is not there stay in the bundle.
        """
        outcome = _Outcome()
        if unsent := [box for box in bundle.boxes if not box.sent]:
            experiment = self._destination.experiment(bundle.experiment)
            outcome.total = len(unsent)
            self._send(bundle, experiment, self._told(unsent, outcome), outcome)
        there = [box for box in bundle.boxes if box.sent]
        left = self._link(bundle, there)
        self._settle([box for box in there if box not in left])
        bundle.done += [box for box in bundle.boxes if box not in left and box not in outcome.stuck]
        bundle.boxes = left + outcome.stuck
        if outcome.reason is not None:
            bundle.proven = bundle.proven or outcome.passed
            raise outcome.reason

    def assess(self, box: Box, job: Sequence[Delivered]) -> None:
        """Bring what *job* says of a trace to the server, in order, and settle it."""
        assert box.trace is not None
        refused = Refused(box)
        try:
            if not job and not self._destination.has_trace(box.trace):
                raise Missing(f"the trace {box.trace} is not there")
            for _, record in job:
                assert isinstance(record, AssessmentLogged)
                self._destination.assess(record)
        except (Rejected, Doubtful, Missing, Failed) as refusal:
            if box.is_patient(refusal):
                raise
            for delivered in job:
                refused.whole(delivered, refusal)
        settle(self._directory, box.uid, job, refused.letters)

    # Spans.

    def _told(self, boxes: Sequence[Box], outcome: _Outcome) -> list[_Pair]:
        """Return what each of *boxes* says; one that cannot be put in words is not to stop the others."""
        pairs: list[_Pair] = []
        for box in in_turns(boxes):
            assert box.start is not None
            assert box.home is not None
            try:
                pairs.append((box, span_of(box.start, [record for _, record in box.job], box.home.context)))
            except Exception as error:
                refusal = Rejected(f"no span can be made of it: {type(error).__name__}: {error}")
                self._refuse(box, refusal, outcome)
        return pairs

    def _send(self, bundle: Bundle, experiment: str, pairs: Sequence[_Pair], outcome: _Outcome) -> None:
        """
        Send *pairs*, and halves of them where the server refuses; what is refused alone is given up, or
        tried again for a while. Where nothing passes it is no span's fault, and all of them wait.
        """
        if not pairs:
            return
        try:
            self._destination.log_spans(experiment, [span for _, span in pairs])
        except Missing:  # the experiment may have been deleted since it was looked up
            self._destination.forget_experiment(bundle.experiment)
            raise
        except (Rejected, Doubtful, Failed) as refusal:
            if len(pairs) > 1 and not isinstance(refusal, Unsupported):
                middle = len(pairs) // 2
                self._send(bundle, experiment, pairs[:middle], outcome)
                self._send(bundle, experiment, pairs[middle:], outcome)
                return
            is_fault = outcome.passed or bundle.proven or outcome.total == 1
            for box, _ in pairs:
                if isinstance(refusal, Rejected) or (is_fault and not bundle.is_patient(refusal)):
                    self._refuse(box, refusal, outcome)
                else:
                    outcome.stuck.append(box)
                    outcome.reason = refusal
            if len(outcome.stuck) > 1 and not outcome.passed and not bundle.proven:
                raise
        else:
            outcome.passed = True
            for box, _ in pairs:
                box.sent = True
                box.server = ServerRun(f"{TRACE_PREFIX}{box.trace}", "", experiment, is_trace=True)

    def _refuse(self, box: Box, refusal: DeliveryError, outcome: _Outcome) -> None:
        """Give a span up, once: what belongs to it is settled with it."""
        refused = Refused(box)
        outcome.refused.append(box)
        for delivered in box.job:
            refused.whole(delivered, refusal)
        settle(self._directory, box.uid, box.job, refused.letters)

    def _settle(self, boxes: Sequence[Box]) -> None:
        """Settle the records of *boxes*, in one entry for each source."""
        settle(self._directory, "spans", [delivered for box in boxes for delivered in box.job], {})

    # Links.

    def _link(self, bundle: Bundle, boxes: Sequence[Box]) -> list[Box]:
        """Have the traces of *boxes* belong to their runs; return the boxes whose run is not there."""
        places = {
            (start.linked, start.linked_experiment or start.experiment): None
            for box in boxes
            if (start := box.start) is not None and start.linked is not None
        }
        left: list[Box] = []
        for uid, experiment in places:
            mine = [box for box in boxes if box.start is not None and box.start.linked == uid]
            run_id = self._run_id(uid, experiment)
            if run_id is not None:
                self._link_to(run_id, [str(box.trace) for box in mine])
            elif self._is_too_late(bundle, uid):
                continue
            else:
                left += mine
        return left

    def _link_to(self, run_id: str, traces: Sequence[str]) -> None:
        try:
            for first in range(0, len(traces), LINKS):
                self._destination.link_traces(run_id, traces[first : first + LINKS])
        except (Rejected, Missing, Doubtful) as refusal:
            _guard.warn_once(
                f"link:{run_id}",
                "traces could not be linked to their run; they stand alone",
                run_id=run_id,
                reason=str(refusal),
            )

    def _is_too_late(self, bundle: Bundle, uid: str) -> bool:
        bundle.link_deadline = bundle.link_deadline or time.monotonic() + self._link_seconds
        if time.monotonic() < bundle.link_deadline:
            return False
        _guard.warn_once(
            f"parent:{uid}", "the run of a trace never reached the server; the trace stands alone", uid=uid
        )
        return True
