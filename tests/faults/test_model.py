"""
Journal and sender against a model of MLflow, under every order of faults that Hypothesis can think of.

The rules log, let requests meet faults, kill processes between any two things that they ask of the system,
damage what the dead leave behind, and have late requests land. At each step the counts add up; in the end, when
all is well again, the model holds what was promised, once.

More of it: ``MLTRACE_FAULTS_EXAMPLES=1000 pytest tests/faults/test_model.py``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import traceback
import zlib

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mltrace import _files, _spool
from mltrace._clock import now_ms
from mltrace._records import ArtifactLogged, Logged, Metric, Record, RunEnded, RunRecorded, RunStarted
from mltrace._spool import DestinationDirectory
from mltrace._survey import DestinationReport, report
from mltrace.backends import SpoolStatus, journal
from mltrace.delivery import acks, breaker, courier, crew, inventory, outbox, sender
from mltrace.delivery.letters import read_office
from tests.faults import mutants
from tests.faults.model import POISON, Connection, Fault, HeldRun, Server
from tests.faults.mortal import Process, mortality
from tests.harness import ended, logged, started, until


EXAMPLES = int(os.environ.get("MLTRACE_FAULTS_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or 100,
    stateful_step_count=30,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    phases=[Phase.generate] if EXAMPLES else list(Phase),
    suppress_health_check=list(HealthCheck),
)

BRISK = {
    (courier, "SETTLE_SECONDS"): 0.01,
    (sender, "COALESCE_SECONDS"): 0.01,
    (sender, "_COLLECT_SECONDS"): 0.002,
    (sender, "ADOPT_SECONDS"): 0.05,
    (breaker, "BACKOFF_BASE"): 0.005,
    (breaker, "BACKOFF_CAP"): 0.02,
    (breaker, "_SUSPENDED_CAP"): 0.02,
    (breaker, "_WAITED_FOR_CAP"): 0.02,
    (breaker, "_LOST_SECONDS"): 0.2,
    (breaker, "_MISSING_SECONDS"): 1e9,
    (journal, "SEGMENT_BYTES"): 1000,
    (acks, "_COMPACT_BYTES"): 2000,
}
"""
What waits in hours of real time is over in no time here. `RECONCILE_SECONDS` stays: requests land as late as the
rules will have it, and the search for duplicates is asked for.
"""

DRAIN_SECONDS = 30.0
PATIENCE_SECONDS = 2.0
"""In the end, for runs and parents that never come, because damage took them."""

WEATHERS = (
    Fault.NONE,
    Fault.NONE,
    Fault.REFUSED,
    Fault.SUSPENDED,
    Fault.CUT,
    Fault.LOST,
    Fault.DELAYED,
    Fault.REPEATED,
)
EXPERIMENTS = ("Default", "other")
CONTEXT = {"host": "model"}
SYSTEM_TAGS = {
    "mltrace.uid",
    "mltrace.kind",
    "mltrace.parent_uid",
    "mltrace.lost",
    "mlflow.parentRunId",
    *CONTEXT,
}

Number = tuple[str, int]
"""A record: the directory of its writer, and its number there."""


@dataclass(frozen=True)
class Item:
    """One thing that was logged, and the records that it came with, any one of which may be damaged."""

    kind: str
    key: str
    value: Any
    numbers: tuple[Number, ...]


@dataclass
class Promise:
    """What was logged to one run."""

    uid: str
    name: str
    experiment: str
    parent: str | None
    process: Process
    items: list[Item] = field(default_factory=list)
    is_open: bool = True

    def of(self, kind: str) -> list[Item]:
        """Return the items of one kind, in order."""
        return [item for item in self.items if item.kind == kind]


class Machine(RuleBasedStateMachine):
    """
    Up to two processes that log to one destination through one spool.

    What a rule draws is a number or a word, and what it means depends on what is there: nothing that is drawn
    depends on the time that threads take.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.patch = patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        for (module, name), value in BRISK.items():
            patch.setattr(module, name, value)
        self.escaped: list[str] = []
        for module in (sender, crew):
            patch.setattr(module, "report", self.escape)
        self.stack.enter_context(mortality())
        self.path = Path(tempfile.mkdtemp(prefix="mltrace-model-"))
        self.stack.callback(shutil.rmtree, self.path)
        self.server = Server()
        self.destination = DestinationDirectory(self.path, "http://model")
        self.promises: dict[str, Promise] = {}
        self.taken: Counter[str] = Counter()
        """How many records each writer has taken for sure."""
        self.unsure = 0
        self.lost: set[Number] = set()
        """Records that damage took from the disk, or that may not have got there: nothing of them is owed."""
        self.unnoticed = False
        """Whether any of these was the last of its segment: nobody may know that it was."""
        self.damages: list[str] = []
        self.forgetful: set[str] = set()
        """Writers whose acknowledgements were damaged."""
        self.counts: dict[str, tuple[int, ...]] = {}
        self.fresh = count()
        self.processes = [self.process()]

    def escape(self, error: Exception) -> None:
        """Take note of a bug of the delivery, which would only be logged."""
        self.escaped.append("".join(traceback.format_exception(error)))

    def process(self, **options: Any) -> Process:
        """Start a process."""
        return Process(
            f"process {next(self.fresh)}",
            self.destination,
            lambda process: Connection(self.server, process.breathe, lambda: process.leaving),
            context=CONTEXT,
            experiment=EXPERIMENTS[0],
            **options,
        )

    # Logging.

    def emit(self, process: Process, *records: Record) -> tuple[Number, ...]:
        """Have *process* log *records*, one after the other, the start of a call as such; return their numbers."""
        assert process.journal is not None
        before = process.journal.accepted

        def log() -> None:
            for record in records:
                if record is not records[-1]:
                    process.journal.begin(record)  # type: ignore[union-attr,arg-type]
                else:
                    process.journal.emit(record)  # type: ignore[union-attr]

        if process.do(log):
            taken = process.journal.accepted - before
            assert process.journal.directory is not None
            writer = process.journal.directory.path.name
            self.taken[writer] += taken
            return tuple((writer, before + 1 + number) for number in range(taken))
        self.unsure += len(records)
        numbers = ((f"unsure {next(self.fresh)}", 0),)
        self.lost.update(numbers)
        return numbers

    def begin(
        self, process: Process, name: str, parent: Promise | None, other: bool
    ) -> tuple[Promise, RunStarted]:
        """Make up a run."""
        experiment = EXPERIMENTS[other]
        start = started(
            name=name,
            experiment=experiment,
            parent=parent.uid if parent else None,
            parent_experiment=parent.experiment if parent else None,
            params={"p": name},
            tags={"t": name},
        )
        promise = Promise(start.run, name, experiment, parent.uid if parent else None, process)
        self.promises[start.run] = promise
        return promise, start

    def keep(self, promise: Promise, record: Record, numbers: tuple[Number, ...]) -> None:
        """Remember what *record* promises."""
        found: list[tuple[str, str, Any]] = []
        if isinstance(record, RunStarted):
            found.append(("start", "", record.time))
        if isinstance(record, (RunStarted, Logged)):
            found += [("param", key, value) for key, value in record.params.items()]
        if isinstance(record, (Logged, RunEnded)):
            found += [
                ("point", one.key, (one.key, one.value, one.timestamp, one.step)) for one in record.metrics
            ]
        if isinstance(record, ArtifactLogged):
            found.append(("text", record.path, record.text))
        elif not isinstance(record, RunRecorded):
            found += [("tag", key, value) for key, value in record.tags.items()]
        if isinstance(record, RunEnded):
            found.append(("end", record.status, record.time))
        promise.items += [Item(*one, numbers) for one in found]

    def log(self, promise: Promise, record: Record, process: Process | None = None) -> None:
        """Log *record* to a run, as its own process or another one."""
        self.keep(promise, record, self.emit(process or promise.process, record))

    def is_any_open(self) -> bool:
        """Say whether a living process has a run open."""
        return any(promise.is_open for promise in self.promises.values())

    def opened(self, which: int) -> Promise:
        """Return one of the runs that living processes have open."""
        found = [promise for promise in self.promises.values() if promise.is_open]
        return found[which % len(found)]

    def above(self, which: int | None) -> Promise | None:
        """Return a parent for a run, if it is to have one."""
        return None if which is None or not self.is_any_open() else self.opened(which)

    which = st.integers(0, 7)

    @rule(second=st.booleans(), parent=st.none() | which, other=st.booleans())
    def start_run(self, second: bool = False, parent: int | None = None, other: bool = False) -> None:
        """Begin a run, below an open one if there is a *parent*."""
        process = self.processes[second % len(self.processes)]
        promise, start = self.begin(process, f"run {next(self.fresh)}", self.above(parent), other)
        self.log(promise, start)

    @rule(second=st.booleans(), parent=st.none() | which)
    def call(self, second: bool = False, parent: int | None = None) -> None:
        """Make a call that is over at once."""
        process = self.processes[second % len(self.processes)]
        promise, start = self.begin(process, f"call {next(self.fresh)}", self.above(parent), False)
        end = ended(start.run, metrics=(Metric("output", 1.0, now_ms()),), tags={"output": promise.name})
        numbers = self.emit(process, start, end)
        self.keep(promise, start, numbers)
        self.keep(promise, end, numbers)
        promise.is_open = False

    @precondition(is_any_open)
    @rule(
        run=which,
        params=st.integers(0, 2),
        points=st.integers(0, 3),
        tags=st.integers(0, 2),
        abroad=st.booleans(),
    )
    def log_some(
        self, run: int = 0, params: int = 0, points: int = 1, tags: int = 0, abroad: bool = False
    ) -> None:
        """Log params, points and tags to a run, from its process or, *abroad*, the other one."""
        promise, when = self.opened(run), now_ms()
        others = [process for process in self.processes if process is not promise.process]
        process = others[0] if abroad and others else promise.process
        record = Logged(
            run=promise.uid,
            time=when,
            params={f"p{next(self.fresh)}": f"{promise.name} {i}" for i in range(params)},
            metrics=tuple(Metric("m", 0.5 + i, when, next(self.fresh)) for i in range(points)),
            # What two processes set has no order among them: each has its own.
            tags={f"{process.name}-{i}": f"value {next(self.fresh)}" for i in range(tags)},
            experiment=None if process is promise.process else promise.experiment,
        )
        self.log(promise, record, process)

    @precondition(is_any_open)
    @rule(run=which)
    def log_text(self, run: int = 0) -> None:
        """Log an artifact."""
        promise, text = self.opened(run), f"text {next(self.fresh)}"
        path = f"{text.replace(' ', '-')}.txt"
        self.log(
            promise, ArtifactLogged(run=promise.uid, time=now_ms(), path=path, text=text, size=len(text))
        )

    @precondition(is_any_open)
    @rule(run=which)
    def log_poison(self, run: int = 0) -> None:
        """Log a param that the server refuses, beside other things."""
        promise = self.opened(run)
        self.log(promise, logged(promise.uid, "m", 0.25, params={POISON: "1"}, tags={"beside": "poison"}))

    @precondition(is_any_open)
    @rule(run=which, status=st.sampled_from(["FINISHED", "FAILED"]))
    def end_run(self, run: int = 0, status: str = "FINISHED") -> None:
        """End a run."""
        promise = self.opened(run)
        key = f"{promise.process.name}-0"
        self.log(promise, ended(promise.uid, status, tags={key: f"last {next(self.fresh)}"}))
        promise.is_open = False

    # Faults.

    @rule(faults=st.lists(st.sampled_from(Fault), min_size=1, max_size=8))
    def meet(self, faults: list[Fault]) -> None:
        """Have the next requests meet *faults*."""
        self.server.script.extend(faults)

    @rule(weather=st.sampled_from(WEATHERS))
    def turn(self, weather: Fault) -> None:
        """Have all later requests meet one kind of fault."""
        self.server.weather = weather

    @rule()
    def delete_experiment(self) -> None:
        """Somebody deletes an experiment on the server; healing restores it."""
        self.server.deleted_experiments.add(EXPERIMENTS[1])

    @rule()
    def heal(self) -> None:
        """Have all be well with the server."""
        self.server.heal()

    @rule(number=which)
    def land(self, number: int = 0) -> None:
        """One of the late requests lands."""
        self.server.land(number)

    # Delivery.

    @rule(second=st.booleans(), seconds=st.sampled_from([0.01, 0.03, 0.1]))
    def flush(self, second: bool = False, seconds: float = 0.1) -> None:
        """Deliver for a moment."""
        process = self.processes[second % len(self.processes)]
        assert process.journal is not None
        assert process.do(process.journal.flush, seconds)

    @rule()
    def sync(self) -> None:
        """Another process delivers what the dead have left, as `mltrace sync` does, and dies in it."""
        process = self.process(mute=True)
        process.do(process.sender.start)
        process.do(process.sender.flush, 0.05)
        process.do(process.sender.reconcile, 0.05)
        process.kill()

    # Life and death.

    @precondition(lambda self: len(self.processes) == 1)
    @rule()
    def join_in(self) -> None:
        """A second process begins to log."""
        self.processes.append(self.process())

    @rule(
        second=st.booleans(),
        fuse=st.none() | st.integers(0, 60),
        damage=st.none() | which,
        place=st.floats(0, 1),
    )
    def crash(
        self, second: bool = False, fuse: int | None = None, damage: int | None = None, place: float = 0.5
    ) -> None:
        """A process dies, *fuse* breaths after now while it delivers or at once; the disk may take *damage*."""
        process = self.processes[second % len(self.processes)]
        assert process.journal is not None
        if fuse is not None:
            process.fuse = fuse
            process.do(process.journal.flush, 0.05)
        self.bury(process, None if damage is None else lambda paths: self.damage(paths, damage, place))

    @precondition(is_any_open)
    @rule(run=which, fuse=st.integers(0, 4))
    def crash_while_logging(self, run: int = 0, fuse: int = 0) -> None:
        """A process dies in the middle of a call, or right after it."""
        promise = self.opened(run)
        promise.process.fuse = fuse
        key = f"{promise.process.name}-0"
        self.log(promise, logged(promise.uid, "m", 0.75, tags={key: f"value {next(self.fresh)}"}))
        self.bury(promise.process)

    @rule(second=st.booleans(), seconds=st.sampled_from([0.0, 0.05]))
    def leave(self, second: bool = False, seconds: float = 0.05) -> None:
        """A process ends in good order."""
        process = self.processes[second % len(self.processes)]
        process.close(seconds)
        self.bury(process)

    def bury(self, process: Process, damage: Callable[[list[Path]], None] | None = None) -> None:
        """Have *process* dead, and a fresh one in its place."""
        process.kill(damage)
        for promise in self.promises.values():
            promise.is_open &= promise.process is not process
        self.processes[self.processes.index(process)] = self.process()

    def damage(self, directories: list[Path], how: int, place: float) -> None:
        """Flip a bit of a file of the dead, or cut its end off: of a segment, or of the acknowledgements."""
        files = [file for path in directories for file in sorted(path.glob("*.seg" if how % 2 else "acks"))]
        files = [file for file in files if file.stat().st_size]
        if not files:
            return
        file = files[how % len(files)]
        content = bytearray(file.read_bytes())
        before = numbers_in(content)
        at = min(int(place * len(content)), len(content) - 1)
        if how & 4:
            del content[at:]
        else:
            content[at] ^= 1
        file.write_bytes(content)
        self.damages.append(
            f"{file.parent.name}/{file.name} at {at}, {before} before, {numbers_in(content)} after"
        )
        if file.name == "acks":
            self.forgetful.add(file.parent.name)
        else:
            after = numbers_in(content)
            self.lost |= {(file.parent.name, number) for number in before - after}
            self.unnoticed |= any(number > max(after, default=0) for number in before - after)

    def status(self) -> SpoolStatus:
        """Return what the first process says."""
        first = self.processes[0].journal
        assert first is not None
        return first.status()

    # What holds at each step.

    @invariant()
    def holds(self) -> None:
        """Nothing escapes, nobody creates blindly, and the counts add up."""
        words = [*self.escaped, *map(str, self.server.twins()), *self.server.wrongs]
        assert not words, "\n".join(words)
        self.counts_add_up()

    def counts_add_up(self) -> None:
        """What a process says of itself adds up, and goes one way only."""
        for process in self.processes:
            assert process.journal is not None
            status = process.journal.status()
            settled = status.delivered + status.dead + sum(status.dropped.values())
            assert status.accepted == settled + status.pending
            assert status.pending >= 0, status
            counts = (status.accepted, status.delivered, status.dead, sum(status.dropped.values()))
            before = self.counts.get(process.name, (0, 0, 0, 0))
            assert all(old <= new for old, new in zip(before, counts, strict=True)), (before, counts)
            self.counts[process.name] = counts
        self.check_survey()

    def check_survey(self) -> DestinationReport:
        """Return what the files say, which adds up."""
        found = report(self.destination)
        assert found.accepted == found.delivered + found.pending + found.dead + sum(found.dropped.values()), (
            found
        )
        assert min(found.accepted, found.delivered, found.pending, found.dead) >= 0, found
        return found

    # The end.

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.settle()
        finally:
            for process in self.processes:
                process.kill()
            self.stack.close()

    def settle(self) -> None:
        """Have all well again and everything delivered; compare the model with what was promised."""
        self.server.heal()
        for process in list(self.processes):
            self.bury(process)
        self.patch.setattr(breaker, "_MISSING_SECONDS", PATIENCE_SECONDS)
        drain = self.process(link_seconds=PATIENCE_SECONDS)
        self.processes.append(drain)
        assert drain.journal is not None
        drain.do(drain.sender.start, drain.journal)
        self.drain(drain)
        self.holds()
        while self.server.land(-1):
            pass
        assert drain.sender.reconcile(DRAIN_SECONDS)
        self.holds()
        drain.kill()
        words = self.differences() + self.miscounts()
        assert not words, "\n".join(words)

    def drain(self, process: Process) -> None:
        """Deliver until nothing is left."""

        def is_done() -> bool:
            process.do(process.sender.flush, 0.1)
            return process.sender.is_idle() and self.check_survey().pending == 0

        until(is_done, DRAIN_SECONDS)

    def miscounts(self) -> list[str]:
        """Return in words what is wrong with the last counts."""
        found = self.check_survey()
        office = read_office(self.destination)
        letters = {(letter.writer, letter.seq) for letter in office.waiting.values() if letter.seq}
        damaged = found.dropped.pop("damaged", 0)
        wrongs = []
        emitted = sum(self.taken.values())
        # Of a killed writer nobody knows the last records whose acknowledgements were damaged.
        unknown = len(self.lost) * self.unnoticed + sum(self.taken[writer] for writer in self.forgetful)
        if not emitted - unknown <= found.accepted <= emitted + self.unsure:
            wrongs.append(f"{found.accepted} accepted, {emitted} emitted")
            finished = self.destination.finished()
            wrongs += self.damages
            wrongs += [
                f"{writer}: {number} emitted, {finished.get(writer)}" for writer, number in self.taken.items()
            ]
        if found.dropped or damaged > len(self.lost):
            wrongs.append(f"{damaged} damaged and {found.dropped} dropped, {len(self.lost)} lost")
        # A letter is written before its record is acknowledged, and damage may come between the two.
        if not self.forgetful and not len(letters - self.lost) <= found.dead <= len(letters):
            wrongs.append(f"{found.dead} dead, {len(letters)} letters")
        return wrongs

    def differences(self) -> list[str]:
        """Return in words how what the model holds differs from what was promised."""
        return Comparison(self).words


