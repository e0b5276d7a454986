"""
What a run still has to be told, and the telling.

A `Box` holds one run's undelivered records. A `Courier` takes a job, some records of one box, and
brings them to the server:

1. The run is created, if it is not there yet. `runs/create` is the only request that is not
   idempotent: *Creating* is written first; an answer that may mean "applied" makes the box
   *ambiguous*: after a pause that grows the run is looked up by its tag ``mltrace.uid``, adopted if
   it is there, created again if not.
2. Params, metrics and tags go in as few batches as MLflow's limits allow. A batch refused for good
   is halved until the one item at fault is alone; that goes to the dead letters, the rest to the
   server.
3. Artifacts, then the end. A run that was ever ambiguous is looked up once more before its end, and
   other runs under its uid, which never received data, are deleted. Last the link to a parent that
   another process started and that was not there in time: it is a tag, nothing else waits for it.

Every step can be repeated after any failure. The records are settled when all steps are done.
"""

from __future__ import annotations

import time

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from .. import _clock, _guard
from .._records import ArtifactLogged, Logged, Metric, Record, RunEnded, RunRecorded, RunStarted
from .._spool import DestinationDirectory, Foreign, append_line
from .acks import Created, Creating
from .destination import DeliveryError, Destination, Doubtful, Missing, Rejected, ServerRun, Uncertain
from .source import Source


MAX_METRICS, MAX_PARAMS, MAX_TAGS, MAX_ITEMS = 1000, 100, 100, 1000
MAX_BYTES = 800_000  # MLflow's documented limit is 1 MB per request; hosts before it may enforce it
JOB_RECORDS = 1000
_SETTLE_SECONDS = 2.0
_PATIENCE: dict[type[DeliveryError], int] = {Doubtful: 3, Uncertain: 8}

Delivered = tuple[Source, Record]


class Box:
    """One run on its way: what is known of it, and its records in order."""

    def __init__(self, uid: str) -> None:
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
        self.records: deque[Delivered] = deque()
        self.ended = False
        self.refused = False
        self.ambiguous = False
        self.ever_ambiguous = False
        self.parent_linked = True
        self.link_deadline = 0.0
        self.attempts = 0
        self.not_before = 0.0
        self.tried_at = -1
        self.missing_since = 0.0
        self.give_up = False
        self.aside = False
        """Whether its records are on disk only, because they cannot be delivered for long."""
        self.queue = "none"
        """Where the sender has put the box: none, timer, ready, parent (waiting for it) or busy."""
        self.children: list[Box] = []
        """Boxes that wait for this run to exist."""

    def add(self, source: Source, record: Record) -> None:
        """Take the next record."""
        if isinstance(record, (RunStarted, RunRecorded)):
            self.start = record.start if isinstance(record, RunRecorded) else record
            self.home = source
            self.parent_linked = record.parent is None
            self.restore(source)
        if isinstance(record, (RunEnded, RunRecorded)):
            self.ended = True
        elif isinstance(record, (Logged, ArtifactLogged)) and record.experiment is not None:
            self.elsewhere = record.experiment
        self.records.append((source, record))

    def restore(self, source: Source) -> None:
        """Recall from *source*'s acknowledgements how far an earlier process came with this run."""
        if (created := source.acks.created.get(self.uid)) is not None:
            self.home = source
            self.server = ServerRun(created.run_id, created.artifact_uri, created.experiment_id)
            self.ever_ambiguous = created.ambiguous
        elif self.uid in source.acks.creating:
            self.ambiguous = self.ever_ambiguous = True

    def is_patient(self, refusal: DeliveryError) -> bool:
        """
        Say whether to try again after *refusal*, which other runs of the same destination did not
        meet, instead of giving the record up.
        """
        return (
            not self.give_up
            if isinstance(refusal, Missing)
            else self.attempts < _PATIENCE.get(type(refusal), 0)
        )

    def take(self) -> list[Delivered]:
        """Take the records of the next job out of the box."""
        return [self.records.popleft() for _ in range(min(len(self.records), JOB_RECORDS))]

    def set_aside(self) -> None:
        """Forget the content of the records that can be read again."""
        kept = [(source, record) for source, record in self.records if not record.seq]
        for source in dict.fromkeys(source for source, record in self.records if record.seq):
            source.set_aside([record for other, record in self.records if other is source])
        self.records = deque(kept)
        self.aside = True

    def put_back(self, job: Sequence[Delivered]) -> None:
        """Return an undone job's records to the front."""
        self.records.extendleft(reversed(job))


