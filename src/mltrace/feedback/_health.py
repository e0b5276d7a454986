"""
`HealthChecker`: what ``mltrace doctor`` finds, for a program that asks.
"""

from __future__ import annotations

from typing import Union

import msgspec

from .._binding import Options
from .._config import is_enabled, resolve
from .._diagnosis import Finding, diagnose
from .._spool import DestinationDirectory
from .._survey import report
from ..delivery.destination import DeliveryError
from ..delivery.reading import open_reader


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """
    How tracking is, true in a condition where nothing needs a person.

    *reachable* is whether the destination answers and takes these credentials; *experiment_exists* None
    where that could not be asked. *pending*, *dropped* and *dead* count records of all processes for the
    configured destination. *findings* are those of ``mltrace doctor``; *says* is what is not well, or
    that all is.
    """

    healthy: bool
    enabled: bool
    reachable: bool
    experiment_exists: Union[bool, None]
    pending: int
    dropped: int
    dead: int
    says: str
    findings: list[Finding]

    def __bool__(self) -> bool:
        return self.healthy


class HealthChecker:
    """Asks how tracking is; *experiment_name* is the experiment that is looked for (default: the configured one)."""

    def __init__(self, experiment_name: str | None = None) -> None:
        self.experiment_name = Options(experiment_name=experiment_name).experiment_name

    def check_health(self) -> Health:
        """Look at the settings and the spool, and ask the server; raises nothing of theirs."""
        settings = resolve()
        findings = list(diagnose(settings, write_probe=False))
        reachable = any(found.ok is True for found in findings if found.what == "destination")
        exists = (
            _exists(settings.tracking_uri, self.experiment_name or settings.experiment_name)
            if reachable
            else None
        )
        spool = report(DestinationDirectory(settings.spool_dir, settings.tracking_uri))
        unwell = [f"{found.what}: {found.says}" for found in findings if found.ok is False]
        return Health(
            healthy=not unwell,
            enabled=is_enabled(),
            reachable=reachable,
            experiment_exists=exists,
            pending=spool.pending,
            dropped=sum(spool.dropped.values()),
            dead=spool.dead,
            says="; ".join(unwell) or "all is well",
            findings=findings,
        )


def _exists(uri: str, experiment: str) -> bool | None:
    try:
        reader = open_reader(uri)
        try:
            return reader.experiment_id(experiment) is not None
        finally:
            reader.close()
    except DeliveryError:
        return None
