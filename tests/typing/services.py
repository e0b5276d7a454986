"""The middleware as frameworks take it. Checked, never run."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware

from mltrace.integrations.asgi import TracingMiddleware


app = FastAPI()
app.add_middleware(TracingMiddleware, exclude=("/health", "/internal/*"), capture_headers=["accept"])
app.add_middleware(TracingMiddleware, capture_headers=True, propagate=False, run_header=None)
other = Starlette(middleware=[Middleware(TracingMiddleware, run_name="{method}", sample_rate=0.5)])
wrapped = TracingMiddleware(app, experiment_name="shop", tags={"team": "web"})
again = TracingMiddleware(wrapped)

TracingMiddleware(app, header="x-run")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
TracingMiddleware(app, exclude=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
TracingMiddleware()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
