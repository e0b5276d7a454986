"""
What users say of answers: recorded on the calls, read back, and turned into the next training set.

    >>> import mltrace
    >>> from mltrace.feedback import FeedbackCollector, log_feedback
    >>> mltrace.configure(backend="memory")
    >>> run = mltrace.log_prediction(question="What is RAG?", answer="A cloth.")
    >>> log_feedback(run.id, value=1, corrected="Retrieval-augmented generation.", source="ada")
    True
    >>> FeedbackCollector().summary().mean_rating
    1.0
"""

from __future__ import annotations

from ._collector import FeedbackCollector, History, Summary
from ._history import UserFeedback
from ._log import log_feedback
from ._reading import Feedback


__all__ = [
    "Feedback",
    "FeedbackCollector",
    "History",
    "Summary",
    "UserFeedback",
    "log_feedback",
]