def numbers_in(content: bytes | bytearray) -> set[int]:
    """Return the numbers of the whole records in a segment, read by other code than mltrace's."""
    payloads = [bytes(line[9:]) for line in content.split(b"\n")[:-1] if is_whole(bytes(line))]
    return {msgspec.json.decode(payload).get("seq", 0) for payload in payloads}


def is_whole(line: bytes) -> bool:
    """Say whether the checksum of a line holds."""
    return line[:9] == b"%08x " % zlib.crc32(line[9:])


class Comparison:
    """What the model holds beside what was promised; the differences are its *words*."""

    def __init__(self, machine: Machine) -> None:
        self.words: list[str] = []
        self._machine = machine
        self._dead = dead_items(machine.destination)
        self._runs: dict[str, list[HeldRun]] = {}
        for run in machine.server.runs.values():
            if not run.deleted:
                self._runs.setdefault(run.uid, []).append(run)
        self.words += [f"a run {uid} that nobody began" for uid in self._runs if uid not in machine.promises]
        for promise in machine.promises.values():
            self._compare(promise)

    def _is_owed(self, promise: Promise, item: Item) -> bool:
        dead = self._dead.get(promise.uid, set())
        return (
            not self._machine.lost.intersection(item.numbers)
            and (item.kind, item.key) not in dead
            and not any(("record", number) in dead for _, number in item.numbers)
        )

    def _is_known(self, promise: Promise) -> bool:
        """Say whether the start of the run is owed."""
        return all(self._is_owed(promise, item) for item in promise.of("start"))

    def _compare(self, promise: Promise) -> None:
        runs = self._runs.get(promise.uid, [])
        owed = [item for item in promise.items if self._is_owed(promise, item)]
        has_lost_its_end = self._may_run(promise) and not any(run.end_time for run in runs)
        if len(runs) > 1 and (len(owed) < len(promise.items) or has_lost_its_end):
            # A run that has lost its end is no proof that one beside it is a duplicate.
            runs = [run for run in runs if not run.is_bare] or runs[:1]
        if len(runs) != 1:
            if runs or owed:
                self._differ(promise, f"{len(runs)} runs: {runs}")
            return
        (run,) = runs
        if self._is_known(promise):
            self._equal(promise, "name", promise.name, run.name)
            self._equal(promise, "start", promise.of("start")[0].value, run.start_time)
        self._compare_values(promise, run, owed)
        self._compare_tags(promise, run)
        self._compare_end(promise, run)
        self._compare_parent(promise, run)

    def _compare_values(self, promise: Promise, run: HeldRun, owed: list[Item]) -> None:
        for kind, held in (
            ("param", set(run.params.items())),
            ("point", {(point[0], point) for point in run.points}),
            ("text", {(path, content.decode()) for path, content in run.texts.items()}),
        ):
            wanted = {(item.key, item.value) for item in owed if item.kind == kind}
            known = {(item.key, item.value) for item in promise.of(kind)}
            if wanted - held or held - known:
                self._differ(promise, f"{kind}: lacks {wanted - held}, has foreign {held - known}")

    def _compare_tags(self, promise: Promise, run: HeldRun) -> None:
        """The last value that is owed, or one after it that was sent before it was lost."""
        known: dict[str, set[str | None]] = {}
        for item in promise.of("tag"):
            values = known.setdefault(item.key, {None})
            if self._is_owed(promise, item):
                values.clear()
            values.add(item.value)
        for key, value in run.tags.items():
            if key not in SYSTEM_TAGS and value not in known.get(key, ()):
                self._differ(promise, f"tag {key}: {value}, not {known.get(key)}")
        for key, values in known.items():
            if key not in run.tags and None not in values:
                self._differ(promise, f"lacks tag {key}: {values}")

    def _compare_end(self, promise: Promise, run: HeldRun) -> None:
        ends = promise.of("end")
        if ends and self._is_owed(promise, ends[0]):
            self._equal(promise, "end", (ends[0].key, ends[0].value), (run.status, run.end_time))
        elif run.status == "RUNNING" and not self._may_run(promise):
            self._differ(promise, "is open")
        elif run.status not in ("RUNNING", "KILLED", *(end.key for end in ends)):
            self._differ(promise, f"is {run.status}")

    def _may_run(self, promise: Promise) -> bool:
        """Say whether nobody may know that the run is open: its start, or what became of it, was damaged."""
        writers = {writer for item in promise.of("start") for writer, _ in item.numbers}
        return (
            not self._is_known(promise)
            or bool(self._machine.forgetful & writers)
            or any(kind == "end" for kind, _ in self._dead.get(promise.uid, ()))
        )

    def _compare_parent(self, promise: Promise, run: HeldRun) -> None:
        if promise.parent is None:
            self._equal(promise, "parent", None, run.tags.get("mlflow.parentRunId"))
            return
        parents = self._runs.get(promise.parent, [])
        above = self._machine.promises[promise.parent]
        if len(parents) == 1 and self._is_known(promise) and self._is_known(above):
            self._equal(promise, "parent", parents[0].run_id, run.tags.get("mlflow.parentRunId"))

    def _equal(self, promise: Promise, what: str, expected: object, actual: object) -> None:
        if expected != actual:
            self._differ(promise, f"{what}: {actual}, not {expected}")

    def _differ(self, promise: Promise, what: str) -> None:
        self.words.append(f"{promise.name} ({promise.uid[:6]}) {what}")


