"""
MLflow's own API through the journal: the stores behind addresses ``mltrace+…``.

``MLFLOW_TRACKING_URI=mltrace+http://host:5000 python train.py`` gives code that knows nothing of mltrace
what decorated calls have: every write is one local append, and is delivered in the background. MLflow
finds the stores through `mlflow_mltrace`; nothing else imports them.
"""
