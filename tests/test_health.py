"""`HealthChecker`: what a program learns of tracking, which is what `mltrace doctor` says."""

from __future__ import annotations

import json

import pytest

import mltrace

from mltrace.feedback import HealthChecker
from tests.server import MlflowServer
from tests.test_cli import mltrace_command
from tests.test_feedback import delivered, log_to


def test_well(server: MlflowServer) -> None:
    """With a server that answers and nothing left, all is well; an experiment is looked for, and not made."""
    log_to(server.url, "health")
    before = HealthChecker().check_health()
    mltrace.log_prediction(question="q", answer="a")
    delivered()
    health = HealthChecker().check_health()

    assert (True, True, True, False) == (
        before.healthy,
        before.enabled,
        before.reachable,
        before.experiment_exists,
    )
    assert (True, 0, 0, 0, "all is well") == (
        health.experiment_exists,
        health.pending,
        health.dropped,
        health.dead,
        health.says,
    )
    assert health
    assert not HealthChecker("nowhere").check_health().experiment_exists


def test_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server it says so, counts what is pending, and finds what `mltrace doctor` finds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    mltrace.log_prediction(question="q", answer="a")
    mltrace.shutdown(0)
    health = HealthChecker().check_health()

    assert (False, False, None, True) == (
        health.healthy,
        health.reachable,
        health.experiment_exists,
        health.pending > 0,
    )
    assert "http://127.0.0.1:9 cannot be reached" in health.says
    doctor = json.loads(mltrace_command("doctor", "--json", code=1).stdout)
    assert [found["what"] for found in doctor] == [found.what for found in health.findings]


def test_off(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off is not well, and said."""
    monkeypatch.setenv("MLTRACE_ENABLED", "0")
    log_to(server.url, "health")
    health = HealthChecker().check_health()

    assert (False, False, True) == (health.healthy, health.enabled, health.reachable)
    assert health.says.startswith("enabled: no:")
