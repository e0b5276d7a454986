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
from .._records import FAILED, KILLED, TRACE_PREFIX
from .._spool import DestinationDirectory
from .._survey import PendingRun, pending_assessments, pending_runs
from .._texts import clean_experiment
from ..backends.memory import MemoryBackend, RecordedRun
from ..delivery.destination import DeliveryError, Doubtful, Rejected, Suspended
from ..delivery.reading import PREVIEW, FoundRun, FoundTrace, Reader, open_reader
from ..exceptions import ConfigurationError
from ._entries import READABLE, Entry, assessed, entries, entry_of, read_entry


RETRAINING = "retraining"
"""The kind of the runs that use feedback up, where no other does."""

UNTIL = "mltrace.feedback.until"
"""Of a run that has used feedback, the time in milliseconds of the latest."""

_WITH_FEEDBACK = f"tags.`{READABLE}` LIKE '%'"
_RETRAINED = f"tags.`{UNTIL}` LIKE '%'"
_QUESTIONS = ("question", "query", "prompt", "messages", "input", "inputs", "contents", "mltrace.prompt")
_ANSWERS = ("mltrace.output", "mltrace.response")
_CONTEXTS = ("context", "documents")
_ELSEWHERE = re.compile(r"… \[.*sha256 [0-9a-f]{16}, (?:whole )?in ([^\]]+)\]\Z")
_NAME = re.compile(r"[\w.\- ]+")  # of feedback, as MLflow's filter takes it
_LATEST = 20  # runs that have used feedback, among which there is one that did not fail
_JSON: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class Held(msgspec.Struct):
    """
    A run or trace, wherever it was read: *uid* is `Run.id`, *run_id* MLflow's id, None until it is
    delivered; *pending* says whether something of it is in the spool. *said* are entries that no tag has,
    by the id of their assessment.
    """

    uid: str
    name: str
    start_time: int
    status: Union[str, None] = None
    run_id: Union[str, None] = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    pending: bool = False
    said: dict[str, Entry] = {}
    found: Union[FoundRun, FoundTrace, None] = None


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """
    What somebody said of a call, and the call.

    *call_id* is `Run.id`, *run_id* MLflow's id of the run or trace, None until it is delivered. *time_ms* is
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
            found = [one for run in sorted(self.runs, key=_began) for one in _of(run, reader)]
        finally:
            if reader is not None:
                reader.close()
        return sorted(found, key=lambda one: one.time_ms)


def _began(run: Held) -> tuple[int, str]:
    return run.start_time, run.uid


def take_stock(experiment_name: str | None, name: str) -> Holdings:
    """
    Return what an experiment (None: the configured one) has of feedback, here and on the server; of
    traces, that called *name* alone.
    """
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
        found, but = _on_server(config, experiment, name)
    except DeliveryError as error:
        says = f"from the local spool alone, which has not all: {error}"
        return _holdings(experiment, pending, [], complete=False, says=says)
    says = f"from {safe_uri(config.settings.tracking_uri)}"
    if pending:
        says += (
            f" and what is pending in the local spool ({len(pending)} run{'s' if len(pending) != 1 else ''})"
        )
    return _holdings(experiment, pending, found, complete=not but, says=says + but)


def _pending(config: Active, experiment: str) -> list[Held]:
    settings = config.settings
    directory = DestinationDirectory(settings.spool_dir, settings.tracking_uri)
    runs = {run.id: _spooled(run) for run in pending_runs(directory) if run.experiment == experiment}
    for record in pending_assessments(directory):
        if record.experiment == experiment:
            run = runs.setdefault(record.trace, Held(record.trace, "", record.time, pending=True, said={}))
            run.said[record.assessment_id] = assessed(record)
    return list(runs.values())


def _on_server(config: Active, experiment: str, name: str) -> tuple[list[Held], str]:
    """Return what the server has, and a remark on what could not be read of it."""
    reader = open_reader(config.settings.tracking_uri)
    try:
        identity = reader.experiment_id(experiment)
        if identity is None:
            return [], ""
        runs = [*reader.read_runs(identity, _RETRAINED, _LATEST), *reader.read_runs(identity, _WITH_FEEDBACK)]
        found = [_delivered(run) for run in {run.run_id: run for run in runs}.values()]
        try:
            if not _NAME.fullmatch(name):
                raise Rejected(f"MLflow's filter does not take the name {name!r}")
            return found + [
                _traced(trace) for trace in reader.read_traces(identity, f"feedback.`{name}` LIKE '%'")
            ], ""
        except (Rejected, Doubtful, Suspended) as error:
            return found, f", without its traces: {error}"
    finally:
        reader.close()


def _holdings(
    experiment: str, pending: Iterable[Held], found: Iterable[Held], *, complete: bool, says: str
) -> Holdings:
    runs = {run.uid: run for run in found}
    for run in pending:
        runs[run.uid] = _laid_over(runs[run.uid], run) if run.uid in runs else run
    marks = [int(run.tags[UNTIL]) for run in runs.values() if _has_used(run)]
    with_feedback = [run for run in runs.values() if READABLE in run.tags or run.said]
    return Holdings(experiment, with_feedback, max(marks, default=None), complete, says)


def _laid_over(delivered: Held, pending: Held) -> Held:
    return msgspec.structs.replace(
        delivered,
        status=pending.status or delivered.status,
        params={**pending.params, **delivered.params},  # the first value of a param counts
        tags={**delivered.tags, **pending.tags},
        said={**delivered.said, **pending.said},
        pending=True,
    )


def _has_used(run: Held) -> bool:
    """Say whether *run* has used feedback, and did not fail over it."""
    return run.tags.get(UNTIL, "").isdecimal() and run.status not in (FAILED, KILLED)


def _remembered(run: RecordedRun) -> Held:
    said = {identity: assessed(record) for identity, record in run.assessments.items()}
    return Held(
        run.id, run.name, run.start_time, run.status, run.id, dict(run.params), dict(run.tags), said=said
    )  # fmt: skip


def _spooled(run: PendingRun) -> Held:
    return Held(
        run.id, run.name, run.start_time or 0, run.status, None, run.params, run.tags, pending=True, said={}
    )  # fmt: skip


def _delivered(run: FoundRun) -> Held:
    return Held(
        run.tags.get("mltrace.uid", run.run_id), run.name, run.start_time,
        run.status, run.run_id, run.params, run.tags, found=run,
    )  # fmt: skip


def _traced(trace: FoundTrace) -> Held:
    said = {
        one.assessment_id: entry_of(
            one.name, one.time_ms, one.value, one.rationale, one.source_id, one.metadata
        )
        for one in trace.said
    }
    params, tags = _call(_parsed(trace.request), _parsed(trace.response))
    return Held(
        trace.trace_id.removeprefix(TRACE_PREFIX), trace.tags.get("mlflow.traceName", ""),
        trace.start_time, None, trace.trace_id, params, {**trace.tags, **tags}, said=said, found=trace,
    )  # fmt: skip


def _call(inputs: Any, output: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return as params and tags, as a run has them, what a span was given and has returned."""
    given = inputs if isinstance(inputs, dict) else {} if inputs is None else {"input": inputs}
    return (
        {key: _text(value) for key, value in given.items()},
        {} if output is None else {"mltrace.output": _text(output)},
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _parsed(preview: str) -> Any:
    """Return what MLflow shows of a value: itself, or, where it is cut, the beginning of its JSON."""
    try:
        return decode(preview.encode(), _JSON) if preview else None
    except msgspec.DecodeError:
        return preview


# From a run to its feedback.


def _of(run: Held, wholes: _Wholes | None) -> Iterator[Feedback]:
    """Yield what was said of *run*."""
    said = [*entries(run.tags, run.start_time), *run.said.values()]
    if not said:
        return
    cut = False
    if isinstance(run.found, FoundTrace):
        run, cut = (run, _is_cut(run.found)) if wholes is None else wholes.trace(run, run.found)
    fields = {**run.params, **run.tags}
    call = {
        "question": _first(fields, _QUESTIONS),
        "answer": _first(fields, _ANSWERS),
        "context": _first(fields, _CONTEXTS),
    }
    keys = {"question": _QUESTIONS, "answer": _ANSWERS, "context": _CONTEXTS}
    sources = fields.get("sources")
    if wholes is not None and isinstance(run.found, FoundRun):
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
            cut=cut or any(text is not None and _ELSEWHERE.search(text[-200:]) for text in texts),
        )


