"""
MLflow with its store in PostgreSQL, which enforces what SQLite only declares: what arrives, what the server
answers where the database refuses, and a database that dies while MLflow lives.
"""

from __future__ import annotations

import math

from collections.abc import Iterator
from pathlib import Path

import pytest

import mltrace

from mltrace.delivery import outbox, sender
from tests.postgres import NoPostgres, PostgresServer, find_binaries
from tests.server import MlflowServer
from tests.test_delivery import Target, dead_letters, delivered


LARGEST = 1.7976931348623157e308


@pytest.fixture(name="postgres", scope="module")
def _postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A real PostgreSQL, shared by the tests of this file; skip them where there is none to start."""
    if find_binaries() is None:
        pytest.skip(str(NoPostgres()))
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as postgres:
        yield postgres


@pytest.fixture(name="server", scope="module")
def _server(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server over it: each test uses experiments of its own."""
    directory = tmp_path_factory.mktemp("server")
    with MlflowServer(directory, workers=1, store_uri=postgres.uri) as server:
        yield server


@pytest.fixture(name="target")
def _target(server: MlflowServer, request: pytest.FixtureRequest) -> Target:
    """The server, and an experiment of this test's own."""
    return Target(server, str(request.node.nodeid.rpartition("::")[2]))


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have failed requests made again, and unclear creations looked up, sooner than a real network would allow."""
    monkeypatch.setattr(outbox, "_SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(sender, "BACKOFF_BASE", 0.02)


class TestTree:
    """What PostgreSQL holds when all is well."""

    def test_nested(self, target: Target, tmp_path: Path) -> None:
        """Names, params, tags, metrics, parents, statuses and artifacts of a tree are as they happened."""
        target.log_to()
        (tmp_path / "weights.bin").write_bytes(bytes(range(256)) * 1000)

        @mltrace.track_run("retrieve_{k}")
        def retrieve(question: str, k: int = 3) -> list[str]:
            raise LookupError("no index")

        with mltrace.track_run("answer", params={"top": 1}, tags={"env": "test"}) as run:
            for step in range(3):
                run.log_metric("loss", 1 / (step + 1), step=step)
            run.log_text("a note", "notes/first.txt")
            run.log_artifact(tmp_path / "weights.bin", "model")
            with pytest.raises(LookupError):
                retrieve("why?")
        report = delivered()
        runs = target.by_name()
        root = runs["answer"]
        stored = target.server.artifact_dir / root["experiment_id"] / root["id"] / "artifacts"

        assert 0 == report.dead
        assert {"answer": None, "retrieve_3": "answer"} == target.parents()
        assert ("FINISHED", "FAILED") == (root["status"], runs["retrieve_3"]["status"])
        assert ({"top": "1"}, "test") == (root["params"], root["tags"]["env"])
        assert {"question": "why?", "k": "3"} == runs["retrieve_3"]["params"]
        assert [(0, 1.0), (1, 0.5), (2, 1 / 3)] == [
            (point["step"], point["value"]) for point in target.server.metric_history(root["id"], "loss")
        ]
        assert "a note" == (stored / "notes/first.txt").read_text()
        assert (tmp_path / "weights.bin").read_bytes() == (stored / "model/weights.bin").read_bytes()

    def test_numbers(self, target: Target, postgres: PostgresServer) -> None:
        """Every float arrives to the last bit; NaN as such, the infinities as the largest numbers, as MLflow does it."""
        target.log_to()
        fine = {"max": LARGEST, "min": 5e-324, "third": 1 / 3, "large": 2.0**63, "minus": -LARGEST}
        with mltrace.track_run("numbers") as run:
            run.log_metrics({**fine, "nan": math.nan, "inf": math.inf, "-inf": -math.inf})
            run.log_metric("step", 1.0, step=(1 << 63) - 1)
        report = delivered()
        (found,) = target.runs()
        rows = postgres.rows("SELECT key, value, is_nan, step FROM metrics WHERE run_uuid = %s", found["id"])
        kept = {key: value for key, value, _, _ in rows}

        assert 0 == report.dead
        assert {**fine, "nan": 0.0, "inf": LARGEST, "-inf": -LARGEST, "step": 1.0} == {
            key: kept[key] for key in (*fine, "nan", "inf", "-inf", "step")
        }
        assert ["nan"] == [key for key, _, is_nan, _ in rows if is_nan]
        assert [(1 << 63) - 1] == [step for key, _, _, step in rows if key == "step"]

    def test_awkward_text(self, target: Target) -> None:
        """
        Texts in any script arrive; NUL and lone surrogates, which PostgreSQL refuses, arrive as U+FFFD, in
        names, values, keys and artifacts alike.
        """
        target.log_to()
        text = "日本語 \U0001f600 \"q\" 'q' \\ %s {x}\nline\ttab nul\0 half\ud83d \x7f"
        clean = text.replace("\0", "\ufffd").replace("\ud83d", "\ufffd" * 3)
        with mltrace.track_run(f"名 {text}") as run:
            run.log_param("clé\0 naïve \U0001f600", text)
            run.set_tag("étiquette\ud83d", text)
            run.log_text(text, "dossier/un fichier \U0001f600 #1.txt")
            run.log_metric("\U0001f600\0", 1.0)
        report = delivered()
        (found,) = target.runs()
        (path,) = target.server.artifacts(found["id"])

        assert (0, []) == (report.dead, dead_letters())
        assert f"名 {clean}" == found["name"]
        assert [clean] == list(found["params"].values())
        assert [clean] == [value for key, value in found["tags"].items() if key.startswith("étiquette")]
        assert [1.0] == [value for key, value in found["metrics"].items() if key != "latency_ms"]
        assert clean == target.server.artifact_text(found["id"], path)

    def test_widths(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Names, keys, values and users of the columns' width arrive as they are, in characters of four bytes
        too; longer ones in a form that fits, and nothing is refused.
        """
        monkeypatch.setenv("LOGNAME", "u" * 300)
        target.log_to()
        wide = "\U0001f600"
        with mltrace.track_run(wide * 251, tags={"k" * 251: "at the start"}) as run:
            run.log_params({"p": wide * 6000, "q": "v" * 6001, "k" * 250: "1", "k" * 251: "2"})
            run.set_tags({"t": wide * 8000, "u": "w" * 8001, "名" * 250: "1", "名" * 251: "2"})
            run.log_metrics({"m" * 250: 1.0, "m" * 251: 2.0})
        report = delivered()
        (found,) = target.runs()

        assert (0, []) == (report.dead, dead_letters())
        assert (wide * 250, "u" * 300) == (found["name"], found["tags"]["mlflow.user"])
        assert (wide * 6000, wide * 8000) == (found["params"]["p"], found["tags"]["t"])
        assert ("1", "1", 1.0) == (
            found["params"]["k" * 250],
            found["tags"]["名" * 250],
            found["metrics"]["m" * 250],
        )
        assert (4, True) == (len(found["params"]), "at the start" in found["tags"].values())
        assert {"params/q.txt": "v" * 6001, "tags/u.txt": "w" * 8001} == {
            path: target.server.artifact_text(found["id"], path)
            for path in target.server.artifacts(found["id"])
        }
