"""
Keys, paths and texts as MLflow takes them.

MLflow's limits are those of `mlflow/utils/validation.py` (3.17): keys ``^[/\\w.\\- :]*$`` of at
most 250 characters that are a normalised relative path, params of at most 6,000 characters, tags of
at most 8,000.
"""

from __future__ import annotations

import hashlib
import re

from ._checks import PART_BYTES, PATH_PARTS, REFUSED_IN_PATHS


PARAM_LIMIT = 6_000
TAG_LIMIT = 8_000
KEY_LIMIT = 250
NAME_LIMIT = 250
EXPERIMENT_LIMIT = 256  # MLflow lets 500 through, which its column in a strict database does not hold
WHOLE_LIMIT = 1 << 20
"""Characters of one value kept in an artifact (``inputs.json``, ``outputs.json``)."""

READ_LIMIT = WHOLE_LIMIT + 4_096
"""
Characters of one text that are looked at: a secret that begins before `WHOLE_LIMIT` is seen to its
end, so that no cut leaves half of one.
"""

_KEY = re.compile(r"[/\w.\- :]+")
_NOT_KEY = re.compile(r"[^/\w.\- :]")


def clean_text(text: str) -> str:
    """
    Return *text* without what JSON or a database refuses: lone surrogates and NUL become U+FFFD.
    """
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def clean_key(key: str) -> str:
    """
    Return *key* as MLflow takes it.

    An acceptable key is returned as it is. Another is mapped by a fixed rule: refused characters
    become ``_`` and six hex digits of the original's hash are added, so that equal keys stay equal
    and different keys stay different (``MAP@k`` → ``MAP_k-3f1b2c``).
    """
    if len(key) <= KEY_LIMIT and (
        (key.isascii() and key.isidentifier()) or (_KEY.fullmatch(key) and _is_normal_path(key))
    ):
        return key
    parts = _NOT_KEY.sub("_", clean_text(key)[: KEY_LIMIT - 7]).split("/")
    readable = "/".join(part for part in map(_without_dots, parts) if part) or "key"
    return f"{readable}-{_digest(key)[:6]}"


def clean_experiment(name: str) -> str:
    """
    Return an experiment's *name* as every database behind MLflow takes it; one that is too long
    ends in six hex digits of its hash, so that different names stay different.
    """
    cleaned = clean_text(name)
    if len(cleaned) <= EXPERIMENT_LIMIT:
        return cleaned
    return f"{cleaned[: EXPERIMENT_LIMIT - 7]}-{_digest(name)[:6]}"


def _without_dots(part: str) -> str:
    """Return a part of a path that no file system takes for the way up, or for the place itself."""
    part = part.strip()
    return part.lstrip(". ") if part.startswith("..") or part == "." else part


_PART_LENGTH = 100


def clean_path(path: str) -> str:
    """
    Return *path* as a relative artifact path: no root, no ``..``, no character that an address or
    file system reads otherwise.

    An acceptable path is returned as it is; another is mapped as `clean_key` maps keys. It can
    never name another run's artifacts.
    """
    parts = [part for part in map(_clean_part, path.replace("\\", "/").split("/")) if part]
    cleaned = "/".join(parts[-PATH_PARTS:]) or "artifact"
    if cleaned == path:
        return path
    stem, dot, suffix = cleaned.rpartition(".")
    mark = _digest(path)[:6]
    return f"{stem}-{mark}.{suffix}" if dot and stem and "/" not in suffix else f"{cleaned}-{mark}"


def _clean_part(part: str) -> str:
    text = clean_text(REFUSED_IN_PATHS.sub("_", part))[:_PART_LENGTH]
    return _without_dots(text.encode()[:PART_BYTES].decode("utf-8", "ignore"))


def _is_normal_path(key: str) -> bool:
    """
    Say whether *key* survives `posixpath.normpath`: MLflow's store keeps metrics under it as a
    path.
    """
    return not key.startswith(("/", "..")) and all(part not in ("", ".", "..") for part in key.split("/"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def cut_note(length: int) -> str:
    """Return the remark at the end of a text that was cut, with the length it had."""
    return f"… [{length} characters]"


_CUT = re.compile(r"… \[(\d+) characters\]\Z")


def fit(text: str, limit: int, whole_in: str | None) -> str:
    """
    Return *text*, or where it is longer than *limit* a preview that names its length, its hash, and
    the artifact that has it whole; or the part of it that was kept.
    """
    if len(text) <= limit:
        return text
    kept = f"sha256 {_digest(text)[:16]}"
    where = f", whole in {whole_in}" if whole_in else ""
    note = f"… [{len(text)} characters, {kept}{where}]"
    if (cut := _CUT.search(text, len(text) - 40)) is not None:
        where = f", in {whole_in}" if whole_in else ""
        note = f"… [{cut[1]} characters; the first {cut.start()}, {kept}{where}]"
    return text[: limit - len(note)] + note
