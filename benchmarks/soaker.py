"""Serve requests by hand and print, as JSON, resident memory in MiB, read a hundred times on the way.

Run by the soak part in a process of its own: ``python -m benchmarks.soaker --calls N --url URL --spool DIR``. Each
request goes through the middleware to an application that makes one LLM call, so that it is two runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os

from pathlib import Path
from typing import Any

import mltrace

from mltrace.integrations.asgi import TracingMiddleware


READINGS = 100
ANSWER = "The rays cross at the hole, so the image is upside down. " * 4


def resident_mib() -> float:
    """Return the resident memory of this process now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@mltrace.log_llm_call(model="none")
async def answer(question: str) -> str:
    """Stand in for a language model."""
    return ANSWER


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer a question."""
    question = (await receive())["body"].decode()
    body = (await answer(question)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def serve(calls: int) -> list[float]:
    """Serve so many requests; return the readings."""
    app = TracingMiddleware(application)
    found = [resident_mib()]

    async def send(message: Any) -> None:
        pass

    for number in range(1, calls + 1):

        async def receive(number: int = number) -> Any:
            return {"type": "http.request", "body": b"Why is image %d upside down?" % number}

        scope = {
            "type": "http",
            "method": "POST",
            "path": f"/ask/{number}",
            "query_string": b"",
            "headers": [],
        }
        await app(scope, receive, send)
        if number % (calls // READINGS) == 0:
            found.append(resident_mib())
            await asyncio.sleep(0)
    return found


def main() -> None:
    """Serve, and print the readings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--spool", required=True)
    options = parser.parse_args()
    mltrace.configure(
        tracking_uri=options.url,
        experiment_name="soak",
        spool_dir=options.spool,
        spool_limit_bytes=8 << 30,
        exit_timeout=0,
    )
    found = asyncio.run(serve(options.calls))
    status = mltrace.status()
    if (
        status.dropped or status.accepted < options.calls
    ):  # memory that stays flat by losing things is no news
        raise RuntimeError(f"not everything was recorded: {status}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
