"""
What the journal promises: that a record survives once it is taken, who may open it, and what becomes of a
disk that refuses.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import textwrap
import threading
import zlib

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mltrace._addresses import destination_id, safe_uri
from mltrace._clock import new_id
from mltrace._files import append_line, frame, make_directory, read_lines, unframe, write_whole
from mltrace._records import DROPPED_TAG, ArtifactLogged, Record, RunEnded, RunRecorded, RunStarted
from mltrace._spool import Counts, DestinationDirectory, Owner, WriterDirectory, destinations
from mltrace._survey import report as report_of
from mltrace.backends import journal as journal_module
from mltrace.backends import shortfall
from mltrace.backends.journal import Journal
from mltrace.delivery.acks import AckLog, Created, Creating, Dead, Done, Unanswered
from mltrace.delivery.destination import Rejected
from mltrace.delivery.inventory import Inventory, take_inventory
from mltrace.delivery.letters import read_office
from mltrace.delivery.outbox import Box
from mltrace.delivery.refusals import Refused, settle
from mltrace.delivery.source import Source
from mltrace.exceptions import ConfigurationError, SpoolFull
from tests.harness import ended, logged, payloads, python, run_python, started, until, whole


URI = "http://nowhere.invalid"

PREAMBLE = """
import json, os, resource, sys
from pathlib import Path
from mltrace._spool import *
from mltrace._spool import WriterDirectory, DestinationDirectory
from mltrace.backends.journal import Journal
from tests.harness import *
spool = Path(os.environ["MLTRACE_SPOOL_DIR"])
def make_journal(**options):
    return Journal(DestinationDirectory(spool, "http://nowhere.invalid"), **options)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
NO_LIMIT = resource.RLIM_INFINITY
def report(**found):
    print(json.dumps(found))
"""


def in_python(script: str, *arguments: object) -> Any:
    """Run *script* in a process of its own, with what these tests need at hand; return what it reported."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = run_python(PREAMBLE + textwrap.dedent(script), *arguments, PYTHONPATH=path)
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else None


@pytest.fixture(name="destination")
def _destination(tmp_path: Path) -> DestinationDirectory:
    return DestinationDirectory(tmp_path / "spool", URI)


@pytest.fixture(name="journal")
def _journal(destination: DestinationDirectory) -> Iterator[Journal]:
    journal = Journal(destination)
    yield journal
    journal.close(0)


def runs_on_disk(directory: Path) -> list[str]:
    """Return the run id of each record in the segments of *directory*."""
    return [json.loads(payload)["run"] for payload in payloads(directory)]


def directory_of(journal: Journal) -> Path:
    """Return the directory that *journal* writes to."""
    assert journal.directory is not None
    return journal.directory.path


def adopt(path: Path) -> Source:
    """Take over the directory of a dead writer and read it as delivery does."""
    directory = WriterDirectory.adopt(path)
    assert directory is not None
    return Source(directory)


def _die(*arguments: object) -> Any:
    raise KeyboardInterrupt


def read_all(source: Source) -> list[Record]:
    """Return what *source* has to read until it says that there is no more."""
    found: list[Record] = []
    while records := source.read():
        found += records
    return found


class TestLines:
    """Every line says whether it is whole."""

    def test_format(self, journal: Journal) -> None:
        """A line is eight hex digits of CRC-32, a space, JSON and a line feed."""
        journal.emit(started("a" * 32, name="n"))
        (segment,) = directory_of(journal).glob("*.seg")
        line = segment.read_bytes()
        checksum, _, payload = line[:-1].partition(b" ")

        assert b"%08x" % zlib.crc32(payload) == checksum
        assert line.endswith(b"\n")
        assert ("start", "a" * 32, "n", 1) == tuple(
            json.loads(payload)[field] for field in ("type", "run", "name", "seq")
        )

    def test_record_is_one_line(self, journal: Journal) -> None:
        """Line feeds, carriage returns and other separators in a value do not end the line."""
        name = "a\nb\rc\u2028d\x85e\x00f"
        journal.emit(started(name=name))

        assert [name] == [json.loads(payload)["name"] for payload in payloads(directory_of(journal))]

    def test_numbers(self, journal: Journal) -> None:
        """Records are numbered from 1 in the order in which they were taken."""
        uid = new_id()
        for record in whole(uid):
            journal.emit(record)

        assert [1, 2, 3, 4] == [json.loads(payload)["seq"] for payload in payloads(directory_of(journal))]

    def test_frame_and_back(self) -> None:
        """A payload framed is a line, and a line unframed is the payload."""
        assert b'{"a":1}' == unframe(frame(b'{"a":1}').rstrip(b"\n"))

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"0",
            b"00000000",
            b"00000000x{}",
            b"deadbeef {}",
            frame(b"{}")[1:-1],
            frame(b'{"a":1}')[:-2],
            b"\x00" * 40,
        ],
    )
    def test_damage(self, line: bytes) -> None:
        """A line that is too short, not a line, or not what its checksum says has no payload."""
        assert unframe(line) is None

    @given(
        st.binary(min_size=1, max_size=60), st.integers(min_value=0), st.integers(min_value=0, max_value=7)
    )
    def test_any_flipped_bit(self, payload: bytes, place: int, bit: int) -> None:
        """No single flipped bit goes unnoticed."""
        line = bytearray(frame(payload)[:-1])
        line[place % len(line)] ^= 1 << bit

        assert unframe(bytes(line)) in (None, payload if bytes(line) == frame(payload)[:-1] else None)

    def test_log_shared_by_processes(self, tmp_path: Path) -> None:
        """Lines that several processes append to one log at the same time stay whole."""
        path = tmp_path / "dead.log"
        in_python(
            """
            children = []
            for number in range(4):
                if (pid := os.fork()) == 0:
                    for line in range(200):
                        append_line(Path(sys.argv[1]), b"%d:%d " % (number, line) + b"x" * (line * 10))
                    os._exit(0)
                children.append(pid)
            for pid in children:
                os.waitpid(pid, 0)
            """,
            path,
        )
        found = [payload.split()[0] for payload in read_lines(path) if payload is not None]

        assert sorted(b"%d:%d" % (number, line) for number in range(4) for line in range(200)) == sorted(
            found
        )

    def test_log_that_is_not_there(self, tmp_path: Path) -> None:
        """A log that nobody wrote to has no lines."""
        assert [] == list(read_lines(tmp_path / "dead.log"))

    def test_log_with_a_damaged_line(self, tmp_path: Path) -> None:
        """A damaged line is told apart from the others and takes none of them along."""
        path = tmp_path / "retired.log"
        for payload in (b"{}", b'{"a":1}', b'{"b":2}'):
            append_line(path, payload)
        content = bytearray(path.read_bytes())
        content[content.index(b'"a"')] ^= 1
        path.write_bytes(content)

        assert [b"{}", None, b'{"b":2}'] == list(read_lines(path))


class TestWholeFiles:
    """Files that are written at once."""

    def test_replaces(self, tmp_path: Path) -> None:
        """The new content takes the old one's place, and nothing else is left in the directory."""
        path = tmp_path / "owner.json"
        write_whole(path, b"old")
        write_whole(path, b"new")

        assert ({"owner.json"}, b"new") == (
            {file.name for file in tmp_path.iterdir() if file.is_file()},
            path.read_bytes(),
        )

    def test_disk_takes_a_part(self, tmp_path: Path) -> None:
        """
        Where the disk takes only a part, that is an error, the old file stays, and no part is left lying
        about.
        """
        found = in_python(
            """
            path = Path(sys.argv[1]) / "acks"
            write_whole(path, b"old")
            limit(4096)
            try:
                write_whole(path, b"x" * 10_000)
                failed = False
            except OSError:
                failed = True
            limit(NO_LIMIT)
            files = sorted(file.name for file in path.parent.iterdir() if file.is_file())
            report(failed=failed, content=path.read_bytes().decode()[:10], files=files)
            """,
            tmp_path,
        )

        assert {"failed": True, "content": "old", "files": ["acks"]} == found


class TestAddresses:
    """What of an address is written down."""

    @pytest.mark.parametrize(
        ("uri", "safe"),
        [
            ("http://user:secret@host:5000/path?token=1#part", "http://host:5000/path"),
            ("https://host", "https://host"),
            ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
            ("postgresql://u:p@db/mlflow", "postgresql://db/mlflow"),
            ("databricks", "databricks"),
        ],
    )
    def test_safe(self, uri: str, safe: str) -> None:
        """User, password, query and fragment are left out; the rest stays."""
        assert safe == safe_uri(uri)

    def test_same_destination(self) -> None:
        """Credentials and a final slash make no other destination; another host, port or path does."""
        same = {destination_id(uri) for uri in ("http://host:1/a", "http://host:1/a/", "http://u:p@host:1/a")}
        others = {
            destination_id(uri)
            for uri in ("http://host:2/a", "http://host:1/b", "https://host:1/a", "http://other:1/a")
        }

        assert (1, 4, set()) == (len(same), len(others), same & others)

    def test_destination_says_its_address(self, tmp_path: Path) -> None:
        """A destination's directory says without credentials where its records go, and is found again."""
        DestinationDirectory(tmp_path, "http://user:secret@host:5000").make()
        (found,) = destinations(tmp_path)

        assert "http://host:5000" == found.uri
        assert b"secret" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())

    def test_foreign_directories_are_no_destinations(self, tmp_path: Path) -> None:
        """
        A directory whose note is damaged, or names another address than the directory's, is passed over.
        """
        for name, note in {"a": b"{", "b": b"[]", "c": b'{"uri": "http://host"}', "d": b'{"uri": 5}'}.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "destination.json").write_bytes(note)

        assert [] == destinations(tmp_path)


