"""
What is believed of what others wrote: the lines of the spool, and the answers of the server.

A checksum says that a line is whole, not that mltrace wrote it; a 200 says that somebody answered.
So whatever will stand in a path, a filter, a file name or a header is compared with the form that
mltrace or MLflow gives it, once, where it is decoded: behind that nobody has to ask again.
"""

from __future__ import annotations

import os
import re
import threading

from typing import TypeVar

import msgspec

from ._records import (
    ArtifactLogged,
    AssessmentLogged,
    InputsLogged,
    Logged,
    Metric,
    ModelLogged,
    ModelMeasured,
    ModelRegistered,
    Record,
    RunEnded,
    RunRecorded,
    RunStarted,
)


T = TypeVar("T")

PATH_PARTS = 8
"""Parts of an artifact's path: what file systems and MLflow's columns take, with room to spare."""

PART_BYTES = 200
"""Bytes of one part of an artifact's path: file systems take 255, and a mark of eight may be added."""

REFUSED_IN_PATHS = re.compile(r"[\x00-\x1f\x7f-\x9f\\#?%:;*|<>\"]")
"""What an address or a file system would read as something else than a name."""

NUMBERS_IN_WORDS = ("NaN", "Infinity", "-Infinity")
"""The only texts that MLflow takes for a number."""

_INT64 = 1 << 63
_UID = re.compile(r"[0-9A-Za-z]{1,64}")
_SERVER_ID = re.compile(r"[0-9A-Za-z_\-]{1,64}")
_HEX = {size: re.compile(rf"[0-9a-f]{{{size}}}") for size in (16, 32)}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODEL_NAME = re.compile(r"[^/:.%\"'\x00-\x1f\x7f]{1,250}")
_REGISTERED_NAME = re.compile(r"[^/:'\"\x00-\x1f\x7f]{1,250}")
_BLOB = re.compile(r"[0-9A-Za-z]{1,100}(?:\.[0-9A-Za-z]{1,100})*")


def decode(content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """
    Return what the JSON *content* says; raise `msgspec.DecodeError` for anything that is not in
    the decoder's form.

    msgspec itself lets two kinds of malice through as other errors: a thousand brackets
    (`RecursionError`) and text that is not UTF-8 (`UnicodeDecodeError`).
    """
    try:
        return decoder.decode(content)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(str(error)) from None


_building = threading.Lock()
os.register_at_fork(
    before=_building.acquire, after_in_parent=_building.release, after_in_child=_building.release
)


def decoder_of(kind: type[T]) -> msgspec.json.Decoder[T]:
    """
    Return a decoder of *kind*. The first one of a structure learns its fields, and another thread that
    meanwhile uses what is half learned kills the process (msgspec 0.22): so one is made at a time.
    """
    with _building:
        return msgspec.json.Decoder(kind)


def is_uid(text: str) -> bool:
    """Say whether *text* can be a run's uid: nothing in it ends a string of a search's filter."""
    return _UID.fullmatch(text) is not None


def is_server_id(text: str) -> bool:
    """Say whether *text* can be the server's id of a run or an experiment."""
    return _SERVER_ID.fullmatch(text) is not None


def is_trace_id(text: str) -> bool:
    """Say whether *text* is a trace's id as W3C Trace Context and OpenTelemetry have it: 32 hex digits, not all 0."""
    return _HEX[32].fullmatch(text) is not None and text.strip("0") != ""


def is_span_id(text: str) -> bool:
    """Say whether *text* is a span's id: 16 hex digits, not all 0."""
    return _HEX[16].fullmatch(text) is not None and text.strip("0") != ""


def is_blob_name(text: str) -> bool:
    """Say whether *text* is a plain file name of mltrace's own making."""
    return _BLOB.fullmatch(text) is not None


def is_model_name(text: str) -> bool:
    """Say whether MLflow takes *text* as the name of a LoggedModel."""
    return _MODEL_NAME.fullmatch(text) is not None


def is_registered_name(text: str) -> bool:
    """Say whether *text* can be the name of a registered model, and ends no string of a search's filter."""
    return _REGISTERED_NAME.fullmatch(text) is not None and text.strip() != ""


def is_artifact_path(path: str) -> bool:
    """
    Say whether *path* is as `mltrace._texts.clean_path` makes them: relative, without a way up
    and without what an address reads otherwise, and so inside the run, whoever resolves it.
    """
    parts = path.split("/")
    return len(parts) <= PATH_PARTS and REFUSED_IN_PATHS.search(path) is None and all(map(_is_part, parts))


def _is_part(part: str) -> bool:
    return part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= PART_BYTES + 20


def is_sound(record: Record) -> bool:
    """Say whether *record* is in the form in which mltrace makes it, as far as its names are used as names."""
    if isinstance(record, ArtifactLogged) and not (
        is_artifact_path(record.path) and (record.blob is None or is_blob_name(record.blob))
    ):
        return False
    if isinstance(record, ModelLogged) and not _is_model(record):
        return False
    if isinstance(record, ModelRegistered) and not _is_version(record):
        return False
    if isinstance(record, InputsLogged) and not all(map(is_server_id, record.models)):
        return False
    if isinstance(record, ModelMeasured) and not is_server_id(record.model):
        return False
    if isinstance(record, (Logged, ModelMeasured, RunEnded, RunRecorded)) and not all(
        map(_is_point, record.metrics)
    ):
        return False
    if isinstance(record, AssessmentLogged):
        span = record.span
        return (
            is_uid(record.run)
            and is_trace_id(record.trace)
            and is_server_id(record.assessment_id)
            and (span is None or is_span_id(span))
        )
    if isinstance(record, (RunStarted, RunRecorded)):
        if record.trace is not None and not (is_trace_id(record.trace) and is_span_id(record.run[:16])):
            return False
        return all(is_uid(uid) for uid in (record.run, record.parent, record.linked) if uid is not None)
    return is_uid(record.run)


def _is_model(record: ModelLogged) -> bool:
    return (
        is_uid(record.uid)
        and is_model_name(record.name)
        and (record.registered is None or is_registered_name(record.registered))
        and _SHA256.fullmatch(record.digest) is not None
        and all(is_artifact_path(file.path) and is_blob_name(file.blob) for file in record.files)
    )


def _is_version(record: ModelRegistered) -> bool:
    return (
        is_uid(record.uid)
        and is_registered_name(record.name)
        and (record.model is None or is_uid(record.model))
        and (record.path == "" or is_artifact_path(record.path))
    )


def _is_point(metric: Metric) -> bool:
    """Say whether MLflow reads *metric*: else it answers 200 and drops the rest of the batch."""
    value = metric.value
    return (
        (isinstance(value, float) or value in NUMBERS_IN_WORDS)
        and -_INT64 <= metric.step < _INT64
        and -_INT64 <= metric.timestamp < _INT64
    )
