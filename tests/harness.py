"""
What the tests of backends and delivery share: records by hand, other processes, bounded waiting, and a
proxy that fails on demand.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mltrace._clock import new_id, now_ms
from mltrace._files import unframe
from mltrace._records import FINISHED, ArtifactLogged, Logged, Metric, Record, RunEnded, RunStarted


T = TypeVar("T")

HOST = "127.0.0.1"
POLL_SECONDS = 0.01


def shown(value: object) -> str:
    """Return *value* as a test's id: without its address, which workers of xdist would not agree on."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


# Records by hand.


def started(
    uid: str | None = None, name: str = "run", experiment: str = "Default", **fields: Any
) -> RunStarted:
    """Return the start of a run."""
    return RunStarted(
        **{
            "run": uid or new_id(),
            "time": now_ms(),
            "name": name,
            "kind": "run",
            "experiment": experiment,
            **fields,
        }
    )


def logged(uid: str, key: str = "k", value: float = 1.0, **fields: Any) -> Logged:
    """Return one metric point, or whatever *fields* say, for the run *uid*."""
    when = now_ms()
    return Logged(**{"run": uid, "time": when, "metrics": (Metric(key, value, when),), **fields})


def ended(uid: str, status: str = FINISHED, **fields: Any) -> RunEnded:
    """Return the end of the run *uid*."""
    return RunEnded(**{"run": uid, "time": now_ms(), "status": status, **fields})


def whole(uid: str | None = None, **fields: Any) -> list[Record]:
    """Return one record of every kind that a run can have, in order."""
    uid = uid or new_id()
    text = ArtifactLogged(run=uid, time=now_ms(), path="note.txt", text="kept", size=4)
    return [
        started(uid, params={"p": "1"}, tags={"t": "1"}, **fields),
        logged(uid),
        text,
        ended(uid, tags={"last": "1"}),
    ]


# The disk, read by other code than mltrace's.


def payloads(directory: Path) -> list[bytes]:
    """Return the payloads of all whole lines of all segments of a writer directory, in order."""
    lines = [
        line for segment in sorted(directory.glob("*.seg")) for line in segment.read_bytes().split(b"\n")[:-1]
    ]
    return [payload for line in lines if (payload := unframe(line)) is not None]


# Other processes.

PATIENCE = 240.0
"""Seconds for a program that imports MLflow and scikit-learn on a busy machine."""


