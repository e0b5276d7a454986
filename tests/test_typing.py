"""Type checkers see decorated functions as they see undecorated ones, and refuse wrong options."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "typing"


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_mypy_accepts_the_cases() -> None:
    """Each `assert_type` holds, and each expected error is one: `mypy --strict` warns of comments that ignore nothing."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    done = run(
        "mypy", "--strict", "--config-file=", "--python-version=3.10", *map(str, sorted(CASES.glob("*.py")))
    )
    assert (0, "") == (done.returncode, done.stdout.replace(success(done.stdout), "").strip() + done.stderr)


def success(said: str) -> str:
    """Return mypy's line for no error."""
    found = re.search(r"Success: .*", said)
    return found[0] if found else "\0"


def test_pyright_accepts_the_cases() -> None:
    """The same for pyright, which refuses unnecessary comments too."""
    pytest.importorskip("pyright", reason="pyright is not installed")
    if not pyright_starts():
        pytest.skip("pyright could not fetch what it runs on: its package holds only the way to it")
    done = run("pyright", "--project", str(CASES), "--outputjson", "--pythonpath", sys.executable)
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert [] == [
        f"{Path(one['file']).name}:{one['range']['start']['line'] + 1}: {one['message']}" for one in found
    ]


def pyright_starts() -> bool:
    """Tell whether pyright runs: it needs Node and an npm package, which it fetches when it is first asked."""
    try:
        return run("pyright", "--version").returncode == 0
    except subprocess.TimeoutExpired:  # of a network that does not answer
        return False


def test_the_cases_expect_errors_and_types() -> None:
    """The files that are checked say something, so that an empty check does not pass."""
    text = "".join(file.read_text(encoding="utf-8") for file in CASES.glob("*.py"))
    assert (True, True) == (text.count("assert_type(") > 40, text.count("# type: ignore[") > 25)