class TestKilled:
    """`kill -9`."""

    def test_nothing_is_lost(self) -> None:
        """Of twenty processes killed at a random moment each left every record whose `emit` had returned."""
        found = in_python(
            """
            import random, signal, time
            lost = acknowledged = 0
            for attempt in range(20):
                reader, writer = os.pipe()
                if (pid := os.fork()) == 0:
                    os.close(reader)
                    journal = make_journal(limit_bytes=64 << 10 if attempt % 2 else 1 << 30)
                    for number in range(1_000_000):
                        uid = f"{attempt:04}{number:028}"
                        journal.emit(logged(uid))
                        os.write(writer, uid.encode())
                        if journal._bytes > 50_000:
                            journal.reclaimed(50_000)
                    os._exit(0)
                os.close(writer)
                stop = random.randrange(1, 2000) * 32
                taken = b""
                while len(taken) < stop:
                    taken += os.read(reader, 4096)
                os.kill(pid, signal.SIGKILL)
                while more := os.read(reader, 65536):
                    taken += more
                os.close(reader)
                os.waitpid(pid, 0)
                promised = {taken[at : at + 32].decode() for at in range(0, len(taken) // 32 * 32, 32)}
                written = {json.loads(line)["run"] for path in spool.glob("*/*-*") for line in payloads(path)}
                acknowledged += len(promised)
                lost += len(promised - written)
            report(lost=lost, acknowledged=acknowledged > 20, directories=len(list(spool.glob("*/*-*"))))
            """
        )

        assert {"lost": 0, "acknowledged": True, "directories": 20} == found

    def test_begun_call_in_progress(self) -> None:
        """A call that waits for something has been begun on disk, so that its death leaves a trace."""
        script = """
            import mltrace, sys, time
            mltrace.configure(tracking_uri="http://127.0.0.1:9")

            @mltrace.track_run
            def waits():
                print("here", flush=True)
                sys.stdin.readline()

            waits()
        """
        with python(script) as process:
            assert process.stdout is not None
            assert "here\n" == process.stdout.readline()
            spool = Path(os.environ["MLTRACE_SPOOL_DIR"])
            until(lambda: [payload for path in spool.glob("*/*-*") for payload in payloads(path)])
            process.kill()
            process.wait(10)

        (path,) = spool.glob("*/*-*")
        assert ["waits"] == [json.loads(payload)["name"] for payload in payloads(path)]


class TestSegments:
    """Records are in files of a bounded size."""

    def test_rotation(self, destination: DestinationDirectory) -> None:
        """
        A segment that has its size is followed by the next one, numbered; no record is split, lost or out
        of order.
        """
        journal = Journal(destination, limit_bytes=64 << 10)
        uids = [new_id() for _ in range(400)]
        for uid in uids:
            journal.emit(logged(uid))
        segments = sorted(directory_of(journal).glob("*.seg"))
        journal.close(0)

        assert uids == runs_on_disk(directory_of_closed(destination))
        assert [f"{number:08}.seg" for number in range(1, len(segments) + 1)] == [
            segment.name for segment in segments
        ]
        assert len(segments) > 4
        assert max(segment.stat().st_size for segment in segments) < (64 << 10) // 8 + 300

    def test_rotation_without_descriptors(self) -> None:
        """
        A program that has used up its file descriptors loses no record when the segment is full, and `emit`
        raises nothing.
        """
        found = in_python(
            """
            journal = make_journal(limit_bytes=64 << 10)
            journal.emit(logged("a" * 32))
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            for number in range(200):
                journal.emit(logged("b" * 32))
            degraded = journal.status().degraded
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            journal._next_try = 0.0
            journal.emit(logged("c" * 32))
            after = journal.status()
            lines = len(payloads(Path(after.directory)))
            report(degraded=degraded, after=after.degraded, lines=lines, dropped=after.dropped)
            """
        )

        assert {"degraded": True, "after": False, "lines": 202, "dropped": {}} == found

    def test_modes(self, journal: Journal) -> None:
        """Directories are 0700 and files 0600, whatever the umask allows."""
        before = os.umask(0)
        try:
            journal.emit(started())
            journal.store(b"blob")
            Source(journal.directory).close()
            append_line(journal.destination.dead_letters, b"{}")
        finally:
            os.umask(before)
        root = journal.destination.path.parent
        entries = [root, *root.rglob("*")]

        assert {(True, 0o700), (False, 0o600)} == {
            (entry.is_dir(), stat.S_IMODE(entry.stat().st_mode)) for entry in entries
        }
        assert {"lock", "owner.json", "00000001.seg", "destination.json", "acks", "dead.log"} <= {
            entry.name for entry in entries
        }

    def test_open_to_others(self, destination: DestinationDirectory) -> None:
        """A spool directory of ours that others could enter is closed to them."""
        destination.path.parent.mkdir(mode=0o777)
        os.chmod(destination.path.parent, 0o777)
        destination.make()

        assert 0o700 == stat.S_IMODE(destination.path.parent.stat().st_mode)

    @pytest.mark.parametrize(("durability", "synchronous"), [("process", False), ("disk", True)])
    def test_durability(self, destination: DestinationDirectory, durability: str, synchronous: bool) -> None:
        """With durability="disk" each write waits for the disk, on every segment; without it none does."""
        journal = Journal(destination, durability=durability, limit_bytes=64 << 10)
        flags: set[bool] = set()
        for _ in range(100):
            journal.emit(logged(new_id()))
            flags.add(bool(fcntl.fcntl(journal._descriptor, fcntl.F_GETFL) & os.O_DSYNC))
        number = journal.segment
        journal.close(0)

        assert ({synchronous}, True) == (flags, number > 1)

    def test_nothing_emitted_nothing_written(self, destination: DestinationDirectory) -> None:
        """A journal that takes no record makes no directory."""
        journal = Journal(destination)
        journal.status()
        journal.flush(0.1)
        journal.close(0)

        assert not destination.path.exists()


def directory_of_closed(destination: DestinationDirectory) -> Path:
    """Return the one writer directory of *destination*."""
    (path,) = destination.writers()
    return path


class TestFork:
    """A child writes into a directory of its own."""

    @pytest.mark.parametrize(
        "way", ["sys.exit()", "os._exit(0)", "raise ValueError", "os.kill(os.getpid(), 9)"]
    )
    def test_directories(self, way: str) -> None:
        """
        A child's records go to its own directory; the parent's stays locked and whole, however the child
        ends.
        """
        found = in_python(
            f"""
            journal = make_journal()
            for number in range(10):
                journal.emit(logged(f"{{number:032}}"))
            reader, writer = os.pipe()
            if (pid := os.fork()) == 0:
                sys.stderr = open(os.devnull, "w")
                journal.emit(logged("c" * 32))
                os.write(writer, str(journal.directory.path).encode())
                {way}
            os.waitpid(pid, 0)
            child = Path(os.read(reader, 4096).decode())
            for number in range(10, 20):
                journal.emit(logged(f"{{number:032}}"))
            runs = lambda path: [json.loads(payload)["run"] for payload in payloads(path)]
            parent = journal.directory.path
            report(
                parent=runs(parent) == [f"{{number:032}}" for number in range(20)],
                child=runs(child),
                apart=child != parent,
                locked=WriterDirectory.adopt(parent) is None,
                left=WriterDirectory.adopt(child) is not None,
                accepted=journal.status().accepted,
            )
            """
        )

        assert {
            "parent": True,
            "child": ["c" * 32],
            "apart": True,
            "locked": True,
            "left": True,
            "accepted": 20,
        } == found

    def test_child_that_records_nothing(self) -> None:
        """A child that records nothing makes no directory, and its counts start at zero."""
        found = in_python(
            """
            journal = make_journal()
            journal.emit(logged("a" * 32))
            reader, writer = os.pipe()
            if (pid := os.fork()) == 0:
                os.write(writer, str(journal.status().accepted).encode())
                sys.exit()
            os.waitpid(pid, 0)
            report(child=int(os.read(reader, 10)), directories=len(list(spool.glob("*/*-*"))))
            """
        )

        assert {"child": 0, "directories": 1} == found

    def test_while_threads_emit(self) -> None:
        """Forks in the middle of other threads' appends neither hang a child nor cost a record of anybody."""
        found = in_python(
            """
            import threading
            journal = make_journal(limit_bytes=1 << 20)
            stop = threading.Event()
            emitted = []
            def work(number):
                count = 0
                while not stop.is_set():
                    uid = f"{number:04}{count:028}"
                    journal.emit(logged(uid))
                    emitted.append(uid)
                    count += 1
                    if journal._bytes > 500_000:
                        journal.reclaimed(500_000)
            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for child in range(20):
                if (pid := os.fork()) == 0:
                    journal.emit(logged(f"c{child:031}"))
                    os._exit(0)
                os.waitpid(pid, 0)
            stop.set()
            for thread in threads:
                thread.join()
            mine = journal.directory.path
            others = [path for path in spool.glob("*/*-*") if path != mine]
            runs = lambda *paths: sorted(json.loads(line)["run"] for path in paths for line in payloads(path))
            children = sorted(f"c{child:031}" for child in range(20))
            report(mine=runs(mine) == sorted(emitted), others=runs(*others) == children)
            """
        )

        assert {"mine": True, "others": True} == found

    def test_begun_stays_with_the_parent(self) -> None:
        """A call in progress when the process forks is recorded once, by the parent."""
        found = in_python(
            """
            journal = make_journal()
            journal.begin(started("a" * 32))
            if (pid := os.fork()) == 0:
                journal.emit(logged("c" * 32))
                os._exit(0)
            os.waitpid(pid, 0)
            journal.emit(ended("a" * 32))
            lines = [line for path in spool.glob("*/*-*") for line in payloads(path)]
            starts = sum(b'"type":"start"' in line or b'"type":"run"' in line for line in lines)
            report(starts=starts, accepted=journal.status().accepted)
            """
        )

        assert {"starts": 1, "accepted": 2} == found

    def test_while_a_thread_warns(self) -> None:
        """A child forked while another thread of its parent was logging a warning can log warnings itself."""
        found = in_python(
            """
            import faulthandler, logging, threading
            from mltrace import _guard
            faulthandler.dump_traceback_later(10, exit=True)
            logging.disable()
            held, go = threading.Event(), threading.Event()
            def warn():
                with _guard._lock:
                    held.set()
                    go.wait()
            thread = threading.Thread(target=warn)
            thread.start()
            held.wait()
            reader, writer = os.pipe()
            if (pid := os.fork()) == 0:
                child = threading.Thread(target=_guard.warn_once, args=("cause", "message"), daemon=True)
                child.start()
                child.join(2)
                os.write(writer, b"hangs" if child.is_alive() else b"warns")
                os._exit(0)
            os.waitpid(pid, 0)
            go.set()
            thread.join()
            report(child=os.read(reader, 10).decode())
            """
        )

        assert {"child": "warns"} == found

    def test_adopted_directories_stay_with_the_parent(self) -> None:
        """
        A child does not hold on to a dead writer's directory that its parent has taken over: once the
        parent lets go, others may have it.
        """
        found = in_python(
            """
            from mltrace.delivery import connect
            from mltrace.delivery.sender import Sender
            dead = make_journal()
            dead.emit(logged("a" * 32))
            path = dead.directory.path
            dead.close(0)
            directory = DestinationDirectory(spool, "http://nowhere.invalid")
            journal = Journal(directory, delivery=Sender(directory, lambda: connect("http://127.0.0.1:9")))
            journal.emit(started())
            sources = journal._delivery._sources
            until(lambda: path in [source.directory.path for source in list(sources) if source.directory])
            reader, writer = os.pipe()
            again, go = os.pipe()
            if (pid := os.fork()) == 0:
                os.write(writer, b"x")
                os.read(again, 1)
                os._exit(0)
            os.read(reader, 1)
            journal.close(0)
            free = WriterDirectory.adopt(path) is not None
            os.write(go, b"x")
            os.waitpid(pid, 0)
            report(free=free)
            """
        )

        assert {"free": True} == found


