"""Changing stages: by hand, by a metric, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

import msgspec

from .. import _guard
from .._config import is_enabled
from ..exceptions import ConfigurationError, ModelNotFound, RegistryError
from ._changes import (
    PROMOTE,
    REFUSE,
    ROLLBACK,
    TRANSITION,
    Change,
    new_change,
    next_seq,
    read_changes,
    standing,
)
from ._client import connect, speaking
from ._moving import move, sync_stage, write_down
from ._rule import Decision, Rule, decide
from ._stages import ALIASES, ARCHIVED, PRODUCTION, STAGE_TAG, stage_word
from ._versions import ModelVersion, Shelf, metrics_of, read, version_text


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """
    What `promote_best_model` decided, and on what.

    *promoted* is the version that was promoted (in a dry run: would be), *refused* the one that was
    not, *current* the one that stood before; *values* has the metric of each version, None where
    there is none. *reason* says why in words. *dry_run*: nothing was changed or written down.
    """

    name: str
    metric: str
    stage: str
    promoted: Union[str, None] = None
    refused: Union[str, None] = None
    current: Union[str, None] = None
    reason: str = ""
    values: dict[str, Union[float, None]] = {}
    dry_run: bool = False

    @property
    def is_regression(self) -> bool:
        """Whether a version was refused."""
        return self.refused is not None


def transition_model_to_stage(
    name: str,
    version: str | int,
    stage: str,
    *,
    why: str = "",
    by: str | None = None,
    sync_stages: bool = False,
) -> ModelVersion | None:
    """
    Bring one version into *stage*; return it as it is then, or None while mltrace is disabled.

    ``Production`` and ``Staging`` hold one version each: the one before has no stage afterwards, and
    the version leaves the stage that it was in. Any number can be ``Archived``.

    Args:
        why: The reason, for the history.

        by: Who does it (this process's user).

        sync_stages: Set MLflow's deprecated stages too, where the registry still has them.

    Raises: ConfigurationError: No such stage. ModelNotFound: No such model or version.
        RegistryConflict: Somebody else moved it at the same time.
    """
    return _transition(name, version, stage, TRANSITION, why, by, sync_stages)


transition_model_stage = transition_model_to_stage


def promote_to_production(
    name: str, version: str | int, *, why: str = "", by: str | None = None, sync_stages: bool = False
) -> ModelVersion | None:
    """Bring one version into ``Production``; see `transition_model_to_stage`."""
    return _transition(name, version, PRODUCTION, PROMOTE, why, by, sync_stages)


def _transition(
    name: str, version: str | int, stage: str, action: str, why: str, by: str | None, sync_stages: bool
) -> ModelVersion | None:
    word, wanted = stage_word(stage), version_text(version)
    if not is_enabled():
        return None
    client = connect(writes=True)
    shelf = read(client, name)
    found = shelf.version(wanted)
    said = {"action": action, "why": why, "by": by, "metrics": metrics_of(client, found)}
    if word in ALIASES:
        move(client, shelf, word, wanted, **said)
    for other, alias in ALIASES.items():
        if other != word and shelf.aliases.get(alias) == wanted:
            move(client, shelf, other, None, **said)
    _archive(client, shelf, found, word, said)
    if sync_stages:
        sync_stage(client, name, wanted, word)
    return read(client, name).version(wanted)


def _archive(client: Any, shelf: Shelf, found: ModelVersion, word: str, said: dict[str, Any]) -> None:
    """Have the tag of archived versions say whether *found* is one, and write that down."""
    was = found.tags.get(STAGE_TAG) == ARCHIVED
    if was == (word == ARCHIVED):
        return
    with speaking(f"the stage of {found.uri}"):
        if was:
            client.delete_model_version_tag(shelf.name, found.version, STAGE_TAG)
            return
        client.set_model_version_tag(shelf.name, found.version, STAGE_TAG, ARCHIVED)
    known = read_changes(shelf.tags)
    change = new_change(ARCHIVED, before=None, after=found.version, seq=next_seq(known, ARCHIVED), **said)
    write_down(client, shelf.name, change)


def promote_best_model(
    name: str,
    metric: str,
    higher_is_better: bool = True,
    *,
    min_value: float | None = None,
    min_delta: float = 0.0,
    stage: str = PRODUCTION,
    dry_run: bool = False,
    on_regression: Callable[[Promotion], object] | None = None,
    why: str = "",
    by: str | None = None,
    sync_stages: bool = False,
) -> Promotion | None:
    """
    Bring the version that is best by *metric* into *stage*, if it is good enough; return what was
    decided, or None while mltrace is disabled. Archived versions do not take part.

    A version without the metric, or whose value is NaN or infinite, is never promoted. A refusal
    (the best is not good enough, or the newest no better than the current one) is written down,
    warned of, and given to *on_regression*.

    Args:
        metric: Of the run that made the version, or of the model itself.

        min_value: The worst value that may be promoted.

        min_delta: How much better than the current version it has to be.

        dry_run: Decide, and change nothing, write nothing down and alert nobody.

        on_regression: Called with the decision where a version was refused; what it raises is
            raised here, so that a pipeline can stop.

        why, by, sync_stages: As `transition_model_to_stage`; the decision's reason is added.

    Raises: ModelNotFound: No such model, or no versions. RegistryConflict: Somebody else moved the
        alias at the same time.
    """
    rule = Rule(higher_is_better=higher_is_better, min_value=min_value, min_delta=min_delta)
    rule.check()
    word = stage_word(stage)
    if word not in ALIASES:
        raise ConfigurationError(f"stage: the best model can be in {' or '.join(ALIASES)}, not in {word}")
    if not isinstance(metric, str) or not metric:
        raise ConfigurationError(f"metric: {metric!r} is not the name of a metric")
    if not is_enabled():
        return None
    client = connect(writes=not dry_run)
    shelf = read(client, name)
    if not shelf.versions:
        raise ModelNotFound(f"model {name!r}: {shelf.inventory()}")
    metrics = {
        version.version: metrics_of(client, version)
        for version in shelf.versions
        if version.stage != ARCHIVED
    }
    values = {version: found.get(metric) for version, found in metrics.items()}
    current = shelf.aliases.get(ALIASES[word])
    decision = decide(values, current, rule)
    outcome = Promotion(
        name=name,
        metric=metric,
        stage=word,
        promoted=decision.promote,
        refused=decision.refuse,
        current=current,
        reason=f"{metric}: {decision.reason}",
        values=values,
        dry_run=dry_run,
    )
    if dry_run:
        return outcome
    said = {"why": f"{why}; {outcome.reason}" if why else outcome.reason, "by": by}
    if decision.promote is not None:
        _promote(client, shelf, word, decision.promote, {**said, "metrics": metrics[decision.promote]})
        if sync_stages:
            sync_stage(client, name, decision.promote, word)
    if decision.refuse is not None:
        _refuse(client, shelf, word, decision, {**said, "metrics": metrics[decision.refuse]})
        _alert(outcome, on_regression)
    return outcome


def _promote(client: Any, shelf: Shelf, word: str, version: str, said: dict[str, Any]) -> None:
    move(client, shelf, word, version, action=PROMOTE, **said)
    for other, alias in ALIASES.items():
        if other != word and shelf.aliases.get(alias) == version:
            move(client, shelf, other, None, action=PROMOTE, **said)


def _refuse(client: Any, shelf: Shelf, word: str, decision: Decision, said: dict[str, Any]) -> None:
    """Write a refusal down, unless the last of the same version says the same."""
    known = read_changes(shelf.tags)
    current = shelf.aliases.get(ALIASES[word])
    change = new_change(word, REFUSE, current, decision.refuse, seq=next_seq(known, word), **said)
    if not any(
        (old.action, old.before, old.after, old.why) == (REFUSE, current, decision.refuse, change.why)
        for old in known
    ):
        write_down(client, shelf.name, change)


def _alert(outcome: Promotion, on_regression: Callable[[Promotion], object] | None) -> None:
    _guard.logger().warning(
        f"version {outcome.refused} of model {outcome.name!r} is not promoted to {outcome.stage}: {outcome.reason}",
        current=outcome.current,
    )
    if on_regression is not None:
        on_regression(outcome)


def rollback(
    name: str, stage: str = PRODUCTION, *, why: str = "", by: str | None = None, sync_stages: bool = False
) -> ModelVersion | None:
    """
    Bring back the version that was in *stage* before the present one; return it, or None while
    mltrace is disabled. Called again, it goes one further back.

    Versions that have been deleted meanwhile are passed over.

    Raises: RegistryError: There is nothing to go back to. RegistryConflict: Somebody else moved the
        alias at the same time.
    """
    word = stage_word(stage)
    if word not in ALIASES:
        raise ConfigurationError(f"stage: only {' and '.join(ALIASES)} can be rolled back, not {word}")
    if not is_enabled():
        return None
    client = connect(writes=True)
    shelf = read(client, name)
    present = {version.version for version in shelf.versions}
    stack = standing(read_changes(shelf.tags), word, shelf.aliases.get(ALIASES[word]))
    current = stack[-1]
    target = next((version for version in reversed(stack[:-1]) if version in present - {current}), None)
    if target is None:
        raise RegistryError(
            f"{word} of model {name!r} cannot be rolled back: no version that is still there was in it before"
            f" {f'version {current}' if current else 'now'}; {shelf.inventory()}"
        )
    metrics = metrics_of(client, shelf.version(target))
    move(client, shelf, word, target, action=ROLLBACK, why=why, by=by, metrics=metrics)
    if sync_stages:
        sync_stage(client, name, target, word)
    return read(client, name).version(target)


def history(name: str, stage: str | None = None) -> list[Change]:
    """Return every change of the model's stages (or of one *stage*), refusals included, oldest first."""
    word = stage_word(stage) if stage is not None else None
    found = read_changes(read(connect(writes=False), name).tags)
    return [change for change in found if word in (None, change.stage)]
