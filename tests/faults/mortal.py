"""
Processes that can be killed, without being processes: a journal and a sender whose threads stop dead.

Whatever mltrace's spool, journal and acknowledgements ask of the operating system, and each request, is a
breath: a thread of a dead process does not get past it, whether it was killed from outside or its `fuse` ran
out in the middle. It leaves by a `BaseException`, so nothing that mltrace does about errors is done, and nothing
of what clean-up code would do to a file gets through either. What the system does for a process that was
killed is done by `kill`: its descriptors are closed, and so its locks are free.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mltrace import _files, _spool
from mltrace.backends import journal
from mltrace.backends.journal import Journal
from mltrace.delivery import acks, letters, source
from mltrace.delivery.crew import Crew
from mltrace.delivery.destination import Destination
from mltrace.delivery.sender import Sender


BREATHS = (
    *("open", "close", "read", "write", "pread", "pwrite", "fstat", "scandir"),
    *("mkdir", "replace", "rename", "unlink", "rmdir"),
)
"""The functions of `os` that a dead process cannot call."""

_here = threading.local()


class Died(BaseException):
    """The process is dead; a thread ends with this without a word."""


class Process:
    """
    A program that logs, as far as mltrace is concerned: a journal, and a sender to what *connect* returns.

    A *mute* one has no journal, as `mltrace sync`.
    """

    def __init__(
        self,
        name: str,
        directory: _spool.DestinationDirectory,
        connect: Callable[[Process], Destination],
        *,
        link_seconds: float = 3600.0,
        context: dict[str, str] | None = None,
        experiment: str = "",
        mute: bool = False,
    ) -> None:
        self.name = name
        self.leaving = False
        """Whether it has begun to end in good order."""
        self.dead = False
        self.fuse = -1
        """How many breaths are left; negative: any number."""
        self.locks: set[int] = set()
        self.sender = _MortalSender(self, directory, lambda: connect(self), link_seconds=link_seconds)
        self.journal = (
            None if mute else Journal(directory, delivery=self.sender, context=context, experiment=experiment)
        )

    def breathe(self) -> None:
        """Go on living, or end the thread."""
        if self.fuse == 0:
            self.dead = True
        if self.dead:
            raise Died
        self.fuse -= self.fuse > 0

    def do(self, what: Callable[..., Any], *arguments: Any) -> bool:
        """Do something in the name of the process; say whether it lived to see it done."""
        before, _here.process = getattr(_here, "process", None), self
        try:
            what(*arguments)
        except Died:
            return False
        finally:
            _here.process = before
        return True

    def close(self, seconds: float) -> None:
        """Begin to end in good order; what is under way is left behind."""
        assert self.journal is not None
        self.leaving = True
        assert self.do(self.journal.close, seconds)

    def kill(self, afterwards: Callable[[list[Path]], None] | None = None) -> None:
        """
        End it as ``kill -9`` does; *afterwards* is called with the directories it owned, before
        anybody can have them.
        """
        self.dead = True
        self.sender.end_threads()
        directories = [one.directory for one in self.sender.sources if one.directory is not None]
        if self.journal is not None and self.journal.directory is not None:
            directories.append(self.journal.directory)
        if afterwards is not None:
            afterwards(list(dict.fromkeys(directory.path for directory in directories)))
        for one in self.sender.sources:
            one.close()
        if self.journal is not None:
            self.journal._close_segment()
        for directory in directories:
            self.locks.discard(directory._lock)
            directory.release()
        for lock in self.locks:  # of an adoption that was cut short
            os.close(lock)
        self.locks.clear()


class _MortalSender(Sender):
    """A sender whose threads know which process they belong to."""

    def __init__(self, process: Process, *arguments: Any, **options: Any) -> None:
        self._process = process
        self._coordinators: list[threading.Thread] = []
        self._crews: list[_MortalCrew] = []
        super().__init__(*arguments, **options)

    @property
    def workers(self) -> list[threading.Thread]:
        """Its workers, those too that have gone."""
        return [thread for crew in self._crews for thread in crew.threads]

    @property
    def sources(self) -> list[source.Source]:
        """What it reads."""
        return list(self._sources)

    def end_threads(self) -> None:
        """Have all threads take their last breath."""
        self._inbox.put(("rise",))
        _join(self._coordinators)  # from here on no worker is started
        for crew in self._crews:
            crew.dismiss()
            _join(crew.threads)

    def start(self, journal: Journal | None = None) -> None:
        super().start(journal)
        if self._thread is not None and self._thread not in self._coordinators:
            self._coordinators.append(self._thread)

    def _reset(self) -> None:
        super()._reset()
        self._crew = _MortalCrew(self._process, self._inbox, self._open_courier)
        self._crews.append(self._crew)

    def _run(self) -> None:
        _here.process = self._process
        with contextlib.suppress(Died):
            super()._run()

    def _step(self) -> float:
        self._process.breathe()
        return super()._step()


class _MortalCrew(Crew):
    """Workers that know which process they belong to."""

    def __init__(self, process: Process, *arguments: Any) -> None:
        self._process = process
        super().__init__(*arguments)

    @property
    def threads(self) -> list[threading.Thread]:
        """The workers, those too that have gone."""
        return self._threads

    def _work(self) -> None:
        _here.process = self._process
        with contextlib.suppress(Died):
            super()._work()


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "a thread survives its process"


@contextlib.contextmanager
def mortality() -> Iterator[None]:
    """Have what mltrace asks of the system be breaths, within the block."""
    with pytest.MonkeyPatch.context() as patch:
        breathing = SimpleNamespace(**vars(os))
        for name in BREATHS:
            setattr(breathing, name, _breath(getattr(os, name)))
        breathing.close = _closing
        for module in (_files, _spool, journal, acks, source, letters):
            patch.setattr(module, "os", breathing)
        locking = SimpleNamespace(**vars(_spool.fcntl))
        locking.flock = _locking(_spool.fcntl.flock)
        patch.setattr(_spool, "fcntl", locking)
        patch.setattr(_files, "fcntl", locking)
        for name in ("unlink", "rename", "rmdir"):
            patch.setattr(Path, name, _breath(getattr(Path, name)))
        yield


def _breath(function: Callable[..., Any]) -> Callable[..., Any]:
    def breathing(*arguments: Any, **options: Any) -> Any:
        process: Process | None = getattr(_here, "process", None)
        if process is not None:
            process.breathe()
        return function(*arguments, **options)

    return breathing


def _closing(descriptor: int) -> None:
    process: Process | None = getattr(_here, "process", None)
    if process is not None:
        process.breathe()
        process.locks.discard(descriptor)
    os.close(descriptor)


def _locking(flock: Callable[[int, int], None]) -> Callable[[int, int], None]:
    def locking(descriptor: int, how: int) -> None:
        process: Process | None = getattr(_here, "process", None)
        if process is None:
            flock(descriptor, how)
            return
        while True:  # whoever waits for a lock can be killed too
            process.breathe()
            try:
                flock(descriptor, how | _spool.fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if how & _spool.fcntl.LOCK_NB:
                    raise
                time.sleep(0.001)
        process.locks.add(descriptor)

    return locking
