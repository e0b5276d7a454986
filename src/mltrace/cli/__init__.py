"""
The command ``mltrace``: look into the spool, drain it, find out what is wrong. The dead letters are
in `mltrace.cli.dead`, what ``doctor`` says is in `mltrace._diagnosis`.

Exit codes: 0 when all is well (`sync`: nothing left; `doctor`: reachable), 1 otherwise, 2 for a
command line that cannot be understood. Every command takes ``--json``.
"""

from __future__ import annotations

import contextlib
import time

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
import typer

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text
from rich.tree import Tree

from .. import _guard
from .._addresses import same_origin
from .._diagnosis import diagnose
from .._redaction import shown
from .._spool import DestinationDirectory
from .._survey import DestinationReport, PendingRun, is_configured, pending_runs, survey
from .._survey import report as survey_one
from .._version import __version__
from ..delivery import connect
from ..delivery.lag import SCRATCH
from ..delivery.meter import under_way
from ..delivery.sender import Sender
from . import dead, words


app = typer.Typer(
    help="Look into mltrace's spool, drain it, find out what is wrong.",
    no_args_is_help=True,
    add_completion=False,
)
_COUNTS = [
    Column(name, no_wrap=True)
    for name in ("pending", "oldest", "bytes", "delivered", "dropped", "dead", "writers")
]
_MARKS = {True: "ok ", None: "-- ", False: "!! "}
_LINK_SECONDS = 10.0
_WATCH_SECONDS = 2.0
_RECONCILE_SECONDS = 60.0
_PATIENCE_SECONDS = 2.0
_SILENT_SECONDS = 30.0
_SHOWN_IDS = 20
_LARGE_BYTES = 8 << 20  # of a file whose upload is shown

app.add_typer(dead.app, name="dead")


@app.command()
def status(as_json: words.AsJson = False) -> None:
    """Show per destination what is pending, since when, how large, dropped, dead, and the last error."""
    reports = [report for _, report in survey(words.settings())]
    if as_json:
        words.print_json(reports)
        return
    table = Table(Column("destination", no_wrap=True), *_COUNTS, box=None, pad_edge=False)
    for report in reports:
        dropped = ", ".join(f"{number} {cause}" for cause, number in report.dropped.items()) or "0"
        counts = (
            str(report.pending),
            words.age(report.oldest_ms),
            words.size(report.bytes),
            str(report.delivered),
            dropped,
            str(report.dead),
            str(report.writers),
        )
        table.add_row(report.destination, *counts)
    words.wide.print(table)
    for report in reports:
        if report.last_error is not None:
            words.out.print(f"{report.destination}: {words.trouble(report.last_error)}", markup=False)
        if report.trend is not None:
            words.out.print(f"{report.destination}: {words.trend(report.trend)}", markup=False)


@app.command()
def sync(
    watch: Annotated[bool, typer.Option(help="Go on until interrupted, delivering what comes.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be sent.")] = False,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds after which to stop and leave the rest (0: none, but 30 without an answer are enough).",
        ),
    ] = 0.0,
    as_json: words.AsJson = False,
) -> None:
    """
    Deliver what dead processes have left in the spool. Exits 0 only when nothing is left, or with
    --dry-run when there is nothing to send. With --watch, --json prints a line per delivery.
    """
    settings = words.settings()
    found = [
        (directory, report)
        for directory, report in survey(settings)
        if report.pending or is_configured(directory, settings)
    ]
    if dry_run:
        words.print_json([report for _, report in found]) if as_json else _say_what_is_pending(
            [report for _, report in found]
        )
        raise typer.Exit(1 if any(report.pending for _, report in found) else 0)
    deadline = time.monotonic() + timeout if timeout > 0 else None
    results = []
    while True:
        results = [_drain(directory, report, deadline, quiet=as_json) for directory, report in found]
        if not watch:
            break
        if as_json and any(result["delivered"] or result["dead"] for result in results):
            words.print_json_line(results)
        time.sleep(_WATCH_SECONDS)
        found = [
            (directory, report)
            for directory, report in survey(settings)
            if report.pending or is_configured(directory, settings)
        ]
    if as_json:
        words.print_json(results)
    raise typer.Exit(1 if any(result["pending"] for result in results) else 0)


@app.command()
def doctor(
    write_probe: Annotated[
        bool,
        typer.Option(
            "--write-probe",
            help=f"Create a run in the experiment {SCRATCH!r}, look for it and delete it:"
            " shows whether the server's reads lag behind what it takes.",
        ),
    ] = False,
    as_json: words.AsJson = False,
) -> None:
    """Say in words what is reachable, authorised, too old; what is promised; where the spool is; and what to do."""
    findings = list(diagnose(words.settings(), write_probe=write_probe))
    if as_json:
        words.print_json(findings)
    else:
        for found in findings:
            words.out.print(f"{_MARKS[found.ok]} {found.what}: {found.says}", markup=False)
    raise typer.Exit(1 if any(found.ok is False for found in findings) else 0)