def run_python(
    script: str, *arguments: object, seconds: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run *script* in an interpreter of its own, for at most *seconds*; fail with its stderr where it fails."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@contextlib.contextmanager
def python(script: str, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run *script* beside the test, its pipes open; kill it at the end of the block."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def spoken(process: subprocess.Popen[str]) -> Any:
    """Return what a process of `python` prints next, a line of JSON; fail with its stderr where it ends instead."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return json.loads(line)


def until(condition: Callable[[], T], seconds: float = 60.0) -> T:
    """Return the first true value of *condition*, asked again and again; fail when *seconds* have passed."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so within {seconds:g} s; the last value was {found!r}"
        pause.wait(POLL_SECONDS)
    return found


def on_disk(directory: Path) -> bytes:
    """Return the names and contents of all files below *directory*, except those that are removed meanwhile."""
    found = []
    for parent, directories, files in os.walk(directory):
        found += map(os.fsencode, [*directories, *files])
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                found.append(Path(parent, name).read_bytes())
    return b"\n".join(found)


# A server that fails on demand.


class Request(NamedTuple):
    """A request as it reached the proxy, when (monotonic seconds), and from which port of the client's."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    time: float
    port: int


class Answer(NamedTuple):
    """A response; as a fault, one that the proxy gives in the server's place."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


LOST = "lost"
"""The server gets the request and does what it says; the client gets nothing."""

CUT = "cut"
"""Nobody gets anything."""

HUNG = "hung"
"""The connection stays open and no answer comes, until the proxy is closed or healed."""

STALLED = "stalled"
"""The server gets the request and does what it says; then as with `HUNG`."""

Fault = Answer | str


class Proxy:
    """
    An HTTP proxy on a free port before the server at *upstream* (a port), transparent until told otherwise.

    ``fail`` puts a fault before the requests whose path contains a text; ``refuse`` closes the port and
    ``accept`` opens it again. *prefix* is taken off each path; a path without it is nobody's. With a
    *certificate* (a PEM file, key included) it speaks https.
    """

    def __init__(self, upstream: int, prefix: str = "", certificate: Path | None = None) -> None:
        self.requests: list[Request] = []
        self._upstream = upstream
        self._prefix = prefix
        self._certificate = certificate
        self._faults: list[tuple[str, Fault, int]] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._port = 0
        self._healed = threading.Event()
        self._server: http.server.ThreadingHTTPServer | None = None
        self.accept()
        self.url = f"http{'s' if certificate else ''}://{HOST}:{self._port}{prefix}"

    def fail(self, path: str, fault: Fault, times: int = 1_000_000) -> None:
        """Meet the next *times* requests whose path contains *path* with *fault*."""
        with self._lock:
            self._faults.append((path, fault, times))

    def heal(self) -> None:
        """Be transparent again; what hangs is cut."""
        with self._lock:
            self._faults.clear()
            healed, self._healed = self._healed, threading.Event()
        healed.set()

    def seen(self, path: str) -> list[Request]:
        """Return the requests so far whose path contains *path*."""
        return [request for request in list(self.requests) if path in request.path]

    def refuse(self) -> None:
        """Close the port and all connections: from now on a connection is refused."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            with self._lock:
                connections = list(self._connections)
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def accept(self) -> None:
        """Open the port, the same as before."""
        if self._server is None:
            self._server = _Server((HOST, self._port), self)
            self._port = self._server.server_port
            if self._certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._certificate)
                self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self.heal()
        self.refuse()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def forward(self, request: Request) -> Answer:
        """Send *request* to the server and return its answer."""
        if not request.path.startswith(self._prefix + "/"):
            return Answer(404, b"<html>nothing here</html>", "text/html")
        connection = http.client.HTTPConnection(HOST, self._upstream, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
            connection.request(
                request.method, request.path[len(self._prefix) :], request.body or None, headers
            )
            response = connection.getresponse()
            return Answer(
                response.status, response.read(), response.headers.get("Content-Type", "application/json")
            )
        finally:
            connection.close()

    def handle(self, request: Request) -> Any:
        """Return the answer to *request*; None for none; or a function that does it with the handler."""
        fault, healed = self._next_fault(request)
        if isinstance(fault, Answer):
            return fault
        answer = self.forward(request) if fault in (None, LOST, STALLED) else None
        if fault in (HUNG, STALLED):
            healed.wait(60)
        return answer if fault is None else None

    def _next_fault(self, request: Request) -> tuple[Fault | None, threading.Event]:
        with self._lock:
            self.requests.append(request)
            for index, (path, fault, times) in enumerate(self._faults):
                if path in request.path:
                    self._faults[index : index + 1] = [(path, fault, times - 1)] if times > 1 else []
                    return fault, self._healed
            return None, self._healed

    def connected(self, connection: socket.socket) -> None:
        """Know *connection*, to cut it when the port is closed."""
        with self._lock:
            self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        """Forget *connection*."""
        with self._lock:
            self._connections.discard(connection)


class _Server(http.server.ThreadingHTTPServer):
    block_on_close = False
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], proxy: Proxy) -> None:
        self.proxy = proxy
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.proxy.connected(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.proxy.disconnected(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = (
        -1
    )  # headers and body leave in one piece: two would wait for the client's delayed acknowledgement
    server: _Server

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.server.proxy.handle(
            Request(
                self.command, self.path, dict(self.headers), body, time.monotonic(), self.client_address[1]
            )
        )
        if answer is None:
            self.close_connection = True
            return
        if callable(answer):
            answer(self)
            return
        self.send_response(answer.status)
        for name, value in (
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            *answer.headers,
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""


@contextlib.contextmanager
def silent_listener() -> Iterator[str]:
    """
    Listen on a free port where every connection is accepted and nothing is ever answered; yield its
    address.
    """
    with socket.create_server((HOST, 0), backlog=64) as listener:
        yield f"http://{HOST}:{listener.getsockname()[1]}"
