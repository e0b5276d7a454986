"""
Versions of registered models that wait for their delivery: `mltrace.bridge.registry` says when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .. import _clock
from .._records import ModelRegistered
from .models import ModelView
from .views import RunView


class Queued(NamedTuple):
    """A version that is registered on delivery: of a model, or of artifacts of a run below *path*."""

    uid: str
    name: str
    of: RunView | ModelView
    path: str

    @property
    def version(self) -> str:
        """What stands for its number until the server has given that."""
        return f"pending-{self.uid}"

    @property
    def run(self) -> RunView:
        """The run behind which it is delivered."""
        return self.of.run if isinstance(self.of, ModelView) else self.of

    def record(self, tags: dict[str, str], description: str) -> ModelRegistered:
        """Return the record of it."""
        model = self.of if isinstance(self.of, ModelView) else None
        return ModelRegistered(
            run=self.run.uid,
            time=_clock.now_ms(),
            uid=self.uid,
            name=self.name,
            model=model.uid if model is not None else None,
            foreign=model is not None and model.is_foreign,
            path=self.path,
            version_tags=tags,
            description=description,
            experiment=self.run.elsewhere,
        )


class Pending(str):
    """
    What a program is given as the number of a version that waits for its delivery: a text that says so. As
    an int it is the number, which *ask* returns, or what *ask* raises: MLflow's client takes nothing else.
    """

    def __new__(cls, text: str, ask: Callable[[], str]) -> Pending:
        """Make it of *text*."""
        made = super().__new__(cls, text)
        made._ask = ask
        return made

    _ask: Callable[[], str]

    def __int__(self) -> int:
        return int(self._ask())

    def __reduce__(self) -> Any:
        return str, (str(self),)
