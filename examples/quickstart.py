"""A small RAG program over the texts in `corpus/`, tracked by mltrace: ingest, chunk, index, retrieve, answer.

The runs go to `MLFLOW_TRACKING_URI`, by default `sqlite:///mlflow.db` in the current directory. At the end they are
read back from MLflow and printed as a tree. The exit code is 1 if something has not arrived there.
"""

import os
import re
import sys
import time

from collections import defaultdict
from pathlib import Path
from statistics import mean

import rich

from mlflow import MlflowClient
from mlflow.entities import Run
from rich.text import Text
from rich.tree import Tree
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import linear_kernel

import mltrace


CORPUS = Path(__file__).parent / "corpus"
MODEL = "extractive-1"
QUESTIONS = {  # and words that a right answer contains
    "Why is the image in a pinhole camera upside down?": "rays cross at the hole",
    "How can the aperture change the depth of field?": "depth of field grows",
    "What happens to the film in the fixer?": "dissolves the silver halide",
    "How can phase detection tell which way to move the lens?": "direction of the shift",
    "Why can snow come out grey?": "Snow therefore comes out grey",
}


class Library:
    """Texts cut into chunks, found again by the words they share with a question."""

    def __init__(self) -> None:
        self.chunks: list[str] = []
        self.vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True)

    @mltrace.track_run("ingest_{filename}")
    def ingest(self, filename: str, max_words: int = 60) -> dict[str, float]:
        """Cut a file into chunks of whole sentences; the numbers returned become metrics."""
        _title, _, body = (CORPUS / filename).read_text(encoding="utf-8").partition("\n\n")
        chunks: list[list[str]] = [[]]
        for sentence in sentences(body):
            words = sentence.split()
            if len(chunks[-1]) + len(words) > max_words:
                chunks.append([])
            chunks[-1] += words
        self.chunks += [" ".join(words) for words in chunks]
        return {"chunks_created": len(chunks), "avg_chunk_size": mean(map(len, chunks))}

    @mltrace.track_run("index")
    def index(self) -> dict[str, int]:
        self.matrix = self.vectorizer.fit_transform(self.chunks)
        return {"vocabulary_size": self.matrix.shape[1]}

    @mltrace.track_run("retrieve")
    def retrieve(self, question: str, k: int = 3) -> list[str]:
        """Return the `k` chunks nearest to the question, best first."""
        scores = linear_kernel(self.vectorizer.transform([question]), self.matrix)[0]
        mltrace.log_metric("top_score", float(scores.max()))
        return [self.chunks[i] for i in scores.argsort()[::-1][:k]]

    @mltrace.track_run("question_{number}")
    def ask(self, number: int, question: str) -> str:
        start = time.perf_counter()
        context = "\n\n".join(self.retrieve(question))
        answer = generate_answer(question, context)
        latency_ms = (time.perf_counter() - start) * 1000
        mltrace.log_prediction(
            question=question, answer=answer, context=context, latency_ms=latency_ms, model_version=MODEL
        )
        return answer


@mltrace.log_llm_call(model=MODEL)
def generate_answer(question: str, context: str, temperature: float = 0.0) -> str:
    """Stand in for a language model: return the one or two sentences of the context nearest to the question."""
    candidates = sentences(context)
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True)
    vectors = vectorizer.fit_transform(candidates)
    scores = linear_kernel(vectorizer.transform([question]), vectors)[0]
    best = [i for i in scores.argsort()[::-1][:2] if scores[i] >= scores.max() / 2]
    return " ".join(candidates[i] for i in sorted(best))


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!]) ", " ".join(text.split()))


def main() -> int:
    library = Library()
    with mltrace.track_run("quickstart", params={"model": MODEL}) as run:
        for path in sorted(CORPUS.glob("*.txt")):
            library.ingest(path.name)
        library.index()
        answers = {
            question: library.ask(number, question) for number, question in enumerate(QUESTIONS, start=1)
        }
        mltrace.log_evaluation_metrics(
            {"accuracy": mean(words in answers[question] for question, words in QUESTIONS.items())}
        )
    for question, answer in answers.items():
        print(f"{question}\n  {answer}\n")

    report = mltrace.flush(timeout=120)
    if run.mlflow_run_id:
        show(run.mlflow_run_id)
    print(f"\n{report.delivered} records delivered.")
    if run.mlflow_run_id and not (report.pending or report.dropped or report.dead):
        return 0
    print(
        f"NOT delivered: {report.pending} pending, {report.dropped} dropped, {report.dead} refused by the server."
    )
    print(f"`{command('mltrace')} status` says why, and `{command('mltrace')} sync` sends what is pending.")
    return 1


def show(run_id: str) -> None:
    """Read a run and those below it from MLflow; print them as a tree, and how to open them in its UI."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    client = MlflowClient(uri)
    root = client.get_run(run_id)
    experiment, since = root.info.experiment_id, f"attributes.start_time >= {root.info.start_time}"
    children = defaultdict(list)
    for run in client.search_runs(
        [experiment], since, order_by=["attributes.start_time", "attributes.run_name"]
    ):
        children[run.data.tags.get("mlflow.parentRunId")].append(run)

    def grow(tree: Tree, parent: str) -> Tree:
        for child in children[parent]:
            grow(tree.add(describe(child)), child.info.run_id)
        return tree

    rich.print(grow(Tree(describe(root)), run_id))
    if uri.startswith("http"):
        print("\nOpen your tracking server in a browser, with this after its address:")
        print(f"  /#/experiments/{experiment}/runs/{run_id}")
    else:
        print(f"\nOpen it in MLflow's UI:\n  {command('mlflow')} ui --backend-store-uri {uri}")
        print(f"  http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run_id}")


def describe(run: Run) -> Text:
    """Return a run's name, status, duration and metrics as one line."""
    metrics = dict(run.data.metrics)
    duration = metrics.pop("latency_ms", 0)
    figures = ", ".join(f"{name} {value:.3g}" for name, value in sorted(metrics.items()))
    status = (run.info.status, "green" if run.info.status == "FINISHED" else "red")
    return Text.assemble((run.info.run_name, "bold"), " ", status, f" {duration:.1f} ms  ", (figures, "dim"))


def command(name: str) -> str:
    """Return the path, from here, of a command that is installed beside this interpreter."""
    return os.path.relpath(Path(sys.executable).with_name(name))


if __name__ == "__main__":
    sys.exit(main())
