"""
What is written down of a change: who, when, from, to, why, and the metrics it stood on.

A change is one tag, ``mltrace.change.<id>``, of the registered model and of the version that it is
about: written once, by one process, so that two that write at the same time lose nothing. *seq*
counts the changes of a stage as their writers saw it; two with the same have not seen each other.

A rollback takes back what stands on top, and can be repeated: the standing of a stage is a stack
that promotions push on and rollbacks pop from (`standing`). An alias that was moved without
mltrace is taken in as it is found.
"""

from __future__ import annotations

import contextlib

from collections.abc import Iterable, Mapping, Sequence
from typing import Union

import msgspec

from .._checks import decode
from .._clock import new_id, now_ms
from .._provenance import context_tags
from .._records import wire_number


PREFIX = "mltrace.change."
PROMOTE, TRANSITION, ROLLBACK, REFUSE = "promote", "transition", "rollback", "refuse"
_LONGEST = 4900  # a tag's column had 5,000 characters before MLflow 2.16


class Change(
    msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename={"before": "from", "after": "to"}
):
    """
    One change of a stage: the version *before* and the one *after* (None: none).

    *action* is ``promote``, ``transition``, ``rollback``, or ``refuse``: *after* was not promoted.
    *when* is in milliseconds since the epoch; a metric that is NaN or infinite is the text of that.
    """

    id: str
    seq: int
    stage: str
    action: str
    before: Union[str, None] = None
    after: Union[str, None] = None
    who: str = ""
    when: int = 0
    why: str = ""
    metrics: dict[str, Union[float, str]] = {}

    @property
    def tag(self) -> str:
        """The key of the tag that it is written in."""
        return PREFIX + self.id

    @property
    def moves(self) -> bool:
        """Whether something was changed."""
        return self.action != REFUSE


_DECODER = msgspec.json.Decoder(Change)


def new_change(
    stage: str,
    action: str,
    before: str | None,
    after: str | None,
    *,
    seq: int,
    why: str,
    by: str | None,
    metrics: Mapping[str, float],
) -> Change:
    """Return a change made now, by *by* (default: this process's user)."""
    return Change(
        id=new_id(),
        seq=seq,
        stage=stage,
        action=action,
        before=before,
        after=after,
        who=by or context_tags().get("mlflow.user", ""),
        when=now_ms(),
        why=why[:1000],
        metrics={key: wire_number(value) for key, value in metrics.items()},
    )


def encode(change: Change) -> str:
    """Return *change* as a tag's value; of metrics that do not fit, the last by name are left out."""
    text = msgspec.json.encode(change).decode()
    kept = sorted(change.metrics)
    while len(text) > _LONGEST and kept:
        kept.pop()
        less = {key: change.metrics[key] for key in kept}
        text = msgspec.json.encode(msgspec.structs.replace(change, metrics=less)).decode()
    return text


def read_changes(tags: Mapping[str, str]) -> list[Change]:
    """Return the changes among *tags*, oldest first; what cannot be read is nobody's."""
    found: list[Change] = []
    for key, value in tags.items():
        if key.startswith(PREFIX):
            with contextlib.suppress(msgspec.DecodeError):
                found.append(decode(value.encode(), _DECODER))
    return sorted(found, key=lambda change: (change.when, change.seq, change.id))


def of_stage(changes: Iterable[Change], stage: str) -> list[Change]:
    """Return the changes that moved *stage*, in the order in which they took effect."""
    moved = [change for change in changes if change.stage == stage and change.moves]
    return sorted(moved, key=lambda change: (change.seq, change.when, change.id))


def next_seq(changes: Iterable[Change], stage: str) -> int:
    """Return the number of the next change of *stage*."""
    return max((change.seq for change in of_stage(changes, stage)), default=0) + 1


def standing(changes: Sequence[Change], stage: str, current: str | None) -> list[str | None]:
    """
    Return the stack of versions of *stage*: last the *current* one, before it those that a rollback
    goes back to.
    """
    stack: list[str | None] = []
    for change in of_stage(changes, stage):
        if not stack or stack[-1] != change.before:
            stack.append(change.before)
        if change.action == ROLLBACK and change.after in stack:
            while stack[-1] != change.after:
                stack.pop()
        else:
            stack.append(change.after)
    if not stack or stack[-1] != current:
        stack.append(current)
    return stack
