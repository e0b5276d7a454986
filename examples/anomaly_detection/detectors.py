"""Detectors by scikit-learn; training one is a run, and its model a version in the registry."""

from typing import Any

import numpy as np

from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM

import mltrace


def train_isolation_forest(
    rows: np.ndarray, contamination: float = 0.05, n_estimators: int = 100, max_samples: int = 256
) -> None:
    params = {"contamination": contamination, "n_estimators": n_estimators, "max_samples": max_samples}
    forest = IsolationForest(**params, random_state=0)
    train("isolation_forest", forest, rows, {**params, "n_samples": len(rows), "n_features": rows.shape[1]})


def train_one_class_svm(
    rows: np.ndarray, nu: float = 0.05, kernel: str = "rbf", gamma: str = "scale"
) -> None:
    params = {"nu": nu, "kernel": kernel, "gamma": gamma}
    train("one_class_svm", OneClassSVM(**params), rows, params)


def train(name: str, detector: Any, rows: np.ndarray, params: dict[str, Any]) -> None:
    with mltrace.log_training_run(f"{name}_{len(rows)}_samples", params=params) as run:
        detector.fit(rows)
        scores = detector.score_samples(rows)
        found = int((detector.predict(rows) == -1).sum())
        run.log_metrics(
            {
                "n_anomalies_detected": found,
                "anomaly_rate": found / len(rows),
                "mean_score": float(scores.mean()),
                "std_score": float(scores.std()),
            }
        )
        run.log_model(detector, name, registered_model_name=name)
