"""
The model registry: MLflow's aliases underneath, stages as the word users know.

    from mltrace import registry

    registry.promote_best_model("battle_winner", "accuracy", min_value=0.95)
    model = registry.load_model("battle_winner", stage="Production")

``Production`` is the alias ``production``, ``Staging`` the alias ``staging``; ``Archived`` and
``None`` are versions without either. Every change is recorded as a tag of the registered model and
of the version (`history`), and can be rolled back (`rollback`).

These functions ask the registry and wait for its answer; unlike what is logged, they raise
`RegistryError` where it cannot be given. Those that change something do nothing, and return None,
while mltrace is disabled. They need ``mltrace-mlflow[mlflow]``.
"""

from ..exceptions import (
    CorruptedModel,
    ModelNotFound,
    RegistryConflict,
    RegistryError,
    RegistryUnavailable,
)
from ._changes import Change
from ._comparison import compare_models
from ._loading import Loaded, load_model, load_model_from_registry
from ._promotion import (
    Promotion,
    history,
    promote_best_model,
    promote_to_production,
    rollback,
    transition_model_stage,
    transition_model_to_stage,
)
from ._registering import register_existing_model, register_model
from ._tracker import MLflowTracker
from ._versions import ModelVersion, get_latest_model


__all__ = [
    "Change",
    "CorruptedModel",
    "Loaded",
    "MLflowTracker",
    "ModelNotFound",
    "ModelVersion",
    "Promotion",
    "RegistryConflict",
    "RegistryError",
    "RegistryUnavailable",
    "compare_models",
    "get_latest_model",
    "history",
    "load_model",
    "load_model_from_registry",
    "promote_best_model",
    "promote_to_production",
    "register_existing_model",
    "register_model",
    "rollback",
    "transition_model_stage",
    "transition_model_to_stage",
]
