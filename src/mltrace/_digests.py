"""Checksums of files and of whole directories of them."""

from __future__ import annotations

import hashlib
import os

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec


_BLOCK = 1 << 20


class FileSum(msgspec.Struct, frozen=True, array_like=True):
    """Size in bytes and sha256 (64 hex digits) of one file."""

    size: int
    sha256: str


def file_sum(path: str | os.PathLike[str]) -> FileSum:
    """Read *path* once, in blocks."""
    found, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
            size += len(block)
    return FileSum(size, found.hexdigest())


def files_below(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield every regular file below *directory*: its path with ``/`` from there, and where it is."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield path.relative_to(directory).as_posix(), path


def tree_sums(directory: Path) -> dict[str, FileSum]:
    """Return the sums of all files below *directory*, by path."""
    return {name: file_sum(path) for name, path in files_below(directory)}


def tree_digest(sums: Mapping[str, FileSum]) -> str:
    """
    Return one sha256 for a model's files. ``MLmodel`` does not count: ids that only the server
    gives are written into it.
    """
    lines = (f"{name}\0{found.sha256}\n" for name, found in sorted(sums.items()) if name != "MLmodel")
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
