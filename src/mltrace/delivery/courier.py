"""
The telling: brings some records of one run to the server.

1. The run is created, if it is not there yet. `runs/create` is the only request that is not
   idempotent: *Creating* is written first; an answer that may mean "applied" makes the box
   *ambiguous*: after a pause that grows the run is looked up by its tag ``mltrace.uid``, adopted if
   it is there, created again if not.
2. Params, metrics and tags go in as few batches as MLflow's limits allow. A batch refused for good
   is halved until the one item at fault is alone; that goes to the dead letters, the rest to the
   server.
3. Artifacts, datasets and models (`mltrace.delivery.models`), then the end. A run that was ever ambiguous is looked up once more before its end, and
   other runs under its uid, which never received data, are deleted. Last the link to a parent that
   another process started and that was not there in time: it is a tag, nothing else waits for it.

Every step can be repeated after any failure. The records are settled when all steps are done.

A creation can also land after all this: delayed on the way, or sent twice by the network. Such a
run has a uid and nothing else: no param, no metric, no end. `Courier.reconcile` finds those and
deletes them where another run of the same uid has ended. In the same way a tag that was set twice
can go back to its first value; it is set again at the run's end, and by the reconciliation. Where
either can happen is noted before the request is made (`late`).
"""

from __future__ import annotations

import contextlib
import time

from collections.abc import Callable, Iterable, Mapping, Sequence

from .. import _guard
from .._files import Foreign
from .._records import (
    FOREIGN,
    ArtifactLogged,
    InputsLogged,
    Logged,
    ModelLogged,
    ModelMeasured,
    ModelRegistered,
    Record,
    RunEnded,
    RunRecorded,
    RunStarted,
)
from .._spool import DestinationDirectory
from .acks import Created, Creating, Unanswered
from .batches import Item, batches, items
from .bundles import Bundle
from .destination import (
    SLOW_SETTLE,
    Destination,
    Doubtful,
    Failed,
    Missing,
    Parked,
    Rejected,
    ServerRun,
    Uncertain,
)
from .inputs import deliver_inputs, deliver_measures
from .late import LateLog, Suspect
from .models import deliver_model, deliver_version
from .outbox import Box, Delivered
from .refusals import Refused, is_end, settle
from .source import Source
from .spancourier import SpanCourier


SETTLE_SECONDS = 2.0
"""
The pause before a run is looked up whose creation was not answered; it doubles each time, and is
longer where searches lag (`destination.settle_factor`).
"""

_MOST_LOOKUPS = 200  # of open runs in one reconciliation


