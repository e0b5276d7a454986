"""Train variations of a classifier, promote the best if it is good enough, compare, and roll back.

The runs and the registry are at `MLFLOW_TRACKING_URI`, by default `sqlite:///mlflow.db` in the current directory.
The exit code is 1 where no version is good enough: a pipeline stops there.
"""

import os
import sys

from train import NAME, train

import mltrace

from mltrace import registry


MIN_ACCURACY = 0.95
VARIATIONS = (
    {"n_estimators": 5, "max_depth": 1},  # not good enough
    {"n_estimators": 30},
    {},
    {"n_estimators": 10},  # worse than the one before: refused, with an alert
)


def main() -> int:
    mltrace.configure(experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME") or "battle-winner")
    for changes in VARIATIONS:
        train(**changes)
        if mltrace.flush(timeout=120).pending:
            print("The tracking server has not taken everything yet; `mltrace sync` sends the rest.")
            return 1
        outcome = registry.promote_best_model(NAME, "accuracy", min_value=MIN_ACCURACY, on_regression=alert)
        if outcome is None:
            print("Tracking is off: nothing was registered.")
            return 0
        print(
            f"{changes or 'defaults'}: promoted {outcome.promoted}, refused {outcome.refused}; {outcome.reason}"
        )

    with mltrace.track_run("comparison"):
        frame = registry.compare_models(NAME, ["accuracy", "roc_auc", "f1_score"], figure="comparison.png")
    print(
        frame[["version", "stage", "accuracy", "roc_auc", "f1_score", "vs_production"]].to_string(index=False)
    )

    back = registry.rollback(NAME, why="an exercise")
    print(f"Rolled back to version {back.version if back else '?'}; the history:")
    for change in registry.history(NAME):
        print(f"  {change.action} {change.before} → {change.after} by {change.who}: {change.why}")
    mltrace.flush(timeout=60)
    return 0 if back else 1


def alert(outcome: registry.Promotion) -> None:
    print(f"ALERT: version {outcome.refused} stays out of {outcome.stage}: {outcome.reason}")


if __name__ == "__main__":
    sys.exit(main())
