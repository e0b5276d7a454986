"""Print, as JSON, how far the peak of resident memory rises with every 10,000 calls of this process.

Run by the overhead part in a process of its own: ``python -m benchmarks.memory --spool DIR --url URL``; without
``--url`` the function stays undecorated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys

from pathlib import Path

from .peers import work


CALLS = 10_000
WARM = 1_000
REPEATS = 3


def peak_mib() -> float:
    """Return the peak of resident memory in MiB.

    On Linux from /proc: ``ru_maxrss`` there starts at the size of the process that called fork.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1024 if sys.platform != "darwin" else 1024 * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Warm up, then print the growth of each lot of calls as a JSON list."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--spool")
    options = parser.parse_args()
    function = work
    if options.url:
        import mltrace

        mltrace.configure(
            tracking_uri=options.url, experiment_name="memory", spool_dir=options.spool, exit_timeout=0
        )
        function = mltrace.track_run(work)
    peaks = [calls(function, WARM), *(calls(function, CALLS) for _ in range(REPEATS))]
    print(json.dumps([after - before for before, after in itertools.pairwise(peaks)]))


def calls(function: object, count: int) -> float:
    """Call and return the peak afterwards."""
    assert callable(function)
    for number in range(count):
        function(number, "text")
    return peak_mib()


if __name__ == "__main__":
    main()
