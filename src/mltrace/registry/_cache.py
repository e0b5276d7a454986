"""
Models on this machine, as they were registered.

    <user's cache>/mltrace/models/<registry>/<name>/
        <version>-<12 hex>/       one version; the digits tell one that was registered anew apart
            files.json            path, size and sha256 of each file
            model/                what MLflow's artifact store has
        pins/<selector>.json      the version that an alias, stage or number meant when the registry last said

A version is downloaded beside its place and renamed into it whole: of processes that do so at once
one wins, and the others use its copy. Every file is compared with its checksum before each load; a
copy that is not what it was is put aside and downloaded again, never loaded. The directory can be
deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time

from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from .. import _guard
from .._checks import decode
from .._clock import new_id
from .._digests import FileSum, tree_digest, tree_sums
from .._files import make_directory, write_whole
from ..exceptions import CorruptedModel
from ._client import addresses, needed, registry_id, speaking
from ._versions import ModelVersion


DIGEST_TAG = "mltrace.sha256"
"""On a version: `tree_digest` of its files, where mltrace registered them."""

_MANIFEST, _FILES, _PINS = "files.json", "model", "pins"
_KEPT = 3  # versions beside those that are pinned
_DAY = 86_400.0
_SUMS: msgspec.json.Decoder[dict[str, FileSum]] = msgspec.json.Decoder(dict[str, FileSum])


class Pin(msgspec.Struct, frozen=True):
    """What a selector meant when the registry last said, and the digest of its files."""

    version: ModelVersion
    digest: str


_PIN = msgspec.json.Decoder(Pin)


def cache_root() -> Path:
    """Return the directory of all models (``MLTRACE_MODEL_CACHE``; else in the user's cache directory)."""
    if given := os.environ.get("MLTRACE_MODEL_CACHE"):
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("mltrace", appauthor=False)) / "models"


class ModelCache:
    """The copies of one registered model."""

    def __init__(self, name: str) -> None:
        self.directory = cache_root() / registry_id() / quote(name, safe="")

    def place(self, version: ModelVersion) -> Path:
        """Return where *version* is kept."""
        origin = f"{version.source}\0{version.created}".encode()
        return self.directory / f"{version.version}-{hashlib.sha256(origin).hexdigest()[:12]}"

    # Copies.

    def get(self, version: ModelVersion) -> Path | None:
        """Return the directory of the model's files, each compared with its checksum; None where it is not kept."""
        place = self.place(version)
        try:
            self._verify(place, version)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            os.utime(place)
        return place / _FILES

    def _verify(self, place: Path, version: ModelVersion) -> None:
        written = (place / _MANIFEST).read_bytes()
        try:
            expected = decode(written, _SUMS)
            if tree_sums(place / _FILES) == expected and _is_registered(tree_digest(expected), version):
                return
        except (msgspec.DecodeError, OSError):
            pass
        raise CorruptedModel(
            f"the copy of {version.uri} in {place} is not what was downloaded; it is not loaded. Delete it"
        )

    def digest(self, version: ModelVersion) -> str:
        """Return the digest of the files of *version*, which is kept."""
        sums = decode((self.place(version) / _MANIFEST).read_bytes(), _SUMS)
        return tree_digest(sums)

    def fetch(self, client: Any, version: ModelVersion) -> Path:
        """
        Return the directory of the model's files, downloaded if it is not kept or no longer right.

        Raises: CorruptedModel: What was downloaded is not what was registered.
        """
        try:
            if (kept := self.get(version)) is not None:
                return kept
        except CorruptedModel as error:
            _guard.logger().warning(f"{error}; it is downloaded again")
            self._put_aside(self.place(version))
        make_directory(self.directory)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.directory))
        try:
            _download(client, version, part / _FILES)
            sums = tree_sums(part / _FILES)
            if not _is_registered(tree_digest(sums), version):
                raise CorruptedModel(
                    f"the artifact store's files of {version.uri} are not those that were registered"
                    f" (sha256 {tree_digest(sums)}, registered {version.tags[DIGEST_TAG]}); they are not loaded"
                )
            (part / _MANIFEST).write_bytes(msgspec.json.encode(sums))
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(part, self.place(version))
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._prune(version)
        found = self.get(version)
        assert found is not None
        return found

    def _put_aside(self, place: Path) -> None:
        aside = place.with_name(f".bad-{new_id()[:8]}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, aside)
        shutil.rmtree(aside, ignore_errors=True)

    # Pins.

    def pin(self, selector: str, version: ModelVersion) -> None:
        """Note that *selector* means *version*, which is kept."""
        folder = self.directory / _PINS
        make_directory(folder)
        pinned = msgspec.json.encode(Pin(version, self.digest(version)))
        write_whole(folder / f"{quote(selector, safe='')}.json", pinned)

    def pinned(self, selector: str) -> Pin | None:
        """Return what *selector* meant when the registry last said."""
        try:
            written = (self.directory / _PINS / f"{quote(selector, safe='')}.json").read_bytes()
            return decode(written, _PIN)
        except (OSError, msgspec.DecodeError):
            return None

    def _prune(self, version: ModelVersion) -> None:
        """Delete all but what is pinned, the latest used and *version*; and what a dead process left."""
        kept = {self.place(version).name}
        for pin in (self.directory / _PINS).glob("*.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                kept.add(self.place(decode(pin.read_bytes(), _PIN).version).name)
        with contextlib.suppress(OSError):  # another process prunes too
            entries = [
                path for path in self.directory.iterdir() if path.name != _PINS and path.name not in kept
            ]
            entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            whole = [path for path in entries if not path.name.startswith(".")]
            old = [
                path
                for path in entries
                if path.name.startswith(".") and path.stat().st_mtime < time.time() - _DAY
            ]
            for path in whole[_KEPT:] + old:
                shutil.rmtree(path, ignore_errors=True)


def _is_registered(digest: str, version: ModelVersion) -> bool:
    return version.tags.get(DIGEST_TAG, digest) == digest


def _download(client: Any, version: ModelVersion, to: Path) -> None:
    """Download the files of *version* into *to* through MLflow's artifact repositories."""
    repositories = needed(
        "mlflow.store.artifact.artifact_repository_registry", "loading a model from the registry"
    )
    tracking, registry = addresses()
    to.mkdir()
    with speaking(f"downloading {version.uri}"):
        uri = client.get_model_version_download_uri(version.name, version.version)
        repository = repositories.get_artifact_repository(uri, tracking_uri=tracking, registry_uri=registry)
        repository.download_artifacts("", dst_path=str(to))
