"""Part ``import``: the wall time of processes that import mltrace, its dependencies alone, or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from functools import partial
from pathlib import Path

from .harness import Part, Target, differences, interleave, median, number, ratios, spread, table


ROOT = Path(__file__).resolve().parent.parent
ROUNDS, QUICK_ROUNDS = 21, 5
HEAVY = ("mlflow", "pandas", "requests", "httpx", "structlog", "rich", "typer")
ROWS = {
    "bare interpreter": "pass",
    "wrapt, contextvars_extras, msgspec": "import wrapt, contextvars_extras, msgspec",
    "mltrace": "import mltrace",
}


def run(quick: bool, scratch: Path) -> Part:
    """Measure and return the part."""
    rows = {name: partial(process_ms, code, scratch / "bytecode") for name, code in ROWS.items()}
    for row in rows.values():
        row()  # writes the bytecode
    samples = interleave(rows, QUICK_ROUNDS if quick else ROUNDS)
    loaded = heavy_modules()
    part = Part("import", samples={"ms": samples, "loaded": loaded})
    bare, alone, own = samples.values()
    added = {name: differences(values, bare) for name, values in samples.items()}
    of_added = ratios(differences(own, bare), differences(alone, bare))
    part.say(
        f"Whole processes, {len(own)} rounds, bytecode and disk cache warm. *Added* is the time over the bare interpreter.",
        table(
            ("import", "process ms", "min–max", "added ms", "modules"),
            [
                (
                    name,
                    number(median(values)),
                    spread(values),
                    number(median(added[name])),
                    str(modules(ROWS[name])),
                )
                for name, values in samples.items()
            ],
        ),
        f"mltrace / its three dependencies: {number(median(of_added))} × of the time added "
        f"({spread(of_added)}), {number(median(ratios(own, alone)))} × of the whole process. "
        f"Of {', '.join(HEAVY)} it imports {', '.join(loaded) or 'none'}.",
    )
    part.targets = [
        Target("import mltrace / its dependencies, time added", median(of_added), 1.3, "×"),
        Target("of the heavy modules imported", float(len(loaded)), 0),
    ]
    return part


def process_ms(code: str, bytecode: Path) -> float:
    """Return the wall time of one interpreter that runs the code, in milliseconds; *bytecode* is its cache for all packages alike."""
    # A working copy is often run without writing bytecode, and an installed package has it: give every row the same.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ["PYTHONPYCACHEPREFIX"] = str(bytecode)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, check=True
    )  # a timeout would poll, in steps of 50 ms
    return (time.perf_counter() - began) * 1000


def heavy_modules() -> list[str]:
    """Return which of the heavy modules are loaded after ``import mltrace``."""
    return output(f"import mltrace, sys; print(*[name for name in {HEAVY!r} if name in sys.modules])").split()


def modules(code: str) -> int:
    """Return how many modules are loaded after the code has run."""
    return int(output(f"{code}\nimport sys; print(len(sys.modules))"))


def output(code: str) -> str:
    """Return what an interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout
