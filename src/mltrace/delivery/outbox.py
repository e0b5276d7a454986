"""
What is on its way to the server: what it still has to be told, and how far that has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from .._records import AssessmentLogged, Record, RunEnded, RunRecorded, RunStarted
from .acks import with_latest
from .destination import DeliveryError, Doubtful, Failed, Missing, ServerRun, Uncertain
from .source import Source


JOB_RECORDS = 1000
_PATIENCE: dict[type[DeliveryError], int] = {Doubtful: 3, Failed: 8}

Delivered = tuple[Source, Record]


class Parcel:
    """
    What the sender schedules: one run, or spans that travel together; and how often it was tried, for
    what it was refused.
    """

    ambiguous = False

    # There is one for each span: containers that most of them leave empty are made when they are needed, as what lives
    # for a while has Python's garbage collector go over the whole program more often.
    refusals: Mapping[type[Exception], int] = MappingProxyType({})
    """How often it was refused, by kind, since the last success."""

    def __init__(self) -> None:
        self.attempts = 0
        self.not_before = 0.0
        self.tried_at = -1
        self.missing_since = 0.0
        self.give_up = False
        self.link_deadline = 0.0
        self.link_tries = 0
        self.queue = "none"
        """
        Where the sender has put it: none, timer, ready, parent (waiting for another), busy, or bundle
        (a span that waits for others to travel with).
        """

    is_lost = False
    """Whether the record of its start was damaged."""

    def needs(self) -> Iterable[str]:
        """Yield the uids of what has to be on the server before this."""
        return ()

    def links(self) -> Iterable[str]:
        """Yield the uids of the runs that this, which is on the server, could not be linked to yet."""
        return ()

    def defer(self) -> None:
        """Make room for others: this will take long."""

    def count_refusal(self, refusal: Exception) -> None:
        """Count a refusal."""
        kind = type(refusal)
        self.refusals = {**self.refusals, kind: self.refusals.get(kind, 0) + 1}

    def is_patient(self, refusal: DeliveryError) -> bool:
        """
        Say whether to try again after *refusal*, which others of the same destination did not meet,
        instead of giving the records up.
        """
        if isinstance(refusal, Missing):
            return not self.give_up
        if isinstance(refusal, Uncertain) and not isinstance(refusal, Failed):
            return True  # it was the network's fault, or a gateway's
        return self.refusals.get(type(refusal), 0) < _PATIENCE.get(type(refusal), 0)


class Box(Parcel):
    """
    One run on its way, or one span, or what is said of a trace: what is known of it, and its records
    in order.
    """

    def __init__(self, uid: str) -> None:
        super().__init__()
        self.uid = uid
        self.home: Source | None = None
        """
        The writer in which the run started; None while only other processes' records of it were
        seen.
        """
        self.start: RunStarted | None = None
        self.server: ServerRun | None = None
        self.elsewhere: str | None = None
        """The experiment in which another process started it, as the records of this one say."""
        self.first: Delivered | None = None
        """The earliest record that was seen of it."""
        self.records: deque[Delivered] = deque()
        self.ended = False
        self.refused = False
        self.given_up = False
        """Whether an earlier process has given its start up."""
        self.ambiguous = False
        self.ever_ambiguous = False
        self.tags: dict[str, tuple[str, ...]] = {}
        """The latest values that each tag was sent with, in order: an earlier one may land after a later one."""
        self._recalled_tags: frozenset[str] = frozenset()
        self.parent_linked = True
        self.unlinked: Sequence[Delivered] = ()
        """The records of its start and its end, delivered, and kept until the parent that it names is there."""
        self.trace: str | None = None
        """The trace that it is a span of, or says something of."""
        self.spoken_of: str | None = None
        """The uid of the span that it says something of."""
        self.sent = False
        """Whether the span itself is on the server."""
        self.job: Sequence[Delivered] = ()
        """The records of a span that is under way: what comes later comes too late."""
        self.aside: frozenset[Source] = frozenset()
        """Where records of it are on disk only, because they cannot be delivered for long."""
        self.recalled = False
        """Whether these are being read again: they come before what is read meanwhile."""
        self.children: list[Parcel] | None = None
        """What waits for this to exist."""

    def add(self, source: Source, record: Record) -> None:
        """Take the next record."""
        self.first = self.first or (source, record)
        if isinstance(record, AssessmentLogged):
            self.trace, self.spoken_of = record.trace, record.run
        elif isinstance(record, (RunStarted, RunRecorded)):
            self.start = record.start if isinstance(record, RunRecorded) else record
            self.trace = record.trace
            self.home = source
            self.parent_linked = record.parent is None
            self.restore(source)
        elif record.experiment is not None:
            self.elsewhere = record.experiment
        if isinstance(record, (RunEnded, RunRecorded)):
            self.ended = True
        made_up = [] if not self.records or self.records[-1][1].seq else [self.records.pop()]
        # What was set aside and is read again comes before the end that was made up meanwhile.
        self.records.extend([(source, record), *made_up])

    def restore(self, source: Source) -> None:
        """Recall from *source*'s acknowledgements how far an earlier process came with this run, or this one."""
        for key, values in source.acks.unanswered.get(self.uid, {}).items():
            self.tags.setdefault(key, values)
            self._recalled_tags |= {key}
        if (created := source.acks.created.get(self.uid)) is not None:
            self.home = source
            self.server = ServerRun(created.run_id, created.artifact_uri, created.experiment_id)
            self.ever_ambiguous = created.ambiguous
            return
        # With damaged acknowledgements it may look refused, when only something that was logged to it was.
        self.given_up = self.given_up or self.uid in source.acks.refused
        if self.uid in source.acks.creating or (self.home is source and source.unclear):
            self.ambiguous = self.ever_ambiguous = True

    @property
    def is_span(self) -> bool:
        """Whether it is a span of a trace, and no run."""
        return self.start is not None and self.start.trace is not None

    @property
    def is_lost(self) -> bool:  # type: ignore[override] # only here it can be
        """Whether the record of its start was damaged: no other process is to have it either."""
        return self.start is None and self.elsewhere is None and self.server is None and self.trace is None

    def needs(self) -> Iterable[str]:
        """Yield the parent of a run that is not created, and the span that something is said of."""
        if self.spoken_of is not None:
            yield self.spoken_of
        elif self.server is None and self.start is not None and self.start.parent is not None:
            yield self.start.parent

    def links(self) -> Iterable[str]:
        """Yield the parent of a run that was delivered without it."""
        if self.unlinked and self.start is not None and self.start.parent is not None:
            yield self.start.parent

    def defer(self) -> None:
        """
        Keep the records of what is not there on disk only: others are not to wait for the room that they
        take. Only the run itself, without them, is tried again.
        """
        if self.server is None:
            self.recalled = False
            self.set_aside()

    def stand_in(self) -> None:
        """
        Make up a start for a run whose own was damaged, so that what is left of it arrives. It may
        have been created before.
        """
        assert self.first is not None
        source, record = self.first
        self.start = RunStarted(
            run=self.uid,
            time=record.time,
            name=f"start lost {self.uid[:8]}",
            experiment=source.experiment,
            tags={"mltrace.lost": "start"},
        )
        self.home = source
        self.ambiguous = self.ever_ambiguous = True

    def replace_tags(self, tags: Mapping[str, str]) -> dict[str, set[str]]:
        """Take note that *tags* are sent; return the values that they replace."""
        replaced = {}
        for key, value in tags.items():
            before = self.tags.get(key, ())
            if before[-1:] != (value,):
                if before:  # of its own the earlier ones were returned before
                    replaced[key] = set(before if key in self._recalled_tags else before[-1:])
                    self._recalled_tags -= {key}
                self.tags[key] = with_latest(before, value)
        return replaced

    def stale_tags(self) -> dict[str, set[str]]:
        """Return the earlier values of the tags that have had any."""
        return {key: set(values[:-1]) for key, values in self.tags.items() if len(values) > 1}

    def take(self) -> list[Delivered]:
        """Take the records of the next job out of the box: none while there are earlier ones on disk only."""
        count = 0 if self.aside else min(len(self.records), JOB_RECORDS)
        return [self.records.popleft() for _ in range(count)]

    def by_source(self) -> dict[Source, list[Record]]:
        """Return the records of each writer."""
        found: dict[Source, list[Record]] = {}
        for source, record in self.records:
            found.setdefault(source, []).append(record)
        return found

    def set_aside(self) -> None:
        """Forget the content of the records that can be read again."""
        kept = [(source, record) for source, record in self.records if not record.seq]
        for source in dict.fromkeys(source for source, record in self.records if record.seq):
            source.set_aside([record for other, record in self.records if other is source])
            self.aside |= {source}
        self.records = deque(kept)

    def put_back(self, job: Sequence[Delivered]) -> None:
        """Return an undone job's records to the front."""
        self.records.extendleft(reversed(job))
