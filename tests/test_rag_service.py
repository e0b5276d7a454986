"""The example service as users run it: a process of its own, over a real MLflow server, with its own small LLM."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import uuid

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import docx
import pytest

from tests.harness import HOST, Proxy, until
from tests.server import MlflowServer, free_port


ROOT = Path(__file__).parents[1]
EXPERIMENT = "rag_experiments"
QUESTION = "Why is the image in a pinhole camera upside down?"
ANSWER = "The rays cross at the hole"
START_SECONDS = 180  # scikit-learn and its kin, on a busy machine


class Reply(NamedTuple):
    """What the service answered."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.text)


class Service:
    """The running service; its requests."""

    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self.directory = directory

    def send(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> Reply:
        """Send one request."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            connection.request(method, path, body, {"content-type": content_type})
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers), response.read().decode())
        finally:
            connection.close()

    def post(self, path: str, **body: Any) -> Reply:
        """Send JSON."""
        return self.send("POST", path, json.dumps(body).encode())

    def upload(self, name: str, content: bytes) -> Reply:
        """Send a file as a form does."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        return self.send("POST", "/documents", body, f"multipart/form-data; boundary={boundary}")


@contextlib.contextmanager
def running(directory: Path, tracking_uri: str, **environment: str) -> Iterator[Service]:
    """Run the service; end it as an orchestrator does."""
    port = free_port()
    foreign = ("MLFLOW_", "MLTRACE_", "OPENAI_", "RAG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    told = {
        "RAG_PORT": str(port),
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLTRACE_SPOOL_DIR": str(directory / "spool"),
    }
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "rag_service")],
            cwd=directory,
            env={**kept, **told, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        service = Service(port, directory)
        try:
            until(lambda: answers(service, process), START_SECONDS)
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            finally:
                process.kill()


def answers(service: Service, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, (service.directory / "log").read_text()
    try:
        return service.send("GET", "/health").status == 200
    except OSError:
        return False


@pytest.fixture(name="service", scope="module")
def _service(tmp_path_factory: pytest.TempPathFactory, server: MlflowServer) -> Iterator[Service]:
    """The service, with one document."""
    with running(tmp_path_factory.mktemp("service"), server.url) as service:
        content = (ROOT / "examples" / "corpus" / "pinhole.txt").read_bytes()
        assert 201 == service.upload("pinhole.txt", content).status
        yield service


def uid_of(reply: Reply) -> str:
    return reply.headers["x-mltrace-run"]


def run_of(server: MlflowServer, uid: str) -> dict[str, Any]:
    """Return the run of this uid from the server, once it is there and over."""

    def found() -> dict[str, Any] | None:
        runs = [run for run in server.runs(EXPERIMENT) if run["tags"].get("mltrace.uid") == uid]
        return runs[0] if runs and runs[0]["status"] != "RUNNING" else None

    return until(lambda: found() or {}, 60)


def children_of(server: MlflowServer, parent: dict[str, Any], count: int) -> dict[str, dict[str, Any]]:
    """Return the runs below *parent* by name, once there are so many."""

    def found() -> list[dict[str, Any]]:
        runs = [
            run for run in server.runs(EXPERIMENT) if run["tags"].get("mlflow.parentRunId") == parent["id"]
        ]
        return runs if len(runs) == count and all(run["status"] != "RUNNING" for run in runs) else []

    return {run["name"]: run for run in until(found, 60)}


def pdf(text: str) -> bytes:
    """Return a PDF of one page with a line of text."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size, start = len(objects) + 1, len(content)
    trailer = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (size, start)
    return content + b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table) + trailer


def word(text: str) -> bytes:
    """Return a Word document of one paragraph."""
    document, buffer = docx.Document(), io.BytesIO()
    document.add_paragraph(text)
    document.save(buffer)
    return buffer.getvalue()


SENTENCE = "A tripod keeps the camera still."
DOCUMENTS = {
    "tripod.txt": SENTENCE.encode(),
    "tripod.md": f"# Tripods\n\n{SENTENCE}".encode(),
    "tripod.html": f"<html><style>p {{}}</style><body><p>{SENTENCE}</p></body></html>".encode(),
    "tripod.pdf": pdf(SENTENCE),
    "tripod.docx": word(SENTENCE),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_upload(service: Service, server: MlflowServer, name: str) -> None:
    """An upload of each type is a run `ingest_<file>` with the params and metrics that it is known for, and no others."""
    reply = service.upload(name, DOCUMENTS[name])
    total = reply.json["total_chunks"]
    request = run_of(server, uid_of(reply))
    run = children_of(server, request, 1)[f"ingest_{name}"]
    latency = run["metrics"].pop("latency_ms")

    assert (201, "FINISHED", "POST /documents") == (reply.status, run["status"], request["name"])
    assert {
        "filename": name,
        "file_size_bytes": str(len(DOCUMENTS[name])),
        "document_path": f"documents/{name}",
        "document_type": Path(name).suffix,
    } == run["params"]
    size = len(SENTENCE) + (len("# Tripods ") if name.endswith(".md") else 0)
    assert {
        "chunks_created": 1,
        "avg_chunk_size": size,
        "total_chunks": total,
        "document_chunks": 1,
    } == run["metrics"]
    assert 0 < latency <= request["metrics"]["latency_ms"]
    assert DOCUMENTS[name] == (service.directory / "documents" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "status", "message"),
    [
        ("broken.pdf", b"%PDF-1.4 nothing more", 422, "not a readable .pdf file"),
        ("broken.docx", b"PK nothing more", 422, "not a readable .docx file"),
        ("latin.txt", b"caf\xe9", 422, "not a readable .txt file"),
        ("empty.md", b"  \n", 422, "there is no text in it"),
        ("image.png", b"\x89PNG", 415, ".png is not one of .txt, .md, .html, .pdf, .docx"),
        ("noname", b"text", 415, "no type is not one of"),
    ],
)
def test_bad_file(
    service: Service, server: MlflowServer, name: str, content: bytes, status: int, message: str
) -> None:
    """A file that cannot be read is refused in words, and its run has failed for the same reason; nothing is kept of it."""
    reply = service.upload(name, content)
    request = run_of(server, uid_of(reply))
    run = children_of(server, request, 1)[f"ingest_{name}"]

    assert (status, True) == (reply.status, reply.json["detail"].startswith(f"{name}: {message}"))
    assert ("FAILED", True) == (run["status"], run["tags"]["mltrace.error.message"].startswith(message))
    assert (str(len(content)), name) == (run["params"]["file_size_bytes"], run["params"]["filename"])
    assert ("FINISHED", status) == (request["status"], request["metrics"]["status_code"])
    assert not (service.directory / "documents" / name).exists()


@pytest.mark.parametrize("name", ["../../escaped.txt", "..\\..\\escaped.txt", "/etc/escaped.txt"])
def test_a_document_stays_in_its_directory(service: Service, name: str) -> None:
    """The name of an upload cannot lead out of the directory of documents."""
    assert (201, "escaped.txt") == (
        (reply := service.upload(name, SENTENCE.encode())).status,
        reply.json["filename"],
    )
    assert (service.directory / "documents" / "escaped.txt").is_file()


def test_ask(service: Service, server: MlflowServer) -> None:
    """A question is answered from the documents; retrieval, LLM call and prediction nest under its request."""
    reply = service.post("/ask", question=QUESTION)
    request = run_of(server, uid_of(reply))
    children = children_of(server, request, 3)

    assert (200, True, "pinhole.txt") == (
        reply.status,
        ANSWER in reply.json["answer"],
        reply.json["sources"][0]["document"],
    )
    assert ("POST /ask", "request", "FINISHED") == (
        request["name"],
        request["tags"]["mltrace.kind"],
        request["status"],
    )
    assert {"retrieve", "llm_call", "prediction"} == children.keys()
    retrieve, call, prediction = (children[name] for name in ("retrieve", "llm_call", "prediction"))
    assert (QUESTION, len(reply.json["sources"])) == (
        retrieve["params"]["question"],
        retrieve["metrics"]["passages"],
    )
    assert {"model": "extractive-1", "temperature": "0.0", "provider": "openai"} == call["params"]
    assert reply.json["answer"] == call["tags"]["mltrace.response"] == prediction["tags"]["mltrace.output"]
    assert QUESTION in call["tags"]["mltrace.prompt"]
    tokens = {name: call["metrics"][f"{name}_tokens"] for name in ("input", "output", "total")}
    assert len(reply.json["answer"].split()) == tokens["output"] == tokens["total"] - tokens["input"]
    assert reply.json["id"] == prediction["tags"]["mltrace.uid"]
    assert 0 < prediction["metrics"]["latency_ms"] <= request["metrics"]["latency_ms"]


def test_ask_stream(service: Service, server: MlflowServer) -> None:
    """A streamed answer is that of /ask, word by word; its request ends with the last byte."""
    reply = service.post("/ask/stream", question=QUESTION)
    events = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    parts = [
        json.loads(data.removeprefix("data: "))["text"] for name, data in events if name == "event: delta"
    ]
    last = json.loads(events[-1][1].removeprefix("data: "))
    request = run_of(server, uid_of(reply))
    children = children_of(server, request, 3)
    call = children["llm_call"]

    assert ("event: done", service.post("/ask", question=QUESTION).json["answer"]) == (
        events[-1][0],
        last["answer"],
    )
    assert (True, last["answer"]) == (len(parts) > 5, "".join(parts))
    assert last["answer"] == call["tags"]["mltrace.response"]
    assert len(parts) == call["metrics"]["output_tokens"]
    assert 0 < call["metrics"]["time_to_first_token_ms"] <= call["metrics"]["latency_ms"]
    assert last["id"] == children["prediction"]["tags"]["mltrace.uid"]
    assert len(reply.text.encode()) == request["metrics"]["response_bytes"]
    assert call["metrics"]["latency_ms"] < request["metrics"]["latency_ms"]


def test_feedback(service: Service, server: MlflowServer) -> None:
    """Feedback lands on the prediction that the answer's id names; the latest of a user counts."""
    answer = service.post("/ask", question=QUESTION).json
    for rating in (2, 5):
        body = {"rating": rating, "text": "clear", "source": "ada"}
        assert 202 == service.post("/feedback", id=answer["id"], **body).status
    until(lambda: run_of(server, answer["id"])["metrics"].get("feedback.rating") == 5, 60)
    run = run_of(server, answer["id"])
    said = [json.loads(value) for key, value in run["tags"].items() if key.startswith("feedback.rating")]

    assert ("prediction", "rating 5: clear") == (run["name"], run["tags"]["user_feedback"])
    assert [(5, "ada")] == [(entry["value"], entry["source"]) for entry in said]


@pytest.mark.parametrize(
    "body", [{"id": "nonsense", "rating": 5}, {"id": "0" * 32, "rating": 6}, {"rating": 5}], ids=str
)
def test_feedback_that_is_none(service: Service, body: dict[str, Any]) -> None:
    """Feedback without an id, or with a rating that there is not, is refused."""
    assert 422 == service.post("/feedback", **body).status


def test_health(service: Service, server: MlflowServer) -> None:
    """The health route says how things are, and is no run."""
    reply = service.send("GET", "/health")

    assert (200, "ok", None) == (reply.status, reply.json["status"], reply.json["tracking"]["last_error"])
    assert "x-mltrace-run" not in reply.headers
    until(lambda: service.send("GET", "/health").json["tracking"]["pending"] == 0, 60)
    assert [] == [run for run in server.runs(EXPERIMENT) if "health" in run["name"]]


def test_documents_are_there_after_a_restart(tmp_path: Path, server: MlflowServer) -> None:
    """What was uploaded is found again by the next process, without an upload's run."""
    with running(tmp_path, server.url) as service:
        assert 201 == service.upload("tripod.txt", SENTENCE.encode()).status
    with running(tmp_path, server.url) as service:
        assert 1 == service.send("GET", "/health").json["documents"]
        assert SENTENCE == service.post("/ask", question="What keeps the camera still?").json["answer"]


def test_without_a_language_model(tmp_path: Path, server: MlflowServer) -> None:
    """A language model that does not answer is an answer of 502, and a failed run; a stream says so in its last event."""
    nobody = f"http://{HOST}:{free_port()}/v1"
    with running(tmp_path, server.url, OPENAI_BASE_URL=nobody) as service:
        assert 201 == service.upload("tripod.txt", SENTENCE.encode()).status
        reply = service.post("/ask", question="What keeps the camera still?")
        streamed = service.post("/ask/stream", question="What keeps the camera still?")
        request = run_of(server, uid_of(reply))
        call = children_of(server, request, 2)["llm_call"]

    assert (502, "the language model does not answer") == (reply.status, reply.json["detail"])
    assert ("FAILED", "FAILED") == (call["status"], request["status"])
    assert call["tags"]["mltrace.error.type"].endswith("APIConnectionError")
    assert streamed.text.startswith("event: error")


def test_without_any_setting(tmp_path: Path) -> None:
    """One command, no key, no server: the runs are in a local store when the service has ended."""
    with running(tmp_path, "sqlite:///mlflow.db") as service:
        assert 201 == service.upload("tripod.txt", SENTENCE.encode()).status
        answer = service.post("/ask", question="What keeps the camera still?").json
        until(lambda: service.send("GET", "/health").json["tracking"]["pending"] == 0, 120)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        names = {name for (name,) in store.execute("SELECT name FROM runs WHERE status = 'FINISHED'")}

    assert SENTENCE == answer["answer"]
    assert {
        "POST /documents",
        "ingest_tripod.txt",
        "POST /ask",
        "retrieve",
        "llm_call",
        "prediction",
    } == names


def test_without_mlflow(tmp_path: Path, server: MlflowServer) -> None:
    """
    While MLflow is down every route answers what it answers when it is up; what was asked meanwhile arrives
    when it is back, once, with the times at which it happened.
    """
    with Proxy(server.port) as proxy, running(tmp_path, proxy.url) as service:
        proxy.refuse()
        uploaded = service.upload("tripod.txt", SENTENCE.encode())
        bad = service.upload("broken.pdf", b"%PDF")
        asked = service.post("/ask", question="What keeps the camera still?")
        streamed = service.post("/ask/stream", question="What keeps the camera still?")
        given = service.post("/feedback", id=asked.json["id"], rating=4)
        health = service.send("GET", "/health")
        assert [201, 422, 200, 200, 202, 200] == [
            reply.status for reply in (uploaded, bad, asked, streamed, given, health)
        ]
        assert SENTENCE == asked.json["answer"]
        assert "event: done" in streamed.text
        assert health.json["tracking"]["pending"] > 0
        known = {run["tags"].get("mltrace.uid") for run in server.runs(EXPERIMENT)}
        assert not {uid_of(uploaded), uid_of(asked), asked.json["id"]} & known

        proxy.accept()
        request = run_of(server, uid_of(asked))
        children = children_of(server, request, 3)
        until(lambda: run_of(server, asked.json["id"])["metrics"].get("feedback.rating") == 4, 60)
        until(lambda: service.send("GET", "/health").json["tracking"]["pending"] == 0, 60)
        runs = server.runs(EXPERIMENT)

    uids = [run["tags"]["mltrace.uid"] for run in runs]
    assert len(uids) == len(set(uids))
    assert {uid_of(reply) for reply in (uploaded, bad, asked, streamed, given)} <= set(uids)
    assert "ingest_broken.pdf" in [run["name"] for run in runs if run["status"] == "FAILED"]
    took = request["end_time"] - request["start_time"]
    assert abs(took - request["metrics"]["latency_ms"]) <= 2
    assert all(request["start_time"] <= run["start_time"] for run in children.values())
