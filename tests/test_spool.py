"""The files that the processes of a destination share: the log of finished writers, and what is left of directories."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap

from pathlib import Path

import msgspec
import pytest

from mltrace import _config
from mltrace import _spool as spool_module
from mltrace._files import append_line, read_lines
from mltrace._spool import Counts, DestinationDirectory, Retired, Trouble, WriterDirectory
from mltrace._survey import report
from mltrace.delivery.sender import Sender
from tests.harness import python, run_python, until


URI = "http://127.0.0.1:9"
ONE = Counts(2, 1, 0, {"spool_full": 1})


@pytest.fixture(name="destination")
def _destination() -> DestinationDirectory:
    """A destination where nobody answers, in this test's spool."""
    directory = DestinationDirectory(_config.resolve().spool_dir, URI)
    directory.make()
    return directory


def finish(destination: DestinationDirectory) -> str:
    """Make a writer and retire it with the counts `ONE`; return its name."""
    directory = WriterDirectory.create(destination.path, {})
    destination.retire(directory, ONE)
    return directory.path.name


class TestRetired:
    """`retired.log`."""

    def test_does_not_grow(self, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many writers finish, the log stays small, and not one of them is forgotten."""
        monkeypatch.setattr(spool_module, "_RETIRED_BYTES", 4096)
        monkeypatch.setattr(spool_module, "_RETIRED_KEPT", 8)
        names = [finish(destination) for _ in range(200)]
        found = report(destination)

        assert destination.retired.stat().st_size < 4096 + 200
        assert (400, 200, {"spool_full": 200}, 0) == (
            found.accepted,
            found.delivered,
            found.dropped,
            found.pending,
        )
        assert set(names[-8:]) <= set(destination.finished())

    def test_processes_at_once(self, destination: DestinationDirectory) -> None:
        """Processes that append and compact at the same time lose no line of each other's."""
        script = """
            import sys
            from pathlib import Path
            from mltrace import _spool
            _spool._RETIRED_BYTES, _spool._RETIRED_KEPT = 1500, 2
            destination = _spool.DestinationDirectory(Path(sys.argv[1]), sys.argv[2])
            sys.stdin.readline()
            for _ in range(100):
                directory = _spool.WriterDirectory.create(destination.path, {})
                destination.retire(directory, _spool.Counts(3, 3))
        """
        command = [sys.executable, "-c", textwrap.dedent(script), destination.path.parent, URI]
        writers = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(4)]
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write(b"\n")
            writer.stdin.close()
        codes = [writer.wait(60) for writer in writers]
        found = report(destination)

        assert [0] * 4 == codes
        assert (1200, 1200, 0) == (found.accepted, found.delivered, found.writers)
        assert destination.retired.stat().st_size < 3000

    def test_waiting_for_a_file_that_was_replaced(self, destination: DestinationDirectory) -> None:
        """A line whose writer waited while the log was put into another file goes to that file."""
        finish(destination)
        log = destination.retired
        script = """
            import sys
            from pathlib import Path
            from mltrace import _files
            print("ready", flush=True)
            _files.append_line(Path(sys.argv[1]), b"late")
        """
        with log.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with python(script, log) as process:
                assert process.stdout is not None
                assert "ready\n" == process.stdout.readline()
                inode = log.stat().st_ino
                until(lambda: f":{inode} " in Path("/proc/locks").read_text().partition("->")[2])
                spool_module.write_whole(log, log.read_bytes())
                fcntl.flock(held, fcntl.LOCK_UN)
                assert 0 == process.wait(10)

        assert b"late" == list(read_lines(log))[-1]

    def test_child_does_not_keep_the_lock(self, destination: DestinationDirectory) -> None:
        """A child that is forked in the middle of an append keeps nobody from the log."""
        script = """
            import fcntl, os, sys
            from pathlib import Path
            from mltrace import _files
            with _files.locked_log(Path(sys.argv[1])):
                child = os.fork()
                if child == 0:
                    os.read(os.pipe()[0], 1)
            with open(sys.argv[1], "rb") as log:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(child, 9)
            print("free")
        """

        assert "free\n" == run_python(script, destination.retired).stdout

    def test_removal_cut_short(
        self, destination: DestinationDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A writer whose counts were written and whose directory is still there keeps its line through a
        compaction, and counts once when its next owner has finished it.
        """
        monkeypatch.setattr(spool_module, "_RETIRED_BYTES", 0)
        monkeypatch.setattr(spool_module, "_RETIRED_KEPT", 1)
        cut = WriterDirectory.create(destination.path, {})
        append_line(destination.retired, msgspec.json.encode(Retired(cut.path.name, ONE)))
        (cut.path / "acks").write_bytes(b"")
        cut.release()
        finish(destination)
        latest = finish(destination)
        kept = destination.finished()
        adopted = WriterDirectory.adopt(cut.path)
        assert adopted is not None
        destination.retire(adopted, Counts(7, 7))
        found = report(destination)

        assert {"": ONE, cut.path.name: ONE, latest: ONE} == kept
        assert ((6, 3, {"spool_full": 3}), False) == (
            (found.accepted, found.delivered, found.dropped),
            cut.path.exists(),
        )


class TestRemnants:
    """Directories of writers that came to nothing, or are nearly gone."""

    def cut(self, destination: DestinationDirectory, *left: str, age: float = 3600.0) -> Path:
        """Leave a directory in which only the files *left* are there, *age* seconds old."""
        directory = WriterDirectory.create(destination.path, {})
        directory.release()
        for file in directory.path.iterdir():
            if file.name not in left:
                file.unlink()
        for name in set(left) - {"lock", "tally", "owner.json"}:
            (directory.path / name).touch()
        when = directory.path.stat().st_mtime - age
        os.utime(directory.path, (when, when))
        return directory.path

    @pytest.mark.parametrize(
        "left", [(), ("lock",), ("lock", "tally"), ("lock", "tally", "owner.json.0123abcd.tmp")]
    )
    def test_removed(self, destination: DestinationDirectory, left: tuple[str, ...]) -> None:
        """What a creation or removal that was cut short has left is no writer, and the next delivery removes it."""
        path = self.cut(destination, *left)
        before = report(destination).writers
        Sender(destination, lambda: None)._adopt()  # type: ignore[arg-type, return-value]

        assert (0, False) == (before, path.exists())

    @pytest.mark.parametrize("left", [("lock", "00000001.seg"), ("acks",), ("notes.txt",)])
    def test_kept(self, destination: DestinationDirectory, left: tuple[str, ...]) -> None:
        """What holds anything else stays: records, acknowledgements, what is not ours."""
        path = self.cut(destination, *left)
        spool_module.remove_remnant(path)

        assert set(left) == {file.name for file in path.iterdir()}

    def test_young(self, destination: DestinationDirectory) -> None:
        """A directory of the last minute stays: its process may be about to write."""
        path = self.cut(destination, "lock", age=50.0)
        spool_module.remove_remnant(path)

        assert path.exists()

    def test_locked(self, destination: DestinationDirectory) -> None:
        """A directory whose lock is held stays, however long its process takes."""
        path = self.cut(destination, "lock")
        with (path / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            spool_module.remove_remnant(path)

        assert path.exists()

    def test_of_another_host(self, destination: DestinationDirectory) -> None:
        """Another host's directory stays: its lock may not be seen here."""
        path = self.cut(destination)
        host, pid, random = path.name.rsplit("-", 2)
        moved = path.rename(path.with_name(f"{host}-2-{pid}-{random}"))
        os.utime(moved, (1, 1))
        spool_module.remove_remnant(moved)

        assert moved.exists()


def test_planted_last_error(destination: DestinationDirectory, tmp_path: Path) -> None:
    """A link in the place of the last error is neither read, nor written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(msgspec.json.encode(Trouble("suspended", "planted", 1)))
    content, place = victim.read_bytes(), destination.path / "last_error.json"
    place.symlink_to(victim)
    read = destination.trouble()
    destination.note_trouble(Trouble("unreachable", "true", 2))

    assert (None, Trouble("unreachable", "true", 2)) == (read, destination.trouble())
    assert (content, False) == (victim.read_bytes(), place.is_symlink())
