"""The ASGI middleware: what of a request becomes a run, and that neither server nor application can tell."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading

from typing import Any

import pytest

from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, WebSocket
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import mltrace

from mltrace import _config
from mltrace.backends.memory import MemoryBackend, RecordedRun
from mltrace.exceptions import ConfigurationError
from mltrace.integrations.asgi import EXCLUDED, TracingMiddleware
from mltrace.testing import record
from tests.asgi import Play, answering, get, http_scope, serving
from tests.harness import HOST, until


CARRIER = [
    (b"mltrace-run", b"0af7651916cd43dd8448eb211c80319c"),
    (b"mltrace-experiment", b"callers"),
    (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-0af7651916cd43dd-01"),
]


def play(
    app: Any, path: str = "/items/7", *, breaks_at: int | None = None, incoming: Any = (), **scope: Any
) -> Play:
    """Send *app* one request by hand."""
    return Play(incoming, breaks_at).run(app, http_scope(path, **scope))


def only(memory: MemoryBackend) -> RecordedRun:
    (run,) = memory.roots
    return run


# What a request becomes.


def shop() -> FastAPI:
    """Return an application with one route, whose handlers log and begin runs."""
    app = FastAPI()
    app.add_middleware(TracingMiddleware)

    @app.get("/items/{item_id}")
    async def item(item_id: int, api_key: str = "", q: str = "") -> dict[str, int]:
        mltrace.log_metric("price", 9.5)
        with mltrace.track_run("look up"):
            return {"item": item_id}

    @app.post("/items/{item_id}")
    def change(item_id: int) -> str:
        with mltrace.track_run("store"):
            return "changed"

    return app


def test_a_request_is_a_run(memory: MemoryBackend) -> None:
    """A request is one run of kind request, named by method and route, with what it asked for and what it got."""
    found = play(shop(), query_string=b"q=camera&api_key=hunter2hunter2&tag=a&tag=b")
    run = only(memory)

    assert ("GET /items/{item_id}", "request", "FINISHED") == (run.name, run.kind, run.status)
    assert {
        "method": "GET",
        "route": "/items/{item_id}",
        "path": "/items/7",
        "query": '{"q":"camera","api_key":"[redacted]","tag":["a","b"]}',
        "client": HOST,
    } == run.params
    sizes = {name: run.metrics[name] for name in ("status_code", "request_bytes", "response_bytes", "price")}
    assert {"status_code": 200, "request_bytes": 0, "response_bytes": 10, "price": 9.5} == sizes
    assert 0 < run.metrics["time_to_first_byte_ms"] <= run.metrics["latency_ms"]
    assert b'{"item":7}' == found.sent[1]["body"]


@pytest.mark.parametrize(("method", "child"), [("GET", "look up"), ("POST", "store")])
def test_runs_of_the_handler_nest(memory: MemoryBackend, method: str, child: str) -> None:
    """The request's run is current in handlers, those that run in the thread pool too."""
    play(shop(), method=method)

    assert [child] == [run.name for run in only(memory).children]
    assert f"{method} /items/{{item_id}}" == only(memory).name


def test_bytes_are_counted(memory: MemoryBackend) -> None:
    """Chunks of request and response are counted as they pass."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await answering(b"four", b"and", b"five")(scope, receive, send)

    chunks = [
        {"type": "http.request", "body": b"x" * size, "more_body": size != 7} for size in (1000, 300, 7)
    ]
    play(TracingMiddleware(app), incoming=chunks)

    metrics = only(memory).metrics
    assert (1307, 11) == (metrics["request_bytes"], metrics["response_bytes"])


def test_what_the_server_reads_from_a_file_is_not_counted(memory: MemoryBackend) -> None:
    """A response that names a file has no response_bytes, and ends the run."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/tmp/file"})
        assert only(memory).status == "FINISHED"

    assert None is play(TracingMiddleware(app)).error
    assert "response_bytes" not in only(memory).metrics