def dead_items(destination: DestinationDirectory) -> dict[str, set[tuple[str, Any]]]:
    """Return by run what is among the dead letters: items, and whole records by their number."""
    found: dict[str, set[tuple[str, Any]]] = {}
    for letter in read_office(destination).waiting.values():
        dead = found.setdefault(letter.run, set())
        kind, _, key = letter.what.partition(" ")
        key = key.strip("'")
        if kind == "metric":
            dead.add(("point", key))
        elif kind == "artifact":
            dead.add(("text", key))
        elif kind in ("param", "tag", "end"):
            dead.add((kind, key))
        else:
            dead |= {("record", letter.seq), *([("end", "")] * letter.what.startswith("RunEnded"))}
    return found


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """Take the safeguard *name* out, and put it back at the end of the block."""
    places: list[Any] = [_files, _spool, inventory, courier.Courier, outbox.Box]
    before = [dict(vars(place)) for place in places]
    mutants.switch_on(name)
    try:
        yield
    finally:
        for place, attributes in zip(places, before, strict=True):
            for key in vars(place).keys() - attributes.keys():
                delattr(place, key)
            for key, value in attributes.items():
                if vars(place)[key] is not value:
                    setattr(place, key, value)


# What the rules can do, in the order that each safeguard is there for.