class Courier:
    """
    Delivers jobs to *destination*.

    Shared by the workers; holds no state of its own but *known*, the ids of runs, which is safe to
    share.
    """

    def __init__(
        self,
        destination: Destination,
        directory: DestinationDirectory,
        known: Callable[[str], str | None],
        link_seconds: float,
    ) -> None:
        self._link_seconds = link_seconds
        self._destination = destination
        self._directory = directory
        self._known = known

    def deliver(self, box: Box, job: Sequence[Delivered]) -> None:
        """
        Bring *job* to the server and settle its records; raise `DeliveryError`, everything
        unsettled and repeatable, where that fails.
        """
        dead: list[Delivered] = []
        try:
            server = self._ensure_run(box, job)
            dead = self._log(box, server, job)
            for delivered in job:
                if not self._upload(box, server, delivered):
                    dead.append(delivered)
            for delivered in job:
                if _is_end(delivered[1]) and not self._end(box, server, delivered[1]):
                    dead.append(delivered)
        except (Rejected, Doubtful, Missing) as refusal:
            if box.is_patient(refusal):
                raise
            box.refused = box.server is None
            dead = [*job]
            for _, record in job:
                self._bury(record.run, msgspec.to_builtins(record), str(refusal))
        # Outside: a parent that never comes is no reason to give a whole run up.
        if not box.parent_linked and box.server is not None:
            self._link_parent(box, box.server)
        self._settle(box, job, dead)

    def close(self) -> None:
        """Close the calling thread's connection."""
        self._destination.close()

    def _settle(self, box: Box, job: Sequence[Delivered], dead: Sequence[Delivered]) -> None:
        """Write down what was delivered and what is dead."""
        gone = {id(record) for _, record in dead}
        for source in dict.fromkeys(source for source, _ in job):
            mine = [record for other, record in job if other is source]
            fine = [record for record in mine if id(record) not in gone]
            if bad := [record for record in mine if id(record) in gone]:
                source.dead(box.uid, bad, closed=any(map(_is_end, bad)))
            if fine:
                source.done(box.uid, fine, closed=any(map(_is_end, fine)))

    # Creation.

    def _ensure_run(self, box: Box, job: Sequence[Delivered]) -> ServerRun:
        if box.server is not None:
            return box.server
        if box.refused:
            raise Rejected("the run itself was refused")
        start = box.start
        if start is None:
            box.server = self._find_foreign(box, job)
            return box.server
        experiment = self._destination.experiment(start.experiment)
        if box.ambiguous:
            box.server = self._look_up(experiment, box)
        if box.server is None:
            box.server = self._create(box, start, experiment)
        box.ambiguous = False
        assert box.home is not None
        server = box.server
        box.home.note(
            Created(box.uid, server.run_id, server.artifact_uri, server.experiment_id, box.ever_ambiguous)
        )
        return server

    def _create(self, box: Box, start: RunStarted, experiment: str) -> ServerRun:
        assert box.home is not None
        tags = {"mltrace.uid": box.uid, "mltrace.kind": start.kind, **box.home.context, **start.tags}
        if start.parent is not None:
            if (parent := self._parent_id(start)) is not None:
                tags["mlflow.parentRunId"] = parent
                box.parent_linked = True
            else:
                tags["mltrace.parent_uid"] = start.parent
        box.home.note(Creating(box.uid))
        try:
            return self._destination.create_run(experiment, start.name, start.time, tags)
        except Rejected:
            # The experiment may have been deleted since it was looked up.
            self._destination.forget_experiment(start.experiment)
            self._destination.experiment(start.experiment)
            raise
        except Uncertain:
            box.ambiguous = box.ever_ambiguous = True
            box.not_before = time.monotonic() + min(_SETTLE_SECONDS * 2**box.attempts, 60.0)
            raise

    def _look_up(self, experiment: str, box: Box) -> ServerRun | None:
        found = self._destination.find_runs(experiment, box.uid)
        active = sorted((run for run in found if not run.deleted), key=lambda run: run.run_id)
        if not active and found:
            raise Rejected("the run was deleted on the server before it was complete")
        return active[0] if active else None

    def _find_foreign(self, box: Box, job: Sequence[Delivered]) -> ServerRun:
        """
        Find a run that another process started: by its uid, in the experiment that the records
        name.
        """
        if box.elsewhere is not None and (
            found := self._look_up(self._destination.experiment(box.elsewhere), box)
        ):
            return found
        raise Missing(f"run {box.uid} was started by another process, whose records have not arrived yet")

    def _parent_id(self, start: RunStarted) -> str | None:
        assert start.parent is not None
        if (run_id := self._known(start.parent)) is not None:
            return run_id
        experiment = self._destination.experiment(start.parent_experiment or start.experiment)
        found = [run for run in self._destination.find_runs(experiment, start.parent) if not run.deleted]
        return min(run.run_id for run in found) if found else None

    def _link_parent(self, box: Box, server: ServerRun) -> None:
        """
        Set ``mlflow.parentRunId`` once the parent exists.

        It is a tag: the child need not wait for it.
        """
        assert box.start is not None
        parent = self._parent_id(box.start)
        if parent is None:
            box.link_deadline = box.link_deadline or time.monotonic() + self._link_seconds
            if time.monotonic() < box.link_deadline:
                raise Missing(
                    f"the parent of run {box.uid} was started by another process, whose records have not arrived yet"
                )
            _guard.warn_once(
                f"parent:{box.start.parent}",
                "a run's parent never reached the server; the run stands alone",
                uid=box.uid,
                parent=box.start.parent,
            )
        else:
            self._destination.log_batch(server.run_id, (), {}, {"mlflow.parentRunId": parent})
        box.parent_linked = True

    # Params, metrics, tags.

    def _log(self, box: Box, server: ServerRun, job: Sequence[Delivered]) -> list[Delivered]:
        """
        Log what the records of *job* say; return the records of which a part was refused for good.
        """
        dead: list[Delivered] = []
        for batch in batches(items(job)):
            self._log_batch(box, server, batch, dead)
        return dead

    def _log_batch(self, box: Box, server: ServerRun, batch: Sequence[Item], dead: list[Delivered]) -> None:
        try:
            self._destination.log_batch(
                server.run_id,
                [item.metric for item in batch if item.metric is not None],
                {item.key: item.value for item in batch if item.kind == "param"},
                {item.key: item.value for item in batch if item.kind == "tag"},
            )
        except (Rejected, Doubtful, Uncertain) as refusal:
            if box.is_patient(refusal):
                raise
            if len(batch) == 1:
                item = batch[0]
                self._bury(
                    server.run_id,
                    {
                        "kind": item.kind,
                        "key": item.key,
                        "value": item.value or msgspec.to_builtins(item.metric),
                    },
                    str(refusal),
                )
                dead.append(item.delivered)
                return
            middle = len(batch) // 2
            self._log_batch(box, server, batch[:middle], dead)
            self._log_batch(box, server, batch[middle:], dead)

    def _bury(self, run: str, what: Any, reason: str) -> None:
        letter = {"time": _clock.now_ms(), "run": run, "what": what, "reason": reason[:500]}
        append_line(self._directory.dead_letters, msgspec.json.encode(letter))
        _guard.warn_once(
            "dead",
            "the server refused a record for good; it is kept among the dead letters",
            reason=reason[:200],
        )

    # Artifacts and the end.

    def _upload(self, box: Box, server: ServerRun, delivered: Delivered) -> bool:
        source, record = delivered
        if not isinstance(record, ArtifactLogged):
            return True
        content: bytes | str
        if record.blob is None:
            content = (record.text or "").encode()
        else:
            assert source.directory is not None
            content = str(source.directory.blob(record.blob))
        try:
            self._destination.upload(server, record.path, content)
        except (Rejected, Doubtful, Uncertain, FileNotFoundError, Foreign) as refusal:
            if isinstance(refusal, DeliveryError) and box.is_patient(refusal):
                raise
            self._bury(server.run_id, {"kind": "artifact", "path": record.path}, str(refusal))
            return False
        return True

    def _end(self, box: Box, server: ServerRun, record: Record) -> bool:
        end = record.end if isinstance(record, RunRecorded) else record
        assert isinstance(end, RunEnded)
        if box.ever_ambiguous:
            for run in self._destination.find_runs(server.experiment_id, box.uid):
                if run.run_id != server.run_id and not run.deleted:
                    self._destination.delete_run(run.run_id)
        try:
            self._destination.end_run(server.run_id, end.status, end.time)
        except Rejected as refusal:
            self._bury(server.run_id, {"kind": "end", "status": end.status, "time": end.time}, str(refusal))
            return False
        return True