def test_trailers_are_the_last(memory: MemoryBackend) -> None:
    """A response with trailers ends with the last of them."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        for message in (
            {"type": "http.response.body", "body": b"x"},
            {"type": "http.response.trailers", "headers": [], "more_trailers": True},
            {"type": "http.response.trailers", "headers": []},
        ):
            await send(message)
            seen.append(only(memory).status)

    play(TracingMiddleware(app))

    assert [None, None, "FINISHED"] == seen


def test_a_query_too_long_for_a_param_is_kept_whole(memory: MemoryBackend) -> None:
    """What does not fit a param is an artifact, and the run has its name all the same."""
    play(shop(), query_string=b"q=" + b"long+" * 3000)

    assert "GET /items/{item_id}" == only(memory).name
    assert b"long long" in only(memory).artifacts["inputs.json"]


def test_an_endless_query_is_not_read(memory: MemoryBackend) -> None:
    """A query of thousands of fields is named, not read."""
    play(TracingMiddleware(answering()), query_string=b"&".join(b"a=%d" % n for n in range(2000)))

    assert "more than 100 fields" == only(memory).params["query"]


# Routes.


def site() -> FastAPI:
    """Return an application of routers, mounts, and files."""
    app, below = FastAPI(), FastAPI()
    router, inner = APIRouter(prefix="/users"), APIRouter()

    @router.get("/{user}")
    @inner.get("/{user}/orders/{order}")
    @below.get("/things/{thing}")
    async def handler() -> str:
        return "ok"

    router.include_router(inner)
    app.include_router(router, prefix="/v1")
    app.mount("/sub", below)
    app.mount("/tenants/{tenant}", below)
    app.mount("/files", StaticFiles(directory=__file__.rpartition("/")[0]))
    app.add_middleware(TracingMiddleware)
    return app


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/users/ada", "GET /v1/users/{user}"),
        ("/v1/users/ada/orders/7", "GET /v1/users/{user}/orders/{order}"),
        ("/sub/things/lens", "GET /sub/things/{thing}"),
        ("/tenants/acme/things/lens", "GET /tenants/{tenant}/things/{thing}"),
        ("/files/test_asgi.py", "GET /files/{path}"),
        ("/nowhere/12345", "GET"),
    ],
)
def test_names_are_templates(memory: MemoryBackend, path: str, name: str) -> None:
    """The name is the route as it was written, with the prefix of routers and mounts, and no value of the request."""
    play(site(), path)

    assert name == only(memory).name
    assert {"method": "GET", "path": path}.items() <= only(memory).params.items()


def test_starlette_alone(memory: MemoryBackend) -> None:
    """Routes of Starlette are read where it puts them into the scope."""

    async def handler(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    inner = Starlette(routes=[Route("/{name}", handler)])
    app = TracingMiddleware(Starlette(routes=[Mount("/m", inner)]))
    play(app, "/m/x")

    assert only(memory).name in ("GET /m/{name}", "GET")  # older ones do not


def test_a_template_of_ones_own(memory: MemoryBackend) -> None:
    """The name is what run_name says; the route is empty where there was none."""
    play(TracingMiddleware(answering(), run_name="shop {method} {path} [{route}]"))

    assert "shop GET /items/7 []" == only(memory).name


def test_a_name_of_bare_method(memory: MemoryBackend) -> None:
    """An application without routes has requests named by their method."""
    play(TracingMiddleware(answering()))

    assert "GET" == only(memory).name


# How a request ends.


@pytest.mark.parametrize(
    ("status", "expected"), [(204, "FINISHED"), (404, "FINISHED"), (500, "FAILED"), (503, "FAILED")]
)
def test_status(memory: MemoryBackend, status: int, expected: str) -> None:
    """An answer of 500 and above is a failed run, any other is not."""
    play(TracingMiddleware(answering(status=status)))

    assert (expected, status) == (only(memory).status, only(memory).metrics["status_code"])


def failing() -> FastAPI:
    app = FastAPI()

    @app.get("/fail")
    async def fail(password: str = "") -> None:
        raise RuntimeError(f"no such lens, {password}")

    @app.get("/refuse")
    async def refuse() -> None:
        raise HTTPException(422, "no")

    return app


@pytest.mark.parametrize("outermost", [True, False])
def test_an_exception(memory: MemoryBackend, outermost: bool) -> None:
    """An exception fails the run with its traceback, without secrets, and goes on; also where an answer of 500 came first."""
    app: Any = failing()
    if outermost:
        app = TracingMiddleware(app)
    else:
        app.add_middleware(TracingMiddleware)
    found = play(app, "/fail", query_string=b"password=hunter2hunter2")
    run = only(memory)

    assert "no such lens, hunter2hunter2" == str(found.error)
    assert ("FAILED", "no such lens, [redacted]") == (run.status, run.tags["mltrace.error.message"])
    assert b"in fail" in run.artifacts["traceback.txt"]
    assert (500 if outermost else None) == run.metrics.get("status_code")


def test_an_answered_refusal_is_no_failure(memory: MemoryBackend) -> None:
    """What the framework makes an answer of is the answer."""
    play(TracingMiddleware(failing()), "/refuse")

    assert ("FINISHED", 422) == (only(memory).status, only(memory).metrics["status_code"])


def test_cancellation(memory: MemoryBackend) -> None:
    """A request whose task is cancelled is KILLED."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    play(TracingMiddleware(app))

    assert "KILLED" == only(memory).status