def lost_answer(machine: Machine) -> None:
    """The answer to a creation is lost."""
    machine.meet([Fault.NONE, Fault.LOST])  # before there is anything to send: the sender does not wait
    machine.start_run()
    machine.flush()
    machine.end_run()


def late_creation(machine: Machine) -> None:
    """A creation lands when its run has ended long since."""
    machine.meet([Fault.NONE, Fault.DELAYED])
    machine.start_run()
    machine.end_run()
    delivered(machine)


def repeated_creation(machine: Machine) -> None:
    """A creation that was answered lands once more when its process is gone."""
    machine.meet([Fault.NONE, Fault.REPEATED])
    machine.start_run()
    machine.end_run()
    delivered(machine)
    assert machine.server.met[Fault.REPEATED]
    machine.crash()


def killed_in_an_outage(machine: Machine) -> None:
    """The process dies while the server cannot be reached."""
    machine.turn(Fault.REFUSED)
    machine.start_run()
    until(lambda: machine.flush() or machine.server.met[Fault.REFUSED])
    machine.crash()


def flipped_bit(machine: Machine) -> None:
    """One letter of a param is another one on the disk."""
    machine.turn(Fault.REFUSED)
    machine.start_run()
    (segment,) = machine.destination.path.glob("*/*.seg")
    content = segment.read_bytes()
    place = content.index(b'"p":"run') + 5
    machine.crash(damage=1, place=(place + 0.5) / len(content))


