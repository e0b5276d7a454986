"""
One HTTP(S) server, with the standard library's client: a connection per thread, proxies, TLS, and
answers that are bounded in size and time.

Why `http.client`: 0.84 ms of CPU per run here, against 2.45 with urllib3 and 3.26 with httpx. Why
`TCP_QUICKACK`: a default MLflow server writes each answer in two pieces without `TCP_NODELAY`, and
waits 40 ms for the kernel's delayed acknowledgement of the first; the option is reset by the
kernel, so it is set again before each answer is read (Linux; elsewhere every request gets a new
connection, which does nearly as well).

What an answer means, whoever gives it:

    no byte sent (refused, DNS, TLS)                NotApplied
    timeout, reset or end of stream after sending   Uncertain
    408, 5xx                                        Uncertain; 500: Failed
    429                                             Throttled
    401, 403                                        Suspended: credentials
    3xx                                             Suspended: wrong address

Redirects are not followed and nothing is retried here. An answer, status line and headers included,
has `_ANSWER_LIMIT` bytes and `_READ_SECONDS`.
"""

from __future__ import annotations

import base64
import contextlib
import encodings.idna  # noqa: F401 # else the first look-up of a host imports it, at a moment of its own
import http.client
import io
import math
import os
import select
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request

from collections.abc import Iterator, Mapping
from email.message import Message
from typing import Any

from .. import _guard
from .._addresses import safe_uri
from .._redaction import Redactor, shown
from ..exceptions import ConfigurationError
from .destination import Failed, NotApplied, Suspended, Throttled, Uncertain, first_words
from .meter import Upload


_CONNECT_SECONDS = 3.05
_READ_SECONDS = 30.0
_ANSWER_LIMIT = 16 << 20
_SHORTEST_SECRET = 12  # shorter ones turn up by chance in what a server says of itself
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_REDACTOR = Redactor()


Answer = tuple[int, Message, bytes]
"""Status, headers (their names in any case), body."""


class Endpoint:
    """
    The server at *uri* (``http`` or ``https``). *credentials*: whether those of the environment are
    meant for it. A subclass says which they are, in `_headers`, read again at each connection.
    """

    def __init__(self, uri: str, *, credentials: bool = True) -> None:
        self._with_credentials = credentials
        parts = urllib.parse.urlsplit(uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"tracking_uri: {safe_uri(uri)!r} is not an http(s) address with a host")
        try:
            self._port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"tracking_uri: {safe_uri(uri)!r}: {error}") from None
        self._scheme, self._host = parts.scheme, parts.hostname
        self._origin = (parts.scheme, parts.netloc.rpartition("@")[2])
        self._prefix = parts.path.rstrip("/")
        self._userinfo = (
            (urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or ""))
            if parts.username
            else None
        )
        self.uri = safe_uri(uri)
        self._local = threading.local()

    @staticmethod
    def _basic(user: str, password: str) -> str:
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode('utf-8', 'surrogateescape')).decode()}"

    def _headers(self) -> dict[str, str]:
        """Return what every request says of its sender; keep the secrets in it in ``_local.secrets``."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the calling thread's connection."""
        connection, self._local.connection = getattr(self._local, "connection", None), None
        if connection is not None:
            connection.close()

    def _quoted(self, text: str) -> str:
        """
        Return the first words of what the server said, without the credentials that it was sent: it
        may repeat the request.
        """
        return shown(_REDACTOR.text(first_words(text), self._local.secrets))[:160]

    def _repeats_secrets(self, text: str) -> bool:
        """Say whether *text*, which is about to be written down, has the credentials in it."""
        return any(secret in text for secret in self._local.secrets if len(secret) >= _SHORTEST_SECRET)

    def _refused_credentials(self, why: str) -> Suspended:
        if not self._with_credentials:
            return Suspended(
                f"{self.uri} wants credentials ({why}), and those of the environment are for the configured"
                " server; set MLFLOW_TRACKING_URI to this address to send them there"
            )
        return Suspended(
            f"{self.uri} refuses these credentials ({why});"
            " set MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | Upload | None,
        kind: str,
        extra: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request, of content type *kind* and with *extra* headers; return the answer."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                return self._send(connection, method, path, body, kind, extra)
            except _Stale:
                self.close()
        return self._send(self._connect(), method, path, body, kind, extra)

    def _connect(self) -> http.client.HTTPConnection:
        self._local.headers = self._headers()
        connection = self._new_connection()
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            raise NotApplied(f"{self.uri} cannot be reached: {self._quoted(str(error))}") from None
        self._local.connection = connection
        self._local.used = False
        return connection

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | Upload | None,
        kind: str,
        extra: Mapping[str, str] | None,
    ) -> Answer:
        if self._local.used and _is_readable(connection.sock):
            raise _Stale
        headers = {**self._local.headers, **(extra or {})}
        if body is not None:
            headers["Content-Type"] = kind
        if isinstance(body, Upload):
            headers["Content-Length"] = str(body.size)  # else `http.client` sends it in chunks
        try:
            connection.sock.settimeout(_READ_SECONDS)
            connection.request(method, self._target(path), body, headers)
            if _QUICKACK is not None:
                connection.sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            response = connection.getresponse()
            reply = _read(response)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Uncertain(
                f"{self.uri} did not answer: {type(error).__name__}: {self._quoted(str(error))}"
            ) from None
        self._local.used = True
        if response.will_close or _QUICKACK is None:
            self.close()
        return response.status, response.headers, reply

    def _new_connection(self) -> http.client.HTTPConnection:
        proxy = (
            None if urllib.request.proxy_bypass(self._host) else urllib.request.getproxies().get(self._scheme)
        )
        host, port = self._host, self._port
        self._through_proxy = False
        via = urllib.parse.urlsplit(proxy) if proxy else None
        if self._scheme == "https":
            target = (via.hostname, via.port) if via and via.hostname else (host, port)
            secure: http.client.HTTPConnection = _SecureConnection(
                target[0], target[1], timeout=_CONNECT_SECONDS, context=_tls()
            )
            if via:
                secure.set_tunnel(host, port or 443)
            return secure
        if via and via.hostname:
            self._through_proxy = True
            return _Connection(via.hostname, via.port or 80, timeout=_CONNECT_SECONDS)
        return _Connection(host, port, timeout=_CONNECT_SECONDS)

    def _target(self, path: str) -> str:
        target = f"{self._prefix}{path}"
        return f"{self.uri.removesuffix(self._prefix)}{target}" if self._through_proxy else target

    def _text(self, path: str) -> str | None:
        status, _, reply = self._exchange("GET", path, None, "")
        return (
            self._quoted(reply.decode("utf-8", "replace").strip())
            if status == 200 and len(reply) < 40
            else None
        )

    def _misfortune(self, status: int, headers: Message, said: str) -> Exception | None:
        """Return the error that an answer stands for whoever gave it; None for what has a meaning of its own."""
        if status in (401, 403):
            self.close()  # the next connection reads the credentials again
            return self._refused_credentials(f"HTTP {status}")
        if status == 429:
            return Throttled(f"{self.uri} asks for a pause (429)", _retry_after(headers))
        if status == 408 or (status >= 500 and status != 501):
            self.close()  # a server that fails closes the connection a moment later
            return (Failed if status == 500 else Uncertain)(f"{self.uri} failed ({said})")
        if 300 <= status < 400:
            return Suspended(
                f"{self.uri} redirects (HTTP {status}), which mltrace does not follow;"
                " set MLFLOW_TRACKING_URI to the final address"
            )
        return None