def _is_end(record: Record) -> bool:
    return isinstance(record, (RunEnded, RunRecorded))


class Item(msgspec.Struct, frozen=True):
    """One param, tag or metric point, and the record that it came with."""

    kind: str
    key: str
    value: str
    metric: Metric | None
    delivered: Any


def items(job: Sequence[Delivered]) -> Iterator[Item]:
    """
    Yield what the records of *job* log, in order; of a param or tag logged twice only what MLflow
    would keep: the first param, the last tag.
    """
    params: set[str] = set()
    tags = {
        key: record
        for _, record in job
        if not isinstance(record, (ArtifactLogged, RunStarted))
        for key in record.tags
    }
    for delivered in job:
        record = delivered[1]
        if isinstance(record, ArtifactLogged):
            continue
        for key, value in () if isinstance(record, RunEnded) else record.params.items():
            if key not in params:
                params.add(key)
                yield Item("param", key, value, None, delivered)
        if isinstance(record, RunStarted):
            continue  # its tags went with the creation
        for metric in record.metrics:
            yield Item("metric", metric.key, "", metric, delivered)
        for key, value in record.tags.items():
            if tags[key] is record:
                yield Item("tag", key, value, None, delivered)


def batches(found: Iterator[Item]) -> Iterator[list[Item]]:
    """Yield *found* in batches within MLflow's limits."""
    batch: list[Item] = []
    counts = {"metric": 0, "param": 0, "tag": 0}
    limits = {"metric": MAX_METRICS, "param": MAX_PARAMS, "tag": MAX_TAGS}
    size = 0
    for item in found:
        weight = 100 + len(item.key) + (len(item.value) if item.value.isascii() else 4 * len(item.value))
        if (
            counts[item.kind] == limits[item.kind]
            or len(batch) == MAX_ITEMS
            or (batch and size + weight > MAX_BYTES)
        ):
            yield batch
            batch, size, counts = [], 0, dict.fromkeys(counts, 0)
        batch.append(item)
        counts[item.kind] += 1
        size += weight
    if batch:
        yield batch


__all__ = ["Box", "Courier", "Delivered", "DeliveryError", "batches", "items"]
