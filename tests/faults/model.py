"""
A model of MLflow: what its tracking server does with requests, in memory, and what may become of a request.

`Server` has the real one's semantics as delivery meets them: a creation makes another run each time, metric
points are a set, params are written once, of a tag the last value stays, and nothing is logged to a deleted
run. Each request meets the next `Fault` of a script, then whatever the weather is.
"""

from __future__ import annotations

import contextlib
import itertools
import threading

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

from mltrace._records import Dataset, Metric
from mltrace.delivery.destination import (
    DeliveryError,
    Doubtful,
    Failed,
    Missing,
    NotApplied,
    Parked,
    Reachability,
    Rejected,
    ServerRun,
    Suspended,
    Throttled,
    Uncertain,
)


T = TypeVar("T")

POISON = "poison"
"""The key of a param that the server refuses for good."""


class Fault(Enum):
    """What becomes of a request."""

    NONE = "applied and answered"
    LOST = "applied, the answer is lost"
    BROKEN = "applied, and the server fails over the answer"
    REPLAYED = "applied twice, the second is answered"
    REPEATED = "applied and answered; a creation is applied once more later"
    DELAYED = "no answer; applied later"
    CUT = "no answer, not applied"
    FAILED = "the server fails over it, not applied"
    REFUSED = "certainly not applied"
    THROTTLED = "the server asks for a pause"
    SUSPENDED = "the server wants credentials"
    DOUBTFUL = "refused for no good reason"


_NOT_APPLIED: dict[Fault, Callable[[], DeliveryError]] = {
    Fault.CUT: lambda: Uncertain("the connection was reset"),
    Fault.FAILED: lambda: Failed("500"),
    Fault.REFUSED: lambda: NotApplied("connection refused"),
    Fault.THROTTLED: lambda: Throttled("429", 0.01),
    Fault.SUSPENDED: lambda: Suspended("401"),
    Fault.DOUBTFUL: lambda: Doubtful("400 BAD_REQUEST"),
}


@dataclass
class HeldRun:
    """
    A run as the server holds it.

    *stray*: made by a request that landed late or twice, of which no client could know.
    """

    run_id: str
    experiment_id: str
    name: str
    start_time: int
    tags: dict[str, str]
    stray: bool
    params: dict[str, str] = field(default_factory=dict)
    points: set[tuple[str, float | str, int, int]] = field(default_factory=set)
    texts: dict[str, bytes] = field(default_factory=dict)
    status: str = "RUNNING"
    end_time: int | None = None
    deleted: bool = False

    @property
    def uid(self) -> str:
        """The run's uid."""
        return self.tags.get("mltrace.uid", "")

    @property
    def is_bare(self) -> bool:
        """Whether it has neither params nor metrics."""
        return not self.params and not self.points

    @property
    def as_found(self) -> ServerRun:
        """The run as a search returns it."""
        return ServerRun(
            self.run_id,
            f"mlflow-artifacts:/{self.experiment_id}/{self.run_id}/artifacts",
            self.experiment_id,
            deleted=self.deleted,
            ended=self.end_time is not None,
            bare=self.is_bare,
            uid=self.uid,
        )


