"""
Experiments and runs of the tracking store that MLflow opens for an address ``mltrace+…``.

    create_run, update_run_info, log_*, set_tag, inputs     one record each, and the view of the run
    get_run, get_metric_history of such a run               the view
    search_runs                                             the server's runs and the views together
    experiments by name and id                              the server, else what is known here
    everything else, and every other run                    the server, with its own ids

A run's id is its uid, and stays its id in this process when the server has given it another one. What
MLflow would refuse is refused here, in its words: a later refusal nobody would see.
"""

from __future__ import annotations

import functools
import weakref

from collections.abc import Callable, Sequence
from typing import Any

from mlflow.entities import LifecycleStage, Metric, Run, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils import validation
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.search_utils import SearchUtils

from .. import _clock, _guard
from .. import _records as records
from .._addresses import destination_id
from .._config import active, backend_for, is_enabled, normal_uri
from .._runs import Run as OwnRun
from .._spool import DestinationDirectory
from ..backends import Backend, Blob
from ..backends.journal import Journal
from . import translate
from .experiments import Experiments
from .observed import Observed
from .passing import passing
from .upstream import Away, Upstream
from .views import UNLINKED, Link, RunView, Views, dataset_record


ARTIFACTS = "mltrace-artifacts"
"""The scheme of the artifact addresses of runs that are in the journal."""

_DELIVERY_SECONDS = 30.0
"""How long a request that only the server can answer waits for the delivery of the run that it names."""

_PARENT, _NAME, _UID = "mlflow.parentRunId", "mlflow.runName", "mltrace.uid"
_ENDED = {RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED}
_ALL_EXPERIMENTS, _PAGE = 1000, 1000

_validation: Any = validation
_search: Any = SearchUtils


# What MLflow composes of other methods stays MLflow's: asynchronous forms, and searches of one page.
_Passing: Any = passing(AbstractStore, ("async", "log_param", "set_tag", "search_runs", "_evenly_spaced"))


