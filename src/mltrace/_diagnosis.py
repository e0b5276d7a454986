"""What ``mltrace doctor`` and `HealthChecker` find, and how it is said."""

from __future__ import annotations

import os

from collections.abc import Iterator
from importlib import util
from typing import Union

import msgspec

from . import _config
from ._addresses import OTLP_SCHEME, safe_uri
from ._survey import DestinationReport, is_configured, spool_problem, survey
from ._wording import age, trend, trouble
from .delivery import connect
from .delivery.destination import COLLECTOR, FILE_STORE, DeliveryError, Reachability
from .delivery.lag import LONGEST_SECONDS, SCRATCH, read_lag


_AWAY = "; start it, or set MLFLOW_TRACKING_URI to where it is. Until then records stay in the spool, and nothing is lost"


class Finding(msgspec.Struct):
    """
    *what* it is about; *ok*: whether it is well, or False for what a person has to do something about,
    None for what only has to be known; and what there is to say.
    """

    what: str
    ok: Union[bool, None]
    says: str


def diagnose(settings: _config.Settings, *, write_probe: bool) -> Iterator[Finding]:
    """Yield what there is to say; with *write_probe* a run is created for it, and deleted."""
    yield from _switches(settings)
    reachable = _config.probe(settings.tracking_uri)
    yield Finding("destination", reachable.ok, reachable.message + (_AWAY if reachable.away else ""))
    if reachable.ok:
        yield _promise(reachable)
        if write_probe:
            yield _reads(settings.tracking_uri)
        elif settings.tracking_uri.startswith("http"):
            yield _unknown_reads()
    yield Finding(
        "experiment",
        True,
        f"{settings.experiment_name!r} is used where a run names none; it is created when the first run arrives",
    )
    problem = spool_problem(settings.spool_dir)
    yield Finding("spool", problem is None, problem or str(settings.spool_dir))
    for directory, report in survey(settings):
        if report.last_error is not None:
            over = reachable.ok and is_configured(directory, settings)
            yield Finding("last error", over, f"{report.destination}: {trouble(report.last_error)}")
        yield from _left(report)


def _switches(settings: _config.Settings) -> Iterator[Finding]:
    enabled = _config.is_enabled()
    off = "no: MLTRACE_ENABLED, MLFLOW_ENABLED or DISABLE_MLFLOW_TRACKING turns mltrace off"
    yield Finding("enabled", enabled, "yes" if enabled else off)
    given = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    origin = "MLFLOW_TRACKING_URI" if given else "default; set MLFLOW_TRACKING_URI for a server"
    yield Finding("tracking address", True, f"{safe_uri(settings.tracking_uri)} ({origin})")
    if not settings.tracking_uri.startswith(("http", OTLP_SCHEME)):
        has_mlflow = util.find_spec("mlflow") is not None
        missing = "not installed, and this address needs it: install mltrace-mlflow[mlflow]"
        yield Finding("mlflow", has_mlflow, "installed" if has_mlflow else missing)


def _promise(reachable: Reachability) -> Finding:
    """Say what holds of "each run, metric point, param and tag once" in this store."""
    if reachable.store == FILE_STORE:
        return Finding(
            "exactly once",
            None,
            "weaker here: a file store keeps a metric point as often as it is sent, so one whose answer was lost"
            " is there twice; and a run whose creation was not answered may be there twice until that is"
            " noticed, at its end or later. Put a database in its place (`mlflow migrate-filestore`)",
        )
    if reachable.store == COLLECTOR:
        return Finding(
            "exactly once",
            None,
            "a receiver of OpenTelemetry's is sent a span again whose answer was lost; back ends tell by its id."
            " Everything is recorded as spans",
        )
    if "Sql" not in (reachable.store or ""):
        return Finding(
            "exactly once",
            None,
            f"{reachable.store or 'its store, of which it says nothing,'} was not tried; in a database each run, metric point, param and tag is there"
            " once, in a file store metric points can be there twice",
        )
    return Finding("exactly once", True, f"{reachable.store}: each run, metric point, param and tag once")


def _unknown_reads() -> Finding:
    return Finding(
        "reads",
        True,
        "whether they come from a replica that lags cannot be seen from outside;"
        f" `mltrace doctor --write-probe` finds out with a run in the experiment {SCRATCH!r}, which it deletes",
    )


def _reads(uri: str) -> Finding:
    """Say whether searches show what was just created, after trying it."""
    try:
        destination = connect(uri)
        try:
            lag = read_lag(destination)
        finally:
            destination.close()
    except DeliveryError as error:
        return Finding("reads", False, f"the probe in the experiment {SCRATCH!r} failed: {error}")
    if lag == 0.0:
        return Finding("reads", True, "a new run is found at once; the probe's run is deleted again")
    after = f"only after {lag:g} s" if lag is not None else f"not within {LONGEST_SECONDS:g} s"
    return Finding(
        "reads",
        None,
        f"weaker here: a new run is found {after}, so reads come from a replica that lags. A run whose creation"
        " was not answered may be there twice until the replica shows it: the second one is deleted at the"
        " run's end, ten minutes later, or by `mltrace sync`. A run in a new experiment has to wait for it",
    )


def _left(report: DestinationReport) -> Iterator[Finding]:
    """Say what of a destination is in the spool, or lost."""
    if report.pending:
        yield Finding(
            "pending",
            True,
            f"{report.pending} records for {report.destination}, the oldest {age(report.oldest_ms)}; `mltrace sync` sends them",
        )
    if report.trend is not None:
        growing = report.trend.is_growing
        yield Finding("pace", None if growing else True, f"{report.destination}: {trend(report.trend)}")
    if report.dropped:
        yield Finding(
            "dropped",
            False,
            f"{report.dropped} for {report.destination}: free the disk, or raise MLTRACE_SPOOL_LIMIT_BYTES",
        )
    if report.dead:
        yield Finding(
            "dead letters",
            False,
            f"{report.dead} records for {report.destination} were refused for good; `mltrace dead list` says why",
        )