class _Stale(Exception):
    """The server has closed the kept connection; nothing was sent on it."""


def _is_readable(sock: socket.socket) -> bool:
    """
    Say whether an idle connection has something to read: the server's farewell. A request sent on
    it would get no answer.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class _Bounded(io.RawIOBase):
    """
    What comes from the socket for one answer, status line and headers included: `_ANSWER_LIMIT`
    bytes within `_READ_SECONDS`. `http.client` bounds neither: a server that drips, or sends 100
    Continue without end, would hold a worker for ever.
    """

    def __init__(self, raw: Any, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = time.monotonic() + _READ_SECONDS
        self._left = _ANSWER_LIMIT

    def readable(self) -> bool:
        """Say yes, as `io.BufferedReader` asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, waiting until the deadline at most."""
        if (seconds := self._deadline - time.monotonic()) <= 0:
            raise TimeoutError("the answer came too slowly")
        self._sock.settimeout(seconds)
        count: int = self._raw.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise http.client.HTTPException("the answer is too long")
        return count

    def close(self) -> None:
        """Close the stream below, which keeps the socket open."""
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Bounded(self.fp.detach(), sock))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Response


def _read(response: http.client.HTTPResponse) -> bytes:
    """Read the body."""
    blocks: list[bytes] = []
    while block := response.read1(1 << 16):
        blocks.append(block)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    response.close()  # `read1` leaves that to the caller, and the connection is not free before
    return b"".join(blocks)


def _tls() -> ssl.SSLContext:
    environ = os.environ
    with _needed("MLFLOW_TRACKING_SERVER_CERT_PATH"):
        context = ssl.create_default_context(cafile=environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
    if environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true"):
        _guard.warn_once(
            "insecure tls",
            "MLFLOW_TRACKING_INSECURE_TLS is set: whoever answers for the tracking server gets records and"
            " credentials; name its certificate in MLFLOW_TRACKING_SERVER_CERT_PATH instead",
        )
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate := environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        with _needed("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
            context.load_cert_chain(certificate, password="")  # else OpenSSL asks at the terminal, and waits
    return context


@contextlib.contextmanager
def _needed(variable: str) -> Iterator[None]:
    """Say which *variable* names a file that cannot be used."""
    try:
        yield
    except OSError as error:
        raise Suspended(f"{variable} names a file that cannot be used ({error})") from None


def _retry_after(headers: Message) -> float:
    try:
        seconds = float(headers.get("Retry-After", "1"))
    except ValueError:
        return 1.0
    return 1.0 if math.isnan(seconds) else min(max(seconds, 0.0), 600.0)
