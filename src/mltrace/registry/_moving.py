"""
Moving an alias, and noticing who else does.

MLflow has no "set if it is still": of two writers the later one wins, and neither is told. So the
model is read before and after: the change is written down between the two, and whoever writes later
finds the other's. Of two at the same moment at least one sees both; it says so.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .. import _guard
from ..exceptions import RegistryConflict, RegistryError, RegistryUnavailable
from ._changes import Change, encode, new_change, next_seq, of_stage, read_changes
from ._client import speaking
from ._stages import ALIASES
from ._versions import Shelf, read


def move(client: Any, shelf: Shelf, stage: str, to: str | None, **said: Any) -> Change | None:
    """
    Have the alias of *stage* name the version *to* (None: nothing), as *shelf* was when it was
    decided; return what was written down, None where it is so already. *said* is the rest of
    `new_change`.

    Raises: RegistryConflict: The alias has been moved since *shelf* was read (nothing was changed
        then), or was moved away again before this call was over.
    """
    alias = ALIASES[stage]
    before = read(client, shelf.name)
    if before.aliases.get(alias) != shelf.aliases.get(alias):
        raise RegistryConflict(
            f"{_moved(before, stage)} since this was decided, from {_named(shelf.aliases.get(alias))};"
            " nothing was changed. Look again, and decide again"
        )
    if before.aliases.get(alias) == to:
        return None
    known = read_changes(before.tags)
    change = new_change(stage, before=before.aliases.get(alias), after=to, seq=next_seq(known, stage), **said)
    try:
        with speaking(f"moving {alias} of model {shelf.name!r} to {_named(to)}"):
            if to is None:
                client.delete_registered_model_alias(shelf.name, alias)
            else:
                client.set_registered_model_alias(shelf.name, alias, to)
    except RegistryUnavailable:
        raise
    except RegistryError:
        # Of two that set an alias for the first time at once, both insert it, and the database refuses one.
        now = read(client, shelf.name)
        if now.aliases.get(alias) == before.aliases.get(alias):
            raise
        if now.aliases.get(alias) != to:
            raise RegistryConflict(
                f"{_moved(now, stage)} at the same moment as to {_named(to)}, which was refused. Look again,"
                " and decide again"
            ) from None
    write_down(client, shelf.name, change)
    return _settle(client, shelf.name, change)


def write_down(client: Any, name: str, change: Change) -> None:
    """Tag the model with *change*, and the version that it is about."""
    value = encode(change)
    about = change.after or change.before
    with speaking(f"writing down a change of model {name!r}"):
        client.set_registered_model_tag(name, change.tag, value)
        if about is not None:
            client.set_model_version_tag(name, about, change.tag, value)


def _settle(client: Any, name: str, change: Change) -> Change:
    """Read again; say what others have done meanwhile, and order this change behind it."""
    after = read(client, name)
    if after.aliases.get(ALIASES[change.stage]) != change.after:
        raise RegistryConflict(
            f"{_moved(after, change.stage)} meanwhile: it was set to {_named(change.after)}, and does not"
            " stand there any more. The history has both"
        )
    others = [
        other
        for other in of_stage(read_changes(after.tags), change.stage)
        if other.seq >= change.seq and other.id != change.id
    ]
    if not others:
        return change
    last = others[-1]
    _guard.warn_once(
        f"overwrote:{change.id}",
        f"{change.stage} of model {name!r} was moved to {_named(last.after)} by {last.who or 'somebody'} at the"
        f" same moment as to {_named(change.after)}, which stands now; check which one is meant",
    )
    change = msgspec.structs.replace(change, before=last.after, seq=last.seq + 1)
    write_down(client, name, change)
    return change


def _moved(shelf: Shelf, stage: str) -> str:
    """Return who has moved *stage* to where it is, as the beginning of a sentence."""
    current = shelf.aliases.get(ALIASES[stage])
    by = [change for change in of_stage(read_changes(shelf.tags), stage) if change.after == current]
    who = by[-1].who if by and by[-1].who else "somebody"
    return f"{stage} of model {shelf.name!r} was moved to {_named(current)} by {who}"


def _named(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"


def sync_stage(client: Any, name: str, version: str, stage: str) -> None:
    """
    Set MLflow's own, deprecated, stage of *version* too, and archive what was in it; where the
    registry has none, say so once and go on: the aliases are what counts.
    """
    import warnings

    try:
        with speaking(f"the stage of model {name!r}"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that stages are deprecated is known
            client.transition_model_version_stage(
                name, version, stage, archive_existing_versions=stage in ALIASES
            )
    except RegistryError as error:
        _guard.warn_once(
            f"stages:{name}",
            "sync_stages: this registry does not keep stages; the aliases are set",
            error=str(error),
        )
