"""
mltrace with one of its safeguards taken out: the harness has to object to each.

A mutant is switched on in a client's or a drainer's process only.
"""

from __future__ import annotations

import time

from collections.abc import Callable
from typing import Any


def no_fork_hook() -> None:
    """A forked child goes on with its parent's journal and threads."""
    from mltrace.backends import journal
    from mltrace.delivery import sender

    journal.Journal._fork_child = lambda self: None  # type: ignore[method-assign]
    sender.Sender.forked = lambda self: self._reset() if not hasattr(self, "_thread") else None  # type: ignore[method-assign]


def no_ambiguous_state() -> None:
    """A creation that was not answered is simply requested again."""
    from mltrace.delivery import outbox

    for flag in ("ambiguous", "ever_ambiguous"):
        setattr(outbox.Box, flag, property(lambda self: False, lambda self, value: None))


def no_reconciliation() -> None:
    """Nobody looks for duplicates, neither at the end nor later."""
    from mltrace.delivery import courier

    courier.Courier._delete_duplicates = lambda self, box, server, found: None  # type: ignore[method-assign]
    courier.Courier.reconcile = lambda self, suspects: None  # type: ignore[method-assign]


def acknowledge_before_the_reply() -> None:
    """Records are settled when they are sent."""
    from mltrace.delivery import courier

    deliver = courier.Courier.deliver

    def eager(self: Any, box: Any, job: Any) -> None:
        courier.settle(self._directory, box.uid, job, {})
        deliver(self, box, job)

    courier.Courier.deliver = eager  # type: ignore[method-assign]


def timestamp_at_send() -> None:
    """Metric points carry the time at which they are sent."""
    from mltrace.delivery import rest

    log_batch = rest.RestDestination.log_batch

    def late(self: Any, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        now = time.time_ns() // 1_000_000
        log_batch(self, run_id, [m.__class__(m.key, m.value, now, m.step) for m in metrics], params, tags)

    rest.RestDestination.log_batch = late  # type: ignore[method-assign]


def no_checksum() -> None:
    """Lines are believed whatever their checksum says."""
    from mltrace import _files, _spool
    from mltrace.delivery import inventory

    def credulous(line: bytes) -> bytes | None:
        return line[9:] if len(line) > 9 else None

    _files.unframe = _spool.unframe = inventory.unframe = credulous


def redirects_followed() -> None:
    """A redirect is followed, as a browser would."""
    from urllib.parse import urlsplit

    from mltrace.delivery import rest

    exchange = rest.RestDestination._exchange

    def follow(self: Any, method: str, path: str, body: Any, kind: str, *extra: Any) -> Any:
        status, headers, reply = exchange(self, method, path, body, kind, *extra)
        if status in (301, 302, 303, 307, 308):
            target = urlsplit(headers["Location"])
            other = rest.RestDestination(f"http://{target.netloc}")
            return exchange(other, "GET", target.path or "/", None, "")
        return status, headers, reply

    rest.RestDestination._exchange = follow  # type: ignore[method-assign]


def nan_sent_raw() -> None:
    """NaN is sent as a bare NaN, which JSON has not."""
    from mltrace.delivery import rest

    encode = rest._encode

    def raw(body: Any) -> bytes:
        return encode(body).replace(b'"NaN"', b"NaN")

    rest._encode = raw  # type: ignore[assignment]


MUTANTS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        no_fork_hook,
        no_ambiguous_state,
        no_reconciliation,
        acknowledge_before_the_reply,
        timestamp_at_send,
        no_checksum,
        redirects_followed,
        nan_sent_raw,
    )
}


def switch_on(name: str) -> None:
    """Take the safeguard *name* out of this process."""
    MUTANTS[name]()
