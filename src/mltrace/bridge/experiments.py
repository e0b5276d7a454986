"""
Experiments by name and id, with and without a server.

The journal names a run's experiment; MLflow's API gives ids. An experiment that is asked for while the
server is away gets an id of our own, made from its name, so that all processes give it the same one;
the server's comes with the first run that is delivered. What is known of either is kept beside the
spool (``experiments.log``): an id that a program passes on to another process has to mean something
there.
"""

from __future__ import annotations

import hashlib
import os
import threading

from typing import Any

import msgspec

from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST
from mlflow.utils.validation import _validate_experiment_name

from .. import _clock, _guard
from .._checks import decode
from .._files import append_line, read_lines
from .._spool import DestinationDirectory
from .upstream import Away, Upstream


DEFAULT_ID, DEFAULT_NAME = "0", "Default"


class Known(msgspec.Struct, frozen=True):
    """A line of ``experiments.log``: an id, the server's or our own, and its experiment's name."""

    id: str
    name: str


_KNOWN = msgspec.json.Decoder(Known)


class Experiments:
    """The experiments of one destination, as far as programs have named them."""

    def __init__(self, upstream: Upstream, directory: DestinationDirectory) -> None:
        self._upstream = upstream
        self._directory = directory
        self._lock = threading.Lock()
        self._names: dict[str, str] = {DEFAULT_ID: DEFAULT_NAME}
        self._read = False

    def name_of(self, experiment_id: str) -> str:
        """Return the name behind an id; raise MLflow's error where neither spool nor server knows it."""
        if (name := self._known().get(str(experiment_id))) is not None:
            return name
        return str(self.get(experiment_id).name)

    def id_of(self, name: str) -> str:
        """Return an id for the experiment called *name*, without asking the server."""
        known = next((key for key, value in list(self._known().items()) if value == name), None)
        if known is None:
            known = local_id(name)
            self._note(known, name)
        return known

    def get(self, experiment_id: str) -> Experiment:
        """Return the experiment, the server's where that can be reached."""
        experiment_id = str(experiment_id)
        name = self._known().get(experiment_id)
        if name is not None and experiment_id == local_id(name):
            return self._by_name(name) or _local(name)
        try:
            return self._learn(self._upstream.ask("get_experiment", experiment_id))
        except Away:
            if name is None:
                raise MlflowException(
                    f"No Experiment with id={experiment_id} is known here, and the server cannot be reached;"
                    " name it (MLFLOW_EXPERIMENT_NAME)",
                    RESOURCE_DOES_NOT_EXIST,
                ) from None
            return _local(name, experiment_id)

    def by_name(self, name: str) -> Experiment | None:
        """Return the experiment called *name*, None where there is none yet."""
        try:
            found = self._upstream.ask("get_experiment_by_name", name)
        except Away:
            known = next((key for key, value in self._known().items() if value == name), None)
            return None if known is None else _local(name, known)
        if found is not None:
            return self._learn(found)
        return _local(name) if local_id(name) in self._known() else None

    def create(self, name: str, artifact_location: str | None, tags: Any) -> str:
        """Create an experiment: on the server, or where that is away with an id of our own."""
        validate: Any = _validate_experiment_name
        validate(name)
        if local_id(name) in self._known():
            raise MlflowException(f"Experiment {name!r} already exists.", RESOURCE_ALREADY_EXISTS)
        try:
            found = str(self._upstream.ask("create_experiment", name, artifact_location, tags))
        except Away:
            if artifact_location or tags:
                _guard.warn_once(
                    f"experiment:{name}",
                    "an experiment is made while the server is away: its artifact location and tags are not recorded",
                    experiment=name,
                )
            found = local_id(name)
        self._note(found, name)
        return found

    def on_server(self, experiment_id: str) -> str | None:
        """Return the server's id for one that may be our own; None where it has none yet."""
        name = self._known().get(str(experiment_id))
        if name is None or str(experiment_id) != local_id(name):
            return str(experiment_id)
        found = self._by_name(name)
        return None if found is None else str(found.experiment_id)

    def forget(self, experiment_id: str) -> None:
        """Forget the name of an id: it may be another one from now on."""
        self._known().pop(str(experiment_id), None)

    def _by_name(self, name: str) -> Experiment | None:
        try:
            found: Experiment | None = self._upstream.ask("get_experiment_by_name", name)
        except Away:
            return None
        return found

    def _learn(self, found: Experiment) -> Experiment:
        self._note(str(found.experiment_id), found.name)
        return found

    def _note(self, experiment_id: str, name: str) -> None:
        known = self._known()
        if known.get(experiment_id) == name:
            return
        known[experiment_id] = name
        try:
            self._directory.make()
            append_line(self._path, msgspec.json.encode(Known(experiment_id, name)))
        except OSError as error:
            _guard.internal_error("experiments.log", error)

    def _known(self) -> dict[str, str]:
        with self._lock:
            if not self._read:
                self._read = True
                for line in read_lines(self._path):
                    try:
                        known = decode(line or b"", _KNOWN)
                    except msgspec.DecodeError:
                        continue
                    self._names[known.id] = known.name
            return self._names

    @property
    def _path(self) -> Any:
        return self._directory.path / "experiments.log"

    def forked(self) -> None:
        """Begin with a lock of its own in a child."""
        self._lock = threading.Lock()


def local_id(name: str) -> str:
    """Return the id of our own for an experiment: 18 digits, as MLflow's file store has them."""
    number = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")
    return str(9 * 10**17 + number % 10**17)


def _local(name: str, experiment_id: str | None = None) -> Experiment:
    now = _clock.now_ms()
    return Experiment(
        experiment_id or local_id(name), name, "", LifecycleStage.ACTIVE, [], creation_time=now, last_update_time=now
    )  # fmt: skip
