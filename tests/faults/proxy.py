"""A proxy before a real server that fails in every way that a network or a gateway can."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tests.harness import Answer, Proxy, Request


HTML = b"<html><body>Please log in</body></html>"
REPLACED = {
    "401": Answer(401, HTML, "text/html"),
    "403": Answer(403, HTML, "text/html"),
    "html200": Answer(200, HTML, "text/html; charset=utf-8"),
    "html404": Answer(404, HTML, "text/html"),
    "302": Answer(302, b"", "text/html"),
    "408": Answer(408, b"", "text/plain"),
    "429": Answer(429, b"", "text/plain", (("Retry-After", "0"),)),
    "500": Answer(500, HTML, "text/html"),
    "502": Answer(502, HTML, "text/html"),
    "503": Answer(503, b'{"error_code":"TEMPORARILY_UNAVAILABLE","message":"busy"}'),
    "504": Answer(504, HTML, "text/html"),
}
"""Answers in the server's place; with ``applied-`` before the name the server did it all the same."""

PORTAL = "/portal"
"""Where a redirect leads: a page that says yes to everything, in JSON."""

LOST = ("fin", "rst", "half", "hang")
"""Applied, and the reply lost: closed, reset, cut in the middle, never sent."""

LATE = ("late", "replay")
"""Forwarded after the client has given up; forwarded twice."""

Plan = Callable[[Request], str | None]


def chaos(kinds: Sequence[str], seed: int, *, budget: int, share: float = 0.3, path: str = "/api/") -> Plan:
    """
    Return a plan that fails *budget* requests whose path contains *path*, a *share* of them, at random,
    of one kind of request at most half: those that come first would take it all.
    """
    rng = random.Random(seed)
    left = budget
    met: Counter[str] = Counter()
    lock = threading.Lock()

    def plan(request: Request) -> str | None:
        nonlocal left
        if path not in request.path or request.method == "GET":
            return None
        endpoint = "upload" if "artifacts" in request.path else request.path
        with lock:
            if left and met[endpoint] < max(budget // 2, 1) and rng.random() < share:
                left -= 1
                met[endpoint] += 1
                return kinds[(budget - left) % len(kinds)]
        return None

    return plan


class FaultProxy(Proxy):
    """
    A `Proxy` that asks *plan* what becomes of each request: a name of the tables above, ``cut``
    (reset before it was forwarded), ``drip``, or None.
    """

    def __init__(
        self,
        upstream: int,
        plan: Plan | None = None,
        *,
        seed: int = 0,
        late: tuple[float, float] = (0.0, 3.0),
    ) -> None:
        self.plan = plan
        self.injected: Counter[str] = Counter()
        self._late = late
        self._rng = random.Random(seed)
        self._under_way: list[threading.Thread] = []
        super().__init__(upstream)

    def heal(self) -> None:
        """Be transparent from now on; what is late still lands."""
        self.plan = None
        super().heal()

    def land(self) -> None:
        """Wait until everything late has landed."""
        for thread in list(self._under_way):
            thread.join(60)

    def handle(self, request: Request) -> Any:
        """Return the answer to *request*, or what to do with the connection in its place."""
        self.requests.append(request)
        if request.path == PORTAL:
            return Answer(200, b"{}")
        kind = self.plan(request) if self.plan is not None else None
        if kind is None:
            return self.forward(request)
        self.injected[kind] += 1
        if kind == "cut":
            return _reset
        if kind == "late":
            self._forward_later(request)
            return _reset
        replaced = REPLACED.get(kind.removeprefix("applied-"))
        if kind == "302":
            return Answer(302, b"", "text/html", (("Location", f"{self.url}{PORTAL}"),))
        if replaced is not None and not kind.startswith("applied-"):
            return replaced
        answer = self.forward(request)
        if kind == "replay":
            self._forward_later(request)
            return answer
        if kind == "hang":
            self._healed.wait(60)
        return replaced or {"fin": None, "hang": None, "rst": _reset}.get(kind, _slowly(answer, kind))

    def _forward_later(self, request: Request) -> None:
        delay = self._rng.uniform(*self._late)
        thread = threading.Thread(target=self._late_forward, args=(request, delay), daemon=True)
        self._under_way.append(thread)
        thread.start()

    def _late_forward(self, request: Request, delay: float) -> None:
        threading.Event().wait(delay)
        with contextlib.suppress(OSError):  # the server took it; nobody waits for its answer
            self.forward(request)


def _reset(handler: Any) -> None:
    """Close the connection with RST, not with FIN: nothing is left to be sent, or to be read."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for file in (handler.rfile, handler.wfile, handler.connection):
        file.close()


def _slowly(answer: Answer, kind: str) -> Callable[[Any], None]:
    """Return what sends *answer* cut in half, or byte by byte."""
    head = f"HTTP/1.1 {answer.status} OK\r\nContent-Type: {answer.content_type}\r\n"
    data = f"{head}Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body

    def send(handler: Any) -> None:
        handler.close_connection = True
        try:
            if kind == "half":
                handler.wfile.write(data[: len(data) - 2])
            else:
                for start in range(0, len(data), 16):
                    handler.wfile.write(data[start : start + 16])
                    handler.wfile.flush()
                    time.sleep(0.01)
            handler.wfile.flush()
        except OSError:
            return  # the client went away

    return send
