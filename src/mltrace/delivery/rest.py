"""
A tracking server over HTTP, with the standard library's client and without importing mlflow.

Why `http.client`: 0.84 ms of CPU per run here, against 2.45 with urllib3 and 3.26 with httpx. Why
`TCP_QUICKACK`: a default MLflow server writes each answer in two pieces without `TCP_NODELAY`, and
waits 40 ms for the kernel's delayed acknowledgement of the first; the option is reset by the
kernel, so it is set again before each answer is read (Linux; elsewhere every request gets a new
connection, which does nearly as well).

What an answer means (MLflow 3.17, `server/handlers.py`, `store/db/utils.py`):

    no byte sent (refused, DNS, TLS)                NotApplied
    timeout, reset or end of stream after sending   Uncertain
    408, 5xx, 200 with JSON that is not MLflow's    Uncertain; 500: Failed
    429                                             Throttled
    401, 403                                        Suspended: credentials
    3xx, anything without MLflow's JSON             Suspended: wrong address, a login page, a captive portal
    404 RESOURCE_DOES_NOT_EXIST                     Missing
    400 BAD_REQUEST, 409, 422                       Doubtful
        (whatever a database refuses that is there: a value too long for PostgreSQL's column, but
        also every change while it is read-only; one that is away is 503, or 500 without JSON)
    other 4xx of MLflow's, 413, 501                 Rejected

Redirects are not followed and nothing is retried here. Bodies of errors can echo users' values:
only the error code and the first words of the message are kept, without the credentials that were
sent. An answer, status line and headers included, has `_ANSWER_LIMIT` bytes and `_READ_SECONDS`;
what is longer, slower or not in MLflow's form was not understood, and so acknowledges nothing.
"""

from __future__ import annotations

import base64
import configparser
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

from collections.abc import Iterator, Mapping, Sequence
from email.message import Message
from pathlib import Path
from typing import Any, Union

import msgspec

from .. import _guard
from .._addresses import safe_uri
from .._checks import decode, is_server_id, is_uid
from .._files import read_private
from .._records import Metric
from .._redaction import Redactor, shown
from ..exceptions import ConfigurationError
from .destination import (
    DeliveryError,
    Doubtful,
    Failed,
    Missing,
    NotApplied,
    Parked,
    Reachability,
    Rejected,
    ServerRun,
    Suspended,
    Throttled,
    Uncertain,
    check_place,
    check_uid,
    first_words,
    settle_factor,
)


_CONNECT_SECONDS = 3.05
_READ_SECONDS = 30.0
_ANSWER_LIMIT = 16 << 20
_OPEN_LIMIT = 1000
_FOUND_LIMIT = 100  # runs under one uid; more than asked for is no search's answer
_SHORTEST_SECRET = 12  # shorter ones turn up by chance in what a server says of itself
API = "/api/2.0/mlflow/"
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_OLDEST_TESTED = (2, 0)
_REDACTOR = Redactor()

_encode = msgspec.json.Encoder().encode


Answer = tuple[int, Message, bytes]
"""Status, headers (their names in any case), body."""


class _Tag(msgspec.Struct, frozen=True):
    key: str
    value: str = ""


class _RunInfo(msgspec.Struct):
    run_id: str
    experiment_id: str
    artifact_uri: str = ""
    lifecycle_stage: str = "active"
    status: str = "RUNNING"


class _RunData(msgspec.Struct, frozen=True):
    metrics: list[msgspec.Raw] = []
    params: list[msgspec.Raw] = []
    tags: list[_Tag] = []


class _Run(msgspec.Struct):
    info: _RunInfo
    data: _RunData = msgspec.field(default_factory=_RunData)


class _RunAnswer(msgspec.Struct):
    run: _Run


class _RunsAnswer(msgspec.Struct):
    runs: list[_Run] = []


class _Experiment(msgspec.Struct):
    experiment_id: str
    lifecycle_stage: str = "active"


class _ExperimentAnswer(msgspec.Struct):
    experiment: _Experiment


class _ExperimentId(msgspec.Struct):
    experiment_id: str


class _Done(msgspec.Struct, forbid_unknown_fields=True):
    """MLflow's plain yes: ``{}`` and nothing else."""


class _Ended(msgspec.Struct):
    run_info: _RunInfo


class _Experiments(msgspec.Struct):
    experiments: list[_Experiment] = []


class _Error(msgspec.Struct):
    error_code: Union[str, int]
    message: str = ""


