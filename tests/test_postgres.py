"""
MLflow with its store in PostgreSQL, which enforces what SQLite only declares: what arrives, what the server
answers where the database refuses, and a database that dies while MLflow lives.
"""

from __future__ import annotations

import itertools
import math
import threading

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mltrace

from mltrace._clock import new_id, now_ms
from mltrace._records import Metric
from mltrace.delivery import breaker, courier
from mltrace.delivery.destination import Doubtful, Uncertain
from mltrace.delivery.rest import RestDestination
from tests import postgres as postgres_server
from tests.harness import CUT, LOST, Proxy, ended, logged, python, run_python, started, until
from tests.postgres import NoPostgres, PostgresServer, find_binaries
from tests.server import MlflowServer
from tests.test_delivery import Target, dead_letters, delivered


LARGEST = 1.7976931348623157e308


@pytest.fixture(name="server", scope="module")
def _server(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server over it: each test uses experiments of its own."""
    directory = tmp_path_factory.mktemp("server")
    with MlflowServer(directory, workers=1, store_uri=postgres.uri) as server:
        yield server


@pytest.fixture(name="target")
def _target(server: MlflowServer, request: pytest.FixtureRequest) -> Target:
    """The server, and an experiment of this test's own, also where other files use the same database."""
    return Target(server, f"{request.node.nodeid.rpartition('::')[2]} over PostgreSQL")


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have failed requests made again, and unclear creations looked up, sooner than a real network would allow."""
    monkeypatch.setattr(courier, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(breaker, "BACKOFF_BASE", 0.02)


class TestBinaries:
    """Which server is started."""

    @pytest.fixture(name="install")
    def _install(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
        """A system without PostgreSQL, and a function that puts programs into a place of it."""

        def install(place: str, *programs: str) -> Path:
            (tmp_path / place).mkdir(parents=True)
            for program in programs:
                (tmp_path / place / program).touch(0o755)
            return tmp_path / place

        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setattr(postgres_server, "DEBIAN", tmp_path / "debian")
        return install

    def test_on_path(self, install: Callable[..., Path]) -> None:
        """What is on PATH comes before what Debian has put elsewhere."""
        install("debian/15/bin", "initdb", "postgres")
        here = install("bin", "initdb", "postgres")

        assert here == find_binaries()

    def test_newest(self, install: Callable[..., Path]) -> None:
        """Of Debian's the newest that is whole is taken: 15 is newer than 9.6."""
        install("debian/9.6/bin", "initdb", "postgres")
        newest = install("debian/15/bin", "initdb", "postgres")
        install("debian/16/bin", "initdb")

        assert newest == find_binaries()

    @pytest.mark.usefixtures("install")
    def test_none(self, tmp_path: Path) -> None:
        """Where there is none, the error says what to install."""
        assert find_binaries() is None
        with pytest.raises(NoPostgres, match="on Debian, the package postgresql"):
            PostgresServer(tmp_path)


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


class TestRefusals:
    """What the server answers where the database refuses, and what that costs."""

    @pytest.mark.parametrize(
        ("name", "tags"),
        [("n" * 251, {}), ("key", {"k" * 251: "v"}), ("value", {"k": "v" * 8001})],
        ids=["name", "key", "value"],
    )
    def test_too_long(self, target: Target, name: str, tags: dict[str, str]) -> None:
        """A run with a text beyond its column gets 400 BAD_REQUEST, an answer that may pass, and does not exist."""
        destination = RestDestination(target.url)
        experiment = destination.experiment(target.experiment)
        with pytest.raises(Doubtful, match=r"^BAD_REQUEST: .*value too long for type character varying"):
            destination.create_run(experiment, name, now_ms(), tags)
        destination.close()

        assert [] == target.runs("ALL")

    @pytest.mark.parametrize(
        ("name", "tags"), [("nul\0", {}), ("value", {"k": "nul\0"})], ids=["name", "value"]
    )
    def test_nul(self, target: Target, name: str, tags: dict[str, str]) -> None:
        """A run with NUL gets 400 BAD_REQUEST from psycopg, 500 INTERNAL_ERROR from psycopg2, and does not exist."""
        destination = RestDestination(target.url)
        experiment = destination.experiment(target.experiment)
        with pytest.raises(
            (Doubtful, Uncertain), match=r"(BAD_REQUEST|INTERNAL_ERROR): .*cannot contain NUL"
        ):
            destination.create_run(experiment, name, now_ms(), tags)
        destination.close()

        assert [] == target.runs("ALL")

    def test_one_of_many(self, target: Target) -> None:
        """
        Records that only PostgreSQL refuses go to the dead letters alone: the rest of their batch, and other
        runs, arrive.
        """
        backend = target.log_to()
        bad, refused = new_id(), new_id()
        backend.emit(started(bad, "bad", target.experiment))
        backend.emit(
            logged(
                bad,
                params={"good": "1", "nul": "a\0b"},
                tags={"good": "1", "nul": "a\0b"},
                metrics=(Metric("good", 1.0, 1), Metric("nan", "NaN", 1)),
            )
        )
        backend.emit(ended(bad))
        backend.emit(started(refused, "r" * 251, target.experiment))
        backend.emit(ended(refused))
        others = itertools.count()

        def another() -> bool:
            with mltrace.track_run(f"fine {next(others)}") as run:
                run.log_param("p", 1)
            assert run.wait(10), mltrace.status()
            return len(dead_letters()) == 4

        until(another)
        delivered()
        runs = target.by_name()
        letters = dead_letters()

        assert {"bad", *(f"fine {number}" for number in range(next(others)))} == runs.keys()
        assert {"FINISHED"} == {run["status"] for run in runs.values()}
        assert ({"good": "1"}, {"good", "nan"}) == (runs["bad"]["params"], runs["bad"]["metrics"].keys())
        assert ["1"] == [value for key, value in runs["bad"]["tags"].items() if key in ("good", "nul")]
        assert ["param 'nul'", "tag 'nul'"] == [
            letter["what"] for letter in letters if letter["run"] != refused
        ]
        assert 2 == sum(letter["run"] == refused for letter in letters)

    def test_experiment(self, target: Target) -> None:
        """An experiment's name that PostgreSQL would refuse is shortened or cleaned, and its runs arrive."""
        names = ["n" * 256, "n" * 257, "n" * 600, "nul\0", "half\ud83d"]
        target.log_to(experiment_name=names[0])
        with mltrace.track_run("configured"):
            pass
        for name in names[1:]:
            with mltrace.track_run("run", experiment_name=name):
                pass
        report = delivered()
        found = sorted(
            name for name in target.server.experiments() if name.startswith(("nnn", "nul", "half"))
        )

        assert (0, []) == (report.dead, dead_letters())
        assert [256] * 3 == [len(name) for name in found if name.startswith("nnn")]
        assert {"n" * 256, "nul\ufffd", "half" + "\ufffd" * 3} < set(found)
        assert [1] * 5 == [len(target.server.runs(name)) for name in found]


class TestRepetition:
    """Requests that are made again, and at once."""

    def test_replay(self, target: Target, postgres: PostgresServer) -> None:
        """A batch that is logged again, every kind of number in it, changes nothing."""
        destination = RestDestination(target.url)
        run = destination.create_run(destination.experiment(target.experiment), "run", now_ms(), {})
        numbers = [0.0, -0.0, 1 / 3, 5e-324, LARGEST, "NaN", "Infinity", "-Infinity"]
        points = [Metric("m", number, 1, step) for step, number in enumerate(numbers)]
        tables = {name: f"SELECT * FROM {name} WHERE run_uuid = %s" for name in ("metrics", "params", "tags")}
        seen = []
        for _ in range(3):
            destination.log_batch(run.run_id, points, {"p": "v" * 6000, "empty": ""}, {"t": "\U0001f600"})
            seen.append(
                {name: sorted(map(repr, postgres.rows(sql, run.run_id))) for name, sql in tables.items()}
            )
        destination.close()

        assert [len(numbers), 2, 2] == [len(rows) for rows in seen[0].values()]
        assert seen[0] == seen[1] == seen[2]

    @pytest.mark.parametrize("fault", [LOST, CUT])
    def test_lost_answers(self, server: MlflowServer, target: Target, fault: str) -> None:
        """
        Where the answer to each kind of request is lost once, applied or not, there is one run with
        everything in it once.
        """
        with Proxy(server.port) as proxy:
            for path in ("get-by-name", "experiments/create", "runs/create", "runs/log-batch", "runs/update"):
                proxy.fail(path, fault, times=1)
            target.log_to(proxy.url)
            with mltrace.track_run("run") as run:
                run.log_metrics({"m": 1.0, "nan": math.nan})
                run.log_metric("m", 2.0, step=1)
                run.log_param("p", 1)
            report = delivered()
        (found,) = target.runs("ALL")

        assert 0 == report.dead
        assert [1.0, 2.0] == [point["value"] for point in server.metric_history(found["id"], "m")]
        assert ("FINISHED", {"p": "1"}) == (found["status"], found["params"])

    def test_experiment_by_several(self, target: Target) -> None:
        """An experiment that several clients create at the same moment exists once, and all get its id."""
        clients, rounds = 8, 5
        together = threading.Barrier(clients)

        def ask(client: int) -> list[str]:
            found = []
            for number in range(rounds):
                destination = RestDestination(target.url)
                together.wait(10)
                found.append(destination.experiment(f"{target.experiment} {number}"))
                destination.close()
            return found

        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(ask, range(clients)))
        known = target.server.experiments()

        assert [[known[f"{target.experiment} {number}"] for number in range(rounds)]] * clients == answers


