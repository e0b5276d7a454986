"""What all commands share: settings, where they print, and how a time or a size is said."""

from __future__ import annotations

import sys

from datetime import datetime, timezone
from typing import Annotated, Any

import msgspec
import typer

from rich.console import Console

from .. import _config
from .._wording import age as age
from .._wording import trend as trend
from .._wording import trouble as trouble
from ..exceptions import ConfigurationError


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]

out = Console(highlight=False, soft_wrap=True)
wide = Console(highlight=False, width=4096)
"""For tables with an address, which is to be copied: the terminal may break it, the table does not."""

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


def print_json_line(value: Any) -> None:
    """Print *value* as one line of JSON, at once: whoever reads it may be waiting."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


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
