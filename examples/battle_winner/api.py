"""A small API that predicts with the model in Production: uvicorn --app-dir examples/battle_winner api:app

`MLFLOW_MODEL_NAME` and `MLFLOW_MODEL_STAGE` choose another model; `USE_MLFLOW_REGISTRY=false` loads it from
`MLFLOW_MODEL_PATH`. While the registry is away the copy of the last start is used, and `/health` says so.
"""

import os
import time

import pandas as pd

from data import FEATURES
from fastapi import FastAPI, HTTPException

import mltrace

from mltrace import registry
from mltrace.bundles import scale


app = FastAPI(title="battle winner")
bundle = registry.load_model_from_registry(
    os.environ.get("MLFLOW_MODEL_NAME", "battle_winner"), os.environ.get("MLFLOW_MODEL_STAGE", "Production")
)
loaded = bundle.mltrace_loaded


@app.get("/health")
def health() -> dict[str, object]:
    return {"version": loaded.version, "origin": loaded.origin, "problem": loaded.problem}


@app.post("/predict")
def predict(battle: dict[str, float]) -> dict[str, object]:
    if missing := [feature for feature in FEATURES if feature not in battle]:
        raise HTTPException(422, f"missing: {', '.join(missing)}")
    start = time.perf_counter()
    rows = scale(bundle, pd.DataFrame([battle])[FEATURES])
    chance = float(bundle["model"].predict_proba(rows)[0, 1])
    winner = "first" if chance >= 0.5 else "second"
    latency_ms = (time.perf_counter() - start) * 1000
    mltrace.log_prediction(
        question=battle, answer=winner, latency_ms=latency_ms, model_version=str(loaded.version)
    )
    return {"winner": winner, "chance": chance, "version": loaded.version}
