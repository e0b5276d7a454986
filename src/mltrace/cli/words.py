"""What all commands share: settings, where they print, and how a time or a size is said."""

from __future__ import annotations

import sys
import time

from datetime import datetime, timezone
from typing import Annotated, Any

import msgspec
import typer

from rich.console import Console

from .. import _config
from .._redaction import shown
from .._spool import Trend, Trouble
from ..exceptions import ConfigurationError


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def settings() -> _config.Settings:
    """Return the settings in force; end the command with exit code 2 where one cannot be used."""
    try:
        return _config.resolve()
    except ConfigurationError as error:
        err.print(f"mltrace: {error}", markup=False)
        raise typer.Exit(2) from None


def print_json(value: Any) -> None:
    """Print *value* as JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def age(moment_ms: int | None) -> str:
    """Return in words how long ago *moment_ms* was."""
    if moment_ms is None:
        return "-"
    seconds = max(time.time() - moment_ms / 1000, 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit} ago"
    return f"{seconds:.0f} s ago"


def trouble(met: Trouble) -> str:
    """Return in words why nothing could be sent, and when."""
    return f"{shown(met.state)} {age(met.time)}: {shown(met.error)}"


def trend(found: Trend) -> str:
    """Return in words how fast runs are recorded and taken."""
    pace = f"{found.runs_in:g} runs/s recorded, {found.runs_out:g} runs/s taken {age(found.time)}"
    if not found.is_growing:
        return pace
    return f"{pace}; it falls behind: record calls as traces (MLTRACE_RECORD_AS=trace), or a share of them (MLTRACE_SAMPLE_RATE)"


def when(moment_ms: int | None) -> str:
    """Return *moment_ms* as local time."""
    if moment_ms is None:
        return "-"
    return (
        datetime.fromtimestamp(moment_ms / 1000, timezone.utc)
        .astimezone()
        .isoformat(sep=" ", timespec="milliseconds")
    )


def size(count: int) -> str:
    """Return a number of bytes in words."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
