"""
The run where there is none: what takes a program's logging when mltrace is off, or no run is open.
"""

from __future__ import annotations

import os
import threading

from collections.abc import Iterable, Mapping
from typing import Any

from . import _guard
from ._models import LoggedModel, check_options
from ._records import FAILED
from ._runs import Run


class InertRun(Run):
    """
    The run where there is none: takes everything, records nothing. One that is *loud* warns once,
    as nothing was switched off.
    """

    def __init__(self, *, loud: bool, where: str = "outside any run") -> None:
        self.id = "0" * 32
        self.name = self.kind = "none"
        self.experiment = ""
        self._open = []
        self._secrets = []
        self._loud = loud
        self._where = where

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<InertRun>"

    def hide(self, text: str) -> str:
        """Return nothing: what is a secret is not known here."""
        return ""

    @property
    def mlflow_run_id(self) -> str | None:
        """None: there is no run."""
        return None

    def wait(self, timeout: float = 30.0) -> bool:
        """Return True: there is nothing to wait for."""
        return True

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record nothing."""
        self._say()

    def log_metrics(
        self, metrics: Mapping[str, float], step: int | None = None, timestamp: int | None = None
    ) -> None:
        """Record nothing."""
        self._say()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Record nothing."""
        self._say()

    def log_text(self, text: str, artifact_file: str) -> None:
        """Record nothing."""
        self._say()

    def log_dict(self, dictionary: Any, artifact_file: str) -> None:
        """Record nothing."""
        self._say()

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        """Record nothing."""
        self._say()

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """Record nothing."""
        self._say()

    def log_model(
        self,
        model: Any,
        name: str = "model",
        flavor: str = "auto",
        *,
        registered_model_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
        **options: Any,
    ) -> LoggedModel | None:
        """Record nothing."""
        check_options(name, flavor, registered_model_name)
        self._say()
        return None

    def failure(self, error: BaseException) -> tuple[str, tuple[tuple[str, float], ...], dict[str, str]]:
        """Return what `finish` takes; nothing is rendered for nobody."""
        return FAILED, (), {}

    def finish(
        self,
        status: str,
        metrics: Iterable[tuple[str, float]] = (),
        tags: dict[str, str] | None = None,
        *,
        latency_ms: float | None = None,
        raises: bool = False,
    ) -> None:
        """Record nothing."""

    def _say(self) -> None:
        if self._loud:
            remedy = "open one with track_run or start_run"
            if threading.current_thread() is not threading.main_thread():
                name = threading.current_thread().name
                remedy = f"a bare thread ({name!r}) inherits no run: use mltrace.wrap(fn), or {remedy}"
            _guard.misuse(self._where, f"mltrace: logged {self._where}, nothing is recorded; {remedy}")


SILENT = InertRun(loud=False)
"""The run of a call that is switched off."""

LOUD = InertRun(loud=True)
"""The run where there is none."""

AFAR = InertRun(loud=True, where="to a span of another process")
"""The run where the current span is another process's, which alone can add to it."""
