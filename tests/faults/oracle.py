"""
The oracle: what clients were promised, kept outside of them, and the comparison with what a server holds.

A client writes a line to a pipe *before* it begins a run (its plan, from which every expected value
follows) and *after* each logging call has returned (an obligation). A process of its own reads the
pipe and stores the lines, so that a client's death takes nothing along. Lines are shorter than
`PIPE_BUF`: each arrives whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.server import MlflowServer


STOP = b"stop\n"
NAN_EVERY = 7


class Plan(NamedTuple):
    """
    One run as a client means to log it: so many params, points of the metric ``m``, tags, texts.

    *parent* is a name, *status* how it is to end. *call*: a decorated call, which is one record.
    """

    name: str
    parent: str = ""
    params: int = 0
    points: int = 0
    tags: int = 0
    texts: int = 0
    status: str = "FINISHED"
    call: bool = False

    @property
    def items(self) -> list[str]:
        """What is logged, a record each, in order."""
        if self.call:
            return ["call"]
        parts = (("p", self.params), ("m", self.points), ("t", self.tags), ("a", self.texts))
        return ["start", *(f"{kind}{i}" for kind, count in parts for i in range(count)), "end"]


def point(step: int) -> float:
    """Return the value of the metric point at *step*."""
    return math.nan if step % NAN_EVERY == NAN_EVERY - 1 else step + 0.5


def text(name: str, item: str) -> str:
    """Return the value of a param, tag or text."""
    return f"{name}/{item}"


class Ledger:
    """The client's end of the pipe."""

    def __init__(self, pipe: str) -> None:
        self._descriptor = os.open(pipe, os.O_WRONLY)

    def intend(self, plan: Plan) -> None:
        """Say what is about to be logged."""
        self._write(["plan", *plan])

    def owe(self, name: str, item: str, began_ms: int, uid: str = "") -> None:
        """Say that a call that began at *began_ms* has returned: from now on *item* is owed."""
        self._write(["owe", name, item, began_ms, time.time_ns() // 1_000_000, uid])

    def note(self, *words: object) -> None:
        """Say something else that the row wants to know."""
        self._write(["note", *words])

    def _write(self, line: list[Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        assert len(data) < 4096
        os.write(self._descriptor, data)


class Owed(NamedTuple):
    """One obligation."""

    name: str
    item: str
    began_ms: int
    returned_ms: int
    uid: str


class Book(NamedTuple):
    """All that clients have said."""

    plans: dict[str, Plan]
    owed: list[Owed]
    notes: list[list[Any]]


class Oracle:
    """The process that stores what clients say."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.pipe = str(directory / "pipe")
        self._file = directory / "book"
        os.mkfifo(self.pipe)
        command = [sys.executable, "-m", "tests.faults.oracle", self.pipe, str(self._file)]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[2])

    def kill(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> Book:
        """Return all that was said, once every client is gone."""
        descriptor = os.open(self.pipe, os.O_WRONLY)
        os.write(descriptor, STOP)
        os.close(descriptor)
        self._process.wait(60)
        plans: dict[str, Plan] = {}
        owed: list[Owed] = []
        notes: list[list[Any]] = []
        for line in self._file.read_text().splitlines():
            kind, *fields = json.loads(line)
            if kind == "plan":
                plans[fields[0]] = Plan(*fields)
            elif kind == "owe":
                owed.append(Owed(*fields))
            else:
                notes.append(fields)
        return Book(plans, owed, notes)


def store(pipe: str, file: str) -> None:
    """Read the pipe until somebody says stop."""
    with open(os.open(pipe, os.O_RDWR), "rb") as source, open(file, "wb", buffering=0) as target:
        for line in source:
            if line == STOP:
                return
            target.write(line)


# The comparison.


class Verdict(NamedTuple):
    """
    How what the server holds differs from what was promised: numbers of obligations, and the first
    differences of each kind in words.
    """

    obligations: int = 0
    lost: int = 0
    duplicated: int = 0
    foreign: int = 0
    wrong: int = 0
    words: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether there is no difference."""
        return not (self.lost or self.duplicated or self.foreign or self.wrong)


class _Differences:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.words: list[str] = []

    def add(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        self.words.append(f"{kind}: {what}")


def compare(book: Book, server: MlflowServer, experiments: Sequence[str]) -> Verdict:
    """Compare what was promised with what the server's REST API holds in *experiments*."""
    found = _Differences()
    runs = [run for experiment in experiments for run in server.runs(experiment)]
    by_name: dict[str, list[dict[str, Any]]] = {}
    by_uid = {run["tags"].get("mltrace.uid"): run for run in runs}
    names = {one.uid: one.name for one in book.owed if one.uid}
    for run in runs:
        lost = "mltrace.lost" in run["tags"]  # the name too, so it is found by its uid
        by_name.setdefault(names.get(run["tags"].get("mltrace.uid"), "") if lost else run["name"], []).append(
            run
        )
    for name, same in by_name.items():
        if name not in book.plans:
            found.add("foreign", f"a run {name!r} that nobody began")
        for extra in same[1:]:
            found.add("duplicated", f"run {name!r} again, {extra['id']}")
    owed: dict[str, dict[str, Owed]] = {}
    for one in book.owed:
        owed.setdefault(one.name, {})[one.item] = one
    with ThreadPoolExecutor(4) as pool:
        judged = pool.map(
            lambda name: _judge(book, name, owed[name], by_name, by_uid, server, found), list(owed)
        )
        list(judged)
    return Verdict(
        len(book.owed),
        *(found.counts[kind] for kind in ("lost", "duplicated", "foreign", "wrong")),
        words=tuple(
            word
            for kind in ("wrong", "foreign", "duplicated", "lost")
            for word in [word for word in found.words if word.startswith(kind)][:10]
        ),
    )


def _judge(
    book: Book,
    name: str,
    owed: dict[str, Owed],
    by_name: dict[str, list[dict[str, Any]]],
    by_uid: dict[str | None, dict[str, Any]],
    server: MlflowServer,
    found: _Differences,
) -> None:
    plan = book.plans[name]
    uid = next((one.uid for one in owed.values() if one.uid), "")
    run = by_uid.get(uid) or next(iter(by_name.get(name, ())), None)
    if run is None:
        for item in owed:
            found.add("lost", f"{name} {item}: there is no such run")
        return
    points = server.metric_history(run["id"], "m") if plan.points else []
    texts = server.artifacts(run["id"]) if plan.texts else []
    by_step: dict[int, list[dict[str, Any]]] = {}
    for one in points:
        by_step.setdefault(one["step"], []).append(one)
    for step, same in by_step.items():
        for _ in same[1:]:
            found.add("duplicated", f"{name} point {step}")
        if step >= plan.points:
            found.add("foreign", f"{name} point {step}")
        elif not _equal(same[0]["value"], point(step)):
            found.add("wrong", f"{name} point {step} is {same[0]['value']}")
    for item, one in owed.items():
        kind, number = item[0], item[1:]
        if kind == "m":
            _judge_point(one, by_step.get(int(number), []), found)
        elif kind in "pt" and number.isdigit():
            held = run["params" if kind == "p" else "tags"].get(item)
            if held is None:
                found.add("lost", f"{name} {item}")
            elif held != text(name, item):
                found.add("wrong", f"{name} {item} is {held!r}")
        elif kind == "a":
            if f"{item}.txt" not in texts:
                found.add("lost", f"{name} {item}.txt")
            elif server.artifact_text(run["id"], f"{item}.txt") != text(name, item):
                found.add("wrong", f"{name} {item}.txt")
    _judge_latest(plan, owed, run, found)
    _judge_whole(book, plan, owed, run, by_name, found)


def _judge_point(owed: Owed, held: list[dict[str, Any]], found: _Differences) -> None:
    if not held:
        found.add("lost", f"{owed.name} {owed.item}")
    elif not owed.began_ms - 1 <= held[0]["timestamp"] <= owed.returned_ms + 1 + int(owed.item[1:]):
        # Points of one key and millisecond are set a millisecond apart.
        found.add("wrong", f"{owed.name} {owed.item} is of {held[0]['timestamp']}, not {owed.began_ms}")


def _judge_latest(plan: Plan, owed: dict[str, Owed], run: dict[str, Any], found: _Differences) -> None:
    """The tag ``latest`` is set with every tag: it says the last that is there, or one that was under way."""
    numbers = [int(item[1:]) for item in owed if item[0] == "t" and item in run["tags"]]
    held = run["tags"].get("latest")
    if numbers and (held is None or not max(numbers) <= int(held) < plan.tags):
        found.add("wrong", f"{plan.name} latest is {held}, {max(numbers)} was set")


def _judge_whole(
    book: Book,
    plan: Plan,
    owed: dict[str, Owed],
    run: dict[str, Any],
    by_name: dict[str, list[dict[str, Any]]],
    found: _Differences,
) -> None:
    name = plan.name
    start, end = owed.get("start") or owed.get("call"), owed.get("end") or owed.get("call")
    if "mltrace.lost" in run["tags"]:
        found.add("lost", f"{name} start")
    elif start is not None:
        if not start.began_ms - 1 <= run["start_time"] <= start.returned_ms + 1:
            found.add("wrong", f"{name} began at {run['start_time']}, not {start.began_ms}")
        held = run["tags"].get("mlflow.parentRunId")
        parents = [parent["id"] for parent in by_name.get(plan.parent, ())]
        if held not in parents and (held or parents):
            found.add("wrong", f"{name} has the parent {held}, not {plan.parent or 'none'}")
    if plan.call and run["metrics"].get("output") != len(name):
        found.add("wrong", f"{name} output is {run['metrics'].get('output')}")
    if end is not None and run["status"] == plan.status and run["end_time"]:
        if not end.began_ms - 1 <= run["end_time"] <= end.returned_ms + 1:
            found.add("wrong", f"{name} ended at {run['end_time']}, not {end.began_ms}")
    elif end is not None:
        found.add(
            "lost" if run["status"] in ("RUNNING", "KILLED") else "wrong", f"{name} end: {run['status']}"
        )
    elif run["status"] not in ("KILLED", plan.status) or not run["end_time"]:
        found.add("wrong", f"{name} was left open and is {run['status']}")


def _equal(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


if __name__ == "__main__":
    store(sys.argv[1], sys.argv[2])