def parent_out_of_sight(machine: Machine) -> None:
    """A creation that names the parent's run is refused; when it is tried again the parent cannot be looked up."""
    machine.join_in()
    machine.start_run(second=True, other=True)
    until(lambda: machine.flush(second=True) or machine.server.runs)
    ahead = [Fault.NONE] * 3  # two experiments, and the parent
    machine.meet([*ahead, Fault.REFUSED, Fault.DOUBTFUL])  # the creation, and the parent
    machine.start_run(parent=0)
    until(lambda: machine.flush() or len(machine.server.runs) == 2)
    assert "mltrace.parent_uid" in [*machine.server.runs.values()][1].tags


def creation_forgotten(machine: Machine) -> None:
    """Damage takes from the acknowledgements that a run was created, not that something of it was given up."""
    machine.start_run()
    machine.log_poison()
    machine.end_run()
    delivered(machine)

    def damage(directories: list[Path]) -> None:
        (directory,) = directories
        acks = bytearray((directory / "acks").read_bytes())
        acks[acks.index(b'{"type":"created"') - 10] ^= 1  # the line feed before it, so *creating* is gone too
        (directory / "acks").write_bytes(acks)
        machine.forgetful.add(directory.name)

    machine.bury(machine.processes[0], damage)


def killed_before_the_link(machine: Machine) -> None:
    """The process dies when a run has ended whose parent is not there: of its start the link is missing."""
    machine.join_in()
    machine.turn(Fault.REFUSED)
    machine.start_run(second=True)
    machine.start_run(parent=0)
    machine.end_run(run=1)
    machine.crash(second=True, damage=5, place=0.0)  # the parent's start is gone
    machine.heal()
    until(lambda: machine.flush() or any(run.end_time for run in machine.server.runs.values()))
    machine.crash()


