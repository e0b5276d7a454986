"""
A tracking store through MLflow's own client code: sqlite, postgresql, mysql, mssql, file,
databricks, plugins. Needs ``mltrace-mlflow[mlflow]``.

The store objects of MLflow are used below its fluent API and `MlflowClient`, which read and change
the program's global state (active run, active model, tracking address) and print to stdout. One
thread at a time: a local database gains nothing from more.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import (
    DatasetInput,
    Experiment,
    InputTag,
    LifecycleStage,
    LoggedModelInput,
    Param,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.entities import Metric as MlflowMetric
from mlflow.entities import Span as MlflowSpan
from mlflow.entities.assessment import Expectation, Feedback
from mlflow.entities.assessment_source import AssessmentSource
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.db_types import DATABASE_ENGINES, SQLITE
from mlflow.tracking._tracking_service import utils as tracking_service
from mlflow.version import VERSION

from .._addresses import safe_uri
from .._files import open_private
from .._records import TRACE_PREFIX, AssessmentLogged, Dataset, Metric
from .destination import (
    DeliveryError,
    Doubtful,
    Missing,
    ModelStore,
    NotApplied,
    Parked,
    Reachability,
    Rejected,
    ServerRun,
    Suspended,
    Uncertain,
    Unsupported,
    check_place,
    check_uid,
    first_words,
    settle_factor,
)
from .otlp import message
from .sdk_models import SdkModels
from .spans import Span
from .turns import in_turns


_MEANING: dict[str, type[DeliveryError]] = {
    "INVALID_PARAMETER_VALUE": Rejected,
    "RESOURCE_ALREADY_EXISTS": Rejected,
    "NOT_IMPLEMENTED": Rejected,
    "RESOURCE_DOES_NOT_EXIST": Missing,
    "BAD_REQUEST": Doubtful,
    "PERMISSION_DENIED": Suspended,
    "UNAUTHENTICATED": Suspended,
}


class SdkDestination:
    """The store at *uri*, opened at the first call."""

    connections = 1
    settle_factor = 1.0

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._store: Any = None
        self._experiments: dict[str, str] = {}
        self.models: ModelStore = SdkModels(uri, self._meaning)

    def probe(self) -> Reachability:
        """
        Open the store and read one experiment.

        A sqlite file that is not there yet is not made for that.
        """
        if (path := sqlite_file(self.uri)) is not None and not path.exists():
            if not os.access(path.parent, os.W_OK):
                raise Suspended(f"{self.uri}: {path.parent} is not a writable directory")
            return Reachability(
                True,
                f"{self.uri} is not there yet; the first run makes it (MLflow {VERSION})",
                VERSION,
                "SqlAlchemyStore",
            )
        with self._meaning() as store:
            store.search_experiments(max_results=1)
        return Reachability(
            True, f"{safe_uri(self.uri)} opens with MLflow {VERSION}", VERSION, type(store).__name__
        )

    def experiment(self, name: str) -> str:
        """Return the experiment's id, creating it where needed."""
        if (known := self._experiments.get(name)) is not None:
            return known
        with self._meaning() as store:
            found: Experiment | None = store.get_experiment_by_name(name)
        if found is None:
            try:
                with self._meaning() as store:
                    identity = str(store.create_experiment(name, None, []))
            except (Rejected, Doubtful):
                with self._meaning() as store:  # another process may have made it in the meantime
                    found = store.get_experiment_by_name(name)
                if found is None:
                    raise
        if found is not None:
            if found.lifecycle_stage != LifecycleStage.ACTIVE:
                raise Parked(
                    f"experiment {name!r} is deleted; restore it (`mlflow experiments restore`) and its runs will be delivered"
                )
            identity = str(found.experiment_id)
        self._experiments[name] = identity
        return identity

    def forget_experiment(self, name: str) -> None:
        """Look the experiment up again at its next use."""
        self._experiments.pop(name, None)

    def create_run(
        self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str]
    ) -> ServerRun:
        """Create a run."""
        with self._meaning() as store:
            run = store.create_run(
                experiment_id=experiment_id,
                user_id=tags.get("mlflow.user", "")[:250],
                start_time=start_time,
                tags=[RunTag(key, value) for key, value in tags.items()],
                run_name=name,
            )
        return _server_run(run)

    def find_runs(self, experiment_ids: Sequence[str], uid: str) -> Sequence[ServerRun]:
        """Search by the tag; *uid* is hex, so that nothing needs escaping."""
        check_uid(uid)
        condition = f"tags.`mltrace.uid` = '{uid}'"
        with self._meaning() as store:
            found = store.search_runs(list(experiment_ids), condition, ViewType.ALL, max_results=100)
        return [_server_run(run) for run in found]

    def tags(self, run_id: str) -> Mapping[str, str]:
        """Get the run."""
        with self._meaning() as store:
            tags: Mapping[str, str] = store.get_run(run_id).data.tags
        return tags

    def open_runs(self, experiment_id: str) -> Sequence[ServerRun]:
        """Search by status."""
        condition = "attributes.status = 'RUNNING' and tags.`mltrace.uid` LIKE '%'"
        with self._meaning() as store:
            found = store.search_runs([experiment_id], condition, ViewType.ACTIVE_ONLY, max_results=1000)
        return [_server_run(run) for run in found]

    def experiments(self) -> Sequence[str]:
        """Search all."""
        with self._meaning() as store:
            return [str(found.experiment_id) for found in store.search_experiments(max_results=1000)]

    def delete_run(self, run_id: str) -> None:
        """Delete a duplicate."""
        with self._meaning() as store:
            store.delete_run(run_id)

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Log a batch."""
        with self._meaning() as store:
            store.log_batch(
                run_id,
                [MlflowMetric(m.key, float(m.value), m.timestamp, m.step) for m in metrics],
                [Param(key, value) for key, value in params.items()],
                [RunTag(key, value) for key, value in tags.items()],
            )

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str]) -> None:
        """Log inputs."""
        with self._meaning() as store:
            store.log_inputs(
                run_id,
                [dataset_input(dataset) for dataset in datasets] or None,
                [LoggedModelInput(model) for model in models] or None,
            )

    def log_model_metrics(
        self,
        run_id: str,
        model_id: str,
        metrics: Sequence[Metric],
        dataset: tuple[str, str | None] | None,
    ) -> None:
        """Log a batch."""
        name, digest = dataset if dataset is not None else (None, None)
        with self._meaning() as store:
            store.log_batch(
                run_id,
                [
                    MlflowMetric(m.key, float(m.value), m.timestamp, m.step, model_id, name, digest)
                    for m in metrics
                ],
                [],
                [],
            )

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """Set status and end time."""
        with self._meaning() as store:
            store.update_run_info(run_id, RunStatus.from_string(status), end_time, None)

    def upload(self, run: ServerRun, path: str, content: bytes | str) -> None:
        """Copy the artifact through the artifact repository of the run's artifact address."""
        check_place(path, run)
        folder, _, name = path.rpartition("/")
        with self._meaning(), tempfile.TemporaryDirectory(prefix="mltrace-") as scratch:
            # The repository names the artifact after the file.
            local = Path(scratch) / name
            if isinstance(content, bytes):
                local.write_bytes(content)
            else:
                os.close(open_private(Path(content), os.O_RDONLY))
                os.symlink(os.path.abspath(content), local)
            repository: Any = get_artifact_repository(run.artifact_uri, tracking_uri=self.uri)
            repository.log_artifact(str(local), folder or None)

    # Traces.

    def log_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:
        """Store spans as MLflow's server does that gets them by OpenTelemetry's protocol."""
        own = [MlflowSpan.from_otel_proto(message(span)) for span in in_turns(spans)]
        with self._meaning() as store:
            try:
                store.log_spans(experiment_id, own)
            except NotImplementedError:
                raise Unsupported(
                    f"{safe_uri(self.uri)} takes no traces: they need a database; set MLTRACE_RECORD_AS=run"
                ) from None

    def link_traces(self, run_id: str, traces: Sequence[str]) -> None:
        """Link traces to a run."""
        with self._meaning() as store:
            store.link_traces_to_run([f"{TRACE_PREFIX}{trace}" for trace in traces], run_id)

    def has_trace(self, trace: str) -> bool:
        """Get the trace's head."""
        try:
            with self._meaning() as store:
                store.get_trace_info(f"{TRACE_PREFIX}{trace}")
        except Missing:
            return False
        return True

    def assess(self, assessment: AssessmentLogged) -> None:
        """Create an assessment; one that is there is replaced."""
        said = _assessment(assessment)
        try:
            with self._meaning() as store:
                store.create_assessment(said)
        except Uncertain:
            kind = assessment.kind
            with self._meaning() as store:
                store.update_assessment(
                    trace_id=said.trace_id,
                    assessment_id=said.assessment_id,
                    name=said.name,
                    rationale=said.rationale,
                    metadata=said.metadata,
                    **{kind: getattr(said, kind)},
                )

    def close(self) -> None:
        """Nothing to close: MLflow keeps its engines for the life of the process."""

    @contextlib.contextmanager
    def _meaning(self) -> Iterator[Any]:
        """Yield the store, opened; translate what MLflow raises."""
        store = self._open()
        try:
            yield store
        except MlflowException as error:
            kind = _MEANING.get(error.error_code, Uncertain)
            raise kind(f"{error.error_code}: {_words(error)}") from None
        except DeliveryError:
            raise
        except Exception as error:  # a file's, or SQLAlchemy's where MLflow's roll-back fails as well
            raise Uncertain(f"{safe_uri(self.uri)}: {_words(error)}") from None

    def _open(self) -> Any:
        if self._store is None:
            try:
                _reach(self.uri)
                open_store: Any = tracking_service._get_store
                self._store = open_store(self.uri, artifact_root(self.uri))
                self.settle_factor = settle_factor(type(self._store).__name__)
                _opened.append(self._store)
            except ImportError as error:
                raise Suspended(
                    f"{safe_uri(self.uri)} needs a database driver that is not installed: {error}"
                ) from None
            except (MlflowException, ValueError) as error:
                raise Suspended(f"{safe_uri(self.uri)} cannot be opened: {_words(error)}") from None
            except (
                Exception
            ) as error:  # SQLAlchemy's and every plugin's own: a database that is away comes back
                raise NotApplied(f"{safe_uri(self.uri)} cannot be opened: {_words(error)}") from None
        return self._store