def test_an_application_that_answers_nothing(memory: MemoryBackend) -> None:
    """An application that returns without a whole response has failed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    play(TracingMiddleware(app))

    assert "FAILED" == only(memory).status
    assert "before its response was complete" in only(memory).tags["mltrace.error.message"]


def test_the_client_left_says_receive(memory: MemoryBackend) -> None:
    """An application that stops as the client has left has a closed stream, no failure."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert "http.disconnect" == (await receive())["type"]

    assert None is play(TracingMiddleware(app)).error
    assert ("FINISHED", "closed") == (only(memory).status, only(memory).tags["mltrace.stream"])


@pytest.mark.parametrize("breaks_at", [1, 2])
def test_the_client_left_says_send(memory: MemoryBackend, breaks_at: int) -> None:
    """A server that raises because the client has left closes the stream, whatever the framework raises then."""

    async def stream(request: Any) -> StreamingResponse:
        return StreamingResponse(iter([b"one", b"two", b"three"]))

    app = TracingMiddleware(Starlette(routes=[Route("/items/{item_id}", stream)]))
    found = play(app, breaks_at=breaks_at, asgi={"version": "3.0", "spec_version": "2.4"})

    assert "ClientDisconnect" == type(found.error).__name__
    assert ("FINISHED", "closed") == (only(memory).status, only(memory).tags["mltrace.stream"])


