"""What every test starts from: no configuration, no environment of the developer's, a spool of its own; and one real server for all who need it."""

from __future__ import annotations

import gc
import os

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypothesis import settings

from mltrace import _config, _guard
from mltrace.backends.memory import MemoryBackend
from mltrace.testing._recorder import RecordingBackend
from tests.postgres import NoPostgres, PostgresServer, find_binaries
from tests.server import MlflowServer


# A busy machine is no reason for an example to fail.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the database behind the shared server."""
    parser.addoption(
        "--store",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="where the MLflow server that the tests share keeps its data (default: sqlite)",
    )


@pytest.fixture(scope="module", autouse=True)
def _young_heap() -> Iterator[None]:
    """
    Have full collections, which properties ask for at every example, look at the module's own objects: a process
    that has imported MLflow and its kin has a million others.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _isolation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give each test its own spool, home and working directory, and stop whatever it started."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "MLTRACE_")) or name == "DISABLE_MLFLOW_TRACKING":
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MLTRACE_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.chdir(tmp_path)
    _config.reset()
    yield
    _config.reset()


@pytest.fixture(name="memory")
def _memory() -> MemoryBackend:
    """Record into memory, strictly: an internal error of mltrace, or a record that MLflow would refuse, fails the test."""
    backend = RecordingBackend()
    _config.configure(backend=backend, strict=True)
    return backend


@pytest.fixture(name="postgres", scope="session")
def _postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A real PostgreSQL, shared; what asks for it is skipped where there is none to start."""
    if find_binaries() is None:
        pytest.skip(str(NoPostgres()))
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as postgres:
        yield postgres


@pytest.fixture(name="server", scope="session")
def _server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """A real MLflow server, shared: each test uses experiments of its own."""
    over_postgres = request.config.getoption("store") == "postgresql"
    store_uri = request.getfixturevalue("postgres").uri if over_postgres else None
    with MlflowServer(tmp_path_factory.mktemp("server"), workers=1, store_uri=store_uri) as server:
        yield server


@pytest.fixture(name="said")
def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages that mltrace has logged so far."""

    class Said(list[str]):
        def __iter__(self) -> Iterator[str]:  # read anew each time
            return iter([record.getMessage() for record in caplog.records if record.name == "mltrace"])

        def __len__(self) -> int:
            return len(list(iter(self)))

        def __contains__(self, text: object) -> bool:
            return any(str(text) in message for message in self)

        def __repr__(self) -> str:
            return repr(list(self))

    _guard.reset()
    return Said()
