"""What the tests of ASGI applications share: a server by hand, message by message, and uvicorn in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn

from tests.harness import HOST, until


def http_scope(
    path: str = "/items/7", *, headers: Sequence[tuple[bytes, bytes]] = (), **more: Any
) -> dict[str, Any]:
    """Return the scope of a request, as uvicorn makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": (HOST, 50_000),
        "server": (HOST, 80),
        **more,
    }


class Play:
    """
    One call of an application by a server that says *incoming*, in order, then that the client has left.

    ``sent`` is what the server got. From the message *breaks_at* on it raises `OSError` instead.
    """

    def __init__(self, incoming: Sequence[dict[str, Any]] = (), breaks_at: int | None = None) -> None:
        self.incoming = list(incoming) or [{"type": "http.request", "body": b"", "more_body": False}]
        self.sent: list[Any] = []
        self.error: BaseException | None = None
        self.given = 0
        self._breaks_at = breaks_at

    async def receive(self) -> Any:
        """Return the next message."""
        self.given += 1
        if self.given > len(self.incoming):
            return {"type": "http.disconnect"}
        return self.incoming[self.given - 1]

    async def send(self, message: Any) -> None:
        """Take a message."""
        if self._breaks_at is not None and len(self.sent) >= self._breaks_at:
            raise BrokenPipeError("the client has left")
        self.sent.append(message)

    def run(self, app: Any, scope: Any) -> Play:
        """Call the application; keep what it raises."""
        asyncio.run(self._call(app, scope))
        return self

    async def _call(self, app: Any, scope: Any) -> None:
        try:
            await app(scope, self.receive, self.send)
        except (
            BaseException
        ) as error:  # here: before 3.11 a task ends with another CancelledError than it got
            self.error = error

    @property
    def status(self) -> int:
        """The status of the response."""
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {name.decode(): value.decode() for name, value in self.sent[0].get("headers", ())}


def answering(*bodies: bytes, status: int = 200, act: Callable[[], Any] | None = None) -> Any:
    """Return an application that answers with *bodies*, one message each, when it has done *act*."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if act is not None:
            act()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}
        )
        for body in bodies[:-1]:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": bodies[-1] if bodies else b""})

    return app


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[int]:
    """Serve *app* with uvicorn in a thread; yield the port."""
    server = uvicorn.Server(
        uvicorn.Config(app, host=HOST, port=0, log_level="critical", ws="none", **options)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def get(port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
    """Return status, headers and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()
