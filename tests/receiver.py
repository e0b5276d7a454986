"""
A receiver of OpenTelemetry's protocol over HTTP, as a collector is one: it decodes what it gets with the
protocol's own package, and keeps it.
"""

from __future__ import annotations

import http.server
import threading

from collections.abc import Callable
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Receiver:
    """
    Takes spans at ``/v1/traces`` of a free port; *spans* are dicts, in the order in which they came.

    *refuses* says of a span whether it is refused: then its request is answered with a partial success.
    """

    def __init__(self, refuses: Callable[[str], bool] = lambda name: False) -> None:
        self.spans: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.refuses = refuses
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                reply = receiver.take(self.path, dict(self.headers), body)
                self.send_response(200 if reply is not None else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(reply or b"")))
                self.end_headers()
                self.wfile.write(reply or b"")

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class names it
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"otlp+http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> bytes | None:
        """Keep the spans of a request; return the answer, None for another path."""
        if path != "/v1/traces" or headers["Content-Type"] != "application/x-protobuf":
            return None
        request = ExportTraceServiceRequest.FromString(body)
        found = [
            span_dict(span, of_one.resource)
            for of_one in request.resource_spans
            for scope in of_one.scope_spans
            for span in scope.spans
        ]
        refused = [span for span in found if self.refuses(span["name"])]
        self.headers.append(headers)
        self.spans += [span for span in found if span not in refused]
        answer = ExportTraceServiceResponse()
        if refused:
            answer.partial_success.rejected_spans = len(refused)
            answer.partial_success.error_message = "not wanted here"
        return bytes(answer.SerializeToString())

    def by_name(self) -> dict[str, dict[str, Any]]:
        """Return the spans by name, the last of a name."""
        return {span["name"]: span for span in self.spans}

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def span_dict(span: Any, resource: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex() or None,
        "status": span.status.code,
        "kind": span.kind,
        "attributes": {pair.key: plain(pair.value) for pair in span.attributes},
        "events": [event.name for event in span.events],
        "resource": {pair.key: plain(pair.value) for pair in resource.attributes},
        "nanoseconds": span.end_time_unix_nano - span.start_time_unix_nano,
    }


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
