"""Put load on a service and print, as JSON, what it took: a process of its own, so that it shares no interpreter.

``python -m benchmarks.loader --port P --seconds S --connections N [--rate R]`` sends the same question over N
keep-alive connections, one request at a time on each. With a rate, requests are sent at even moments, R a second
together; a request that is late is sent at once. Without one, each follows the one before. wrk and oha have neither
the samples nor, for POST, the even moments.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time

from .endpoints import HOST


BODY = json.dumps({"question": "Why is the image in a pinhole camera upside down?"}).encode()
HEADERS = {"content-type": "application/json"}


class Connection(threading.Thread):
    """One keep-alive connection and its requests, from *begins* to *ends* (``time.perf_counter``)."""

    def __init__(self, port: int, path: str, begins: float, ends: float, every: float) -> None:
        super().__init__(daemon=True)
        self._client = http.client.HTTPConnection(HOST, port, timeout=60)
        self._path = path
        self._begins, self._ends, self._every = begins, ends, every
        self.taken_ms: list[float] = []
        self.failed = 0

    def run(self) -> None:
        """Send until the time is over; the first request, which opens the connection, is not counted."""
        self.ask()
        moment = self._begins
        while moment < self._ends:
            time.sleep(max(0.0, moment - time.perf_counter()))
            began = time.perf_counter()
            if began >= self._ends:
                break
            self.failed += not self.ask()
            self.taken_ms.append((time.perf_counter() - began) * 1000)
            moment += self._every
        self._client.close()

    def ask(self) -> bool:
        """Send one request and read its response; say whether it was answered well."""
        self._client.request("POST", self._path, BODY, HEADERS)
        response = self._client.getresponse()
        response.read()
        return response.status == 200


def main() -> None:
    """Send, and print latencies in milliseconds and how many requests failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/ask")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    options = parser.parse_args()
    begins = time.perf_counter() + 0.5  # by then all connections are open
    every = options.connections / options.rate if options.rate else 0.0
    connections = [
        Connection(
            options.port,
            options.path,
            begins + every * place / options.connections,
            begins + options.seconds,
            every,
        )
        for place in range(options.connections)
    ]
    for connection in connections:
        connection.start()
    for connection in connections:
        connection.join()
    taken = [value for connection in connections for value in connection.taken_ms]
    print(json.dumps({"ms": taken, "failed": sum(connection.failed for connection in connections)}))


if __name__ == "__main__":
    main()
