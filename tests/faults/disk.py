"""The rows of faults F11 to F18: disks, clocks, poison, processes that stop, and people who delete things."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.faults.harness import AWAY, BRISK, Bench, Progress, Row, faulty, in_parallel, kill, readdress
from tests.faults.oracle import Verdict
from tests.harness import until


PROJECT = Path(__file__).parents[2]
SMALL_MEMORY = {**BRISK, "mltrace.backends.journal.MEMORY_BYTES": 32 << 10}
BRISK_DISK = {"mltrace.backends.journal._RETRY_DISK_SECONDS": 0.05}


class NoDisk(Exception):
    """A small file system cannot be mounted here."""


@contextlib.contextmanager
def small_disk(path: Path, kibibytes: int) -> Iterator[Path]:
    """Mount a file system of so many KiB; raise `NoDisk` where that is not allowed."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k,mode=0700", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise NoDisk("mounting a tmpfs needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)


def f11_disk_full(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F11: a full disk while the server is away, and space again; every third client dies meanwhile."""
    row = Row("F11", "disk full, then space again", repetitions)
    drops: list[int] = []
    with faulty(bench) as proxy:
        proxy.refuse()
        for number in range(repetitions):
            killed = number % 3 == 2
            name = f"d{number}"
            with small_disk(bench.directory / f"disk{number}", 160) as disk:
                bench.spools.append(str(disk / "spool"))
                task = bench.task(
                    "rough", proxy.url, bench.spools[-1], name, seed=number,
                    tune={**SMALL_MEMORY, **BRISK_DISK}, settings={"exit_timeout": 0},
                    extra={"points": 400, "incident": "full", "killed": killed, "leave": "close", "flush": 0},
                )  # fmt: skip
                client = bench.start(task)
                until(lambda name=name: (bench.directory / f"{name}.ready0").exists(), 60)  # type: ignore[misc]
                _fill(disk)
                (bench.directory / f"{name}.go0").touch()
                until(lambda name=name: (bench.directory / f"{name}.ready1").exists(), 60)  # type: ignore[misc]
                if not killed:
                    (disk / "ballast").unlink()
                (bench.directory / f"{name}.go1").touch()
                client.join(60)
                (disk / "ballast").unlink(missing_ok=True)
                proxy.accept()
                bench.drain(proxy.url, spools=[bench.spools[-1]])
                proxy.refuse()
            step()
    book = bench.finish(row)
    drops += [sum(note[4].values()) for note in book.notes if note[0] == "drained"]
    _allow_counted(row, sum(drops))
    return row


def _fill(disk: Path) -> None:
    """Leave nothing."""
    with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def _allow_counted(row: Row, dropped: int, *, unsaid: int = 0) -> None:
    """
    What was counted as dropped may be missing, and exactly that.

    *unsaid*: so many clients may have died between a call's return and their word to the oracle.
    """
    row.dropped = dropped
    lost = row.verdict.lost
    if not 0 <= dropped - lost <= unsaid:
        row.trouble.append(f"{lost} obligations are missing, {dropped} records were counted as dropped")
    row.verdict = Verdict(*row.verdict[:1], 0, *row.verdict[2:])


def f12_spool_unusable(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F12: a spool that becomes read-only or is deleted, descriptors exhausted; the server is there."""
    row = Row("F12", "read-only or deleted spool directory, descriptors exhausted", 0)
    for number in range(repetitions):
        for kind in ("read-only", "deleted", "descriptors"):
            name = f"u{number}-{kind}"
            place = bench.directory / name
            with small_disk(place, 4096) as disk:
                spool = disk / "spool"
                if kind == "read-only":
                    _remount(disk, "ro")
                task = bench.task(
                    "rough", bench.server.url, str(spool), name, seed=number,
                    tune={**BRISK, **BRISK_DISK}, extra={"points": 60, "incident": kind},
                )  # fmt: skip
                client = bench.start(task)
                if kind != "descriptors":
                    _disturb(bench, name, kind, disk, spool)
                client.join(90)
                if client.exitcode:
                    row.trouble.append(f"{name} ended with {client.exitcode}")
                bench.drain(spools=[str(spool)])
            row.repetitions += 1
        step()
    bench.finish(row)
    return row


def _remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode},size=4096k", str(disk)], capture_output=True, check=True)


def _disturb(bench: Bench, name: str, kind: str, disk: Path, spool: Path) -> None:
    """Delete the spool while it is in use; or make one writable that the client found read-only."""
    for part in range(2):
        until(lambda part=part: (bench.directory / f"{name}.ready{part}").exists(), 60)  # type: ignore[misc]
        if part == 0 and kind == "read-only":
            _remount(disk, "rw")
        elif part == 0:
            shutil.rmtree(spool)
        (bench.directory / f"{name}.go{part}").touch()


DAMAGE = ("flip", "digit", "cut", "torn", "zeros", "swap", "acks flip", "acks cut", "acks gone", "acks zeros")


def f13_damage(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F13: a damaged spool: what is gone is counted, what is left arrives, nothing comes twice."""
    row = Row("F13", "damaged spool: " + ", ".join(DAMAGE), 0)
    rng = random.Random(bench.seed)
    for number in range(repetitions):
        tasks, kinds = [], []
        for kind in DAMAGE:
            name = f"g{number}-{kind.replace(' ', '-')}"
            started = kind.startswith("acks")
            task = bench.task(
                "backlog", bench.server.url if started else AWAY, bench.spool(), name,
                seed=number, runs=3, settings={"exit_timeout": 0, "spool_limit_bytes": 256 << 10},
                extra={"points": 300, "plain": True, "leave": "exit" if started else "close", "flush": 0},
            )  # fmt: skip
            tasks.append(task)
            kinds.append(kind)
        bench.run(tasks)
        for task, kind in zip(tasks, kinds, strict=True):
            _damage(Path(task.spool), kind, rng)
            readdress(Path(task.spool), bench.server.url)
            row.repetitions += 1
            step()
    bench.drain()
    book = bench.finish(row)
    _allow_counted(row, sum(sum(note[4].values()) for note in book.notes if note[0] == "drained"))
    return row


def _damage(spool: Path, kind: str, rng: random.Random) -> None:
    """Damage what the one writer in *spool* has left."""
    writers = [path.parent for path in spool.glob("*/*/owner.json")]
    if not writers:
        return  # everything was delivered before
    (writer,) = writers
    if kind.startswith("acks") and not (writer / "acks").exists():
        return  # it ended before its delivery began
    segments = sorted(writer.glob("*.seg"))
    file = writer / "acks" if kind.startswith("acks") else rng.choice(segments)
    if kind == "cut":
        file = segments[-1]
    if kind == "swap":
        if len(segments) > 1:
            one, other = rng.sample(segments, 2)
            one.rename(writer / "tmp")
            other.rename(one)
            (writer / "tmp").rename(other)
        return
    if kind == "acks gone":
        file.unlink(missing_ok=True)
        return
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    if kind.endswith("flip"):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "digit":
        place = data.index(b'["m",', at) if b'["m",' in data[at:] else data.index(b'["m",')
        digit = next(i for i in range(place + 5, len(data)) if chr(data[i]).isdigit())
        data[digit] = ord("1") + (data[digit] - ord("0")) % 9
    elif kind.endswith("cut"):
        del data[at:]
    elif kind == "torn":
        del data[at : at + rng.randrange(1, 40)]
    else:
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    file.write_bytes(bytes(data))


def f14_clock(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F14: the wall clock is a day back or ten years ahead, from the start or from one moment to the next."""
    row = Row("F14", "clock one day back, ten years ahead", 0)
    tasks = []
    for number in range(repetitions):
        for shift in (-86_400.0, 315_360_000.0):
            for how in ("clock", "jump"):
                spool = bench.spool()
                options: dict[str, Any] = {"clock": shift} if how == "clock" else {"extra": {"jump": shift}}
                away = AWAY if number % 2 else bench.server.url
                task = bench.task("work", away, spool, f"t{len(tasks)}", seed=number, runs=2, **options)
                if number % 2:
                    task = replace(task, extra={**task.extra, "leave": "exit"})
                tasks.append(task)
        step()
    bench.run(tasks)
    row.repetitions = len(tasks)
    for task in tasks:
        readdress(Path(task.spool), bench.server.url)
    bench.drain()
    bench.finish(row)
    return row


POISON: dict[str, dict[str, Any]] = {
    "param key of 251": {"params": {"k" * 251: "1"}},
    "param key with a bad character": {"params": {"a\tb": "1"}},
    "param key that climbs": {"params": {"../x": "1"}},
    "param value of 6001": {"params": {"p": "x" * 6001}},
    "param that is a number": {"params": {"p": 7}},
    "param with half a character": {"params": {"p": "\ud800"}},
    "tag key of 251": {"tags": {"k" * 251: "1"}},
    "tag value of 8001": {"tags": {"t": "x" * 8001}},
    "tag that is null": {"tags": {"t": None}},
    "metric key with a bad character": {"metric": ("m\tx", 1.0, 1, 0)},
    "metric key of 251": {"metric": ("m" * 251, 1.0, 1, 0)},
    "metric 'nan'": {"metric": ("x", "nan", 1, 0)},
    "metric 'abc'": {"metric": ("x", "abc", 1, 0)},
    "metric that is null": {"metric": ("x", None, 1, 0)},
    "metric beyond a double": {"metric": ("x", 10**400, 1, 0)},
    "step of 2^63": {"metric": ("x", 1.0, 1, 2**63)},
    "timestamp of 2^63": {"metric": ("x", 1.0, 2**63, 0)},
    "timestamp below zero": {"metric": ("x", 1.0, -1, 0)},
    "timestamp with a fraction": {"metric": ("x", 1.0, 1.5, 0)},
    "experiment of 600": {"experiment": "e" * 600},
}
"""Fields of a record that MLflow refuses, or answers with 200 and drops the rest of its batch."""


HARMLESS = ("param value of 6001", "param with half a character", "tag value of 8001", "experiment of 600")
"""Cut by the server; not written at all; not looked at, for a run that is there."""


def f15_poison(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F15: every limit and ill-typed value among good records: it alone is given up, counted once."""
    row = Row("F15", "limits and ill-typed values as poison records", len(POISON) * repetitions)
    tasks = [
        bench.task("poison", bench.server.url, bench.spool(), f"v{round_}-{number}", extra={"poison": fields})
        for round_ in range(repetitions)
        for number, fields in enumerate(POISON.values())
    ]
    codes = bench.run(tasks)
    for task, code in zip(tasks, codes, strict=True):
        if code:
            row.trouble.append(f"{task.name} ended with {code}")
        step()
    bench.drain()
    book = bench.finish(row)
    row.trouble = [word for word in row.trouble if "dead letters in" not in word]
    settled = {note[1]: note[2:] for note in book.notes if note[0] == "settled"}
    for number, task in enumerate(tasks):
        name = list(POISON)[number % len(POISON)]
        dead, dropped, pending = settled.get(task.name, (0, 0, 0))
        if pending or dead + dropped != (0 if name in HARMLESS else 1):
            row.trouble.append(f"{name}: {dead} dead, {dropped} dropped, {pending} pending")
        row.dropped += dead + dropped
    return row


def f16_adopters(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F16: the owner is stopped while others look for orphans; two adopters want the same orphan."""
    row = Row("F16", "owner stopped while others look; two adopters race", repetitions)

    def one(lane: int) -> None:
        for number in range(lane, repetitions, 2):
            spool = bench.spool()
            if lane == 0:
                owner = bench.start(bench.task("slow", bench.server.url, spool, f"z{number}"))
                until(lambda number=number: (bench.directory / f"z{number}.ready0").exists(), 60)  # type: ignore[misc]
                kill(owner, signal.SIGSTOP)
                bench.drain(spools=[spool], extra={"timeout": 1.0})
                kill(owner, signal.SIGCONT)
                (bench.directory / f"z{number}.go0").touch()
                owner.join(60)
            else:
                dead = bench.task(
                    "work",
                    bench.server.url,
                    spool,
                    f"z{number}",
                    seed=number,
                    runs=2,
                    extra={"leave": "exit"},
                )
                bench.run([dead])
                adopter = bench.task(
                    "drain", bench.server.url, spool, "drain", extra={"spools": [spool], "timeout": 30}
                )
                bench.run([adopter, adopter], concurrent=2)
            step()

    in_parallel(one, 2)
    bench.drain()
    book = bench.finish(row)
    # Whoever was not the owner left everything where it was, which is as it must be.
    last = {note[1]: note for note in book.notes if note[0] == "drained"}
    row.trouble = [f"{note[2]} left in {note[1]}" for note in last.values() if note[2]]
    return row


def f17_deleted(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F17: a run, or the experiment, is deleted on the server meanwhile; restored, everything arrives."""
    row = Row("F17", "run or experiment deleted on the server meanwhile", 0)
    for number in range(repetitions):
        for what in ("runs", "experiments"):
            name, spool = f"y{number}-{what}", bench.spool()
            task = bench.task(
                "slow", bench.server.url, spool, name, extra={"delivered": True, "leave": "close", "flush": 2}
            )
            task = replace(task, experiment=f"{bench.experiment}-{name}")
            client = bench.start(task)
            until(lambda name=name: (bench.directory / f"{name}.ready0").exists(), 60)  # type: ignore[misc]
            which = _delete(bench, task, what)
            (bench.directory / f"{name}.go0").touch()
            client.join(60)
            bench.drain(spools=[spool], extra={"timeout": 3.0})
            bench.server.rest(f"{what}/restore", which)
            bench.run([replace(task, program="requeue")])
            row.repetitions += 1
            step()
    bench.drain()
    names = [
        f"{bench.experiment}-y{n}-{what}" for n in range(repetitions) for what in ("runs", "experiments")
    ]
    book = bench.finish(row, experiments=names)
    last = {note[1]: note for note in book.notes if note[0] == "drained"}
    row.trouble = [
        f"{note[2]} left, {note[3]} dead in {note[1]}" for note in last.values() if note[2] or note[3]
    ]
    reasons = {reason for note in book.notes if note[0] == "letters" for reason in note[3]}
    if not any("deleted" in reason for reason in reasons):
        row.trouble.append(f"no letter says that the run was deleted: {reasons}")
    return row


def _delete(bench: Bench, task: Any, what: str) -> dict[str, str]:
    if what == "runs":
        which = {"run_id": (bench.directory / f"{task.name}.id").read_text()}
    else:
        which = {"experiment_id": bench.server.runs(task.experiment)[0]["experiment_id"]}
    bench.server.rest(f"{what}/delete", which)
    return which


EXIT_SECONDS = 2.0

ENDINGS = {"SIGTERM": "KILLED", "SIGINT": "KILLED", "exception": "FAILED", "exit": "KILLED"}
"""How a program ends, and the status that its run has then."""

ENDING = """
import os, signal, sys, threading
from tests.faults import clients
from tests.faults.oracle import Ledger, Plan
import mltrace

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
pipe, uri, spool, experiment, name, how, status, home = sys.argv[1:]
mltrace.configure(tracking_uri=uri, spool_dir=spool, experiment_name=experiment, exit_timeout=2.0)
ledger = Ledger(pipe)
plan = Plan(name, params=1, points=5, tags=1, status=status)
ledger.intend(plan)
with mltrace.track_run(name) as run:
    ledger.owe(name, "start", 0, run.id)
    clients.log_items(ledger, plan, run)
    print("ready", flush=True)
    if how == "exception":
        raise RuntimeError("as planned")
    if how == "exit":
        sys.exit(3)
    threading.Event().wait(60)
"""


def f18_endings(bench: Bench, repetitions: int, step: Progress) -> Row:
    """F18: SIGTERM, SIGINT, an exception and an exit while the server hangs: the end comes in time."""
    row = Row("F18", "SIGTERM, SIGINT, unhandled exception, exit with the server hanging", 0)
    slowest = 0.0
    expected: dict[str, str] = {}
    with faulty(bench, lambda request: "hang") as proxy:
        for number in range(repetitions):
            running = {}
            for how, status in ENDINGS.items():
                name = f"e{number}-{how}"
                expected[name] = status
                words = [bench.oracle.pipe, proxy.url, bench.spool(), bench.experiment, name, how, status]
                running[how] = subprocess.Popen(
                    [sys.executable, "-c", textwrap.dedent(ENDING), *words, str(bench.directory)],
                    cwd=PROJECT, env={**os.environ, "HOME": str(bench.directory)}, stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )  # fmt: skip
            for how, process in running.items():
                assert process.stdout is not None
                process.stdout.readline()
                began = time.monotonic()
                if how.startswith("SIG"):
                    process.send_signal(getattr(signal, how))
                process.wait(60)
                process.stdout.close()
                slowest = max(slowest, time.monotonic() - began)
                row.repetitions += 1
            step()
        proxy.heal()
        bench.drain(proxy.url)
    row.seconds = slowest
    # A second for the interpreter's own end, and two for a machine that does other things as well.
    if slowest > EXIT_SECONDS + 3:
        row.trouble.append(f"an end took {slowest:.1f} s")
    bench.finish(row)
    held = {run["name"]: run["status"] for run in bench.server.runs(bench.experiment)}
    row.trouble += [
        f"{name} is {held.get(name)}, not {status}"
        for name, status in expected.items()
        if held.get(name) != status
    ]
    return row


ROWS = {
    "F11": (f11_disk_full, 5, 50),
    "F12": (f12_spool_unusable, 2, 17),
    "F13": (f13_damage, 5, 50),
    "F14": (f14_clock, 2, 13),
    "F15": (f15_poison, 1, 1),
    "F16": (f16_adopters, 10, 200),
    "F17": (f17_deleted, 2, 10),
    "F18": (f18_endings, 5, 50),
}
"""Each row with its repetitions in the suite and for a release."""