def test_a_failure_after_the_client_left_is_a_failure(memory: MemoryBackend) -> None:
    """An error that is not the client's leaving fails the run."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        raise RuntimeError("something else")

    play(TracingMiddleware(app))

    assert ("FAILED", "something else") == (only(memory).status, only(memory).tags["mltrace.error.message"])


def test_the_run_ends_with_the_last_byte(memory: MemoryBackend) -> None:
    """Background tasks begin after the end of the run, and their runs nest under it."""
    app = FastAPI()
    app.add_middleware(TracingMiddleware)
    seen: list[Any] = []

    def later() -> None:
        seen.append(only(memory).status)
        with mltrace.track_run("index"):
            pass

    @app.get("/items/{item_id}")
    async def item(tasks: BackgroundTasks) -> str:
        tasks.add_task(later)
        return "soon"

    play(app)

    assert (["FINISHED"], ["index"]) == (seen, [run.name for run in only(memory).children])


# A real server.


def test_streams_are_not_held_back(memory: MemoryBackend) -> None:
    """A client of a real server has the first chunk before the second is made; the run ends with the last."""
    app, go = FastAPI(), threading.Event()
    app.add_middleware(TracingMiddleware)

    @app.get("/stream")
    def stream() -> StreamingResponse:
        def chunks() -> Any:
            yield b"first"
            assert go.wait(30)
            mltrace.log_metric("chunks", 2)
            yield b"second"

        return StreamingResponse(chunks())

    with serving(app) as port:
        connection = http.client.HTTPConnection(HOST, port, timeout=30)
        connection.request("GET", "/stream")
        response = connection.getresponse()
        first, open_then = response.read1(), only(memory).status is None
        go.set()
        rest = response.read()
        until(lambda: only(memory).status)
        connection.close()
    run = only(memory)

    assert (b"first", b"second", True) == (first, rest, open_then)
    assert ("FINISHED", 11, 2) == (run.status, run.metrics["response_bytes"], run.metrics["chunks"])
    assert run.metrics["time_to_first_byte_ms"] < run.metrics["latency_ms"]


def test_a_client_that_leaves(memory: MemoryBackend) -> None:
    """A client of a real server that hangs up in the middle of a stream leaves a run that ended as closed."""
    app = FastAPI()
    app.add_middleware(TracingMiddleware)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> Any:
            yield b"first"
            await asyncio.Event().wait()

        return StreamingResponse(chunks())

    with serving(app) as port:
        connection = http.client.HTTPConnection(HOST, port, timeout=30)
        connection.request("GET", "/stream")
        assert b"first" == connection.getresponse().read1()
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        until(lambda: only(memory).status)

    assert ("FINISHED", "closed") == (only(memory).status, only(memory).tags["mltrace.stream"])


def observed(seen: list[Any]) -> FastAPI:
    """Return an application that notes the current run where the middleware makes none."""
    app = FastAPI()
    app.add_middleware(TracingMiddleware, exclude=["/quiet"])

    @app.post("/upload")
    async def upload(request: Request) -> str:
        await request.body()
        return "2 MB or less"

    @app.get("/quiet")
    async def quiet() -> str:
        seen.append(bool(mltrace.current_run()))
        return "quiet"

    return app


def test_a_connection_carries_no_run_to_the_next_request(memory: MemoryBackend) -> None:
    """
    Behind an upload so large that the server stops reading for a while, requests on the same connection
    have no run of it: the server reads on in callbacks that it makes while the handler waits.
    """
    seen: list[Any] = []
    uploads = [b"x" * 2_000_000, b"y"]
    with serving(observed(seen)) as port:
        connection = http.client.HTTPConnection(HOST, port, timeout=30)
        for upload in uploads:
            connection.request("POST", "/upload", upload)
            assert b'"2 MB or less"' == connection.getresponse().read()
            connection.request("GET", "/quiet")
            assert b'"quiet"' == connection.getresponse().read()
        connection.close()
        until(lambda: [run.status for run in memory.roots] == ["FINISHED"] * 2)

    assert ([False, False], [[], []]) == (seen, [run.children for run in memory.roots])
    assert [len(upload) for upload in uploads] == [run.metrics["request_bytes"] for run in memory.roots]


def test_pipelined_requests_are_apart(memory: MemoryBackend) -> None:
    """Requests that come in one packet are no parents of each other: the server begins one where it ends the other."""
    seen: list[Any] = []
    upload = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
    quiet = b"GET /quiet HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(observed(seen)) as port, socket.create_connection((HOST, port), 30) as connection:
        connection.sendall(upload + quiet + upload + quiet)
        until(lambda: len(seen) == 2 and [run.status for run in memory.roots] == ["FINISHED"] * 2)

    assert [False, False] == seen


def test_requests_at_once_do_not_mix(memory: MemoryBackend) -> None:
    """What handlers log while they wait for each other goes to the run of each."""
    app, everybody = FastAPI(), threading.Barrier(8)
    app.add_middleware(TracingMiddleware)

    @app.get("/items/{item_id}")
    def item(item_id: int) -> str:
        everybody.wait(30)
        mltrace.log_metric("item", item_id)
        with mltrace.track_run(f"child {item_id}"):
            return "ok"

    with serving(app) as port:
        threads = [threading.Thread(target=get, args=(port, f"/items/{number}")) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        until(lambda: [run.status for run in memory.roots] == ["FINISHED"] * 8)
    found = {
        run.params["path"]: (run.metrics["item"], [c.name for c in run.children]) for run in memory.roots
    }

    assert {f"/items/{number}": (number, [f"child {number}"]) for number in range(8)} == found


# Headers.


def test_the_response_names_its_run(memory: MemoryBackend) -> None:
    """The response's headers have the run's id and, as of W3C Trace Context, its place."""
    found = play(TracingMiddleware(answering()))
    run = only(memory)

    assert {
        "content-type": "text/plain",
        "traceparent": f"00-{run.id}-{run.id[:16]}-01",
        "x-mltrace-run": run.id,
    } == found.headers


def test_response_headers_are_a_choice(memory: MemoryBackend) -> None:
    """The id has the name that was chosen, or is not sent; without propagation there is no traceparent."""
    named = play(TracingMiddleware(answering(), run_header="X-Run", propagate=False))
    bare = play(TracingMiddleware(answering(), run_header=None, propagate=False))

    assert {"content-type": "text/plain", "x-run": memory.roots[0].id} == named.headers
    assert {"content-type": "text/plain"} == bare.headers


def test_headers_of_the_application_stay(memory: MemoryBackend) -> None:
    """A header that the application sends itself is not sent twice."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Mltrace-Run", b"mine")]})
        await send({"type": "http.response.body"})

    headers = play(TracingMiddleware(app, propagate=False)).sent[0]["headers"]

    assert [(b"X-Mltrace-Run", b"mine")] == headers


