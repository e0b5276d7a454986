"""
The rows of faults in their short form: nothing lost, nothing twice, nothing wrong. And mltrace with a
safeguard taken out, to which they have to object.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import disk, rows
from tests.faults.harness import Bench, Row
from tests.faults.mutants import MUTANTS
from tests.postgres import PostgresServer
from tests.server import MlflowServer


ROWS = {**rows.ROWS, **disk.ROWS}

CAUGHT_BY = {
    "no_fork_hook": ("F10", 6),
    "no_ambiguous_state": ("F4", 20),
    "no_reconciliation": ("F5", 30),
    "acknowledge_before_the_reply": ("F6", 20),
    "timestamp_at_send": ("F6", 10),
    "no_checksum": ("F13", 1),
    "redirects_followed": ("F7", 20),
    "nan_sent_raw": ("F6", 10),
}
"""Which row has to object to which mutant, and after how many faults."""


@pytest.fixture(name="directory")
def _directory(tmp_path: Path) -> Path:
    return tmp_path / "faults"


@pytest.fixture(name="bench")
def _bench(server: MlflowServer, directory: Path) -> Iterator[Bench]:
    bench = Bench(directory, server)
    yield bench
    bench.close()


@pytest.mark.parametrize("name", ROWS)
def test_row(bench: Bench, name: str) -> None:
    """After the faults of the row healed, the server holds what was promised, once, and the counts added up."""
    row_of, short, _ = ROWS[name]
    try:
        row = row_of(bench, short, lambda: None)
    except disk.NoDisk as reason:
        pytest.skip(str(reason))

    assert row.is_clean, row.explain() + "\n" + bench.stderr()


def test_replays_alone(bench: Bench) -> None:
    """Where every request was answered there is nothing to doubt; what lands twice is found all the same."""
    row = rows.through_chaos(bench, Row("F5", "replayed request"), ("replay",), 12, lambda: None)

    assert row.is_clean, row.explain() + "\n" + bench.stderr()


@pytest.mark.parametrize("name", ["F3", "F4", "F5", "F6"])
def test_row_over_postgresql(postgres: PostgresServer, directory: Path, name: str) -> None:
    """With PostgreSQL behind the server it is the same."""
    with MlflowServer(directory / "over", workers=1, store_uri=postgres.uri) as server:
        bench = Bench(directory, server)
        try:
            row = ROWS[name][0](bench, 1 if name == "F3" else 30, lambda: None)
        finally:
            bench.close()

    assert row.is_clean, row.explain() + "\n" + bench.stderr()


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant(server: MlflowServer, directory: Path, mutant: str) -> None:
    """Without one of its safeguards mltrace does not pass."""
    name, repetitions = CAUGHT_BY[mutant]
    bench = Bench(directory, server, mutant=mutant)
    try:
        row = ROWS[name][0](bench, repetitions, lambda: None)
    finally:
        bench.close()

    assert not row.is_clean
