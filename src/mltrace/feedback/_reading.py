"""
Feedback, read back: from the tracking server, with what is still pending in the local spool laid
over it; or from the spool alone, and then it says so.

What is pending replaces what the server has: that is what the server will hold.
"""

from __future__ import annotations

import re

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any, Union

import msgspec

from .. import _guard
from .._addresses import safe_uri
from .._checks import decode, is_artifact_path
from .._config import Active, active
from .._spool import DestinationDirectory
from .._survey import PendingRun, pending_runs
from .._texts import clean_experiment
from ..backends.memory import MemoryBackend, RecordedRun
from ..delivery.destination import DeliveryError
from ..delivery.reading import FoundRun, Reader, open_reader
from ..exceptions import ConfigurationError
from ._entries import MARK, Entry, entries, read_entry


RETRAINING = "retraining"
"""The kind of the runs that use feedback up."""

UNTIL = "mltrace.feedback.until"
"""Of such a run, the time in milliseconds of the latest feedback that it has used."""

_WITH_FEEDBACK = f"tags.`{MARK}` LIKE '%'"
_RETRAINED = f"tags.`mltrace.kind` = '{RETRAINING}'"
_QUESTIONS = ("question", "query", "prompt", "messages", "input", "inputs", "contents", "mltrace.prompt")
_ANSWERS = ("mltrace.output", "mltrace.response")
_CONTEXTS = ("context", "documents")
_ELSEWHERE = re.compile(r"… \[.*sha256 [0-9a-f]{16}, (?:whole )?in ([^\]]+)\]\Z")
_LATEST = 10  # retraining runs that are looked at for the last one that did not fail
_JSON: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class Held(msgspec.Struct):
    """
    A run, wherever it was read: *uid* is `Run.id`, *run_id* MLflow's id, None until it is delivered;
    *pending* says whether something of it is in the spool.
    """

    uid: str
    name: str
    kind: str
    start_time: int
    status: Union[str, None] = None
    run_id: Union[str, None] = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    pending: bool = False
    found: Union[FoundRun, None] = None


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """
    What somebody said of a call, and the call.

    *call_id* is `Run.id`, *run_id* MLflow's id of the run, None until it is delivered. *time_ms* is
    when it was said. *question*, *answer* and *context* are texts as the call has them, None where it
    has none. *cut* says whether one of the texts is longer than what is here.
    """

    call_id: str
    name: str
    time_ms: int
    value: Union[int, float, bool, str, None] = None
    text: Union[str, None] = None
    corrected: Union[str, None] = None
    source: Union[str, None] = None
    question: Union[str, None] = None
    answer: Union[str, None] = None
    context: Union[str, None] = None
    sources: list[Any] = []
    model_version: Union[str, None] = None
    run_id: Union[str, None] = None
    pending: bool = False
    cut: bool = False

    @property
    def rating(self) -> float | None:
        """The value where it is a number, yes being 1 and no 0."""
        return None if self.value is None or isinstance(self.value, str) else float(self.value)

    @property
    def time(self) -> datetime:
        """When it was said, in UTC."""
        return datetime.fromtimestamp(self.time_ms / 1000, timezone.utc)


class Holdings(msgspec.Struct):
    """
    What there is in an experiment: runs with feedback, and the time up to which retraining has used
    it, None where there was none.

    *complete* is False where the server could not be read; *says* tells in words what was.
    """

    experiment: str
    runs: list[Held]
    used_until: Union[int, None]
    complete: bool
    says: str

    def feedback(self, *, whole: bool = False) -> list[Feedback]:
        """Return the feedback, earliest first; with *whole*, cut texts are fetched where they are whole."""
        reader = _Wholes() if whole else None
        try:
            found = [one for run in self.runs for one in _of(run, reader)]
        finally:
            if reader is not None:
                reader.close()
        return sorted(found, key=lambda one: one.time_ms)


def take_stock(experiment_name: str | None = None) -> Holdings:
    """Return what an experiment (default: the configured one) has of feedback, here and on the server."""
    config = active()
    experiment = config.experiment if experiment_name is None else clean_experiment(experiment_name)
    if isinstance(config.backend, MemoryBackend):
        here = [_remembered(run) for run in config.backend.runs.values() if run.experiment == experiment]
        return _holdings(experiment, here, [], complete=True, says="from this process's memory")
    if config.settings.backend == "noop":
        return _holdings(experiment, [], [], complete=True, says="nothing is kept: the backend is noop")
    # First what is pending: what is delivered meanwhile is then read twice, and not missed.
    pending = _pending(config, experiment)
    try:
        found = _on_server(config, experiment)
    except DeliveryError as error:
        says = f"from the local spool alone, which has not all: {error}"
        return _holdings(experiment, pending, [], complete=False, says=says)
    says = f"from {safe_uri(config.settings.tracking_uri)}"
    if pending:
        says += (
            f" and what is pending in the local spool ({len(pending)} run{'s' if len(pending) != 1 else ''})"
        )
    return _holdings(experiment, pending, found, complete=True, says=says)


def _pending(config: Active, experiment: str) -> list[Held]:
    settings = config.settings
    directory = DestinationDirectory(settings.spool_dir, settings.tracking_uri)
    return [_spooled(run) for run in pending_runs(directory) if run.experiment == experiment]


def _on_server(config: Active, experiment: str) -> list[Held]:
    reader = open_reader(config.settings.tracking_uri)
    try:
        identity = reader.experiment_id(experiment)
        if identity is None:
            return []
        runs = [*reader.read_runs(identity, _RETRAINED, _LATEST), *reader.read_runs(identity, _WITH_FEEDBACK)]
        return [_delivered(run) for run in {run.run_id: run for run in runs}.values()]
    finally:
        reader.close()