def test_a_request_nests_under_its_caller(memory: MemoryBackend) -> None:
    """A request with the headers of `mltrace.carrier` nests under that run, in its experiment and trace."""
    found = play(TracingMiddleware(answering()), headers=CARRIER)
    run = only(memory)

    assert ("0af7651916cd43dd8448eb211c80319c", "callers") == (run.parent_id, run.experiment)
    assert found.headers["traceparent"].startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")


def test_between_two_services(memory: MemoryBackend) -> None:
    """What a client sends of `mltrace.carrier` joins its run and the service's in one tree."""
    with serving(shop()) as port, mltrace.track_run("client") as client:
        get(port, "/items/7", **mltrace.carrier())
        until(lambda: [run.status for run in only(memory).children] == ["FINISHED"])

    assert client.id == only(memory).id
    names = [run.name for _, run in only(memory).walk()]
    assert ["client", "GET /items/{item_id}", "look up"] == names


@pytest.mark.parametrize(
    "headers",
    [
        [],
        CARRIER[2:],
        CARRIER[:2],
        [(b"mltrace-run", b"../../etc"), *CARRIER[1:]],
        [(b"mltrace-run", b"\xff\xfe"), *CARRIER[1:]],
        [*CARRIER[:2], (b"traceparent", b"nonsense")],
    ],
    ids=["none", "traceparent alone", "no traceparent", "no id", "no text", "no trace"],
)
def test_nonsense_names_no_caller(memory: MemoryBackend, headers: Any) -> None:
    """Headers that name no run are ignored, without a word, in strict mode too: anybody may send them."""
    assert None is play(TracingMiddleware(answering()), headers=headers).error
    assert None is only(memory).parent_id


def test_strangers_are_not_believed_without_propagation(memory: MemoryBackend) -> None:
    """With propagate=False the headers of a caller choose nothing."""
    play(TracingMiddleware(answering(), propagate=False), headers=CARRIER)

    assert (None, "Default") == (only(memory).parent_id, only(memory).experiment)


def test_headers_are_captured_without_secrets(memory: MemoryBackend) -> None:
    """Captured headers are tags; what authorises is hidden, there and where it turns up again."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        mltrace.set_tag("said", "I am s3cr3t-s3cr3t")
        cookies = [(b"set-cookie", b"session=abcdefgh"), (b"x-cache", b"hit"), (b"x-cache", b"miss")]
        await send({"type": "http.response.start", "status": 200, "headers": cookies})
        await send({"type": "http.response.body"})

    headers = [
        (b"authorization", b"Bearer s3cr3t-s3cr3t"),
        (b"accept", b"*/*"),
        (b"x-api-key", b"0123456789"),
    ]
    play(TracingMiddleware(app, capture_headers=True), headers=headers)
    tags = only(memory).tags

    hidden = '{"authorization":"[redacted]","accept":"*/*","x-api-key":"[redacted]"}'
    assert hidden == tags["mltrace.request_headers"]
    assert '{"set-cookie":"[redacted]","x-cache":"hit, miss"}' == tags["mltrace.response_headers"]
    assert "I am [redacted]" == tags["said"]


def test_some_headers_are_captured(memory: MemoryBackend) -> None:
    """Of headers that were named, those alone are kept, whatever their case; by default none are."""
    headers = [(b"accept", b"*/*"), (b"user-agent", b"curl")]
    play(TracingMiddleware(answering(), capture_headers=["User-Agent"]), headers=headers)
    play(TracingMiddleware(answering()), headers=headers)

    captured = [run.tags.get("mltrace.request_headers") for run in memory.roots]
    assert ['{"user-agent":"curl"}', None] == captured


# What has no run.


@pytest.mark.parametrize("path", [*EXCLUDED, "/internal/x"])
def test_excluded(memory: MemoryBackend, path: str) -> None:
    """Paths of probes, and those below a path with a star, are no runs."""
    app = TracingMiddleware(answering(b"ok"), exclude=[*EXCLUDED, "/internal/*"])

    assert ([], {"content-type": "text/plain"}) == (memory.roots, play(app, path).headers)
    assert [] == memory.roots


def test_excluded_below_a_root_path(memory: MemoryBackend) -> None:
    """Behind a proxy that serves the application below a path, excluded paths are those of the application."""
    play(TracingMiddleware(answering()), "/api/health", root_path="/api")

    assert [] == memory.roots


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_other_protocols_pass_untouched(memory: MemoryBackend, kind: str) -> None:
    """What is not HTTP gets the very objects of the server."""
    given: list[Any] = []

    async def app(*arguments: Any) -> None:
        given.extend(arguments)

    arguments = ({"type": kind}, Play().receive, Play().send)
    asyncio.run(TracingMiddleware(app)(*arguments))

    assert [True] * 3 == [a is b for a, b in zip(arguments, given, strict=True)]
    assert [] == memory.roots


def test_off_is_off(memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, the application gets the very objects of the server."""
    monkeypatch.setenv("MLTRACE_ENABLED", "0")
    given: list[Any] = []

    async def app(*arguments: Any) -> None:
        given.extend(arguments)

    server = Play()
    arguments = (http_scope(), server.receive, server.send)
    asyncio.run(TracingMiddleware(app)(*arguments))

    assert [True] * 3 == [a is b for a, b in zip(arguments, given, strict=True)]
    assert [] == memory.roots


