"""Let mltrace deliver a burst of calls to a server, and time it.

``python -m benchmarks.drainer --url URL --experiment NAME --runs N --spool DIR`` prints JSON. The clock, and the CPU
time of the whole process, start with the burst, which takes milliseconds, and stop when ``flush`` says that nothing is
pending. Before that a few calls were delivered, so that imports and connections are paid for.
"""

from __future__ import annotations

import argparse
import json
import time

import mltrace

from .peers import work


WARM = 8
TIMEOUT = 300


def main() -> None:
    """Read the options, drain, print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--spool", required=True)
    parser.add_argument("--record-as", default="run")
    options = parser.parse_args()
    mltrace.configure(
        tracking_uri=options.url,
        experiment_name=options.experiment,
        backend="mlflow",
        spool_dir=options.spool,
        exit_timeout=0,
        record_as=options.record_as,
    )
    traced = mltrace.track_run(work)
    burst(traced, WARM)
    cpu, began = time.process_time(), time.perf_counter()
    burst(traced, options.runs)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "runs": options.runs, "warm": WARM}))
    mltrace.shutdown(5)


def burst(traced: object, runs: int) -> None:
    """Call so often and wait for the delivery; raise RuntimeError when anything is left, dropped or dead."""
    assert callable(traced)
    for number in range(runs):
        traced(number, "text")
    report = mltrace.flush(TIMEOUT)
    if report.pending or report.dropped or report.dead:
        raise RuntimeError(f"not everything was delivered: {report}")


if __name__ == "__main__":
    main()