class Courier:
    """
    Delivers jobs to *destination*.

    Shared by the workers; holds no state of its own but what is safe to share: *known*, the ids of
    runs, and whether the destination's searches were seen to lag.
    """

    def __init__(
        self,
        destination: Destination,
        directory: DestinationDirectory,
        late: LateLog,
        known: Callable[[str], str | None],
        link_seconds: float,
    ) -> None:
        self._link_seconds = link_seconds
        self._destination = destination
        self._directory = directory
        self._late = late
        self._known = known
        self._lags = False
        self._spans = SpanCourier(destination, directory, self._run_id, link_seconds)

    def deliver(self, box: Box, job: Sequence[Delivered]) -> None:
        """
        Bring *job* to the server and settle its records; raise `DeliveryError`, everything
        unsettled and repeatable, where that fails.
        """
        if box.trace is not None:
            self._spans.assess(box, job)
            return
        refused = Refused(box)
        try:
            server = self._ensure_run(box)
            for source, record in job:
                if source.resumed and isinstance(record, (Logged, RunEnded, RunRecorded)):
                    self._note_tags(box, server, record.tags)  # its process may have died over the request
            for batch in batches(items(job)):
                self._log_batch(box, server, batch, refused)
            for delivered in job:
                self._tell_apart(box, server, delivered, refused)
            for delivered in job:
                if is_end(delivered[1]):
                    self._end(box, server, delivered, refused)
        except (Rejected, Doubtful, Missing, Failed) as refusal:
            if box.is_patient(refusal):
                raise
            box.refused = box.server is None
            refused = Refused(box)
            for delivered in job:
                refused.whole(delivered, refusal)
        settled = self._linked(box, job, refused)
        settle(self._directory, box.uid, settled, refused.letters, closes=not box.unlinked)

    def deliver_bundle(self, bundle: Bundle) -> None:
        """Bring spans to the server; see `SpanCourier.deliver`."""
        self._spans.deliver(bundle)

    def _linked(self, box: Box, job: Sequence[Delivered], refused: Refused) -> Sequence[Delivered]:
        """
        Return what can be settled: all of *job* but the run's start while the parent that it names is
        not there, and its end, with which the run would be forgotten that the start is to be linked in.
        Nothing else waits for that, and it is no reason to give a run up.
        """
        if box.parent_linked or box.server is None or self._link_parent(box, box.server):
            held, box.unlinked = box.unlinked, ()
            return [*held, *job]
        for source, record in job:
            if (isinstance(record, RunStarted) or is_end(record)) and id(record) not in refused.letters:
                box.unlinked = [*box.unlinked, (source, record)]
                source.set_aside([record])
        kept = {id(record) for _, record in box.unlinked}
        return [delivered for delivered in job if id(delivered[1]) not in kept]

    def close(self) -> None:
        """Close the calling thread's connection."""
        self._destination.close()

    # Creation.

    def _ensure_run(self, box: Box) -> ServerRun:
        if box.server is not None:
            if box.server.is_trace:
                raise Rejected("the span was over and delivered before this was logged to it")
            return box.server
        if box.refused or (box.is_lost and box.given_up):
            raise Rejected("the run itself was refused")
        if box.is_lost and box.give_up:
            box.server = self._search_everywhere(box)
            if box.server is None:
                box.stand_in()
        if box.start is None:
            box.server = box.server or self._find_foreign(box)
            return box.server
        experiment = self._destination.experiment(box.start.experiment)
        if box.ambiguous:
            box.server = self._look_up(experiment, box.uid)
        if box.server is None:
            box.server = self._create(box, box.start, experiment)
        box.ambiguous = False
        assert box.home is not None
        server = box.server
        box.home.note(
            Created(box.uid, server.run_id, server.artifact_uri, server.experiment_id, box.ever_ambiguous)
        )
        return server

    def _create(self, box: Box, start: RunStarted, experiment: str) -> ServerRun:
        assert box.home is not None
        # Where a run of MLflow's own API comes from, MLflow's client has said.
        context = {} if start.kind == FOREIGN else box.home.context
        tags = {"mltrace.uid": box.uid, "mltrace.kind": start.kind, **context, **start.tags}
        parent = self._parent_id(start) if start.parent is not None else None
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        elif start.parent is not None:
            tags["mltrace.parent_uid"] = start.parent
        self._late.note_creation(experiment)
        box.home.note(Creating(box.uid))
        try:
            server = self._destination.create_run(experiment, start.name, start.time, tags)
        except Rejected:
            # The experiment may have been deleted since it was looked up.
            self._destination.forget_experiment(start.experiment)
            self._destination.experiment(start.experiment)
            raise
        except Uncertain:
            box.ambiguous = box.ever_ambiguous = True
            factor = SLOW_SETTLE if self._lags else self._destination.settle_factor
            box.not_before = time.monotonic() + min(SETTLE_SECONDS * factor * 2**box.attempts, 60.0)
            raise
        box.parent_linked = box.parent_linked or parent is not None
        return server

    def _look_up(self, experiment: str, uid: str) -> ServerRun | None:
        """Return the run *uid* that is to be used; of several bare ones the least, as anybody would."""
        found = self._destination.find_runs([experiment], uid)
        active = [run for run in found if not run.deleted]
        if not active and found:
            raise Rejected("the run was deleted on the server before it was complete")
        return _used(active) or min(active, key=lambda run: run.run_id, default=None)

    def _find_foreign(self, box: Box) -> ServerRun:
        """
        Find a run that another process started: by its uid, in the experiment that the records
        name. Where there are several it is the one that its own process has used.
        """
        if box.elsewhere is not None:
            found = self._destination.find_runs([self._destination.experiment(box.elsewhere)], box.uid)
            active = [run for run in found if not run.deleted]
            if not active and found:
                raise Rejected("the run was deleted on the server before it was complete")
            if (run := _used(active)) is not None:
                return run
        raise Missing(f"run {box.uid} was started by another process, whose records have not arrived yet")

    def _search_everywhere(self, box: Box) -> ServerRun | None:
        found = self._destination.find_runs(self._destination.experiments(), box.uid)
        return _used([run for run in found if not run.deleted])

    def _parent_id(self, start: RunStarted) -> str | None:
        assert start.parent is not None
        return self._run_id(start.parent, start.parent_experiment or start.experiment)

    def _run_id(self, uid: str, experiment: str) -> str | None:
        """Return the server's id of the run *uid*, which may be another process's; None where it is not there."""
        if (run_id := self._known(uid)) is not None:
            return run_id
        try:
            found = self._destination.find_runs([self._destination.experiment(experiment)], uid)
        except (Parked, Missing, Rejected, Doubtful):  # of the parent's experiment, which may be another
            return None
        parent = _used([run for run in found if not run.deleted])
        return parent.run_id if parent is not None else None

    def _link_parent(self, box: Box, server: ServerRun) -> bool:
        """
        Set ``mlflow.parentRunId`` if the parent exists; say whether there is nothing more to be done.
        """
        assert box.start is not None
        parent = self._parent_id(box.start)
        if parent is not None:
            self._destination.log_batch(server.run_id, (), {}, {"mlflow.parentRunId": parent})
        else:
            box.link_deadline = box.link_deadline or time.monotonic() + self._link_seconds
            if time.monotonic() < box.link_deadline:
                return False
            _guard.warn_once(
                f"parent:{box.start.parent}",
                "a run's parent never reached the server; the run stands alone",
                uid=box.uid,
                parent=box.start.parent,
            )
        box.parent_linked = True
        return True

    # Params, metrics, tags.

    def _log_batch(self, box: Box, server: ServerRun, batch: Sequence[Item], refused: Refused) -> None:
        tags = {item.key: item.value for item in batch if item.kind == "tag"}
        self._note_tags(box, server, tags)
        try:
            self._destination.log_batch(
                server.run_id,
                [item.metric for item in batch if item.metric is not None],
                {item.key: item.value for item in batch if item.kind == "param"},
                tags,
            )
        except (Rejected, Doubtful, Uncertain) as refusal:
            if tags and isinstance(refusal, Uncertain):
                source, _ = next(item.delivered for item in batch if item.kind == "tag")
                source.note(Unanswered(box.uid, tags))
            if box.is_patient(refusal):
                raise
            if len(batch) == 1:
                refused.item(batch[0], refusal)
                return
            middle = len(batch) // 2
            self._log_batch(box, server, batch[:middle], refused)
            self._log_batch(box, server, batch[middle:], refused)

    def _note_tags(self, box: Box, server: ServerRun, tags: Mapping[str, str]) -> None:
        """
        Note which of *tags*, which are about to be set, an earlier request may set back: before they are set,
        so that a later process knows it however this one ends.
        """
        if stale := box.replace_tags(tags):
            final = {key: tags[key] for key in stale}
            self._late.note(Suspect(server.experiment_id, server.run_id, stale, final))

    # What has a request of its own, and the end.

    def _tell_apart(self, box: Box, server: ServerRun, delivered: Delivered, refused: Refused) -> None:
        """Tell what has a request of its own."""
        source, record = delivered
        try:
            self._bring(server, source, record)
        except (FileNotFoundError, Foreign) as missing:
            # With damaged acknowledgements it is sent again, and its file went when it was settled.
            if isinstance(missing, Foreign) or not source.unclear:
                refused.part(delivered, _named(record), missing)
        except (Rejected, Doubtful, Missing, Uncertain) as refusal:
            if box.is_patient(refusal):
                raise
            refused.part(delivered, _named(record), refusal)

    def _bring(self, server: ServerRun, source: Source, record: Record) -> None:
        def blob(name: str) -> str:
            assert source.directory is not None
            return str(source.directory.blob(name))

        if isinstance(record, ModelLogged):
            deliver_model(self._destination, server, record, blob)
        elif isinstance(record, ModelRegistered):
            deliver_version(self._destination, server, record)
        elif isinstance(record, ModelMeasured):
            deliver_measures(self._destination, server, record)
        elif isinstance(record, InputsLogged):
            deliver_inputs(self._destination, server, record)
        elif isinstance(record, ArtifactLogged):
            content = (record.text or "").encode() if record.blob is None else blob(record.blob)
            self._destination.upload(server, record.path, content)

    def _end(self, box: Box, server: ServerRun, delivered: Delivered, refused: Refused) -> None:
        record = delivered[1]
        end = record.end if isinstance(record, RunRecorded) else record
        assert isinstance(end, RunEnded)
        is_made_up = not record.seq
        if box.ever_ambiguous or is_made_up:
            found = self._destination.find_runs([server.experiment_id], box.uid)
            self._lags = self._lags or not self._is_among(server, found)
            if box.ever_ambiguous:
                self._delete_duplicates(box, server, found)
            if is_made_up and any(run.run_id == server.run_id and run.ended for run in found):
                return  # with its true status, in records that are gone from the disk
        if stale := box.stale_tags():
            final = {key: box.tags[key][-1] for key in stale}
            self._assert_tags(Suspect(server.experiment_id, server.run_id, stale, final))
        try:
            self._destination.end_run(server.run_id, end.status, end.time)
        except (Rejected, Failed) as refusal:
            if box.is_patient(refusal):
                raise
            refused.part(delivered, f"end {end.status}", refusal)

    def _is_among(self, server: ServerRun, found: Sequence[ServerRun]) -> bool:
        """Say whether a search that has *found* these runs shows *server*, which it should."""
        if any(run.run_id == server.run_id for run in found):
            return True
        _guard.warn_once(
            "lag",
            "the server does not find a run that it has created: its reads lag. A run whose creation is not"
            " answered may be there twice until the second one is found and deleted; see `mltrace doctor`",
            run_id=server.run_id,
        )
        return False

    def _delete_duplicates(self, box: Box, server: ServerRun, found: Sequence[ServerRun]) -> None:
        for run in found:
            if run.run_id != server.run_id and not run.deleted and run.bare:
                self._destination.delete_run(run.run_id)

    # Reconciliation.

    def reconcile(self, suspects: Iterable[Suspect]) -> None:
        """
        Delete the duplicates whose creation landed after their run had ended, and set right the tags
        that a late request has set back. What is gone from the server is passed over.
        """
        suspects = list(suspects)
        for experiment_id in sorted({suspect.experiment_id for suspect in suspects}):
            with contextlib.suppress(Rejected, Missing):
                self._delete_late_duplicates(experiment_id)
        for suspect in suspects:
            with contextlib.suppress(Rejected, Missing):
                self._assert_tags(suspect)

    def _delete_late_duplicates(self, experiment_id: str) -> None:
        bare = [run for run in self._destination.open_runs(experiment_id) if run.bare]
        for run in bare[:_MOST_LOOKUPS]:
            if any(
                twin.ended and not twin.deleted and twin.run_id != run.run_id
                for twin in self._destination.find_runs([experiment_id], run.uid)
            ):
                self._destination.delete_run(run.run_id)

    def _assert_tags(self, suspect: Suspect) -> None:
        """Set the tags that have a value which was replaced; what others have set since stays."""
        if not suspect.final:
            return
        present = self._destination.tags(suspect.run_id)
        back = {
            key: value
            for key, value in suspect.final.items()
            if present.get(key) != value and present.get(key) in suspect.stale.get(key, ())
        }
        if back:
            self._destination.log_batch(suspect.run_id, (), {}, back)


def _named(record: Record) -> str:
    if isinstance(record, ArtifactLogged):
        return f"artifact {record.path!r}"
    if isinstance(record, ModelRegistered):
        return f"version of {record.name!r}"
    return f"model {record.name!r}" if isinstance(record, ModelLogged) else type(record).__name__


def _used(active: Sequence[ServerRun]) -> ServerRun | None:
    """Return which of the *active* runs of one uid its process has used; None where that is open."""
    if len(active) > 1:
        active = [run for run in active if run.ended or not run.bare]
    return active[0] if len(active) == 1 else None