@app.command(name="list")
def list_runs(as_json: words.AsJson = False) -> None:
    """List the runs with undelivered records as a tree."""
    runs = _all_pending()
    if as_json:
        words.print_json(runs)
        return
    if not runs:
        words.out.print("Nothing is pending.")
        return
    branches: dict[str, Tree] = {}
    for run in runs:
        label = f"{shown(run.name)}  {run.id[:8]}  {run.status or 'open'}  {words.when(run.start_time)}  {run.records} record{'s' if run.records != 1 else ''}"
        parent = branches.get(run.parent_id or "")
        branches[run.id] = parent.add(Text(label)) if parent else Tree(Text(label))
    for run in runs:
        if (run.parent_id or "") not in branches:
            words.out.print(branches[run.id])


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")],
    as_json: words.AsJson = False,
) -> None:
    """Show what is undelivered of one run."""
    found = [run for run in _all_pending() if run.id.startswith(run_id.lower())]
    if len(found) != 1:
        words.err.print(
            f"{len(found) or 'No'} pending runs have an id that begins with {run_id!r}; `mltrace list` shows them.",
            markup=False,
        )
        raise typer.Exit(1)
    if as_json:
        words.print_json(found[0])
        return
    for name, value in msgspec.to_builtins(found[0]).items():
        if isinstance(value, dict):
            for key, item in value.items():
                words.out.print(shown(f"{name}.{key}: {item}"), markup=False)
        elif value is not None:
            words.out.print(
                shown(f"{name}: {words.when(value) if name.endswith('_time') else value}"), markup=False
            )


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        words.out.print(__version__)
        raise typer.Exit


# Draining.


def _drain(
    directory: DestinationDirectory, before: DestinationReport, deadline: float | None, *, quiet: bool
) -> dict[str, Any]:
    """Deliver one destination's records, with a progress bar; return what happened."""
    # What waits for another server is sent there, the credentials for the configured one are not.
    configured = same_origin(directory.uri, words.settings().tracking_uri)
    sender = Sender(
        directory, lambda: connect(directory.uri, credentials=configured), link_seconds=_LINK_SECONDS
    )
    has_records = bool(before.pending or before.writers)
    if has_records or directory.reconcile_periods():
        sender.start()
        with _bar(before, quiet=quiet or not has_records) as advance:
            answered = time.monotonic()
            while not _is_over(sender, deadline, answered):
                answered = answered if sender.state()[0] == "unreachable" else time.monotonic()
                advance(sum(sender.settled()))
            advance(sum(sender.settled()))
        if sender.is_idle():
            left = _RECONCILE_SECONDS if deadline is None else deadline - time.monotonic()
            sender.reconcile(max(left, 0.0))
    delivered, dead = sender.settled()
    state, error = sender.state()
    run_ids = sender.run_ids()
    sender.close(0)
    after = _after_the_living(directory, deadline) if state != "suspended" else survey_one(directory)
    if not quiet:
        _say_result(before, after, delivered, dead, state, error)
        _say_ids(run_ids)
    return {
        "destination": before.destination,
        "delivered": delivered,
        "dead": dead,
        "pending": after.pending,
        "state": state,
        "last_error": error,
        "run_ids": run_ids,
    }


def _is_over(sender: Sender, deadline: float | None, answered: float) -> bool:
    """
    Deliver for a moment; say whether everything that no living process has is settled, only a person
    can help, the time is up, or the destination has not *answered* for too long.
    """
    step = 0.2 if deadline is None else min(0.2, max(deadline - time.monotonic(), 0.0))
    settled = sender.flush(step)
    if deadline is not None and time.monotonic() >= deadline:
        return True
    silent = deadline is None and time.monotonic() - answered > _SILENT_SECONDS
    return silent or sender.state()[0] == "suspended" or (settled and sender.is_idle())


def _after_the_living(directory: DestinationDirectory, deadline: float | None) -> DestinationReport:
    """
    Look what is left; as long as it becomes less, living processes are delivering it: wait for them.
    """
    least, since = None, time.monotonic()
    while (found := survey_one(directory)).pending:
        now = time.monotonic()
        if least is None or found.pending < least:
            least, since = found.pending, now
        if now - since > _PATIENCE_SECONDS or (deadline is not None and now >= deadline):
            break
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def _bar(before: DestinationReport, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr; yield what moves it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("records"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=words.err, disable=quiet) as progress:
        task = progress.add_task(before.destination, total=before.pending)

        def advance(settled: int) -> None:
            progress.update(task, completed=settled, description=_description(before.destination))

        yield advance


def _description(destination: str) -> str:
    """Return the destination, and how far large files have come that are on their way there."""
    files = [
        f"{file.path.rpartition('/')[2]} {words.size(file.sent)} of {words.size(file.total)}"
        for file in under_way()
        if file.total >= _LARGE_BYTES
    ]
    return shown(", ".join([destination, *files]))


def _say_result(
    before: DestinationReport,
    after: DestinationReport,
    delivered: int,
    dead: int,
    state: str,
    error: str | None,
) -> None:
    said = [f"{delivered} records delivered to {before.destination}"]
    if dead:
        said.append(f"{dead} refused for good (`mltrace dead list` says why)")
    if after.pending:
        said.append(
            f"{after.pending} left: {error or 'a living process is delivering them, or its run is still open'}"
        )
    words.out.print("; ".join(said) + ".", markup=False)


def _say_ids(run_ids: dict[str, str]) -> None:
    """Say which id the server has given to each run: programs, and their output, name them by their own."""
    for uid, run_id in list(run_ids.items())[:_SHOWN_IDS]:
        words.out.print(f"run {uid} is {run_id} on the server", markup=False, highlight=False, soft_wrap=True)
    if len(run_ids) > _SHOWN_IDS:
        words.out.print(
            f"… and {len(run_ids) - _SHOWN_IDS} more runs; --json has the ids of all.", markup=False
        )


def _say_what_is_pending(reports: list[DestinationReport]) -> None:
    for report in reports:
        words.out.print(
            f"{report.pending} records ({words.size(report.bytes)}) would be sent to {report.destination}.",
            markup=False,
        )


# Words.


def _all_pending() -> list[PendingRun]:
    return [run for directory, _ in survey(words.settings()) for run in pending_runs(directory)]


def main() -> None:
    """Run the command line."""
    try:
        app()
    finally:
        _guard.reset()