class TestDeath:
    """A database that goes away while MLflow lives."""

    @pytest.mark.parametrize("way", ["killed", "stopped", "a process of it killed"])
    def test_in_the_middle(self, target: Target, postgres: PostgresServer, way: str) -> None:
        """
        A database that goes away in the middle of a delivery and comes back holds every run once, complete,
        whatever its clients were at.
        """
        target.log_to()
        runs, points = 60, 5
        begun = threading.Event()

        def work() -> None:
            for number in range(runs):
                with mltrace.track_run(f"run {number}", params={"number": number}) as run:
                    for step in range(points):
                        run.log_metric("m", number + step / points, step=step)
                if number == 10:
                    begun.set()

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(work)
            assert begun.wait(20)
            until(lambda: mltrace.status().delivered > 5)
            if way == "a process of it killed":
                postgres.crash()
            else:
                postgres.kill() if way == "killed" else postgres.stop()
                postgres.start()
            done.result(20)
        report = delivered()
        found = target.by_name()

        assert (0, []) == (report.dead, dead_letters())
        assert {f"run {number}": ("FINISHED", {"number": str(number)}) for number in range(runs)} == {
            name: (run["status"], run["params"]) for name, run in found.items()
        }
        assert [number + step / points for number in range(runs) for step in range(points)] == sorted(
            value
            for (value,) in postgres.rows(
                "SELECT value FROM metrics JOIN runs USING (run_uuid) JOIN experiments USING (experiment_id)"
                " WHERE key = 'm' AND experiments.name = %s",
                target.experiment,
            )
        )

    def test_away(self, target: Target, postgres: PostgresServer) -> None:
        """While it is away nothing is lost and the status says why; it has everything soon after it is back."""
        target.log_to()
        postgres.kill()
        try:
            for number in range(8):
                with mltrace.track_run(f"run {number}") as run:
                    run.log_metric("m", number)
            until(lambda: mltrace.status().state == "unreachable")
            status = mltrace.status()
        finally:
            postgres.start()
        report = delivered()

        assert "TEMPORARILY_UNAVAILABLE" in str(status.last_error)
        assert (0, []) == (report.dead, dead_letters())
        assert {f"run {number}": float(number) for number in range(8)} == {
            name: run["metrics"]["m"] for name, run in target.by_name().items()
        }

    def test_read_only(self, target: Target, postgres: PostgresServer) -> None:
        """
        A database that takes no writes for a while, as after a failover, is answered for with 400
        BAD_REQUEST; that is no reason to give anything up.
        """
        target.log_to()
        with mltrace.track_run("before"):
            pass
        delivered()
        postgres.read_only(True)
        try:
            for number in range(8):
                with mltrace.track_run(f"run {number}"):
                    pass
            until(lambda: "BAD_REQUEST" in str(mltrace.status().last_error))
            assert mltrace.flush(1).pending > 0
        finally:
            postgres.read_only(False)
        report = delivered()

        assert (0, []) == (report.dead, dead_letters())
        assert {"before", *(f"run {number}" for number in range(8))} == target.by_name().keys()


