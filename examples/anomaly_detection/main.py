"""Train three anomaly detectors on the same readings, bring each into Production, load one and use it.

The runs and the registry are at `MLFLOW_TRACKING_URI`, by default `sqlite:///mlflow.db` in the current directory.
"""

import importlib.util
import os
import sys

from data import readings
from detectors import train_isolation_forest, train_one_class_svm

import mltrace

from mltrace import registry


def main() -> int:
    mltrace.configure(experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME") or "anomaly-detection")
    rows = readings()
    train_isolation_forest(rows)
    train_one_class_svm(rows)
    names = ["isolation_forest", "one_class_svm"]
    if importlib.util.find_spec("torch") is not None:
        from lstm import train_lstm_autoencoder

        train_lstm_autoencoder(rows)
        names.append("lstm_autoencoder")
    else:
        print("lstm_autoencoder is left out: it needs PyTorch (pip install torch)")
    if mltrace.flush(timeout=120).pending:
        print("The tracking server has not taken everything yet; `mltrace sync` sends the rest.")
        return 1
    for name in names:
        version = registry.get_latest_model(name).version
        registry.transition_model_stage(name, version, "Production", why="trained by the example")
        print(f"{name}: version {version} is in Production")

    detector = registry.load_model("isolation_forest", stage="Production")
    found = detector.predict(readings(seed=8))
    print(f"isolation_forest finds {int((found == -1).sum())} anomalies in {len(found)} new readings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
