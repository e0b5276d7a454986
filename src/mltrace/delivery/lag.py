"""
Whether a server's searches show what it has just taken: with a read replica behind it they may not,
and nothing that it says of itself tells. So a run is created, looked for and deleted; only where a
person asks for that.
"""

from __future__ import annotations

import contextlib
import time

from .. import _clock
from .destination import Destination, Missing, ServerRun


SCRATCH = "mltrace doctor"
"""The experiment of the runs that are made to be looked for."""

LONGEST_SECONDS = 2.0

_PAUSE_SECONDS = 0.1


def read_lag(destination: Destination) -> float | None:
    """
    Return after how many seconds a new run is found, 0.0: at once; None: not in `LONGEST_SECONDS`.
    Raises `DeliveryError` where it cannot be created or deleted.
    """
    uid, deadline = _clock.new_id(), time.monotonic() + LONGEST_SECONDS
    run: ServerRun | None = None
    try:
        began = 0.0
        while True:
            with contextlib.suppress(Missing):  # the experiment is new, and not shown yet either
                if run is None:
                    experiment = destination.experiment(SCRATCH)
                    run = destination.create_run(experiment, "probe", _clock.now_ms(), {"mltrace.uid": uid})
                    began = time.monotonic()
                asked = time.monotonic()
                if any(
                    found.run_id == run.run_id for found in destination.find_runs([run.experiment_id], uid)
                ):
                    return round(asked - began, 1)
            if time.monotonic() > deadline:
                return None
            time.sleep(_PAUSE_SECONDS)
    finally:
        if run is not None:
            destination.delete_run(run.run_id)
