"""Stages, the word users know, and the aliases that stand for them."""

from __future__ import annotations

from ..exceptions import ConfigurationError


PRODUCTION, STAGING, ARCHIVED, NONE = "Production", "Staging", "Archived", "None"
STAGES = (PRODUCTION, STAGING, ARCHIVED, NONE)
ALIASES = {PRODUCTION: "production", STAGING: "staging"}
"""The stages that one version at a time is in, and the alias that says which."""

STAGE_TAG = "mltrace.stage"
"""``Archived`` on versions that are; any number can be, so that no alias says it."""

_WORDS = {stage.lower(): stage for stage in STAGES}


def stage_word(stage: str) -> str:
    """Return *stage* as MLflow spells it, whatever its case; raise `ConfigurationError` for others."""
    word = _WORDS.get(stage.lower()) if isinstance(stage, str) else None
    if word is None:
        raise ConfigurationError(f"stage: {stage!r} is not one of {', '.join(STAGES)}")
    return word