def test_applied_twice_records_once(memory: MemoryBackend) -> None:
    """Two middlewares, one directly in the other, make one run."""
    play(TracingMiddleware(TracingMiddleware(answering())))

    assert [] == only(memory).children


def test_sampling(memory: MemoryBackend) -> None:
    """A request that is not sampled leaves no run and names none, unless it fails."""
    found = play(TracingMiddleware(answering(act=lambda: mltrace.log_metric("m", 1)), sample_rate=0))
    assert ([], "00", False) == (
        memory.roots,
        found.headers["traceparent"][-2:],
        "x-mltrace-run" in found.headers,
    )

    play(TracingMiddleware(answering(status=500, act=lambda: mltrace.log_metric("m", 1)), sample_rate=0))
    assert ("FAILED", 1) == (only(memory).status, only(memory).metrics["m"])


def test_options_of_a_run(memory: MemoryBackend) -> None:
    """Experiment and tags are those of the options."""
    play(TracingMiddleware(answering(), experiment_name="shop", tags={"team": "web"}))

    assert ("shop", "web") == (only(memory).experiment, only(memory).tags["team"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("run_name", "{nothing}"),
        ("run_name", "{"),
        ("run_name", 7),
        ("exclude", "/health"),
        ("exclude", [7]),
        ("capture_headers", "accept"),
        ("run_header", "x run"),
        ("experiment_name", 7),
        ("sample_rate", 2),
    ],
)
def test_wrong_options(option: str, value: Any) -> None:
    """A wrong option raises where the middleware is made, and is named."""
    with pytest.raises(ConfigurationError, match=option):
        TracingMiddleware(answering(), **{option: value})


# Transparency.


class Broken(MemoryBackend):
    """A backend in which everything fails."""

    def emit(self, record: Any) -> None:
        raise RuntimeError("nothing works")


def test_errors_of_mltrace_do_not_reach_the_application(said: list[str]) -> None:
    """Whatever fails in mltrace, the request is answered."""
    mltrace.configure(backend=Broken())
    found = play(TracingMiddleware(answering(b"fine"), capture_headers=True))

    assert (None, b"fine") == (found.error, found.sent[1]["body"])
    assert "your program goes on" in said


