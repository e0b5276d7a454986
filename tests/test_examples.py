"""
What the documentation shows is what happens: the README, the examples, and the docstrings are run.
"""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys

from pathlib import Path

import pytest

import mltrace

from mltrace.backends.memory import MemoryBackend


ROOT = Path(__file__).parents[1]
pytest_plugins = ["pytester"]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore::UserWarning:mlflow")  # of its own class, when a model is saved
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme(number: int, request: pytest.FixtureRequest) -> None:
    """Each block of Python in the README runs as it stands; one with tests passes under pytest."""
    if "def test_" in BLOCKS[number]:
        # Only here: it forgets the modules that are imported meanwhile, and numpy cannot be imported twice.
        pytester = request.getfixturevalue("pytester")
        pytester.makepyfile(test_readme=BLOCKS[number])
        pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=3)
        return
    mltrace.configure(backend="memory", strict=True)

    exec(compile(BLOCKS[number], f"README.md, block {number + 1}", "exec"), {"__name__": "readme"})


def test_readme_first_block_records_what_it_shows() -> None:
    """The README's first example makes a parent with the two runs that its comments promise."""
    backend = MemoryBackend()
    mltrace.configure(backend=backend, strict=True)
    exec(compile(BLOCKS[0], "README.md", "exec"), {"__name__": "readme"})
    (root,) = backend.roots

    assert ["nightly", "ingest_pinhole.txt", "answer"] == [run.name for _, run in root.walk()]
    assert 5.0 == root.children[0].metrics["chunks_created"]


@pytest.mark.parametrize(
    "name",
    [
        module.name
        for module in pkgutil.walk_packages(mltrace.__path__, "mltrace.")
        if "sdk" not in module.name and "bridge" not in module.name  # which import mlflow
    ],
)
def test_docstrings(name: str) -> None:
    """The examples in docstrings give what they show."""
    if name == "mltrace.__main__":
        pytest.skip("runs the command line")
    results = doctest.testmod(importlib.import_module(name))

    assert 0 == results.failed


def test_package_docstring() -> None:
    """The package's own example gives what it shows."""
    results = doctest.testmod(mltrace)

    assert (0, True) == (results.failed, results.attempted > 3)


@pytest.mark.parametrize("uri", ["sqlite", "server"])
def test_quickstart(tmp_path: Path, uri: str, request: pytest.FixtureRequest) -> None:
    """
    The quickstart delivers every record, prints its runs as MLflow has them, and says how to open
    them.
    """
    environment = dict(os.environ)
    if uri == "server":
        environment["MLFLOW_TRACKING_URI"] = request.getfixturevalue("server").url
        environment["MLFLOW_EXPERIMENT_NAME"] = "quickstart"
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py")]
    # Warnings are not errors there: MLflow's import of its SQL store warns.
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    assert 0 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert 8 == sum("ingest_" in line and "FINISHED" in line for line in lines)
    assert 5 == sum("generate_answer FINISHED" in line for line in lines)
    assert any(line.startswith("quickstart FINISHED") and "accuracy 1" in line for line in lines)
    assert "records delivered" in done.stdout
    assert ("mlflow ui --backend-store-uri" in done.stdout) == (uri == "sqlite")
    assert (tmp_path / "mlflow.db").exists() == (uri == "sqlite")


def test_contracts(tmp_path: Path) -> None:
    """The example of a program's own tests passes, where nothing but the extra for tests is installed."""
    without = "import sys; sys.modules['mlflow'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        without,
        str(ROOT / "examples" / "test_contracts.py"),
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--rootdir", str(tmp_path), "-c", os.devnull]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert 0 == done.returncode, done.stdout
    assert "8 passed" in done.stdout


@pytest.mark.parametrize("uri", ["sqlite", "server"])
def test_feedback(tmp_path: Path, uri: str, request: pytest.FixtureRequest) -> None:
    """The example of feedback counts each thing said once, decides, trains on it, and then has nothing left to train on."""
    environment = dict(os.environ)
    if uri == "server":
        environment["MLFLOW_TRACKING_URI"] = request.getfixturevalue("server").url
    command = [sys.executable, str(ROOT / "examples" / "feedback.py")]
    # Warnings are not errors there: MLflow's import of its SQL store warns.
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    assert 0 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert "imported: 4 and again: 0" == lines[0]
    assert lines[1].startswith("8 ratings, mean 2.25, 5 negative; from ")
    assert lines[2].startswith("retrain: the mean rating is 2.25, at most 3 is the limit; 62% of the ratings")
    assert 5 == sum(line.endswith(" 1.0") for line in lines)
    assert any(
        line.startswith("do not retrain: at least 5 ratings are needed (0 ratings since") for line in lines
    )
    assert "all is well" == lines[-1]