def set_back_in_flight(machine: Machine) -> None:
    """The process dies over a request for a tag, which lands after the tag's later value."""
    begun(machine)
    machine.meet([Fault.DELAYED])
    machine.turn(Fault.REFUSED)
    machine.log_some(points=0, tags=1)
    until(lambda: machine.flush() or machine.server.met[Fault.DELAYED])
    machine.log_some(points=0, tags=1)
    machine.crash()


def set_back_later(machine: Machine) -> None:
    """The process dies when both values have been set; then the first lands once more."""
    begun(machine)
    machine.meet([Fault.DELAYED])
    for _ in range(2):
        machine.log_some(points=0, tags=1)
        delivered(machine)
    machine.crash()


def set_back_abroad(machine: Machine) -> None:
    """
    A process sets a tag of another one's run; the request lands late, when it was made once more, and a later
    value was set.
    """
    machine.join_in()
    machine.start_run(second=True)
    until(lambda: machine.flush(second=True) or machine.server.runs)
    machine.meet([Fault.NONE] * 2 + [Fault.DELAYED])  # the experiment, the run; the tag
    for _ in range(2):
        machine.log_some(points=0, tags=1, abroad=True)
        delivered(machine)
    assert machine.server.met[Fault.DELAYED]
    machine.crash()


