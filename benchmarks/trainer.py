"""Log metrics in a training loop, one way, and time it.

``python -m benchmarks.trainer --way plain|async|bridge|run --url URL --metrics N --spool DIR`` prints JSON: microseconds
per call, seconds until everything is with the server (None where that is not asked for), and the megabytes that the
process has grown by.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

from collections.abc import Callable


TIMEOUT = 1800
WARM = 5


def main() -> None:
    """Read the options, log, print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", choices=("plain", "async", "bridge", "run"), required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--metrics", type=int, required=True)
    parser.add_argument("--spool", required=True)
    parser.add_argument("--drain", action="store_true")
    options = parser.parse_args()
    prefix = "mltrace+" if options.way == "bridge" else ""
    os.environ.update(
        MLFLOW_TRACKING_URI=f"{prefix}{options.url}",
        MLTRACE_SPOOL_DIR=options.spool,
        MLTRACE_EXIT_TIMEOUT="0",
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
    )
    print(json.dumps(loop(options.way, options.metrics, drain=options.drain)), flush=True)
    if not options.drain:
        os._exit(0)  # what is left is not waited for


def loop(way: str, metrics: int, *, drain: bool) -> dict[str, float | None]:
    """Log in one way and return what it took."""
    log, finish = ways()[way]()
    for step in range(WARM):
        log("warm", 0.5, step)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    for step in range(metrics):
        log("loss", 1.0 / (step + 1), step)
    logged = time.perf_counter()
    if drain:
        finish()
    drained = time.perf_counter()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "microseconds": (logged - began) / metrics * 1e6,
        "seconds": drained - began if drain else None,
        "megabytes": grown / 1024,
    }


Way = tuple[Callable[[str, float, int], object], Callable[[], None]]


def ways() -> dict[str, Callable[[], Way]]:
    """Return how to begin each way."""
    return {"plain": plain, "async": asynchronous, "bridge": bridge, "run": own}


def plain() -> Way:
    """MLflow as it is."""
    import mlflow

    mlflow.start_run()
    return lambda key, value, step: mlflow.log_metric(key, value, step=step), lambda: None


def asynchronous() -> Way:
    """MLflow's own queue."""
    import mlflow

    mlflow.start_run()
    return (
        lambda key, value, step: mlflow.log_metric(key, value, step=step, synchronous=False),
        mlflow.flush_async_logging,
    )


def bridge() -> Way:
    """MLflow's API through the journal."""
    import mlflow

    import mltrace

    mlflow.start_run()
    return lambda key, value, step: mlflow.log_metric(key, value, step=step), lambda: _flush(mltrace.flush)


def own() -> Way:
    """The method of a run of mltrace."""
    import mltrace

    run = mltrace.start_run("training")
    return lambda key, value, step: run.log_metric(key, value, step), lambda: _flush(mltrace.flush)


def _flush(flush: Callable[[float], object]) -> None:
    report = flush(TIMEOUT)
    left = getattr(report, "pending", 0) or getattr(report, "dropped", 0) or getattr(report, "dead", 0)
    if left:
        raise RuntimeError(f"not everything was delivered: {report}")


if __name__ == "__main__":
    main()
