"""Command line: ``python -m benchmarks [overhead] [drain] [traces] [import] [streams] [middleware] [cold] [service] [soak] [training] [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile

from pathlib import Path
from typing import Any

from .harness import machine


MODULES = {
    "overhead": ".overhead",
    "drain": ".drain",
    "traces": ".traces",
    "import": ".imports",
    "streams": ".streams",
    "middleware": ".middleware",
    "cold": ".cold",
    "service": ".service",
    "soak": ".soak",
    "training": ".training",
}
FOREIGN = ("MLTRACE_", "MLFLOW_", "DISABLE_MLFLOW_", "OTEL_")


def main() -> None:
    """Measure the chosen parts one after the other, printing each as it is done."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    found: dict[str, Any] = {"machine": machine(), "quick": options.quick, "parts": {}}
    print(heading(found["machine"], options.quick), flush=True)
    for name in options.parts or MODULES:
        with tempfile.TemporaryDirectory(prefix="mltrace-benchmark-", ignore_cleanup_errors=True) as scratch:
            part = importlib.import_module(MODULES[name], __package__).run(options.quick, Path(scratch))
        print(f"\n{part.markdown()}", flush=True)
        found["parts"][name] = part.data()
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))


def parse() -> argparse.Namespace:
    """Return the options; a wrong part is named in the error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the figures of the README."
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(MODULES)}; all by default")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds: minutes become half a minute, noise grows"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every sample")
    options = parser.parse_args()
    for name in options.parts:
        if name not in MODULES:
            parser.error(f"no part {name!r}: choose from {', '.join(MODULES)}")
    return options


def heading(where: dict[str, Any], quick: bool) -> str:
    """Say where and how it was measured, and what could spoil it."""
    words = [
        "# Benchmarks",
        "",
        f"{where['implementation']} {where['python']}, {where['system']}, {where['cores']} cores, server on the same "
        f"machine. Load before: {where['load_before']:.2f}{' (not idle: compare within a table only)' * (where['load_before'] > 0.5)}.",
    ]
    if quick:
        words += ["", "`--quick`: few rounds. Good for a look, not for the README."]
    return "\n".join(words)


if __name__ == "__main__":
    main()