def there_and_back(machine: Machine) -> None:
    """A tag gets its first value again, whose first request was not answered."""
    promise = begun(machine)
    machine.meet([Fault.CUT])
    for value in ("one", "two", "one"):
        machine.log(promise, logged(promise.uid, metrics=(), tags={"there": value}))
        delivered(machine)
    machine.end_run()
    delivered(machine)


def repeated_tag(machine: Machine) -> None:
    """The request for a tag's first value, which was answered, lands once more when the run has ended."""
    promise = begun(machine)
    for value in ("one", "two"):
        machine.log(promise, logged(promise.uid, metrics=(), tags={"there": value}))
        delivered(machine)
    (run,) = machine.server.runs.values()
    machine.server.late.append(lambda: machine.server.log(run.run_id, (), {}, {"there": "one"}))
    machine.end_run()
    delivered(machine)
    machine.crash()


def begun(machine: Machine) -> Promise:
    """Have a run that is on the server and open."""
    machine.start_run()
    delivered(machine)
    return machine.opened(0)


def delivered(machine: Machine) -> None:
    """Have all delivered that the first process has logged."""
    until(lambda: machine.flush() or machine.status().pending == 0)


SCRIPTS = {
    "no_ambiguous_state": lost_answer,
    "no_reconciliation": late_creation,
    "acknowledge_before_the_reply": killed_in_an_outage,
    "no_checksum": flipped_bit,
}


