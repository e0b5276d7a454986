"""Interleaved measuring, medians and Markdown tables. Knows nothing of mltrace."""

from __future__ import annotations

import math
import os
import platform
import random
import statistics
import sys
import time

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Target:
    """One line of the closing table: a figure, what was measured, and the limit of issue 2."""

    figure: str
    measured: float | None
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """None when there was nothing to judge."""
        if self.measured is None or math.isnan(self.measured):
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def cells(self) -> tuple[str, ...]:
        """Return the line's table cells."""
        sign = "≥" if self.at_least else "≤"
        verdict = {True: "yes", False: "no", None: "not measured"}[self.met]
        measured = (
            "–"
            if self.met is None or self.measured is None
            else with_unit(self._figure(self.measured), self.unit)
        )
        return self.figure, measured, f"{sign} {with_unit(f'{self.limit:g}', self.unit)}", verdict

    def _figure(self, measured: float) -> str:
        """A count has no unit and no decimals."""
        return number(measured) if self.unit else f"{measured:g}"


@dataclass
class Part:
    """What one part of the benchmarks has to say: Markdown, targets, and the samples behind them."""

    name: str
    blocks: list[str] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)

    def say(self, *blocks: str) -> None:
        """Append paragraphs or tables."""
        self.blocks += blocks

    def markdown(self) -> str:
        """Return the whole part; the table of targets comes last."""
        closing = table(("figure", "measured", "target", "met"), [target.cells() for target in self.targets])
        return "\n\n".join([f"## {self.name}", *self.blocks, "Targets:", closing])

    def data(self) -> dict[str, Any]:
        """Return what ``--json`` keeps."""
        return {
            "samples": self.samples,
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
        }


def interleave(
    rows: Mapping[str, Callable[[], float]], rounds: int, *, warm_rounds: int = 1, seed: int = 2
) -> Samples:
    """Call every row once per round, in random order; return each row's samples by round.

    The warm rounds come first and are thrown away: they pay for imports, caches and connections.
    """
    order = list(rows)
    shuffle = random.Random(seed).shuffle
    samples: Samples = {name: [] for name in rows}
    for number_of_round in range(-warm_rounds, rounds):
        shuffle(order)
        progress(f"round {number_of_round + 1} of {rounds}")
        for name in order:
            sample = rows[name]()
            if number_of_round >= 0:
                samples[name].append(sample)
    progress("")
    return samples


def median(values: Sequence[float]) -> float:
    """Return the median, NaN for no values."""
    return statistics.median(values) if values else math.nan


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ratios(samples: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return the ratios within each round."""
    return [value / base for value, base in zip(samples, reference, strict=True)]


def differences(samples: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return the differences within each round."""
    return [value - base for value, base in zip(samples, reference, strict=True)]


def number(value: float) -> str:
    """Format with three significant digits, and never in scientific notation."""
    if math.isnan(value):
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """Format the range of the values."""
    return f"{number(min(values))}–{number(max(values))}" if values else "–"


def with_unit(text: str, unit: str) -> str:
    """Attach a unit: the sign × stands directly behind its number."""
    return f"{text}{unit}" if unit == "×" else f"{text} {unit}".rstrip()


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, first column left, the others right, padded to be read as it stands."""
    cells = [list(head), *(list(line) for line in lines)]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def row(line: Sequence[str]) -> str:
        padded = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |"

    return "\n".join([row(cells[0]), row(rule), *map(row, cells[1:])])


def machine() -> dict[str, Any]:
    """Describe where the figures come from, with the load that was there before."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_before": load,
    }


def progress(text: str) -> None:
    """Show where a long measurement is, on a terminal only, never in the output."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def wait_until(done: Callable[[], bool], timeout: float, every: float = 0.01) -> bool:
    """Poll ``done`` until it holds; False when it did not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