class TestUnwritable:
    """A disk that refuses."""

    def test_directory_is_a_file(self, destination: DestinationDirectory, said: list[str]) -> None:
        """
        A file in the spool's place: one warning, records are kept in memory, the status says degraded,
        nothing is lost or raised.
        """
        destination.path.parent.write_text("in the way")
        journal = Journal(destination)
        for record in whole() + whole():
            journal.emit(record)
        status = journal.status()

        assert (8, 8, {}, True) == (status.accepted, status.pending, status.dropped, status.degraded)
        assert 1 == sum("cannot write its spool" in message for message in said)
        assert 8 == len(journal.in_memory(0))

    def test_moves_to_disk(self, destination: DestinationDirectory, said: list[str]) -> None:
        """
        Once the disk takes records again, those in memory go there first, in order, and a later failure is
        news again.
        """
        obstacle = destination.path.parent
        obstacle.write_text("in the way")
        journal = Journal(destination)
        uids = [new_id() for _ in range(6)]
        for uid in uids[:5]:
            journal.emit(logged(uid))
        obstacle.unlink()
        journal._next_try = 0.0  # the next try is due
        journal.emit(logged(uids[5]))

        assert (False, [], uids) == (
            journal.status().degraded,
            journal.in_memory(0),
            runs_on_disk(directory_of(journal)),
        )
        journal.close(0)

        later = Journal(DestinationDirectory(obstacle / "lock", URI))
        (obstacle / "lock").write_text("in the way")
        later.emit(logged(new_id()))
        assert 2 == sum("cannot write its spool" in message for message in said)

    def test_moves_to_disk_at_the_end(self, destination: DestinationDirectory) -> None:
        """What is in memory when the journal is closed goes to disk if the disk takes it by then."""
        obstacle = destination.path.parent
        obstacle.write_text("in the way")
        journal = Journal(destination)
        for record in whole():
            journal.emit(record)
        obstacle.unlink()
        report = journal.close(0)

        assert (4, 4) == (report.pending, sum(len(payloads(path)) for path in destination.writers()))

    def test_lost_at_the_end(self, destination: DestinationDirectory) -> None:
        """
        What is still in memory when the journal is closed is lost with the process, and is counted as
        dropped, not as pending.
        """
        destination.path.parent.write_text("in the way")
        journal = Journal(destination)
        for record in whole():
            journal.emit(record)
        report = journal.close(0)

        assert (0, 4) == (report.pending, report.dropped)

    def test_memory_is_bounded(
        self, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Beyond its bound memory takes no more: the records are counted as dropped for that cause, and the
        earlier ones stay.
        """
        monkeypatch.setattr(journal_module, "MEMORY_BYTES", 2000)
        destination.path.parent.write_text("in the way")
        journal = Journal(destination)
        for number in range(50):
            journal.emit(logged(f"{number:032}"))
        kept = [json.loads(line[9:])["run"] for line in journal.in_memory(0)]
        status = journal.status()

        assert [f"{number:032}" for number in range(len(kept))] == kept
        assert 1 < len(kept) < 50
        assert ({"memory_full": 50 - len(kept)}, len(kept)) == (status.dropped, status.pending)

    def test_memory_has_a_reserve(
        self, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run whose metrics memory does not take any more still ends, and its end says how many they were."""
        monkeypatch.setattr(journal_module, "MEMORY_BYTES", 4000)
        destination.path.parent.write_text("in the way")
        journal = Journal(destination)
        journal.emit(started("a" * 32))
        while journal.status().dropped.get("memory_full", 0) < 5:
            journal.emit(logged("a" * 32))
        journal.emit(ended("a" * 32))
        last = json.loads(journal.in_memory(0)[-1][9:])

        assert ("end", {DROPPED_TAG: "5"}) == (last["type"], last["tags"])
        assert {"memory_full": 5} == journal.status().dropped

    def test_short_write(self) -> None:
        """
        A write that the disk takes in part is repeated on a fresh segment; the torn line is skipped, no
        later one is glued to it.
        """
        found = in_python(
            """
            limit(1000)
            journal = make_journal()
            uids = [f"{number:032}" for number in range(50)]
            for uid in uids:
                journal.emit(logged(uid))
            limit(NO_LIMIT)
            path = journal.directory.path
            torn = [segment for segment in path.glob("*.seg") if not segment.read_bytes().endswith(b"\\n")]
            report(
                same=[json.loads(payload)["run"] for payload in payloads(path)] == uids,
                torn=len(torn) > 2,
                degraded=journal.status().degraded,
                dropped=journal.status().dropped,
                sizes=max(segment.stat().st_size for segment in path.glob("*.seg")),
            )
            """
        )

        assert {"same": True, "torn": True, "degraded": False, "dropped": {}, "sizes": 1000} == found

    def test_full_disk_leaves_no_litter(self) -> None:
        """Trying a full disk again and again leaves neither directories nor open descriptors behind."""
        found = in_python(
            """
            DestinationDirectory(spool, "http://nowhere.invalid").make()
            limit(1)
            journal = make_journal()
            journal.emit(logged("a" * 32))
            before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
            for number in range(5):
                journal._next_try = 0.0
                journal.emit(logged("a" * 32))
            after = len(os.listdir("/proc/self/fd")) if before else 0
            limit(NO_LIMIT)
            directories = len(list(spool.glob("*/*-*")))
            degraded = journal.status().degraded
            report(degraded=degraded, descriptors=after - before, directories=directories <= 1)
            """
        )

        assert {"degraded": True, "descriptors": 0, "directories": True} == found

    def test_artifact_that_does_not_fit(self) -> None:
        """
        An artifact that the disk takes in part is counted as dropped, and its part does not stay on the
        disk.
        """
        found = in_python(
            """
            journal = make_journal()
            journal.emit(started())
            limit(4096)
            blob = journal.store(b"x" * 100_000)
            limit(NO_LIMIT)
            status = journal.status()
            left = [path.name for path in journal.directory.path.glob("blobs/*")]
            report(blob=blob, dropped=status.dropped, left=left, pending=status.pending)
            """
        )

        assert {"blob": None, "dropped": {"blob_unwritable": 1}, "left": [], "pending": 1} == found

    def test_artifact_that_is_not_there(self, journal: Journal, said: list[str]) -> None:
        """A file that cannot be read is counted as dropped, with a warning, and raises nothing."""
        assert journal.store("/nonexistent/file") is None
        assert ({"blob_unwritable": 1}, 0) == (journal.status().dropped, journal.status().pending)
        assert "could not keep a copy of an artifact" in said

    def test_memory_is_delivered(self, destination: DestinationDirectory) -> None:
        """
        Records in memory are read for delivery like those on disk, and leave memory when they are settled.
        """
        destination.path.parent.write_text("in the way")
        journal = Journal(destination)
        records = whole()
        for record in records:
            journal.emit(record)
        source = Source(None, journal)
        found = read_all(source)
        source.done(records[0].run, found, closed=True)

        assert ([type(record) for record in records], []) == (
            [type(record) for record in found],
            journal.in_memory(0),
        )
        assert 4 == source.acks.delivered

    def test_read_from_memory_then_moved(self, destination: DestinationDirectory) -> None:
        """
        A record that delivery read from memory and the journal then moved to disk keeps its segment until
        it is settled.
        """
        obstacle = destination.path.parent
        obstacle.write_text("in the way")
        journal = Journal(destination, limit_bytes=64 << 10)
        journal.emit(logged("a" * 32))
        source = Source(None, journal)
        (unsettled,) = read_all(source)
        obstacle.unlink()
        journal._next_try = 0.0
        others: list[Record] = []
        while journal.segment < 3:
            journal.emit(logged("b" * 32))
            others += source.read()
        others += read_all(source)
        source.done("b" * 32, [record for record in others if record.run == "b" * 32])
        path = directory_of(journal)
        journal.close(0)

        assert "a" * 32 == unsettled.run
        assert "a" * 32 in runs_on_disk(path)


class TestLimit:
    """A spool has a size."""

    LIMIT = 64 << 10

    def full(self, destination: DestinationDirectory, on_full: str) -> Journal:
        """Return a journal that has reached its limit."""
        journal = Journal(destination, limit_bytes=self.LIMIT, on_full=on_full)
        journal.emit(started("a" * 32))
        while journal.status().bytes < self.LIMIT:
            journal.emit(logged("a" * 32, tags={"t": "x" * 1000}))
        return journal

    def test_drop(self, destination: DestinationDirectory, said: list[str]) -> None:
        """
        on_full="drop": what comes beyond the limit is counted as dropped for that cause, with one warning.
        """
        journal = self.full(destination, "drop")
        before = journal.status()
        for _ in range(3):
            journal.emit(logged("a" * 32))
        status = journal.status()
        journal.close(0)

        assert (before.accepted + 3, {"spool_full": 3}, before.pending, before.bytes) == (
            status.accepted,
            status.dropped,
            status.pending,
            status.bytes,
        )
        assert 1 == sum("the spool is full" in message for message in said)

    def test_raise(self, destination: DestinationDirectory) -> None:
        """
        on_full="raise": the caller learns of it by `SpoolFull`, which says what to do, and the record is
        counted as dropped.
        """
        journal = self.full(destination, "raise")
        with pytest.raises(SpoolFull, match="mltrace sync"):
            journal.emit(logged("a" * 32))
        dropped = journal.status().dropped
        journal.close(0)

        assert {"spool_full": 1} == dropped

    def test_block(self, destination: DestinationDirectory) -> None:
        """on_full="block": the caller waits until there is room, and the record is taken then."""
        journal = self.full(destination, "block")
        before = journal.status()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(journal.emit, logged("b" * 32))
            until(lambda: journal._lock.acquire(blocking=False) and (journal._lock.release() or True))
            assert not waiting.done()
            journal.reclaimed(self.LIMIT)
            waiting.result(10)
        path = directory_of(journal)
        after = journal.status()
        journal.close(0)

        assert "b" * 32 == runs_on_disk(path)[-1]
        assert (before.accepted + 1, {}) == (after.accepted, after.dropped)

    def test_block_is_bounded(
        self, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        on_full="block": where no room is made in time the record is dropped, and counted, and the caller
        goes on.
        """
        monkeypatch.setattr(journal_module, "BLOCK_SECONDS", 0.05)
        journal = self.full(destination, "block")
        journal.emit(logged("b" * 32))
        dropped = journal.status().dropped
        journal.close(0)

        assert {"spool_full": 1} == dropped

    def test_blocked_caller_blocks_nobody(self, destination: DestinationDirectory) -> None:
        """While a caller waits for room, the status can be read and delivery can settle."""
        journal = self.full(destination, "block")
        source = Source(None, journal)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(journal.emit, logged("b" * 32))
            records = read_all(source)
            assert journal.status().pending > 0
            source.done("a" * 32, records)
            waiting.result(10)
        journal.close(0)

        assert "b" * 32 == read_all(source)[-1].run

    @pytest.mark.parametrize("on_full", ["drop", "raise", "block"])
    def test_lifecycle_reserve(
        self, destination: DestinationDirectory, on_full: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Ends are still taken from a reserve of a tenth, so that a run whose metrics were dropped ends, and no
        further; starts only from half of it, which leaves as much for their ends.
        """
        monkeypatch.setattr(journal_module, "BLOCK_SECONDS", 0.0)
        journal = self.full(destination, on_full)
        journal.emit(ended("a" * 32))
        assert {} == journal.status().dropped
        taken = [fill(journal, started), fill(journal, lambda: ended(new_id()))]
        status = journal.status()
        journal.close(0)

        assert min(taken) > 5
        assert self.LIMIT * 1.1 <= status.bytes < self.LIMIT * 1.1 + 1000

    def test_artifacts_count(self, destination: DestinationDirectory) -> None:
        """
        A full spool takes no artifact either: it is counted as dropped, and no bytes of it stay on the
        disk.
        """
        journal = self.full(destination, "drop")
        before = journal.status().bytes
        blob = journal.store(b"x" * 100_000)
        status = journal.status()
        left = list(directory_of(journal).glob("blobs/*"))
        journal.close(0)

        assert (None, before, []) == (blob, status.bytes, left)
        assert 1 == sum(status.dropped.values())

    def test_room_is_made(self, destination: DestinationDirectory) -> None:
        """When delivery settles records their bytes are free again, and new records are taken."""
        journal = self.full(destination, "drop")
        source = Source(None, journal)
        source.done("a" * 32, read_all(source))
        after = journal.status().bytes
        journal.emit(logged("b" * 32))
        dropped = journal.status().dropped
        journal.close(0)

        assert after < self.LIMIT // 4
        assert {} == dropped

    @pytest.mark.parametrize("on_full", ["raise", "block"])
    def test_held_start_meets_a_full_spool(
        self, destination: DestinationDirectory, on_full: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Delivery, which makes the room, is neither blocked nor failed by a held-back start that does not
        fit; the start is counted as dropped.
        """
        monkeypatch.setattr(journal_module, "BLOCK_SECONDS", 3.0)
        journal = self.full(destination, on_full)
        journal._limit = journal.status().bytes // 2  # beyond the reserve too
        journal.begin(started("b" * 32))
        journal.begin(started("c" * 32))
        with ThreadPoolExecutor(1) as pool:
            committing = pool.submit(journal.commit)
            committing.result(1)
        status = journal.status()
        journal.close(0)

        assert {"spool_full": 2} == status.dropped


def fill(journal: Journal, make: Callable[[], Record]) -> int:
    """Emit what *make* returns until it is dropped; return how many were taken."""
    before = journal.status()
    with contextlib.suppress(SpoolFull):
        while journal.status().dropped == before.dropped:
            journal.emit(make())
    return journal.status().pending - before.pending


class TestShortRuns:
    """Runs of which records were dropped."""

    def test_others_cost_nothing(self, destination: DestinationDirectory) -> None:
        """Only while there is such a run are records looked at for it; their own end carries the number, once."""
        journal = Journal(destination, limit_bytes=1 << 20)
        plain = journal._encode
        journal.emit(started("a" * 32))
        journal._limit = 0
        journal.emit(logged("a" * 32))
        journal._limit = 1 << 20
        journal.emit(ended("b" * 32))
        looking = journal._encode != plain
        journal.emit(ended("a" * 32))
        journal.emit(ended("a" * 32))
        tags = [json.loads(line).get("tags", {}) for line in payloads(directory_of(journal))]
        again = journal._encode
        journal.close(0)

        assert [{}, {}, {DROPPED_TAG: "1"}, {}] == tags
        assert (True, plain) == (looking, again)

    def test_bounded(self, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many runs are dropped whole or have no end here, what is remembered of them is bounded."""
        monkeypatch.setattr(shortfall, "_RUNS", 10)
        journal = Journal(destination)
        plain = journal._encode
        journal._limit = 0
        for _ in range(50):
            start, *_, end = whole()
            journal.begin(start)  # type: ignore[arg-type] # it is the start
            journal.emit(end)
        whole_runs = len(journal._short)
        journal._limit = 1 << 20
        journal.emit(ended(new_id()))
        assert journal._encode == plain
        journal._limit = 0
        for _ in range(50):
            journal.emit(logged(new_id()))
        without_end = len(journal._short)
        journal.close(0)

        assert (0, 10) == (whole_runs, without_end)


class TestDamage:
    """What the disk gives back changed."""

    @pytest.fixture(name="dead")
    def _dead(self, destination: DestinationDirectory) -> Path:
        """The directory of a writer that is gone, with ten records."""
        journal = Journal(destination)
        for number in range(10):
            journal.emit(logged(f"{number:032}"))
        path = directory_of(journal)
        journal.close(0)
        return path

    @pytest.mark.parametrize("kind", ["flipped", "no json", "not a record", "empty", "zeros"])
    def test_damaged_lines(self, dead: Path, kind: str, said: list[str]) -> None:
        """A damaged line is skipped and counted, with one warning; all others are read."""
        (segment,) = dead.glob("*.seg")
        lines = segment.read_bytes().splitlines(keepends=True)
        lines[3] = {
            "flipped": lines[3].replace(b'"run"', b'"ruN"'),
            "no json": frame(b"{nonsense"),
            "not a record": frame(b'{"type":"unheard of","run":"x"}'),
            "empty": b"\n",
            "zeros": b"\x00" * (len(lines[3]) - 1) + b"\n",
        }[kind]
        segment.write_bytes(b"".join(lines))
        counted = take_inventory(dead)
        source = adopt(dead)
        found = [record.run for record in read_all(source)]
        source.close()

        assert [f"{number:032}" for number in range(10) if number != 3] == found
        assert ({"damaged": 1}, 9, 10) == (counted.dropped, len(counted.pending), counted.accepted)
        assert 1 == sum("damaged lines" in message for message in said)

    def test_torn_last_line(self, dead: Path) -> None:
        """A last line that was cut short is no record; all before it are read."""
        (segment,) = dead.glob("*.seg")
        os.truncate(segment, segment.stat().st_size - 20)
        source = adopt(dead)
        found = [record.run for record in read_all(source)]
        source.close()

        assert [f"{number:032}" for number in range(9)] == found
        assert 9 == len(take_inventory(dead).pending)

    def test_damage_of_a_live_journal(self, journal: Journal) -> None:
        """
        A damaged line of a living writer is one of its records: it is counted as dropped, no longer as
        pending.
        """
        for number in range(3):
            journal.emit(logged(f"{number:032}"))
        (segment,) = directory_of(journal).glob("*.seg")
        content = bytearray(segment.read_bytes())
        content[content.index(b"\n") + 30] ^= 1
        segment.write_bytes(content)
        source = Source(None, journal)
        found = [record.run for record in read_all(source)]
        status = journal.status()
        source.close()

        assert [f"{number:032}" for number in (0, 2)] == found
        assert (3, {"damaged": 1}, 2) == (status.accepted, status.dropped, status.pending)

    def test_damage_in_the_final_count(self, dead: Path, destination: DestinationDirectory) -> None:
        """
        What is written down of a finished writer accounts for every line that it had, the damaged ones as
        dropped.
        """
        (segment,) = dead.glob("*.seg")
        segment.write_bytes(segment.read_bytes().replace(b"0000000003", b"0000000004", 1))
        source = adopt(dead)
        for record in read_all(source):
            source.done(record.run, [record])
        assert 9 == len(list(source.killed()))
        source.leave(destination)

        assert [Counts(10, 9, 0, {"damaged": 1})] == list(destination.finished().values())

    def test_segment_is_missing(self, destination: DestinationDirectory) -> None:
        """A gap in the segments' numbers is passed over."""
        journal = Journal(destination, limit_bytes=64 << 10)
        while journal.segment < 3:
            journal.emit(logged(new_id()))
        journal.emit(logged("f" * 32))
        path = directory_of(journal)
        journal.close(0)
        (path / "00000002.seg").unlink()
        source = adopt(path)
        found = read_all(source)
        source.close()

        assert "f" * 32 == found[-1].run

    def test_given_up_and_sent_again(self, dead: Path, destination: DestinationDirectory) -> None:
        """A record that was given up, and is sent again because acknowledgements are damaged, counts once."""
        source = adopt(dead)
        first, *others = read_all(source)
        source.dead(first.run, [first])
        source.done(others[0].run, [others[0]])
        source.leave(destination)
        acks = dead / "acks"
        acks.write_bytes(acks.read_bytes().replace(b'"seqs":[2]', b'"seqs":[3]'))
        source = adopt(dead)
        first, *others = read_all(source)
        source.dead(first.run, [first])
        for record in others:
            source.done(record.run, [record])
        assert 10 == len(list(source.killed()))
        source.leave(destination)

        assert [Counts(10, 9, 1)] == list(destination.finished().values())

    def test_dies_over_damaged_acknowledgements(
        self, dead: Path, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that dies while it takes damaged acknowledgements over leaves the damage to be seen by the next."""
        source = adopt(dead)
        first = read_all(source)[0]
        source.done(first.run, [first])
        source.leave(destination)
        adopt(dead).leave(destination)  # which writes them anew
        acks = dead / "acks"
        acks.write_bytes(acks.read_bytes().replace(b'"seqs":[1]', b'"seqs":[2]'))
        directory = WriterDirectory.adopt(dead)
        assert directory is not None
        with monkeypatch.context() as patch:
            patch.setattr("mltrace.delivery.source.take_inventory", _die)
            with pytest.raises(KeyboardInterrupt):
                Source(directory)
        directory.release()
        source = adopt(dead)
        for record in read_all(source):
            source.done(record.run, [record])
        assert 10 == len(list(source.killed()))
        source.leave(destination)

        assert [Counts(10, 10, 0)] == list(destination.finished().values())

    def test_removal_is_cut_short(
        self, dead: Path, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that dies while it removes a finished directory leaves its counts as they are."""
        source = adopt(dead)
        for record in read_all(source):
            source.done(record.run, [record])
        assert 10 == len(list(source.killed()))
        directory = source.directory
        assert directory is not None
        with monkeypatch.context() as patch:
            patch.setattr(WriterDirectory, "remove", _die)
            with pytest.raises(KeyboardInterrupt):
                source.leave(destination)
        directory.release()
        for file in (*dead.glob("*.seg"), dead / "acks", dead / "tally"):  # in this order
            file.unlink(missing_ok=True)
        again = adopt(dead)
        assert [] == read_all(again)
        again.leave(destination)

        assert ([Counts(10, 10, 0)], []) == (list(destination.finished().values()), destination.writers())

    def test_removal_is_cut_short_at_its_end(self, dead: Path, destination: DestinationDirectory) -> None:
        """What is left of a finished directory, which nobody can take over any more, hides no counts."""
        destination.retire(WriterDirectory(dead, -1, Owner("host", 1, 1)), Counts(10, 10))
        dead.mkdir()

        assert (10, 10) == (report_of(destination).accepted, report_of(destination).delivered)

    def test_removed_while_it_is_counted(
        self, dead: Path, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A directory that its owner removes while somebody counts what it holds, holds nothing."""
        adopt(dead).leave(destination)

        def read_and_remove(path: Path) -> Iterator[bytes | None]:
            yield from read_lines(path)
            shutil.rmtree(dead)

        monkeypatch.setattr("mltrace.delivery.acks.read_lines", read_and_remove)

        assert Inventory() == take_inventory(dead)

    def test_removed_while_it_is_listed(
        self, dead: Path, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A directory that is removed while the writers are listed hides no other one."""
        gone = destination.path / "gone"
        gone.mkdir()

        def list_and_remove(path: Path) -> Any:
            with scandir(path) as entries:
                found = list(entries)
            gone.rmdir()
            return contextlib.nullcontext(found)

        scandir = os.scandir
        monkeypatch.setattr(os, "scandir", list_and_remove)

        assert [dead] == destination.writers()

    @pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"{}", b'{"host":1}', b"[]"])
    def test_owner_is_damaged(self, dead: Path, content: bytes) -> None:
        """A directory whose owner cannot be read is taken over by nobody, and raises nothing."""
        (dead / "owner.json").write_bytes(content)

        assert WriterDirectory.adopt(dead) is None


class TestOwnership:
    """Whose directory it is."""

    @pytest.fixture(name="dead")
    def _dead(self, destination: DestinationDirectory) -> Path:
        """The directory of a writer that is gone."""
        journal = Journal(destination, context={"mlflow.user": "ada"})
        journal.emit(started())
        path = directory_of(journal)
        journal.close(0)
        return path

    def test_dead_writer(self, dead: Path) -> None:
        """
        The directory of a writer that is gone is taken over, with the tags that its runs have in common, by
        the first who comes and by no second.
        """
        directory = WriterDirectory.adopt(dead)

        assert directory is not None
        assert {"mlflow.user": "ada"} == directory.owner.context
        assert WriterDirectory.adopt(dead) is None
        directory.release()
        assert WriterDirectory.adopt(dead) is not None

    def test_living_writer(self, journal: Journal) -> None:
        """The directory of a writer that lives is not taken over, by its own process or any other."""
        journal.emit(started())
        path = directory_of(journal)

        assert WriterDirectory.adopt(path) is None
        assert {"adopted": False} == in_python(
            "report(adopted=WriterDirectory.adopt(Path(sys.argv[1])) is not None)", path
        )

    def test_one_of_many_adopters(self, dead: Path) -> None:
        """Of several processes that want a dead writer's directory at the same moment exactly one gets it."""
        found = in_python(
            """
            winners = 0
            for attempt in range(20):
                children = []
                ready, go = os.pipe()
                done, tell = os.pipe()
                for _ in range(4):
                    if (pid := os.fork()) == 0:
                        os.close(go)
                        os.read(ready, 1)
                        won = WriterDirectory.adopt(Path(sys.argv[1])) is not None
                        os.write(tell, b"1" if won else b"0")
                        os.close(tell)
                        os.read(done, 0)
                        import signal
                        signal.pause()
                    children.append(pid)
                os.close(go)
                answers = b""
                while len(answers) < 4:
                    answers += os.read(done, 4)
                winners += answers.count(b"1")
                for pid in children:
                    os.kill(pid, 9)
                    os.waitpid(pid, 0)
                for descriptor in (ready, done, tell):
                    os.close(descriptor)
            report(winners=winners)
            """,
            dead,
        )

        assert {"winners": 20} == found

    @pytest.mark.parametrize(("field", "value"), [("host", "another-host"), ("uid", 2**31 - 2)])
    def test_other_owner(self, dead: Path, field: str, value: object) -> None:
        """
        The directory of another host, whose locks are not seen here, or of another user is never taken
        over.
        """
        owner = json.loads((dead / "owner.json").read_text())
        (dead / "owner.json").write_text(json.dumps({**owner, field: value}))

        assert WriterDirectory.adopt(dead) is None

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
    def test_directory_of_another_user(self, dead: Path, destination: DestinationDirectory) -> None:
        """A directory that belongs to another user is neither taken over nor used as the spool."""
        os.chown(dead, 12345, -1)
        os.chown(destination.path.parent, 12345, -1)

        assert WriterDirectory.adopt(dead) is None
        with pytest.raises(ConfigurationError, match="belongs to uid 12345"):
            make_directory(destination.path.parent)

    def test_finished_in_the_meantime(self, dead: Path) -> None:
        """An adopter that waited while another one finished and removed the directory gets nothing."""
        directory = WriterDirectory.adopt(dead)
        assert directory is not None
        shutil.rmtree(dead / "blobs", ignore_errors=True)
        directory.remove()

        assert WriterDirectory.adopt(dead) is None
        assert not dead.exists()

    def test_symbolic_link_as_spool(self, tmp_path: Path) -> None:
        """
        A symbolic link in the spool's place is refused with the reason and the remedy, and nothing is
        written where it leads.
        """
        target = tmp_path / "elsewhere"
        target.mkdir()
        link = tmp_path / "link"
        link.symlink_to(target)
        with pytest.raises(ConfigurationError, match=r"symbolic link.*MLTRACE_SPOOL_DIR"):
            DestinationDirectory(link, URI).make()

        assert [] == list(target.iterdir())

    def test_symbolic_link_as_segment(self, dead: Path, tmp_path: Path) -> None:
        """A segment that is a symbolic link is not followed, so that no foreign file is read as records."""
        secret = tmp_path / "secret"
        secret.write_bytes(frame(msgspec.json.encode(logged("e" * 32))))
        (dead / "00000002.seg").symlink_to(secret)
        source = adopt(dead)
        try:
            found = [record.run for record in read_all(source)]
        except OSError:
            found = []
        source.close()

        assert "e" * 32 not in found

    def test_symbolic_link_as_lock(self, dead: Path, tmp_path: Path) -> None:
        """A lock that is a symbolic link is not taken."""
        (dead / "lock").unlink()
        (tmp_path / "other").touch()
        (dead / "lock").symlink_to(tmp_path / "other")

        assert WriterDirectory.adopt(dead) is None

    def test_file_as_spool(self, tmp_path: Path) -> None:
        """A file in the spool's place is refused with the remedy."""
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError, match="is a file, and a directory is needed"):
            make_directory(tmp_path / "file")

    @pytest.mark.parametrize("name", ["", "..", "../owner.json", "a/b", "a\\b", ".", "a..b", "lock\x00"])
    def test_blob_names(self, dead: Path, name: str) -> None:
        """A record cannot name a file outside its writer's blobs."""
        directory = WriterDirectory.adopt(dead)
        assert directory is not None
        with pytest.raises(ConfigurationError, match="blob name"):
            directory.blob(name)
        directory.release()

    def test_writers_oldest_first(self, destination: DestinationDirectory) -> None:
        """
        The writers of a destination are listed from the oldest to the youngest, without files and links.
        """
        made = []
        for age in (300, 200, 100):
            directory = _writer(destination)
            os.utime(directory.path, (1e9 - age, 1e9 - age))
            made.append(directory.path)
        (destination.path / "link").symlink_to(made[0])

        assert made == destination.writers()


def _writer(destination: DestinationDirectory) -> WriterDirectory:
    destination.make()
    return WriterDirectory.create(destination.path, {})


class TestAcks:
    """What became of the records, over the death of the one who wrote it down."""

    CREATED = Created("a" * 32, "run1", "mlflow-artifacts:/1/run1/artifacts", "1")

    def test_replay(self, tmp_path: Path) -> None:
        """Another process learns from the file what was settled, created, being created, and counted."""
        first = AckLog(tmp_path / "acks")
        for entry in (
            Creating("a" * 32),
            self.CREATED,
            Done("a" * 32, [1, 2], time=50),
            Done("a" * 32, [3], time=40),
            Dead("b" * 32, [4]),
            Creating("c" * 32),
        ):
            first.write(entry)
        first.close()
        second = AckLog(tmp_path / "acks")
        second.close()

        assert ({1, 2, 3, 4}, 3, 1) == (second.settled, second.delivered, second.dead)
        assert ({"a" * 32: self.CREATED}, {"c" * 32}, {"a" * 32: 50}) == (
            second.created,
            second.creating,
            second.last_time,
        )

    def test_closed_run(self, tmp_path: Path) -> None:
        """Of a run whose end is settled nothing is remembered but the count."""
        acks = AckLog(tmp_path / "acks")
        for entry in (
            Creating("a" * 32),
            self.CREATED,
            Done("a" * 32, [1], 5, closed=True),
            Creating("b" * 32),
            Dead("b" * 32, [2], closed=True),
        ):
            acks.write(entry)
        acks.close()
        again = AckLog(tmp_path / "acks")
        again.close()

        assert ({}, set(), {}, 1, 1) == (
            again.created,
            again.creating,
            again.last_time,
            again.delivered,
            again.dead,
        )

    @pytest.mark.parametrize("lost", [1, 5, 20])
    def test_torn_entry(self, tmp_path: Path, lost: int) -> None:
        """
        A last entry that was cut short is forgotten and nothing else; what is written afterwards counts.
        """
        acks = AckLog(tmp_path / "acks")
        acks.write(Done("a" * 32, [1]))
        acks.write(Done("a" * 32, [2]))
        acks.close()
        os.truncate(tmp_path / "acks", (tmp_path / "acks").stat().st_size - lost)
        again = AckLog(tmp_path / "acks")
        again.write(Done("a" * 32, [3]))
        again.close()
        last = AckLog(tmp_path / "acks")
        last.close()

        assert ({1, 3} if lost > 1 else {1, 2, 3}) >= last.settled >= {1, 3}
        assert len(last.settled) == last.delivered

    def test_damaged_entry(self, tmp_path: Path) -> None:
        """A damaged entry in the middle, or one of an unknown kind, only means work done again."""
        acks = AckLog(tmp_path / "acks")
        for number in (1, 2, 3):
            acks.write(Done("a" * 32, [number]))
        acks.close()
        content = (tmp_path / "acks").read_bytes()
        (tmp_path / "acks").write_bytes(
            content.replace(b"[2]", b"[9]") + frame(b'{"type":"unheard of"}') + frame(b"[]")
        )
        again = AckLog(tmp_path / "acks")
        again.close()

        assert ({1, 3}, 2) == (again.settled, again.delivered)

    def test_compaction(self, tmp_path: Path) -> None:
        """A compacted file says the same in fewer words, however often it is compacted."""
        acks = AckLog(tmp_path / "acks")
        acks.write(Creating("c" * 32))
        acks.write(Creating("a" * 32))
        acks.write(self.CREATED)
        for number in range(1, 1001):
            acks.write(Done("a" * 32, [number], time=number))
        acks.write(Dead("b" * 32, [1001]))
        for value in ("1", "2"):
            acks.write(Unanswered("a" * 32, {"key": value}))
        before = (tmp_path / "acks").stat().st_size
        acks.compact({999, 1000, 1001})
        acks.write(Done("a" * 32, [1002], time=2000))
        acks.close()
        for _ in range(2):
            again = AckLog(tmp_path / "acks")
            again.close()
            assert ({999, 1000, 1001, 1002}, 1001, 1) == (again.settled, again.delivered, again.dead)
            assert ({"a" * 32: self.CREATED}, {"c" * 32}, {"a" * 32: 2000}) == (
                again.created,
                again.creating,
                again.last_time,
            )
            assert {"a" * 32: {"key": ("1", "2")}} == again.unanswered

        assert (tmp_path / "acks").stat().st_size < before / 10

    def test_compacts_by_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The file does not grow without bound while a long process settles records whose segments are gone.
        """
        monkeypatch.setattr("mltrace.delivery.acks._COMPACT_BYTES", 10_000)
        acks = AckLog(tmp_path / "acks")
        sizes = set()
        for number in range(1, 3001):
            acks.write(Done("a" * 32, [number]))
            acks.settled.discard(number)  # its segment is deleted
            sizes.add((tmp_path / "acks").stat().st_size)
        acks.close()
        again = AckLog(tmp_path / "acks")
        again.close()

        assert max(sizes) < 11_000
        assert 3000 == again.delivered

    def test_disk_takes_a_part_of_an_entry(self, tmp_path: Path) -> None:
        """
        An entry that the disk took in part does not swallow the next: both are known to the next process.
        """
        found = in_python(
            """
            from mltrace.delivery.acks import AckLog, Creating, Done
            path = Path(sys.argv[1]) / "acks"
            acks = AckLog(path)
            acks.write(Done("a" * 32, [1]))
            limit(path.stat().st_size + 10)
            acks.write(Creating("b" * 32))
            limit(NO_LIMIT)
            acks.write(Done("a" * 32, [2]))
            acks.write(Done("a" * 32, [3]))
            acks.close()
            again = AckLog(path)
            report(settled=sorted(again.settled), creating=sorted(again.creating), delivered=again.delivered)
            """,
            tmp_path,
        )

        assert {"settled": [1, 2, 3], "creating": ["b" * 32], "delivered": 3} == found

    def test_full_disk(self, tmp_path: Path) -> None:
        """
        Entries that a full disk refuses are taken into account, and are in the file soon after the disk
        takes them again.
        """
        found = in_python(
            """
            from mltrace.delivery.acks import AckLog, Creating, Done
            path = Path(sys.argv[1]) / "acks"
            acks = AckLog(path)
            acks.write(Done("a" * 32, [1]))
            limit(1)
            acks.write(Creating("b" * 32))
            acks.write(Done("a" * 32, [2]))
            known = sorted(acks.settled)
            limit(NO_LIMIT)
            acks.write(Done("a" * 32, [3]))
            acks.close()
            again = AckLog(path)
            settled, creating = sorted(again.settled), sorted(again.creating)
            report(known=known, settled=settled, creating=creating, delivered=again.delivered)
            """,
            tmp_path,
        )

        assert {"known": [1, 2], "settled": [1, 2, 3], "creating": ["b" * 32], "delivered": 3} == found

    def test_in_memory(self) -> None:
        """Without a file acknowledgements count all the same, and go to one as soon as there is one."""
        acks = AckLog(None)
        acks.write(Done("a" * 32, [1]))

        assert ({1}, 1) == (acks.settled, acks.delivered)


class TestSource:
    """One writer's records, from the journal to their settlement."""

    def test_live(self, journal: Journal) -> None:
        """A living journal is read in order as it grows, each record once."""
        source = Source(None, journal)
        first, second = whole(), whole()
        for record in first:
            journal.emit(record)
        found = read_all(source)
        assert [] == source.read()
        for record in second:
            journal.emit(record)
        found += read_all(source)
        source.close()

        assert [(type(r), r.run, r.time) for r in [*first, *second]] == [
            (type(r), r.run, r.time) for r in found
        ]
        assert list(range(1, 9)) == [record.seq for record in found]

    def test_what_was_written_is_what_is_read(self, journal: Journal) -> None:
        """Every field of every kind of record comes back as it was, numbers that JSON has not included."""
        uid = new_id()
        records: list[Record] = [
            started(
                uid,
                params={"ü": "\U0001f600"},
                tags={"t": "a\nb"},
                parent=new_id(),
                parent_experiment="Other",
            ),
            logged(uid, value="NaN", params={"p": "x" * 6000}),  # type: ignore[arg-type] # as the wire has it
            logged(uid, value=1.7976931348623157e308, experiment="E"),
            ArtifactLogged(run=uid, time=3, path="a/b.txt", text="\x00\ud7ff", size=4),
            ArtifactLogged(run=uid, time=4, path="c", blob="ab.cd", size=9),
            ended(uid, status="KILLED", tags={"k": "v"}),
        ]
        for record in records:
            journal.emit(record)
        source = Source(None, journal)
        found = read_all(source)
        source.close()

        assert records == [msgspec.structs.replace(record, seq=0) for record in found]

    def test_settled_while_it_is_read_again(self, journal: Journal) -> None:
        """A segment whose last records are settled in the middle of its second reading is read to its end."""
        *most, last = whole()
        for record in most:
            journal.emit(record)
        journal._segment_bytes = 1  # each goes into a segment of its own, but for this one
        journal.emit(last)
        journal.emit(logged(new_id()))
        path = directory_of(journal)
        journal.close(0)
        source = adopt(path)
        source.set_aside(read_all(source))
        source.rewind()
        assert [] == source.read()  # the end, from where it goes back
        again = source.read()
        source.done(again[0].run, again)

        assert (4, 1, []) == (len(again), len(source.read()), source.read())
        assert not (path / "00000001.seg").exists()
        source.close()

    def test_settled_twice(self, journal: Journal) -> None:
        """A record that is settled once more, when its segment is gone, counts once."""
        journal._segment_bytes = 1
        for _ in range(2):
            journal.emit(logged(new_id()))
        path = directory_of(journal)
        journal.close(0)
        source = adopt(path)
        first, _ = read_all(source)
        for _ in range(2):
            source.done(first.run, [first])

        assert not (path / "00000001.seg").exists()
        assert 1 == source.acks.delivered
        source.close()

    def test_letter_of_what_was_left(self, destination: DestinationDirectory, journal: Journal) -> None:
        """
        Who still has a request under way when its directory was left writes no letter about it: the next one
        sends it again, and does.
        """
        journal.emit(logged(new_id()))
        path = directory_of(journal)
        journal.close(0)
        source = adopt(path)
        (record,) = read_all(source)
        box = Box(record.run)
        refused = Refused(box)
        source.leave(destination)
        refused.whole((source, record), Rejected("not this one"))
        settle(destination, box.uid, [(source, record)], refused.letters)

        assert not read_office(destination).waiting
        ((letter,),) = refused.letters.values()
        assert path.name == letter.writer

    def test_last_number_stays(self, destination: DestinationDirectory, journal: Journal) -> None:
        """
        Whoever delivers what a killed writer has left, and dies over the acknowledgements, leaves to the next one
        how many records there were.
        """
        journal._segment_bytes = 1  # each goes into a segment of its own
        journal.emit(logged("a" * 32))
        before = (path := directory_of(journal)).joinpath("tally").read_bytes()
        journal.emit(logged("b" * 32))
        journal.close(0)
        (path / "tally").write_bytes(before)
        source = adopt(path)
        _, last = read_all(source)
        source.done(last.run, [last])
        source.leave(destination)
        (path / "acks").write_bytes(b"")
        counted = take_inventory(path)

        assert (2, {}) == (counted.accepted, counted.dropped)
        source = adopt(path)
        for record in read_all(source):
            source.done(record.run, [record])
        assert 2 == len(list(source.killed()))
        source.leave(destination)
        assert (2, 2) == (
            destination.finished()[path.name].accepted,
            destination.finished()[path.name].delivered,
        )
        assert not path.exists()

    def test_made_up_end(self, journal: Journal) -> None:
        """The end that is made up for a run waits for the run's records, which were set aside."""
        journal.emit(started())
        path = directory_of(journal)
        journal.close(0)
        source = adopt(path)
        (start,) = read_all(source)
        (end,) = source.killed()
        box = Box(start.run)
        box.add(source, start)
        box.add(source, end)
        box.set_aside()
        before = box.take()
        box.aside = frozenset()
        box.add(source, start)
        source.close()

        assert ([], [start, end]) == (before, [record for _, record in box.take()])

    def test_begun_and_ended(self, journal: Journal) -> None:
        """A call that was begun and ended at once is one record that says what the two said."""
        start, end = started(params={"p": "1"}, tags={"t": "1"}, parent=new_id()), ended("", tags={"u": "2"})
        end = msgspec.structs.replace(end, run=start.run)
        journal.begin(start)
        journal.emit(end)
        source = Source(None, journal)
        (found,) = read_all(source)
        source.close()

        assert isinstance(found, RunRecorded)
        assert (start, end) == tuple(
            msgspec.structs.replace(part, seq=0) for part in (found.start, found.end)
        )

    def test_begun_comes_before_what_follows(self, journal: Journal) -> None:
        """Starts that are held back come before any other record, in the order in which they began."""
        outer, inner = started("a" * 32), started("b" * 32, parent="a" * 32)
        journal.begin(outer)
        journal.begin(inner)
        journal.emit(logged("b" * 32))
        journal.emit(ended("b" * 32))
        journal.emit(ended("a" * 32))
        source = Source(None, journal)
        found = read_all(source)
        source.close()

        assert [("a", RunStarted), ("b", RunStarted), ("b", "log"), ("b", RunEnded), ("a", RunEnded)] == [
            (record.run[0], type(record) if isinstance(record, (RunStarted, RunEnded)) else "log")
            for record in found
        ]

    def test_segments_go(self, destination: DestinationDirectory) -> None:
        """
        A segment is deleted when all its records are settled and a later one exists, whatever the order;
        the last one stays while its writer lives.
        """
        journal = Journal(destination, limit_bytes=64 << 10)
        while journal.segment < 4:
            journal.emit(logged(new_id()))
        path = directory_of(journal)
        source = Source(None, journal)
        records = read_all(source)
        half = len(records) // 2
        for record in reversed(records[half:]):
            source.done(record.run, [record])
        assert (
            {"00000001.seg", "00000002.seg", "00000004.seg"}
            >= {file.name for file in path.glob("*.seg")}
            >= {"00000001.seg", "00000004.seg"}
        )
        for record in records[:half]:
            source.done(record.run, [record])

        assert ["00000004.seg"] == [file.name for file in path.glob("*.seg")]
        assert (path / "00000004.seg").stat().st_size == journal.status().bytes
        source.close()
        journal.close(0)

    def test_blobs_go(self, journal: Journal) -> None:
        """
        An artifact's bytes are deleted with the settlement of its record, and a second copy of the same
        bytes stays.
        """
        blobs = [journal.store(b"same"), journal.store(b"same")]
        for blob in blobs:
            assert blob is not None
            journal.emit(ArtifactLogged(run="a" * 32, time=1, path="f", blob=blob.name, size=blob.size))
        source = Source(None, journal)
        first, _ = read_all(source)
        source.done("a" * 32, [first])
        left = [file.name for file in directory_of(journal).glob("blobs/*")]
        source.close()

        assert blobs[1] is not None
        assert [blobs[1].name] == left

    def test_rest_of_a_dead_writer(self, destination: DestinationDirectory) -> None:
        """
        Of a dead writer's directory only what was not settled is read; when that is settled too the
        directory goes, and its counts stay.
        """
        journal = Journal(destination)
        records = [*whole("a" * 32), *whole("b" * 32)]
        for record in records:
            journal.emit(record)
        source = Source(None, journal)
        found = read_all(source)
        source.note(Created("a" * 32, "1", "", "1"))
        source.done("a" * 32, found[:4], closed=True)
        source.close()
        path = directory_of(journal)
        journal.close(0)

        source = adopt(path)
        rest = read_all(source)
        assert [5, 6, 7, 8] == [record.seq for record in rest]
        source.dead("b" * 32, rest[:1])
        source.done("b" * 32, rest[1:], closed=True)
        assert [] == list(source.killed())
        source.leave(destination)

        assert not path.exists()
        assert {path.name: Counts(8, 7, 1, {})} == destination.finished()

    def test_unfinished_directory_stays(self, destination: DestinationDirectory) -> None:
        """A dead writer's directory with something unsettled is left for the next process."""
        journal = Journal(destination)
        for record in whole("a" * 32):
            journal.emit(record)
        path = directory_of(journal)
        journal.close(0)
        source = adopt(path)
        found = read_all(source)
        source.done("a" * 32, found[:3])
        source.leave(destination)

        again = adopt(path)
        assert [4] == [record.seq for record in read_all(again)]
        again.close()

    def test_open_runs_are_killed(self, destination: DestinationDirectory) -> None:
        """
        A run that its dead writer never ended ends as KILLED at the last time known of it; one that ended
        does not.
        """
        journal = Journal(destination)
        for record in (
            started("a" * 32, time=1000),
            logged("a" * 32, time=5000),
            logged("a" * 32, time=3000),
            *whole("b" * 32),
        ):
            journal.emit(record)
        path = directory_of(journal)
        journal.close(0)
        source = adopt(path)
        read_all(source)
        killed = list(source.killed())
        source.close()

        assert [RunEnded(run="a" * 32, time=5000, status="KILLED")] == killed

    def test_last_time_of_what_was_delivered(self, destination: DestinationDirectory) -> None:
        """
        The last time known of an open run counts also where the records that told it were delivered and are
        gone.
        """
        journal = Journal(destination, limit_bytes=64 << 10)
        journal.emit(started("a" * 32, time=1000))
        journal.emit(logged("a" * 32, time=5000))
        while journal.segment < 2:
            journal.emit(logged("b" * 32))
        source = Source(None, journal)
        found = read_all(source)
        source.note(Created("a" * 32, "1", "", "1"))
        source.done("a" * 32, found[:2])
        source.done("b" * 32, found[2:])
        source.close()
        path = directory_of(journal)
        journal.close(0)
        assert not (path / "00000001.seg").exists()
        source = adopt(path)
        read_all(source)
        killed = list(source.killed())
        source.close()

        assert [RunEnded(run="a" * 32, time=5000, status="KILLED")] == killed

    def test_ended_run_is_not_killed(self, destination: DestinationDirectory) -> None:
        """
        A run whose end was delivered is not killed, although the segment with its start is still there and
        the one with its end is gone.
        """
        journal = Journal(destination, limit_bytes=64 << 10)
        journal.emit(started("a" * 32))
        journal.emit(logged("c" * 32, experiment="Default"))
        while journal.segment < 2:
            journal.emit(logged("b" * 32, experiment="Default"))
        journal.emit(ended("a" * 32))
        while journal.segment < 3:
            journal.emit(logged("b" * 32, experiment="Default"))
        source = Source(None, journal)
        found = read_all(source)
        source.note(Created("a" * 32, "1", "", "1"))
        source.done("a" * 32, [record for record in found if record.run == "a" * 32], closed=True)
        source.done("b" * 32, [record for record in found if record.run == "b" * 32])
        source.close()
        path = directory_of(journal)
        journal.close(0)
        assert ["00000001.seg", "00000003.seg"] == sorted(file.name for file in path.glob("*.seg"))
        source = adopt(path)
        rest = read_all(source)
        killed = list(source.killed())
        source.close()

        assert (["c" * 32], []) == ([record.run for record in rest], killed)

    def test_refused_run_is_not_killed(self, destination: DestinationDirectory) -> None:
        """
        A run whose start went to the dead letters is not ended by the next process: there is nothing to
        end.
        """
        journal = Journal(destination)
        journal.emit(started("a" * 32))
        journal.emit(logged("b" * 32, experiment="Default"))
        source = Source(None, journal)
        found = read_all(source)
        source.dead("a" * 32, found[:1])
        source.close()
        path = directory_of(journal)
        journal.close(0)
        source = adopt(path)
        read_all(source)
        killed = list(source.killed())
        source.close()

        assert [] == killed

    def test_pending_counts_without_touching(self, destination: DestinationDirectory) -> None:
        """
        A directory's files alone say what is pending in it, also while its writer lives, and asking changes
        none of them.
        """
        journal = Journal(destination)
        for record in [*whole("a" * 32), started("b" * 32, time=77)]:
            journal.emit(record)
        journal.store(b"12345")
        source = Source(None, journal)
        found = read_all(source)
        source.done("a" * 32, found[:3])
        path = directory_of(journal)
        before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
        counted = take_inventory(path)

        assert (5, 3, 0, {}, 77) == (
            counted.accepted,
            counted.delivered,
            counted.dead,
            counted.dropped,
            counted.oldest_ms,
        )
        assert (path / "00000001.seg").stat().st_size + 5 == counted.bytes
        assert [4, 5] == [record.seq for record in counted.pending]
        assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
        source.close()
        journal.close(0)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.tuples(st.sampled_from("erskdfh"), st.integers(min_value=0, max_value=9)), max_size=40)
    )
    def test_any_history(self, tmp_path: Path, history: list[tuple[str, int]]) -> None:
        """
        Through any order of records, reading, settling, deaths and a disk that comes and goes, no record is
        lost, and none is read again once it is settled.
        """
        root = tmp_path / new_id()
        destination = DestinationDirectory(root / "spool", URI)
        root.mkdir()
        journal = Journal(destination, limit_bytes=64 << 10)
        journal._segment_bytes = 500
        source = Source(None, journal)
        emitted: list[str] = []
        read: list[Record] = []
        settled: list[str] = []
        blocked = False
        for action, number in history:
            if action == "e":
                emitted.append(f"{len(emitted):032}")
                journal.emit(logged(emitted[-1]))
            elif action == "r":
                read += source.read()
            elif action == "s":
                for record in read[number : number + 3]:
                    source.done(record.run, [record])
                    settled.append(record.run)
                del read[number : number + 3]
            elif action == "k" and not blocked:  # the process dies; another one starts and reads on
                rest: list[Record] = []
                path = journal.directory.path if journal.directory is not None else None
                in_memory = {json.loads(line[9:])["run"] for line in journal.in_memory(0)}
                source.close()
                journal._fork_child()  # its descriptors and its lock go, and what was in memory
                if path is not None:
                    adopted = adopt(path)
                    rest = read_all(adopted)
                    adopted.leave(destination)
                left = set(emitted) - set(settled) - in_memory
                assert sorted(left) == sorted(record.run for record in rest)
                emitted, read, settled = [], [], []
                shutil.rmtree(destination.path, ignore_errors=True)
                journal = Journal(destination, limit_bytes=64 << 10)
                journal._segment_bytes = 500
                source = Source(None, journal)
            elif action == "d" and not blocked:  # the disk refuses from now on
                journal._close_segment()
                blocked = True
                journal.degraded, journal._next_try = True, float("inf")
            elif action == "h" and blocked:  # it takes records again
                blocked = False
                journal._next_try = 0.0
        journal._next_try = 0.0
        read += read_all(source)
        source.close()
        journal.close(0)

        assert sorted(emitted) == sorted([*settled, *(record.run for record in read)])


