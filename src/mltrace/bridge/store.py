"""
The tracking store that MLflow opens for an address ``mltrace+…``: what `mltrace.bridge.runs` does, and the
logged models of those runs (`mltrace.bridge.models`).

Models that no run of this process has made are the server's affair, as all that is about a model that
is complete, but for its versions (`mltrace.bridge.registry`).
"""

from __future__ import annotations

import contextlib
import json
import os

from collections.abc import Sequence
from typing import Any

from mlflow.entities import (
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    LoggedModelTag,
    Metric,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.utils import validation
from mlflow.utils.name_utils import _generate_random_name

from .. import _clock
from .. import _records as records
from .._texts import clean_path
from ..delivery.models import VERSIONS
from . import translate
from .models import Models, ModelView, sum_of, uid_of
from .runs import ARTIFACTS, RunStore, blob_file
from .upstream import Away
from .versions import Queued
from .views import RunView, Stored


_validation: Any = validation


class MltraceStore(RunStore):
    """The store for the tracking address *store_uri*."""

    def __init__(self, store_uri: str, artifact_uri: str | None = None) -> None:
        super().__init__(store_uri, artifact_uri)
        self.models = Models()
        self._delivered_models: dict[str, LoggedModel] = {}
        self._measured_by: dict[str, str] = {}
        """Which run has measured something with a model of the server's last."""
        self.queued: dict[str, Queued] = {}
        """Versions that are registered on delivery, by what the program was given as their number."""
        stores[self.destination] = self

    # Models: what is written.

    def create_logged_model(
        self,
        experiment_id: str,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: Any = None,
        params: Any = None,
        model_type: str | None = None,
    ) -> LoggedModel:
        """Begin a model: here where it is of a run of ours, else on the server."""
        run = self.find(source_run_id or "")
        if run is None:
            return self._resolved_model(
                self._pass(
                    "create_logged_model", experiment_id, name, source_run_id, tags, params, model_type
                )
            )
        _validation._validate_logged_model_name(name)
        made_up: Any = _generate_random_name
        uid = _clock.new_id()
        model = ModelView(
            run,
            name or made_up(),
            self.artifact_uri(f"m-{uid}"),
            uid,
            model_type=model_type,
            tags={tag.key: str(tag.value) for tag in tags or ()},
            params={param.key: str(param.value) for param in params or ()},
        )
        return self.models.put(model).entity()

    def log_logged_model_params(self, model_id: str, params: Any) -> None:
        """Log params of a model."""
        if (model := self._open(model_id)) is None:
            self._pass("log_logged_model_params", model_id, params)
            return
        model.params.update({param.key: str(param.value) for param in params})

    def set_logged_model_tags(self, model_id: str, tags: Any) -> None:
        """Set tags of a model; of its versions those that have a number, the others are delivery's to note."""
        if (model := self.models.get(model_id)) is not None:
            tags = [tag if tag.key != VERSIONS else self._numbered(model, tag) for tag in tags]
            if not (tags := [tag for tag in tags if tag is not None]):
                return
        if self._open(model_id) is None:
            self._pass("set_logged_model_tags", model_id, tags)
        if model is not None:
            model.tags.update({tag.key: str(tag.value) for tag in tags})

    def _numbered(self, model: ModelView, tag: Any) -> Any:
        """Return MLflow's list of a model's versions with what delivery has noted there; None for nothing new."""
        if not any(queued.of is model for queued in self.queued.values()):
            return tag
        versions = json.loads(tag.value)
        if any(version["version"] in self.queued for version in versions):
            return None
        delivered = self.upstream.ask("get_logged_model", self.delivered_id(model.model_id))
        known = json.loads(delivered.tags.get(VERSIONS, "[]"))
        there = [*known, *(version for version in versions if version not in known)]
        return LoggedModelTag(VERSIONS, json.dumps(there))

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        """Delete a tag of a model."""
        model = self.models.get(model_id)
        if model is not None and key not in model.tags:
            raise MlflowException(
                f"No tag with key {key!r} found for model with ID {model_id!r}.", RESOURCE_DOES_NOT_EXIST
            )
        if self._open(model_id) is None:
            self._pass("delete_logged_model_tag", model_id, key)
        if model is not None:
            del model.tags[key]

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        """Complete a model: from now on it is in the journal."""
        if (model := self.models.get(model_id)) is None:
            return self._resolved_model(self._pass("finalize_logged_model", model_id, status))
        first = model.is_open
        model.status, model.updated = status, _clock.now_ms()
        if first and status == LoggedModelStatus.READY:
            self.backend.emit(model.record(self.backend))
            for metric in model.metrics:
                self._measured(model.run, model.uid, [metric])
        return model.entity()

    def delete_logged_model(self, model_id: str) -> None:
        """Delete a model on the server, once it is delivered."""
        if self._open(model_id) is None:
            self._pass("delete_logged_model", model_id)
        self.models.pop(model_id)

    def log_outputs(self, run_id: str, models: list[LoggedModelOutput]) -> None:
        """Say which models a run has made; for those of ours that is part of them."""
        ours = {output.model_id: output for output in models if self.models.get(output.model_id) is not None}
        if others := [output for output in models if output.model_id not in ours]:
            self._pass("log_outputs", run_id, models=others)
        if (run := self.find(run_id)) is not None:
            run.model_outputs.update(ours)
        for model_id, output in ours.items():
            if (model := self.models.get(model_id)) is not None:
                model.step = output.step

    def log_inputs(
        self, run_id: str, datasets: Any = None, models: list[LoggedModelInput] | None = None
    ) -> None:
        """Log datasets, and models, that a run read."""
        if (run := self.find(run_id)) is None:
            self._pass("log_inputs", run_id, datasets=datasets, models=models)
            return
        super().log_inputs(run_id, datasets)
        if models:
            run.model_inputs.update({model.model_id: model for model in models})
            names = tuple(self._named(model.model_id) for model in models)
            self.backend.emit(
                records.InputsLogged(run=run_id, time=_clock.now_ms(), models=names, experiment=run.elsewhere)
            )

    def _linked(self, view: RunView, metrics: Sequence[Metric]) -> None:
        """Log the points that were measured with a model to that, too."""
        for metric in metrics:
            if metric.model_id is None:
                continue
            model = self.models.get(metric.model_id)
            if model is not None:
                point = _copy(metric, view.uid)
                model.metrics = [*(old for old in model.metrics if _place(old) != _place(point)), point]
            if model is None:
                self._measured_by[metric.model_id] = view.uid
            if model is None or not model.is_open:
                self._measured(view, self._named(metric.model_id), [metric])

    def _measured(self, view: RunView, model: str, metrics: Sequence[Metric]) -> None:
        for metric in metrics:
            point = records.Metric(
                metric.key, records.wire_number(float(metric.value)), int(metric.timestamp), int(metric.step)
            )
            self.backend.emit(
                records.ModelMeasured(
                    run=view.uid,
                    time=_clock.now_ms(),
                    model=model,
                    metrics=(point,),
                    dataset_name=metric.dataset_name,
                    dataset_digest=metric.dataset_digest,
                    experiment=view.elsewhere,
                )
            )

    def _named(self, model_id: str) -> str:
        """Return how the journal names a model: by its uid, or by the server's id."""
        return model_id if self.models.get(model_id) is None else uid_of(model_id)

    # Models: what is read.

    def get_logged_model(self, model_id: str, allow_deleted: bool = False) -> LoggedModel:
        """Return a model."""
        if (model := self.models.get(model_id)) is not None:
            return model.entity()
        if (run := self._measured_by.pop(model_id, None)) is not None:
            with contextlib.suppress(Away):
                self.delivered_id(run)  # for the program to read what it has written
        return self._resolved_model(self._pass("get_logged_model", model_id, allow_deleted))

    def search_logged_models(
        self,
        experiment_ids: list[str],
        filter_string: str | None = None,
        datasets: Any = None,
        max_results: int | None = None,
        order_by: Any = None,
        page_token: str | None = None,
    ) -> Any:
        """Search the server's models and ours."""
        names = {self._name_or_id(experiment_id) for experiment_id in experiment_ids}
        if not any(model.run.experiment in names for model in self.models):
            page = self._ask_for_models(
                experiment_ids, filter_string, datasets, max_results, order_by, page_token
            )
            for model in page:
                self._resolved_model(model)
            return page
        known = {model.uid for model in self.models}
        there: list[LoggedModel] = []
        token: str | None = None
        while token is not None or not there:
            page = self._ask_for_models(experiment_ids, filter_string, datasets, None, order_by, token)
            there += [
                self._resolved_model(model) for model in page if model.tags.get("mltrace.uid") not in known
            ]
            if not (token := page.token):
                break
        return self.models.search(there, names, filter_string, datasets, max_results, order_by, page_token)

    def _ask_for_models(self, experiment_ids: Sequence[str], filter_string: str | None, *rest: Any) -> Any:
        there = [found for found in map(self.experiments.on_server, experiment_ids) if found is not None]
        if not there:
            return _Nothing()
        try:
            return self.upstream.ask(
                "search_logged_models", there, self._in_server_words(filter_string), *rest
            )
        except Away:
            return _Nothing()

    def _open(self, model_id: str) -> ModelView | None:
        """Return a model of ours that is not complete yet."""
        model = self.models.get(model_id)
        return model if model is not None and model.is_open else None

    def _resolved_model(self, model: LoggedModel) -> LoggedModel:
        """Return a model of the server's with an artifact address that MLflow finds from here."""
        model.artifact_location = self.upstream.resolved(model.artifact_location)
        return model

    # Artifacts.

    def held(self, holder: str) -> RunView | ModelView | None:
        """Return the run, by its uid, or the model, by its id, that has artifacts here."""
        return self.models.get(holder) or self.views.get(holder)

    def log_file(self, holder: str, path: str, local_file: str) -> None:
        """Log a file as the artifact *path* of a run or a model: a copy is taken now."""
        view = self.held(holder)
        if view is None:
            raise MlflowException(f"{holder!r} is not known in this process", INVALID_PARAMETER_VALUE)
        backend, name = self.backend, clean_path(path)
        if (blob := backend.store(os.path.abspath(local_file))) is None:
            return  # counted as dropped, and warned of
        stored = Stored(blob_file(backend, blob), None, blob.size)
        if isinstance(view, ModelView):
            view.keep(name, stored, records.ModelFile(name, blob.name, blob.size, sum_of(blob.name)))
            return
        view.keep(name, stored)
        backend.emit(
            records.ArtifactLogged(
                run=holder,
                time=_clock.now_ms(),
                path=name,
                blob=blob.name,
                size=blob.size,
                experiment=view.elsewhere,
            )
        )

    def server_place(self, holder: str) -> str:
        """Return the server's artifact address of a run or a model of ours, once that is delivered."""
        if (model := self.models.get(holder)) is not None:
            return str(self._delivered_model(model).artifact_location)
        run = self.upstream.ask("get_run", self.delivered_id(holder))
        return str(run.info.artifact_uri)

    def server_source(self, source: str) -> str:
        """Return what a model version is made from with the server's address or ids in it."""
        if not source.startswith(f"{ARTIFACTS}://"):
            return translate.replace(source, self.delivered_id)
        holder, path = self._parts(source)
        return "/".join(part for part in (self.server_place(holder), path) if part)

    # The registry.

    def made_here(self, source: str) -> tuple[RunView | ModelView, str] | None:
        """
        Return the model of ours, complete, or the run and the path of the artifacts, that an address
        leads to; None where that is not of this process.
        """
        holder, path = self._parts(source)
        view = self.held(holder)
        if isinstance(view, ModelView):
            return (view, "") if view.status == LoggedModelStatus.READY and not path else None
        if view is None:
            return None
        if any(name.startswith(f"{path}/" if path else "") for name in view.artifacts):
            return view, path
        named = [model for model in self.models if model.run.uid == view.uid and model.name == path]
        return self.made_here(f"models:/{named[-1].model_id}") if named else None

    def queue(self, queued: Queued, tags: dict[str, str], description: str) -> None:
        """Have delivery make a version of what `made_here` has returned, behind that."""
        self.queued[queued.version] = queued
        fields = self._hidden({"description": description})
        self.backend.emit(queued.record(self._hidden(tags), fields["description"]))

    def _parts(self, source: str) -> tuple[str, str]:
        """Return whose id an address begins with, and the path behind it."""
        ours = f"{ARTIFACTS}://{self.destination}/"
        if source.startswith(ours):
            holder, _, path = source.removeprefix(ours).partition("/artifacts")
        else:
            holder, _, path = source.partition(":/")[2].lstrip("/").partition("/")
        return holder, path.strip("/")

    # Ids.

    def server_id(self, uid: str) -> str | None:
        """Return the server's id of a run or a model, None where it is none of ours, or not delivered."""
        if self.models.get(uid) is not None:
            known = self._delivered_models.get(uid)
            return None if known is None else str(known.model_id)
        return super().server_id(uid)

    def delivered_id(self, uid: str) -> str:
        """Return the server's id of a run or a model, delivered first; *uid* where it is none of ours."""
        if (model := self.models.get(uid)) is not None:
            return str(self._delivered_model(model).model_id)
        return super().delivered_id(uid)

    def _delivered_model(self, model: ModelView) -> LoggedModel:
        if (known := self._delivered_models.get(model.model_id)) is not None:
            return known
        run_id = super().delivered_id(model.run.uid)
        experiment = self.upstream.ask("get_run", run_id).info.experiment_id
        found = self.upstream.ask("search_logged_models", [experiment], f"tags.`mltrace.uid` = '{model.uid}'")
        if not found:
            raise MlflowException(
                f"Logged model with ID '{model.model_id}' is not on the server.", RESOURCE_DOES_NOT_EXIST
            )
        delivered: LoggedModel = found[0]
        self._delivered_models[model.model_id] = delivered
        return delivered


class _Nothing(list[Any]):
    """An empty page."""

    token = None


stores: dict[str, MltraceStore] = {}
"""By `destination_id`: where artifact addresses lead."""


def _copy(metric: Metric, run_id: str) -> Metric:
    return Metric(
        metric.key,
        float(metric.value),
        int(metric.timestamp),
        int(metric.step),
        metric.model_id,
        metric.dataset_name,
        metric.dataset_digest,
        run_id,
    )


def _place(metric: Metric) -> tuple[Any, ...]:
    return metric.key, metric.step, metric.timestamp, metric.value, metric.dataset_name, metric.dataset_digest


def _forked() -> None:
    for store in stores.values():
        store.forked()


os.register_at_fork(after_in_child=_forked)