def _holdings(
    experiment: str, pending: Iterable[Held], found: Iterable[Held], *, complete: bool, says: str
) -> Holdings:
    runs = {run.uid: run for run in found}
    for run in pending:
        runs[run.uid] = _laid_over(runs[run.uid], run) if run.uid in runs else run
    marks = [_used_until(run) for run in runs.values() if run.kind == RETRAINING and run.status != "FAILED"]
    with_feedback = [run for run in runs.values() if MARK in run.tags]
    return Holdings(experiment, with_feedback, max(marks, default=None), complete, says)


def _laid_over(delivered: Held, pending: Held) -> Held:
    return msgspec.structs.replace(
        delivered,
        status=pending.status or delivered.status,
        params={**pending.params, **delivered.params},  # the first value of a param counts
        tags={**delivered.tags, **pending.tags},
        pending=True,
    )


def _used_until(run: Held) -> int:
    told = run.tags.get(UNTIL, "")
    return int(told) if told.isdecimal() else run.start_time


def _remembered(run: RecordedRun) -> Held:
    return Held(
        run.id, run.name, run.kind, run.start_time, run.status, run.id, dict(run.params), dict(run.tags)
    )


def _spooled(run: PendingRun) -> Held:
    return Held(
        run.id, run.name, run.kind, run.start_time or 0, run.status, None, run.params, run.tags, pending=True
    )


def _delivered(run: FoundRun) -> Held:
    return Held(
        run.tags.get("mltrace.uid", run.run_id), run.name, run.tags.get("mltrace.kind", ""), run.start_time,
        run.status, run.run_id, run.params, run.tags, found=run,
    )  # fmt: skip


# From a run to its feedback.


def _of(run: Held, wholes: _Wholes | None) -> Iterator[Feedback]:
    """Yield what was said of *run*."""
    said = list(entries(run.tags))
    if not said:
        return
    fields = {**run.params, **run.tags}
    call = {
        "question": _first(fields, _QUESTIONS),
        "answer": _first(fields, _ANSWERS),
        "context": _first(fields, _CONTEXTS),
    }
    keys = {"question": _QUESTIONS, "answer": _ANSWERS, "context": _CONTEXTS}
    sources = fields.get("sources")
    if wholes is not None and run.found is not None:
        for name, text in call.items():
            if text is not None:
                call[name] = wholes.text(run.found, next(k for k in keys[name] if k in fields), text)
        sources = sources if sources is None else wholes.text(run.found, "sources", sources)
        said = [wholes.entry(run.found, entry) for entry in said]
    for entry in said:
        texts = (*call.values(), sources, entry.text, entry.corrected)
        yield Feedback(
            call_id=run.uid,
            name=entry.name,
            time_ms=entry.time,
            value=entry.value,
            text=entry.text,
            corrected=entry.corrected,
            source=entry.source,
            question=call["question"],
            answer=call["answer"],
            context=call["context"],
            sources=_listed(sources),
            model_version=fields.get("model_version"),
            run_id=run.run_id,
            pending=run.pending,
            cut=any(text is not None and _ELSEWHERE.search(text[-200:]) for text in texts),
        )


def _first(fields: dict[str, str], names: Iterable[str]) -> str | None:
    return next((fields[name] for name in names if name in fields), None)


def _listed(sources: str | None) -> list[Any]:
    """Return what a run has under ``sources`` as a list, which is what it was, if it was one."""
    if sources is None:
        return []
    try:
        found = decode(sources.encode(), _JSON)
    except msgspec.DecodeError:
        return [sources]
    return found if isinstance(found, list) else [found]


class _Wholes:
    """Fetches texts that do not fit their field from the artifacts that have them whole; each artifact once."""

    def __init__(self) -> None:
        self._reader: Reader | None = None
        self._read: dict[tuple[str, str], bytes | None] = {}

    def close(self) -> None:
        """Close the connection, if one was needed."""
        if self._reader is not None:
            self._reader.close()

    def text(self, run: FoundRun, key: str, text: str) -> str:
        """Return what *run* has under *key*, where *text* is what its field shows of it."""
        if (elsewhere := _ELSEWHERE.search(text[-200:])) is None:
            return text
        path = elsewhere[1]
        # A user can write such a remark too: what it names is only looked for in the run itself.
        content = self._content(run, path) if is_artifact_path(path) else None
        if content is None:
            return text
        if path.endswith(".json"):
            try:
                found = decode(content, _JSON)
            except msgspec.DecodeError:
                return text
            found = found.get(key) if isinstance(found, dict) and key in found else found
            return found if isinstance(found, str) else msgspec.json.encode(found).decode()
        return content.decode("utf-8", "replace")

    def entry(self, run: FoundRun, entry: Entry) -> Entry:
        """Return *entry* whole."""
        path = entry.whole
        content = self._content(run, path) if path is not None and is_artifact_path(path) else None
        whole = None if content is None else read_entry(content)
        return entry if whole is None or whole.time != entry.time else whole

    def _content(self, run: FoundRun, path: str) -> bytes | None:
        if (run.run_id, path) not in self._read:
            try:
                if self._reader is None:
                    self._reader = open_reader(active().settings.tracking_uri)
                self._read[run.run_id, path] = self._reader.read_artifact(run, path)
            except (DeliveryError, ConfigurationError) as error:
                self._read[run.run_id, path] = None
                _guard.warn_once(
                    f"whole:{path}", "a text that is cut could not be read whole", path=path, error=str(error)
                )
        return self._read[run.run_id, path]
