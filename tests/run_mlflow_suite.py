"""
Run MLflow's own tests of its fluent API and of scikit-learn autologging against a server, once through MLflow's
own store and once through the bridge, and compare:

    python tests/run_mlflow_suite.py CHECKOUT

*CHECKOUT* is a directory with MLflow's ``tests``, of about the version that is installed; its sources are
not used. Needs ``pytest-timeout`` and ``matplotlib``. Exits 0 where at least 95 % of the tests that pass with MLflow's own store pass through the bridge.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

from pathlib import Path


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.server import MlflowServer  # noqa: E402 # found by the line above


LEAST = 0.95
FILES = (
    "tests/tracking/fluent/test_fluent.py",
    "tests/sklearn/test_sklearn_autolog.py",
    "tests/sklearn/test_sklearn_autolog_without_matplotlib.py",
)

CANNOT: dict[str, str] = {}
"""Tests that cannot pass through the bridge, by name, and why: none is known."""


def run(checkout: Path, address: str, database: Path, report: Path, extra: list[str]) -> dict[str, str]:
    """Run the tests against *address*; return the outcome of each."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MLTRACE_"))},
        "PYTHONPATH": os.pathsep.join([str(HERE / "mlflow_suite"), str(checkout)]),
        "SUITE_ADDRESS": address,
        "SUITE_DATABASE": str(database),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MPLBACKEND": "agg",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mlflow_suite_plugin", "-p", "no:cacheprovider",
               "-p", "no:xdist", "-p", "no:hypothesispytest", "--timeout=120", f"--junitxml={report}", "--tb=short", *FILES, *extra]  # fmt: skip
    subprocess.run(command, cwd=checkout, env=environment, check=False)
    return {
        f"{case.get('classname')}::{case.get('name')}": outcome(case)
        for case in ElementTree.parse(report).iter("testcase")  # pytest has just written it
    }


def outcome(case: ElementTree.Element) -> str:
    """Return what became of one test."""
    kinds = [child.tag for child in case]
    return next((kind for kind in ("failure", "error", "skipped") if kind in kinds), "passed")


def main() -> None:
    """Run both, and say what differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("rest", nargs="*", help="more options for pytest, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="suite-server-") as folder:
        where = Path(folder)
        with MlflowServer(where / "server", workers=1) as server:
            database = where / "server" / "mlflow.db"
            plain, bridged = (
                run(
                    options.checkout.resolve(),
                    prefix + server.url,
                    database,
                    where / "report.xml",
                    options.rest,
                )
                for prefix in ("", "mltrace+")
            )
    expected = [name for name, found in plain.items() if found == "passed"]
    failed = [name for name in expected if bridged.get(name) != "passed"]
    print(f"\n{len(plain)} tests, {len(expected)} pass with MLflow's own store;", end=" ")
    print(f"{len(expected) - len(failed)} of those pass through the bridge")
    for name in failed:
        print(f"  {name}: {CANNOT.get(name.rpartition('::')[2].partition('[')[0], 'not explained')}")
    sys.exit(0 if len(failed) <= (1 - LEAST) * len(expected) else 1)


if __name__ == "__main__":
    main()
