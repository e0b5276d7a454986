"""The rows of faults in their short form: nothing lost, nothing twice, nothing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Bench
from tests.faults.rows import ROWS
from tests.server import MlflowServer


@pytest.fixture(name="bench")
def _bench(server: MlflowServer, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "faults", server)
    yield bench
    bench.close()


@pytest.mark.parametrize("name", ROWS)
def test_row(bench: Bench, name: str) -> None:
    """After the faults of the row healed, the server holds what was promised, once, and the counts added up."""
    row_of, short, _ = ROWS[name]
    row = row_of(bench, short, lambda: None)

    assert row.is_clean, row.explain() + "\n" + bench.stderr()
