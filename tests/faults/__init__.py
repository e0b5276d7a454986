"""
Nothing lost, nothing twice: mltrace under faults, against a real MLflow server.

What clients were promised is kept by a process of its own (`oracle`); faults come from a proxy
(`proxy`), from signals and from the disk; what the server's REST API holds in the end is compared
with what was promised. The rows of faults are in `rows` and `disk`; the suite runs their short form
(``test_faults.py``), and ``python3 tasks.py faults --release`` the long one.

Beside the rows, a state machine drives journal and sender against a model of MLflow (``test_model.py``):
without a server or processes, and so through many more orders of events.
"""
