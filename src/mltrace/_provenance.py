"""Where a process's runs come from: MLflow's own source tags, read without running anything."""

from __future__ import annotations

import getpass
import os
import sys

from pathlib import Path
from urllib.parse import unquote

from . import _version
from ._texts import clean_key


def context_tags() -> dict[str, str]:
    """
    Return the tags that all runs of this process have in common: ``mlflow.user``,
    ``mlflow.source.name``, ``mlflow.source.type``, ``mlflow.source.git.commit`` where the program
    lies in a git checkout, ``mltrace.version``; and what OpenTelemetry's variables say of the service.
    """
    tags = {"mltrace.version": _version.__version__, "mlflow.source.type": "LOCAL"}
    program = sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c", "-m") else ""
    tags["mlflow.source.name"] = os.path.abspath(program) if program else Path(sys.executable).name
    if "ipykernel" in sys.modules:
        tags["mlflow.source.type"] = "NOTEBOOK"
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError, ImportError):
        pass
    if commit := git_commit(Path(program).absolute().parent if program else Path.cwd()):
        tags["mlflow.source.git.commit"] = commit
    tags |= _resource()
    return {key: value.encode("utf-8", "replace").decode()[:5000] for key, value in tags.items()}


def _resource() -> dict[str, str]:
    """
    Return what ``OTEL_RESOURCE_ATTRIBUTES`` (``key=value,…``, percent-encoded) and ``OTEL_SERVICE_NAME``
    say: ``service.name`` and others. What is malformed, or MLflow's or mltrace's own, is passed over.
    """
    pairs = (pair.partition("=") for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    found = {
        clean_key(key.strip()): unquote(value.strip()) for key, _, value in pairs if key.strip() and value
    }
    if name := os.environ.get("OTEL_SERVICE_NAME"):
        found["service.name"] = name
    return {key: value for key, value in found.items() if not key.startswith(("mlflow.", "mltrace."))}


def git_commit(directory: Path) -> str | None:
    """
    Return the commit that is checked out around *directory*, from git's files: running git would
    cost the caller milliseconds.
    """
    try:
        root = next(parent for parent in (directory, *directory.parents) if (parent / ".git").exists())
        folder = root / ".git"
        if folder.is_file():  # a worktree or submodule
            folder = (root / folder.read_text().partition("gitdir:")[2].strip()).resolve()
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return _commit(head)
        name = head[5:]
        shared = (
            folder / (folder / "commondir").read_text().strip() if (folder / "commondir").exists() else folder
        )
        for place in (folder, shared):
            if (place / name).is_file():
                # A repository by others may name any file as its branch.
                return _commit((place / name).read_text())
        packed = (shared / "packed-refs").read_text().splitlines()
        return next((_commit(line.split()[0]) for line in packed if line.endswith(f" {name}")), None)
    except (OSError, StopIteration, UnicodeDecodeError):
        return None


def _commit(text: str) -> str | None:
    found = text.strip()
    return found if len(found) in (40, 64) and all(c in "0123456789abcdef" for c in found) else None