class TestDirect:
    """PostgreSQL without a server before it: each in a process of its own, as MLflow's client lives there."""

    def test_tree(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """A tree arrives once, numbers and texts that PostgreSQL has not included, artifacts in `mlruns`."""
        done = run_python(
            """
            import math, sys
            import mltrace

            mltrace.configure(tracking_uri=sys.argv[1], experiment_name="direct tree\\0")
            with mltrace.track_run("outer \\U0001f600" + "n" * 300, params={"k": 5}) as run:
                run.log_metric("loss", 2.0, step=0)
                run.log_metric("loss", 1.0, step=1)
                run.log_metrics({"nan": math.nan, "inf": math.inf, "max": 1.7976931348623157e308})
                run.log_param("p", "v" * 6000)
                run.set_tag("t", "\\U0001f600" * 8000)
                run.set_tag("nul\\0", "nul\\0 half\\ud83d")
                run.log_text("a note", "notes/first.txt")
                with mltrace.track_run("inner"):
                    pass
            report = mltrace.flush(60)
            assert (report.pending, report.dead) == (0, 0), mltrace.status()
            print(run.mlflow_run_id)
            """,
            postgres.uri,
        )
        outer = done.stdout.strip()
        ((name, experiment, status),) = postgres.rows(
            "SELECT runs.name, experiments.name, status FROM runs JOIN experiments USING (experiment_id)"
            " WHERE run_uuid = %s",
            outer,
        )
        points = postgres.rows(
            "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = %s AND key != 'latency_ms'"
            " ORDER BY key, step",
            outer,
        )
        tags = dict(postgres.rows("SELECT key, value FROM tags WHERE run_uuid = %s", outer))
        children = postgres.rows(
            "SELECT name FROM runs JOIN tags USING (run_uuid) WHERE key = 'mlflow.parentRunId' AND value = %s",
            outer,
        )

        assert ("outer \U0001f600" + "n" * 243, "direct tree\ufffd", "FINISHED") == (name, experiment, status)
        assert [
            ("inf", 0, LARGEST, False),
            ("loss", 0, 2.0, False),
            ("loss", 1, 1.0, False),
            ("max", 0, LARGEST, False),
            ("nan", 0, 0.0, True),
        ] == points
        assert {"k": "5", "p": "v" * 6000} == dict(
            postgres.rows("SELECT key, value FROM params WHERE run_uuid = %s", outer)
        )
        assert "\U0001f600" * 8000 == tags["t"]
        assert ["nul\ufffd half\ufffd\ufffd\ufffd"] == [
            value for key, value in tags.items() if key.startswith("nul")
        ]
        assert [("inner",)] == children
        assert ["a note"] == [path.read_text() for path in (tmp_path / "mlruns").rglob("notes/first.txt")]

    def test_away(self, postgres: PostgresServer) -> None:
        """
        A database that is away when the program starts, and goes away in the middle, is said to be away at
        once; afterwards every run is there once.
        """
        script = """
            import sys
            import mltrace

            mltrace.configure(tracking_uri=sys.argv[1], experiment_name="direct away")

            def work(first):
                for number in range(first, first + 20):
                    with mltrace.track_run(f"run {number}") as run:
                        run.log_metric("m", number)

            work(0)
            while mltrace.status().state != "unreachable":
                mltrace.flush(0.1)
            print(mltrace.status().last_error, flush=True)
            input()
            assert mltrace.flush(60).pending == 0, mltrace.status()
            work(20)
            print("going on", flush=True)
            input()
            work(40)
            report = mltrace.flush(60)
            assert (report.pending, report.dead) == (0, 0), mltrace.status()
            print("done")
        """
        postgres.kill()
        try:
            with python(script, postgres.uri) as program:
                assert program.stdin is not None
                assert program.stdout is not None
                said = [program.stdout.readline()]
                postgres.start()
                program.stdin.write("\n")
                program.stdin.flush()
                said.append(program.stdout.readline())
                postgres.kill()
                postgres.start()
                out, err = program.communicate("\n", timeout=60)
        finally:
            if postgres.pid is None:
                postgres.start()
        found = postgres.rows(
            "SELECT runs.name, status, value FROM runs JOIN metrics USING (run_uuid)"
            " JOIN experiments USING (experiment_id) WHERE key = 'm' AND experiments.name = 'direct away'"
        )

        assert "cannot be opened" in said[0]
        assert "Connection refused" in said[0]
        assert ["going on\n", "done\n"] == [said[1], out], err
        assert sorted((f"run {number}", "FINISHED", float(number)) for number in range(60)) == sorted(found)
        assert "mltrace failed" not in err

    def test_fork(self, postgres: PostgresServer) -> None:
        """A forked child opens connections of its own: parent and child log at once, and both arrive."""
        run_python(
            """
            import os, sys
            import mltrace

            mltrace.configure(tracking_uri=sys.argv[1], experiment_name="direct fork")

            def work(name):
                for number in range(10):
                    with mltrace.track_run(f"{name} {number}"):
                        pass
                return mltrace.flush(60).pending

            assert work("before") == 0
            if (pid := os.fork()) == 0:
                os._exit(work("child"))
            assert work("parent") == 0
            assert os.waitpid(pid, 0)[1] == 0
            """,
            postgres.uri,
        )
        found = postgres.rows(
            "SELECT runs.name FROM runs JOIN experiments USING (experiment_id)"
            " WHERE experiments.name = 'direct fork' AND status = 'FINISHED'"
        )

        assert sorted(
            (f"{name} {number}",) for name in ("before", "child", "parent") for number in range(10)
        ) == sorted(found)

    def test_refused_experiment(self, postgres: PostgresServer) -> None:
        """A name that the store refuses for an experiment is refused for good, and says what was wrong with it."""
        run_python(
            """
            import sys
            from mltrace.delivery.destination import Doubtful, Rejected
            from mltrace.delivery.sdk import SdkDestination

            destination = SdkDestination(sys.argv[1])
            for name, refusal, words in (
                ("n" * 501, Rejected, "maximum length of 500"),
                ("n" * 257, Doubtful, "value too long for type character varying(256)"),
            ):
                try:
                    destination.experiment(name)
                except refusal as error:
                    assert words in str(error), error
                else:
                    raise AssertionError(name)
            """,
            postgres.uri,
        )