def test_a_wrong_configuration_does_not_reach_the_application(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that cannot be a run, for the environment is wrong, is answered."""
    monkeypatch.setenv("MLTRACE_DURABILITY", "nonsense")
    _config.reset()

    assert (None, 200) == ((found := play(TracingMiddleware(answering()))).error, found.status)
    assert "the start of a request" in said


@pytest.mark.parametrize(
    "message", [{}, {"type": "http.response.start"}, {"type": "http.response.body", "body": None}], ids=str
)
def test_messages_that_are_none_are_the_servers_to_refuse(said: list[str], message: Any) -> None:
    """What no server takes is passed on as it is, and raises nothing here."""
    mltrace.configure(backend="memory")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(message)

    found = play(TracingMiddleware(app))

    assert (None, True) == (found.error, found.sent[0] is message)
    assert "your program goes on" in said


BODIES = st.binary(max_size=20)
HEADERS = st.lists(st.tuples(st.sampled_from([b"x-a", b"content-type", b"Traceparent"]), BODIES), max_size=3)
MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("http.response.start"), "status": st.sampled_from([200, 404, 500])},
        optional={"headers": HEADERS, "trailers": st.booleans()},
    ),
    st.fixed_dictionaries(
        {"type": st.just("http.response.body")}, optional={"body": BODIES, "more_body": st.booleans()}
    ),
    st.fixed_dictionaries({"type": st.just("http.response.trailers"), "headers": HEADERS}),
    st.fixed_dictionaries({"type": st.just("http.response.pathsend"), "path": st.text(max_size=5)}),
    st.fixed_dictionaries({"type": st.just("http.response.debug"), "info": st.none()}),
)
STEPS = st.one_of(
    st.tuples(st.just("send"), MESSAGES),
    st.tuples(st.just("receive"), st.none()),
    st.tuples(
        st.just("raise"), st.sampled_from([ValueError("v"), OSError("o"), asyncio.CancelledError("c")])
    ),
)
INCOMING = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("http.request")}, optional={"body": BODIES, "more_body": st.booleans()}
    ),
    max_size=3,
)


class Scripted:
    """An application that does what a script says, and notes what it sees."""

    def __init__(self, steps: Any, swallows: bool) -> None:
        self._steps = steps
        self._swallows = swallows
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        for step, what in self._steps:
            try:
                if step == "send":
                    self.seen.append(await send(what))
                elif step == "receive":
                    self.seen.append(await receive())
                else:
                    raise what
            except OSError as error:
                self.seen.append(type(error))
                if not self._swallows:
                    raise


def without_added(message: Any) -> Any:
    """Return a message without the headers that the middleware adds, where there are some."""
    if message["type"] != "http.response.start":
        return message
    kept = [
        header for header in message.get("headers", ()) if header[0] not in (b"x-mltrace-run", b"traceparent")
    ]
    return {**message, "headers": kept}


def response(status: int) -> list[tuple[str, Any]]:
    return [
        ("send", {"type": "http.response.start", "status": status}),
        ("send", {"type": "http.response.body"}),
    ]


@pytest.mark.parametrize(("status", "recorded"), [(200, "FINISHED"), (500, "FAILED")])
def test_a_second_response_is_none(memory: MemoryBackend, status: int, recorded: str) -> None:
    """What an application sends after the last byte is the server's to refuse, and changes nothing in the run."""
    play(TracingMiddleware(Scripted([*response(status), *response(700 - status)], swallows=False)))

    [run] = memory.roots
    assert (recorded, status) == (run.status, run.metrics["status_code"])


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(STEPS, max_size=8),
    incoming=INCOMING,
    breaks_at=st.none() | st.integers(0, 3),
    swallows=st.booleans(),
    adds=st.booleans(),
)
def test_neither_side_can_tell(steps: Any, incoming: Any, breaks_at: Any, swallows: bool, adds: bool) -> None:
    """
    Whatever an application and a server say to each other, both see what they would see without the
    middleware, the same objects, but for the headers that it was told to add; and each request is one run
    that has ended.
    """
    plain, traced = Scripted(steps, swallows), Scripted(steps, swallows)
    scope = http_scope()
    alone = Play(incoming, breaks_at).run(plain, scope)
    options = {} if adds else {"propagate": False, "run_header": None}
    with record() as recorder:
        between = Play(incoming, breaks_at)
        between.incoming = alone.incoming
        between.run(TracingMiddleware(traced, **options), scope)
        (run,) = recorder.runs

    assert run.status in ("FINISHED", "FAILED", "KILLED")
    assert len(plain.seen) == len(traced.seen)
    assert all(
        a is b or a == b == {"type": "http.disconnect"} for a, b in zip(plain.seen, traced.seen, strict=True)
    )
    if isinstance(alone.error, OSError) and breaks_at is not None:
        assert type(alone.error) is type(between.error)
    else:
        assert alone.error is between.error
    if adds:
        assert [without_added(m) for m in alone.sent] == [without_added(m) for m in between.sent]
    else:
        assert [True] * len(alone.sent) == [a is b for a, b in zip(alone.sent, between.sent, strict=True)]


def test_websockets_work(memory: MemoryBackend) -> None:
    """A real websocket route behind the middleware gets its messages."""
    app = FastAPI()
    app.add_middleware(TracingMiddleware)
    sent: list[Any] = []

    @app.websocket("/talk")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = http_scope("/talk", type="websocket", subprotocols=[])
    del scope["method"]
    asyncio.run(app(scope, receive, send))

    assert ["websocket.accept", "websocket.send", "websocket.close"] == sent
    assert [] == memory.roots