class RestDestination:
    """
    The server at *uri* (``http`` or ``https``); TLS settings as MLflow's own variables say, and
    unless *credentials* is false so for these; read again at each connection.
    """

    connections = 4
    settle_factor = 1.0

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
        self._experiments: dict[str, str] = {}

    # The calls.

    def probe(self) -> Reachability:
        """
        Ask for an experiment list of one: it needs the server, the right address, authorisation and
        a working store.
        """
        self._call("POST", f"{API}experiments/search", {"max_results": 1}, _Experiments)
        version = self._text("/version")
        store = self._store_type()
        if version and _version(version) < _OLDEST_TESTED:
            return Reachability(
                False,
                f"MLflow {version} at {self.uri} is too old; mltrace is tested with 3.x and needs 2.0 or newer",
                version,
                store,
            )
        message = f"MLflow {version or '(version unknown)'} at {self.uri} answers and takes these credentials"
        return Reachability(True, message, version, store)

    def experiment(self, name: str) -> str:
        """
        Return the experiment's id; several processes may create it at once, and all get the same
        one. The first time ask what store it is in.
        """
        if (known := self._experiments.get(name)) is not None:
            return known
        query = f"{API}experiments/get-by-name?{urllib.parse.urlencode({'experiment_name': name})}"
        try:
            found = self._call("GET", query, None, _ExperimentAnswer).experiment
        except Missing:
            try:
                found = _Experiment(
                    self._call(
                        "POST", f"{API}experiments/create", {"name": name}, _ExperimentId
                    ).experiment_id
                )
            except (Rejected, Doubtful) as refusal:
                try:  # another process may have made it in the meantime
                    found = self._call("GET", query, None, _ExperimentAnswer).experiment
                except Missing:
                    if not str(refusal).startswith("RESOURCE_ALREADY_EXISTS"):
                        raise refusal from None
                    raise Missing(
                        f"experiment {name!r} exists, and the server's reads do not show it: they lag"
                    ) from None
        if found.lifecycle_stage != "active":
            raise Parked(
                f"experiment {name!r} is deleted on the server; restore it (`mlflow experiments restore`) and its runs will be delivered"
            )
        identity: str = found.experiment_id
        self._check_ids(identity)
        if not self._experiments:
            with contextlib.suppress(DeliveryError):  # nice to know
                self.settle_factor = settle_factor(self._store_type())
        self._experiments[name] = identity
        return identity

    def forget_experiment(self, name: str) -> None:
        """Look the experiment up again at its next use."""
        self._experiments.pop(name, None)

    def create_run(
        self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str]
    ) -> ServerRun:
        """POST runs/create."""
        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": start_time,
            "tags": _tags(tags),
        }
        if user := tags.get("mlflow.user"):
            body["user_id"] = user[:250]
        return self._server_run(self._call("POST", f"{API}runs/create", body, _RunAnswer).run)

    def find_runs(self, experiment_ids: Sequence[str], uid: str) -> Sequence[ServerRun]:
        """
        POST runs/search by the tag; *uid* is alphanumeric, so that nothing needs escaping. Other runs
        are passed over, should the server have ignored the filter: what is found may be deleted.
        """
        check_uid(uid)
        found = self._search(experiment_ids, f"tags.`mltrace.uid` = '{uid}'", "ALL", _FOUND_LIMIT)
        return [run for run in found if run.uid == uid]

    def tags(self, run_id: str) -> Mapping[str, str]:
        """GET runs/get."""
        query = urllib.parse.urlencode({"run_id": run_id})
        run = self._call("GET", f"{API}runs/get?{query}", None, _RunAnswer).run
        return {tag.key: tag.value for tag in run.data.tags}

    def open_runs(self, experiment_id: str) -> Sequence[ServerRun]:
        """POST runs/search by status."""
        condition = "attributes.status = 'RUNNING' and tags.`mltrace.uid` LIKE '%'"
        found = self._search([experiment_id], condition, "ACTIVE_ONLY", _OPEN_LIMIT)
        return [run for run in found if is_uid(run.uid) and not run.ended]

    def _search(
        self, experiment_ids: Sequence[str], condition: str, view: str, most: int
    ) -> Sequence[ServerRun]:
        body = {
            "experiment_ids": experiment_ids,
            "filter": condition,
            "run_view_type": view,
            "max_results": most,
        }
        found = self._call("POST", f"{API}runs/search", body, _RunsAnswer).runs
        if len(found) > most:
            raise Uncertain(f"{self.uri} sent {len(found)} runs where {most} were asked for")
        return [self._server_run(run) for run in found]

    def experiments(self) -> Sequence[str]:
        """POST experiments/search."""
        found = self._call("POST", f"{API}experiments/search", {"max_results": 1000}, _Experiments)
        self._check_ids(*(experiment.experiment_id for experiment in found.experiments))
        return [experiment.experiment_id for experiment in found.experiments]

    def delete_run(self, run_id: str) -> None:
        """POST runs/delete; a run that is not there is as good as deleted."""
        try:
            self._call("POST", f"{API}runs/delete", {"run_id": run_id}, _Done)
        except Missing:
            return

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """POST runs/log-batch."""
        body: dict[str, Any] = {"run_id": run_id}
        if metrics:
            body["metrics"] = [
                {"key": m.key, "value": m.value, "timestamp": m.timestamp, "step": m.step} for m in metrics
            ]
        if params:
            body["params"] = _tags(params)
        if tags:
            body["tags"] = _tags(tags)
        self._call("POST", f"{API}runs/log-batch", body, _Done)

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """POST runs/update."""
        self._call(
            "POST", f"{API}runs/update", {"run_id": run_id, "status": status, "end_time": end_time}, _Ended
        )

    def upload(self, run: ServerRun, path: str, content: bytes | str) -> None:
        """PUT through the server's artifact proxy; a store without one needs MLflow's client."""
        check_place(path, run)
        place = urllib.parse.urlsplit(run.artifact_uri)
        if place.scheme in ("http", "https") and (place.scheme, place.netloc) != self._origin:
            # MLflow's client would send the credentials there.
            raise Rejected(f"the server's artifact address {run.artifact_uri!r} is another server's")
        if place.scheme in ("http", "https") and not self._with_credentials:
            raise self._refused_credentials("its artifacts need MLflow's client")
        if place.scheme != "mlflow-artifacts":
            _upload_with_mlflow(self, run, path, content)
            return
        root = place.path.strip("/")
        target = "/".join(urllib.parse.quote(part, safe="") for part in f"{root}/{path}".split("/"))
        body = content if isinstance(content, bytes) else read_private(Path(content))
        self._call("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{target}", body, _Done)

    def close(self) -> None:
        """Close the calling thread's connection."""
        connection, self._local.connection = getattr(self._local, "connection", None), None
        if connection is not None:
            connection.close()

    # One request.

    def _call(self, method: str, path: str, body: Any, answer: type[Any]) -> Any:
        content = body if isinstance(body, bytes) or body is None else _encode(body)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        status, headers, reply = self._exchange(method, path, content, kind)
        if status != 200:
            raise self._refusal(status, headers, reply)
        try:
            # To an upload the server's yes is an empty body.
            return decode(reply or (b"{}" if method == "PUT" else b""), msgspec.json.Decoder(answer))
        except msgspec.DecodeError as error:
            if "json" not in headers.get("Content-Type", "json"):
                raise self._foreign(f"200 with {self._quoted(headers['Content-Type'])}") from None
            raise Uncertain(
                f"{self.uri} sent an answer that is not MLflow's ({self._quoted(str(error))})"
            ) from None

    def _quoted(self, text: str) -> str:
        """
        Return the first words of what the server said, without the credentials that it was sent: it
        may repeat the request.
        """
        return shown(_REDACTOR.text(first_words(text), self._local.secrets))[:160]

    def _server_run(self, run: _Run) -> ServerRun:
        info = run.info
        self._check_ids(info.run_id, info.experiment_id)
        try:
            urllib.parse.urlsplit(info.artifact_uri)
        except ValueError:
            raise Uncertain(f"{self.uri} sent an artifact address that is none") from None
        if not info.artifact_uri.isprintable() or self._repeats_secrets(info.artifact_uri):
            raise Uncertain(f"{self.uri} sent an artifact address that is none")
        return ServerRun(
            info.run_id,
            info.artifact_uri,
            info.experiment_id,
            deleted=info.lifecycle_stage == "deleted",
            ended=info.status not in ("RUNNING", "SCHEDULED"),
            bare=not run.data.metrics and not run.data.params,
            uid=next((tag.value for tag in run.data.tags if tag.key == "mltrace.uid"), ""),
        )

    def _check_ids(self, *ids: str) -> None:
        for text in ids:
            if not is_server_id(text) or self._repeats_secrets(text):
                raise Uncertain(f"{self.uri} sent an id that is none")

    def _repeats_secrets(self, text: str) -> bool:
        """Say whether *text*, which is about to be written down, has the credentials in it."""
        return any(secret in text for secret in self._local.secrets if len(secret) >= _SHORTEST_SECRET)

    def _foreign(self, what: str) -> Suspended:
        return Suspended(
            f"{self.uri} is not an MLflow server ({what}): check MLFLOW_TRACKING_URI, path included,"
            " and whether a login page, proxy or portal stands before it"
        )

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

    def _refusal(self, status: int, headers: Message, reply: bytes) -> Exception:
        """
        Return the error that an answer other than 200 stands for; the table is in the module's
        docstring.
        """
        try:
            error = decode(reply, msgspec.json.Decoder(_Error))
        except msgspec.DecodeError:
            error = None
        said = (
            f"{self._quoted(str(error.error_code))}: {self._quoted(error.message)}"
            if error
            else f"HTTP {status}"
        )
        if status in (401, 403):
            self.close()  # the next connection reads the credentials again
            return self._refused_credentials(f"HTTP {status}")
        if status == 429:
            return Throttled(f"{self.uri} asks for a pause (429)", _retry_after(headers))
        if status == 408 or (status >= 500 and (error is None or status != 501)):
            self.close()  # a server that fails closes the connection a moment later
            return (Failed if status == 500 else Uncertain)(f"{self.uri} failed ({said})")
        if 300 <= status < 400:
            return Suspended(
                f"{self.uri} redirects (HTTP {status}), which mltrace does not follow;"
                " set MLFLOW_TRACKING_URI to the final address"
            )
        if error is None and status != 413:
            return self._foreign(f"{status} without MLflow's JSON")
        if error is not None and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return Missing(said)
        if status in (409, 422) or (error is not None and error.error_code == "BAD_REQUEST"):
            return Doubtful(said)
        return Rejected(said)

    def _exchange(self, method: str, path: str, body: bytes | None, kind: str) -> Answer:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                return self._send(connection, method, path, body, kind)
            except _Stale:
                self.close()
        return self._send(self._connect(), method, path, body, kind)

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
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, kind: str
    ) -> Answer:
        if self._local.used and _is_readable(connection.sock):
            raise _Stale
        headers = {**self._local.headers, "Content-Type": kind} if body is not None else self._local.headers
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

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": "mltrace", "Accept": "application/json"}
        user, password = self._userinfo or (_credentials() if self._with_credentials else (None, None))
        token = os.environ.get("MLFLOW_TRACKING_TOKEN") if self._with_credentials else None
        if user and password is not None:
            token = base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()
            headers["Authorization"] = f"Basic {token}"
        elif token:
            if not (token.isascii() and token.isprintable()):  # the error of `http.client` would show it
                raise Suspended(
                    "MLFLOW_TRACKING_TOKEN has a character that no header takes, perhaps a line feed"
                )
            headers["Authorization"] = f"Bearer {token}"
        self._local.secrets = [secret for secret in (password, token) if secret]
        return headers

    def _text(self, path: str) -> str | None:
        status, _, reply = self._exchange("GET", path, None, "")
        return (
            self._quoted(reply.decode("utf-8", "replace").strip())
            if status == 200 and len(reply) < 40
            else None
        )

    def _store_type(self) -> str | None:
        status, _, reply = self._exchange("GET", "/api/3.0/mlflow/server-info", None, "")
        try:
            found = decode(reply, msgspec.json.Decoder()) if status == 200 else {}
            return self._quoted(str(found["store_type"])[:40])
        except (msgspec.DecodeError, KeyError, TypeError):
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


