"""
The artifacts of runs that are in the journal, as MLflow's artifact repositories show them.

``mltrace-artifacts://<destination>/<uid>/artifacts``: what is logged there becomes a file of the spool and a
record; what is read comes from that file, and from the server once it is delivered.
"""

from __future__ import annotations

import os
import posixpath
import shutil

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking._tracking_service import utils as tracking_service

from .store import MltraceStore, stores
from .views import Stored


_verify: Any = verify_artifact_path


class SpoolArtifactRepository(ArtifactRepository):
    """The artifacts at *artifact_uri*."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        parts = urlsplit(artifact_uri)
        self.uid, _, rest = unquote(parts.path).strip("/").partition("/")
        self._root = rest.removeprefix("artifacts").strip("/")
        self._store = _store(parts.netloc, tracking_uri)

    # Writing.

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Log a file."""
        _verify(artifact_path)
        self._store.log_file(self.uid, self._path(artifact_path, os.path.basename(local_file)), local_file)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Log every file below a directory."""
        _verify(artifact_path)
        for folder, _, names in os.walk(local_dir):
            below = Path(os.path.relpath(folder, local_dir)).as_posix()
            for name in sorted(names):
                path = self._path(artifact_path, "" if below == "." else below, name)
                self._store.log_file(self.uid, path, os.path.join(folder, name))

    # Reading.

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List what is directly below *path*; nothing for a file."""
        here = self._here()
        if here is None:
            listed: list[FileInfo] = self._there().list_artifacts(path)
            return listed
        below = f"{path.strip('/')}/" if path else ""
        found: dict[str, FileInfo] = {}
        for name, stored in here.items():
            if not name.startswith(below):
                continue
            first, deeper, _ = name[len(below) :].partition("/")
            found[below + first] = FileInfo(below + first, bool(deeper), None if deeper else stored.size)
        return [found[name] for name in sorted(found)]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        stored = (self._here() or {}).get(remote_file_path)
        if stored is not None and stored.text is not None:
            Path(local_path).write_text(stored.text, encoding="utf-8")
            return
        if stored is not None and stored.file is not None:
            try:
                shutil.copyfile(stored.file, local_path)
            except FileNotFoundError:
                pass  # delivered, and deleted here
            else:
                return
        if stored is None and self._here() is not None:
            raise MlflowException(f"No such artifact: '{remote_file_path}'", RESOURCE_DOES_NOT_EXIST)
        self._there()._download_file(remote_file_path, local_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete on the server, once it is delivered."""
        self._there().delete_artifacts(artifact_path)

    def _here(self) -> dict[str, Stored] | None:
        """Return what was logged, by paths below the root; None where this process does not know the run."""
        view = self._store.held(self.uid)
        if view is None:
            return None
        prefix = f"{self._root}/" if self._root else ""
        return {
            path[len(prefix) :]: stored
            for path, stored in list(view.artifacts.items())
            if path.startswith(prefix)
        }

    def _there(self) -> Any:
        """Return the repository of the delivered run."""
        root = self._store.upstream.resolved(self._store.server_place(self.uid))
        return get_artifact_repository(posixpath.join(root, self._root) if self._root else root)

    def _path(self, *parts: str | None) -> str:
        return posixpath.join(*(part for part in (self._root, *parts) if part))


def _store(destination: str, tracking_uri: str | None) -> MltraceStore:
    if (store := stores.get(destination)) is not None:
        return store
    open_store: Any = tracking_service._get_store
    opened = open_store(tracking_uri)
    if isinstance(opened, MltraceStore) and opened.destination == destination:
        return opened
    raise MlflowException(
        f"The artifacts of {destination} are another tracking server's; set the tracking address to it"
    )
