"""
A local server that answers as the providers' do: whole, or in pieces that a test lets go one by one.
"""

from __future__ import annotations

import http.server
import json
import threading

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .replies import ALL, Reply


HOST = "127.0.0.1"


class ProviderServer:
    """Serves `replies.ALL`. *pieces* of streams are sent as they are let go, all at once by default."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.cut_after: int | None = None
        """After so many pieces of a stream the connection breaks off."""

        self._gate: threading.Semaphore | None = None
        self._server = http.server.ThreadingHTTPServer((HOST, 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://{HOST}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @contextmanager
    def held(self) -> Iterator[threading.Semaphore]:
        """Hold the pieces of streams; each `release` of the semaphore lets one go."""
        self._gate = gate = threading.Semaphore(0)
        try:
            yield gate
        finally:
            self._gate = None
            gate.release(10_000)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """Be as new."""
        self.requests.clear()
        self.cut_after = None

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
                owner.requests.append(content)
                reply = next((reply for reply in ALL if self.path.startswith(reply.path)), None)
                if reply is None:
                    self.send_error(404, f"nothing is asked at {self.path}")
                    return
                if content.get("stream") or "streamGenerateContent" in self.path:
                    self._stream(reply)
                else:
                    self._send(json.dumps(reply.whole).encode(), "application/json")

            def end_headers(self) -> None:
                # Each client has its own way to be closed; so none keeps a connection.
                self.send_header("Connection", "close")
                super().end_headers()

            def _send(self, body: bytes, content_type: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self, reply: Reply) -> None:
                self.send_response(200)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for number, piece in enumerate(reply.pieces):
                    if number == owner.cut_after:
                        self.close_connection = True
                        return
                    if owner._gate is not None:
                        owner._gate.acquire(timeout=30)
                    try:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    except OSError:  # the client has left
                        self.close_connection = True
                        return
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class names it
                """Say nothing."""

        return Handler
