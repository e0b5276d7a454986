"""
How what is logged to a run becomes records: rendered, without secrets, within the limits of fields and
records, and handed to the backend.

A text that does not fit its field is kept whole as an artifact, one that does not fit a record as a
blob. A span has no files: the run that its trace belongs to gets them.
"""

from __future__ import annotations

import contextlib
import os

from typing import Any

from . import _clock, _guard
from ._config import Active
from ._forms import text_of
from ._records import DROPPED_TAG, ArtifactLogged, Logged, Metric, Record
from ._spans import Trace
from ._texts import clean_path, fit
from ._values import Renderer
from .backends import Backend
from .exceptions import SpoolFull


INLINE_BYTES = 64 << 10
"""Texts up to this size travel in the record; larger ones and files become blobs."""

SPAN_INLINE_BYTES = 256 << 10
"""The same of a span, which has no files: long prompts are to be whole in it."""

generation = 0
"""Counts forks: a child must not end its parent's runs."""


def _forked() -> None:
    global generation
    generation += 1


os.register_at_fork(after_in_child=_forked)


class Emitter:
    """What a `Run` writes its records with, which are its own."""

    id: str
    name: str
    experiment: str
    _config: Active
    _backend: Backend
    _secrets: list[str]
    _open: list[None]
    _generation: int

    # What most runs have in common stays on the class: setting an attribute costs the caller.
    is_span = False
    _trace: Trace | None = None  # of a span
    _foreign = False
    _dropped = 0  # artifacts that the backend did not keep
    _start_ms = 0
    _start_ns = 0

    def _now(self) -> int:
        """
        Return the wall clock as of the run's start plus what has passed since: it never runs
        backwards within a run.
        """
        return self._start_ms + (_clock.elapsed_ns() - self._start_ns) // 1_000_000

    def _field(self, key: str, value: Any, limit: int, folder: str) -> tuple[str, str]:
        """
        Return key and text of a param or tag; a text that does not fit is kept whole as an
        artifact.
        """
        text = self._renderer.field(key if type(key) is str else text_of(key), value, self._secrets)
        name = self._key(key)
        if len(text) > limit:
            whole = self._place(f"{folder}/{name}.txt")
            self._keep(whole, text)
            text = fit(text, limit, whole)
        return name, text

    def hide(self, text: str) -> str:
        """Return *text* without what the run knows to be secrets."""
        return self._renderer.redactor.text(text, self._secrets)

    @property
    def _renderer(self) -> Renderer:
        return self._config.renderer

    def _key(self, key: Any) -> str:
        return self._config.renderer.key(key if type(key) is str else text_of(key), self._secrets)

    def _log(
        self,
        params: dict[str, str] | None = None,
        metrics: tuple[Metric, ...] = (),
        tags: dict[str, str] | None = None,
    ) -> None:
        if params or metrics or tags:
            self.emit(
                Logged(
                    run=self.id,
                    time=self._now(),
                    params=params or {},
                    metrics=metrics,
                    tags=tags or {},
                    experiment=self._elsewhere(),
                )
            )

    def _keep(self, path: str, text: str) -> None:
        """Log *text* as an artifact, in the record where it is small."""
        limit = SPAN_INLINE_BYTES if self.is_span else INLINE_BYTES
        is_large = len(text) * 4 > limit and len(content := text.encode()) > limit
        if is_large and self._trace is not None and self._trace.linked is None:
            text, is_large = fit(text, limit // 4, None), False  # there is nowhere else to keep it
        if is_large:
            self._attach(path, content)
        else:
            record = ArtifactLogged(
                run=self.id,
                time=self._now(),
                path=self._place(path),
                text=text,
                size=len(text),
                experiment=self._elsewhere(),
            )
            self.emit(record)

    def _keep_own(self, path: str, text: str) -> None:
        """
        Log *text*, which mltrace adds to what the user logs: that it does not fit a full spool is
        counted, and nothing for the caller to see.
        """
        with contextlib.suppress(SpoolFull):
            self._keep(path, text)

    def _place(self, path: str) -> str:
        """Return *path* as the artifact is called in the run, without secrets; a new name is warned of."""
        wanted = self.hide(path)
        name = clean_path(wanted)
        if name != wanted:
            _guard.warn_once(
                f"path:{wanted}",
                f"artifact name {wanted!r:.200} is not a relative path that every server takes; it becomes {name!r}",
            )
        return name

    def _attach(self, path: str, source: bytes | str) -> None:
        """Log bytes, or the file at a path, as an artifact; a span has none, and its run gets it."""
        blob = None
        uid, experiment = self._holder()
        if uid is None:
            return
        try:
            blob = self._backend.store(source)
        finally:
            self._dropped += blob is None
        if blob is not None:
            place = self._place(f"spans/{self.id[:16]}/{path}" if self.is_span else path)
            self._backend.emit(
                ArtifactLogged(
                    run=uid, time=self._now(), path=place, blob=blob.name, size=blob.size, experiment=experiment
                )
            )  # fmt: skip

    def _holder(self) -> tuple[str | None, str | None]:
        """
        Return the uid of the run that gets files and models, and where delivery has to look for it; a
        span has none, and the run that its trace belongs to gets them. None: they are dropped.
        """
        if self._trace is None:
            return self.id, self._elsewhere()
        if self._trace.linked is None:
            self._dropped += 1
            _guard.warn_once(
                "artifact of span",
                "a trace keeps no files, and this one belongs to no run: they are dropped, and counted in its tag"
                f" {DROPPED_TAG}. Open a run around it, or log a text of at most {SPAN_INLINE_BYTES} bytes",
            )
        return self._trace.linked, self._trace.linked_experiment or self._elsewhere()

    def _elsewhere(self) -> str | None:
        """
        Return the experiment where delivery has to look this run up: it was started by another
        process, or its end may be delivered already.
        """
        return self.experiment if self._foreign or not self._open or self._generation != generation else None

    def emit(self, record: Record) -> None:
        """Hand *record* to the backend; a span takes nothing more when it is over."""
        if self.is_span and self._elsewhere() is not None:
            _guard.misuse(
                "span is over",
                f"{self.name!r} is a span and has ended, or is another process's: what is logged to it now is not"
                " recorded. Log before it ends, or use record_as='run'",
            )
            return
        self._backend.emit(record)
