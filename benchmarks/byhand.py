"""Serve the example with mltrace off and, for each `POST /ask`, the lines of `cold.by_hand` appended to a file: ``python -m benchmarks.byhand``.

The least that four crash-safe records of a request can cost in that service. Environment: that of the example, and
BY_HAND, the file.
"""

from __future__ import annotations

import os
import sys

from pathlib import Path
from typing import Any

import uvicorn

from .cold import by_hand


sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "rag_service"))

from app import create_app  # found there


def recording(application: Any, file: int) -> Any:
    """Return *application* with the lines of a request appended to *file* before its response."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        async def pass_on(message: Any) -> None:
            if message["type"] == "http.response.start" and scope["path"] == "/ask":
                by_hand(file)
            await send(message)

        await application(scope, receive, pass_on if scope["type"] == "http" else send)

    return call


def main() -> None:
    os.environ.setdefault("OPENAI_API_KEY", "none")
    file = os.open(os.environ["BY_HAND"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    uvicorn.run(
        recording(create_app(), file),
        host="127.0.0.1",
        port=int(os.environ["RAG_PORT"]),
        log_level="warning",
    )


if __name__ == "__main__":
    main()