def play(script: Callable[[Machine], None]) -> None:
    """Run *script* on a machine of its own, to the end."""
    machine = Machine()
    try:
        script(machine)
    finally:
        machine.teardown()


def test_model() -> None:
    """Whatever becomes of requests, processes and files: nothing is lost, twice, or wrong but what damage took."""
    run_state_machine_as_test(Machine, settings=SETTINGS)


@pytest.mark.parametrize(
    "script",
    [
        *SCRIPTS.values(),
        repeated_creation,
        creation_forgotten,
        killed_before_the_link,
        parent_out_of_sight,
        set_back_in_flight,
        set_back_later,
        set_back_abroad,
        there_and_back,
        repeated_tag,
    ],
)
def test_script(script: Callable[[Machine], None]) -> None:
    """Orders of events that tell mltrace from its mutants, or from what it once was, are harmless to it."""
    play(script)


@pytest.mark.parametrize("name", SCRIPTS)
def test_mutant(name: str) -> None:
    """The machine objects to an mltrace without one of its safeguards."""
    with mutated(name), pytest.raises(AssertionError):
        play(SCRIPTS[name])


@pytest.mark.parametrize("request_", ["experiment", "create_run"])
def test_left_behind(request_: str) -> None:
    """What a closed sender still has under way makes no second run beside the next process's."""

    def left_behind(machine: Machine) -> None:
        first, second = machine.processes[0], machine.process()
        machine.processes.append(second)
        asked, go_on = threading.Event(), threading.Event()
        real = getattr(Connection, request_)

        def slow(self: Connection, *arguments: Any) -> Any:
            if threading.current_thread() in first.sender.workers:
                asked.set()
                go_on.wait(10)
            return real(self, *arguments)

        machine.patch.setattr(Connection, request_, slow)
        machine.start_run()
        assert asked.wait(10)
        first.close(0)
        second.do(second.sender.start, second.journal)
        until(lambda: machine.check_survey().pending == 0)
        go_on.set()
        for worker in first.sender.workers:
            worker.join(10)
        machine.bury(first)

    play(left_behind)