class TestReentrance:
    """Garbage collection in the middle of an append."""

    def test_emit_from_a_finaliser(self) -> None:
        """
        A finaliser that the collector runs inside `emit` can emit too: no deadlock, no record of either
        lost, and none glued to another.
        """
        found = in_python(
            """
            import faulthandler, gc
            faulthandler.dump_traceback_later(30, exit=True)
            journal = make_journal(limit_bytes=64 << 10)
            journal._segment_bytes = 300
            emitted, inside = [], 0

            class Stream:
                def __init__(self):
                    self.itself = self

                def __del__(self):
                    global inside
                    frame = sys._getframe()
                    while frame is not None:
                        if frame.f_code.co_filename.endswith("journal.py"):
                            inside += 1
                            break
                        frame = frame.f_back
                    emit("f")

            def emit(kind):
                uid = f"{kind}{len(emitted):031}"
                emitted.append(uid)
                journal.emit(logged(uid))

            gc.set_threshold(7)
            for number in range(3000):
                Stream()
                emit("a")
                if journal._bytes > 30_000:
                    journal.reclaimed(30_000)
            gc.collect()
            lines = [json.loads(payload)["run"] for payload in payloads(journal.directory.path)]
            same = sorted(lines) == sorted(emitted)
            report(same=same, inside=inside > 10, dropped=journal.dropped, degraded=journal.degraded)
            """
        )

        assert {"same": True, "inside": True, "dropped": {}, "degraded": False} == found

    def test_same_thread_may_emit_while_it_emits(self, journal: Journal) -> None:
        """The journal's lock is one that its holder may take again."""
        with journal._lock:
            done = threading.Event()
            journal.emit(started())
            done.set()

        assert done.is_set()
