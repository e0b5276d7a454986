"""Two servers that are no help: one refuses, one accepts and never answers."""

from __future__ import annotations

import contextlib
import socket
import threading

from collections.abc import Iterator


HOST = "127.0.0.1"


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """Yield the URL of a port that is taken but not listened on, so every connection is refused."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield f"http://{HOST}:{taken.getsockname()[1]}"


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """Yield the URL of a server that takes connections and requests, and never says a word."""
    held: list[socket.socket] = []
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=_hold, args=(listener, held), name="silent", daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the accept below
            thread.join(5)
            for connection in held:
                connection.close()


def _hold(listener: socket.socket, held: list[socket.socket]) -> None:
    with contextlib.suppress(OSError):
        while True:
            held.append(listener.accept()[0])
