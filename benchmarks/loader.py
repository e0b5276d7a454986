"""Put load on services and print, as JSON, how long each request took: a process of its own, so that it shares no interpreter.

``python -m benchmarks.loader --ports P,Q --seconds S --connections N [--rate R]`` sends the same question, N at a time,
over keep-alive connections. With several ports every question goes to each of them, in random order: what disturbs one
disturbs all. With a rate, there are R questions a second, at even moments; one that is late is sent at once. Without,
each follows the one before. wrk and oha can neither take turns nor, for POST, keep the moments.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import threading
import time

from .endpoints import HOST


BODY = json.dumps({"question": "Why is the image in a pinhole camera upside down?"}).encode()
HEADERS = {"content-type": "application/json"}
LEAD_SECONDS = 0.5  # by then all connections are open


class Asker(threading.Thread):
    """One question at a time, from *begins* to *ends* (``time.perf_counter``), *every* so many seconds."""

    def __init__(self, ports: list[int], path: str, begins: float, ends: float, every: float) -> None:
        super().__init__(daemon=True)
        self._clients = {port: http.client.HTTPConnection(HOST, port, timeout=60) for port in ports}
        self._path = path
        self._begins, self._ends, self._every = begins, ends, every
        self.taken_ms: dict[int, list[float]] = {port: [] for port in ports}
        self.failed = 0

    def run(self) -> None:
        """Ask until the time is over; the first requests, which open the connections, are not counted."""
        order = list(self._clients)
        for port in order:
            self.ask(port)
        moment = self._begins
        while moment < self._ends:
            time.sleep(max(0.0, moment - time.perf_counter()))
            if time.perf_counter() >= self._ends:
                break
            random.shuffle(order)
            for port in order:
                began = time.perf_counter()
                self.failed += not self.ask(port)
                self.taken_ms[port].append((time.perf_counter() - began) * 1000)
            moment += self._every
        for client in self._clients.values():
            client.close()

    def ask(self, port: int) -> bool:
        """Send one request and read its response; say whether it was answered well."""
        client = self._clients[port]
        client.request("POST", self._path, BODY, HEADERS)
        response = client.getresponse()
        response.read()
        return response.status == 200


def main() -> None:
    """Ask; print the latencies by port, in milliseconds, and how many requests failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ports", required=True)
    parser.add_argument("--path", default="/ask")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    options = parser.parse_args()
    ports = [int(port) for port in options.ports.split(",")]
    begins = time.perf_counter() + LEAD_SECONDS
    every = options.connections / options.rate if options.rate else 0.0
    askers = [
        Asker(
            ports, options.path, begins + every * place / options.connections, begins + options.seconds, every
        )
        for place in range(options.connections)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    taken = {port: [value for asker in askers for value in asker.taken_ms[port]] for port in ports}
    print(json.dumps({"ms": taken, "failed": sum(asker.failed for asker in askers)}))


if __name__ == "__main__":
    main()
