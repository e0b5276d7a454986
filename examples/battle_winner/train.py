"""Train a classifier of battles: a run with its hyperparameters and metrics, the model with its scalers, a version."""

import os

from typing import Any

import pandas as pd

from data import FEATURES, battles
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import mltrace

from mltrace import registry
from mltrace.bundles import scale


NAME = "battle_winner"
DEFAULTS = {
    "n_estimators": 80,
    "max_depth": 3,
    "learning_rate": 0.2,
    "subsample": 0.8,
    "colsample_bytree": 1.0,
    "tree_method": "exact",
    "min_child_weight": 1,
    "objective": "binary:logistic",
    "random_state": 0,
}


def train(n_samples: int = 3000, **changes: Any) -> mltrace.LoggedModel | None:
    """
    Train with `DEFAULTS` and `changes`; return the model that was logged.

    With ML_SKIP_IF_EXISTS=true nothing is trained where a model is registered.
    """
    if os.environ.get("ML_SKIP_IF_EXISTS", "").lower() == "true" and is_registered():
        return None
    hyperparameters = {**DEFAULTS, **changes}
    frame = battles(n_samples)
    learned, tested = train_test_split(frame, test_size=0.25, random_state=0)
    with mltrace.log_training_run(f"{NAME}_{n_samples}_samples", params=hyperparameters) as run:
        scalers = {column: StandardScaler().fit(learned[[column]]) for column in FEATURES}
        bundle = {"scalers": scalers, "metadata": {"features": FEATURES, "n_samples": n_samples}}
        model = classifier(hyperparameters).fit(scale(bundle, learned[FEATURES]), learned["winner"])
        bundle["model"] = model
        run.log_metrics(metrics(bundle, learned, tested))
        return run.log_model(bundle, NAME, registered_model_name=NAME)


def classifier(hyperparameters: dict[str, Any]) -> GradientBoostingClassifier:
    """Return gradient boosting by scikit-learn, under the names that XGBoost has for what both have."""
    return GradientBoostingClassifier(
        n_estimators=hyperparameters["n_estimators"],
        max_depth=hyperparameters["max_depth"],
        learning_rate=hyperparameters["learning_rate"],
        subsample=hyperparameters["subsample"],
        max_features=hyperparameters["colsample_bytree"],
        min_samples_leaf=hyperparameters["min_child_weight"],
        random_state=hyperparameters["random_state"],
    )


def metrics(bundle: dict[str, Any], learned: pd.DataFrame, tested: pd.DataFrame) -> dict[str, float]:
    model = bundle["model"]
    known, new = (scale(bundle, frame[FEATURES]) for frame in (learned, tested))
    predicted = model.predict(new)
    return {
        "train_accuracy": accuracy_score(learned["winner"], model.predict(known)),
        "accuracy": accuracy_score(tested["winner"], predicted),
        "train_roc_auc": roc_auc_score(learned["winner"], model.predict_proba(known)[:, 1]),
        "roc_auc": roc_auc_score(tested["winner"], model.predict_proba(new)[:, 1]),
        "precision": precision_score(tested["winner"], predicted),
        "recall": recall_score(tested["winner"], predicted),
        "f1_score": f1_score(tested["winner"], predicted),
        "n_train_samples": len(learned),
        "n_test_samples": len(tested),
        "n_features": len(FEATURES),
    }


def is_registered() -> bool:
    try:
        registry.get_latest_model(NAME)
    except registry.ModelNotFound:
        return False
    return True
