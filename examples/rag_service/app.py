"""The service: `create_app` makes it; each request is a run in MLflow, with what it did nested under it."""

import asyncio
import json
import time

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Annotated, Any

from documents import UnknownType, UnreadableDocument
from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.responses import StreamingResponse
from llm import Llm, messages
from openai import OpenAIError
from pydantic import BaseModel, Field, StringConstraints
from retrieval import Library, Passage
from settings import Settings

import mltrace

from mltrace.feedback import log_feedback
from mltrace.integrations.asgi import TracingMiddleware


class Question(BaseModel):
    """What is asked."""

    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4_000)]


class Source(BaseModel):
    """A passage that the answer was made from."""

    document: str
    text: str
    score: float


class Answer(BaseModel):
    """An answer; `id` is what feedback on it names."""

    id: str
    answer: str
    sources: list[Source]


class Feedback(BaseModel):
    """What somebody thinks of an answer."""

    id: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
    rating: Annotated[int, Field(ge=1, le=5)]
    text: Annotated[str, StringConstraints(max_length=4_000)] | None = None
    corrected: Annotated[str, StringConstraints(max_length=4_000)] | None = None
    source: Annotated[str, StringConstraints(max_length=200)] = "anonymous"


class Uploaded(BaseModel):
    """A document as it was taken in."""

    filename: str
    chunks_created: int
    total_chunks: int


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the service."""
    settings = settings or Settings.from_environment()
    mltrace.configure(experiment_name=settings.experiment)
    library, llm = Library(settings.documents), Llm()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await llm.close()

    app = FastAPI(title="RAG service", lifespan=lifespan)
    app.add_middleware(TracingMiddleware)

    @app.post("/documents", status_code=201)
    def upload(file: UploadFile) -> Uploaded:
        content = file.file.read(settings.max_upload_bytes + 1)
        if len(content) > settings.max_upload_bytes:
            raise HTTPException(413, f"a document has at most {settings.max_upload_bytes} bytes")
        name = PurePosixPath((file.filename or "").replace("\\", "/")).name
        if not name.isprintable() or not 0 < len(name.encode()) <= 200:
            raise HTTPException(422, "a document needs a name of at most 200 bytes")
        path = settings.documents / name
        try:
            found = library.ingest(
                content,
                filename=name,
                file_size_bytes=len(content),
                document_path=str(path),
                document_type=path.suffix.lower(),
            )
        except UnreadableDocument as error:
            raise HTTPException(415 if isinstance(error, UnknownType) else 422, f"{name}: {error}") from error
        return Uploaded(
            filename=name, **{name: int(found[name]) for name in ("chunks_created", "total_chunks")}
        )

    @app.post("/ask")
    async def ask(asked: Question) -> Answer:
        began = time.perf_counter()
        passages = await asyncio.to_thread(library.search, asked.question, settings.passages)
        try:
            completion = await llm.complete(
                messages(asked.question, passages), settings.model, settings.temperature
            )
        except OpenAIError as error:
            raise HTTPException(502, "the language model does not answer") from error
        answer = completion.choices[0].message.content or ""
        return answered(asked.question, answer, passages, began)

    @app.post("/ask/stream")
    async def ask_stream(asked: Question) -> StreamingResponse:
        began = time.perf_counter()
        passages = await asyncio.to_thread(library.search, asked.question, settings.passages)

        async def events() -> AsyncIterator[str]:
            parts = []
            prompt = messages(asked.question, passages)
            try:
                async for part in llm.stream(prompt, settings.model, settings.temperature):
                    parts.append(part)
                    yield event("delta", {"text": part})
            except OpenAIError:
                yield event("error", {"detail": "the language model does not answer"})
                return
            yield event("done", answered(asked.question, "".join(parts), passages, began).model_dump())

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.post("/feedback", status_code=202)
    async def feedback(given: Feedback) -> dict[str, str]:
        log_feedback(
            given.id, value=given.rating, text=given.text, corrected=given.corrected, source=given.source
        )
        return {"status": "accepted"}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        tracking = mltrace.status()
        return {
            "status": "ok",
            "documents": len(library.chunks),
            "tracking": {"pending": tracking.pending, "last_error": tracking.last_error},
        }

    def answered(question: str, answer: str, passages: list[Passage], began: float) -> Answer:
        """Record an answer as a prediction, which feedback can name."""
        prediction = mltrace.log_prediction(
            question=question,
            answer=answer,
            context="\n\n".join(passage.text for passage in passages),
            latency_ms=(time.perf_counter() - began) * 1000,
            model_version=settings.model,
        )
        return Answer(id=prediction.id, answer=answer, sources=[Source(**asdict(p)) for p in passages])

    return app


def event(name: str, data: dict[str, Any]) -> str:
    """Return one server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
