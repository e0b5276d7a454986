"""Documents in chunks, found again by the words they share with a question."""

import threading

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from documents import READERS, chunks, read
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import linear_kernel

import mltrace


@dataclass(frozen=True)
class Passage:
    """A chunk of a document, and how near it is to a question (0 to 1)."""

    document: str
    text: str
    score: float


def places(passages: list[Passage]) -> dict[str, list[str]]:
    """Return what is recorded of passages: where they are. Their texts are in the prompt."""
    return {"passages": [f"{passage.document} ({passage.score:.2f})" for passage in passages]}


class Library:
    """The documents of a directory, which is read when the library is made, and their index."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.chunks: dict[str, list[str]] = {}
        self._index: tuple[list[tuple[str, str]], Any, Any] = ([], None, None)
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(path for path in directory.iterdir() if path.suffix.lower() in READERS):
            self.chunks[path.name] = chunks(read(path.read_bytes(), path.suffix.lower()))
        if self.chunks:
            self._rebuild()

    @mltrace.track_run("ingest_{filename}", ignore_arguments=["content"])
    def ingest(
        self, content: bytes, *, filename: str, file_size_bytes: int, document_path: str, document_type: str
    ) -> dict[str, float]:
        """
        Take a document in, in the place of one of the same name, and keep its file. One that cannot be
        read raises and changes nothing.

        The arguments are the run's params; the numbers returned are its metrics.
        """
        found = chunks(read(content, document_type))
        with self._lock:
            Path(document_path).write_bytes(content)
            self.chunks[filename] = found
            self._rebuild()
        return {
            "chunks_created": len(found),
            "avg_chunk_size": mean(map(len, found)),
            "document_chunks": len(self.chunks[filename]),
            "total_chunks": sum(map(len, self.chunks.values())),
        }

    @mltrace.track_run("retrieve", process_outputs=places)
    def search(self, question: str, limit: int) -> list[Passage]:
        """Return the passages nearest to the question, best first; none that shares no word with it."""
        passages, vectorizer, matrix = self._index  # one that is replaced meanwhile stays whole
        if not passages:
            return []
        scores = linear_kernel(vectorizer.transform([question]), matrix)[0]
        best = [number for number in scores.argsort()[::-1][:limit] if scores[number] > 0]
        mltrace.log_metrics({"passages": len(best), "top_score": scores.max()})
        return [Passage(*passages[number], float(scores[number])) for number in best]

    def _rebuild(self) -> None:
        passages = [(name, text) for name, texts in self.chunks.items() for text in texts]
        vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")  # noqa: S106 # of words, no secret
        self._index = (passages, vectorizer, vectorizer.fit_transform(text for _, text in passages))