def _reach(uri: str) -> None:
    """
    Connect to a database server, once; raise SQLAlchemy's error where it is away.

    MLflow would try again for 100 seconds before it says so, and could not be told to stop.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in DATABASE_ENGINES and scheme != SQLITE:
        from mlflow.store.db import utils  # needs SQLAlchemy, which mlflow-skinny does without

        create: Any = utils.create_sqlalchemy_engine
        engine = create(uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def _assessment(assessment: AssessmentLogged) -> Any:
    """Return *assessment* as MLflow's entity."""
    kinds: dict[str, Any] = {"feedback": Feedback, "expectation": Expectation}
    found = kinds[assessment.kind](
        name=assessment.name,
        value=json.loads(assessment.value),
        source=AssessmentSource(assessment.source_type, assessment.source_id or "unknown"),
        trace_id=f"{TRACE_PREFIX}{assessment.trace}",
        metadata=assessment.metadata or None,
        span_id=assessment.span,
        create_time_ms=assessment.time,
        last_update_time_ms=assessment.time,
    )
    found.rationale = assessment.rationale
    found.assessment_id = assessment.assessment_id
    return found


def _words(error: Exception) -> str:
    return first_words(str(error)) or type(error).__name__


_opened: list[Any] = []


def _after_fork_in_child() -> None:
    """
    Have the stores open connections of their own: MLflow keeps a store per address, and its pool is
    the parent's.
    """
    for store in _opened:
        if (engine := getattr(store, "engine", None)) is not None:
            engine.dispose(close=False)


os.register_at_fork(after_in_child=_after_fork_in_child)


def dataset_input(dataset: Dataset) -> DatasetInput:
    """Return *dataset* as MLflow's entity."""
    described = MlflowDataset(
        name=dataset.name,
        digest=dataset.digest,
        source_type=dataset.source_type,
        source=dataset.source,
        schema=dataset.schema,
        profile=dataset.profile,
    )
    return DatasetInput(described, [InputTag(key, value) for key, value in dataset.tags.items()])


def artifact_root(uri: str) -> str | None:
    """
    Return where a sqlite store keeps artifacts: ``mlruns`` beside the database, whatever directory
    the delivering process is in.
    """
    path = sqlite_file(uri)
    return None if path is None else str(path.parent / "mlruns")


def sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:////") else None


def _server_run(run: Any) -> ServerRun:
    info = run.info
    return ServerRun(
        info.run_id,
        info.artifact_uri,
        info.experiment_id,
        deleted=info.lifecycle_stage == LifecycleStage.DELETED,
        ended=RunStatus.is_terminated(RunStatus.from_string(info.status)),
        bare=not run.data.metrics and not run.data.params,
        uid=run.data.tags.get("mltrace.uid", ""),
    )
