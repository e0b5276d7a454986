"""
The pytest plugin: the fixture ``mltrace_recorder``, and differences of run trees that can be read.

It is a module of its own, beside the package, because pytest imports every plugin at its start:
nothing of mltrace is imported before a test asks for the fixture.
"""

from __future__ import annotations

import sys

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from mltrace.testing import Recorder


@pytest.fixture(name="mltrace_recorder")
def _mltrace_recorder() -> Iterator[Recorder]:
    """
    Record into memory for the length of the test; see `mltrace.testing.record`.

    Hypothesis runs a property many times in one fixture: there, use ``with record() as recorder:``.
    """
    from mltrace.testing import record

    with record() as recorder:
        yield recorder


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say how two run trees differ."""
    testing = sys.modules.get("mltrace.testing")
    return testing.explain(op, left, right) if testing is not None else None
