"""
Run the rows of faults and print a table such as the README's.

    python3 tasks.py faults                     the short form, as in the suite
    python3 tasks.py faults --release           the long form: about an hour on two cores
    python3 tasks.py faults --release F1 F4     some rows of it
    python3 tasks.py faults --store=postgresql F3 F4 F5 F6

Exits with 1 where something was lost, duplicated, wrong or not counted. With ``--output FILE`` the
table is written there too, as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import sys
import tempfile
import time

from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults import disk, rows
from tests.faults.harness import Bench, Row
from tests.postgres import PostgresServer
from tests.server import MlflowServer


ROWS = {**rows.ROWS, **disk.ROWS}
HEAD = (
    "| # | fault | repetitions | obligations | lost | duplicated | wrong | counted as dropped | 95 % bound: lost, per obligation | any difference, per repetition |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def line(row: Row) -> str:
    """Return a row of the table; no failure in N says less than 3/N, with 95 % confidence."""
    found = row.verdict
    lost = f"< {3 / found.obligations:.1e}" if not found.lost and found.obligations else "-"
    any_difference = f"< {3 / row.repetitions:.1e}" if row.is_clean else "-"
    cells = (
        row.name,
        row.fault,
        row.repetitions,
        f"{found.obligations:,}",
        found.lost,
        found.duplicated + found.foreign,
        found.wrong,
        row.dropped or "",
        lost,
        any_difference,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def run_row(
    name: str,
    server: MlflowServer,
    directory: Path,
    progress: Progress,
    *,
    release: bool,
    repetitions: int | None,
) -> Row:
    """Run one row, with its own bar."""
    row_of, short, long = ROWS[name]
    repetitions = repetitions or (long if release else short)
    bar = progress.add_task(name, total=None)
    bench = Bench(directory / name, server, seed=int(time.time()))
    began = time.monotonic()
    try:
        row = row_of(bench, repetitions, lambda: progress.advance(bar))
    except disk.NoDisk as reason:
        row = Row(name, str(reason), trouble=["not run"])
    finally:
        bench.close()
    seconds = time.monotonic() - began
    progress.update(
        bar, total=row.repetitions, completed=row.repetitions, description=f"{name} {seconds:.0f} s"
    )
    if not row.is_clean:
        progress.console.print(row.explain(), bench.stderr(), markup=False)
    return row


def main(arguments: list[str]) -> int:
    """Run the rows that are asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="tasks.py faults", description="Run the rows of faults.")
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="ROW", help="the rows to run (all)")
    parser.add_argument("--release", action="store_true", help="as often as a release asks for")
    parser.add_argument("--repetitions", type=int, help="another number of them")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--output", type=Path, help="a file for the table")
    chosen = parser.parse_args(arguments)
    results: list[Row] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mltrace-faults-")))
        store = None
        if chosen.store == "postgresql":
            store = stack.enter_context(PostgresServer(directory / "postgres")).uri
        server = stack.enter_context(MlflowServer(directory / "server", workers=1, store_uri=store))
        progress = stack.enter_context(Progress(*columns))
        for name in chosen.rows or ROWS:
            results.append(
                run_row(
                    name, server, directory, progress, release=chosen.release, repetitions=chosen.repetitions
                )
            )
            table = "\n".join([*HEAD, *map(line, results)])
            if chosen.output:
                chosen.output.write_text(
                    f"{table}\n\n{platform.platform()}, CPython {platform.python_version()}\n"
                )
    print(table)
    return 0 if all(row.is_clean for row in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
