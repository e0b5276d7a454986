"""
A pytest plugin for MLflow's own tests: wherever they would use a database of their own, they use the tracking
address in ``SUITE_ADDRESS``, whose server's database ``SUITE_DATABASE`` is emptied before each test.

Loaded with ``-p`` by `tests.run_mlflow_suite`, before the conftest of those tests.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import tempfile

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlflow.tracking._tracking_service import utils as tracking_service


ADDRESS, DATABASE = os.environ["SUITE_ADDRESS"], Path(os.environ["SUITE_DATABASE"])
KEPT = {"alembic_version", "sqlite_sequence", "workspaces"}

_use = tracking_service._use_tracking_uri


@contextlib.contextmanager
def use_address(uri: str) -> Iterator[None]:
    """Use the address under test where a test's own database is meant; anything else as it is."""
    if not uri.startswith("sqlite"):
        with _use(uri):
            yield
        return
    empty()
    with tempfile.TemporaryDirectory(prefix="suite-") as spool:
        os.environ["MLTRACE_SPOOL_DIR"] = spool
        forget()
        try:
            with _use(ADDRESS):
                yield
        finally:
            forget()


tracking_service._use_tracking_uri = use_address


def empty() -> None:
    """Have the server's database hold what a new one does."""
    with closing(sqlite3.connect(DATABASE, timeout=30)) as connection, connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        connection.execute("PRAGMA foreign_keys = OFF")
        for name in set(names) - KEPT - {"experiments"}:
            connection.execute(f'DELETE FROM "{name}"')
        connection.execute("DELETE FROM experiments WHERE experiment_id <> 0")
        connection.execute("UPDATE experiments SET lifecycle_stage = 'active', name = 'Default'")


def forget() -> None:
    """Have neither MLflow nor mltrace know anything of an earlier test's runs."""
    registry: Any = tracking_service._tracking_store_registry
    type(registry)._get_store_with_resolved_uri.cache_clear()
    tracking_service._artifact_repos_cache.clear()
    config = sys.modules.get("mltrace._config")
    if config is not None:
        config.shutdown(10.0)
        config.reset()
        sys.modules["mltrace.bridge.store"].stores.clear()


@pytest.fixture(autouse=True)
def _few_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