class RunStore(_Passing):  # type: ignore[misc]
    """The experiments and runs behind the tracking address *store_uri*."""

    def __init__(self, store_uri: str, artifact_uri: str | None = None) -> None:
        super().__init__()
        self.uri = normal_uri(store_uri)
        self.upstream = Upstream(self.uri)
        self.views = Views()
        self._joint: weakref.WeakValueDictionary[str, OwnRun] = weakref.WeakValueDictionary()
        directory = DestinationDirectory(active().settings.spool_dir, self.uri)
        self.experiments = Experiments(self.upstream, directory)
        self.destination = destination_id(self.uri)
        self._conversions = {18: self._experiment_there, 32: self._id_there, 34: self._id_there}
        """By the length of what can be an id of ours."""

    @property
    def backend(self) -> Backend:
        """Where the records go."""
        return backend_for(self.uri)

    # Experiments.

    def get_experiment(self, experiment_id: str) -> Any:
        """Return the experiment; see `Experiments.get`."""
        return self.experiments.get(experiment_id)

    def get_experiment_by_name(self, experiment_name: str) -> Any:
        """Return the experiment, None where there is none yet."""
        return self.experiments.by_name(experiment_name)

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        """Create an experiment and return its id."""
        return self.experiments.create(name, artifact_location, tags)

    def rename_experiment(self, experiment_id: str, new_name: str) -> None:
        """Rename an experiment on the server."""
        self._pass("rename_experiment", experiment_id, new_name)
        self.experiments.forget(experiment_id)

    # Runs: what is written.

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int, tags: Sequence[RunTag], run_name: str | None
    ) -> Run:
        """Start a run in the journal."""
        if not is_enabled():
            created: Run = self._pass("create_run", experiment_id, user_id, start_time, tags, run_name)
            return created
        given = {tag.key: str(tag.value) for tag in tags or ()}
        name = _run_name(run_name, given)
        experiment = self.experiments.name_of(experiment_id)
        parent = self.views.get(given.get(_PARENT, ""))
        start = records.RunStarted(
            run=_clock.run_id(),
            time=start_time,
            name=name,
            kind=records.FOREIGN,
            experiment=experiment,
            parent=parent.uid if parent is not None else None,
            parent_experiment=parent.elsewhere if parent is not None else None,
            tags={
                key: value for key, value in self._hidden(given).items() if parent is None or key != _PARENT
            },
        )
        view = RunView(start, str(experiment_id), self.artifact_uri(start.run), user_id or "")
        view.tags = {**given, **start.tags}
        self.views.put(view)
        self.backend.emit(start)
        return view.run()

    def update_run_info(
        self, run_id: str, run_status: int | None, end_time: int | None, run_name: str | None
    ) -> Any:
        """End a run, take it up again, or rename it."""
        if (view := self.find(run_id)) is None:
            return self._pass("update_run_info", run_id, run_status, end_time, run_name)
        _check_active(view)
        if run_name:
            self._emit(view, tags={_NAME: run_name})
        if run_status in _ENDED:
            status = RunStatus.to_string(run_status)
            if (joint := self._joint.pop(run_id, None)) is not None:
                joint.end(status)
                return view.info
            end = records.RunEnded(
                run=run_id, time=end_time or _clock.now_ms(), status=status, experiment=view.elsewhere
            )
            self._tell(view, end)
            self.views.ended(view)
        elif run_status is not None:
            view.status = RunStatus.to_string(run_status)
        return view.info

    def log_metric(self, run_id: str, metric: Metric) -> None:
        """Log one metric point."""
        if (view := self.find(run_id)) is None:
            self._pass("log_metric", run_id, metric)
            return
        _validation._validate_metric(metric.key, metric.value, metric.timestamp, metric.step)
        _check_active(view)
        self._emit(view, metrics=(metric,))

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Sequence[Any], tags: Sequence[Any]
    ) -> None:
        """Log metric points, params and tags."""
        if (view := self.find(run_id)) is None:
            self._pass("log_batch", run_id, metrics=metrics, params=params, tags=tags)
            return
        metrics, params, tags = _validation._validate_batch_log_data(metrics, params, tags)
        _validation._validate_batch_log_limits(metrics, params, tags)
        _validation._validate_param_keys_unique(params)
        _check_active(view)
        given = self._hidden({param.key: str(param.value) for param in params})
        _check_unchanged(view, given)
        self._emit(
            view,
            params=given,
            metrics=metrics,
            tags=self._hidden({tag.key: str(tag.value) for tag in tags}),
        )

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete a tag on the server, once the run is delivered."""
        if (view := self.find(run_id)) is not None and key not in view.tags:
            raise MlflowException(f"No tag with name: {key} in run with id {run_id}", INVALID_PARAMETER_VALUE)
        self._pass("delete_tag", run_id, key)
        if view is not None:
            view.tags.pop(key, None)

    def delete_run(self, run_id: str) -> None:
        """Delete a run on the server, once it is delivered."""
        self._pass("delete_run", run_id)
        if (view := self.find(run_id)) is not None:
            view.deleted = True

    def restore_run(self, run_id: str) -> None:
        """Restore a deleted run on the server."""
        self._pass("restore_run", run_id)
        if (view := self.find(run_id)) is not None:
            view.deleted = False

    def log_inputs(self, run_id: str, datasets: Any = None) -> None:
        """Log datasets that a run of ours read."""
        view = self.views.get(run_id)
        assert view is not None
        _check_active(view)
        if datasets:
            _validation._validate_dataset_inputs(datasets)
            found = tuple(dataset_record(dataset) for dataset in datasets)
            self._tell(
                view,
                records.InputsLogged(
                    run=run_id, time=_clock.now_ms(), datasets=found, experiment=view.elsewhere
                ),
            )

    # Runs: what is read.

    def get_run(self, run_id: str) -> Run:
        """Return a run: as this process knows it, else as the server does."""
        if (view := self.find(run_id)) is not None:
            return view.run()
        return self._resolved(self._pass("get_run", run_id))

    def get_metric_history(
        self, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> Any:
        """Return all points of a metric."""
        if (view := self.find(run_id)) is not None:
            return PagedList(view.history(metric_key), None)
        return self._pass("get_metric_history", run_id, metric_key, max_results, page_token)

    def _search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str | None,
        run_view_type: int,
        max_results: int,
        order_by: Any,
        page_token: str | None,
    ) -> tuple[list[Run], str | None]:
        names = {self._name_or_id(experiment_id) for experiment_id in experiment_ids}
        here = [
            view.run() for view in self.views if view.experiment in names and _is_seen(view, run_view_type)
        ]
        if not here:
            return self._ask_for_runs(
                experiment_ids, filter_string, run_view_type, max_results, order_by, page_token
            )
        known = {run.info.run_id for run in here}
        there = [
            run
            for run in self._all_runs(experiment_ids, filter_string, run_view_type, order_by)
            if run.data.tags.get(_UID) not in known
        ]
        matching = _search.filter(here, filter_string)
        found, token = _search.paginate(_search.sort([*matching, *there], order_by), page_token, max_results)
        return list(found), token

    def _all_runs(
        self, experiment_ids: Sequence[str], filter_string: str | None, run_view_type: int, order_by: Any
    ) -> list[Run]:
        """Return what the server finds; nothing, with a warning, where it cannot be reached."""
        found: list[Run] = []
        token: str | None = None
        try:
            while True:
                page, token = self._ask_for_runs(
                    experiment_ids, filter_string, run_view_type, _PAGE, order_by, token
                )
                found.extend(page)
                if not token:
                    return found
        except Away as error:
            _guard.warn_once("bridge:search", f"{error}; the search finds runs of this process only")
            return found

    def _ask_for_runs(
        self, experiment_ids: Sequence[str], filter_string: str | None, *rest: Any
    ) -> tuple[list[Run], str | None]:
        there = [found for found in map(self.experiments.on_server, experiment_ids) if found is not None]
        if not there:
            return [], None
        page = self.upstream.ask("search_runs", there, self._in_server_words(filter_string), *rest)
        return [self._resolved(run) for run in page], page.token

    def _name_or_id(self, experiment_id: str) -> str:
        try:
            return self.experiments.name_of(experiment_id)
        except MlflowException:
            return experiment_id

    def _in_server_words(self, filter_string: str | None) -> str | None:
        """Return a search's filter with the server's ids in the place of those that were given out here."""
        return translate.replace(filter_string, self.server_id) if filter_string else filter_string

    # Runs of mltrace that are MLflow's active ones: see `mltrace._joint`.

    def join(self, run: OwnRun) -> Run:
        """Return a run of mltrace as MLflow's; from now on what either writes to it is read here."""
        view = self.views.get(run.id)
        if view is None:
            start = run.started()
            experiment_id = self.experiments.id_of(start.experiment)
            view = RunView(start, experiment_id, self.artifact_uri(run.id))
            view.params = start.params  # the run's own: each is to know what the other has logged
            view.tags.setdefault(_NAME, start.name)
            self.views.put(view)
        self._joint[run.id] = run
        run.observe(lambda backend: Observed(backend, self._observed))
        return view.run()

    def experiment_of(self, run_id: str) -> str | None:
        """Return the name of the experiment of a run, None where the run is not known here."""
        view = self.views.get(run_id)
        return None if view is None else view.experiment

    def _observed(self, record: records.Record) -> None:
        """Learn what mltrace itself has recorded."""
        if isinstance(record, (records.RunStarted, records.RunRecorded)):
            start = record.start if isinstance(record, records.RunRecorded) else record
            experiment_id = self.experiments.id_of(start.experiment)
            self.views.put(RunView(start, experiment_id, self.artifact_uri(start.run)))
        if (view := self.views.get(record.run)) is not None:
            with self.views.lock:
                view.apply(record)

    # Ids.

    def artifact_uri(self, uid: str) -> str:
        """Return where the artifacts of run *uid* are as long as this process knows it."""
        return f"{ARTIFACTS}://{self.destination}/{uid}/artifacts"

    def find(self, run_id: str) -> RunView | None:
        """Return the view of a run by the id that was given out here."""
        return self.views.get(run_id)

    def server_id(self, uid: str) -> str | None:
        """Return the server's id of run *uid*, None where it is no run of ours, or not delivered."""
        return self.backend.run_id(uid) if self.views.get(uid) is not None else None

    def delivered_id(self, uid: str) -> str:
        """
        Return the server's id of run *uid*, delivered first where that is necessary; *uid* where it is
        no run of ours. Raises `Away` where it cannot be delivered now.
        """
        if self.views.get(uid) is None:
            return self.backend.run_id(uid) or uid
        if not self.backend.wait(uid, _DELIVERY_SECONDS):
            raise Away(self.uri, "the run that this is about is not delivered yet")
        return self.backend.run_id(uid) or uid

    def _pass(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Have the server do it: with its own ids, and with what it has to know delivered."""
        there = [self.server_form(value) for value in arguments]
        named = {name: self.server_form(value) for name, value in options.items()}
        return self.upstream.ask(method, *there, **named)

    def server_form(self, value: Any) -> Any:
        """Return *value*, an argument of a request, with the server's ids in it."""
        if type(value) is str and (convert := self._conversions.get(len(value))) is not None:
            return convert(value)
        if type(value) in (list, tuple):
            return [self.server_form(item) for item in value]
        return value

    def _experiment_there(self, experiment_id: str) -> str:
        return self.experiments.on_server(experiment_id) or experiment_id

    def _id_there(self, uid: str) -> str:
        return self.delivered_id(uid)

    def _resolved(self, run: Run) -> Run:
        """Return a run of the server's with an artifact address that MLflow finds from here."""
        run.info._artifact_uri = self.upstream.resolved(run.info.artifact_uri)
        return run

    def __getattr__(self, name: str) -> Any:
        """Pass on what only some of MLflow's stores have."""
        if name.startswith("_") or not callable(getattr(type(self.upstream.store), name, None)):
            raise AttributeError(name)
        return functools.partial(self._pass, name)

    def forked(self) -> None:
        """Begin with locks of its own in a child."""
        self.views.forked()
        self.experiments.forked()

    # Records.

    def _emit(
        self,
        view: RunView,
        *,
        params: dict[str, str] | None = None,
        metrics: Sequence[Metric] = (),
        tags: dict[str, str] | None = None,
    ) -> None:
        points = []
        linked = False
        with self.views.lock:
            for metric in metrics:
                value = float(metric.value)
                link = _link(metric)
                linked = linked or link is not UNLINKED
                view.add(metric.key, value, int(metric.timestamp), int(metric.step), link)
                points.append(
                    records.Metric(
                        metric.key, records.wire_number(value), int(metric.timestamp), int(metric.step)
                    )
                )
            view.params.update(params or {})
            view.tags.update(tags or {})
        self.backend.emit(
            records.Logged(
                run=view.uid,
                time=_clock.now_ms(),
                params=params or {},
                metrics=tuple(points),
                tags=tags or {},
                experiment=view.elsewhere,
            )
        )
        if linked:
            self._linked(view, metrics)

    def _linked(self, view: RunView, metrics: Sequence[Metric]) -> None:
        """Log the points that were measured with a model to that, too."""

    def _tell(self, view: RunView, record: records.Record) -> None:
        with self.views.lock:
            view.apply(record)
        self.backend.emit(record)

    def _hidden(self, fields: dict[str, str]) -> dict[str, str]:
        """Return texts without secrets, as all that mltrace records."""
        renderer = active().renderer
        return {key: renderer.field(key, value, []) for key, value in fields.items()}


def blob_file(backend: Backend, blob: Blob) -> str | None:
    """Return the file of a blob, None where the backend keeps none."""
    if isinstance(backend, Journal) and backend.directory is not None:
        return str(backend.directory.blob(blob.name))
    return None


def _run_name(run_name: str | None, tags: dict[str, str]) -> str:
    """Return the run's name, in *tags* too; MLflow's stores make one up where there is none."""
    tagged = tags.get(_NAME)
    if run_name and tagged and run_name != tagged:
        raise MlflowException(
            "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values"
            f" (run_name='{run_name}', mlflow.runName='{tagged}').",
            INVALID_PARAMETER_VALUE,
        )
    made_up: Callable[[], str] = _generate_random_name
    return tags.setdefault(_NAME, run_name or tagged or made_up())


def _check_active(view: RunView) -> None:
    if view.deleted:
        raise MlflowException(
            f"The run {view.uid} must be in the 'active' state. Current state is {LifecycleStage.DELETED}.",
            INVALID_PARAMETER_VALUE,
        )


def _check_unchanged(view: RunView, params: dict[str, str]) -> None:
    """Raise what MLflow raises where a param is logged again with another value."""
    for key, value in params.items():
        if view.params.get(key, value) != value:
            raise MlflowException(
                "Changing param values is not allowed. Param with key="
                f"'{key}' was already logged with value='{view.params[key]}' for run ID='{view.uid}'."
                f" Attempted logging new value '{value}'.",
                INVALID_PARAMETER_VALUE,
            )


def _is_seen(view: RunView, view_type: int) -> bool:
    return view_type == ViewType.ALL or view.deleted == (view_type == ViewType.DELETED_ONLY)


def _link(metric: Metric) -> Link:
    model, name, digest = metric.model_id, metric.dataset_name, metric.dataset_digest
    return UNLINKED if model is None and name is None else Link(model, name, digest)