def _credentials() -> tuple[str | None, str | None]:
    """
    Return user and password as MLflow finds them: the environment, else the section ``[mlflow]`` of
    ``~/.mlflow/credentials``.
    """
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password is not None:
        return user, password
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path("~/.mlflow/credentials").expanduser())
        section = parser["mlflow"]
    except (configparser.Error, KeyError, OSError, RuntimeError, UnicodeDecodeError):
        return user, password
    return user or section.get("mlflow_tracking_username"), password if password is not None else section.get(
        "mlflow_tracking_password"
    )


def _upload_with_mlflow(
    destination: RestDestination, run: ServerRun, path: str, content: bytes | str
) -> None:
    try:
        from .sdk import SdkDestination
    except ImportError:
        raise Suspended(
            f"artifacts of {destination.uri} lie at {urllib.parse.urlsplit(run.artifact_uri).scheme}:, which needs MLflow's client: install mltrace-mlflow[mlflow]"
        ) from None
    SdkDestination(destination.uri).upload(run, path, content)


def _tags(tags: Mapping[str, str]) -> list[_Tag]:
    return [_Tag(key, value) for key, value in tags.items()]


def _retry_after(headers: Message) -> float:
    try:
        seconds = float(headers.get("Retry-After", "1"))
    except ValueError:
        return 1.0
    return 1.0 if math.isnan(seconds) else min(max(seconds, 0.0), 600.0)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
