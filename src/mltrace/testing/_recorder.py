"""
Recording for the length of a block: `record`, and the `Recorder` that it gives.
"""

from __future__ import annotations

import contextlib
import threading

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .. import _clock
from .._config import take_over
from .._context import get_ambient, reset_current, set_ambient, set_current
from .._inert import SILENT
from .._records import APART, AssessmentLogged, Logged, Record
from .._redaction import RedactHook
from ..backends.memory import MemoryBackend, RecordedRun
from ..exceptions import ConfigurationError
from ._fakes import STARTED_MS, Clock, Source
from ._limits import refuse
from ._trees import RunTree, partial_differences, recorded


TURN_SECONDS = 60.0
"""The longest that a thread waits for another thread's recording to end."""


class RecordingBackend(MemoryBackend):
    """A `MemoryBackend` that refuses what MLflow would refuse, and knows runs of other processes."""

    def emit(self, record: Record) -> None:
        """Apply *record*; raise `LoggingError` where MLflow would refuse it."""
        with self._lock:
            refuse(record, self.runs)
            if (
                record.run not in self.runs
                and isinstance(record, (Logged, *APART))
                and (record.experiment or isinstance(record, AssessmentLogged))
            ):
                self._adopt(record.run, record.experiment or "", record.time)
            super().emit(record)

    def _adopt(self, uid: str, experiment: str, time: int) -> None:
        """Know a run that another process began: with `mltrace.attach` one logs to it from here."""
        self.runs[uid] = RecordedRun(uid, "remote", "remote", experiment, None, time)
        self.roots.append(self.runs[uid])


class Recorder:
    """
    What was recorded in a block of `record`.

    Attributes:
        clock: The `Clock` that runs are timed by.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._backend = RecordingBackend()

    def __repr__(self) -> str:
        return f"<Recorder of {len(self._backend.runs)} runs>"

    @property
    def runs(self) -> list[RunTree]:
        """The run trees so far, as values, in the order in which they started."""
        with self._backend._lock:
            return [recorded(root) for root in self._backend.roots]

    def walk(self) -> Iterator[RunTree]:
        """Yield every run, those below others too, in the order in which they started."""
        for tree in self.runs:
            yield from tree.walk()

    def find(self, name: str) -> RunTree:
        """Return the one run called *name*; `AssertionError` where there is none or more than one."""
        found = [tree for tree in self.walk() if tree.name == name]
        if len(found) == 1:
            return found[0]
        names = ", ".join(repr(tree.name) for tree in self.walk()) or "nothing"
        count = "no run is" if not found else f"{len(found)} runs are"
        raise AssertionError(f"{count} called {name!r}; recorded: {names}")

    def assert_logged(
        self,
        name: str | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        status: str | None = None,
        kind: str | None = None,
        experiment: str | None = None,
        record_as: str | None = None,
        span_type: str | None = None,
    ) -> RunTree:
        """
        Return the first run that has all of this; it may have more.

        Raises: AssertionError: There is none; the message shows the closest and how it differs.
        """
        asked: dict[str, Any] = {"params": params, "metrics": metrics, "tags": tags}
        asked |= {"name": name, "status": status, "kind": kind, "experiment": experiment}
        asked |= {"record_as": record_as, "span_type": span_type}
        candidates = [(partial_differences(tree, **asked), tree) for tree in self.walk()]
        if not candidates:
            raise AssertionError(f"nothing was logged; {_sentence(asked)} was expected")
        missing, closest = min(candidates, key=lambda candidate: _distance(candidate[0], candidate[1], name))
        if missing:
            lines = "\n".join(f"  {line}" for line in missing)
            raise AssertionError(f"no run has {_sentence(asked)}; the closest is\n{closest!r}\n{lines}")
        return closest

    def clear(self) -> None:
        """Forget what was recorded; a run that is still open goes on in the next recording."""
        with self._backend._lock:
            self._backend.roots.clear()
            for uid in [uid for uid, found in self._backend.runs.items() if found.status is not None]:
                del self._backend.runs[uid]


def _distance(missing: list[str], tree: RunTree, name: str | None) -> tuple[bool, int]:
    """Order candidates: a run of the asked name is closer than any other."""
    return (name is not None and tree.name != name, len(missing)) if missing else (False, 0)


def _sentence(asked: Mapping[str, Any]) -> str:
    return ", ".join(f"{field}={value!r}" for field, value in asked.items() if value is not None) or "any run"


@contextlib.contextmanager
def record(
    *,
    experiment_name: str | None = None,
    redact: bool | RedactHook | None = None,
    redact_keys: Iterable[str] | None = None,
    sample_rate: float = 1.0,
    record_as: str | Mapping[str, str] | None = None,
    strict: bool = True,
    started_ms: int = STARTED_MS,
    tick: float = 0.0,
) -> Iterator[Recorder]:
    """
    Record into memory for the length of a ``with`` block (or, as a decorator, of a call).

    Nothing leaves the process, whatever the environment or the program says: a `configure` in the
    block sets what it sets, but not where records go. Runs that are current outside are not current
    inside. Afterwards everything is as it was before the block: the configuration, the backend and
    what it still has to deliver.

    Recordings may be nested; those of two threads take turns. What other threads of the program
    record during the block is in it.

    Args:
        experiment_name, redact, redact_keys, record_as: As for `mltrace.configure`; default: what the program
            configured.

        sample_rate: Share of root runs that are recorded (1).

        strict: Raise mltrace's own errors, and `LoggingError` for what MLflow would refuse (True).

        started_ms: Where the recorder's clock stands, in milliseconds since the epoch.

        tick: Seconds that pass whenever a run reads the clock (0: it stands until
            ``recorder.clock.advance(seconds)``).
    """
    recorder = Recorder(Clock(started_ms, tick))
    options = {"experiment_name": experiment_name, "redact": redact, "redact_keys": redact_keys}
    options["record_as"] = record_as
    given = {name: value for name, value in options.items() if value is not None}
    forced = {"backend": recorder._backend, "strict": strict, "sample_rate": sample_rate, "enabled": True}
    with _turn(), contextlib.ExitStack() as undo:
        undo.callback(take_over(given, forced))
        undo.callback(_clock.substitute(Source(recorder.clock)))
        undo.callback(set_ambient, get_ambient())
        set_ambient(None)
        undo.callback(reset_current, set_current(SILENT))
        yield recorder


_turns = threading.Condition()
_holders: list[int] = []


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """
    Hold the process's configuration: this thread's recordings may nest, another's waits.

    The holder is named, not locked: a fixture may be torn down by another thread.
    """
    me = threading.get_ident()
    with _turns:
        if not _turns.wait_for(lambda: not _holders or _holders[-1] == me, TURN_SECONDS):
            raise ConfigurationError(
                f"record: another thread has been recording for {TURN_SECONDS:g} s; what a thread records is in"
                " the recording of the thread that started it, which needs none of its own"
            )
        _holders.append(me)
    try:
        yield
    finally:
        with _turns:
            _holders.pop()
            _turns.notify_all()
