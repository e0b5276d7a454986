"""What a run read, and what its metrics say of a model, on their way."""

from __future__ import annotations

from .._checks import is_uid
from .._records import InputsLogged, ModelMeasured
from .destination import Destination, Missing, ServerRun


def deliver_inputs(destination: Destination, run: ServerRun, record: InputsLogged) -> None:
    """Log the datasets and models of *record* as the run's inputs; what is logged already stays as it is."""
    models = [_model_id(destination, run, model) for model in record.models]
    destination.log_inputs(run.run_id, record.datasets, models)


def deliver_measures(destination: Destination, run: ServerRun, record: ModelMeasured) -> None:
    """Log the points of *record* to its model too; the run's own are the same points, and stay one."""
    model_id = _model_id(destination, run, record.model)
    dataset = (record.dataset_name, record.dataset_digest) if record.dataset_name is not None else None
    destination.log_model_metrics(run.run_id, model_id, record.metrics, dataset)


def _model_id(destination: Destination, run: ServerRun, model: str) -> str:
    """Return the server's id of a model: given, or found by the uid under which the journal had it."""
    if not is_uid(model):
        return model
    found = destination.models.find(run.experiment_id, model)
    if not found:
        raise Missing(f"model {model} has not arrived")
    return min(found, key=lambda candidate: (not candidate.ready, candidate.model_id)).model_id
