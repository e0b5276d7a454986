"""
Code of the user's objects, run for a bounded time.

A `__repr__` that somebody wrote may wait for a database, compute for minutes or never return, and
Python cannot take a function's thread away from it. So it runs in a thread of mltrace's, in a copy
of the caller's context, and the caller waits for it no longer than its `Budget`. What is late is
left behind: it is told to stop at its next bytecode, its type is not asked again for a minute, and
once too many threads are left behind none is begun until one of them ends.

What this cannot do: native code that keeps the interpreter's lock stops every thread, the caller's
among them. What it costs: a hand-over to another thread and back, tens of microseconds, and as much
as the interpreter's switching interval (5 ms) where other threads compute.
"""

from __future__ import annotations

import os
import threading

from collections.abc import Callable, Collection
from contextvars import Context, copy_context
from typing import Any, NamedTuple

from . import _clock


BUDGET_SECONDS = 0.05
"""What the objects of one call's arguments, and of one output, may take together."""

_QUARANTINE_NS = 60_000_000_000
_IDLE = 4  # threads kept for the next value
_LEFT_BEHIND = 8  # threads that may be busy with what nobody waits for

Work = Callable[[], Any]


class Overrun(Exception):
    """The work was not done in time; `begun` says whether it had the time."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__("not done in time")
        self.begun = begun


class Budget:
    """Seconds that are left to wait."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = BUDGET_SECONDS


class Outcome(NamedTuple):
    """What came of work: its result, or the error it raised."""

    result: Any
    error: BaseException | None = None


class Stop(BaseException):
    """Raised in work that nobody waits for."""


class _Worker:
    """A thread that does one piece of work after the other, until it is left behind with one."""

    def __init__(self) -> None:
        self._begin = threading.Lock()
        self._begin.acquire()
        self._done = threading.Lock()
        self._done.acquire()
        self._work: tuple[Work, Context] | None = None
        self._outcome = Outcome(None)
        self._begun = False
        # Emptied by whoever is first, the work that is done or the caller who is tired of waiting.
        self._open: list[None] = []
        self._told = threading.Lock()
        self._told.acquire()
        self._thread = threading.Thread(target=self._run, name="mltrace-watched", daemon=True)
        self._thread.start()

    def do(self, work: Work, seconds: float) -> Outcome:
        """Return what comes of *work*; raise `Overrun` after so many *seconds*, and be of no more use."""
        self._work, self._open, self._begun = (work, copy_context()), [None], False
        self._begin.release()
        try:
            in_time = self._done.acquire(timeout=seconds)
        except BaseException:  # a signal's handler raised in the caller
            if not self._leave():
                self.dismiss()
            raise
        if not in_time:
            if self._leave():
                raise Overrun(begun=self._begun)
            self._done.acquire()  # it was done at the last moment
        outcome, self._outcome = self._outcome, Outcome(None)
        return outcome

    def _leave(self) -> bool:
        """Leave the work behind, if it is still at it; say whether it was."""
        try:
            self._open.pop()
        except IndexError:
            return False
        _left_behind.append(self)
        if self._begun:  # else it will see that nobody waits, and is not ready for an exception yet
            _stop(self._thread.ident)
        self._told.release()
        return True

    def _run(self) -> None:
        _here.watched = True
        try:
            self._work_off()
        except Stop:  # it was left behind the moment it was done, or had begun
            return

    def _work_off(self) -> None:
        while True:
            self._begin.acquire()
            if self._work is None:
                return
            (work, context), self._work = self._work, None
            self._begun = True
            if not self._open:
                self._told.acquire()
                return
            outcome = context.run(_outcome, work)
            del work, context
            try:
                self._open.pop()
            except IndexError:
                # Nobody waits. The identity of a thread that has ended may be another's at once, so
                # this one stays until it has been told to stop.
                self._told.acquire()
                return
            self._outcome = outcome
            del outcome
            self._done.release()

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def dismiss(self) -> None:
        """End the thread."""
        self._begin.release()


def _outcome(work: Work) -> Outcome:
    try:
        return Outcome(work())
    except BaseException as error:  # of an object: SystemExit from its text must not end the program
        return Outcome(None, error)


def _stop(thread: int | None) -> None:
    """
    Raise in a thread that works for nobody: a loop would keep the processor busy for ever. What
    waits in native code hears of it when it returns.
    """
    try:
        import ctypes

        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread or 0), ctypes.py_object(Stop))
    except Exception:  # an interpreter without ctypes leaves it running
        return


_idle: list[_Worker] = []
_left_behind: list[_Worker] = []
_here = threading.local()
_slow: dict[int, tuple[type, int]] = {}  # by identity: a class may refuse to be hashed


def run(work: Work, budget: Budget) -> Outcome:
    """
    Return what comes of *work*, done in another thread within the *budget*.

    Raises:
        Overrun: It was not done in time, or no thread could be had.
    """
    if hasattr(
        _here, "watched"
    ):  # an object whose text makes a traced call: one watch is enough, and it may go round
        raise Overrun(begun=False)
    if budget.left <= 0 or (worker := _take()) is None:
        raise Overrun(begun=False)
    began = _clock.elapsed_ns()
    try:
        outcome = worker.do(work, budget.left)
    finally:
        budget.left -= (_clock.elapsed_ns() - began) / 1e9
    if len(_idle) < _IDLE:
        _idle.append(worker)
    else:
        worker.dismiss()
    return outcome


def ask(work: Work, kinds: Collection[type], seconds: float | None = None) -> Outcome | None:
    """
    Return what comes of *work*, which asks objects of these *kinds*; None where they are late, or
    were within the last minute.
    """
    if any(map(is_slow, kinds)):
        return None
    budget = Budget()
    budget.left = budget.left if seconds is None else seconds
    try:
        return run(work, budget)
    except Overrun as late:
        if late.begun:
            for kind in kinds:
                blame(kind)
        return None


def _take() -> _Worker | None:
    try:
        return _idle.pop()
    except IndexError:
        pass
    _left_behind[:] = [worker for worker in _left_behind if worker.is_alive]
    if len(_left_behind) >= _LEFT_BEHIND:
        return None
    try:
        return _Worker()
    except RuntimeError:  # no more threads for this process, or the interpreter is ending
        return None


def blame(kind: type) -> None:
    """Do not ask objects of this type again for a minute."""
    _slow[id(kind)] = (kind, _clock.elapsed_ns() + _QUARANTINE_NS)


def is_slow(kind: type) -> bool:
    """Say whether an object of this type was late within the last minute."""
    if (found := _slow.get(id(kind))) is None:
        return False
    if _clock.elapsed_ns() < found[1]:
        return True
    _slow.pop(id(kind), None)
    return False


def close() -> None:
    """End the threads that wait for work; the next value starts one anew."""
    while _idle:
        try:
            _idle.pop().dismiss()
        except IndexError:  # another thread was first
            return


def reset() -> None:
    """End the threads that wait for work, and forget which types were slow: for tests."""
    close()
    _forget()


def _forget() -> None:
    """Forget threads, none of which a forked child has, and slow types."""
    _idle.clear()
    _left_behind.clear()
    _slow.clear()


os.register_at_fork(after_in_child=_forget)