class Server:
    """The model; any thread may use it."""

    def __init__(self) -> None:
        self.runs: dict[str, HeldRun] = {}
        self.deleted_experiments: set[str] = set()
        self.script: deque[Fault] = deque()
        self.weather = Fault.NONE
        self.late: list[Callable[[], object]] = []
        """Requests that will still be applied."""
        self.met: Counter[Fault] = Counter()
        self.wrongs: list[str] = []
        """What no client may ask for, whatever happened."""
        self._experiments: dict[str, str] = {}
        self._ids = itertools.count(1)
        self._lock = threading.RLock()

    # The script.

    def heal(self) -> None:
        """Be well from now on; what is late stays late."""
        with self._lock:
            self.script.clear()
            self.weather = Fault.NONE
            self.deleted_experiments.clear()

    def land(self, number: int) -> bool:
        """Apply one of the late requests; say whether there was one."""
        with self._lock:
            if not self.late:
                return False
            with contextlib.suppress(DeliveryError):
                self.late.pop(number % len(self.late))()
            return True

    def read(self, answer: Callable[[], T]) -> T:
        """Meet a request that changes nothing."""
        return self.write(lambda stray: answer())

    def write(self, apply: Callable[[bool], T], *, repeats: bool = False) -> T:
        """
        Meet a request; *apply* is told whether no client can know that it was applied. *repeats*: it may be
        applied once more when it was answered.
        """
        with self._lock:
            fault = self.script.popleft() if self.script else self.weather
            self.met[fault] += 1
            if fault in _NOT_APPLIED:
                raise _NOT_APPLIED[fault]()
            if fault is Fault.DELAYED:
                self.late.append(lambda: apply(True))
                raise Uncertain("no answer within 30 s")
            if fault is Fault.REPLAYED:
                apply(True)
            if fault is Fault.REPEATED and repeats:
                self.late.append(lambda: apply(True))
            try:
                answer = apply(False)
            except DeliveryError:
                if fault is not Fault.LOST:
                    raise
            if fault is Fault.LOST:
                raise Uncertain("the connection was closed before the answer")
            if fault is Fault.BROKEN:
                raise Failed("500")
            return answer

    # What requests do.

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, made where needed."""
        if name in self.deleted_experiments:
            raise Parked(f"experiment {name!r} is deleted")
        return self._experiments.setdefault(name, str(len(self._experiments) + 1))

    def experiments(self) -> list[str]:
        """Return the ids of the active experiments."""
        return [one for name, one in self._experiments.items() if name not in self.deleted_experiments]

    def create(
        self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str], stray: bool
    ) -> ServerRun:
        """Make a run, whatever there is already."""
        if experiment_id not in self.experiments():
            raise Rejected(f"experiment {experiment_id} is not active")
        # Ids are in no order that a client could make use of.
        run_id = f"{next(self._ids) * 0x9E3779B1 % 2**32:08x}"
        self.runs[run_id] = HeldRun(run_id, experiment_id, name, start_time, dict(tags), stray)
        return self.runs[run_id].as_found

    def find(self, experiment_ids: Sequence[str], uid: str) -> list[ServerRun]:
        """Return the runs of *uid*, deleted ones too."""
        return [
            run.as_found
            for run in self.runs.values()
            if run.uid == uid and run.experiment_id in experiment_ids
        ]

    def open_runs(self, experiment_id: str) -> list[ServerRun]:
        """Return the active runs that have no end."""
        found = (run for run in self.runs.values() if run.experiment_id == experiment_id)
        return [run.as_found for run in found if not run.deleted and run.end_time is None]

    def delete(self, run_id: str) -> None:
        """Delete a run; only one that never received data may be."""
        run = self.run(run_id)
        if not run.deleted and not run.is_bare:
            self.wrongs.append(f"run {run.name} was deleted with data in it")
        run.deleted = True

    def run(self, run_id: str) -> HeldRun:
        """Return a run."""
        if run_id not in self.runs:
            raise Missing(f"run {run_id} does not exist")
        return self.runs[run_id]

    def active(self, run_id: str) -> HeldRun:
        """Return a run that takes data."""
        if self.run(run_id).deleted:
            raise Rejected(f"run {run_id} must be in the 'active' state")
        return self.runs[run_id]

    def log(
        self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Log a batch: params, then metrics, then tags, and not as a whole."""
        run = self.active(run_id)
        if POISON in params:
            raise Rejected(f"invalid value for parameter {POISON!r}")
        for key, value in params.items():
            if run.params.setdefault(key, value) != value:
                raise Rejected(f"changing param values is not allowed: {key!r}")
        run.points.update((one.key, one.value, one.timestamp, one.step) for one in metrics)
        run.tags.update(tags)

    def end(self, run_id: str, status: str, end_time: int) -> None:
        """Set a run's status and end."""
        run = self.active(run_id)
        run.status, run.end_time = status, end_time

    def twins(self) -> list[HeldRun]:
        """Return the active runs of whose uid there are several that a client must have known of."""
        with self._lock:
            known = [run for run in self.runs.values() if not run.deleted and not run.stray]
        numbers = Counter(run.uid for run in known)
        return [run for run in known if numbers[run.uid] > 1]


class Connection:
    """
    One process's `Destination`; *breathe* is called around each request, and does not return where the
    process is dead. What a *leaving* one still creates, the next one cannot know of.
    """

    connections = 3
    settle_factor = 1.0

    def __init__(self, server: Server, breathe: Callable[[], None], is_leaving: Callable[[], bool]) -> None:
        self._server = server
        self._breathe = breathe
        self._is_leaving = is_leaving
        self._ids: dict[str, str] = {}

    def _read(self, answer: Callable[[], T]) -> T:
        return self._write(lambda stray: answer())

    def _write(self, apply: Callable[[bool], T], *, repeats: bool = False) -> T:
        self._breathe()
        try:
            return self._server.write(apply, repeats=repeats)
        finally:
            self._breathe()

    def probe(self) -> Reachability:
        """Ask whether it is there."""
        return self._read(lambda: Reachability(True, "a model"))

    def experiment(self, name: str) -> str:
        """Return an experiment's id, asked for once."""
        if name not in self._ids:
            self._ids[name] = self._read(lambda: self._server.experiment(name))
        return self._ids[name]

    def forget_experiment(self, name: str) -> None:
        """Ask for the id again."""
        self._ids.pop(name, None)

    def create_run(
        self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str]
    ) -> ServerRun:
        """Create a run."""
        return self._write(
            lambda stray: self._server.create(
                experiment_id, name, start_time, tags, stray or self._is_leaving()
            ),
            repeats=True,
        )

    def find_runs(self, experiment_ids: Sequence[str], uid: str) -> Sequence[ServerRun]:
        """Find runs."""
        return self._read(lambda: self._server.find(list(experiment_ids), uid))

    def tags(self, run_id: str) -> Mapping[str, str]:
        """Return tags."""
        return self._read(lambda: dict(self._server.run(run_id).tags))

    def open_runs(self, experiment_id: str) -> Sequence[ServerRun]:
        """Find open runs."""
        return self._read(lambda: self._server.open_runs(experiment_id))

    def experiments(self) -> Sequence[str]:
        """Return the experiments."""
        return self._read(self._server.experiments)

    def delete_run(self, run_id: str) -> None:
        """Delete a run."""
        self._write(lambda stray: self._server.delete(run_id))

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Log a batch."""
        self._write(lambda stray: self._server.log(run_id, metrics, params, tags))

    def upload(self, run: ServerRun, path: str, content: bytes | str) -> None:
        """Store an artifact."""
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        self._write(lambda stray: self._server.active(run.run_id).texts.update({path: data}))

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str]) -> None:
        """Look whether the run takes it; the model does not keep inputs."""
        self._write(lambda stray: self._server.active(run_id))

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """End a run."""
        self._write(lambda stray: self._server.end(run_id, status, end_time))

    def close(self) -> None:
        """There is nothing to close."""
