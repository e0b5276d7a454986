"""
Crash points: the process dies before or after the nth thing that it does to the disk or the network.

mltrace has no hooks for this. The few primitives that its journal, acknowledgements, spool and REST
client call are wrapped in the process that is to die, so that nothing is left of it anywhere else.
"""

from __future__ import annotations

import os
import threading

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _Counter:
    def __init__(self, crash: int, report: str) -> None:
        self._crash = crash
        self._report = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if report else -1
        self._next = 0
        self._lock = threading.Lock()

    def hit(self, where: str) -> None:
        """Pass one crash point, or die there."""
        with self._lock:
            number, self._next = self._next, self._next + 1
        if self._report >= 0:
            os.write(self._report, f"{where}\n".encode())
        if number == self._crash:
            os._exit(86)


def install(crash: int, report: str = "") -> None:
    """Die at crash point number *crash* (negative: never); name each that is passed in the file *report*."""
    counter = _Counter(crash, report)

    def around(where: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            counter.hit(f"before {where}")
            result = function(*arguments, **options)
            counter.hit(f"after {where}")
            return result

        return wrapped

    from mltrace import _files, _spool
    from mltrace.backends import journal
    from mltrace.delivery import acks, source, transport

    for module, names in (
        (journal, ("write", "open")),
        (acks, ("write", "pwrite", "replace")),
        (_files, ("write", "replace", "open")),
        (_spool, ("pwrite",)),
        (source, ("open",)),
    ):
        own = SimpleNamespace(**vars(os))
        for name in names:
            setattr(own, name, around(f"{module.__name__.rpartition('.')[2]} {name}", getattr(os, name)))
        module.os = own  # type: ignore[attr-defined]
    client = transport.http.client.HTTPConnection
    client.request = around("send", client.request)  # type: ignore[method-assign]
    client.getresponse = around("receive", client.getresponse)  # type: ignore[method-assign]
    source.Source._delete = around("delete", source.Source._delete)  # type: ignore[method-assign]
    _spool.WriterDirectory.remove = around("remove", _spool.WriterDirectory.remove)  # type: ignore[method-assign]
