"""MLflow's own tests through the bridge; takes three quarters of an hour and a checkout of MLflow, and is skipped without one."""

from __future__ import annotations

import os
import subprocess
import sys

from pathlib import Path

import pytest


CHECKOUT = os.environ.get("MLTRACE_TEST_MLFLOW_CHECKOUT", "")


@pytest.mark.skipif(not CHECKOUT, reason="MLTRACE_TEST_MLFLOW_CHECKOUT names no checkout of MLflow")
def test_mlflows_own_tests_pass_through_the_bridge() -> None:
    """At least 95 % of the tests of MLflow that pass with its own store pass through the bridge."""
    script = Path(__file__).with_name("run_mlflow_suite.py")
    assert 0 == subprocess.run([sys.executable, script, CHECKOUT], check=False).returncode
