"""What the registry holds under a name: versions, aliases, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

import msgspec

from ..exceptions import ConfigurationError, ModelNotFound
from ._client import connect, speaking, where
from ._stages import ALIASES, ARCHIVED, NONE, STAGE_TAG, stage_word


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """
    One version of a registered model, as it was when it was read.

    *created* is in milliseconds since the epoch. *stage* is ``Production``, ``Staging``,
    ``Archived`` or ``None``; *model_id* names the LoggedModel behind it, where there is one.
    """

    name: str
    version: str
    run_id: Union[str, None] = None
    model_id: Union[str, None] = None
    source: str = ""
    description: str = ""
    created: int = 0
    stage: str = NONE
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = {}

    @property
    def uri(self) -> str:
        """The version's address in MLflow: ``models:/<name>/<version>``."""
        return f"models:/{self.name}/{self.version}"


class Shelf(msgspec.Struct, frozen=True):
    """A registered model at one moment: its *aliases* (to versions), *tags*, and *versions*, oldest first."""

    name: str
    aliases: Mapping[str, str]
    tags: Mapping[str, str]
    versions: tuple[ModelVersion, ...]

    def version(self, number: Union[str, int]) -> ModelVersion:
        """Return the version *number*; raise `ModelNotFound`, listing what there is."""
        wanted = version_text(number)
        for found in self.versions:
            if found.version == wanted:
                return found
        raise ModelNotFound(f"model {self.name!r} has no version {wanted}; {self.inventory()}")

    def in_stage(self, stage: str) -> Union[ModelVersion, None]:
        """Return the newest version in *stage*, None where there is none."""
        return next((found for found in reversed(self.versions) if found.stage == stage), None)

    def aliased(self, alias: str) -> ModelVersion:
        """Return the version that has *alias*; raise `ModelNotFound`, listing what there is."""
        if alias not in self.aliases:
            raise ModelNotFound(f"model {self.name!r} has no alias {alias!r}; {self.inventory()}")
        return self.version(self.aliases[alias])

    def inventory(self) -> str:
        """Return what there is under the name, as half a sentence."""
        if not self.versions:
            return f"no version was registered under this name at {where()}"
        numbers = [found.version for found in self.versions]
        listed = ", ".join(numbers if len(numbers) <= 10 else [*numbers[:3], "…", *numbers[-5:]])
        aliases = ", ".join(f"{alias} → {version}" for alias, version in sorted(self.aliases.items()))
        return f"there are versions {listed} and {f'the aliases {aliases}' if aliases else 'no aliases'}"


def version_text(version: str | int) -> str:
    """Return a version number as text; raise `ConfigurationError` for what is none."""
    text = str(version)
    if isinstance(version, bool) or not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigurationError(f"version: {version!r} is not a version number, such as 3")
    return text


def read(client: Any, name: str) -> Shelf:
    """Read what is registered under *name*; raise `ModelNotFound`, naming what is near."""
    check_name(name)
    try:
        with speaking(f"model {name!r}"):
            model = client.get_registered_model(name)
    except ModelNotFound:
        raise ModelNotFound(
            f"no model {name!r} is registered at {where()}; {_neighbours(client, name)}."
            " Was it registered, and under exactly this name?"
        ) from None
    aliases = {alias: str(version) for alias, version in dict(model.aliases).items()}
    with speaking(f"the versions of model {name!r}"):
        found = _all(client, name)
    versions = sorted((_version(entry, aliases) for entry in found), key=lambda version: int(version.version))
    return Shelf(name, aliases, dict(model.tags), tuple(versions))


def check_name(name: str) -> None:
    """Raise `ConfigurationError` for what no registered model is called."""
    if not isinstance(name, str) or not name.strip() or "/" in name or ":" in name:
        raise ConfigurationError(f"name: {name!r} is not the name of a registered model (no / and no :)")


def _all(client: Any, name: str) -> list[Any]:
    quote = '"' if "'" in name else "'"
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name={quote}{name}{quote}", max_results=1000, page_token=token)
        found += [entry for entry in page if entry.name == name and entry.status == "READY"]
        token = page.token
        if not token:
            return found


def _version(entry: Any, aliases: Mapping[str, str]) -> ModelVersion:
    number = str(entry.version)
    mine = tuple(sorted(alias for alias, version in aliases.items() if version == number))
    tags = dict(entry.tags or {})
    return ModelVersion(
        name=entry.name,
        version=number,
        run_id=entry.run_id or None,
        model_id=getattr(entry, "model_id", None) or _model_id(entry.source or ""),
        source=entry.source or "",
        description=entry.description or "",
        created=int(entry.creation_timestamp or 0),
        stage=_stage(mine, tags, entry.current_stage, aliases),
        aliases=mine,
        tags=tags,
    )


def _model_id(source: str) -> str | None:
    """Return the LoggedModel that a version's source names: searches leave its id out."""
    scheme, _, rest = source.partition(":/")
    return rest if scheme == "models" and rest.startswith("m-") and "/" not in rest else None


def _stage(
    mine: tuple[str, ...], tags: Mapping[str, str], old: str | None, aliases: Mapping[str, str]
) -> str:
    """
    Return the stage that the aliases say; where a stage has no alias (a registry from before there
    were any) the one that MLflow's deprecated field says.
    """
    for stage, alias in ALIASES.items():
        if alias in mine:
            return stage
    if tags.get(STAGE_TAG) == ARCHIVED:
        return ARCHIVED
    return old if old and old in ALIASES and ALIASES[old] not in aliases else NONE


def _neighbours(client: Any, name: str) -> str:
    import difflib

    with speaking("the registered models"):
        names = [model.name for model in client.search_registered_models(max_results=100)]
    near = difflib.get_close_matches(name, names, n=3) or names[:5]
    return f"there is {', '.join(map(repr, near))}" if near else "nothing is registered there at all"


def metrics_of(client: Any, version: ModelVersion) -> dict[str, float]:
    """
    Return the latest metrics of the run that made *version*, and over them those that were logged
    for the model itself; what is gone from the server has none.
    """
    found: dict[str, float] = {}
    if version.run_id:
        try:
            with speaking(f"the run of {version.uri}"):
                found.update(client.get_run(version.run_id).data.metrics)
        except ModelNotFound:
            pass
    if version.model_id:
        try:
            with speaking(f"the model behind {version.uri}"):
                found.update(
                    {m.key: m.value for m in client.get_logged_model(version.model_id).metrics or ()}
                )
        except ModelNotFound:
            pass
    return {key: float(value) for key, value in found.items()}


def get_latest_model(name: str, stage: str | None = None) -> ModelVersion:
    """
    Return the newest version of the model *name*, or the newest in *stage*.

    Raises: ModelNotFound: There is none; the message lists the versions and aliases that there are.
        RegistryUnavailable: The registry does not answer.
    """
    word = stage_word(stage) if stage is not None else None
    shelf = read(connect(writes=False), name)
    if not shelf.versions:
        raise ModelNotFound(f"model {name!r}: {shelf.inventory()}")
    found = shelf.versions[-1] if word is None else shelf.in_stage(word)
    if found is None:
        raise ModelNotFound(f"no version of model {name!r} is in {word}; {shelf.inventory()}")
    return found