def _is_cut(trace: FoundTrace) -> bool:
    return max(len(trace.request), len(trace.response)) >= PREVIEW


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

    def trace(self, run: Held, found: FoundTrace) -> tuple[Held, bool]:
        """Return *run*, which is a trace, with what its top span has whole; and whether it is not so."""
        if not _is_cut(found):
            return run, False
        try:
            params, tags = _call(*self._opened().read_whole(found.trace_id))
        except (DeliveryError, ConfigurationError) as error:
            _guard.warn_once(
                "whole trace", "a trace could not be read whole", trace=found.trace_id, error=str(error)
            )
            return run, True
        return msgspec.structs.replace(run, params=params, tags={**run.tags, **tags}), False

    def _opened(self) -> Reader:
        if self._reader is None:
            self._reader = open_reader(active().settings.tracking_uri)
        return self._reader

    def _content(self, run: FoundRun, path: str) -> bytes | None:
        if (run.run_id, path) not in self._read:
            try:
                self._read[run.run_id, path] = self._opened().read_artifact(run, path)
            except (DeliveryError, ConfigurationError) as error:
                self._read[run.run_id, path] = None
                _guard.warn_once(
                    f"whole:{path}", "a text that is cut could not be read whole", path=path, error=str(error)
                )
        return self._read[run.run_id, path]
