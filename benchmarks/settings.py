"""Exchange mltrace's configuration between blocks: there is one per process, and the rows are interleaved."""

from __future__ import annotations

import itertools
import logging
import os
import shutil

from pathlib import Path
from typing import Any

import mltrace


EXPERIMENT = "benchmarks"
OFF = "MLTRACE_ENABLED"


class Settings:
    """Configure mltrace anew for each block, with a spool of its own that is thrown away afterwards.

    A sender that is left with a backlog would go on working in the blocks of other rows; so each block ends with
    ``leave``, which stops it at once. What it had not sent is lost on purpose.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._numbers = itertools.count()
        self.spool = scratch / "none"
        # The warnings about what is left in the spool, which here is all of it.
        logging.getLogger("mltrace").setLevel(logging.CRITICAL + 1)

    def use(self, **options: Any) -> None:
        """Replace the configuration; anything not named has its default or comes from the environment."""
        self.leave()
        self.spool = self._scratch / f"spool-{next(self._numbers)}"
        mltrace.configure(experiment_name=EXPERIMENT, spool_dir=str(self.spool), exit_timeout=0, **options)

    def off_by_environment(self, **options: Any) -> None:
        """Configure everything but ``enabled``, which the environment turns off."""
        self.use(**options)
        os.environ[OFF] = "0"

    def leave(self) -> None:
        """Stop the sender and remove its spool."""
        os.environ.pop(OFF, None)
        mltrace.shutdown(0)
        shutil.rmtree(self.spool, ignore_errors=True)

    def spooled_bytes(self) -> int:
        """Return the size of all files of the current spool."""
        return sum(path.stat().st_size for path in self.spool.rglob("*") if path.is_file())


def recording() -> bool:
    """Whether a decorated call is a run at this moment."""
    outside = mltrace.current_run().id
    inside: str = mltrace.track_run(lambda: mltrace.current_run().id)()
    return inside != outside
